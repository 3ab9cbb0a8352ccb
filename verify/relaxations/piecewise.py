"""Relaxations of piecewise-linear functions: relu and abs.

They are exact up to the rounding of the line itself, so nothing is widened.
"""

from typing import Any

import jax.numpy as jnp

from core.types import Array
from verify.relaxations.base import Relaxation, magnitude, ratio
from verify.types import Bounds, Lines


def _relu_interval(z: Bounds, **_: Any) -> Bounds:
    return Bounds(jnp.maximum(z.lower, 0.0), jnp.maximum(z.upper, 0.0))


def _adaptive(z: Bounds, **_: Any) -> Array:
    """The slope, 0.0 or 1.0, of least area (arXiv 1811.00866, section 3.3)."""
    return (z.upper > -z.lower).astype(z.lower.dtype)[None]


def _share(z: Bounds) -> tuple[Array, Array]:
    """The positive share u / (u - l) of an interval, and whether it is wide enough.

    Of an interval that is too narrow to divide by, the share is 0.0.
    """
    width = z.upper - z.lower
    wide = width > 4.0 * float(jnp.finfo(width.dtype).tiny) ** 0.5
    return ratio(z.upper, width, wide, jnp.zeros_like(width)), wide


def _relu_planes(z: Bounds, alpha: Array, **_: Any) -> Lines:
    """max(z, 0) between alpha z and the chord (arXiv 1811.00866, table 2).

    alpha is the slope of the lower line where the sign of z is open.
    """
    on, off = z.lower >= 0.0, z.upper <= 0.0
    zero = jnp.zeros_like(z.lower)
    slope = _share(z)[0]
    # So that the line is above both ends, also where its slope underflows.
    intercept = jnp.maximum(-slope * z.lower, (1.0 - slope) * z.upper)
    fixed = jnp.where(on & ~off, 1.0, zero)
    known = on | off
    lower = jnp.where(known, fixed, alpha[0])
    upper = jnp.where(known, fixed, slope)
    return Lines((lower,), zero, (upper,), jnp.where(known, 0.0, intercept))


def _abs_interval(z: Bounds, **_: Any) -> Bounds:
    lower = jnp.maximum(jnp.maximum(z.lower, -z.upper), 0.0)
    return Bounds(lower, magnitude(z))


def _abs_planes(z: Bounds, alpha: Array, **_: Any) -> Lines:
    """|z| between (2 alpha - 1) z and the chord."""
    on, off = z.lower >= 0.0, z.upper <= 0.0
    zero = jnp.zeros_like(z.lower)
    wide = _share(z)[1]
    slope = ratio(z.upper + z.lower, z.upper - z.lower, wide, zero)
    ends = (-1.0 - slope) * z.lower, (1.0 - slope) * z.upper
    intercept = jnp.maximum(*ends)
    fixed = jnp.where(on, 1.0, zero - 1.0)
    known = on | off
    lower = jnp.where(known, fixed, 2.0 * alpha[0] - 1.0)
    upper = jnp.where(known, fixed, slope)
    return Lines((lower,), zero, (upper,), jnp.where(known, 0.0, intercept))


RELU = Relaxation("relu", 1, _relu_interval, _relu_planes, _adaptive)
ABS = Relaxation("abs", 1, _abs_interval, _abs_planes, _adaptive)
