"""The affine operators of a graph as sums of linear chains of their operands."""

from collections.abc import Collection, Mapping

import jax.numpy as jnp
import numpy as np

from graph import Node, Value
from verify.certificate import balls, indices
from verify.certificate.balls import Ball
from verify.certificate.indices import unsupported
from verify.certificate.linear import Chain, Negate, Product, Scale, Stage, Taps

Known = Mapping[Value, Ball]
"""Values that do not depend on the input: balls [1, n]."""

Parts = list[tuple[Value, Chain]]
"""An affine operator is the sum of these chains of its operands."""

_SUMS = frozenset(["add", "add_any", "sub"])
_FACTORS = frozenset(["mul", "dot_general", "conv_general_dilated"])
AFFINE = (
    indices.PICKING
    | _SUMS
    | _FACTORS
    | {"neg", "div", "concatenate", "pad", "reduce_sum", "reduce_window_sum"}
    | {"gather", "dynamic_slice", "select_n"}
)
"""The operators that `parts` knows."""
ROUNDS = "a result of a type that rounds its operands"


def size(value: Value) -> int:
    """Returns how many elements a value has."""
    return int(np.prod(value.shape))


def parts(node: Node, known: Known, active: Collection[Value]) -> Parts:
    """Returns an operator as a sum of chains of its operands.

    Args:
      node: one of `AFFINE`.
      known: its operands that the input does not reach.
      active: those that it does.

    Returns:
      Every operand that is added, known ones too; those that only weigh are in the
      chains.

    Raises:
      GraphError: an operator that is not affine in its active operands, or a form of
        it that the checker does not compute.
    """
    op, inputs = node.op, node.inputs
    if op in indices.PICKING:
        _check_conversion(node, known)
        return [(inputs[0], _picking(indices.picked(node), inputs[0]))]
    if op == "neg":
        return [(inputs[0], Chain([Negate()]))]
    if op in _SUMS:
        return [
            (
                value,
                Chain(
                    [_spread(value, node), *([Negate()] if op == "sub" and i else [])]
                ),
            )
            for i, value in enumerate(inputs)
        ]
    if op in ("concatenate", "pad"):
        return _assembled(node)
    if op in ("reduce_sum", "reduce_window_sum"):
        index = indices.summed(node) if op == "reduce_sum" else indices.windows(node)
        index = index.reshape(index.shape[0], -1)
        return [(inputs[0], Chain([Taps(index, size(inputs[0]))]))]
    if op in ("gather", "dynamic_slice"):
        starts = [_integers(node, known, v).ravel() for v in inputs[1:]]
        if op == "gather":
            index = indices.gathered(node, starts[0].reshape(inputs[1].shape))
        else:
            index = indices.sliced(node, np.concatenate(starts))
        return [(inputs[0], _picking(index, inputs[0]))]
    if op == "select_n":
        return _selected(node, _integers(node, known, inputs[0]))
    return [_product(node, known, active)]


def _check_conversion(node: Node, known: Known) -> None:
    """Conversions are identities here; those that round are refused.

    Those between integers that wrap are refused where their result is looked at.
    """
    value, dtype = node.inputs[0], node.outputs[0].dtype
    if node.op != "convert_element_type":
        return
    if jnp.issubdtype(dtype, jnp.floating):
        if jnp.issubdtype(value.dtype, jnp.floating):
            return  # the caller has refused narrower types
        whole = _integers(node, known, value).astype(np.float64)
        with np.errstate(over="ignore"):
            held = whole.astype(dtype).astype(np.float64)
        if (held != whole).any():
            raise unsupported(node, "a conversion that rounds")
        return
    if value not in known:
        raise unsupported(node, "a conversion that rounds")
    whole = _integers(node, known, value)
    if dtype == np.bool_ and not np.isin(whole, (0, 1)).all():
        raise unsupported(node, "a conversion to bool of other than 0 and 1")


def _picking(index: np.ndarray, value: Value) -> Chain:
    return Chain([Taps(index.reshape(1, -1), size(value))])


def _spread(value: Value, node: Node) -> Stage:
    """The broadcast of a scalar operand, or of axes of one, to the output's shape."""
    every = indices.numbered(value.shape)
    if value.shape != node.outputs[0].shape:
        every = np.broadcast_to(every, node.outputs[0].shape)
    return Taps(every.reshape(1, -1), size(value))


def _assembled(node: Node) -> Parts:
    """Concatenate and pad: each output is one element of one operand."""
    inputs = node.inputs
    starts = np.cumsum([0, *(size(v) for v in inputs)])
    each = [
        indices.numbered(v.shape) + start
        for v, start in zip(inputs, starts[:-1], strict=True)
    ]
    if node.op == "pad":
        index = indices.padded(each[0], node.params["padding_config"], int(starts[1]))
    else:
        index = np.concatenate(each, axis=node.params["dimension"])
    found = []
    for value, first, last in zip(inputs, starts[:-1], starts[1:], strict=True):
        own = np.where((index >= first) & (index < last), index - first, -1)
        found.append((value, _picking(own, value)))
    return found


def _selected(node: Node, which: np.ndarray) -> Parts:
    n = size(node.outputs[0])
    which = np.broadcast_to(which.ravel(), (n,)) if which.size == 1 else which.ravel()
    found = []
    for case, value in enumerate(node.inputs[1:]):
        every = np.arange(n)
        found.append((value, _picking(np.where(which == case, every, -1), value)))
    return found


def _product(
    node: Node, known: Known, active: Collection[Value]
) -> tuple[Value, Chain]:
    """A product, or a quotient, of an operand that moves and a known one."""
    reached = [v in active for v in node.inputs]
    moving = 1 if reached[1] else 0
    if node.op == "div" and not jnp.issubdtype(node.outputs[0].dtype, jnp.floating):
        raise unsupported(node, "a division of integers")
    if all(reached) or (node.op in ("div", "conv_general_dilated") and moving):
        raise unsupported(node, "an operator that is not affine in the input")
    value, other = node.inputs[moving], node.inputs[1 - moving]
    weight = known[other]
    if node.op in ("mul", "div"):
        if node.op == "div":
            weight = balls.reciprocal(weight)
        stages: list[Stage] = [_spread(value, node)]
        return value, Chain([*stages, Scale(_spread(other, node).forward(weight))])
    if node.op == "dot_general":
        x, matrix, place = indices.dot(node, moving)
    else:
        x, matrix, place = indices.conv(node)
    taken = Ball(weight.mid[0][matrix], weight.rad[0][matrix])
    product = Product(taken, x.shape[1])
    n = size(node.outputs[0])
    return value, Chain(
        [Taps(x.reshape(1, -1), size(value)), product, Taps(place[None], n)]
    )


def _integers(node: Node, known: Known, value: Value) -> np.ndarray:
    """A known operand that must be exact integers."""
    if value not in known:
        raise unsupported(node, "an index or a condition that the input decides")
    ball = known[value]
    exact = np.abs(ball.mid) < 2.0**53  # so that float64 has not rounded it
    if ball.rad.any() or not (exact & (ball.mid == np.round(ball.mid))).all():
        raise unsupported(node, "an index or a condition that is not exact")
    return ball.mid.astype(np.int64)
