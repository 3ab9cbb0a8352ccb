"""The word of the nearest level without a search: by table, on any device.

A level set has boundaries between its neighbours. Where they are few, words are sums of
comparisons. Otherwise numbers are sorted into cells that no boundary divides, and a
table gives the word of each cell: cells of equal width where all boundaries are
multiples of one power of two, or cells of as many leading mantissa bits as boundaries
have. Numbers on the edge of a cell have a cell of their own, so ties are exact. What
fits neither is found by binary search.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.types import Array

FEW = 16
"""Boundaries up to which comparisons are used."""
CELLS = 1 << 18
"""The most cells of a table."""


class Plan(NamedTuple):
    """How numbers become words; arrays are constants on the host.

    Attributes:
      kind: "compare", "grid", "bits" or "search".
      dtype: of the numbers, float32 or float64.
      bounds: least number of that type that goes above each middle, [levels - 1].
      words: of the levels ("compare", "search") or of the cells.
      step: width of a grid's cells, a power of two, or mantissa bits dropped.
      first: index of the first cell.
    """

    kind: str
    dtype: np.dtype
    bounds: np.ndarray
    words: np.ndarray
    step: float = 0.0
    first: int = 0


def plan(
    levels: np.ndarray, ties_up: np.ndarray, words: np.ndarray, dtype: np.dtype
) -> Plan:
    """Returns the plan for a level set.

    Args:
      levels: rising, float64 [n].
      ties_up: where the middle of neighbours goes to the upper one, bool [n - 1].
      words: of the levels, [n].
      dtype: of the numbers to come.
    """
    middles = levels[:-1] + 0.5 * (levels[1:] - levels[:-1])
    bounds = _bounds(middles, ties_up, dtype)
    search = Plan("compare" if len(bounds) <= FEW else "search", dtype, bounds, words)
    if search.kind == "compare":
        return search
    options = [_grid(search, middles), _leading(search, middles)]
    found = [each for each in options if each is not None]
    return min(found, key=lambda each: each.words.size, default=search)


def words(plan: Plan, x: Array) -> Array:
    """Returns the word of the nearest level of every number; x without NaN."""
    if plan.kind == "compare":
        return _compared(plan, x)
    table = jnp.asarray(plan.words)
    if plan.kind == "search":
        return table[jnp.searchsorted(jnp.asarray(plan.bounds), x, side="right")]
    cell = (_grid_cell if plan.kind == "grid" else _leading_cell)(plan, x)
    return table.at[cell].get(mode="promise_in_bounds")


def _compared(plan: Plan, x: Array) -> Array:
    """One word is another one plus a difference for every boundary passed."""
    steps = np.diff(plan.words.astype(np.int32))
    found = jnp.full(x.shape, np.int32(plan.words[0]))
    for bound, step in zip(plan.bounds, steps, strict=True):
        found = found + jnp.where(x >= bound, np.int32(step), np.int32(0))
    return found.astype(plan.words.dtype)


def _bounds(middles: np.ndarray, ties_up: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The least number of a type at or above each middle; above it if ties go down."""
    near = middles.astype(dtype)
    wide = near.astype(np.float64)
    over = np.nextafter(near, np.asarray(np.inf, dtype))
    return np.where((wide < middles) | ((wide == middles) & ~ties_up), over, near)


def _grid(base: Plan, middles: np.ndarray) -> Plan | None:
    """Cells of equal width; cell 2i is the number i * step, 2i + 1 what follows it."""
    mantissa, exponent = np.frexp(middles[middles != 0])
    whole = (mantissa * 2.0**53).astype(np.int64)
    low = exponent - 53 + _trailing_zeros(whole)
    step = 2.0 ** int(low.min())
    first, last = middles[0] / step - 1, middles[-1] / step + 1
    if not 2 * (last - first + 1) <= CELLS:
        return None
    starts = np.arange(int(first), int(last) + 1) * step
    points = np.stack([starts, starts + 0.5 * step], axis=1).reshape(-1)
    return _filled(base, "grid", points, step, int(first))


def _grid_cell(plan: Plan, x: Array) -> Array:
    count = plan.words.size // 2
    low, high = plan.first * plan.step, (plan.first + count - 1) * plan.step
    scaled = jnp.clip(x, low, high) * jnp.asarray(1.0 / plan.step, plan.dtype)
    start = jnp.floor(scaled)
    after = (scaled > start).astype(jnp.int32)
    return 2 * (start.astype(jnp.int32) - plan.first) + after


def _leading(base: Plan, middles: np.ndarray) -> Plan | None:
    """Cells of equal leading bits: sign, exponent and some of the mantissa."""
    kept = 23 if base.dtype == np.float32 else 52
    near = np.abs(middles).astype(base.dtype)
    if not (near == np.abs(middles)).all() or near.min() < np.finfo(near.dtype).tiny:
        return None
    integers = near.view(np.int32 if kept == 23 else np.int64).astype(np.int64)
    drop = min(int(_trailing_zeros(integers).min()), kept)
    keys = np.arange((integers.min() >> drop) - 1, (integers.max() >> drop) + 2)
    if 4 * keys.size > CELLS:
        return None
    view = np.int32 if kept == 23 else np.int64
    starts = (keys << drop).astype(view).view(base.dtype).astype(np.float64)
    after = ((keys + 1) << drop).astype(view).view(base.dtype).astype(np.float64)
    points = np.stack([starts, 0.5 * (starts + after)], axis=1).reshape(-1)
    both = np.concatenate([points, -points])
    return _filled(base, "bits", both, float(drop), int(keys[0]))


def _leading_cell(plan: Plan, x: Array) -> Array:
    wide = plan.dtype == np.float64
    integer = jnp.int64 if wide else jnp.int32
    # -0.0 has a sign too: it goes where 0 goes, below the first cell.
    magnitude = jax.lax.bitcast_convert_type(jnp.abs(x), integer)
    drop = int(plan.step)
    key = magnitude >> drop
    rest = ((magnitude & ((1 << drop) - 1)) != 0).astype(integer)
    size = plan.words.size // 2
    cell = jnp.clip(2 * (key - plan.first) + rest, 0, size - 1)
    return (cell + jnp.where(x < 0, size, 0)).astype(jnp.int32)


def _filled(base: Plan, kind: str, points: np.ndarray, step: float, first: int) -> Plan:
    """The plan with the word of every cell, looked up for a point of each."""
    index = np.searchsorted(base.bounds.astype(np.float64), points, side="right")
    return base._replace(kind=kind, words=base.words[index], step=step, first=first)


def _trailing_zeros(integers: np.ndarray) -> np.ndarray:
    """How many of the lowest bits of non-zero integers are 0."""
    lowest = integers & -integers
    return np.log2(lowest.astype(np.float64)).astype(np.int64)
