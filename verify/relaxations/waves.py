"""Relaxations of sin and cos."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
from jax import lax

from core.types import Array
from verify.relaxations import curves
from verify.relaxations.base import (
    Relaxation,
    choose,
    constants,
    magnitude,
    rounding,
)
from verify.relaxations.curves import Curve
from verify.types import Bounds, Lines

# sin is convex on [-pi, 0] and concave on [0, pi].
_ARC = Curve(
    jnp.sin,
    jnp.cos,
    0.0,
    range=(-1.0, 1.0),
    reach=lambda distance: jnp.full_like(distance, math.pi),
)


@dataclasses.dataclass(frozen=True)
class _Wave:
    """sin(z + phase)."""

    phase: float

    def interval(self, z: Bounds, **_: Any) -> Bounds:
        """Both ends, and +-1 where a crest or a trough lies between."""
        z = Bounds(z.lower + self.phase, z.upper + self.phase)
        ends = jnp.sin(z.lower), jnp.sin(z.upper)
        slack = rounding(*z) + rounding(jnp.ones_like(z.lower))
        lower = jnp.maximum(jnp.minimum(*ends) - slack, -1.0)
        upper = jnp.minimum(jnp.maximum(*ends) + slack, 1.0)
        lower = jnp.where(_passes(z, 1.5 * math.pi, slack), -1.0, lower)
        return Bounds(lower, jnp.where(_passes(z, 0.5 * math.pi, slack), 1.0, upper))

    def planes(self, z: Bounds, alpha: Array, **_: Any) -> Lines:
        """The lines of the arc around the nearest inflection; constants if too wide."""
        arc, shift, odd, fits = self._arc(z)
        found = curves.planes(_ARC, arc, jnp.where(odd, alpha[::-1], alpha))
        (a,), b, (c,), d = found
        below, low = jnp.where(odd, -c, a), jnp.where(odd, -d, b)
        above, high = jnp.where(odd, -a, c), jnp.where(odd, -b, d)
        slack = rounding(magnitude(z), shift)
        moved = Lines(
            (below,),
            low - below * shift - slack,
            (above,),
            high - above * shift + slack,
        )
        return choose(fits, moved, constants(self.interval(z)))

    def initial(self, z: Bounds, **_: Any) -> Array:
        """Of least area."""
        arc, _shift, odd, _fits = self._arc(z)
        found = curves.initial(_ARC, arc)
        return jnp.where(odd, found[::-1], found)

    def _arc(self, z: Bounds) -> tuple[Bounds, Array, Array, Array]:
        """Bounds relative to the inflection nearest to the middle, and how they fit."""
        fixed = lax.stop_gradient(z)
        middle = fixed.lower + 0.5 * (fixed.upper - fixed.lower) + self.phase
        count = jnp.round(middle / math.pi)
        shift = count * math.pi - self.phase
        odd = jnp.mod(count, 2.0) == 1.0
        fits = fixed.upper - fixed.lower <= 3.1
        arc = (jnp.where(fits, end - shift, 0.0) for end in z)
        return Bounds(*arc), shift, odd, fits


def _passes(z: Bounds, point: float, slack: Array) -> Array:
    """Whether z holds point + 2 pi k for some k, or nearly so."""
    turn = 2.0 * math.pi
    upto = jnp.floor((lax.stop_gradient(z.upper) + slack - point) / turn)
    return upto * turn + point >= lax.stop_gradient(z.lower) - slack


def _relaxation(name: str, phase: float) -> Relaxation:
    wave = _Wave(phase)
    return Relaxation(name, 2, wave.interval, wave.planes, wave.initial)


SIN = _relaxation("sin", 0.0)
COS = _relaxation("cos", 0.5 * math.pi)
