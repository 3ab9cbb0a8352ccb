"""Sub-graphs that spell out a known function, each made one node again."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from graph.graph import Graph, Node, Value, prune
from graph.trace import trace


@dataclasses.dataclass(frozen=True)
class Found:
    """What a pattern has found: a function of values of the graph."""

    inputs: tuple[Value, ...]
    function: Callable[..., Any]
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Context:
    """Looks from a value back at what made it."""

    def __init__(self, graph: Graph):
        self.makers = {v: node for node in graph.nodes for v in node.outputs}
        self.constants = graph.constants

    def maker(self, value: Value, *ops: str) -> Node | None:
        """Returns the node that made `value`, None if it is none of `ops`."""
        node = self.makers.get(value)
        return node if node is not None and node.op in ops else None

    def array(self, value: Value) -> np.ndarray | None:
        """Returns the array of a constant, None where it is not known yet."""
        array = self.constants.get(value)
        if array is None or isinstance(array, Tracer):
            return None
        return np.asarray(array)

    def is_all(self, value: Value, number: float) -> bool:
        """Whether `value` is a constant with `number` in every element."""
        array = self.array(value)
        return array is not None and bool(np.all(array == number))

    def reduced(
        self,
        value: Value,
        op: str,
        through: Sequence[str] = (),
        where: Sequence[int] | None = None,
    ) -> tuple[Value, tuple[int, ...]] | None:
        """Looks for a reduction that `value` spreads out again over the same axes.

        Args:
          value: to start from.
          op: the reduction.
          through: elementwise operators that must be met on the way, in that order.
          where: for each axis of `value`, the axis of the reduction's operand that it
            belongs to; by default each in its place.

        Returns:
          The operand of the reduction and its axes, None where `value` is anything
          else.
        """
        left = [*through]
        dims = list(range(len(value.shape)) if where is None else where)
        while node := self.makers.get(value):
            if node.op == op:
                axes, operand = tuple(map(int, node.params["axes"])), node.inputs[0]
                kept = [d for d in range(len(operand.shape)) if d not in axes]
                sizes = node.outputs[0].shape
                same = len(kept) == len(dims) and all(
                    a == b or n == 1 for a, b, n in zip(dims, kept, sizes, strict=True)
                )
                return (operand, axes) if same and not left else None
            if left and node.op == left[0]:
                value = node.inputs[0]
                del left[0]
                continue
            step = self._backward(node, dims)
            if step is None:
                return None
            value, dims = step
        return None

    def _backward(self, node: Node, dims: list[int]) -> Any:
        """One step towards the operand: the operand, and where its axes lie."""
        operand = node.inputs[0]
        if node.op in ("stop_gradient", "copy", "copy_p"):
            return operand, dims
        if node.op == "broadcast_in_dim":
            return operand, [dims[d] for d in node.params["broadcast_dimensions"]]
        if node.op == "reshape" and len(operand.shape) < len(dims):
            where = _inserted(operand.shape, node.outputs[0].shape)
            return None if where is None else (operand, [dims[d] for d in where])
        if node.op == "max":  # of nothing: the maximum over no element is -inf
            for known, other in (node.inputs, node.inputs[::-1]):
                same = other.shape == node.outputs[0].shape
                if same and self.is_all(known, -np.inf):
                    return other, dims
        if node.op == "select_n":  # logsumexp's: no shift by infinity
            finite = self.maker(node.inputs[0], "is_finite")
            if finite and finite.inputs[0] is node.inputs[2]:
                return node.inputs[2], dims
        return None


def recognise(graph: Graph, patterns: Mapping[str, Any] | None = None) -> Graph:
    """Returns the graph with spelled-out functions as composite nodes.

    `jnp.where(x > 0, x, 0)`, `max(x, 0)` and `x * (x > 0)` become 'relu'; the same
    with a slope, of a constant or of any other value, 'leaky_relu' of (x, slope);
    exponentials over their sum 'softmax' with the parameter `axis`; its logarithm
    'log_softmax', and the logarithm of the sum 'logsumexp'. Each computes, in its
    `body`, the same for finite operands up to rounding.

    Args:
      graph: any graph.
      patterns: from a composite's name to a function of a `Context` and a node that
        returns a `Found` or None; `PATTERNS` by default. The first that fits wins.
    """
    context = Context(graph)
    nodes = []
    for node in graph.nodes:
        for name, pattern in (PATTERNS if patterns is None else patterns).items():
            found = pattern(context, node)
            if found is not None:
                nodes.append(_composite(name, node, found))
                break
        else:
            nodes.append(node)
    kept, constants = prune(nodes, graph.constants, graph.outputs)
    return dataclasses.replace(graph, nodes=kept, constants=constants)


def _composite(name: str, node: Node, found: Found) -> Node:
    body = trace(found.function, *(v.struct for v in found.inputs))
    return Node(name, found.inputs, node.outputs, found.params, node.source, None, body)


def relu(context: Context, node: Node) -> Found | None:
    """max(x, 0), where(x > 0, x, 0) or x * (x > 0), of floating x."""
    (out, *others) = node.outputs
    if others or not jnp.issubdtype(out.dtype, jnp.floating):
        return None
    x = None
    if node.op == "max":
        a, b = node.inputs
        x = a if context.is_all(b, 0.0) else b if context.is_all(a, 0.0) else None
    elif node.op == "select_n":
        halves = _halves(context, node)
        x = halves[0] if halves and context.is_all(halves[1], 0.0) else None
    elif node.op == "mul":
        for a, gate in (node.inputs, node.inputs[::-1]):
            cast = context.maker(gate, "convert_element_type")
            if cast and _sign(context, cast.inputs[0]) == (a, True):
                x = a
    return Found((x,), _relu) if x is not None and x.shape == out.shape else None


def leaky_relu(context: Context, node: Node) -> Found | None:
    """where(x > 0, x, c * x), or max(x, c * x) with a constant c within [0, 1]."""
    (out, *others) = node.outputs
    if others or node.op not in ("select_n", "max"):
        return None
    if node.op == "select_n":
        pairs = [p] if (p := _halves(context, node)) else []
    else:
        pairs = [node.inputs, node.inputs[::-1]]
    for x, negative in pairs:
        product = context.maker(negative, "mul")
        if product is None or x not in product.inputs or x.shape != out.shape:
            continue
        slope = product.inputs[1 - product.inputs.index(x)]
        if node.op == "max":
            array = context.array(slope)
            if array is None or not np.all((array >= 0) & (array <= 1)):
                continue
        return Found((x, slope), _leaky_relu)
    return None


def softmax(context: Context, node: Node) -> Found | None:
    """Exponentials over their sum, with or without a shift by the maximum."""
    if node.op != "div" or node.outputs[0].shape != node.inputs[0].shape:
        return None
    above, below = node.inputs
    exp, total = context.maker(above, "exp"), context.reduced(below, "reduce_sum")
    other = context.maker(total[0], "exp") if total else None
    if not (exp and total and other) or exp.inputs != other.inputs:
        return None
    if len(total[1]) != 1:
        return None
    (axis,) = total[1]
    x = _unshifted(context, exp.inputs[0], axis)
    return Found((x,), lambda x: jax.nn.softmax(x, axis), {"axis": axis})


def log_softmax(context: Context, node: Node) -> Found | None:
    """The logarithm of softmax, as jax.nn.log_softmax computes it."""
    if node.op != "sub" or node.outputs[0].shape != node.inputs[0].shape:
        return None
    shifted, rest = node.inputs
    total = context.reduced(rest, "reduce_sum", ["log"])
    exp = context.maker(total[0], "exp") if total else None
    if total is None or exp is None or exp.inputs[0] is not shifted:
        return None
    if len(total[1]) != 1:
        return None
    (axis,) = total[1]
    x = _unshifted(context, shifted, axis)
    return Found((x,), lambda x: jax.nn.log_softmax(x, axis), {"axis": axis})


def logsumexp(context: Context, node: Node) -> Found | None:
    """The logarithm of a sum of exponentials, as jax.nn.logsumexp computes it."""
    if node.op != "add":
        return None
    for log, shift in (node.inputs, node.inputs[::-1]):
        found = _log_of_sum(context, log)
        if found is None:
            continue
        shifted, axis, keeps = found
        x = _unshifted(context, shifted, axis)
        dims = [d for d in range(len(x.shape)) if keeps or d != axis]
        if context.reduced(shift, "reduce_max", where=dims) != (x, (axis,)):
            continue

        def again(x: Any, axis: int = axis, keeps: bool = keeps) -> Any:
            return jax.nn.logsumexp(x, axis, keepdims=keeps)

        return Found((x,), again, {"axis": axis, "keepdims": keeps})
    return None


PATTERNS: dict[str, Callable[[Context, Node], Found | None]] = {
    "relu": relu,
    "leaky_relu": leaky_relu,
    "softmax": softmax,
    "log_softmax": log_softmax,
    "logsumexp": logsumexp,
}
"""From a composite's name to what finds it."""


def _relu(x: Any) -> Any:
    return jnp.maximum(x, jnp.zeros((), x.dtype))


def _leaky_relu(x: Any, slope: Any) -> Any:
    return jnp.where(x >= 0, x, jax.lax.mul(slope, x))


def _unshifted(context: Context, value: Value, axis: int) -> Value:
    """Returns x where `value` is x less its maximum along `axis`, else `value`."""
    node = context.maker(value, "sub")
    if node is None:
        return value
    peak = context.reduced(node.inputs[1], "reduce_max")
    return node.inputs[0] if peak == (node.inputs[0], (axis,)) else value


def _log_of_sum(context: Context, value: Value) -> tuple[Value, int, bool] | None:
    """Returns z, the axis and keepdims where `value` is log(sum(exp(z)))."""
    log = context.maker(value, "log")
    if log is None:
        return None
    inner = log.inputs[0]
    positive = context.maker(inner, "abs")
    inner = positive.inputs[0] if positive else inner
    direct = context.maker(inner, "reduce_sum")
    if direct:
        found = direct.inputs[0], tuple(map(int, direct.params["axes"]))
    else:
        found = context.reduced(inner, "reduce_sum")
    exp = context.maker(found[0], "exp") if found else None
    if found is None or exp is None or len(found[1]) != 1:
        return None
    return exp.inputs[0], found[1][0], direct is None


def _sign(context: Context, test: Value) -> tuple[Value, bool] | None:
    """Returns x and whether `test` is that x is positive, or else negative."""
    node = context.maker(test, "gt", "ge", "lt", "le")
    if node is None:
        return None
    a, b = node.inputs
    if context.is_all(b, 0.0):
        return a, node.op in ("gt", "ge")
    return (b, node.op in ("lt", "le")) if context.is_all(a, 0.0) else None


def _halves(context: Context, node: Node) -> tuple[Value, Value] | None:
    """Returns x and what a choice by its sign takes in its stead where it is < 0."""
    if len(node.inputs) != 3 or (sign := _sign(context, node.inputs[0])) is None:
        return None
    x, positive = sign
    _, no, yes = node.inputs
    above, below = (yes, no) if positive else (no, yes)
    return (x, below) if above is x else None


def _inserted(small: tuple[int, ...], large: tuple[int, ...]) -> list[int] | None:
    """Returns where the axes of `small` are in `large`, which has more ones."""
    where = []
    for d, n in enumerate(large):
        left = len(small) - len(where)
        if left and n == small[len(where)]:
            where.append(d)
        elif n != 1:
            return None
    return where if len(where) == len(small) else None
