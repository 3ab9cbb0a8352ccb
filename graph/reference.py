"""Graphs in plain numpy and float64: a second opinion that shares no code with XLA."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from core.errors import GraphError, describe
from graph import reference_windows as parts
from graph.graph import Graph, Node, Value

Params = Mapping[str, Any]


def evaluate_numpy(graph: Graph, *args: Any) -> Any:
    """Returns what a graph computes, in numpy and float64.

    Floating arrays of every width become float64 and integers int64: the result is
    that of the function in (nearly) real arithmetic, where the traced one rounds to
    its own types. Only the arrays that were folded into constants when the graph was
    traced keep the precision they had.

    Args:
      graph: of a function of `args`.
      *args: pytrees of arrays of the structure and shapes it was traced with.

    Returns:
      The function's result, numpy arrays as its leaves.

    Raises:
      ShapeError: arguments of another structure or other shapes.
      GraphError: an operator that is not known here; the message names it.
    """
    known = {value: _wide(array) for value, array in graph.bind(*args).items()}
    with np.errstate(all="ignore"):  # infinities and NaN are results, as in XLA
        _run(graph.nodes, known)
    return jax.tree.unflatten(graph.out_tree, [known[v] for v in graph.outputs])


def _run(nodes: Sequence[Node], known: dict[Value, Any]) -> None:
    for node in nodes:
        found = _node(node, [known[value] for value in node.inputs])
        for value, array in zip(node.outputs, found, strict=True):
            if np.shape(array) != value.shape:
                given = f"a result of shape {list(np.shape(array))}"
                raise GraphError(
                    f"{node.op}: {describe(given, f'{list(value.shape)}')}"
                )
            known[value] = array


def _node(node: Node, operands: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    if node.body is not None:
        body = node.body
        inner = {value: _wide(array) for value, array in body.constants.items()}
        inner |= dict(zip(body.inputs, operands, strict=True))
        _run(body.nodes, inner)
        return [inner[value] for value in body.outputs]
    if node.op not in OPERATORS:
        raise GraphError(
            f"evaluate_numpy: operator {node.op!r} at {node.source}: "
            + describe("an operator without a form in numpy", "a known one")
        )
    found = OPERATORS[node.op](node.params, *operands)
    return found if isinstance(found, list) else [np.asarray(found)]


def _wide(array: Any) -> np.ndarray:
    """Returns an array as bool, int64 or float64."""
    array = np.asarray(array)
    wide = {"b": np.bool_, "i": np.int64, "u": np.int64}
    return array.astype(wide.get(array.dtype.kind, np.float64))


def _convert(params: Params, x: np.ndarray) -> np.ndarray:
    dtype = np.dtype(params["new_dtype"])
    if dtype.kind == "b":
        return x != 0
    if dtype.kind not in "iu":
        return x.astype(np.float64)
    if x.dtype.kind == "f":  # towards zero; what does not fit saturates
        info = np.iinfo(dtype)
        x = np.clip(np.trunc(np.nan_to_num(x)), float(info.min), float(info.max))
        return np.where(x >= 2.0**63, info.max, x).astype(np.int64)
    return x.astype(dtype).astype(np.int64)


def _divide(_: Params, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if a.dtype.kind == "f":
        return np.divide(a, b)
    return np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))


def _logistic(_: Params, x: np.ndarray) -> np.ndarray:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def _round(params: Params, x: np.ndarray) -> np.ndarray:
    if int(params["rounding_method"]) == 1:
        return np.rint(x)
    whole = np.trunc(x)  # halves away from zero
    return whole + np.sign(x) * (np.abs(x - whole) >= 0.5)


def _select(_: Params, which: np.ndarray, *cases: np.ndarray) -> np.ndarray:
    if which.ndim == 0:
        return cases[int(which)]
    index = which.astype(np.int64)[None]
    return np.take_along_axis(np.stack(cases), index, axis=0)[0]


def _broadcast(params: Params, x: np.ndarray) -> np.ndarray:
    shape = [1] * len(params["shape"])
    for d, n in zip(params["broadcast_dimensions"], x.shape, strict=True):
        shape[d] = n
    return np.broadcast_to(x.reshape(shape), params["shape"])


def _slice(params: Params, x: np.ndarray) -> np.ndarray:
    strides = params["strides"] or (1,) * x.ndim
    limits = zip(params["start_indices"], params["limit_indices"], strides, strict=True)
    return x[tuple(slice(*each) for each in limits)]


def _dynamic_slice(params: Params, x: np.ndarray, *starts: Any) -> np.ndarray:
    return x[parts.clamped(x, starts, params["slice_sizes"])]


def _dynamic_update(_: Params, x: Any, update: Any, *starts: Any) -> np.ndarray:
    x = x.copy()
    x[parts.clamped(x, starts, update.shape)] = update
    return x


def _iota(params: Params) -> np.ndarray:
    shape = params["shape"]
    sizes = [-1 if d == params["dimension"] else 1 for d in range(len(shape))]
    n = np.arange(shape[params["dimension"]]).reshape(sizes)
    return _convert({"new_dtype": params["dtype"]}, np.broadcast_to(n, shape))


def _split(params: Params, x: np.ndarray) -> list[np.ndarray]:
    return np.split(x, np.cumsum(params["sizes"])[:-1], params["axis"])


def _sort(params: Params, *operands: np.ndarray) -> list[np.ndarray]:
    axis, keys = params["dimension"], operands[: params["num_keys"]]
    order = np.lexsort(keys[::-1], axis=axis)
    return [np.take_along_axis(x, order, axis) for x in operands]


def _top_k(params: Params, x: np.ndarray) -> list[np.ndarray]:
    x = np.moveaxis(x, params.get("axis", -1), -1)
    order = np.argsort(-x, axis=-1, kind="stable")[..., : params["k"]]
    found = [np.take_along_axis(x, order, -1), order]
    return [np.moveaxis(each, -1, params.get("axis", -1)) for each in found]


def _reduce_precision(params: Params, x: np.ndarray) -> np.ndarray:
    if params["exponent_bits"] < 8 or params["mantissa_bits"] < 23:
        given = f"rounding to {params['mantissa_bits']} bits"
        raise GraphError(f"reduce_precision: {describe(given, 'at least float32')}")
    return x


def _plain(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda params, *operands: f(*operands)


def _reduction(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda params, x: f(x, axis=tuple(params["axes"]))


def _argument(f: Callable[..., Any]) -> Callable[..., Any]:
    return lambda params, x: f(x, axis=params["axes"][0])


def _running(f: np.ufunc) -> Callable[..., Any]:
    def run(params: Params, x: np.ndarray) -> np.ndarray:
        if params["reverse"]:
            x = np.flip(x, params["axis"])
        found = f.accumulate(x, axis=params["axis"])
        return np.flip(found, params["axis"]) if params["reverse"] else found

    return run


def _window(f: Callable[..., Any], start: float) -> Callable[..., Any]:
    return lambda params, x: parts.reduce_window(f, start, params, x)


_PLAIN: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "add_any": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "neg": np.negative,
    "max": np.maximum,
    "min": np.minimum,
    "rem": np.fmod,
    "pow": np.power,
    "abs": np.abs,
    "sign": np.sign,
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "cbrt": np.cbrt,
    "square": np.square,
    "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "tanh": np.tanh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
    "erfc": np.vectorize(math.erfc, otypes=[np.float64]),
    "floor": np.floor,
    "ceil": np.ceil,
    "is_finite": np.isfinite,
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "clamp": lambda low, x, high: np.minimum(np.maximum(x, low), high),
}
_SAME = ("stop_gradient", "copy", "copy_p", "name", "real", "pvary", "device_put")

OPERATORS: dict[str, Callable[..., Any]] = {
    **{name: _plain(f) for name, f in _PLAIN.items()},
    **{name: _plain(lambda x: x) for name in _SAME},
    "optimization_barrier": lambda _, *operands: list(operands),
    "reduce_precision": _reduce_precision,
    "div": _divide,
    "logistic": _logistic,
    "integer_pow": lambda params, x: np.power(x, params["y"]),
    "round": _round,
    "select_n": _select,
    "convert_element_type": _convert,
    "iota": _iota,
    "broadcast_in_dim": _broadcast,
    "reshape": lambda params, x: x.reshape(params["new_sizes"]),
    "transpose": lambda params, x: x.transpose(params["permutation"]),
    "squeeze": lambda params, x: x.squeeze(tuple(params["dimensions"])),
    "expand_dims": lambda params, x: np.expand_dims(x, tuple(params["dimensions"])),
    "concatenate": lambda params, *xs: np.concatenate(xs, params["dimension"]),
    "stack": lambda params, *xs: np.stack(xs, params["axis"]),
    "tile": lambda params, x: np.tile(x, params["reps"]),
    "split": _split,
    "slice": _slice,
    "rev": lambda params, x: np.flip(x, tuple(params["dimensions"])),
    "pad": lambda params, x, fill: parts.pad(x, fill, params["padding_config"]),
    "gather": parts.gather,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update,
    "sort": _sort,
    "top_k": _top_k,
    "dot_general": parts.dot_general,
    "conv_general_dilated": parts.convolution,
    "reduce_sum": _reduction(np.sum),
    "reduce_prod": _reduction(np.prod),
    "reduce_max": _reduction(np.max),
    "reduce_min": _reduction(np.min),
    "reduce_and": _reduction(np.all),
    "reduce_or": _reduction(np.any),
    "argmax": _argument(np.argmax),
    "argmin": _argument(np.argmin),
    "cumsum": _running(np.add),
    "cumprod": _running(np.multiply),
    "cummax": _running(np.maximum),
    "cummin": _running(np.minimum),
    "cumlogsumexp": _running(np.logaddexp),
    "reduce_window_sum": _window(np.sum, 0.0),
    "reduce_window_max": _window(np.max, -math.inf),
    "reduce_window_min": _window(np.min, math.inf),
}
"""From a primitive's name to a function of its parameters and its operands."""
