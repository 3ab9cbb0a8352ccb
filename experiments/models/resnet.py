"""ResNet for CIFAR: He et al. 2015 (arXiv 1512.03385), section 4.2."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from core.errors import InputError, describe
from core.types import Array
from experiments.models.common import (
    Initializer,
    as_images,
    as_logits,
    he_normal,
)
from experiments.models.layers import Conv, global_avg_pool
from experiments.models.norm import BatchNorm


def shortcut_a(x: Array, features: int, stride: int) -> Array:
    """Returns the parameter-free shortcut, option A of arXiv 1512.03385.

    y[:, i, j, (features - c) // 2 + k] = x[:, stride * i, stride * j, k], zero in the
    other channels.

    Args:
      x: float array [n, h, w, c], c <= features with an even difference.
      features: channels of the result.
      stride: distance of the positions that are kept, from position 0.

    Returns:
      An array [n, ceil(h / stride), ceil(w / stride), features].
    """
    if stride == 1 and x.shape[-1] == features:
        return x
    side = (features - x.shape[-1]) // 2
    return jnp.pad(x[:, ::stride, ::stride], ((0, 0),) * 3 + ((side, side),))


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm, added to their input.

    Attributes:
      features: channels of both convolutions.
      stride: stride of the first convolution.
      kernel_init: initialiser of the kernels.
      dtype: type of the computation; parameters are float32.
    """

    features: int
    stride: int = 1
    kernel_init: Initializer = he_normal
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Returns the block's output, [n, h / stride, w / stride, features]."""
        # Padding is written out: at stride 2, "SAME" would pad (0, 1).
        y = _conv3x3(self, "conv1", self.features, self.stride)(x)
        y = nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(y, train))
        y = _conv3x3(self, "conv2", self.features, 1)(y)
        y = BatchNorm(dtype=self.dtype, name="bn2")(y, train)
        return nn.relu(y + shortcut_a(x, self.features, self.stride))


class ResNet(nn.Module):
    """ResNet of depth 6n + 2: a convolution, three stages of n blocks, mean, linear.

    Blocks are named `layer1_0` ... `layer3_{n-1}`, after torch's `layer1.0`.

    Attributes:
      depth: 20, 32, 44, 56, 110, ...
      num_classes: number of classes.
      width: channels of the first stage; the next two have twice and four times it.
      kernel_init: initialiser of the kernels.
      dtype: type of the computation; parameters are float32.
    """

    depth: int = 20
    num_classes: int = 10
    width: int = 16
    kernel_init: Initializer = he_normal
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Returns logits, float32 [n, num_classes], of images [n, h, w, c]."""
        blocks = blocks_per_stage(self.depth)
        x = as_images(x, self.dtype)
        x = _conv3x3(self, "conv1", self.width, 1)(x)
        x = nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(x, train))
        for stage in range(3):
            for i in range(blocks):
                x = Block(
                    features=self.width * 2**stage,
                    stride=2 if stage > 0 and i == 0 else 1,
                    kernel_init=self.kernel_init,
                    dtype=self.dtype,
                    name=f"layer{stage + 1}_{i}",
                )(x, train)
        x = global_avg_pool(x)
        x = nn.Dense(self.num_classes, dtype=self.dtype, name="linear")(x)
        return as_logits(x)


def blocks_per_stage(depth: int) -> int:
    """Returns n of a ResNet with 6n + 2 layers.

    Raises:
      InputError: no n >= 1 gives this depth.
    """
    if depth < 8 or depth % 6 != 2:
        raise InputError(
            describe(f"depth {depth}", "6n + 2 with n >= 1: 8, 14, 20, 32, 44, 56, ...")
        )
    return depth // 6


def _conv3x3(parent: Block | ResNet, name: str, features: int, stride: int) -> Conv:
    return Conv(
        features,
        (3, 3),
        strides=(stride, stride),
        padding=1,
        use_bias=False,
        kernel_init=parent.kernel_init,
        dtype=parent.dtype,
        name=name,
    )
