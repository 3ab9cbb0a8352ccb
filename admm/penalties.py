"""Penalties of ADMM: schedules over iterations, and their balance leaf by leaf."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp

from core.errors import InputError, check_range, describe
from core.types import Array

Rho: TypeAlias = float | Callable[[Array], Array]
"""A penalty, or a function from the iteration, int32 [], to the penalty."""


def geometric_rho(start: float, growth: float, limit: float) -> Rho:
    """Returns `rho(iteration) = min(start * growth ** iteration, limit)`.

    Args:
      start: the first penalty, positive, in units of loss per squared weight.
      growth: the factor per iteration, at least 1.
      limit: the largest penalty.

    Raises:
      InputError: out of range.
    """
    check_range("start", start, 0.0, low_open=True)
    check_range("growth", growth, 1.0)
    check_range("limit", limit, start)

    def rho(iteration: Array) -> Array:
        grown = jnp.float32(start) * jnp.float32(growth) ** iteration.astype(
            jnp.float32
        )
        return jnp.minimum(grown, jnp.float32(limit))

    return rho


def rising_rho(first: float, last: float, iterations: int) -> Rho:
    """Returns the `geometric_rho` that is `last` after so many iterations.

    Args:
      first: the penalty of iteration 0, positive.
      last: that of iteration `iterations` and of all later ones, at least `first`.
      iterations: at least 1.

    Raises:
      InputError: out of range.

    Example:
      >>> rho = rising_rho(1e-3, 1e-1, iterations=2)
      >>> [round(float(rho(jnp.int32(i))), 4) for i in range(4)]
      [0.001, 0.01, 0.1, 0.1]
    """
    check_range("iterations", iterations, 1)
    check_range("first", first, 0.0, low_open=True)
    check_range("last", last, first)
    return geometric_rho(first, (last / first) ** (1 / iterations), last)


def stepped_rho(values: Sequence[float], iterations: int) -> Rho:
    """Returns a penalty that takes the next of `values` every few iterations.

    "Multi-rho" training: each value is kept until ADMM has about settled, then the
    next one draws the weights closer to their sets (arXiv 1903.09769).

    Args:
      values: penalties, positive; the last one stays.
      iterations: how many each of them lasts, at least 1.

    Raises:
      InputError: no values, one that is not positive, or iterations below 1.

    Example:
      >>> rho = stepped_rho((1e-3, 1e-2), iterations=2)
      >>> [round(float(rho(jnp.int32(i))), 4) for i in range(5)]
      [0.001, 0.001, 0.01, 0.01, 0.01]
    """
    check_range("iterations", iterations, 1)
    if not values:
        raise InputError(describe("no values of rho", "at least one"))
    for value in values:
        check_range("values", value, 0.0, low_open=True)
    table = jnp.asarray(values, jnp.float32)

    def rho(iteration: Array) -> Array:
        return table[jnp.minimum(iteration // iterations, len(values) - 1)]

    return rho


@dataclasses.dataclass(frozen=True)
class Balance:
    """Penalties of single leaves, from how far each is from feasible and from still.

    After an iteration a leaf's own factor of rho is multiplied by `factor` where its
    relative primal residual ||W - Z|| / max(||W||, ||Z||) is more than `ratio` times
    the dual one ||Z - Z_previous|| / ||U||, and divided by it the other way round
    (residual balancing: Boyd et al. 2011, section 3.4.1; relative residuals: arXiv
    1704.06209), with the U of the same iteration. So a layer whose weights are far from
    their set is drawn harder.

    Attributes:
      ratio: above which residuals are out of balance, at least 1.
      factor: of one change, above 1.
      limit: the largest factor of rho; the least one is its inverse.
    """

    ratio: float = 10.0
    factor: float = 2.0
    limit: float = 100.0

    def __post_init__(self):
        check_range("ratio", self.ratio, 1.0)
        check_range("factor", self.factor, 1.0, low_open=True)
        check_range("limit", self.limit, 1.0)

    def __call__(self, old: Array, primal: Array, dual: Array) -> Array:
        """Returns the next factor of a leaf.

        Args:
          old: the factor so far, float32 [].
          primal: the relative primal residual, float32 [].
          dual: the relative dual residual, float32 [].
        """
        up = jnp.where(primal > self.ratio * dual, self.factor, 1.0)
        change = jnp.where(dual > self.ratio * primal, 1.0 / self.factor, up)
        return jnp.clip(old * change, 1.0 / self.limit, self.limit)


def check_rho(rho: Rho) -> None:
    """Raises unless the first penalty is positive and finite."""
    first = rho(jnp.zeros((), jnp.int32)) if callable(rho) else rho
    try:
        value = float(first)
    except jax.errors.ConcretizationTypeError:  # traced: no value yet
        return
    largest = float(jnp.finfo(jnp.float32).max)
    check_range("rho", value, 0.0, largest, low_open=True)


def rho_at(rho: Rho, iteration: Array) -> Array:
    """Returns the penalty of an iteration, float32 []."""
    value = rho(iteration) if callable(rho) else rho
    return jnp.asarray(value, jnp.float32)
