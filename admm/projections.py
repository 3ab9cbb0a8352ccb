"""Euclidean projections as functions on arrays, to lift into other code."""

from core.selection import keep_largest
from core.types import Array


def project_cardinality(w: Array, count: int | Array) -> Array:
    """Projects onto {x : at most `count` entries of x are non-zero}.

    The exact Euclidean projection keeps the `count` entries of largest magnitude
    and sets the others to exactly 0.0 (arXiv 1804.03294, section 3.3). It is not
    unique when magnitudes tie; then the first in C order are kept.

    Args:
      w: floating-point array of any shape; not changed.
      count: entries to keep, 0 to `w.size`; a Python int or int32 of shape [].

    Returns:
      An array of the shape and dtype of `w`.

    Raises:
      InputError: a Python int `count` out of range, or an array of another dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> project_cardinality(jnp.array([1.0, -3.0, 2.0]), 2).tolist()
      [0.0, -3.0, 2.0]
    """
    return keep_largest(w, count)
