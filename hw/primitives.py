"""What each JAX primitive does, as far as a cost model minds."""

import math
from typing import Literal

from graph import Node
from graph.products import PRODUCTS

Kind = Literal["product", "element", "function", "reduce", "window", "move", "view"]

ELEMENT = frozenset(
    [
        "abs",
        "add",
        "add_any",
        "and",
        "ceil",
        "clamp",
        "cond_select",
        "copysign",
        "div",
        "eq",
        "exp2",
        "floor",
        "ge",
        "gt",
        "imag",
        "integer_pow",
        "is_finite",
        "le",
        "lt",
        "max",
        "min",
        "mul",
        "ne",
        "neg",
        "nextafter",
        "not",
        "or",
        "population_count",
        "real",
        "relu",
        "rem",
        "round",
        "select_n",
        "shift_left",
        "shift_right_arithmetic",
        "shift_right_logical",
        "sign",
        "square",
        "sub",
        "xor",
    ]
)
"""One cheap operation for each result."""
FUNCTIONS = frozenset(
    [
        "acos",
        "acosh",
        "asin",
        "asinh",
        "atan",
        "atan2",
        "atanh",
        "cbrt",
        "cos",
        "cosh",
        "digamma",
        "erf",
        "erf_inv",
        "erfc",
        "exp",
        "expm1",
        "lgamma",
        "log",
        "log1p",
        "logistic",
        "pow",
        "rsqrt",
        "sin",
        "sinh",
        "softplus",
        "sqrt",
        "tan",
        "tanh",
    ]
)
"""One evaluation of a function for each result."""
REDUCTIONS = frozenset(
    [
        "argmax",
        "argmin",
        "reduce",
        "reduce_and",
        "reduce_max",
        "reduce_min",
        "reduce_or",
        "reduce_precision",
        "reduce_prod",
        "reduce_sum",
        "reduce_xor",
        "cumsum",
        "cumprod",
        "cummax",
        "cummin",
        "cumlogsumexp",
        "sort",
        "top_k",
    ]
)
"""One operation for each operand."""
WINDOWS = frozenset(
    [
        "reduce_window",
        "reduce_window_max",
        "reduce_window_min",
        "reduce_window_sum",
        "select_and_scatter_add",
        "select_and_gather_add",
    ]
)
"""One operation for each position of a window and each result."""
MOVES = frozenset(
    [
        "concatenate",
        "dynamic_slice",
        "dynamic_update_slice",
        "gather",
        "pad",
        "rev",
        "scatter",
        "scatter-add",
        "scatter_add",
        "select_and_scatter",
        "slice",
        "split",
        "transpose",
        "iota",
    ]
)
"""No operation, but bytes that move."""
VIEWS = frozenset(
    [
        "broadcast",
        "broadcast_in_dim",
        "convert_element_type",
        "copy",
        "copy_p",
        "bitcast_convert_type",
        "expand_dims",
        "optimization_barrier",
        "reshape",
        "sharding_constraint",
        "squeeze",
        "stop_gradient",
    ]
)
"""Another name for the same numbers."""

_KINDS: dict[str, Kind] = {
    **dict.fromkeys(PRODUCTS, "product"),
    **dict.fromkeys(ELEMENT, "element"),
    **dict.fromkeys(FUNCTIONS, "function"),
    **dict.fromkeys(REDUCTIONS, "reduce"),
    **dict.fromkeys(WINDOWS, "window"),
    **dict.fromkeys(MOVES, "move"),
    **dict.fromkeys(VIEWS, "view"),
}


def kind_of(node: Node) -> Kind | None:
    """Returns what a node does, None of a primitive that is in no table."""
    return _KINDS.get(node.op)


def operations(node: Node) -> tuple[int, int]:
    """Returns how many cheap operations and how many functions a node evaluates.

    A primitive that is in no table counts as a cheap operation for each result.
    """
    kind = kind_of(node)
    results = sum(math.prod(v.shape) for v in node.outputs)
    if kind in ("product", "move", "view"):
        return 0, 0
    if kind == "function":
        return 0, results
    if kind == "reduce":
        return math.prod(node.inputs[0].shape), 0
    if kind == "window":
        return results * math.prod(node.params.get("window_dimensions", (1,))), 0
    return results, 0
