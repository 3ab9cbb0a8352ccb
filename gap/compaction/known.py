"""Which elements of a network's values do not depend on its input, and what they are.

A pruned filter's channel is zero, then a bias, then whatever batch norm and the
activation make of it: a constant that can leave the network. Each value gets its known
elements and their numbers, in numpy and float64; an operator that is not known here
makes its whole result unknown.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gap.compaction.operators import ELEMENTWISE
from graph import Graph, Node, Value
from graph.reference import OPERATORS


class Known(NamedTuple):
    """What is known of a value.

    Invariants: both have the shape of the value; `values` is 0 where `unknown`.
    """

    values: np.ndarray
    unknown: np.ndarray

    @property
    def whole(self) -> bool:
        """Whether every element is known."""
        return not self.unknown.any()

    @property
    def blank(self) -> bool:
        """Whether no element is known."""
        return bool(self.unknown.all())

    @property
    def nonzero(self) -> np.ndarray:
        """Where an element may be other than 0."""
        return self.unknown | (self.values != 0)


def nothing(value: Value) -> Known:
    """Returns that nothing is known of a value."""
    zero, yes = np.zeros((), np.float64), np.ones((), bool)
    return Known(np.broadcast_to(zero, value.shape), np.broadcast_to(yes, value.shape))


def analyse(graph: Graph, arrays: Mapping[Value, Any]) -> dict[Value, Known]:
    """Returns what is known of every value.

    Args:
      graph: any graph.
      arrays: the inputs that are known, parameters say; constants are by themselves.
    """
    found = {value: nothing(value) for value in graph.inputs}
    for value, array in (*arrays.items(), *graph.constants.items()):
        found[value] = _given(value, array)
    for node in graph.nodes:
        with np.errstate(all="ignore"):
            results = _node(node, [found[value] for value in node.inputs])
        found.update(zip(node.outputs, results, strict=True))
    return found


def _given(value: Value, array: Any) -> Known:
    try:
        array = np.asarray(array)
        wide = {"b": np.bool_, "i": np.int64, "u": np.int64}
        array = array.astype(wide.get(array.dtype.kind, np.float64))
    except (TypeError, ValueError, RuntimeError):  # keys, and arrays of an outer trace
        return nothing(value)
    return Known(array, np.zeros(array.shape, bool))


def _node(node: Node, operands: Sequence[Known]) -> list[Known]:
    if all(operand.whole for operand in operands):
        return _computed(node, operands)
    arrays = [operand for operand in operands if operand.values.ndim]
    if node.op not in _SUMS and all(each.unknown.all() for each in arrays):
        return [nothing(value) for value in node.outputs]
    rule = _RULES.get(node.op)
    found = rule(node, operands) if rule is not None else []
    unknowns: list[np.ndarray] = found if isinstance(found, list) else [found]
    if all(each.all() for each in unknowns):
        return [nothing(value) for value in node.outputs]
    results = _values(node, [operand.values for operand in operands])
    return [
        Known(np.where(gone, np.zeros((), x.dtype), x), np.asarray(gone, bool))
        for x, gone in zip(results, unknowns, strict=True)
    ]


def _computed(node: Node, operands: Sequence[Known]) -> list[Known]:
    """The results of a node whose operands are all known."""
    arrays = [operand.values for operand in operands]
    try:
        found = [np.asarray(x) for x in _values(node, arrays)]
    except Exception:  # an operator without a form in numpy
        return [nothing(value) for value in node.outputs]
    return [Known(x, np.zeros(x.shape, bool)) for x in found]


def _values(node: Node, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    if node.body is None:
        found = OPERATORS[node.op](node.params, *arrays)
        return found if isinstance(found, list) else [np.asarray(found)]
    body = node.body
    table: dict[Value, Any] = {v: np.asarray(a) for v, a in body.constants.items()}
    table |= dict(zip(body.inputs, arrays, strict=True))
    for inner in body.nodes:
        found = _values(inner, [table[v] for v in inner.inputs])
        table.update(zip(inner.outputs, found, strict=True))
    return [table[v] for v in body.outputs]


def linear(node: Node, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the result of a sum or a product of sums, in numpy."""
    return np.asarray(OPERATORS[node.op](node.params, *arrays))


def _products(node: Node, operands: Sequence[Known]) -> np.ndarray:
    """A sum is unknown if a term is: an unknown factor, and none that is zero."""
    a, b = operands
    terms = np.zeros(node.outputs[0].shape)
    pairs = ((a.unknown, b.nonzero), (a.nonzero, b.unknown))
    for left, right in pairs:
        if left.any() and right.any():
            terms = terms + linear(node, [left.astype(float), right.astype(float)])
    return terms > 0.5


def _multiplied(_: Node, operands: Sequence[Known]) -> np.ndarray:
    a, b = operands
    return (a.unknown & b.nonzero) | (b.unknown & a.nonzero)


def _elementwise(_: Node, operands: Sequence[Known]) -> np.ndarray:
    unknown = operands[0].unknown
    for operand in operands[1:]:
        unknown = unknown | operand.unknown
    return unknown


def _moved(node: Node, operands: Sequence[Known]) -> Any:
    found = OPERATORS[node.op](node.params, *(each.unknown for each in operands))
    return found if isinstance(found, list) else np.asarray(found, bool)


def _reduced(node: Node, operands: Sequence[Known]) -> np.ndarray:
    axes = tuple(map(int, node.params["axes"]))
    return np.asarray(operands[0].unknown.any(axis=axes))


def _windowed(node: Node, operands: Sequence[Known]) -> np.ndarray:
    spread = operands[0].unknown.astype(float)
    return np.asarray(OPERATORS["reduce_window_max"](node.params, spread)) > 0.5


_SUMS = ("dot_general", "conv_general_dilated", "mul", "pad", "concatenate")
"""Operators whose results can be known although nothing is known of an operand."""

_RULES: dict[str, Callable[[Node, Sequence[Known]], Any]] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    "mul": _multiplied,
    "dot_general": _products,
    "conv_general_dilated": _products,
    **dict.fromkeys(("reshape", "transpose", "squeeze", "rev", "slice"), _moved),
    **dict.fromkeys(("pad", "concatenate", "split", "broadcast_in_dim"), _moved),
    **{f"reduce_{name}": _reduced for name in ("sum", "max", "min", "prod")},
    **{f"reduce_window_{name}": _windowed for name in ("sum", "max", "min")},
}
