"""What a relaxation is, and the arithmetic that all of them share."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from core.types import Array
from verify.types import Bounds, Lines

ULPS = 16.0
"""Units of rounding that smooth rules give away, relative to the terms of a line."""


@dataclasses.dataclass(frozen=True)
class Relaxation:
    """Sound bounds of an elementwise operator h = f(z_1, .., z_m).

    Every function is pure, works under `jit`, `vmap` and `grad` with finite
    derivatives, and takes the parameters of the operator as keywords, ignoring those
    it has no use for. Where f is not defined on all of an interval, or overflows, the
    bounds are infinite and the slopes 0.0.

    Attributes:
      name: of the operator in a graph.
      free: k, how many free parameters each element has.
      interval: `(*bounds, **params) -> Bounds` of h.
      planes: `(*bounds, alpha, **params) -> Lines`; see `lines`.
      initial: `(*bounds, **params) -> alpha [k, *h.shape]`, the default parameters:
        those of least area between the line and f, or nearly so.
    """

    name: str
    free: int
    interval: Callable[..., Bounds]
    planes: Callable[..., Lines]
    initial: Callable[..., Array]

    def lines(self, *bounds: Bounds, alpha: Array | None = None, **params: Any):
        """Returns linear bounds of h that hold inside of `bounds`.

        Args:
          *bounds: of each operand, float arrays of the operand's shape with
            lower <= upper, finite.
          alpha: free parameters [k, *h.shape] in [0, 1], where every value is sound;
            None for `initial`.
          **params: of the operator.

        Returns:
          `Lines`, arrays of h's shape.
        """
        if alpha is None:
            alpha = self.initial(*bounds, **params)
        return self.planes(*bounds, alpha=alpha, **params)


def rounding(*terms: Array, ulps: float = ULPS) -> Array:
    """Returns how much the sum of terms of such magnitudes may be rounded by.

    `ulps * eps * sum |term|`, plus a little above what flushes to zero. It is constant
    under differentiation.
    """
    dtype = terms[0].dtype
    total = sum((jnp.abs(lax.stop_gradient(t)) for t in terms), jnp.zeros((), dtype))
    info = jnp.finfo(dtype)
    return ulps * float(info.eps) * total + 4.0 * float(info.tiny)


def magnitude(bounds: Bounds) -> Array:
    """Returns the largest absolute value inside of bounds."""
    return jnp.maximum(jnp.abs(bounds.lower), jnp.abs(bounds.upper))


def mix(weight: Array, first: Sequence[Array], second: Sequence[Array]) -> list[Array]:
    """Returns `weight * first + (1 - weight) * second`, numbers of two lines.

    A convex combination of two lines above f is above f.
    """
    return [b + weight * (a - b) for a, b in zip(first, second, strict=True)]


def is_narrow(bounds: Bounds) -> Array:
    """Whether a slope between the two ends would consist of rounding, or overflow.

    That is a width below sqrt(eps) of the magnitude, or one whose square underflows.
    """
    info = jnp.finfo(bounds.lower.dtype)
    least = float(info.eps) ** 0.5 * magnitude(bounds) + 4.0 * float(info.tiny) ** 0.5
    return bounds.upper - bounds.lower <= least


def ratio(top: Array, bottom: Array, where: Array, otherwise: Array) -> Array:
    """Returns top / bottom where `where`, else `otherwise`, with finite derivatives."""
    return jnp.where(where, top / jnp.where(where, bottom, 1.0), otherwise)


def constants(bounds: Bounds) -> Lines:
    """Returns lines of slope 0.0 at the bounds of h."""
    flat = (jnp.zeros_like(bounds.lower),)
    return Lines(flat, bounds.lower, flat, bounds.upper)


def choose(where: Array, first: Lines, second: Lines) -> Lines:
    """Returns `first` where `where`, else `second`."""
    return jax.tree.map(lambda a, b: jnp.where(where, a, b), first, second)
