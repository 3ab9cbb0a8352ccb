"""Rows of a matrix taken by index, and added up by index: each other's transpose.

XLA's CPU backend runs a scatter-add one row after the other, and JAX transposes a
gather to one. Where every row has only a few readers, gathering each reader's
contribution and adding those up is faster and has one order of summation on every
device, so both operations here are gathers, forwards and backwards.

They have reverse mode rules of their own, and forward mode goes through those rules:
`jax.jvp` of a `jax.grad` works, as do `jax.hessian` and second gradients. `jax.jvp` of
a product itself raises JAX's `TypeError` for `custom_vjp` functions.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core.types import Array

MANY = 32
"""More readers than this for some row, and a scatter-add takes over."""


def invert(index: np.ndarray, size: int) -> np.ndarray | None:
    """Returns the positions at which each row is named.

    Args:
      index: integers [s]; those outside of [0, size) name no row.
      size: number of rows.

    Returns:
      int32 [r, size]: column `i` holds the positions of `i` in `index`, in order, then
      `s`; `r`, at least 1, is the most that a row has. None if that exceeds `MANY`.

    Example:
      >>> invert(np.array([2, 0, 2, 9]), 3).tolist()
      [[1, 4, 0], [4, 4, 2]]
    """
    named = np.flatnonzero((index >= 0) & (index < size))
    rows = index[named]
    order = np.argsort(rows, kind="stable")
    counts = np.bincount(rows, minlength=size)
    most = max(int(counts.max(initial=0)), 1)
    if most > MANY:
        return None
    starts = np.cumsum(counts) - counts
    rank = np.arange(rows.size) - np.repeat(starts, counts)
    out = np.full((most, size), index.size, np.int32)
    out[rank, rows[order]] = named[order]
    return out


@jax.custom_vjp
def spread(x: Array, index: Array, inverse: Array | None) -> Array:
    """Returns `x[index]`, rows of x.

    Args:
      x: float [size, b].
      index: int32 [s]; entries out of range read some row.
      inverse: what `invert(index, size)` returns.

    Returns:
      float [s, b]; its gradient is `collect`.
    """
    del inverse
    return _take(x, index)


@jax.custom_vjp
def collect(z: Array, index: Array, inverse: Array | None, like: Array) -> Array:
    """Returns the rows of z added up where `index` says: `out[index[s]] += z[s]`.

    Args:
      z: float [s, b].
      index: int32 [s]; rows with an entry out of range are left out.
      inverse: what `invert(index, size)` returns.
      like: any array of shape [size]; only its shape is used.

    Returns:
      float [size, b]; its gradient is `spread`.
    """
    return _add_up(z, index, inverse, like)


# The rules call these plain functions, so that forward mode goes through them: a
# Hessian-vector product is a forward derivative of a gradient.
def _take(x: Array, index: Array) -> Array:
    return jnp.take(x, index, axis=0, mode="clip")


def _add_up(z: Array, index: Array, inverse: Array | None, like: Array) -> Array:
    size = like.shape[0]
    if inverse is None:
        zeros = jnp.zeros((size, z.shape[1]), z.dtype)
        return zeros.at[index].add(z, mode="drop")
    total = None
    for row in inverse:  # one fused loop over the output, unrolled over readers
        part = jnp.where(
            (row < z.shape[0])[:, None], _take(z, row), jnp.zeros((), z.dtype)
        )
        total = part if total is None else total + part
    assert total is not None
    return total


def _spread_forward(x: Array, index: Array, inverse: Array | None) -> tuple[Array, Any]:
    like = jnp.zeros((x.shape[0],), bool)
    return _take(x, index), (index, inverse, like)


def _spread_backward(saved: Any, gradient: Array) -> tuple[Array, None, None]:
    index, inverse, like = saved
    return _add_up(gradient, index, inverse, like), None, None


def _collect_forward(
    z: Array, index: Array, inverse: Array | None, like: Array
) -> tuple[Array, Any]:
    return _add_up(z, index, inverse, like), index


def _collect_backward(index: Array, gradient: Array) -> tuple[Array, None, None, None]:
    # Rows that were left out are products of padding: what they get meets zeros.
    return _take(gradient, index), None, None, None


spread.defvjp(_spread_forward, _spread_backward)
collect.defvjp(_collect_forward, _collect_backward)


def frozen(values: Array, keep: Array | None) -> Array:
    """Returns `values`, 0 where `keep` is False; so is the gradient there.

    Slots that pad a form hold 0 whatever an optimizer or noise put into them.
    """
    return values if keep is None else jnp.where(keep, values, jnp.zeros_like(values))
