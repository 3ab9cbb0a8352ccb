"""Arithmetic and comparison with numpy's broadcasting; numbers known early fold."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from graph.onnx.registry import (
    Apply,
    Call,
    Site,
    canonical,
    is_static,
    namespace,
    operator,
)

_LEAVES = {"Add": "bias", "Sub": "bias", "Mul": "scale", "Div": "scale"}


def _divide(a: Any, b: Any) -> Any:
    """Division; that of integers goes towards zero."""
    if a.dtype.kind not in "iu":
        return a / b
    if is_static(a, b):
        return np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))
    return jax.lax.div(*jnp.broadcast_arrays(a, b))


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": _divide,
    "Equal": lambda a, b: a == b,
    "Greater": lambda a, b: a > b,
    "GreaterOrEqual": lambda a, b: a >= b,
    "Less": lambda a, b: a < b,
    "LessOrEqual": lambda a, b: a <= b,
    "And": lambda a, b: a & b,
    "Or": lambda a, b: a | b,
}


def _binary(name: str, fn: Callable[[Any, Any], Any]) -> Callable[[Site], Apply]:
    def build(site: Site) -> Apply:
        for index in (0, 1):
            site.operand_param(index, _LEAVES.get(name, "value"))
        return lambda call, a, b: fn(*call.align(a, b))

    build.__doc__ = f"{name}, elementwise with broadcasting."
    return build


for _name, _fn in _BINARY.items():
    operator(_name, inputs=(2, 2), folds=True)(_binary(_name, _fn))


def _variadic(name: str, fold: Callable[[Any, Any, Any], Any]) -> Any:
    def build(site: Site) -> Apply:
        for index in range(len(site.operands)):
            site.operand_param(index, _LEAVES.get(name, "value"))

        def apply(call: Call, *operands: Any) -> Any:
            xp = namespace(*operands)
            total, *others = call.align(*operands)
            for each in others:
                total = fold(xp, total, each)
            return total / len(operands) if name == "Mean" else total

        return apply

    build.__doc__ = f"{name} of any number of operands, elementwise."
    return build


operator("Max", inputs=(1, None), folds=True)(
    _variadic("Max", lambda xp, a, b: xp.maximum(a, b))
)
operator("Min", inputs=(1, None), folds=True)(
    _variadic("Min", lambda xp, a, b: xp.minimum(a, b))
)
operator("Sum", inputs=(1, None), folds=True)(_variadic("Sum", lambda _, a, b: a + b))
operator("Mean", inputs=(1, None), folds=True)(_variadic("Mean", lambda _, a, b: a + b))


_UNARY: dict[str, Callable[[Any, Any], Any]] = {
    "Abs": lambda xp, x: xp.abs(x),
    "Ceil": lambda xp, x: xp.ceil(x),
    "Cos": lambda xp, x: xp.cos(x),
    "Exp": lambda xp, x: xp.exp(x),
    "Floor": lambda xp, x: xp.floor(x),
    "Log": lambda xp, x: xp.log(x),
    "Neg": lambda _, x: -x,
    "Not": lambda _, x: ~x,
    "Reciprocal": lambda xp, x: 1.0 / x,
    "Round": lambda xp, x: xp.round(x),  # half to even, as ONNX says
    "Sign": lambda xp, x: xp.sign(x),
    "Sin": lambda xp, x: xp.sin(x),
    "Sqrt": lambda xp, x: xp.sqrt(x),
}


def _unary(name: str, fn: Callable[[Any, Any], Any]) -> Callable[[Site], Apply]:
    def build(_: Site) -> Apply:
        return lambda call, x: fn(namespace(x), x)

    build.__doc__ = f"{name}, elementwise."
    return build


for _name, _fn in _UNARY.items():
    operator(_name, folds=True)(_unary(_name, _fn))


@operator("Pow", inputs=(2, 2), folds=True)
def power(_: Site) -> Apply:
    """`x ** y`; a constant scalar y gives the simplest operator that computes it."""

    def apply(call: Call, x: Any, y: Any) -> Any:
        if is_static(x, y):
            return np.power(*call.align(x, y)).astype(x.dtype)
        if is_static(y) and y.size == 1:
            rank = max(x.ndim, y.ndim)
            x = jnp.reshape(x, (1,) * (rank - x.ndim) + tuple(x.shape))
            return _power(x, float(y.reshape(())))
        return jnp.power(*call.align(x, y))

    return apply


def _power(x: Any, exponent: float) -> Any:
    if exponent == 0.5:
        return jnp.sqrt(x)
    if math.isfinite(exponent) and exponent == int(exponent) and abs(exponent) < 64:
        return jax.lax.integer_pow(x, int(exponent))
    return jnp.power(x, exponent)


@operator("Where", inputs=(3, 3), folds=True)
def where(_: Site) -> Apply:
    """`x` where the condition holds, else `y`; all three are broadcast."""

    def apply(call: Call, condition: Any, x: Any, y: Any) -> Any:
        rank = max(condition.ndim, x.ndim, y.ndim)
        call.check_size(np.broadcast_shapes(condition.shape, x.shape, y.shape))
        mask = namespace(condition).reshape(
            condition, (1,) * (rank - condition.ndim) + tuple(condition.shape)
        )
        if is_static(condition, x, y):
            return np.where(mask, *call.align(x, y))
        x, y = call.align(x, y)
        typed = next((v for v in (x, y) if not is_static(v)), None)
        dtype = _traced_type(call, x) if typed is None else typed.dtype
        return jnp.where(mask, jnp.asarray(x, dtype), jnp.asarray(y, dtype))

    return apply


def _traced_type(call: Call, x: Any) -> np.dtype:
    return call.dtype if x.dtype.kind == "f" else canonical(x.dtype)
