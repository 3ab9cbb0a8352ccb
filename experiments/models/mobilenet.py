"""MobileNetV2 (arXiv 1801.04381) for 32x32 images."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from core.types import Array
from experiments.models.common import (
    Initializer,
    as_images,
    as_logits,
    he_normal,
)
from experiments.models.layers import Conv, global_avg_pool
from experiments.models.norm import BatchNorm

STAGES: tuple[tuple[int, int, int, int], ...] = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),  # stride 2 in the paper
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, features, blocks and stride of each stage: table 2 of the paper."""


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1; added to the input at stride 1.

    conv1, bn1, ReLU, conv2 (depthwise), bn2, ReLU, conv3, bn3. In the CIFAR form a
    shortcut that changes the width is a 1x1 convolution with batch norm
    (`shortcut_conv`, `shortcut_bn`), where the paper has none.

    Attributes:
      expansion: width inside the block per input channel.
      features: channels of the result.
      stride: stride of the depthwise convolution.
      kernel_init: initialiser of the kernels.
      dtype: type of the computation; parameters are float32.
    """

    expansion: int
    features: int
    stride: int = 1
    kernel_init: Initializer = he_normal
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Returns the block's output, [n, h / stride, w / stride, features]."""
        inner = self.expansion * x.shape[-1]
        y = _pointwise(self, "conv1", inner)(x)
        y = nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(y, train))
        y = Conv(
            inner,
            (3, 3),
            strides=(self.stride, self.stride),
            padding=1,
            feature_group_count=inner,
            use_bias=False,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="conv2",
        )(y)
        y = nn.relu(BatchNorm(dtype=self.dtype, name="bn2")(y, train))
        y = _pointwise(self, "conv3", self.features)(y)
        y = BatchNorm(dtype=self.dtype, name="bn3")(y, train)
        if self.stride != 1:
            return y
        if x.shape[-1] != self.features:
            x = _pointwise(self, "shortcut_conv", self.features)(x)
            x = BatchNorm(dtype=self.dtype, name="shortcut_bn")(x, train)
        return y + x


class MobileNetV2(nn.Module):
    """MobileNetV2 in the CIFAR form of kuangliu/pytorch-cifar: 2,296,922 parameters.

    Stride 1 instead of 2 in the first convolution and the second stage, ReLU instead
    of ReLU6. Blocks are named `layer{stage}_{i}`, stages from 1, blocks from 0.

    Attributes:
      num_classes: number of classes.
      stages: expansion, features, blocks and stride of each stage.
      stem: channels of the first convolution.
      head: channels of the last convolution.
      kernel_init: initialiser of the kernels.
      dtype: type of the computation; parameters are float32.
    """

    num_classes: int = 10
    stages: tuple[tuple[int, int, int, int], ...] = STAGES
    stem: int = 32
    head: int = 1280
    kernel_init: Initializer = he_normal
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Returns logits, float32 [n, num_classes], of images [n, h, w, c]."""
        x = as_images(x, self.dtype)
        x = Conv(
            self.stem,
            (3, 3),
            padding=1,
            use_bias=False,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="conv1",
        )(x)
        x = nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(x, train))
        for stage, (expansion, features, blocks, stride) in enumerate(self.stages, 1):
            for i in range(blocks):
                x = InvertedResidual(
                    expansion,
                    features,
                    stride=stride if i == 0 else 1,
                    kernel_init=self.kernel_init,
                    dtype=self.dtype,
                    name=f"layer{stage}_{i}",
                )(x, train)
        x = _pointwise(self, "conv2", self.head)(x)
        x = nn.relu(BatchNorm(dtype=self.dtype, name="bn2")(x, train))
        x = global_avg_pool(x)
        x = nn.Dense(self.num_classes, dtype=self.dtype, name="linear")(x)
        return as_logits(x)


def _pointwise(
    parent: InvertedResidual | MobileNetV2, name: str, features: int
) -> Conv:
    return Conv(
        features,
        (1, 1),
        padding="VALID",
        use_bias=False,
        kernel_init=parent.kernel_init,
        dtype=parent.dtype,
        name=name,
    )
