"""Pooling over windows, and over all of space."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from graph.onnx._refuse import MAX_INDICES
from graph.onnx.operators.convolution import Placed, fitting, read_window
from graph.onnx.registry import Apply, Call, Site, operator


def _spatial(call: Call, x: Any) -> Any:
    if x.ndim < 3:
        raise call.bad(f"data of rank {x.ndim}", "[N, C, ...]")
    return jnp.asarray(x, call.dtype) if isinstance(x, np.ndarray) else x


def _placed(
    call: Call, window: Placed, sizes: Any, ceil: bool
) -> tuple[list[tuple[int, int]], list[int]]:
    """The padding at both ends, and how much more at the end rounding up needs.

    A window that would start in the padding at the end is left out.
    """
    pads = fitting(call, window, sizes)
    more = []
    for n, k, s, d, (low, high) in zip(
        sizes, window.shape, window.strides, window.dilations, pads, strict=True
    ):
        left = n + low + high - (k - 1) * d - 1
        if not ceil or left < 0 or window.auto != "NOTSET":
            more.append(0)
            continue
        steps = -(-left // s)
        if steps * s >= n + low:
            steps -= 1
        more.append(max(steps * s - left, 0))
    return pads, more


def _reduce(x: Any, window: Placed, ends: list[tuple[int, int]], init: Any, fn: Any):
    return jax.lax.reduce_window(
        x,
        init,
        fn,
        (1, 1, *window.shape),
        (1, 1, *window.strides),
        ((0, 0), (0, 0), *ends),
        window_dilation=(1, 1, *window.dilations),
    )


@operator("MaxPool", rows="first")
def max_pool(site: Site) -> Apply:
    """The largest element of each window; padding never wins."""
    window = read_window(site)
    ceil = site.flag("ceil_mode")
    site.ignore("storage_order")  # of the indices, which are not supported
    shape = window.shape
    if shape is None:
        raise site.bad("no kernel_shape", "the window")

    def apply(call: Call, x: Any) -> Any:
        x = _spatial(call, x)
        moved = window.over(call, x.ndim - 2, shape)
        pads, more = _placed(call, moved, x.shape[2:], ceil)
        ends = [(low, high + m) for (low, high), m in zip(pads, more, strict=True)]
        return _reduce(x, moved, ends, -np.inf, jax.lax.max)

    return apply


@operator("AveragePool", rows="first")
def average_pool(site: Site) -> Apply:
    """The mean of each window, of its elements or of its padding too."""
    window = read_window(site)
    ceil = site.flag("ceil_mode")
    counted = site.flag("count_include_pad")
    shape = window.shape
    if shape is None:
        raise site.bad("no kernel_shape", "the window")

    def apply(call: Call, x: Any) -> Any:
        x = _spatial(call, x)
        moved = window.over(call, x.ndim - 2, shape)
        pads, more = _placed(call, moved, x.shape[2:], ceil)
        ends = [(low, high + m) for (low, high), m in zip(pads, more, strict=True)]
        total = _reduce(x, moved, ends, 0.0, jax.lax.add)
        if not any(low or high or m for (low, high), m in zip(pads, more, strict=True)):
            return total * (1.0 / math.prod(shape))
        call.check_size(total.shape[2:], MAX_INDICES)
        counts = _counts(moved, x.shape[2:], pads, total.shape[2:], counted)
        return total * (1.0 / counts).astype(x.dtype)[None, None]

    return apply


def _counts(window: Placed, sizes: Any, pads: Any, out: Any, counted: bool) -> Any:
    """How many elements the mean of each window is over, float64 of shape `out`."""
    found = np.ones((1,) * len(sizes))
    for axis, (n, (low, high), o) in enumerate(zip(sizes, pads, out, strict=True)):
        k, s, d = window.shape[axis], window.strides[axis], window.dilations[axis]
        first, last = (-low, n + high) if counted else (0, n)
        starts = np.arange(o) * s - low
        # Elements of the window are at start + d j, 0 <= j < k.
        under = np.clip(-((starts - first) // d), 0, k)
        until = np.clip(-((starts - last) // d), 0, k)
        each = np.maximum(until - under, 1).astype(np.float64)
        shape = [1] * len(sizes)
        shape[axis] = o
        found = found * each.reshape(shape)
    return found


def _axes(x: Any) -> tuple[int, ...]:
    return tuple(range(2, x.ndim))


@operator("GlobalAveragePool", rows="first")
def global_average_pool(_: Site) -> Apply:
    """The mean over all spatial axes, which stay with length 1."""

    def apply(call: Call, x: Any) -> Any:
        x = _spatial(call, x)
        total = jnp.sum(x, axis=_axes(x), keepdims=True)
        return total * (1.0 / max(math.prod(x.shape[2:]), 1))

    return apply


@operator("GlobalMaxPool", rows="first")
def global_max_pool(_: Site) -> Apply:
    """The largest element over all spatial axes, which stay with length 1."""

    def apply(call: Call, x: Any) -> Any:
        x = _spatial(call, x)
        return jnp.max(x, axis=_axes(x), keepdims=True)

    return apply
