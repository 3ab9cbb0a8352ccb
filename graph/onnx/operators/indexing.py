"""Parts of arrays by constant indices: Slice, Gather, Split, Pad."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from graph.onnx.registry import Apply, Call, Site, is_static, operator


@operator("Slice", inputs=(1, 5), rows="first", folds=True)
def slice_(site: Site) -> Apply:
    """From starts to ends in steps, along given axes; ends are clamped."""
    names = ("starts", "ends", "axes")
    stated = [
        site.integers(n, -(2**63), 2**63 - 1) if site.opset < 10 else None
        for n in names
    ]

    def apply(call: Call, x: Any, *operands: Any) -> Any:
        listed = [*stated, None]
        for i, (given, what) in enumerate(
            zip(operands, (*names, "steps"), strict=True)
        ):
            if given is not None:
                listed[i] = call.static_ints(given, what)
        starts, ends, axes, steps = listed
        if starts is None or ends is None:
            raise call.bad("no starts or ends", "both")
        axes = call.axes(range(len(starts)) if axes is None else axes, x.ndim)
        steps = (1,) * len(starts) if steps is None else steps
        parts = [slice(None)] * x.ndim
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            parts[axis] = slice(start, end, step)
        call.mix(0 in axes)
        return _part(x, parts)

    return apply


def _part(x: Any, parts: Sequence[slice]) -> Any:
    """Basic slicing, as `lax.slice` and a reversal where a step is negative."""
    if is_static(x):
        return np.ascontiguousarray(x[tuple(parts)])
    low, high, step, reverse = [], [], [], []
    for axis, (part, n) in enumerate(zip(parts, x.shape, strict=True)):
        found = range(*part.indices(n))
        if found.step < 0:
            reverse.append(axis)
            found = found[::-1]
        low.append(found.start if found else 0)
        high.append(found[-1] + 1 if found else 0)
        step.append(found.step)
    x = jax.lax.slice(x, low, high, step)
    return jax.lax.rev(x, reverse) if reverse else x


@operator("Split", inputs=(1, 2), outputs=None, rows="first", folds=True)
def split(site: Site) -> Apply:
    """Into parts along an axis, of given sizes or as equal as possible."""
    axis = site.integer("axis", 0)
    stated = site.integers("split", low=0) if site.opset < 13 else None
    parts = len(site.node.outputs)
    if site.opset >= 18 and site.integer("num_outputs", parts) != parts:
        raise site.bad("num_outputs", f"{parts}, as many as there are names")

    def apply(call: Call, x: Any, given: Any) -> Any:
        along = call.axis(axis, x.ndim)
        call.mix(along == 0)
        sizes = stated if given is None else call.static_ints(given, "sizes")
        length = x.shape[along]
        if sizes is None:
            most = -(-length // parts)
            sizes = (most,) * (parts - 1) + (length - most * (parts - 1),)
        if len(sizes) != parts or sum(sizes) != length or min(sizes) < 0:
            raise call.bad(f"sizes {sizes[:8]}", f"{parts} that add up to {length}")
        found, start = [], 0
        for size in sizes:
            cut = [slice(None)] * x.ndim
            cut[along] = slice(start, start + size)
            found.append(_part(x, cut))
            start += size
        return found

    return apply


@operator("Gather", inputs=(2, 2), rows="first", folds=True)
def gather(site: Site) -> Apply:
    """Elements along an axis by constant indices; a slice where these are a range."""
    axis = site.integer("axis", 0)
    site.param(0, "embedding")

    def apply(call: Call, x: Any, indices: Any) -> Any:
        along = call.axis(axis, x.ndim)
        call.mix(along == 0)
        chosen = call.static(indices, "indices")
        length = x.shape[along]
        if chosen.dtype.kind not in "iu" or np.any(
            (chosen < -length) | (chosen >= length)
        ):
            raise call.bad("an index outside", f"integers below {length}")
        chosen = np.where(chosen < 0, chosen + length, chosen)
        shape = (*x.shape[:along], *chosen.shape, *x.shape[along + 1 :])
        call.check_size(shape)
        if is_static(x):
            return np.take(x, chosen, along)
        return take(x, chosen.reshape(-1), along).reshape(shape)

    return apply


def take(x: Any, chosen: np.ndarray, axis: int) -> Any:
    """Returns `x` at indices in range; a slice where they have a constant step."""
    steps = np.diff(chosen)
    step = int(steps[0]) if steps.size else 1
    if chosen.size and step and np.all(steps == step):
        first, last = int(chosen[0]), int(chosen[-1])
        end = last + (1 if step > 0 else -1)
        cut = [slice(None)] * x.ndim
        cut[axis] = slice(first, None if end < 0 else end, step)
        return _part(x, cut)
    return jnp.take(x, chosen.astype(np.int32), axis=axis, mode="clip")


_MODES = {"constant": "constant", "reflect": "reflect", "edge": "edge"}


@operator("Pad", inputs=(1, 4), rows="first")
def pad(site: Site) -> Apply:
    """More elements at both ends of axes, or fewer where a number is negative."""
    mode = site.text("mode", "constant", tuple(_MODES))
    old = site.opset < 11
    name = "pads" if site.opset > 1 else "paddings"
    stated = site.integers(name) if old else None
    number = site.real("value", 0.0) if old else 0.0

    def apply(call: Call, x: Any, given: Any, value: Any, along: Any) -> Any:
        pads = stated if given is None else call.static_ints(given, "pads")
        axes = range(x.ndim) if along is None else call.static_ints(along, "axes")
        axes = call.axes(axes, x.ndim)
        if pads is None or len(pads) != 2 * len(axes):
            raise call.bad("pads", f"{2 * len(axes)} of them")
        widths = [(0, 0)] * x.ndim
        for axis, low, high in zip(
            axes, pads[: len(axes)], pads[len(axes) :], strict=True
        ):
            widths[axis] = (low, high)
        call.check_size(
            [max(n + sum(w), 0) for n, w in zip(x.shape, widths, strict=True)]
        )
        call.mix(widths[:1] != [(0, 0)])
        fill = number if value is None else call.static(value, "value").reshape(())
        x = jnp.asarray(x)
        if mode == "reflect" and any(
            max(w) >= n > 0 for n, w in zip(x.shape, widths, strict=True)
        ):
            raise call.bad("a reflection beyond the far end", "fewer than its length")
        if mode != "constant":
            return jnp.pad(x, widths, mode=_MODES[mode])
        return jax.lax.pad(x, np.asarray(fill, x.dtype), [(*w, 0) for w in widths])

    return apply
