"""Resize and Upsample by the nearest element."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from graph.onnx._refuse import MAX_INDICES
from graph.onnx.operators.indexing import take
from graph.onnx.registry import Apply, Call, Site, operator

_PLACES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
_ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")

TIE = 1e-6
"""How close to the middle of two elements onnxruntime takes a coordinate for it."""


@operator("Upsample", inputs=(1, 2), rows="first")
def upsample(site: Site) -> Apply:
    """Every element as often as the scales say."""
    site.text("mode", "nearest", ("nearest",))
    stated = site.attribute("scales") if site.opset < 9 else None

    def apply(call: Call, x: Any, given: Any) -> Any:
        scales = stated if given is None else call.static(given, "scales").reshape(-1)
        if scales is None:
            raise call.bad("no scales", "scales")
        factors, sizes = _sizes(call, x, scales, None, range(x.ndim))
        return _resize(call, x, factors, sizes, "asymmetric", "simple")

    return apply


@operator("Resize", inputs=(1, 4), rows="first")
def resize(site: Site) -> Apply:
    """The nearest element, where coordinates and rounding are chosen by name."""
    site.text("mode", "nearest", ("nearest",))
    places = site.text("coordinate_transformation_mode", "half_pixel", _PLACES)
    rounding = site.text("nearest_mode", "round_prefer_floor", _ROUNDINGS)
    site.text("keep_aspect_ratio_policy", "stretch", ("stretch",))
    along = site.integers("axes")
    if site.flag("antialias"):
        raise site.bad("antialias = 1", "no filter before sampling")
    # Neither filter, nor cropping, nor values outside apply to the nearest element.
    site.ignore("cubic_coeff_a", "exclude_outside", "extrapolation_value")
    old = site.opset < 11

    def apply(call: Call, x: Any, second: Any, third: Any, fourth: Any) -> Any:
        scales, sizes = (second, None) if old else (third, fourth)
        axes = call.axes(range(x.ndim) if along is None else along, x.ndim)
        lengths = None
        if sizes is not None and call.static(sizes, "sizes").size:
            lengths = call.static_ints(sizes, "sizes")
        factors = None if scales is None else call.static(scales, "scales").reshape(-1)
        factors, shape = _sizes(call, x, factors, lengths, axes)
        how = ("asymmetric", "simple") if old else (places, rounding)
        return _resize(call, x, factors, shape, *how)

    return apply


def _sizes(
    call: Call, x: Any, scales: Any, lengths: Any, axes: Sequence[int]
) -> tuple[list[float], list[int]]:
    """The factor and the length of every axis, from scales or lengths of some."""
    given = scales if lengths is None else lengths
    if given is None or len(given) != len(axes):
        raise call.bad("scales or sizes", f"one for each of {len(axes)} axes")
    factors, shape = [1.0] * x.ndim, list(x.shape)
    for axis, value in zip(axes, given, strict=True):
        n = x.shape[axis]
        if lengths is None:
            if not 0 < value < 2**31:
                raise call.bad(f"a scale of {value}", "a positive number")
            factors[axis], shape[axis] = float(value), int(np.floor(n * value))
        else:
            factors[axis], shape[axis] = value / max(n, 1), int(value)
    call.check_size(shape)
    call.check_size([max(shape, default=0)], MAX_INDICES)
    return factors, shape


def _resize(
    call: Call, x: Any, factors: list[float], shape: list[int], place: str, how: str
) -> Any:
    call.mix(shape[:1] != list(x.shape[:1]))
    x = jnp.asarray(x)
    if shape == list(x.shape):  # onnxruntime copies, whatever the scales round to
        return x
    for axis, (factor, size) in enumerate(zip(factors, shape, strict=True)):
        n = x.shape[axis]
        chosen = _nearest(n, size, factor, place, how)
        times = size // max(n, 1)
        if np.array_equal(chosen, np.arange(n)):
            continue
        if np.array_equal(chosen, np.repeat(np.arange(n), times)):
            x = _repeat(x, axis, times)  # plainer than a gather
        else:
            x = take(x, chosen, axis)
    return x


def _repeat(x: Any, axis: int, times: int) -> Any:
    before, after = x.shape[: axis + 1], x.shape[axis + 1 :]
    wide = jnp.broadcast_to(
        jnp.reshape(x, (*before, 1, *after)), (*before, times, *after)
    )
    return jnp.reshape(wide, (*before[:-1], before[-1] * times, *after))


def _nearest(n: int, size: int, factor: float, place: str, how: str) -> np.ndarray:
    """The index that each of `size` results takes of `n` elements.

    How is a `nearest_mode`; or "simple", onnxruntime's before there were any: floor
    where the axis grows, ceil where it shrinks.
    """
    # onnxruntime computes coordinates in float32, which decides ties.
    at = np.arange(size, dtype=np.float32)
    scale = np.float32(factor)
    if place == "asymmetric":
        where = at / scale
    elif place == "align_corners":
        where = at * np.float32(n - 1) / np.float32(max(size - 1, 1))
    elif place == "pytorch_half_pixel" and size <= 1:
        where = np.zeros_like(at)
    else:
        where = (at + np.float32(0.5)) / scale - np.float32(0.5)
    if how in ("round_prefer_floor", "round_prefer_ceil"):
        low = np.floor(where)
        over = where - low - np.float32(0.5)
        is_tie = np.abs(over) < TIE
        chosen = low + np.where(is_tie, how == "round_prefer_ceil", over > 0)
    elif how == "simple":
        chosen = np.ceil(where) if scale < 1 else np.floor(where)
    else:
        chosen = np.floor(where) if how == "floor" else np.ceil(where)
    return np.clip(chosen, 0, n - 1).astype(np.int64)
