"""Exact selection of the k largest entries, jittable, without sorting.

`topk_mask` marks the k largest scores of an array; `keep_largest` keeps the k
entries of largest magnitude and zeroes the others. Both are exact for every input,
ties included, and cost a few streaming reads of the array instead of a sort.

Method: a float is mapped to an integer key of the same order, and the key of the
k-th largest entry is bracketed by counting how many keys reach each of four
thresholds, one read of the array for all four, until the bracket is one key wide or
some threshold is reached by exactly k entries. Entries that tie at the last key are
cut by the same search over their positions. In a large array the first thresholds
come from a sample; a misleading sample costs reads, never exactness.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from core.errors import InputError, describe
from core.types import Array, ArrayLike

__all__ = ["keep_largest", "topk_mask"]

_FLOATS = ("bfloat16", "float16", "float32", "float64")
_ROWS = 16
"""Rows that one read of an array adds up; at most 255, so that counts fit a byte."""
_ALIGN = 64
"""Row lengths are multiples of this: XLA's CPU loops are 6 times slower otherwise."""
_SMALL = 1 << 12
"""Size below which bisection is as fast, by a program a tenth of the size."""
_SAMPLE = 1 << 14
_SAMPLED_FROM = 1 << 18
"""Size from which on about `_SAMPLE` entries choose the first thresholds."""

Keys: TypeAlias = Callable[[Array, Array], Array]
"""Maps entries and their flat positions, both of shape [m], to integer keys."""


class _Bracket(NamedTuple):
    """Where the k-th largest key is known to be; integers of shape [].

    Invariants: `reach = #(key >= low) >= k`; `above = #(key > high)`; for k > 0,
    `low <= high` and `above < k`.
    """

    low: Array
    high: Array
    reach: Array
    above: Array


def topk_mask(scores: ArrayLike, k: int | Array) -> Array:
    """Marks the k largest scores.

    mask[i] = 1 iff scores[i] is among the first k in the order of falling score and,
    among equal scores, rising flat index. -0.0 equals 0.0; a NaN ranks below
    everything else, -inf included.

    Args:
      scores: [...], bool, integer, bfloat16, float16, float32 or float64.
      k: how many to mark, 0 <= k <= n = scores.size; a Python integer or an integer
        array of shape [], which may be traced (a new value does not recompile) and
        is clipped to [0, n].

    Returns:
      mask: bool, shape of scores, with exactly k entries True. It is constant for
      differentiation.

    Raises:
      InputError: a Python `k` out of range, or scores of another dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> print(topk_mask(jnp.array([3.0, 1.0, 3.0, 5.0]), 2))
      [ True False False  True]
    """
    scores = jnp.asarray(scores)
    return _mask(scores, _checked(k, scores.size), magnitude=False)


def keep_largest(w: ArrayLike, k: int | Array) -> Array:
    """Keeps the k entries of largest magnitude, and makes the others 0.

    The Euclidean projection onto {x : card(x) <= k}: no x with at most k nonzero
    entries has a smaller ||x - w||. Among equal magnitudes the lower flat index is
    kept. The gradient is the identity at kept entries and 0 elsewhere.

    Args:
      w: [...], bfloat16, float16, float32 or float64. A NaN counts as the smallest
        magnitude, so it survives only where fewer than k entries are numbers.
      k: how many to keep, 0 <= k <= n = w.size; a Python integer or an integer array
        of shape [], which may be traced and is clipped to [0, n].

    Returns:
      The projection, shape and dtype of w; kept entries have w's bits, the others
      are exactly +0.0.

    Raises:
      InputError: a Python `k` out of range, or w of another dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> print(keep_largest(jnp.array([0.5, -2.0, 1.0]), 2))
      [ 0. -2.  1.]
    """
    w = jnp.asarray(w)
    if w.dtype.name not in _FLOATS:
        raise InputError(f"w: {describe(w.dtype.name, 'one of ' + ', '.join(_FLOATS))}")
    return _keep(w, _checked(k, w.size))


def _checked(k: int | Array, n: int) -> Array:
    """Returns `k` as an integer array of shape [], once it is fit for n entries."""
    if n >= 2**31:
        raise InputError(
            f"array: {describe(f'{n} entries', 'less than 2**31', 'Split it.')}"
        )
    if isinstance(k, int | np.integer) and not 0 <= k <= n:
        raise InputError(f"k: {describe(k, f'a count in [0, {n}]')}")
    if not jnp.issubdtype(jnp.result_type(k), jnp.integer) or jnp.ndim(k):
        raise InputError(f"k: {describe(repr(k), 'an integer of shape []')}")
    return jnp.asarray(k)


@jax.jit
def _keep(w: Array, k: Array) -> Array:
    """Keeps the k entries of largest magnitude."""
    return jnp.where(_mask(w, k, magnitude=True), w, jnp.zeros((), w.dtype))


@functools.partial(jax.jit, static_argnames="magnitude")
def _mask(x: Array, k: Array, magnitude: bool) -> Array:
    """Marks the k largest entries of `x`, or those of largest magnitude."""
    n = x.size
    if n == 0:
        return jnp.zeros(x.shape, bool)
    x = lax.stop_gradient(x)
    key, low, high = _order(x.dtype, magnitude)
    flat = x.reshape(-1)
    # n may not fit into a narrow type of k, and k may not fit into int32.
    k = jnp.asarray(k)
    wide = k.astype(jnp.int32) if k.dtype.itemsize < 4 else k
    wanted = jnp.clip(wide, 0, n).astype(jnp.int32)
    if n < _SMALL:
        return _small_mask(key(flat), wanted, low, high).reshape(x.shape)

    bracket = _search(flat, wanted, lambda v, _: key(v), low, high, samples=True)
    # Among the entries at the last key, those of lowest position are kept. If they
    # all are, the second search is over before its first read.
    last = bracket.low
    first = _search(
        flat,
        wanted - bracket.above,
        lambda v, i: jnp.where(key(v) == last, n - 1 - i, -1),
        np.int32(0),
        np.int32(n),
        reach=bracket.reach - bracket.above,
    ).low
    keys = key(flat)
    tied = (keys == last) & (n - 1 - lax.iota(jnp.int32, n) >= first)
    return ((keys > last) | tied).reshape(x.shape)


def _small_mask(
    keys: Array, k: Array, low: np.signedinteger, high: np.signedinteger
) -> Array:
    """Marks the k largest keys, ties by position; for arrays that fit into a cache."""
    last = _bisected(keys, k, low, high)
    n, above = keys.size, keys > last
    at = jnp.where(keys == last, n - 1 - lax.iota(jnp.int32, n), -1)
    left = k - above.sum(dtype=jnp.int32)
    return above | (at >= _bisected(at, left, np.int32(0), np.int32(n)))


def _bisected(
    keys: Array, k: Array, low: np.signedinteger, high: np.signedinteger
) -> Array:
    """Returns the largest number of [low, high] that at least k keys reach."""

    def halve(_, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        least, most = ends
        middle = (least | most) - ((least ^ most) >> 1)  # rounded up, no overflow
        enough = (keys >= middle).sum(dtype=jnp.int32) >= k
        return jnp.where(enough, middle, least), jnp.where(enough, most, middle - 1)

    # As in `_search`: loops start from values that vary over the axes of the keys.
    zero = (0 * (keys[0].astype(jnp.int32) + k)).astype(keys.dtype)
    steps = (int(high) - int(low)).bit_length()
    return lax.fori_loop(0, steps, halve, (low + zero, high + zero))[0]


def _order(
    dtype: np.dtype, magnitude: bool
) -> tuple[Callable[[Array], Array], np.signedinteger, np.signedinteger]:
    """Returns a map to signed integers of the same order, and their range.

    Floats are compared by their bits, so that denormals keep their order on
    hardware that flushes them to zero.
    """
    bits = np.dtype(f"int{8 * dtype.itemsize}")
    wide = np.dtype(f"int{max(32, 8 * dtype.itemsize)}")
    if dtype.name in _FLOATS:
        infinity = wide.type(np.array(np.inf, dtype).view(bits))

        def key(v: Array) -> Array:
            signed = lax.bitcast_convert_type(v, bits).astype(wide)
            size = signed & wide.type(np.iinfo(bits).max)
            value = size if magnitude else jnp.where(signed < 0, -size, size)
            return jnp.where(size > infinity, lowest, value)

        lowest = wide.type(-1 if magnitude else -infinity - 1)
        return key, lowest, infinity
    if dtype.kind == "b" or jnp.issubdtype(dtype, jnp.integer):
        limits = jnp.iinfo(np.uint8 if dtype.kind == "b" else dtype)
        if limits.max <= np.iinfo(wide).max:
            return (
                lambda v: v.astype(wide),
                wide.type(limits.min),
                wide.type(limits.max),
            )
        sign = np.array(1 << (limits.bits - 1), dtype)
        span = np.iinfo(wide)
        return (
            lambda v: lax.bitcast_convert_type(v ^ sign, wide),
            wide.type(span.min),
            wide.type(span.max),
        )
    kinds = f"bool, an integer or one of {', '.join(_FLOATS)}"
    raise InputError(f"scores: {describe(dtype.name, kinds)}")


def _search(
    x: Array,
    k: Array,
    key: Keys,
    low: np.signedinteger,
    high: np.signedinteger,
    *,
    reach: Array | None = None,
    samples: bool = False,
) -> _Bracket:
    """Finds the k-th largest key, or a key that exactly k entries reach.

    Args:
      x: [n], the entries.
      k: int32 [], 0 <= k <= n.
      key: the key of each entry.
      low: the smallest possible key, of the keys' dtype.
      high: the largest possible key.
      reach: int32 [], how many entries have a key of at least `low`; default n.
      samples: whether a sample may choose the first thresholds.

    Returns:
      A bracket with `reach == k` or `low == high`.
    """
    # Under shard_map a loop must start from values that vary over the same axes as
    # those it computes, hence a zero that depends on x and k.
    entry = key(lax.slice(x, (0,), (1,)), jnp.zeros((1,), jnp.int32))[0]
    zero = 0 * (entry.astype(jnp.int32) + k)
    start = _Bracket(
        low + zero.astype(low.dtype),
        high + zero.astype(high.dtype),
        zero + x.size if reach is None else reach,
        zero,
    )
    tries = _thresholds(start, k)
    if samples and x.size >= _SAMPLED_FROM:
        tries = _sampled_thresholds(x, k, key, low, high)

    def unsettled(state: tuple[_Bracket, Array]) -> Array:
        bracket, _ = state
        return (bracket.reach != k) & (bracket.low != bracket.high)

    def narrow(state: tuple[_Bracket, Array]) -> tuple[_Bracket, Array]:
        # The barrier ties entries and positions to this pass: XLA would otherwise
        # compute all their keys before the loop and keep them in memory.
        (low, high, reach, above), tries = state
        tied = lax.optimization_barrier((x, np.int32(0), tries))
        counts = _count(key, *tied)
        enough = counts >= k
        bracket = _Bracket(
            jnp.max(jnp.where(enough, tries, low)),
            jnp.min(jnp.where(enough, high, tries - 1)),
            jnp.min(jnp.where(enough, counts, reach)),
            jnp.max(jnp.where(enough, above, counts)),
        )
        return bracket, _thresholds(bracket, k)

    return lax.while_loop(unsettled, narrow, (start, tries))[0]


def _thresholds(bracket: _Bracket, k: Array) -> Array:
    """Returns the four keys of (low, high] to count next.

    Two cut the bracket into thirds, which bounds the number of reads; the others
    enclose, within 1.5 deviations, where the k-th largest key lies if the keys in
    the bracket are evenly spread, which they are in a narrow one.
    """
    low, high, reach, above = bracket
    inside = jnp.maximum(reach - above, 1).astype(jnp.float32)
    share = (reach - k).astype(jnp.float32) / inside
    margin = 1.5 * jnp.sqrt(share * (1.0 - share) / inside)
    third = jnp.full_like(share, 1 / 3)
    at = jnp.stack([share - margin, share + margin, third, 2.0 * third])
    # share * span in integers, so that 64-bit keys need no 64-bit floats.
    unsigned = np.dtype(f"uint{8 * low.dtype.itemsize}")
    fixed = jnp.clip(at * 65536.0, 0.0, 65535.0).astype(unsigned)
    span = (high - low).astype(unsigned)
    offset = (span >> 16) * fixed + (((span & 0xFFFF) * fixed) >> 16)
    return low + 1 + jnp.minimum(offset, span - 1).astype(low.dtype)


def _sampled_thresholds(
    x: Array, k: Array, key: Keys, low: np.signedinteger, high: np.signedinteger
) -> Array:
    """Returns four keys around where a sample of `x` sees the k-th largest."""
    stride = (x.size // _SAMPLE) | 1  # odd: channels come in powers of two
    sample = lax.slice(x, (0,), (x.size,), (stride,))
    m = sample.size
    share = k.astype(jnp.float32) / x.size
    margin = 4.0 * jnp.sqrt(m * share * (1.0 - share)) + 1.0
    ranks = jnp.stack([share * m + margin, share * m - margin])
    ranks = jnp.clip(jnp.round(ranks), 1, m).astype(jnp.int32)
    ends = lax.map(lambda r: _search(sample, r, key, low, high).low, ranks)
    third = (ends[1] - ends[0]) // 3
    return jnp.stack([ends[0], ends[0] + third, ends[1] - third, ends[1] + 1])


def _count(key: Keys, x: Array, first: Array, thresholds: Array) -> Array:
    """Counts the entries of `x` whose key reaches each of four thresholds.

    Args:
      key: the key of each entry.
      x: [n].
      first: int32 [], the flat position of x[0].
      thresholds: [4], of the keys' dtype.

    Returns:
      int32 [4].

    The four counts live in the four bytes of one int32 and are summed over rows
    element by element: XLA's CPU backend vectorises that and runs it on all cores in
    one read of `x`, where a reduction would first write the comparisons to memory.
    """
    columns = x.size // (_ROWS * _ALIGN) * _ALIGN

    def tally(start: int, size: int) -> Array:
        part = lax.slice(x, (start,), (start + size,))
        keys = key(part, first + start + lax.iota(jnp.int32, size))
        ones = [np.int32(1 << (8 * i)) for i in range(4)]
        hits = [jnp.where(keys >= thresholds[i], ones[i], 0) for i in range(4)]
        return functools.reduce(jnp.add, hits)

    rest = tally(columns * _ROWS, x.size - columns * _ROWS)
    rows = functools.reduce(
        jnp.add, [tally(r * columns, columns) for r in range(_ROWS)]
    )

    def unpack(shift: Array) -> Array:
        def total(v: Array) -> Array:
            return jnp.sum(lax.shift_right_logical(v, shift) & 255, dtype=jnp.int32)

        return total(rows) + total(rest)

    # A loop, so that `rows` is computed once and not once for each byte.
    return lax.map(unpack, jnp.arange(0, 32, 8, dtype=jnp.int32))
