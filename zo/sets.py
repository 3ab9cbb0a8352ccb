"""Projections onto simple sets, and proximal operators, for steps that stay feasible.

A projection is called with a point and a metric, both pytrees alike: it returns the
point of the set nearest in sum_i metric_i (z_i - y_i)^2; metric None is all ones.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from core.errors import InputError, check_range, describe
from core.types import Array, PyTree

Projection = Callable[[PyTree, PyTree | None], PyTree]
Proximal = Callable[[PyTree, Array], PyTree]
"""`prox(y, t)`: the z of least t r(z) + ||z - y||^2 / 2."""
_HALVINGS = 60


def box(low: PyTree | float, high: PyTree | float) -> Projection:
    """Returns the projection onto low <= z <= high, which no metric changes.

    Args:
      low: numbers, or trees like the point.
      high: likewise, nowhere below `low`.

    Raises:
      InputError: two numbers without a box between them.
    """
    numbers = [isinstance(x, float | int) for x in (low, high)]
    if all(numbers) and not low <= high:  # type: ignore[operator]
        raise InputError(describe(f"a box [{low}, {high}]", "low <= high"))

    def bounds(of: PyTree | float, y: PyTree) -> PyTree:
        if isinstance(of, float | int):
            return jax.tree.map(lambda leaf: jnp.full_like(leaf, of), y)
        return of

    def project(y: PyTree, metric: PyTree | None = None) -> PyTree:
        del metric
        return jax.tree.map(jnp.clip, y, bounds(low, y), bounds(high, y))

    return project


def l2_ball(radius: float, center: PyTree | None = None) -> Projection:
    """Returns the projection onto ||z - center|| <= radius, in any metric.

    With a metric w it is z_i - c_i = w_i (y_i - c_i) / (w_i + nu), with nu >= 0 such
    that the norm is the radius, found by halving an interval.

    Args:
      radius: positive.
      center: like the point; 0 if None.

    Raises:
      InputError: a radius that is not positive.
    """
    check_range("radius", radius, 0.0, low_open=True)

    def project(y: PyTree, metric: PyTree | None = None) -> PyTree:
        away = y if center is None else jax.tree.map(jnp.subtract, y, center)
        length = _norm(away)
        if metric is None:
            scale = radius / jnp.maximum(length, radius)
            inside = jax.tree.map(lambda leaf: leaf * scale, away)
        else:
            nu = _multiplier(away, metric, length, radius)
            inside = jax.tree.map(
                lambda w, leaf: jnp.where(nu > 0, w / (w + nu), 1) * leaf, metric, away
            )
        return inside if center is None else jax.tree.map(jnp.add, inside, center)

    return project


def _multiplier(away: PyTree, metric: PyTree, length: Array, radius: float) -> Array:
    """Returns nu of `l2_ball`; 0 within the ball."""

    def norm(nu: Array) -> Array:
        return _norm(jax.tree.map(lambda w, a: w / (w + nu) * a, metric, away))

    # ||w a / (w + nu)|| <= max w ||a|| / nu, so the root is below this end.
    widest = jnp.stack([leaf.max() for leaf in jax.tree.leaves(metric)]).max()
    high = widest * length / radius

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        outside = norm(middle) > radius
        return jnp.where(outside, middle, low), jnp.where(outside, high, middle)

    nu = lax.fori_loop(0, _HALVINGS, halve, (jnp.zeros_like(high), high))[1]
    return jnp.where(length > radius, nu, 0)


def _norm(tree: PyTree) -> Array:
    return jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(tree)))


def l1(strength: float) -> Proximal:
    """Returns the proximal operator of strength ||z||_1: entries shrink towards 0.

    Args:
      strength: not negative.

    Raises:
      InputError: negative.
    """
    check_range("strength", strength, 0.0)

    def prox(y: PyTree, t: Array) -> PyTree:
        def shrink(leaf: Array) -> Array:
            kept = jnp.maximum(jnp.abs(leaf) - t.astype(leaf.dtype) * strength, 0)
            return jnp.sign(leaf) * kept

        return jax.tree.map(shrink, y)

    return prox
