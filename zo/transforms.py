"""Optax transforms that zeroth-order methods need beside optax's own.

Constraints are transforms around another one: `projected` and `proximal` turn the
update u of any optimizer into P(x + u) - x, so `optax.apply_updates` reaches the set
but for the rounding of x + (P - x); schedules and clipping chain with them as ever. A
point that has to be in the set to the last bit is projected once more, which is what an
`Optimizer` with a projection does. Its queries are at points beside x, up to mu outside
of the set: shrink the set by mu where the function cannot be called there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from core.errors import InputError, check_range, describe
from core.types import Array, PyTree, Scalar, Schedule
from zo.sets import Projection, Proximal

Rate = float | Callable[[Any], Any]
"""A step size, or a function from the step, int32 [], to it."""


def rate_at(rate: Rate, step: Array) -> Scalar:
    """Returns the step size at a step."""
    return rate(step) if callable(rate) else rate


def inverse_sqrt(start: float, horizon: int | None = None) -> Schedule:
    """Returns start / sqrt(horizon), or start / sqrt(step + 1) without a horizon.

    The steps of the standard rates O(sqrt(d / T)), non-convex and convex.

    Args:
      start: eta_0, positive.
      horizon: T, the number of steps if it is known.

    Raises:
      InputError: out of range.
    """
    check_range("start", start, 0.0, low_open=True)
    if horizon is not None:
        check_range("horizon", horizon, 1)

    def rate(step: Array) -> Array:
        count = jnp.asarray(step + 1 if horizon is None else horizon, jnp.float32)
        return jnp.float32(start) / jnp.sqrt(count)

    return rate


def inverse(start: float, delay: float = 0.0) -> Schedule:
    """Returns start / (1 + step / delay), or start / (step + 1) for no delay.

    The steps of the standard rate O(d / T), strongly convex.

    Args:
      start: the first rate, positive.
      delay: steps after which it has halved.

    Raises:
      InputError: out of range.
    """
    check_range("start", start, 0.0, low_open=True)
    check_range("delay", delay, 0.0)

    def rate(step: Array) -> Array:
        t = jnp.asarray(step, jnp.float32)
        return jnp.float32(start) / (1 + t / (delay or 1.0))

    return rate


def horizon_mu(d: int, horizon: int, scale: float = 1.0, least: float = 1e-4) -> float:
    """Returns mu = scale / (d sqrt(horizon)), with which its bias is of lower order.

    The standard rate O(1 / sqrt(d T)) is that of the whole step along a direction of
    length 1. Here mu is the step of one number, and directions have length sqrt(d).

    Args:
      d: dimensions.
      horizon: T, steps.
      scale: in units of x.
      least: floor; below about 1e-4 differences of float32 values of order 1 are noise.

    Raises:
      InputError: no dimensions or steps.
    """
    check_range("d", d, 1)
    check_range("horizon", horizon, 1)
    return max(scale / (d * horizon**0.5), least)


def projected(
    inner: optax.GradientTransformation, projection: Projection
) -> optax.GradientTransformationExtraArgs:
    """Returns `inner` whose steps end in a set, but for rounding: x <- P(x + u).

    Args:
      inner: an optimizer.
      projection: of `zo.sets`, or alike.
    """
    return _around(inner, lambda x, _: projection(x, None), "zo.projected")


def proximal(
    inner: optax.GradientTransformation, prox: Proximal, rate: Rate
) -> optax.GradientTransformationExtraArgs:
    """Returns `inner` with a proximal step after each of its own: x <- prox(x + u).

    Minimises f + r where r is known and need not be smooth, such as `sets.l1`.

    Args:
      inner: an optimizer of f, such as `optax.sgd(rate)`.
      prox: of r.
      rate: t, the step size of `inner`.
    """

    def put(x: PyTree, step: Array) -> PyTree:
        return prox(x, jnp.asarray(rate_at(rate, step), jnp.float32))

    return _around(inner, put, "zo.proximal")


class ProjectedState(NamedTuple):
    """State of `projected` and `proximal`: steps so far, and that of the inner."""

    step: Array
    inner: optax.OptState


def _around(inner: optax.GradientTransformation, put, name: str):
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> ProjectedState:
        return ProjectedState(jnp.zeros((), jnp.int32), inner.init(params))

    def update(updates, state, params=None, **extra):
        params = _needed(params, name)
        updates, now = inner.update(updates, state.inner, params, **extra)
        updates = jax.tree.map(lambda x, u: u.astype(x.dtype), params, updates)
        reached = put(jax.tree.map(jnp.add, params, updates), state.step)
        updates = jax.tree.map(jnp.subtract, reached, params)
        return updates, ProjectedState(state.step + 1, now)

    return optax.GradientTransformationExtraArgs(init, update)


class AdaMMState(NamedTuple):
    """State of `adamm`: steps, moments m and v, and the largest v so far, like x."""

    step: Array
    m: PyTree
    v: PyTree
    largest: PyTree


def adamm(
    rate: Rate,
    *,
    b1: float = 0.9,
    b2: float = 0.3,
    eps: float = 1e-8,
    projection: Projection | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The adaptive momentum method of ZO-AdaMM.

        m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2,   w <- max(w, v)
        x <- the point of the set nearest to x - rate m / sqrt(w) in the metric sqrt(w)

    Moments are not corrected for their start; what is 0 stays.

    Args:
      rate: step size.
      b1: decay of m, in [0, 1).
      b2: decay of v, in [0, 1).
      eps: added to sqrt(w).
      projection: onto the set; all of space if None.

    Returns:
      A transform with `AdaMMState`; `update` needs params.

    Raises:
      InputError: decays out of range.

    References:
      Chen et al., arXiv 1910.06513, algorithm 1.
    """
    check_range("b1", b1, 0.0, 0.9999)
    check_range("b2", b2, 0.0, 0.9999)
    check_range("eps", eps, 0.0, low_open=True)

    def init(params: PyTree) -> AdaMMState:
        zeros = [jax.tree.map(jnp.zeros_like, params) for _ in range(3)]
        return AdaMMState(jnp.zeros((), jnp.int32), *zeros)

    def update(updates, state, params=None, **extra):
        del extra
        params = _needed(params, "zo.adamm")

        def mean(decay: float, old: PyTree, new: PyTree) -> PyTree:
            return jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, old, new)

        grads = jax.tree.map(lambda x, g: g.astype(x.dtype), params, updates)
        m = mean(b1, state.m, grads)
        v = mean(b2, state.v, jax.tree.map(jnp.square, grads))
        largest = jax.tree.map(jnp.maximum, state.largest, v)
        metric = jax.tree.map(lambda w: jnp.sqrt(w) + eps, largest)
        step_size = rate_at(rate, state.step)

        def move(m: Array, w: Array) -> Array:
            return -jnp.asarray(step_size, m.dtype) * m / w

        moved = jax.tree.map(move, m, metric)
        if projection is not None:
            reached = projection(jax.tree.map(jnp.add, params, moved), metric)
            moved = jax.tree.map(jnp.subtract, reached, params)
        return moved, AdaMMState(state.step + 1, m, v, largest)

    return optax.GradientTransformationExtraArgs(init, update)


def _needed(params: PyTree | None, name: str) -> PyTree:
    if params is None:
        given = describe("params=None", "the current parameters")
        raise InputError(f"{name}: {given}. Call update(updates, state, params).")
    return params


TRANSFORMS = {"adamm": adamm, "projected": projected, "proximal": proximal}
"""Every transform of this room by name; one contract test walks it."""
