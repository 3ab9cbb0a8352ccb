"""Relaxations of powers: z ** y for a known exponent, and 1 / z."""

import functools
from typing import Any

import jax.numpy as jnp
from jax import lax

from core.types import Array
from verify.relaxations import curves
from verify.relaxations.base import Relaxation, choose, constants
from verify.relaxations.curves import Curve
from verify.types import Bounds, Lines

_INF = float("inf")


@functools.cache
def _curve(y: int) -> Curve:
    """Returns z ** y where it is convex: everywhere for even y > 0, for z > 0 if y < 0.

    For odd y > 0 it is -(z ** y), which is convex below 0.0 and concave above.
    """
    is_odd = y > 0 and y % 2 == 1
    sign = -1.0 if is_odd else 1.0
    return Curve(
        value=lambda z: sign * lax.integer_pow(z, y),
        slope=lambda z: sign * y * lax.integer_pow(z, y - 1),
        inflection=0.0 if is_odd else _INF,
        anchor=1.0,
        above=0.0 if y < 0 else -_INF,
        range=(-_INF, _INF) if is_odd else (0.0, _INF),
        turn=0.0 if y > 0 and not is_odd else None,
    )


def _opposite(lines: Lines) -> Lines:
    """Lines of -f."""
    return Lines(
        tuple(-s for s in lines.upper_slopes),
        -lines.upper_intercept,
        tuple(-s for s in lines.lower_slopes),
        -lines.lower_intercept,
    )


def _reflected(lines: Lines) -> Lines:
    """Lines of f(-z)."""
    return Lines(
        tuple(-s for s in lines.lower_slopes),
        lines.lower_intercept,
        tuple(-s for s in lines.upper_slopes),
        lines.upper_intercept,
    )


def _swap(bounds: Bounds) -> Bounds:
    return Bounds(-bounds.upper, -bounds.lower)


def _unsigned(z: Bounds) -> tuple[Array, Bounds]:
    """Where bounds are negative, and the bounds with those reflected."""
    negative = z.upper < 0.0
    flipped = _swap(z)
    pairs = zip(flipped, z, strict=True)
    return negative, Bounds(*(jnp.where(negative, a, b) for a, b in pairs))


def _interval(z: Bounds, y: int, **_: Any) -> Bounds:
    if y in (0, 1):
        return z if y else Bounds(jnp.ones_like(z.lower), jnp.ones_like(z.upper))
    if y > 0:
        found = curves.interval(_curve(y), z)
        return _swap(found) if y % 2 else found
    negative, z = _unsigned(z)
    found = curves.interval(_curve(y), z)
    if y % 2 == 0:
        return found
    pairs = zip(_swap(found), found, strict=True)
    return Bounds(*(jnp.where(negative, a, b) for a, b in pairs))


def _planes(z: Bounds, alpha: Array, y: int, **_: Any) -> Lines:
    if y in (0, 1):
        slope, one = jnp.full_like(z.lower, float(y)), jnp.full_like(z.lower, 1.0 - y)
        return Lines((slope,), one, (slope,), one)
    if y > 0:
        if y % 2 == 0:
            return curves.planes(_curve(y), z, alpha)
        return _opposite(curves.planes(_curve(y), z, alpha[::-1]))
    negative, z = _unsigned(z)
    found = curves.planes(_curve(y), z, alpha)
    across = _reflected(found)
    return choose(negative, across if y % 2 == 0 else _opposite(across), found)


def _initial(z: Bounds, y: int, **_: Any) -> Array:
    if y in (0, 1):
        return jnp.full((2, *z.lower.shape), 0.5, z.lower.dtype)
    found = curves.initial(_curve(y), _unsigned(z)[1] if y < 0 else z)
    return found[::-1] if y > 0 and y % 2 else found


INTEGER_POW = Relaxation("integer_pow", 2, _interval, _planes, _initial)
RECIPROCAL = Relaxation(
    "reciprocal",
    1,
    lambda z, **_: _interval(z, -1),
    lambda z, alpha, **_: _planes(z, alpha, -1),
    lambda z, **_: _initial(z, -1)[:1],
)


def _power_curves(exponent: Array) -> tuple[Array, Curve, Curve]:
    """Whether z ** exponent is convex for z > 0, and a curve for either case.

    The exponent of the case that is not at hand is replaced by a harmless one.
    """
    convex = (exponent >= 1.0) | (exponent <= 0.0)
    bent = jnp.where(convex, exponent, 1.0), jnp.where(convex, 1.0, exponent)
    found = [
        Curve(
            value=lambda z, e=each: jnp.power(z, e),
            slope=lambda z, e=each: e * jnp.power(z, e - 1.0),
            inflection=inflection,
            anchor=1.0,
            above=0.0,
            range=(0.0, _INF),
        )
        for each, inflection in zip(bent, (_INF, -_INF), strict=True)
    ]
    return convex, found[0], found[1]


def _pow_interval(z: Bounds, exponent: Bounds, **_: Any) -> Bounds:
    convex, bowl, dome = _power_curves(exponent.lower)
    pairs = zip(curves.interval(bowl, z), curves.interval(dome, z), strict=True)
    lower, upper = (jnp.where(convex, a, b) for a, b in pairs)
    known = exponent.lower == exponent.upper
    return Bounds(jnp.where(known, lower, -_INF), jnp.where(known, upper, _INF))


def _pow_planes(z: Bounds, exponent: Bounds, alpha: Array, **_: Any) -> Lines:
    convex, bowl, dome = _power_curves(exponent.lower)
    found = choose(convex, curves.planes(bowl, z, alpha), curves.planes(dome, z, alpha))
    known = exponent.lower == exponent.upper
    found = choose(known, found, constants(_pow_interval(z, exponent)))
    zero = jnp.zeros_like(found.lower_intercept)
    return Lines(
        (*found.lower_slopes, zero),
        found.lower_intercept,
        (*found.upper_slopes, zero),
        found.upper_intercept,
    )


def _pow_initial(z: Bounds, exponent: Bounds, **_: Any) -> Array:
    convex, bowl, dome = _power_curves(exponent.lower)
    return jnp.where(convex, curves.initial(bowl, z), curves.initial(dome, z))[:1]


POW = Relaxation("pow", 1, _pow_interval, _pow_planes, _pow_initial)
