"""ADMM as an optax transform: train towards a constraint set.

Minimise f(W) subject to W_i in S_i for every constrained leaf i, in scaled form
(arXiv 1804.03294, section 3; Boyd et al. 2011, section 3.1.1):

    W <- argmin f(W) + sum_i rho/2 ||W_i - Z_i + U_i||^2   (`interval` steps)
    Z <- projection of W + U onto S
    U <- U + W - Z
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from admm.sets import SupportSet, constraints
from core import trees
from core.errors import InputError, check_range, describe
from core.numerics import check_finite
from core.rules import Rules
from core.types import Array, PartialTree, PyTree, Scalar
from gap.transforms import need_params

Rho: TypeAlias = float | Callable[[Array], Array]
"""A penalty, or a function from the iteration, int32 [], to the penalty."""


class ADMMState(NamedTuple):
    """State of `admm`.

    Invariants: `z` and `u` have `None` where a leaf is unconstrained; every leaf
    of `z` lies in its set; `rho * u` (the unscaled dual) does not change when
    `rho` does; `primal` and `dual` are the squared residuals of each leaf at the
    last iteration, `||W - Z||^2` and `||Z - Z_previous||^2`, infinite before it.
    """

    step: Array
    iteration: Array
    rho: Array
    z: PartialTree
    u: PartialTree
    primal: PartialTree
    dual: PartialTree
    inner: optax.OptState


class Residuals(NamedTuple):
    """How far an ADMM run is from feasible and from still; float32 []."""

    primal: Array
    dual: Array
    relative: Array


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


def _check_rho(rho: Rho) -> None:
    """Raises unless the first penalty is positive and finite."""
    first = rho(jnp.zeros((), jnp.int32)) if callable(rho) else rho
    try:
        value = float(first)
    except jax.errors.ConcretizationTypeError:  # traced: no value yet
        return
    largest = float(jnp.finfo(jnp.float32).max)
    check_range("rho", value, 0.0, largest, low_open=True)


def _rho_at(rho: Rho, iteration: Array) -> Array:
    value = rho(iteration) if callable(rho) else rho
    return jnp.asarray(value, jnp.float32)


def init_duals(params: PyTree, rules: Rules, rho: Rho) -> ADMMState:
    """Returns the state before the first step: Z is the projection of W, U is 0.

    `inner` is empty; `admm` fills it. Use it with `penalty_gradient` and
    `iterate` to write a training loop of your own.

    Raises:
      RuleError, InputError: bad rules or rho.
      NonFiniteError: NaN or infinity in a constrained leaf.
    """
    sets = constraints(params, rules)
    check_finite(trees.select(sets, params), "params")
    zero = jnp.zeros((), jnp.int32)
    _check_rho(rho)

    def unknown(*_: object) -> Array:
        return jnp.full((), jnp.inf, jnp.float32)

    return ADMMState(
        step=zero,
        iteration=zero + 0,
        rho=_rho_at(rho, zero),
        z=trees.map_partial(lambda s, w: s.project(w), sets, params),
        u=trees.map_partial(lambda _, w: jnp.zeros_like(w), sets, params),
        primal=trees.map_partial(unknown, sets, params),
        dual=trees.map_partial(unknown, sets, params),
        inner=optax.EmptyState(),
    )


def iterate(params: PyTree, state: ADMMState, rules: Rules, rho: Rho) -> ADMMState:
    """Returns the state after one Z and U update with the weights `params`.

    When `rho` changes, U is rescaled by `rho_old / rho_new`, which keeps the
    unscaled dual.

    Args:
      params: the weights W after the primal step.
      state: the state so far.
      rules: as in `admm`.
      rho: as in `admm`.

    Raises:
      RuleError, InputError: bad rules.
    """
    sets = constraints(params, rules)
    z = trees.map_partial(lambda s, w, u: s.project(w + u), sets, params, state.u)

    def distance(_: object, a: Array, b: Array) -> Array:
        return trees.squared_norm(a - b)

    iteration = state.iteration + 1
    new_rho = _rho_at(rho, iteration)
    scale = state.rho / new_rho
    u = trees.map_partial(
        lambda _, u, w, z: (u + w - z) * scale.astype(u.dtype), sets, state.u, params, z
    )
    return state._replace(
        iteration=iteration,
        rho=new_rho,
        z=z,
        u=u,
        primal=trees.map_partial(distance, sets, params, z),
        dual=trees.map_partial(distance, sets, z, state.z),
    )


def penalty_gradient(params: PyTree, state: ADMMState, grads: PyTree) -> PyTree:
    """Returns `grads` plus `rho * (W - Z + U)` on the constrained leaves."""

    def add(z: Array, g: Array, w: Array, u: Array) -> Array:
        return g + (state.rho.astype(w.dtype) * (w - z + u)).astype(g.dtype)

    return trees.map_partial(
        add, state.z, grads, params, state.u, absent=trees.keep_rest
    )


def augmented_lagrangian(loss: Scalar, params: PyTree, state: ADMMState) -> Array:
    """Returns `loss + rho/2 sum ||W - Z + U||^2 - rho/2 sum ||U||^2`, float32 [].

    Args:
      loss: the value of f at `params`.
      params: the weights W.
      state: an ADMM state of these parameters.
    """
    shifted = trees.map_partial(lambda z, w, u: w - z + u, state.z, params, state.u)
    penalty = trees.squared_norm(shifted) - trees.squared_norm(state.u)
    return jnp.asarray(loss, jnp.float32) + 0.5 * state.rho * penalty


def residuals(params: PyTree, state: ADMMState) -> Residuals:
    """Returns the residuals of the weights as they are now.

    `primal` is `||W - Z||`, `relative` is it divided by `||W||` over the
    constrained leaves, and `dual` is `||Z - Z_previous||` of the last iteration.
    """
    gap = trees.map_partial(lambda z, w: w - z, state.z, params)
    primal = jnp.sqrt(trees.squared_norm(gap))
    norm = jnp.sqrt(trees.squared_norm(trees.select(state.z, params)))
    dual = functools.reduce(jnp.add, jax.tree.leaves(state.dual), jnp.float32(0))
    return Residuals(
        primal, jnp.sqrt(dual), primal / jnp.maximum(norm, jnp.finfo(jnp.float32).tiny)
    )


def admm(
    inner: optax.GradientTransformation,
    rules: Rules,
    *,
    interval: int,
    rho: Rho = 1e-3,
    reset_inner: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """ADMM with `inner` as the optimizer of the primal step.

    Each update adds the gradient of the quadratic term. Every `interval` steps,
    before the gradient is used, Z and U are updated from the weights as they then
    are, inside a `lax.cond`: nothing recompiles and nothing leaves the device. (Under
    `vmap` XLA computes both branches of a `cond` at every step.) The gradient passed in
    must not contain the quadratic term. The number of iterations is the caller's; stop
    when `residuals` are small enough, or after a fixed number as the paper's code does.

    Args:
      inner: the optimizer of the primal step, such as `optax.adam(1e-3)`.
      rules: pairs of a path regex and a constraint set, or a density in [0, 1].
      interval: optimizer steps per ADMM iteration.
      rho: the penalty, positive, or a function of the iteration, positive at every
        one, such as `geometric_rho`.
      reset_inner: whether `inner` starts afresh at every iteration; adaptive
        moments and learning-rate schedules otherwise damp the new pull. All of its
        state is renewed, injected hyperparameters included.

    Returns:
      A transform with `ADMMState`; `update` needs `params`. After the last step
      call `finish` for the pruned weights and their masks.

    Raises:
      InputError: interval below 1 or a rho that is not positive.
      RuleError: a rule that matches no leaf, at `init`.
      NonFiniteError: NaN or infinity in a constrained leaf, at `init`.

    References:
      Zhang et al., arXiv 1804.03294, equations 5 to 8.
    """
    check_range("interval", interval, 1)
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> ADMMState:
        return init_duals(params, rules, rho)._replace(inner=inner.init(params))

    def update(updates, state, params=None, **extra):
        params = need_params(params, "admm.admm")

        def new_iteration(state: ADMMState) -> ADMMState:
            new = iterate(params, state, rules, rho)
            if not reset_inner:
                return new
            # Moments may have taken the gradients' dtype in the first update.
            fresh = jax.tree.map(
                lambda x, old: jnp.asarray(x, jnp.result_type(old)),
                inner.init(params),
                state.inner,
            )
            return new._replace(inner=fresh)

        due = (state.step > 0) & (state.step % interval == 0)
        state = jax.lax.cond(due, new_iteration, lambda s: s, state)
        updates = penalty_gradient(params, state, updates)
        updates, inner_state = inner.update(updates, state.inner, params, **extra)
        return updates, state._replace(step=state.step + 1, inner=inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def finish(params: PyTree, rules: Rules) -> tuple[PyTree, PartialTree]:
    """Projects the weights onto their sets and returns masks for retraining.

    Args:
      params: the weights W after the last ADMM step.
      rules: as in `admm`.

    Returns:
      The projected parameters and a mask tree. Train on with
      `gap.masked(optimizer, masks)`. A leaf whose set has no support (circulant, low
      rank, levels) keeps `None` there, and leaves its set when it trains on: hold it
      still, or train its generators or factors instead.

    Raises:
      NonFiniteError: NaN or infinity in a constrained leaf.
      InputError: no constrained leaf.
    """
    sets = constraints(params, rules)
    check_finite(trees.select(sets, params), "params")
    if not jax.tree.leaves(trees.select(sets, params)):
        raise InputError(describe(f"rules {rules!r}", "at least one constrained leaf"))
    masks = trees.map_partial(
        lambda s, w: s.support(w) if isinstance(s, SupportSet) else None, sets, params
    )
    projected = trees.map_partial(
        lambda s, w: s.project(w), sets, params, absent=trees.keep_rest
    )
    return projected, masks
