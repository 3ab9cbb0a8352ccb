"""Options that the experiments on trained formats share."""

import dataclasses
from typing import Any

from experiments.options import build, option
from experiments.registry import Experiment


@dataclasses.dataclass(frozen=True)
class Training:
    """Which networks are trained, on what, for how long."""

    networks: tuple[str, ...] = option(
        ("digits",), "networks to quantize", choices=("digits", "cifar")
    )
    dataset: str = option(
        "mnist_5k", "data set of the network of digits", choices=("mnist_5k", "mnist")
    )
    examples: int = option(
        0, "stratified training images of digits; 0 means all", unit="images", low=0
    )
    cifar_examples: int = option(
        20_000, "stratified training images of CIFAR-10", unit="images", low=1
    )
    epochs: int = option(4, "length of float training", unit="epochs", low=1)
    batch_size: int = option(32, "examples per step", unit="images", low=1)
    learning_rate: float = option(
        5e-3, "Adam's rate in float training; it falls to 0", low=0.0, low_open=True
    )
    tuning: int = option(1, "length of straight-through training", unit="epochs", low=1)
    tuning_rate: float = option(
        1e-3, "Adam's rate in all later training; it falls to 0", low=0, low_open=True
    )
    calibration_images: int = option(
        64, "training images on which first scales are found", unit="images", low=1
    )


LENGTHS = ("epochs", "tuning", "admm_epochs", "admm_updates")


def is_judged(config: Any, experiment: Experiment, network: str) -> bool:
    """Returns whether data and training of a network are those of full mode at least.

    Args:
      config: of the run.
      experiment: whose full mode is meant.
      network: on the command line.
    """
    meant = build(experiment.config, experiment.modes["full"].overrides)
    sizes = "cifar_examples" if network == "cifar" else "examples"
    enough = getattr(config, sizes) >= getattr(meant, sizes) > 0
    if network == "digits":
        enough = config.dataset == meant.dataset and (enough or not config.examples)
    names = [name for name in LENGTHS if hasattr(config, name)]
    return enough and all(getattr(config, n) >= getattr(meant, n) for n in names)
