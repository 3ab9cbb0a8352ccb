"""The operators that compaction understands: how each ties axes, how it runs smaller.

An operator that is not here keeps everything it touches.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gap.compaction.ties import Sum, Ties, place, tie_reshape
from graph import COMPOSITES, Node, Value

Keep = Mapping[tuple[Value, int], np.ndarray]
"""The kept indices of the axes that lose any."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """What compaction knows of an operator.

    Attributes:
      tie: adds the ties of a node.
      params: the operator's parameters once axes have lost indices, None where they
        do not depend on sizes.
    """

    tie: Callable[[Node, Ties], None]
    params: Callable[[Node, Keep], dict[str, Any]] | None = None


def size(keep: Keep, value: Value, axis: int) -> int:
    """Returns how many indices of an axis are kept."""
    found = keep.get((value, axis))
    return value.shape[axis] if found is None else len(found)


def run(node: Node, operands: list[Any], keep: Keep) -> list[Any]:
    """Returns the results of a node for operands that have lost indices."""
    if node.op in _COMPOSITES and node.body is not None:
        return [COMPOSITES[node.op](*operands)]  # with its own derivative
    rule = OPERATORS.get(node.op)
    if rule is None or rule.params is None:
        return node(*operands)
    changed = {**node.params, **rule.params(node, keep)}
    return dataclasses.replace(node, params=changed)(*operands)


def _tie_elementwise(node: Node, ties: Ties) -> None:
    for out in node.outputs:
        for value in node.inputs:
            if value.shape:
                ties.same(node, value, out, range(len(out.shape)))


def _tie_broadcast(node: Node, ties: Ties) -> None:
    value, out = node.inputs[0], node.outputs[0]
    ties.same(node, value, out, node.params["broadcast_dimensions"])


def _tie_transpose(node: Node, ties: Ties) -> None:
    value, out = node.inputs[0], node.outputs[0]
    for j, i in enumerate(node.params["permutation"]):
        ties.link((value, i), (out, j))


def _tie_rev(node: Node, ties: Ties) -> None:
    value, out = node.inputs[0], node.outputs[0]
    for i, n in enumerate(value.shape):
        mirrored = np.arange(n)[::-1] if i in node.params["dimensions"] else None
        ties.link((value, i), (out, i), None, mirrored)


def _tie_slice(node: Node, ties: Ties) -> None:
    value, out = node.inputs[0], node.outputs[0]
    strides = node.params["strides"] or (1,) * len(value.shape)
    for i, (low, step) in enumerate(
        zip(node.params["start_indices"], strides, strict=True)
    ):
        taken = int(low) + int(step) * np.arange(out.shape[i])
        if value.shape[i] != out.shape[i]:
            ties.sized += [(value, i), (out, i)]
        ties.link((value, i), (out, i), taken, np.arange(out.shape[i]))
        if step != 1:
            ties.pin((value, i), f"{place(node)} strides over it")


def _slice(node: Node, keep: Keep) -> dict[str, Any]:
    value, out = node.inputs[0], node.outputs[0]
    starts, limits = [*node.params["start_indices"]], [*node.params["limit_indices"]]
    for i in range(len(value.shape)):
        kept = keep.get((value, i))
        if kept is not None:
            starts[i] = int(np.sum(kept < starts[i]))
            limits[i] = starts[i] + size(keep, out, i)
    return {"start_indices": tuple(starts), "limit_indices": tuple(limits)}


def _tie_pad(node: Node, ties: Ties) -> None:
    value, out = node.inputs[0], node.outputs[0]
    for i, (low, high, interior) in enumerate(node.params["padding_config"]):
        if low or high or interior:
            ties.sized += [(value, i), (out, i)]
        if min(low, high) < 0 or interior:
            ties.pin((value, i), f"{place(node)} crops or spreads it")
            ties.pin((out, i), f"{place(node)} crops or spreads it")
            continue
        at = np.arange(value.shape[i])
        ties.link((value, i), (out, i), at, at + int(low))


def _pad(node: Node, keep: Keep) -> dict[str, Any]:
    value, out = node.inputs[0], node.outputs[0]
    config = [tuple(map(int, each)) for each in node.params["padding_config"]]
    for i, (low, _, interior) in enumerate(config):
        kept = keep.get((out, i))
        if kept is not None:
            before = int(np.sum(kept < low))
            after = int(np.sum(kept >= low + value.shape[i]))
            config[i] = (before, after, interior)
    return {"padding_config": tuple(config)}


def _tie_concatenate(node: Node, ties: Ties) -> None:
    (out,), along, start = node.outputs, node.params["dimension"], 0
    for value in node.inputs:
        for i, n in enumerate(value.shape):
            at = np.arange(n)
            ties.link((value, i), (out, i), at, at + start if i == along else at)
        start += value.shape[along]
        ties.sized.append((value, along))
    ties.sized.append((out, along))


def _tie_split(node: Node, ties: Ties) -> None:
    (value,), along, start = node.inputs, node.params["axis"], 0
    for out in node.outputs:
        for i, n in enumerate(out.shape):
            at = np.arange(n)
            ties.link((value, i), (out, i), at + start if i == along else at, at)
        start += out.shape[along]
        ties.sized.append((out, along))
    ties.sized.append((value, along))


def _split(node: Node, keep: Keep) -> dict[str, Any]:
    along = node.params["axis"]
    return {"sizes": tuple(size(keep, out, along) for out in node.outputs)}


def _tie_without(node: Node, ties: Ties, axes: tuple[int, ...]) -> None:
    """Ties the axes that are left when `axes` of the operands are dropped."""
    for value in node.inputs:
        left = [i for i in range(len(value.shape)) if i not in axes]
        for out in node.outputs:
            for j, i in enumerate(left):
                ties.link((value, i), (out, j))


def _tie_squeeze(node: Node, ties: Ties) -> None:
    rank = len(node.inputs[0].shape)
    _tie_without(node, ties, tuple(d % rank for d in node.params["dimensions"]))


def _tie_reduction(node: Node, ties: Ties) -> None:
    axes = tuple(map(int, node.params["axes"]))
    _tie_without(node, ties, axes)
    for i in axes:
        ties.slide((node.inputs[0], i), f"{place(node)} runs over it")


def _tie_reduce_sum(node: Node, ties: Ties) -> None:
    axes = tuple(map(int, node.params["axes"]))
    _tie_without(node, ties, axes)
    for i in axes:
        ties.sums.append(Sum(node, ((node.inputs[0], i),), (None,)))


def _tie_along(name: str) -> Callable[[Node, Ties], None]:
    """Ties operators that run along one axis and leave the others alone."""

    def tie(node: Node, ties: Ties) -> None:
        rank = len(node.inputs[0].shape)
        along = int(node.params.get(name, -1)) % rank
        for value in node.inputs:
            for i in range(rank):
                for out in node.outputs:
                    if i != along:
                        ties.link((value, i), (out, i))
                    else:
                        ties.slide((value, i), f"{place(node)} runs along it")
                        ties.slide((out, i), f"{place(node)} runs along it")

    return tie


def _tie_window(node: Node, ties: Ties) -> None:
    value, out = node.inputs[0], node.outputs[0]
    sides = zip(
        node.params["window_dimensions"],
        node.params["window_strides"],
        node.params["padding"],
        node.params["base_dilation"],
        strict=True,
    )
    for i, (window, stride, padding, dilation) in enumerate(sides):
        if window == stride == dilation == 1 and not any(padding):
            ties.link((value, i), (out, i))
        else:
            ties.slide((value, i), f"{place(node)} slides over it")
            ties.slide((out, i), f"{place(node)} slides over it")


def _tie_dot(node: Node, ties: Ties) -> None:
    sums, batches = node.params["dimension_numbers"]
    (out,), position = node.outputs, len(batches[0])
    for j, (a, b) in enumerate(zip(*batches, strict=True)):
        ties.link((node.inputs[0], a), (out, j))
        ties.link((node.inputs[1], b), (out, j))
    free: list[Any] = []
    for value, own in zip(node.inputs, zip(sums, batches, strict=True), strict=True):
        left = [i for i in range(len(value.shape)) if i not in (*own[0], *own[1])]
        for i in left:
            ties.link((value, i), (out, position))
            position += 1
        free.append((value, left[0]) if len(left) == 1 else None)
    for a, b in zip(*sums, strict=True):
        ends = ((node.inputs[0], a), (node.inputs[1], b))
        ties.link(*ends)
        ties.sums.append(Sum(node, ends, tuple(free)))


def _tie_convolution(node: Node, ties: Ties) -> None:
    numbers, groups = node.params["dimension_numbers"], node.params
    images, kernel = node.inputs
    (out,) = node.outputs
    if groups["batch_group_count"] != 1:
        ties.pin_all(node, f"{place(node)} groups the batch")
        return
    in_spec, kernel_spec, out_spec = numbers
    ties.link((images, in_spec[0]), (out, out_spec[0]))
    for value, spec in ((images, in_spec), (kernel, kernel_spec), (out, out_spec)):
        for i in spec[2:]:
            ties.slide((value, i), f"{place(node)} slides over it")
    ties.link((kernel, kernel_spec[0]), (out, out_spec[1]))
    channels, filters = (images, in_spec[1]), (kernel, kernel_spec[0])
    inner, count = (kernel, kernel_spec[1]), groups["feature_group_count"]
    if count == 1:
        ties.link(channels, inner)
        ties.sums.append(Sum(node, (channels, inner), (None, filters)))
        return
    ties.pin(inner, f"{place(node)} has groups")
    # A group stays or goes whole: its channels and its filters are one.
    n, m = images.shape[in_spec[1]], kernel.shape[kernel_spec[0]]
    first = np.arange(count) * (n // count)
    ties.link(channels, channels, np.repeat(first, n // count), np.arange(n))
    ties.link(channels, filters, np.repeat(first, m // count), np.arange(m))


def _convolution(node: Node, keep: Keep) -> dict[str, Any]:
    count = node.params["feature_group_count"]
    if count == 1:
        return {}
    channels = node.params["dimension_numbers"].lhs_spec[1]
    whole = node.inputs[0].shape[channels]
    left = size(keep, node.inputs[0], channels)
    return {"feature_group_count": left * count // whole}


def _tie_gather(node: Node, ties: Ties) -> None:
    """Axes that a gather copies whole, such as the features of an embedding."""
    numbers, sizes = node.params["dimension_numbers"], node.params["slice_sizes"]
    value, indices, out = *node.inputs, node.outputs[0]
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    left = [i for i in range(len(value.shape)) if i not in gone]
    where = dict(zip(left, numbers.offset_dims, strict=True))
    for i, n in enumerate(value.shape):
        if i in where and sizes[i] == n and i not in numbers.start_index_map:
            ties.link((value, i), (out, where[i]))
            continue
        ties.pin((value, i), f"{place(node)} picks from it")
        if i in where:
            ties.pin((out, where[i]), f"{place(node)} picks from it")
    for i in range(len(indices.shape)):
        ties.pin((indices, i), f"{place(node)} picks by it")
    for j in range(len(out.shape)):
        if j not in numbers.offset_dims:
            ties.pin((out, j), f"{place(node)} picks by it")


def _gather(node: Node, keep: Keep) -> dict[str, Any]:
    value, sizes = node.inputs[0], [*node.params["slice_sizes"]]
    for i in range(len(sizes)):
        if (value, i) in keep:
            sizes[i] = size(keep, value, i)
    return {"slice_sizes": tuple(sizes)}


def _tie_dynamic_slice(node: Node, ties: Ties) -> None:
    value, out = node.inputs[0], node.outputs[0]
    for i, n in enumerate(value.shape):
        if out.shape[i] == n:
            ties.link((value, i), (out, i))
        else:
            ties.pin((value, i), f"{place(node)} picks from it")
            ties.pin((out, i), f"{place(node)} picks from it")


def _out_sizes(name: str) -> Callable[[Node, Keep], dict[str, Any]]:
    def params(node: Node, keep: Keep) -> dict[str, Any]:
        out = node.outputs[0]
        return {name: tuple(size(keep, out, i) for i in range(len(out.shape)))}

    return params


ELEMENTWISE = frozenset(
    {
        *("add", "add_any", "sub", "mul", "div", "rem", "neg", "max", "min", "pow"),
        *("integer_pow", "abs", "sign", "exp", "exp2", "expm1", "log", "log1p"),
        *("sqrt", "rsqrt", "cbrt", "square", "sin", "cos", "tan", "asin", "acos"),
        *("atan", "atan2", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh"),
        *("erf", "erfc", "erf_inv", "logistic", "floor", "ceil", "round"),
        *("is_finite", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "xor", "not"),
        *("clamp", "select_n", "convert_element_type", "reduce_precision"),
        *("stop_gradient", "copy", "copy_p", "name", "real", "nextafter"),
        *("relu", "softplus"),
    }
)
"""Operators that treat every element alike, whatever its index."""

_COMPOSITES = ("relu", "softplus")

OPERATORS: dict[str, Rule] = {
    **{name: Rule(_tie_elementwise) for name in ELEMENTWISE},
    "broadcast_in_dim": Rule(_tie_broadcast, _out_sizes("shape")),
    "reshape": Rule(tie_reshape, _out_sizes("new_sizes")),
    "transpose": Rule(_tie_transpose),
    "squeeze": Rule(_tie_squeeze),
    "rev": Rule(_tie_rev),
    "slice": Rule(_tie_slice, _slice),
    "pad": Rule(_tie_pad, _pad),
    "concatenate": Rule(_tie_concatenate),
    "split": Rule(_tie_split, _split),
    "gather": Rule(_tie_gather, _gather),
    "dynamic_slice": Rule(_tie_dynamic_slice, _out_sizes("slice_sizes")),
    "reduce_sum": Rule(_tie_reduce_sum),
    "dot_general": Rule(_tie_dot),
    "conv_general_dilated": Rule(_tie_convolution, _convolution),
    **{
        f"reduce_{name}": Rule(_tie_reduction)
        for name in ("max", "min", "prod", "and", "or")
    },
    **{name: Rule(_tie_reduction) for name in ("argmax", "argmin")},
    **{
        name: Rule(_tie_along("axis"))
        for name in ("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp")
    },
    "sort": Rule(_tie_along("dimension")),
    **{f"reduce_window_{name}": Rule(_tie_window) for name in ("sum", "max", "min")},
}
"""Every operator that compaction understands, by name."""
