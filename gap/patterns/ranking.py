"""The `count` best along an axis, and the score of a group of weights.

Everything that patterns choose goes through `core.selection.topk_mask` or `best`;
both are exact and order scores alike: NaN below -inf, -0.0 equal to 0.0, ties to the
first.
"""

import jax
import jax.numpy as jnp
from jax import lax

from core.selection import topk_mask
from core.types import Array

_PAIRWISE = 128
"""Lines up to this length are ranked by comparing all pairs."""


def best(
    scores: Array,
    count: int | Array,
    axis: int = -1,
    valid: Array | None = None,
    *,
    computed: bool = False,
) -> Array:
    """Marks the `count` largest scores of every line along `axis`.

    Args:
      scores: [...], any real dtype.
      count: int or integer [], may be traced; more than a line holds is all of it.
      axis: the axis of the lines.
      valid: bool, shape of scores; False entries are padding at the end of a line,
        rank below NaN and are never marked.
      computed: whether scores are sums over groups. XLA fuses comparisons with what
        they compare, and would add the groups up again in each of them; a loop keeps
        the sums. It is slower where scores are read as they are.

    Returns:
      bool, shape of scores, with min(count, valid entries) True in every line.

    Example:
      >>> import jax.numpy as jnp
      >>> best(jnp.array([[3.0, 1.0, 3.0], [0.0, 0.0, 0.0]]), 1).tolist()
      [[True, False, False], [True, False, False]]
    """
    keys = order_keys(scores)
    if valid is not None:
        keys = jnp.where(valid, keys, jnp.iinfo(keys.dtype).min)
    axis %= keys.ndim
    n = keys.shape[axis]
    count = jnp.clip(jnp.asarray(count).astype(jnp.int32), 0, n)
    if n <= _PAIRWISE:
        mask = _ranks(keys, axis, loop=computed) < count
    elif keys.ndim == 1:
        mask = topk_mask(keys, count)
    else:
        lines = jnp.moveaxis(keys, axis, -1)
        flat = jax.vmap(topk_mask, (0, None))(lines.reshape(-1, n), count)
        mask = jnp.moveaxis(flat.reshape(lines.shape), -1, axis)
    return mask if valid is None else mask & valid


def _ranks(keys: Array, axis: int, loop: bool) -> Array:
    """The number of entries of its line that go before each entry, int32."""
    position = lax.broadcasted_iota(jnp.int32, keys.shape, axis)

    def add(j: int | Array, rank: Array) -> Array:
        other = lax.dynamic_slice_in_dim(keys, j, 1, axis=axis)
        first = (other > keys) | ((other == keys) & (j < position))
        return rank + first.astype(jnp.int32)

    rank, length = jnp.zeros(keys.shape, jnp.int32), keys.shape[axis]
    if loop:
        return lax.fori_loop(0, length, add, rank)
    for j in range(length):
        rank = add(j, rank)
    return rank


def order_keys(scores: Array) -> Array:
    """Returns signed integers in the order of `scores`, NaN lowest.

    Floats are compared by their bits: hardware that flushes denormals to zero would
    otherwise make ties of them. The lowest integer of the type is left to padding.
    """
    scores = lax.stop_gradient(jnp.asarray(scores))
    dtype = scores.dtype
    if jnp.issubdtype(dtype, jnp.floating):
        wide = scores.astype(jnp.float32) if dtype.itemsize < 4 else scores
        kind = jnp.int32 if wide.dtype.itemsize == 4 else jnp.int64
        signed = lax.bitcast_convert_type(wide, kind)
        size = signed & jnp.iinfo(kind).max
        keys = jnp.where(signed < 0, -size, size)
        return jnp.where(jnp.isnan(wide), jnp.iinfo(kind).min + 1, keys)
    if dtype.itemsize < 4:  # bool too
        return scores.astype(jnp.int32)
    if jnp.issubdtype(dtype, jnp.unsignedinteger):
        kind = jnp.int32 if dtype.itemsize == 4 else jnp.int64
        flip = jnp.array(1 << (8 * dtype.itemsize - 1), dtype)
        return lax.bitcast_convert_type(scores ^ flip, kind)
    return scores


def group_scores(scores: Array, axes: tuple[int, ...]) -> Array:
    """Returns the score of every group of weights: `sum s |s|` over `axes`.

    That is the squared norm of magnitudes, with the sign of signed scores kept. A
    -inf (pruned, or padding) counts as 0, but a group of nothing else is -inf; a +inf
    makes its group +inf; a NaN makes it NaN, which ranks last.

    Args:
      scores: [...], any real dtype.
      axes: the axes of a group, summed over.

    Returns:
      float32, or float64 for 64-bit scores, without `axes`; scaled by a power of two,
      common to all groups, against overflow and underflow.
    """
    scores = lax.stop_gradient(jnp.asarray(scores))
    dtype = jnp.float64 if scores.dtype == jnp.float64 else jnp.float32
    x = scores.astype(dtype)
    finite = jnp.where(jnp.isfinite(x), x, 0.0)
    # The largest positive score sets the scale; hugely negative ones may saturate.
    top = jnp.max(finite, initial=0.0)
    top = jnp.where(top > 0, top, jnp.max(jnp.abs(finite), initial=0.0))
    scaled = finite * _inverse_power(top)
    limits = jnp.finfo(dtype)
    total = jnp.sum(scaled * jnp.abs(scaled), axis=axes)
    total = jnp.clip(total, limits.min, limits.max)
    total = jnp.where(jnp.all(x == -jnp.inf, axis=axes), -jnp.inf, total)
    total = jnp.where(jnp.any(x == jnp.inf, axis=axes), jnp.inf, total)
    return jnp.where(jnp.any(jnp.isnan(x), axis=axes), jnp.nan, total)


def _inverse_power(top: Array) -> Array:
    """A power of two near 1 / top, made from its bits: exp2 may round."""
    limits = jnp.finfo(top.dtype)
    kind = jnp.int32 if top.dtype.itemsize == 4 else jnp.int64
    _, exponent = jnp.frexp(top)
    bound = limits.maxexp - 3
    biased = limits.maxexp - 1 - jnp.clip(exponent.astype(kind), -bound, bound)
    return lax.bitcast_convert_type(biased << limits.nmant, top.dtype)
