"""The relaxation of a product of two unknowns: McCormick's planes."""

from typing import Any

import jax.numpy as jnp

from core.types import Array
from verify.relaxations.base import Relaxation, magnitude, mix, rounding
from verify.types import Bounds, Lines


def _interval(x: Bounds, y: Bounds, **_: Any) -> Bounds:
    corners = [_product(a, b) for a in x for b in y]
    lower, upper = corners[0]
    for corner in corners[1:]:
        lower = jnp.minimum(lower, corner.lower)
        upper = jnp.maximum(upper, corner.upper)
    return Bounds(lower, upper)


def _product(a: Array, b: Array) -> Bounds:
    """A product, and the least normal number around it where it underflows."""
    product, tiny = a * b, float(jnp.finfo(a.dtype).tiny)
    lost = (jnp.abs(product) < tiny) & (a != 0) & (b != 0)
    negative = (a < 0) != (b < 0)
    return Bounds(
        jnp.where(lost, jnp.where(negative, -tiny, 0.0), product),
        jnp.where(lost, jnp.where(negative, 0.0, tiny), product),
    )


def _initial(x: Bounds, y: Bounds, **_: Any) -> Array:
    shape = jnp.broadcast_shapes(x.lower.shape, y.lower.shape)
    return jnp.full((2, *shape), 0.5, x.lower.dtype)


def _planes(x: Bounds, y: Bounds, alpha: Array, **_: Any) -> Lines:
    """Convex combinations of two planes on each side of x y (McCormick 1976).

    From (x - x_l)(y - y_l) >= 0 and (x - x_u)(y - y_u) >= 0 below, and from
    (x - x_l)(y - y_u) <= 0 and (x - x_u)(y - y_l) <= 0 above.
    """
    (xl, xu), (yl, yu) = _broadcast(x, y)
    below = mix(alpha[0], (yu, xu, -xu * yu), (yl, xl, -xl * yl))
    above = mix(alpha[1], (yu, xl, -xl * yu), (yl, xu, -xu * yl))
    slack = rounding(magnitude(Bounds(xl, xu)) * magnitude(Bounds(yl, yu)))
    return Lines(
        (below[0], below[1]), below[2] - slack, (above[0], above[1]), above[2] + slack
    )


def _broadcast(x: Bounds, y: Bounds) -> tuple[Bounds, Bounds]:
    shape = jnp.broadcast_shapes(x.lower.shape, y.lower.shape)
    spread = [[jnp.broadcast_to(end, shape) for end in each] for each in (x, y)]
    return Bounds(*spread[0]), Bounds(*spread[1])


MUL = Relaxation("mul", 2, _interval, _planes, _initial)
