"""Tangents and chords of smooth functions with at most one inflection point.

A `Curve` is convex up to its inflection point and concave from there on. Convex
functions (inflection at infinity), concave ones (at minus infinity) and S-shaped ones
(arXiv 1811.00866, section 3.3) are cases of it. Only a line above is derived; the line
below f is, mirrored, the line above g(z) = -f(-z), which is a `Curve` again.

Soundness never depends on how well a tangent point was found: for every slope s the
intercept is the maximum of f(z) - s z over the few points where it can be, plus what
rounding may take.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from core.types import Array
from verify.relaxations.base import (
    ULPS,
    Relaxation,
    choose,
    constants,
    is_narrow,
    magnitude,
    ratio,
    rounding,
)
from verify.types import Bounds, Lines

STEPS = 20
"""Halvings of the bracket of a tangent point."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """A function that is convex below `inflection` and concave above it.

    Attributes:
      value: f, an array to an array.
      slope: f', accurate relative to itself, also where f saturates.
      inflection: in the coordinate of z.
      anchor: a point where f and its derivatives are moderate.
      above: f is defined for z > above.
      range: what f never leaves.
      turn: where f is extremal in between, if anywhere.
      reach: from the distance of l to the inflection, how far beyond the inflection
        the tangent through (l, f(l)) touches, at most.
      inner: the part of bounds where f' is finite.
      ulps: what rounding may take, see `base.rounding`.
    """

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    inflection: float
    anchor: float = 0.0
    above: float = float("-inf")
    range: tuple[float, float] = (float("-inf"), float("inf"))
    turn: float | None = None
    reach: Callable[[Array], Array] = lambda distance: distance
    inner: Callable[[Bounds], Bounds] = lambda z: z
    ulps: float = ULPS


def mirrored(curve: Curve) -> Curve:
    """Returns -f(-z), of use inside of bounds that were found tame for f."""
    return Curve(
        value=lambda z: -curve.value(-z),
        slope=lambda z: curve.slope(-z),
        inflection=-curve.inflection,
        reach=curve.reach,
        inner=lambda z: _turned(curve.inner(_turned(z))),
        ulps=curve.ulps,
    )


def _turned(z: Bounds) -> Bounds:
    return Bounds(-z.upper, -z.lower)


def interval(curve: Curve, z: Bounds) -> Bounds:
    """Returns bounds of f, (-inf, inf) where f is undefined or overflows."""
    tame = _is_tame(curve, z, derivatives=1)
    z = _anchored(curve, z, tame)
    ends = curve.value(z.lower), curve.value(z.upper)
    if curve.turn is not None:
        ends += (curve.value(jnp.clip(curve.turn, z.lower, z.upper)),)
    lower, upper = ends[0], ends[0]
    for end in ends[1:]:
        lower, upper = jnp.minimum(lower, end), jnp.maximum(upper, end)
    lower = jnp.maximum(lower - rounding(lower, ulps=curve.ulps), curve.range[0])
    upper = jnp.minimum(upper + rounding(upper, ulps=curve.ulps), curve.range[1])
    return Bounds(jnp.where(tame, lower, -jnp.inf), jnp.where(tame, upper, jnp.inf))


def planes(curve: Curve, z: Bounds, alpha: Array) -> Lines:
    """Returns lines below and above f.

    Args:
      curve: f.
      z: bounds of the operand.
      alpha: [1, ...] or [2, ...]; the first entry chooses the tangent point of the
        lower line, the last that of the upper line: 0.0 the one closest to the far
        end of the interval, 1.0 the end on the tangent's own side.
    """
    tame = _is_tame(curve, z, derivatives=2)
    inside = _anchored(curve, z, tame)
    upper, high = _line_above(curve, inside, alpha[-1])
    lower, low = _line_above(mirrored(curve), _turned(inside), alpha[0])
    flat = constants(interval(curve, z))
    return choose(tame, Lines((lower,), -low, (upper,), high), flat)


def initial(curve: Curve, z: Bounds) -> Array:
    """Returns the parameters [2, ...] of least area between line and f.

    The area under the tangent at p is the width times its height at the middle of
    the interval, which is least for the p closest to the middle.
    """
    z = _anchored(curve, z, _is_tame(curve, z, derivatives=2))
    return jnp.stack(
        [_closest_to_middle(mirrored(curve), _turned(z)), _closest_to_middle(curve, z)]
    )


def _closest_to_middle(curve: Curve, z: Bounds) -> Array:
    first = _first_tangent(curve, z)
    middle = jnp.maximum(first, z.lower + 0.5 * (z.upper - z.lower))
    half = jnp.full_like(middle, 0.5)
    found = ratio(middle - first, z.upper - first, z.upper > first, half)
    return lax.stop_gradient(jnp.clip(found, 0.0, 1.0))


def _is_tame(curve: Curve, z: Bounds, derivatives: int) -> Array:
    """Whether nothing that a line is computed from can overflow."""
    z = lax.stop_gradient(z)
    most = float(jnp.finfo(z.lower.dtype).max) / 64.0
    tame = (z.lower > curve.above) & (z.lower <= z.upper)
    for point, end in zip(curve.inner(z), z, strict=True):
        slope, bend = jax.jvp(curve.slope, (point,), (jnp.ones_like(point),))
        scale = jnp.maximum(jnp.abs(point), 1.0)
        for term in (curve.value(end), slope, bend)[: derivatives + 1]:
            tame &= jnp.abs(term) <= most / scale  # False for NaN
    return tame


def _anchored(curve: Curve, z: Bounds, tame: Array) -> Bounds:
    return Bounds(*(jnp.where(tame, end, curve.anchor) for end in z))


def _line_above(curve: Curve, z: Bounds, alpha: Array) -> tuple[Array, Array]:
    """Slope and intercept of a line above f.

    The chord, where the interval is convex or its concave part too short for a
    tangent to clear (l, f(l)); else the tangent at a point of the concave part.
    """
    at_lower, at_upper = curve.value(z.lower), curve.value(z.upper)
    first = _first_tangent(curve, z)
    chord = _chord_slope(curve, z, at_lower, at_upper)
    is_chord = (z.upper <= curve.inflection) | (_overhang(curve, z, z.upper) > 0.0)
    is_chord &= z.lower < curve.inflection
    last = curve.inner(z).upper
    point = jnp.clip(first + alpha * (last - first), first, last)
    slope = jnp.where(is_chord, chord, curve.slope(point))
    touch = jnp.where(is_chord, z.upper, point)
    at_touch = jnp.where(is_chord, at_upper, curve.value(point))
    intercept = jnp.maximum(at_lower - slope * z.lower, at_touch - slope * touch)
    slack = rounding(slope * magnitude(z), intercept, ulps=curve.ulps)
    return slope, intercept + slack


def _chord_slope(curve: Curve, z: Bounds, at_lower: Array, at_upper: Array) -> Array:
    """The slope between the ends, cleared of rounding by the slopes in between."""
    first, last = curve.inner(z)
    middle = curve.slope(first + 0.5 * (last - first))
    slope = ratio(at_upper - at_lower, z.upper - z.lower, ~is_narrow(z), middle)
    steepest = curve.slope(jnp.clip(curve.inflection, first, last))
    flattest = jnp.minimum(curve.slope(first), curve.slope(last))
    return jnp.clip(slope, flattest, steepest)


def _overhang(curve: Curve, z: Bounds, point: Array) -> Array:
    """How far the tangent at `point` runs below f at the lower end."""
    rise = curve.value(point) - curve.value(z.lower)
    return curve.slope(point) * (point - z.lower) - rise


def _first_tangent(curve: Curve, z: Bounds) -> Array:
    """The lowest point of the concave part whose tangent clears (l, f(l)).

    By bisection, from above; constant under differentiation where it is inside.
    """
    lower = curve.inner(z).lower
    if curve.inflection in (float("-inf"), float("inf")):
        return lower if curve.inflection < 0.0 else curve.inner(z).upper
    fixed = lax.stop_gradient(z)
    low = jnp.clip(curve.inflection, *fixed)
    reach = curve.inflection + curve.reach(curve.inflection - fixed.lower)
    high = jnp.clip(reach, low, fixed.upper)

    def halve(_: Any, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = low + 0.5 * (high - low)
        clears = _overhang(curve, fixed, middle) <= 0.0
        return jnp.where(clears, low, middle), jnp.where(clears, middle, high)

    _, high = lax.fori_loop(0, STEPS, halve, (low, high))
    return jnp.where(z.lower >= curve.inflection, lower, lax.stop_gradient(high))


def relaxation(name: str, curve: Curve) -> Relaxation:
    """Returns the rule of a curve: one free parameter, or two if it is S-shaped.

    A convex f has its lower line's tangent point free, a concave f its upper line's.
    """
    bent = curve.inflection in (float("-inf"), float("inf"))
    used = (0 if curve.inflection > 0.0 else 1,) if bent else (0, 1)
    return Relaxation(
        name,
        len(used),
        lambda z, **_: interval(curve, z),
        lambda z, alpha, **_: planes(curve, z, alpha),
        lambda z, **_: initial(curve, z)[jnp.array(used)],
    )
