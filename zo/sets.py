"""Projections onto simple sets, and proximal operators, for steps that stay feasible.

A projection is called with a point and a metric, both pytrees alike: it returns the
point of the set nearest in sum_i metric_i (z_i - y_i)^2; metric None is all ones.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from core.errors import InputError, check_range, describe
from core.types import Array, PyTree
from zo.base import known, widened

Projection = Callable[[PyTree, PyTree | None], PyTree]
Proximal = Callable[[PyTree, Array], PyTree]
"""`prox(y, t)`: the z of least t r(z) + ||z - y||^2 / 2."""
_HALVINGS = 60


def box(low: PyTree | float, high: PyTree | float) -> Projection:
    """Returns the projection onto low <= z <= high, which no metric changes.

    Args:
      low: a number for all entries, an array for a point that is one, or a tree like
        the point; of any dtype, and rounded to that of the point.
      high: likewise, nowhere below `low`.

    Raises:
      InputError: bounds that are known, without a box between them.
    """
    ends = jax.tree.leaves(low), jax.tree.leaves(high)
    if known(low, high) and len(ends[0]) == len(ends[1]):
        fits = [np.all(np.less_equal(a, b)) for a, b in zip(*ends, strict=True)]
        if not all(fits):
            raise InputError(describe(f"a box [{low}, {high}]", "low <= high"))

    def bounds(of: PyTree | float, y: PyTree) -> PyTree:
        if jax.tree.structure(of).num_nodes == 1:
            of = jax.tree.map(lambda _: of, y)
        return jax.tree.map(
            lambda leaf, x: jnp.broadcast_to(jnp.asarray(x, leaf.dtype), leaf.shape),
            y,
            of,
        )

    def project(y: PyTree, metric: PyTree | None = None) -> PyTree:
        del metric
        return jax.tree.map(jnp.clip, y, bounds(low, y), bounds(high, y))

    return project


def l2_ball(radius: float, center: PyTree | None = None) -> Projection:
    """Returns the projection onto ||z - center|| <= radius, in any metric.

    With a metric w it is z_i - c_i = w_i (y_i - c_i) / (w_i + nu), with nu >= 0 such
    that the norm is the radius, found by halving an interval.

    Points end in the ball whatever rounding does: outside of it they are brought to a
    radius that is smaller by what may be lost in rounding the point, 4 eps of its
    dtype, and in the norm of d numbers, sqrt(d) eps of float32 (or float64).

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
        leaves = jax.tree.leaves(y)
        eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in leaves)
        sums = max(float(jnp.finfo(widened(leaf).dtype).eps) for leaf in leaves)
        # What is lost in rounding the point, in a norm, and in adding the center.
        root = sum(leaf.size for leaf in leaves) ** 0.5
        slack = radius * (2 * eps + 0.5 * root * sums)
        if center is not None:
            slack = slack + eps * _norm(center)
        outside = length > radius - slack
        target = jnp.maximum(radius - 2 * slack, 0).astype(length.dtype)
        if metric is None:
            scale = target / jnp.where(outside, length, 1)
            inside = jax.tree.map(lambda leaf: _scaled(leaf, scale), away)
        else:
            nu = _multiplier(away, metric, length, target)
            inside = jax.tree.map(
                lambda w, leaf: _scaled(leaf, _share(w, nu)), metric, away
            )
        if center is not None:
            inside = jax.tree.map(jnp.add, inside, center)
        return jax.tree.map(lambda a, b: jnp.where(outside, a, b), inside, y)

    return project


def _scaled(leaf: Array, factor: Array) -> Array:
    """The product in at least float32, in the dtype of the leaf."""
    return (leaf.astype(factor.dtype) * factor).astype(leaf.dtype)


def _share(w: Array, nu: Array) -> Array:
    w = w.astype(nu.dtype)
    return w / (w + nu)


def _multiplier(away: PyTree, metric: PyTree, length: Array, radius: Array) -> Array:
    """Returns nu of `l2_ball` for a point outside of the ball."""

    def norm(nu: Array) -> Array:
        return _norm(jax.tree.map(lambda w, a: _scaled(a, _share(w, nu)), metric, away))

    # ||w a / (w + nu)|| <= max w ||a|| / nu, so the root is below this end.
    widest = jnp.stack([leaf.max() for leaf in jax.tree.leaves(metric)]).max()
    high = widest.astype(length.dtype) * length / jnp.maximum(radius, 1e-30)

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        outside = norm(middle) > radius
        return jnp.where(outside, middle, low), jnp.where(outside, high, middle)

    return lax.fori_loop(0, _HALVINGS, halve, (jnp.zeros_like(high), high))[1]


def _norm(tree: PyTree) -> Array:
    leaves = [widened(jnp.asarray(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in leaves))


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
