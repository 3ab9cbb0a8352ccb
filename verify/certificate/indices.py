"""Which elements of its operands an operator picks: index arrays, -1 for none."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from core.errors import GraphError, describe
from graph import Node

_RESHAPES = frozenset(["reshape", "squeeze", "expand_dims"])
_COPIES = {"copy", "copy_p", "convert_element_type", "stop_gradient", "real"} | {
    "optimization_barrier"
}
PICKING = _RESHAPES | _COPIES | {"transpose", "broadcast_in_dim", "slice", "rev"}
"""Operators of one operand that pick an element for each of their outputs."""


def picked(node: Node) -> np.ndarray:
    """Returns for each output of a picking operator the flat index it picks."""
    value, params = node.inputs[0], node.params
    x = numbered(value.shape)
    if node.op == "transpose":
        x = x.transpose(params["permutation"])
    elif node.op == "broadcast_in_dim":
        x = broadcast(x, params["shape"], params["broadcast_dimensions"])
    elif node.op == "slice":
        strides = params["strides"] or (1,) * x.ndim
        ends = zip(
            params["start_indices"], params["limit_indices"], strides, strict=True
        )
        x = x[tuple(slice(*each) for each in ends)]
    elif node.op == "rev":
        x = np.flip(x, params["dimensions"])
    elif node.params.get("dimensions") is not None and node.op == "reshape":
        raise unsupported(node, "a reshape that permutes")
    return x.reshape(node.outputs[0].shape)


def numbered(shape: tuple[int, ...]) -> np.ndarray:
    """Returns 0, 1, .. in an array of a shape."""
    return np.arange(int(np.prod(shape))).reshape(shape)


def broadcast(x: np.ndarray, shape: Any, dimensions: Any) -> np.ndarray:
    """Returns `x` with its axes at `dimensions` of `shape`, and repeated."""
    wide = [1] * len(shape)
    for axis, at in enumerate(dimensions):
        wide[at] = x.shape[axis]
    return np.broadcast_to(x.reshape(wide), shape)


def padded(x: np.ndarray, config: Any, fill: int = -1) -> np.ndarray:
    """Returns `x` padded as lax.pad does: (before, after, between) of each axis."""
    for axis, (before, after, between) in enumerate(config):
        size = x.shape[axis]
        shape = list(x.shape)
        shape[axis] = size + max(size - 1, 0) * between
        wide = np.full(shape, fill, x.dtype)
        np.moveaxis(wide, axis, 0)[:: between + 1] = np.moveaxis(x, axis, 0)
        widths = [(0, 0)] * x.ndim
        widths[axis] = (max(before, 0), max(after, 0))
        wide = np.pad(wide, widths, constant_values=fill)
        stop = wide.shape[axis] - max(-after, 0)
        at = [slice(None)] * x.ndim
        at[axis] = slice(max(-before, 0), stop)
        x = wide[tuple(at)]
    return x


def summed(node: Node) -> np.ndarray:
    """Returns what reduce_sum adds, [taps, *output shape]."""
    axes = sorted(node.params["axes"])
    x = numbered(node.inputs[0].shape)
    x = np.moveaxis(x, axes, range(len(axes)))
    return x.reshape(-1, *node.outputs[0].shape)


def windows(node: Node) -> np.ndarray:
    """Returns what reduce_window_sum adds, [taps, *output shape]."""
    params, shape = node.params, node.outputs[0].shape
    size = params["window_dimensions"]
    config = [
        (low, high, base - 1)
        for (low, high), base in zip(
            params["padding"], params["base_dilation"], strict=True
        )
    ]
    x = padded(numbered(node.inputs[0].shape), config)
    taps = []
    for tap in itertools.product(*map(range, size)):
        at = tuple(
            slice(t * dilation, t * dilation + (n - 1) * stride + 1, stride)
            for t, dilation, n, stride in zip(
                tap,
                params["window_dilation"],
                shape,
                params["window_strides"],
                strict=True,
            )
        )
        taps.append(x[at])
    return np.stack(taps)


def gathered(node: Node, indices: np.ndarray) -> np.ndarray:
    """Returns the flat index of its first operand that each output of gather picks.

    Args:
      node: a gather.
      indices: its second operand, integers; the last axis holds index vectors.

    Raises:
      GraphError: batching axes, or an index that is out of bounds and not clipped.
    """
    params, value = node.params, node.inputs[0]
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    if getattr(numbers, "operand_batching_dims", ()):
        raise unsupported(node, "batching axes")
    last = np.array([n - s for n, s in zip(value.shape, sizes, strict=True)])
    to = list(numbers.start_index_map)
    clipped = np.clip(indices, 0, last[to])
    mode = str(params.get("mode", "")).lower()
    if "clip" not in mode and (clipped != indices).any():
        raise unsupported(node, "an index out of bounds")
    batch = indices.shape[:-1]
    start = np.zeros((*batch, value_rank(node)), np.int64)
    start[..., to] = clipped
    kept = [a for a in range(value_rank(node)) if a not in numbers.collapsed_slice_dims]
    offset = np.stack(
        np.meshgrid(*(np.arange(s) for s in sizes), indexing="ij"), axis=-1
    ).reshape(*(sizes[a] for a in kept), value_rank(node))
    start = start.reshape(*batch, *(1,) * len(kept), value_rank(node))
    at = start + offset
    strides = np.array(
        [int(np.prod(value.shape[a + 1 :])) for a in range(value_rank(node))]
    )
    flat = (at * strides).sum(-1)
    rank = flat.ndim
    outer = [a for a in range(rank) if a not in numbers.offset_dims]
    order = [*outer, *numbers.offset_dims]
    return flat.transpose(np.argsort(order))


def value_rank(node: Node) -> int:
    """Returns how many axes the first operand has."""
    return len(node.inputs[0].shape)


def sliced(node: Node, starts: np.ndarray) -> np.ndarray:
    """Returns the flat indices that dynamic_slice picks, from clipped starts."""
    shape, sizes = node.inputs[0].shape, node.params["slice_sizes"]
    at = []
    for start, n, size in zip(starts, shape, sizes, strict=True):
        first = int(np.clip(int(start), 0, n - size))
        at.append(slice(first, first + size))
    return numbered(shape)[tuple(at)]


def unsupported(node: Node, what: str) -> GraphError:
    """Returns the error of an operator that a certificate cannot be checked for."""
    where = node.source or "an unknown line"
    return GraphError(
        f"certificate: {node.op} at {where}: "
        + describe(what, "what the checker computes itself", "See its manual.")
    )


def conv(node: Node) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns a convolution as a product of patches with a matrix, by groups.

    Returns:
      The flat input of each patch entry [G, M, K], the flat kernel entry [G, K, N], and
      for each flat output its place in [G, M, N].
    """
    params: Mapping[str, Any] = node.params
    if params["batch_group_count"] != 1:
        raise unsupported(node, "batch groups")
    numbers, groups = params["dimension_numbers"], params["feature_group_count"]
    x = numbered(node.inputs[0].shape).transpose(numbers.lhs_spec)
    kernel = numbered(node.inputs[1].shape).transpose(numbers.rhs_spec)
    config = [
        (low, high, dilation - 1)
        for (low, high), dilation in zip(
            params["padding"], params["lhs_dilation"], strict=True
        )
    ]
    x = padded(x, [(0, 0, 0), (0, 0, 0), *config])  # [batch, channel, *space]
    out, into, *window = kernel.shape
    shape = [node.outputs[0].shape[a] for a in numbers.out_spec]
    taps = []
    for tap in itertools.product(*map(range, window)):
        at = tuple(
            slice(t * dilation, t * dilation + (n - 1) * stride + 1, stride)
            for t, dilation, n, stride in zip(
                tap,
                params["rhs_dilation"],
                shape[2:],
                params["window_strides"],
                strict=True,
            )
        )
        taps.append(x[(slice(None), slice(None), *at)])
    patches = np.stack(taps, -1)  # [batch, channel, *space, taps]
    patches = patches.reshape(shape[0], groups, into, -1, len(taps))
    patches = patches.transpose(1, 0, 3, 2, 4).reshape(groups, -1, into * len(taps))
    matrix = kernel.reshape(groups, out // groups, -1).transpose(0, 2, 1)
    place = numbered((groups, patches.shape[1], out // groups))
    place = place.reshape(groups, shape[0], -1, out // groups).transpose(1, 0, 3, 2)
    place = place.reshape(shape).transpose(np.argsort(numbers.out_spec))
    return patches, matrix, place.ravel()


def dot(node: Node, moving: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns dot_general as a product with a matrix, in the form of `conv`.

    Args:
      node: a dot_general.
      moving: which of its two operands is the patches, the other is the matrix.
    """
    contract, batch = node.params["dimension_numbers"]
    order = []
    for side in (0, 1):
        shape = node.inputs[side].shape
        used = (*batch[side], *contract[side])
        free = [a for a in range(len(shape)) if a not in used]
        order.append((list(batch[side]), free, list(contract[side])))

    def arranged(side: int) -> np.ndarray:
        shape = node.inputs[side].shape
        sizes = [int(np.prod([shape[a] for a in axes])) for axes in order[side]]
        x = numbered(shape).transpose([a for axes in order[side] for a in axes])
        return x.reshape(sizes)

    left, right = arranged(moving), arranged(1 - moving)
    place = numbered((left.shape[0], left.shape[1], right.shape[1]))
    if moving == 1:  # the output holds the free axes of the first operand first
        place = place.transpose(0, 2, 1)
    return left, right.transpose(0, 2, 1), place.ravel()
