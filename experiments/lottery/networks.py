"""The networks whose tickets are sought, at any width."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from core import rules as core_rules
from core import trees
from core.rules import Rules
from core.types import Array, PyTree
from experiments.models import LeNet300
from experiments.models.common import as_images, as_logits, he_normal
from experiments.models.layers import Conv, global_avg_pool
from experiments.models.norm import BatchNorm


class SmallResNet(nn.Module):
    """ResNet-8 for small images, with or without its residual connections.

    A convolution, three blocks of two convolutions (at strides 1, 2, 2; each block
    twice as wide as the one before), mean, linear. With connections it is
    `experiments.models.ResNet(depth=8)`, name by name; odd widths are allowed too.

    Attributes:
      num_classes: number of classes.
      width: channels of the first block.
      skips: whether a block's input is added to its output.
      dtype: type of the computation; parameters are float32.
    """

    num_classes: int = 10
    width: int = 16
    skips: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Returns logits, float32 [n, num_classes], of images [n, h, w, c]."""
        x = as_images(x, self.dtype)
        x = _conv("conv1", self.width, 1, self.dtype)(x)
        x = nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(x, train))
        for stage in range(3):
            x = _Block(
                self.width * 2**stage,
                1 if stage == 0 else 2,
                self.skips,
                self.dtype,
                name=f"layer{stage + 1}_0",
            )(x, train)
        x = nn.Dense(self.num_classes, dtype=self.dtype, name="linear")(
            global_avg_pool(x)
        )
        return as_logits(x)


class _Block(nn.Module):
    features: int
    stride: int
    skips: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        y = _conv("conv1", self.features, self.stride, self.dtype)(x)
        y = nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(y, train))
        y = _conv("conv2", self.features, 1, self.dtype)(y)
        y = BatchNorm(dtype=self.dtype, name="bn2")(y, train)
        return nn.relu(y + _shortcut(x, y) if self.skips else y)


def _shortcut(x: Array, y: Array) -> Array:
    """The parameter-free shortcut, also where the channels to add are odd."""
    missing = y.shape[-1] - x.shape[-1]
    stride = -(-x.shape[1] // y.shape[1])
    sides = (missing // 2, missing - missing // 2)
    return jnp.pad(x[:, ::stride, ::stride], ((0, 0),) * 3 + (sides,))


def _conv(name: str, features: int, stride: int, dtype: Any) -> Conv:
    return Conv(
        features,
        (3, 3),
        strides=(stride, stride),
        padding=1,
        use_bias=False,
        kernel_init=he_normal,
        dtype=dtype,
        name=name,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A network of the experiment.

    Attributes:
      name: on the command line.
      title: in the report.
      build: build(width multiplier) -> module; 1 is the network itself.
      rules: the kernels that are pruned, and that sparsity is counted over.
      members: trainings at a time in one program, or None for all; see
        `gap.lottery.population`.
      weight_decay: factor of the L2 penalty.
    """

    name: str
    title: str
    build: Callable[[float], nn.Module]
    rules: Rules
    members: int | None
    weight_decay: float

    def init(
        self, key: Array, shape: tuple[int, ...], width: float = 1.0
    ) -> dict[str, PyTree]:
        """Returns all variables of a fresh network: `params`, and statistics if any.

        Args:
          key: random key.
          shape: of one image.
          width: multiplier of the hidden widths.
        """
        images = jnp.zeros((1, *shape), jnp.float32)
        return dict(self.build(width).init({"params": key}, images, train=False))

    def weights(self, shape: tuple[int, ...], width: float = 1.0) -> int:
        """Returns how many weights can be pruned."""
        params = _shapes(self.build(width), shape)
        return trees.size(trees.select(core_rules.match(self.rules, params), params))


@functools.lru_cache(maxsize=64)
def _shapes(model: nn.Module, shape: tuple[int, ...]) -> PyTree:
    """The shapes of `params`; many widths round to one network, traced once."""
    images = jnp.zeros((1, *shape), jnp.float32)
    init = functools.partial(model.init, train=False)
    return jax.eval_shape(init, {"params": jax.random.key(0)}, images)["params"]


def _lenet300(width: float) -> nn.Module:
    return LeNet300(hidden=(_scaled(300, width), _scaled(100, width)))


def _scaled(size: int, width: float) -> int:
    return max(1, round(size * width))


# As in the paper's configurations, neither the first convolution nor the last layer.
_RESNET_RULES = [("layer.*/kernel", True)]

LENET300 = Network(
    name="lenet300",
    title="LeNet-300-100",
    build=_lenet300,
    rules=[(".*/kernel", True)],
    members=None,
    weight_decay=0.0,
)
RESNET8 = Network(
    name="resnet8",
    title="ResNet-8",
    build=lambda width: SmallResNet(width=_scaled(16, width)),
    rules=_RESNET_RULES,
    members=1,
    weight_decay=5e-4,
)
PLAIN8 = Network(
    name="plain8",
    title="ResNet-8 without skips",
    build=lambda width: SmallResNet(width=_scaled(16, width), skips=False),
    rules=_RESNET_RULES,
    members=1,
    weight_decay=5e-4,
)
NETWORKS = {n.name: n for n in (LENET300, RESNET8, PLAIN8)}
