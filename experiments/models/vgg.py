"""VGG-16 for CIFAR: thirteen convolutions with batch norm, one linear layer."""

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
from experiments.models.layers import Conv, global_avg_pool, max_pool
from experiments.models.norm import BatchNorm

VGG16: tuple[tuple[int, ...], ...] = (
    (64, 64),
    (128, 128),
    (256, 256, 256),
    (512, 512, 512),
    (512, 512, 512),
)
"""Filters of each convolution, stage by stage: arXiv 1409.1556, table 1, column D."""


class VGG(nn.Module):
    """Stages of 3x3 convolutions, batch norm and ReLU, each ended by a 2x2 max-pool.

    The form used on CIFAR has one linear layer instead of VGG's three. Convolutions
    are named `conv{stage}_{i}` from 1, as in the paper. Their biases do nothing in
    front of batch norm; the published count of 14,728,266 includes them.

    Attributes:
      num_classes: number of classes.
      stages: filters of each convolution, stage by stage.
      use_bias: whether convolutions have the biases that batch norm cancels.
      kernel_init: initialiser of the kernels.
      dtype: type of the computation; parameters are float32.
    """

    num_classes: int = 10
    stages: tuple[tuple[int, ...], ...] = VGG16
    use_bias: bool = True
    kernel_init: Initializer = he_normal
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Returns logits, float32 [n, num_classes], of images [n, h, w, c].

        Height and width must be at least 2 ** len(stages); what is left of the
        positions after the last pool (1x1 from 32x32) is averaged.
        """
        x = as_images(x, self.dtype)
        for stage, widths in enumerate(self.stages, start=1):
            for i, width in enumerate(widths, start=1):
                x = Conv(
                    width,
                    (3, 3),
                    padding=1,
                    use_bias=self.use_bias,
                    kernel_init=self.kernel_init,
                    dtype=self.dtype,
                    name=f"conv{stage}_{i}",
                )(x)
                norm = BatchNorm(dtype=self.dtype, name=f"bn{stage}_{i}")
                x = nn.relu(norm(x, train))
            x = max_pool(x, (2, 2), (2, 2))
        x = global_avg_pool(x)
        x = nn.Dense(self.num_classes, dtype=self.dtype, name="linear")(x)
        return as_logits(x)
