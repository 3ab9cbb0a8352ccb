"""LeNet-300-100 and LeNet-5, the networks of the pruning literature.

LeNet-5 is Caffe's, with the ReLUs of the reference schedule of ADMM pruning (after
each convolution and after fc1; Caffe's own has one after fc1 only): 430,500 weights.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from core.types import Array
from experiments.models.common import (
    Initializer,
    as_images,
    as_logits,
    he_normal,
    zeros,
)
from experiments.models.layers import Conv, max_pool

REFERENCE_INIT: dict[str, Initializer] = {
    "kernel_init": nn.initializers.truncated_normal(0.1),
    "bias_init": nn.initializers.constant(0.1),
}
"""The initialisers of the ADMM paper's code: `create("lenet5", **REFERENCE_INIT)`."""


class LeNet300(nn.Module):
    """LeNet-300-100: fc1 (300), ReLU, fc2 (100), ReLU, fc3 (classes).

    266,200 weights and 410 biases on 28x28 digits (LeCun et al. 1998, section III).

    Attributes:
      num_classes: number of classes.
      hidden: widths of the hidden layers.
      dropout_rate: rate after fc1, where the ADMM paper's code has it.
      kernel_init: initialiser of the weights.
      bias_init: initialiser of the biases.
      dtype: type of the computation; parameters are float32.
    """

    num_classes: int = 10
    hidden: tuple[int, ...] = (300, 100)
    dropout_rate: float = 0.0
    kernel_init: Initializer = he_normal
    bias_init: Initializer = zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Returns logits, float32 [n, num_classes], of images [n, h, w, c]."""
        x = as_images(x, self.dtype)
        x = x.reshape((x.shape[0], -1))
        for i, width in enumerate((*self.hidden, self.num_classes)):
            x = nn.Dense(
                width,
                dtype=self.dtype,
                kernel_init=self.kernel_init,
                bias_init=self.bias_init,
                name=f"fc{i + 1}",
            )(x)
            if i < len(self.hidden):
                x = nn.relu(x)
            if i == 0:
                x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
        return as_logits(x)


class LeNet5(nn.Module):
    """LeNet-5: two 5x5 convolutions without padding, 2x2 max-pools, two dense layers.

    conv1 (20), ReLU, pool, conv2 (50), ReLU, pool, fc1 (500), ReLU, dropout, fc2.
    The ReLUs stand behind the pools, which gives the same values (max and ReLU
    commute) from a quarter of the work.

    Attributes:
      num_classes: number of classes.
      features: filters of the two convolutions.
      hidden: width of fc1.
      dropout_rate: rate before fc2 while training.
      kernel_init: initialiser of the weights.
      bias_init: initialiser of the biases.
      dtype: type of the computation; parameters are float32.
    """

    num_classes: int = 10
    features: tuple[int, int] = (20, 50)
    hidden: int = 500
    dropout_rate: float = 0.5
    kernel_init: Initializer = he_normal
    bias_init: Initializer = zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Returns logits, float32 [n, num_classes], of images [n, h, w, c]."""
        common = {
            "dtype": self.dtype,
            "kernel_init": self.kernel_init,
            "bias_init": self.bias_init,
        }
        x = as_images(x, self.dtype)
        for i, width in enumerate(self.features):
            name = f"conv{i + 1}"
            x = Conv(width, (5, 5), padding="VALID", name=name, **common)(x)
            x = nn.relu(max_pool(x, (2, 2), (2, 2)))
        x = x.reshape((x.shape[0], -1))
        x = nn.relu(nn.Dense(self.hidden, name="fc1", **common)(x))
        x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
        return as_logits(nn.Dense(self.num_classes, name="fc2", **common)(x))
