"""A small convolutional network for 32x32 colour images, without batch norm."""

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


class ConvNet(nn.Module):
    """Three 3x3 convolutions without padding, 2x2 max-pools between them, fc1, fc2.

    The network of TensorFlow's CIFAR-10 tutorial (tutorials/images/cnn): 122,570
    parameters, about 70 % after ten epochs. Every layer but the last ends in a ReLU.

    Attributes:
      num_classes: number of classes.
      features: filters of each convolution.
      hidden: width of fc1.
      dropout_rate: rate before fc2 while training.
      kernel_init: initialiser of the weights.
      bias_init: initialiser of the biases.
      dtype: type of the computation; parameters are float32.
    """

    num_classes: int = 10
    features: tuple[int, ...] = (32, 64, 64)
    hidden: int = 64
    dropout_rate: float = 0.0
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
            if i > 0:
                x = max_pool(x, (2, 2), (2, 2))
            name = f"conv{i + 1}"
            x = Conv(width, (3, 3), padding="VALID", name=name, **common)(x)
            x = nn.relu(x)
        x = x.reshape((x.shape[0], -1))
        x = nn.relu(nn.Dense(self.hidden, name="fc1", **common)(x))
        x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
        return as_logits(nn.Dense(self.num_classes, name="fc2", **common)(x))
