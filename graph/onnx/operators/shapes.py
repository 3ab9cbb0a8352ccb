"""Operators that move elements without changing them."""

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from graph.onnx.registry import Apply, Call, Site, is_static, namespace, operator


@operator("Reshape", inputs=(1, 2), rows="own", folds=True)
def reshape(site: Site) -> Apply:
    """To a target shape, where 0 keeps a length and -1 stands for what is left."""
    stated = site.integers("shape") if site.opset < 5 else None
    keep = not site.flag("allowzero")

    def apply(call: Call, x: Any, target: Any) -> Any:
        shape = stated
        if shape is None:
            shape = call.static_ints(target, "shape")
        if keep:
            if any(n == 0 and i >= x.ndim for i, n in enumerate(shape)):
                raise call.bad(f"target {list(shape)}", "0 only for axes there are")
            shape = [x.shape[i] if n == 0 else n for i, n in enumerate(shape)]
        if call.rows and not is_static(x):
            shape = _rows_shape(call, list(shape), tuple(x.shape))
        shape = _complete(call, shape, x.size)
        return namespace(x).reshape(x, shape)

    return apply


def _complete(call: Call, shape: Sequence[int], size: int) -> tuple[int, ...]:
    """The target with -1 replaced, checked against the number of elements."""
    rest = math.prod(n for n in shape if n != -1)
    if list(shape).count(-1) > 1 or any(n < -1 for n in shape):
        raise call.bad(f"target {list(shape)}", "lengths, with at most one -1")
    if -1 in shape:
        lengths = tuple(size // max(rest, 1) if n == -1 else n for n in shape)
    else:
        lengths = tuple(shape)
    if math.prod(lengths) != size:
        raise call.bad(f"target {list(shape)}", f"the shape of {size} elements")
    return lengths


def _rows_shape(call: Call, shape: list[int], given: tuple[int, ...]) -> list[int]:
    """The target for a batch, from the target for one example."""
    rows = given[0]
    size = math.prod(given[1:])
    rest = math.prod(n for n in shape[1:] if n != -1)
    whole = rest == size if -1 not in shape[1:] else rest > 0 and size % rest == 0
    fits = bool(shape) and shape[0] in (1, rows, -1) and whole
    call.mix(not fits or (shape[0] == -1 and -1 in shape[1:]))
    return [rows, *shape[1:]] if fits else shape


@operator("Flatten", rows="first")
def flatten(site: Site) -> Apply:
    """To a matrix: the axes before `axis` are its rows, the others its columns."""
    axis = site.integer("axis", 1)

    def apply(call: Call, x: Any) -> Any:
        first = axis + x.ndim if axis < 0 else axis
        if not 0 <= first <= x.ndim:
            raise call.bad(f"axis {axis} of {x.ndim}", "an axis")
        call.mix(first != 1)
        shape = (math.prod(x.shape[:first]), math.prod(x.shape[first:]))
        return namespace(x).reshape(x, shape)

    return apply


@operator("Transpose", rows="first", folds=True)
def transpose(site: Site) -> Apply:
    """The axes in another order, by default reversed."""
    order = site.integers("perm", low=0)

    def apply(call: Call, x: Any) -> Any:
        axes = tuple(reversed(range(x.ndim))) if order is None else order
        axes = call.axes(axes, x.ndim)
        if len(axes) != x.ndim:
            raise call.bad(f"perm {list(axes)}", f"an order of {x.ndim} axes")
        call.mix(axes[:1] != (0,))
        return namespace(x).transpose(x, axes)

    return apply


def _listed(site: Site, name: str, since: int) -> tuple[int, ...] | None:
    """Axes that are an attribute before a version and an operand from then on."""
    return site.integers(name) if site.opset < since else None


@operator("Squeeze", inputs=(1, 2), rows="first", folds=True)
def squeeze(site: Site) -> Apply:
    """Without axes of length 1, all of them or the given ones."""
    stated = _listed(site, "axes", 13)

    def apply(call: Call, x: Any, given: Any) -> Any:
        axes = stated if given is None else call.static_ints(given, "axes")
        if not axes:
            call.mix()  # one example has one more such axis than a batch
            axes = tuple(i for i, n in enumerate(x.shape) if n == 1)
        axes = call.axes(axes, x.ndim)
        call.mix(0 in axes)
        if any(x.shape[a] != 1 for a in axes):
            raise call.bad(f"axes {axes} of {list(x.shape)}", "axes of length 1")
        shape = [n for i, n in enumerate(x.shape) if i not in axes]
        return namespace(x).reshape(x, shape)

    return apply


@operator("Unsqueeze", inputs=(1, 2), rows="first", folds=True)
def unsqueeze(site: Site) -> Apply:
    """With axes of length 1 put in at given places of the result."""
    stated = _listed(site, "axes", 13)

    def apply(call: Call, x: Any, given: Any) -> Any:
        axes = stated if given is None else call.static_ints(given, "axes")
        if axes is None:
            raise call.bad("no axes", "axes")
        axes = call.axes(axes, x.ndim + len(axes))
        call.mix(0 in axes)
        lengths = iter(x.shape)
        rank = x.ndim + len(axes)
        shape = [1 if i in axes else next(lengths) for i in range(rank)]
        return namespace(x).reshape(x, shape)

    return apply


@operator("Concat", inputs=(1, None), rows="all", folds=True)
def concat(site: Site) -> Apply:
    """Operands side by side along an axis."""
    axis = site.integer("axis", 1 if site.opset < 4 else None)

    def apply(call: Call, *operands: Any) -> Any:
        along = call.axis(axis, operands[0].ndim)
        call.mix(along == 0)
        total = sum(x.shape[along] for x in operands)
        shape = list(operands[0].shape)
        call.check_size([*shape[:along], total, *shape[along + 1 :]])
        if is_static(*operands):
            return np.concatenate(operands, along)
        typed = next(x for x in operands if not is_static(x))
        return jnp.concatenate([call.like(x, typed) for x in operands], along)

    return apply


@operator("Expand", inputs=(2, 2), folds=True)
def expand(_: Site) -> Apply:
    """Broadcast together with a shape."""

    def apply(call: Call, x: Any, target: Any) -> Any:
        wanted = call.static_ints(target, "shape")
        call.check_size(wanted)
        shape = np.broadcast_shapes(tuple(x.shape), wanted)
        call.check_size(shape)
        call.mix(len(shape) != x.ndim or shape[0] != x.shape[0])
        return _broadcast(x, shape)

    return apply


def _broadcast(x: Any, shape: tuple[int, ...]) -> Any:
    xp = namespace(x)
    full = xp.reshape(x, (1,) * (len(shape) - x.ndim) + tuple(x.shape))
    wide = xp.broadcast_to(full, shape)
    return np.ascontiguousarray(wide) if xp is np else wide


@operator("Tile", inputs=(2, 2), rows="first", folds=True)
def tile(_: Site) -> Apply:
    """Copies side by side, a number of them for every axis."""

    def apply(call: Call, x: Any, repeats: Any) -> Any:
        counts = call.static_ints(repeats, "repeats")
        if len(counts) != x.ndim or any(n < 0 for n in counts):
            raise call.bad(f"repeats {counts}", f"{x.ndim} counts")
        call.check_size([n * c for n, c in zip(x.shape, counts, strict=True)])
        call.mix(counts[:1] != (1,))
        return namespace(x).tile(x, counts)

    return apply


def _blocks(site: Site) -> int:
    return site.integer("blocksize", low=1)


@operator("DepthToSpace", rows="first")
def depth_to_space(site: Site) -> Apply:
    """Blocks of channels become blocks of pixels."""
    block = _blocks(site)
    deep = site.text("mode", "DCR", ("DCR", "CRD")) == "DCR"

    def apply(_: Call, x: Any) -> Any:
        n, c, h, w = x.shape
        part = c // (block * block)
        if deep:
            x = jnp.reshape(x, (n, block, block, part, h, w))
            x = jnp.transpose(x, (0, 3, 4, 1, 5, 2))
        else:
            x = jnp.reshape(x, (n, part, block, block, h, w))
            x = jnp.transpose(x, (0, 1, 4, 2, 5, 3))
        return jnp.reshape(x, (n, part, h * block, w * block))

    return apply


@operator("SpaceToDepth", rows="first")
def space_to_depth(site: Site) -> Apply:
    """Blocks of pixels become blocks of channels."""
    block = _blocks(site)

    def apply(_: Call, x: Any) -> Any:
        n, c, h, w = x.shape
        x = jnp.reshape(x, (n, c, h // block, block, w // block, block))
        x = jnp.transpose(x, (0, 3, 5, 1, 2, 4))
        return jnp.reshape(x, (n, c * block * block, h // block, w // block))

    return apply
