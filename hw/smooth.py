"""Counts that are exact where they are whole, and straight lines between."""

from collections.abc import Callable

import jax.numpy as jnp

from core.types import Array, ArrayLike


def between(count: Callable[[Array], Array], bits: Array) -> Array:
    """Returns `count(bits)` at whole numbers and a straight line between those.

    Args:
      count: of whole numbers; it may round.
      bits: any numbers, at least 0.
    """
    below = jnp.floor(bits)
    first = count(below)
    return first + (bits - below) * (count(below + 1.0) - first)


def pieces(kept: Array, size: Array, unit: ArrayLike) -> Array:
    """Returns how many pieces hold what is kept of a size, at least 1.

    ceil(kept / unit) where what is kept fills its pieces, or is all of the size;
    straight lines between.

    Args:
      kept: elements, at most `size`.
      size: elements without pruning.
      unit: elements of a piece.
    """
    full = jnp.floor(size / unit)
    rest = size - full * unit
    above = full + (kept - full * unit) / jnp.maximum(rest, 1e-6)
    inside = (kept <= full * unit) | (rest <= 0)
    return jnp.maximum(jnp.where(inside, kept / unit, above), 1.0)


def beyond(size: Array, capacity: ArrayLike) -> Array:
    """Returns the share of a size that a memory does not hold, 0 if it holds all."""
    return jnp.maximum(1.0 - capacity / jnp.maximum(size, 1e-9), 0.0)
