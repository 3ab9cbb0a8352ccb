"""Pooling windows by slices, for operators that a pair of arrays combines.

Works dimension by dimension. Nothing is padded: a tap of a window that would fall into
the padding reads another entry of the same window instead, which changes neither a
maximum nor a minimum, and needs no stand-in for infinity.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from core.types import Array

Plan = tuple[np.ndarray, ...]
"""For each dimension, the entry [taps, outputs] that each tap of each window reads."""


def plan(shape: Sequence[int], params: Mapping[str, Any]) -> Plan | None:
    """Returns what the windows of a `reduce_window` operator read.

    Args:
      shape: of the operand.
      params: of the primitive: window_dimensions, window_strides, padding,
        base_dilation and window_dilation.

    Returns:
      None for base dilation, and where a window lies in the padding altogether.
    """
    if any(d != 1 for d in params["base_dilation"]):
        return None
    columns = (
        params[k]
        for k in ("window_dimensions", "window_strides", "padding", "window_dilation")
    )
    found = [_taps(*each) for each in zip(shape, *columns, strict=True)]
    known = tuple(taps for taps in found if taps is not None)
    return known if len(known) == len(found) else None


def _taps(
    size: int, window: int, stride: int, padding: tuple[int, int], dilation: int
) -> np.ndarray | None:
    span = dilation * (window - 1) + 1
    count = (size + sum(padding) - span) // stride + 1
    starts = np.arange(count) * stride - padding[0]
    taps = starts + dilation * np.arange(window)[:, None]
    inside = (taps >= 0) & (taps < size)
    if count < 1 or not inside.any(axis=0).all():
        return None
    first = inside.argmax(axis=0)
    last = window - 1 - inside[::-1].argmax(axis=0)
    order = np.clip(np.arange(window)[:, None], first, last)
    return np.take_along_axis(taps, order, axis=0)


def pool(pair: Callable[[Array, Array], Array], taps: Plan, x: Array) -> Array:
    """Returns the combination of each window's entries.

    Args:
      pair: elementwise, associative and idempotent, such as a maximum.
      taps: from `plan`.
      x: of the shape it was made for.
    """
    for axis, indices in enumerate(taps):
        if len(indices) == 1 and np.array_equal(indices[0], np.arange(x.shape[axis])):
            continue
        rows = [_take(x, index, axis) for index in indices]
        while len(rows) > 1:
            paired = zip(rows[0:-1:2], rows[1::2], strict=True)
            rows = [pair(a, b) for a, b in paired] + rows[len(rows) // 2 * 2 :]
        (x,) = rows
    return x


def tournament(pair: Callable[[Array, Array], Array], x: Array) -> Array:
    """Returns the combination of the entries along the first axis, pair by pair.

    The depth is log2 of their number. Each round is one call of `pair`.
    """
    while x.shape[0] > 1:
        half = x.shape[0] // 2
        winners = pair(x[:half], x[half : 2 * half])
        odd = x.shape[0] % 2
        x = jnp.concatenate([winners, x[2 * half :]]) if odd else winners
    return x[0]


def _take(x: Array, indices: np.ndarray, axis: int) -> Array:
    """The entries at non-decreasing `indices`, as slices of equal steps."""
    parts = []
    start = 0
    while start < len(indices):
        step = (
            int(indices[start + 1] - indices[start]) if start + 1 < len(indices) else 1
        )
        stop = start + 1
        while (
            step and stop < len(indices) and indices[stop] - indices[stop - 1] == step
        ):
            stop += 1
        low, high = int(indices[start]), int(indices[stop - 1])
        parts.append(lax.slice_in_dim(x, low, high + 1, max(step, 1), axis))
        start = stop
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis)
