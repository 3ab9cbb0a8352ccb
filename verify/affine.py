"""Affine operators: their linear part, its transpose, its absolute value.

An operator is affine here if it is so in the operands that the input reaches, whatever
the others are, and does not round to a narrower type. Its backward bound is the
transpose of its linear part, which JAX derives; convolutions have one of their own
because the derived one is slow on CPU.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from core.types import Array
from graph import Graph, Node, Value
from verify import convolution

_STRUCTURAL = frozenset(
    {
        *("reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims"),
        *("slice", "rev", "reduce_sum", "reduce_window_sum", "neg", "copy", "copy_p"),
        *("convert_element_type", "stop_gradient", "cumsum", "tile", "split"),
    }
)
_ADDITIVE = frozenset(["add", "sub", "add_any", "concatenate", "pad", "stack"])
_EXACT = _STRUCTURAL - {
    *("reduce_sum", "reduce_window_sum", "cumsum", "convert_element_type"),
} | {
    *("concatenate", "pad", "stack"),
    *("gather", "dynamic_slice", "select_n"),
}
_BILINEAR = frozenset(["mul", "dot_general", "conv_general_dilated"])
_PRODUCTS = frozenset(["dot_general", "conv_general_dilated"])
_FULL = {"precision": (lax.Precision.HIGHEST, lax.Precision.HIGHEST)}
_PRESETS: dict[str, list[Any]] = {
    "DEFAULT": [],
    "F32_F32_F32": [jnp.float32],
    "F64_F64_F64": [jnp.float64],
}
"""Types that operands and sums are rounded to; those of other presets are narrower than
any that is verified."""
_PROMISES = ("unique_indices", "indices_are_sorted")
_FIRST = frozenset(["gather", "dynamic_slice", "div"])  # linear in the first operand


def is_affine(node: Node, active: Collection[Value]) -> bool:
    """Whether a node is affine in its operands among `active`."""
    reached = [v in active for v in node.inputs]
    is_float = jnp.issubdtype(node.outputs[0].dtype, jnp.floating)
    if not is_float or narrows(node, active):
        return False
    if node.op in _STRUCTURAL | _ADDITIVE:
        return True
    if node.op in _BILINEAR:
        return sum(reached) == 1
    if node.op in _FIRST:
        return reached[0] and not any(reached[1:])
    return node.op == "select_n" and not reached[0]


def narrows(node: Node, active: Collection[Value]) -> bool:
    """Whether results are of a float type that can not hold all that operands can.

    So is a product by an algorithm that rounds its operands, or its sums.
    """

    def is_float(value: Value) -> bool:
        return jnp.issubdtype(value.dtype, jnp.floating)

    reached = [_digits(v.dtype) for v in node.inputs if v in active and is_float(v)]
    if reached and reduces(node):
        return True
    return any(
        own < given
        for out in node.outputs
        if is_float(out)
        for operand in reached
        for own, given in zip(_digits(out.dtype), operand, strict=True)
    )


def reduces(node: Node) -> bool:
    """Whether a product is asked to round its operands or its sums."""
    how = node.params.get("precision")
    if isinstance(how, lax.DotAlgorithm):
        if how.allow_imprecise_accumulation:
            return True
        kinds = [how.lhs_precision_type, how.rhs_precision_type, how.accumulation_type]
    elif isinstance(how, lax.DotAlgorithmPreset):
        kinds = _PRESETS.get(how.name, [jnp.bfloat16])
    else:
        return False
    return any(
        own < given
        for kind in kinds
        for value in node.inputs
        if jnp.issubdtype(value.dtype, jnp.floating)
        for own, given in zip(_digits(kind), _digits(value.dtype), strict=True)
    )


def _digits(dtype: Any) -> tuple[int, int, int]:
    kind = jnp.finfo(dtype)
    return kind.nmant, kind.maxexp, -kind.minexp


def settled(traced: Graph) -> Graph:
    """Returns a graph without what devices and transposes may do otherwise.

    Products are of full precision: less, the default of some devices, is no sound
    bound, and what parameters are multiplied to is part of what is proven. An algorithm
    that is asked for stays. Indices that are constants and in bounds are a promise that
    is kept. Others are clipped where they are promised, as JAX does forward, but not in
    the transpose, so that two may be one; or they stay filled, see `constant`.
    """

    def settle(node: Node) -> Node:
        if node.op in _PRODUCTS:
            full = {} if reduces(node) else _FULL
            return dataclasses.replace(node, params={**node.params, **full})
        if node.op != "gather":
            return node
        mode = lax.GatherScatterMode.from_any(node.params["mode"])
        changed: dict[str, Any] = dict.fromkeys(_PROMISES, False)
        if _in_bounds(node, traced.constants.get(node.inputs[1])):
            changed = {"mode": lax.GatherScatterMode.PROMISE_IN_BOUNDS}
        elif mode != lax.GatherScatterMode.FILL_OR_DROP:
            changed["mode"] = lax.GatherScatterMode.CLIP
        return dataclasses.replace(node, params={**node.params, **changed})

    return dataclasses.replace(traced, nodes=tuple(map(settle, traced.nodes)))


def _in_bounds(node: Node, indices: Any) -> bool:
    if indices is None or isinstance(indices, Tracer):
        return False
    shape, sizes = node.inputs[0].shape, node.params["slice_sizes"]
    axes = node.params["dimension_numbers"].start_index_map
    last = np.array([shape[axis] - sizes[axis] for axis in axes], np.int64)
    first = np.asarray(indices).astype(np.int64)
    return bool(((first >= 0) & (first <= last)).all())


def _fills(node: Node) -> bool:
    fill = lax.GatherScatterMode.FILL_OR_DROP
    return node.op == "gather" and node.params["mode"] == fill


def rounds(node: Node) -> bool:
    """Whether an affine node computes: what only moves numbers loses nothing."""
    return node.op not in _EXACT


def constant(
    node: Node, active: Collection[Value], table: Mapping[Value, Array]
) -> Array | None:
    """Returns what an affine node adds to its linear part, None for nothing.

    Nodes that add anything have one output. A gather adds what it fills with.
    """
    additive = node.op in _ADDITIVE or node.op == "select_n" or _fills(node)
    known = node.inputs[1:] if node.op == "select_n" else node.inputs
    if not additive or all(v in active for v in known):
        return None
    filled = [
        jnp.zeros(v.shape, v.dtype) if v in active else table[v] for v in node.inputs
    ]
    return node(*filled)[0]


def linear(
    node: Node,
    active: Collection[Value],
    table: Mapping[Value, Array],
    *,
    absolute: bool = False,
) -> Callable[..., tuple[Array, ...]]:
    """Returns the linear part of an affine node, a function of its active operands.

    The function returns a tuple of the node's outputs.

    Args:
      node: affine in `active`.
      active: the values that the input reaches.
      table: the other operands.
      absolute: take every weight by its absolute value, as interval radii need it.
    """
    op = node.op
    if absolute and op == "neg":
        return lambda x: (x,)
    if absolute and op == "sub":
        return _absolute_sub(node, active)
    params = dict(node.params)
    if op in _PRODUCTS:
        params |= _FULL
    if _fills(node):
        params["fill_value"] = 0

    def run(*reached: Array) -> tuple[Array, ...]:
        rest = iter(reached)
        full = [
            next(rest) if v in active else _weight(node, i, v, table, absolute)
            for i, v in enumerate(node.inputs)
        ]
        assert node.primitive is not None
        found = node.primitive.bind(*full, **params)
        return tuple(found) if node.primitive.multiple_results else (found,)

    return run


def transposed(
    node: Node, active: Collection[Value], table: Mapping[Value, Array]
) -> Callable[..., tuple[Array, ...]]:
    """Returns the transpose of a node's linear part, for rows of coefficients.

    Returns:
      A function from coefficients on each output, [S, *output shape], to those of each
      active operand, [S, *its shape], in order.
    """
    reached = [v for v in node.inputs if v in active]
    if node.op == "conv_general_dilated" and node.inputs[0] in active:
        kernel = table[node.inputs[1]]
        shape = node.inputs[0].shape
        return lambda rows: (convolution.transposed(rows, kernel, shape, node.params),)
    if node.op == "add" and all(v.shape == node.outputs[0].shape for v in reached):
        return lambda rows: (rows,) * len(reached)
    if node.op == "reshape":
        shape = reached[0].shape
        return lambda rows: (rows.reshape(rows.shape[0], *shape),)
    pull = jax.linear_transpose(
        linear(node, active, table), *(v.struct for v in reached)
    )
    return lambda *rows: jax.vmap(pull)(rows)


def _weight(
    node: Node, i: int, value: Value, table: Mapping[Value, Array], absolute: bool
) -> Any:
    """The i-th operand, known: a weight, or an index, or zero where it is added."""
    selects = node.op == "select_n"
    if node.op in _ADDITIVE or (selects and i > 0):
        return jnp.zeros(value.shape, value.dtype)
    weighs = node.op in _BILINEAR or node.op == "div"
    return jnp.abs(table[value]) if absolute and weighs else table[value]


def _absolute_sub(
    node: Node, active: Collection[Value]
) -> Callable[..., tuple[Array, ...]]:
    shape = node.outputs[0].shape

    def run(*reached: Array) -> tuple[Array, ...]:
        wide = (jnp.broadcast_to(part, shape) for part in reached)
        return (functools.reduce(jnp.add, wide),)

    return run
