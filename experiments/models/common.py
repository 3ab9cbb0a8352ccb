"""What every network file here shares: input checks, initialisers, logits."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from core.errors import InputError, ShapeError, describe
from core.types import Array

Initializer = Callable[..., Array]

he_normal: Initializer = nn.initializers.he_normal()
"""N(0, 2 / fan_in), truncated at two deviations: arXiv 1502.01852, equation 10."""
zeros: Initializer = nn.initializers.zeros_init()


def as_batch(x: Any, rank: int, meaning: str, dtype: Any) -> Array:
    """Returns a batch of inputs in the compute type, checked.

    Args:
      x: floating-point array of any shape.
      rank: the number of axes that `x` must have.
      meaning: the axes in words, for the error message.
      dtype: the type to compute in.

    Raises:
      ShapeError: `x` has another number of axes.
      InputError: `x` holds integers (pixels that nobody normalised).
    """
    if jnp.ndim(x) != rank:
        raise ShapeError(describe(f"an input of shape {jnp.shape(x)}", meaning))
    if not jnp.issubdtype(jax.dtypes.result_type(x), jnp.floating):
        raise InputError(
            describe(
                f"an input of type {jax.dtypes.result_type(x)}",
                "normalised floating-point values",
                "Apply experiments.data.normalize first.",
            )
        )
    return jnp.asarray(x, dtype)


def as_images(x: Any, dtype: Any) -> Array:
    """Returns images [n, h, w, c] in the compute type; see `as_batch`."""
    return as_batch(x, 4, "images of shape [n, height, width, channels]", dtype)


def as_logits(x: Array) -> Array:
    """Returns the class scores in float32, whatever type they were computed in."""
    return x.astype(jnp.float32)
