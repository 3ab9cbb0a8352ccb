"""Options that experiments with trained networks share."""

import dataclasses

from experiments.options import option


@dataclasses.dataclass(frozen=True)
class Networks:
    """Which networks are quantized, on what, and how that of digits is trained."""

    networks: tuple[str, ...] = option(
        ("digits",),
        "networks to quantize; all but the first are trained ones of LATHE_DATA",
        choices=("digits", "resnet20", "resnet20_jpeg", "resnet56"),
    )
    images: int = option(0, "stratified test images; 0 means all", unit="images", low=0)
    layer_images: int = option(
        32, "training images on which layers are measured", unit="images", low=1
    )
    dataset: str = option(
        "mnist_5k", "data set of the network of digits", choices=("mnist_5k", "mnist")
    )
    examples: int = option(
        0,
        "stratified training examples of it; 0 means all",
        unit="images",
        low=0,
    )
    epochs: int = option(4, "length of its training", unit="epochs", low=1)
    batch_size: int = option(32, "examples per step", unit="images", low=1)
    learning_rate: float = option(
        5e-3, "Adam's rate at the start; it falls to 0", low=0.0, low_open=True
    )
