"""Products, convolutions, windows and gathers in numpy; see `graph.reference`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from core.errors import GraphError, describe

Params = Mapping[str, Any]
_MOST_PATCHES = 1 << 24  # elements of the unrolled input that are held at once


def dot_general(params: Params, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sums of products over contracted axes, by batch axes."""
    (a_sum, b_sum), (a_batch, b_batch) = params["dimension_numbers"]
    a_free = [d for d in range(a.ndim) if d not in (*a_sum, *a_batch)]
    b_free = [d for d in range(b.ndim) if d not in (*b_sum, *b_batch)]
    batch = [a.shape[d] for d in a_batch]
    rows, columns = [a.shape[d] for d in a_free], [b.shape[d] for d in b_free]
    inner = math.prod(a.shape[d] for d in a_sum)
    left = a.transpose(*a_batch, *a_free, *a_sum)
    right = b.transpose(*b_batch, *b_sum, *b_free)
    left = left.reshape(*batch, math.prod(rows), inner)
    right = right.reshape(*batch, inner, math.prod(columns))
    return np.matmul(left, right).reshape(*batch, *rows, *columns)


def pad(
    x: np.ndarray, value: Any, widths: Sequence[tuple[int, int, int]]
) -> np.ndarray:
    """Pads every axis by (low, high, interior); a negative width crops."""
    for axis, (low, high, interior) in enumerate(widths):
        x = np.moveaxis(x, axis, 0)
        if interior and len(x):
            spread = np.full(((len(x) - 1) * (interior + 1) + 1, *x.shape[1:]), value)
            spread[:: interior + 1] = x
            x = spread.astype(x.dtype)
        x = x[max(-low, 0) : len(x) - max(-high, 0)]
        ends = [np.full((max(n, 0), *x.shape[1:]), value, x.dtype) for n in (low, high)]
        x = np.moveaxis(np.concatenate([ends[0], x, ends[1]]), 0, axis)
    return x


def windows(
    x: np.ndarray,
    sizes: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> np.ndarray:
    """Returns the windows over the last axes: x's axes, then one for each size."""
    first = x.ndim - len(sizes)
    reach = [(n - 1) * d + 1 for n, d in zip(sizes, dilations, strict=True)]
    room = [max(n - r + 1, 0) for n, r in zip(x.shape[first:], reach, strict=True)]
    if 0 in room or 0 in reach:
        counts = [-(-n // s) for n, s in zip(room, strides, strict=True)]
        return np.zeros((*x.shape[:first], *counts, *sizes), x.dtype)
    seen = sliding_window_view(x, reach, tuple(range(first, x.ndim)))
    steps = [slice(None, None, s) for s in (*strides, *dilations)]
    return seen[(slice(None),) * first + tuple(steps)]


def convolution(params: Params, x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """A convolution (correlation) of any layout, as patches times a matrix."""
    if params["batch_group_count"] != 1:
        raise GraphError(describe("a convolution with batch groups", "none"))
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    x = x.transpose(numbers.lhs_spec)
    kernel = kernel.transpose(numbers.rhs_spec)
    widths = [
        (low, high, inside - 1)
        for (low, high), inside in zip(
            params["padding"], params["lhs_dilation"], strict=True
        )
    ]
    x = _dilate_then_pad(x, widths)
    seen = windows(
        x, kernel.shape[2:], params["window_strides"], params["rhs_dilation"]
    )
    features, size = kernel.shape[0], math.prod(kernel.shape[1:])
    matrix = kernel.reshape(groups, features // groups, size).transpose(0, 2, 1)
    out_sizes = seen.shape[2 : 2 + kernel.ndim - 2]
    out = np.zeros((len(x), features, *out_sizes))
    step = max(1, _MOST_PATCHES // max(1, math.prod(seen.shape[1:])))
    for start in range(0, len(x), step):
        part = seen[start : start + step]
        out[start : start + step] = _products(part, matrix, out_sizes)
    return out.transpose(np.argsort(numbers.out_spec))


def _dilate_then_pad(x: np.ndarray, widths: Sequence[tuple[int, int, int]]) -> Any:
    none = (0, 0, 0)
    return pad(x, 0.0, [none, none, *widths])


def _products(part: np.ndarray, matrix: np.ndarray, out_sizes: Any) -> np.ndarray:
    """Returns [n, features, *out] of windows [n, channels, *out, *kernel]."""
    groups, size, features = matrix.shape
    n, rank, places = len(part), len(out_sizes), math.prod(out_sizes)
    grouped = part.reshape(n, groups, -1, *part.shape[2:])
    # to [groups, n, *out, channels of the group, *kernel]
    order = (1, 0, *range(3, 3 + rank), 2, *range(3 + rank, 3 + 2 * rank))
    patches = grouped.transpose(order).reshape(groups, n * places, size)
    out = np.matmul(patches, matrix).reshape(groups, n, places, features)
    return out.transpose(1, 0, 3, 2).reshape(n, groups * features, *out_sizes)


def reduce_window(
    reduce: Any, start: float, params: Params, x: np.ndarray
) -> np.ndarray:
    """Reduces windows over all axes; `start` fills the padding."""
    if x.dtype.kind == "i" and math.isinf(start):
        info = np.iinfo(x.dtype)
        start = info.max if start > 0 else info.min
    widths = [
        (low, high, inside - 1)
        for (low, high), inside in zip(
            params["padding"], params["base_dilation"], strict=True
        )
    ]
    seen = windows(
        pad(x, start, widths),
        params["window_dimensions"],
        params["window_strides"],
        params["window_dilation"],
    )
    return reduce(seen, axis=tuple(range(x.ndim, 2 * x.ndim)), initial=start)


def gather(params: Params, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Slices of `x` at starts that `indices` hold along its last axis."""
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    mode = str(params["mode"]).lower()
    batch = indices.shape[:-1]
    taken = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    kept = [d for d in range(x.ndim) if d not in taken]
    rank, valid, places = len(batch) + len(kept), np.ones(batch, bool), []
    for d in range(x.ndim):
        start = _starts(numbers, d, indices)
        inside = np.clip(start, 0, x.shape[d] - sizes[d])
        valid &= start == inside
        inside = inside.reshape(*inside.shape, *[1] * len(kept))
        offset = np.arange(sizes[d])
        if d in kept:
            offset = offset.reshape([-1 if k == d else 1 for k in kept])
        places.append(inside + (offset if d in kept else 0))
    out = x[tuple(np.broadcast_arrays(*places))] if places else x
    if "fill" in mode:
        fill = params["fill_value"]
        fill = (np.nan if x.dtype.kind == "f" else 0) if fill is None else fill
        out = np.where(valid.reshape(*batch, *[1] * len(kept)), out, fill)
    others = [d for d in range(rank) if d not in numbers.offset_dims]
    return np.moveaxis(out, range(rank), (*others, *numbers.offset_dims))


def _starts(numbers: Any, d: int, indices: np.ndarray) -> np.ndarray:
    """Returns where slices start along axis `d`, of the indices' batch shape."""
    batch = indices.shape[:-1]
    if d in numbers.start_index_map:
        return indices[..., numbers.start_index_map.index(d)]
    if d in numbers.operand_batching_dims:
        which = numbers.operand_batching_dims.index(d)
        axis = numbers.start_indices_batching_dims[which]
        shape = [-1 if a == axis else 1 for a in range(len(batch))]
        return np.broadcast_to(np.arange(batch[axis]).reshape(shape), batch)
    return np.zeros(batch, np.int64)


def clamped(x: np.ndarray, starts: Any, sizes: Sequence[int]) -> tuple[slice, ...]:
    """Returns the slices of `sizes` at `starts`, moved to lie within `x`."""
    found = []
    for n, start, size in zip(x.shape, starts, sizes, strict=True):
        low = int(np.clip(start, 0, n - size))
        found.append(slice(low, low + size))
    return tuple(found)
