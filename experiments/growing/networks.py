"""The networks that are trained sparse, and the images they see."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from core import trees
from core.rules import Rules
from core.types import Array
from experiments import models
from experiments.models.resnet import ResNet
from experiments.pruning.networks import output_positions
from experiments.training import crop_and_flip


@dataclasses.dataclass(frozen=True)
class Network:
    """One network of the experiment.

    Attributes:
      name: in options and stages.
      title: in rows.
      build: makes the flax module.
      fixed: rules ahead of the density of all other prunable leaves.
      prunable: path regex of the leaves that get the density.
      options: prefix of its options.
      images: in the whole training split of its data.
      shrink: how many pixels of the data, each way, become one.
      augment: of the images of a batch, or None.
    """

    name: str
    title: str
    build: Callable[[], nn.Module]
    fixed: Rules
    prunable: str
    options: str
    images: int
    shrink: int = 1
    augment: Callable[[Array, Array], Array] | None = None

    def rules(self, density: float) -> Rules:
        """Returns the rules at one density of the prunable leaves."""
        return [*self.fixed, (self.prunable, density)]


def _shift_and_flip(key: Array, images: Array) -> Array:
    return crop_and_flip(key, images, pixels=2)


LENET300 = Network(
    name="lenet300",
    title="LeNet-300-100",
    build=lambda: models.create("lenet_300_100"),
    # A tenth of the 1,000 weights of the last layer, whatever the others keep.
    fixed=(("fc3/kernel", 0.1),),
    prunable="fc[12]/kernel",
    options="lenet300",
    images=60_000,
)
RESNET8 = Network(
    name="resnet8",
    title="ResNet-8 on 16x16 images",
    build=lambda: ResNet(depth=8, width=16),
    # The first convolution and the classifier stay dense, as is usual for CIFAR.
    fixed=(),
    prunable="layer.*/kernel",
    options="cnn",
    images=50_000,
    shrink=2,
    augment=_shift_and_flip,
)
RESNET20 = Network(
    name="resnet20",
    title="ResNet-20",
    build=lambda: models.create("resnet20"),
    fixed=(),
    prunable="layer.*/kernel",
    options="cnn",
    images=50_000,
    augment=crop_and_flip,
)
NETWORKS = {n.name: n for n in (LENET300, RESNET8, RESNET20)}


def kernel_macs(model: nn.Module, shape: tuple[int, ...]) -> dict[str, float]:
    """Returns the multiply-accumulates of one input, by path of the kernel.

    Args:
      model: a flax module; every layer with a kernel returns its output features last.
      shape: of one input, such as (28, 28, 1).
    """
    x = jnp.zeros((1, *shape), jnp.float32)
    start = functools.partial(model.init, train=False)
    sizes = trees.by_path(jax.eval_shape(start, jax.random.key(0), x)["params"])
    return {
        f"{layer}/kernel": float(sizes[f"{layer}/kernel"].size * positions)
        for layer, positions in output_positions(model, shape).items()
    }
