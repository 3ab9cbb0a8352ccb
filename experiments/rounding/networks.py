"""The networks: trained ones of CIFAR-10, and one of digits that a run trains."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from core.types import Array, PyTree
from experiments import models
from experiments.models.common import as_images, as_logits, he_normal
from experiments.models.layers import Conv, global_avg_pool
from experiments.models.norm import BatchNorm
from quant.normalization import rectified

PAIRS = [(r"(.*)conv(\d)", r"\1bn\2")]
"""Layers and the norms behind them."""
KERNELS = "params/.*/kernel"

Normal = tuple[Array, Array]
"""Means and deviations of the channels before a ReLU."""


class DigitsNet(nn.Module):
    """Four 3x3 convolutions with batch norm, every other at stride 2, mean, linear.

    Attributes:
      num_classes: number of classes.
      features: channels of each convolution.
      dtype: type of the computation; parameters are float32.
    """

    num_classes: int = 10
    features: tuple[int, ...] = (16, 32, 32, 64)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Returns logits, float32 [n, num_classes], of images [n, h, w, c]."""
        x = as_images(x, self.dtype)
        for i, width in enumerate(self.features, start=1):
            x = Conv(
                width,
                (3, 3),
                strides=2 - i % 2,
                padding=1,
                use_bias=False,
                kernel_init=he_normal,
                dtype=self.dtype,
                name=f"conv{i}",
            )(x)
            x = nn.relu(BatchNorm(dtype=self.dtype, name=f"bn{i}")(x, train))
        x = nn.Dense(self.num_classes, dtype=self.dtype, name="linear")(
            global_avg_pool(x)
        )
        return as_logits(x)


def _digits_inputs(params: PyTree) -> dict[str, Normal]:
    norms = [params[name] for name in sorted(params) if name.startswith("bn")]
    layers = [f"conv{i}" for i in range(2, len(norms) + 1)] + ["linear"]
    found = [(norm["bias"], norm["scale"]) for norm in norms]
    return dict(zip(layers, found, strict=True))


def _digits_stride(layer: str) -> int:
    return 1 if layer in ("conv1", "conv3") else 2


def _resnet_inputs(params: PyTree) -> dict[str, Normal]:
    """What a block adds up is taken as independent, so variances add up."""
    found = {}
    now: Normal = params["bn1"]["bias"], params["bn1"]["scale"]
    blocks = sorted(name for name in params if name.startswith("layer"))
    for name in sorted(blocks, key=lambda block: [*map(int, block[5:].split("_"))]):
        first, second = params[name]["bn1"], params[name]["bn2"]
        found[f"{name}/conv1"] = now
        found[f"{name}/conv2"] = first["bias"], first["scale"]
        shortcut = rectified(*now)
        side = (second["bias"].size - shortcut.mean.size) // 2
        mean, var = (jnp.pad(x, side) for x in (shortcut.mean, shortcut.var))
        deviation = jnp.sqrt(jnp.square(second["scale"]) + var)
        now = second["bias"] + mean, deviation
    found["linear"] = now
    return found


def _resnet_stride(layer: str) -> int:
    return 2 if layer in ("layer2_0/conv1", "layer3_0/conv1") else 1


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A network of 3x3 convolutions with padding 1, batch norms and a linear layer.

    Attributes:
      name: on the command line.
      title: in the report.
      build: makes the module.
      pretrained: whether its weights are a file; otherwise each seed trains it.
      inputs: from its parameters, not folded, to the normal variables whose ReLU every
        layer but the first one takes. (The linear layer takes their mean over
        positions, whose range is no wider.)
      stride: of a convolution, by its path.
    """

    name: str
    title: str
    build: Callable[[], nn.Module]
    pretrained: bool
    inputs: Callable[[PyTree], dict[str, Normal]]
    stride: Callable[[str], int]


def _pretrained(name: str, title: str) -> Network:
    def build() -> nn.Module:
        return models.create(models.PRETRAINED[name].model)

    return Network(name, title, build, True, _resnet_inputs, _resnet_stride)


NETWORKS = {
    network.name: network
    for network in (
        Network(
            "digits", "DigitsNet", DigitsNet, False, _digits_inputs, _digits_stride
        ),
        _pretrained("resnet20", "ResNet-20"),
        _pretrained("resnet20_jpeg", "ResNet-20, tuned on JPEG"),
        _pretrained("resnet56", "ResNet-56"),
    )
}
