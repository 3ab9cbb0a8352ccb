"""Relaxations of step functions: floor, ceil, round, sign.

Fake quantizers are made of them. Each line is a convex combination, chosen by a free
parameter, of a constant and of a line along the corners of the steps.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from core.types import Array
from verify.relaxations.base import Relaxation, magnitude, mix, ratio, rounding
from verify.types import Bounds, Lines

_LEAST_RUN = 1.0 / 16.0
"""The least run that a sloped line may have, so that slopes stay moderate."""

Line = tuple[Array, Array]


def _ends(step: Callable[..., Array], z: Bounds, params: Any) -> Bounds:
    """The step at both ends: that is the interval, for a step never falls."""
    if step is lax.round:
        method = params.get("rounding_method", lax.RoundingMethod.TO_NEAREST_EVEN)
        step = lambda end: lax.round(end, method)  # noqa: E731
    return Bounds(*(step(lax.stop_gradient(end)) for end in z))


def _stairs(offset: float) -> Callable[[Bounds, Bounds], tuple[Line, Line]]:
    """The sloped lines of a step that takes z + offset down to an integer.

    At a jump the value may be the one before or the one after it, so every way to
    break ties is covered. Along all corners run z + offset above and z + offset - 1
    below. A line from an end of the interval to the corner nearest to it is steeper,
    and better where there are few steps.
    """

    def lines(z: Bounds, h: Bounds) -> tuple[Line, Line]:
        first, last = h.lower + 1.0 - offset, h.upper - offset  # jumps
        shift = jnp.full_like(h.lower, offset)
        below = _sloped(z, z.upper - last, z.upper, h.upper, shift - 1.0, -1.0)
        return below, _sloped(z, first - z.lower, z.lower, h.lower, shift, 1.0)

    return lines


def _sloped(
    z: Bounds, run: Array, end: Array, value: Array, shift: Array, side: float
) -> Line:
    """The better of z + shift and the line of rise 1 through (end, value)."""
    one, middle = jnp.ones_like(run), z.lower + 0.5 * (z.upper - z.lower)
    slope = ratio(one, run, run >= _LEAST_RUN, one)
    intercept = value - slope * end
    gain = side * (middle + shift - (slope * middle + intercept))
    better = (run >= _LEAST_RUN) & (gain > 0.0)
    return jnp.where(better, slope, one), jnp.where(better, intercept, shift)


def _jump(z: Bounds, h: Bounds) -> tuple[Line, Line]:
    """The sloped lines of sign: from an end to the far corner at 0.0."""
    rise, flat = h.upper - h.lower, jnp.zeros_like(h.lower)
    below = ratio(rise, z.upper, z.upper >= _LEAST_RUN, flat)
    above = ratio(rise, -z.lower, z.lower <= -_LEAST_RUN, flat)
    top = jnp.where(z.lower <= -_LEAST_RUN, h.lower - above * z.lower, h.upper)
    return (below, h.lower), (above, top)


def _slack(z: Bounds, line: list[Array]) -> Array:
    """What rounding may take of a sloped line; constants are exact."""
    slope, intercept = line
    return jnp.where(slope == 0.0, 0.0, rounding(slope * magnitude(z), intercept))


def _relaxation(name: str, step: Callable[..., Array], sloped: Any) -> Relaxation:
    def interval(z: Bounds, **params: Any) -> Bounds:
        return _ends(step, z, params)

    def planes(z: Bounds, alpha: Array, **params: Any) -> Lines:
        h = interval(z, **params)
        moves = h.lower < h.upper
        (a, b), (c, d) = sloped(z, h)
        flat = jnp.zeros_like(h.lower)
        low = mix(jnp.where(moves, alpha[0], 0.0), (a, b), (flat, h.lower))
        high = mix(jnp.where(moves, alpha[1], 0.0), (c, d), (flat, h.upper))
        low[1] = low[1] - _slack(z, low)
        high[1] = high[1] + _slack(z, high)
        return Lines((low[0],), low[1], (high[0],), high[1])

    def initial(z: Bounds, **params: Any) -> Array:
        """1.0 where the sloped line is closer in the middle of the interval."""
        h = interval(z, **params)
        (a, b), (c, d) = sloped(z, h)
        middle = z.lower + 0.5 * (z.upper - z.lower)
        found = jnp.stack([a * middle + b > h.lower, c * middle + d < h.upper])
        return found.astype(h.lower.dtype)

    return Relaxation(name, 2, interval, planes, initial)


FLOOR = _relaxation("floor", jnp.floor, _stairs(0.0))
CEIL = _relaxation("ceil", jnp.ceil, _stairs(1.0))
ROUND = _relaxation("round", lax.round, _stairs(0.5))
SIGN = _relaxation("sign", jnp.sign, _jump)
