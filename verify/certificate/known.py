"""The values that depend on parameters alone, with their rounding."""

import functools
from collections.abc import Callable, Mapping

import jax.numpy as jnp
import numpy as np

from graph import Node, Value
from verify import affine
from verify.certificate import balls, indices
from verify.certificate.balls import Ball
from verify.certificate.indices import unsupported
from verify.certificate.operators import AFFINE, ROUNDS, parts, size

_ULPS = 16 * balls.UNIT  # 8 ulp: libm and numpy's vector code stay within 4

Function = Callable[[np.ndarray], np.ndarray]
_RISING: dict[str, Function] = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "cbrt": np.cbrt,
    "tanh": np.tanh,
    "exp2": np.exp2,
}
_STEPS: dict[str, Function] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "sign": np.sign,
    "relu": lambda x: np.maximum(x, 0.0),
}
_COMPARE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
}


def evaluate(node: Node, known: Mapping[Value, Ball]) -> dict[Value, Ball]:
    """Returns balls [1, n] that contain the results of a node in real arithmetic.

    Args:
      node: of known operands.
      known: their balls.

    Raises:
      GraphError: an operator that the checker does not compute.
    """
    if affine.narrows(node, node.inputs):
        raise unsupported(node, ROUNDS)
    if node.op in AFFINE:
        pieces = [chain.forward(known[v]) for v, chain in parts(node, known, ())]
        found = pieces[0]
        for piece in pieces[1:]:
            found = balls.add(found, piece)
        return {node.outputs[0]: _representable(node, found)}
    if node.op in _REDUCTIONS:
        found = _reduced(node, known[node.inputs[0]])
        return {node.outputs[0]: _representable(node, found)}
    function = _function(node)
    if function is None and node.body is not None:
        return _body(node, known)
    if function is None:
        raise unsupported(node, "a function of parameters that is not known")
    n = size(node.outputs[0])
    operands = [_wide(known[v], n) for v in node.inputs]
    return {node.outputs[0]: _representable(node, function(*operands))}


def _representable(node: Node, found: Ball) -> Ball:
    """A result as it is, where its type holds it; that of integers is exact.

    Floats are real numbers here. Integers wrap, so what is out of their range is
    refused; and a sum of integers is one, so rounding that is below 1/2 is undone.
    """
    dtype = node.outputs[0].dtype
    if not jnp.issubdtype(dtype, jnp.integer):
        return found
    whole, kind = np.round(found.mid), jnp.iinfo(dtype)
    apart = np.abs(found.mid - whole) + found.rad
    # From 2^53 on float64 skips integers, so that none is known to be the right one.
    inside = (whole >= kind.min) & (whole <= kind.max) & (np.abs(whole) < 2.0**53)
    if not (inside & (apart < 0.5)).all():
        raise unsupported(node, f"numbers that {dtype} does not hold")
    return balls.exact(whole)


def _reduced(node: Node, a: Ball) -> Ball:
    taps = indices.summed(node)
    taps = taps.reshape(taps.shape[0], -1)
    if not len(taps):
        raise unsupported(node, "a reduction of nothing")
    every = (Ball(a.mid[:, tap], a.rad[:, tap]) for tap in taps)
    return functools.reduce(_REDUCTIONS[node.op], every)


def _wide(ball: Ball, n: int) -> Ball:
    return Ball(*(np.broadcast_to(a, (1, n)) for a in ball))


def _body(node: Node, known: Mapping[Value, Ball]) -> dict[Value, Ball]:
    assert node.body is not None
    table = {v: balls.exact(flat(a)) for v, a in node.body.constants.items()}
    operands = (known[v] for v in node.inputs)
    table |= dict(zip(node.body.inputs, operands, strict=True))
    for inner in node.body.nodes:
        table |= evaluate(inner, table)
    results = [table[v] for v in node.body.outputs]
    return dict(zip(node.outputs, results, strict=True))


def flat(array: object) -> np.ndarray:
    """Returns an array as one row of float64."""
    return np.asarray(array).astype(np.float64).reshape(1, -1)


def _function(node: Node) -> Callable[..., Ball] | None:
    op = node.op
    if op in _RISING:
        return lambda a: _monotone(_RISING[op], a, _ULPS)
    if op in _STEPS:
        return lambda a: _step(_STEPS[op], a)
    if op in _COMPARE:
        return lambda a, b: _compare(node, a, b)
    if op == "rsqrt":
        return lambda a: balls.reciprocal(_monotone(np.sqrt, a, _ULPS))
    if op == "reciprocal":
        return balls.reciprocal
    if op == "logistic":
        return _logistic
    if op == "square":
        return lambda a: balls.multiply(a, a)
    if op == "integer_pow":
        return lambda a: _power(a, int(node.params["y"]))
    if op == "abs":
        return lambda a: _larger(a, balls.negate(a))
    if op == "max":
        return _larger
    if op == "min":
        return _smaller
    if op == "clamp":
        return lambda low, a, high: _smaller(_larger(a, low), high)
    if op == "is_finite":
        return lambda a: _finite(node, a)
    return None


def _monotone(function: Function, a: Ball, ulps: float) -> Ball:
    """A rising function of a ball; every end is widened by its error."""
    low, high = (np.where(a.rad == 0, a.mid, end) for end in balls.ends(a))
    with np.errstate(all="ignore"):
        low, high = function(low), function(high)
    low, high = low - ulps * np.abs(low), high + ulps * np.abs(high)
    tiny = balls.TINY
    return balls.between(low - tiny, high + tiny)


def _step(function: Function, a: Ball) -> Ball:
    """A rising function that float64 computes exactly."""
    low, high = (a.mid, a.mid) if not a.rad.any() else balls.ends(a)
    low, high = function(low), function(high)
    return balls.exact(low) if (low == high).all() else balls.between(low, high)


def _larger(a: Ball, b: Ball) -> Ball:
    if not (a.rad.any() or b.rad.any()):
        return balls.exact(np.maximum(a.mid, b.mid))
    (low_a, high_a), (low_b, high_b) = balls.ends(a), balls.ends(b)
    return balls.between(np.maximum(low_a, low_b), np.maximum(high_a, high_b))


def _smaller(a: Ball, b: Ball) -> Ball:
    return balls.negate(_larger(balls.negate(a), balls.negate(b)))


_REDUCTIONS: dict[str, Callable[[Ball, Ball], Ball]] = {
    "reduce_max": _larger,
    "reduce_min": _smaller,
    "reduce_prod": balls.multiply,
}


def _finite(node: Node, a: Ball) -> Ball:
    known = np.isfinite(a.mid) & np.isfinite(a.rad)
    if not (known | (a.rad == 0)).all():
        raise unsupported(node, "a number that overflows")
    return balls.exact(known)


def _logistic(a: Ball) -> Ball:
    one = balls.exact(np.ones_like(a.mid))
    grown = _monotone(np.exp, balls.negate(a), _ULPS)
    return balls.reciprocal(balls.add(one, grown))


def _power(a: Ball, exponent: int) -> Ball:
    if exponent < 0:
        return balls.reciprocal(_power(a, -exponent))
    found = balls.exact(np.ones_like(a.mid))
    for _ in range(exponent):
        found = balls.multiply(found, a)
    return found


def _compare(node: Node, a: Ball, b: Ball) -> Ball:
    if node.inputs[0] is node.inputs[1]:  # the usual question whether it is NaN
        return balls.exact(_COMPARE[node.op](a.mid, a.mid))
    (low_a, high_a), (low_b, high_b) = balls.ends(a), balls.ends(b)
    apart = (low_a > high_b) | (low_b > high_a)
    if not (apart | ((a.rad == 0) & (b.rad == 0))).all():
        raise unsupported(node, "a comparison that rounding decides")
    return balls.exact(_COMPARE[node.op](a.mid, b.mid))
