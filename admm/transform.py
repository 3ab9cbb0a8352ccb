"""ADMM as an optax transform: train towards a constraint set.

Minimise f(W) subject to W_i in S_i for every constrained leaf i, in scaled form
(arXiv 1804.03294, section 3; Boyd et al. 2011, section 3.1.1):

    W <- argmin f(W) + sum_i rho/2 ||W_i - Z_i + U_i||^2   (`interval` steps)
    Z <- projection of W + U onto S
    U <- U + W - Z

A leaf of several sets has a Z and a U for each: its quadratic term is the sum over
them, which is ADMM in consensus form.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

from admm.low_rank import wide
from admm.penalties import Balance, Rho, check_rho, rho_at
from admm.sets import ConstraintSet, constraints
from core import trees
from core.errors import check_range
from core.numerics import check_finite
from core.rules import Rules
from core.types import Array, PartialTree, PyTree, Scalar
from gap.transforms import need_params


class ADMMState(NamedTuple):
    """State of `admm`.

    Invariants: `z` and `u` have `None` where a leaf is unconstrained, and a tuple for a
    leaf of several sets, in float32 for leaves of half precision; every leaf of `z`
    lies in its set; the penalty of a leaf is `rho * factor`, and its product with `u`
    (the unscaled dual) does not change when it does; `primal` and `dual` are the
    squared residuals of each leaf at the last iteration, `||W - Z||^2` and
    `||Z - Z_previous||^2`, infinite before it.
    """

    step: Array
    iteration: Array
    rho: Array
    factor: PartialTree
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


def _each(f: Any, spec: Any, *rest: Any) -> Any:
    """Maps over the one set of a leaf, or over its several."""
    return jax.tree.map(f, spec, *rest, is_leaf=lambda s: isinstance(s, ConstraintSet))


def _distance(a: Any, b: Any) -> Array:
    """||a - b||^2, of several together, float32 []."""
    return trees.squared_norm(jax.tree.map(lambda a, b: a - b, a, b))


def _offset(w: Array, z: Any, u: Any) -> Any:
    """W - Z + U of every set of a leaf."""
    return jax.tree.map(lambda z, u: w - z + u, z, u)


def _gap(w: Array, z: Any) -> Any:
    """W - Z of every set of a leaf."""
    return jax.tree.map(lambda z: w - z, z)


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
    check_rho(rho)

    def unknown(*_: object) -> Array:
        return jnp.full((), jnp.inf, jnp.float32)

    state = ADMMState(
        step=zero,
        iteration=zero + 0,
        rho=rho_at(rho, zero),
        factor=trees.map_partial(lambda *_: jnp.ones((), jnp.float32), sets, params),
        z=trees.map_partial(
            lambda s, w: _each(lambda s: s.project(wide(w)), s), sets, params
        ),
        u=trees.map_partial(
            lambda s, w: _each(lambda _: jnp.zeros_like(wide(w)), s), sets, params
        ),
        primal=trees.map_partial(unknown, sets, params),
        dual=trees.map_partial(unknown, sets, params),
        inner=optax.EmptyState(),
    )
    return _beside(params, state)


def _beside(params: PyTree, state: ADMMState) -> ADMMState:
    """The state with Z and U beside their leaves, scalars on all of their mesh.

    That is where a compiled step puts them, whatever a projection does with its
    operand: elsewhere they would cost a second compilation. As it is under `jit`.
    """
    leaves = jax.tree.leaves((params, state))
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return state
    places = [getattr(leaf, "sharding", None) for leaf in leaves]
    meshes = [place.mesh for place in places if isinstance(place, NamedSharding)]
    if not meshes:
        return state
    everywhere = NamedSharding(meshes[0], PartitionSpec())

    def put(part: Any, w: Array) -> Any:
        place = getattr(w, "sharding", None)
        return jax.device_put(part, place) if isinstance(place, NamedSharding) else part

    state = state._replace(
        z=trees.map_partial(put, state.z, params),
        u=trees.map_partial(put, state.u, params),
    )
    return jax.tree.map(
        lambda x: x if jnp.ndim(x) else jax.device_put(x, everywhere), state
    )


def iterate(
    params: PyTree,
    state: ADMMState,
    rules: Rules,
    rho: Rho,
    balance: Balance | None = None,
) -> ADMMState:
    """Returns the state after one Z and U update with the weights `params`.

    When a penalty changes, U is rescaled by the old one over the new one, which keeps
    the unscaled dual.

    Args:
      params: the weights W after the primal step.
      state: the state so far.
      rules: as in `admm`.
      rho: as in `admm`.
      balance: as in `admm`.

    Raises:
      RuleError, InputError: bad rules.
    """
    sets = constraints(params, rules)
    iteration = state.iteration + 1
    new_rho = rho_at(rho, iteration)

    def turn(spec: Any, w: Array, z: Any, u: Any, factor: Array) -> tuple[Any, ...]:
        w = wide(w)
        new = _each(lambda s, u: s.project(w + u), spec, u)
        dual = jax.tree.map(lambda u, z: u + w - z, u, new)
        primal, still = trees.squared_norm(_gap(w, new)), _distance(new, z)
        after = factor
        if balance is not None:
            after = balance(factor, *_relative(w, new, dual, primal, still))
        scale = state.rho * factor / (new_rho * after)
        dual = jax.tree.map(lambda u: u * scale.astype(u.dtype), dual)
        return new, dual, after, primal, still

    found = trees.map_partial(turn, sets, params, state.z, state.u, state.factor)
    z, u, factor, primal, dual = (
        trees.map_partial(lambda _, w, parts, i=i: parts[i], sets, params, found)
        for i in range(5)
    )
    new = state._replace(
        iteration=iteration,
        rho=new_rho,
        factor=factor,
        z=z,
        u=u,
        primal=primal,
        dual=dual,
    )
    return _beside(params, new)


def _relative(w: Array, z: Any, u: Any, primal: Array, still: Array) -> list[Array]:
    """||W - Z|| / max(||W||, ||Z||) and ||Z - Z_previous|| / ||U|| of a leaf."""
    tiny = jnp.finfo(jnp.float32).tiny
    size = jnp.maximum(_size(z, w), trees.squared_norm(z))
    pairs = ((primal, size), (still, trees.squared_norm(u)))
    return [jnp.sqrt(a / jnp.maximum(b, tiny)) for a, b in pairs]


def _size(z: Any, w: Array) -> Array:
    """||W||^2 of a leaf, once for each of its sets."""
    return len(jax.tree.leaves(z)) * trees.squared_norm(w)


def _norm(params: PyTree, state: ADMMState) -> Array:
    """||W|| over the constrained leaves, once for each set, float32 []."""
    sizes = trees.map_partial(_size, state.z, params)
    return jnp.sqrt(functools.reduce(jnp.add, jax.tree.leaves(sizes), jnp.float32(0)))


def _pull(z: Any, w: Array, u: Any) -> Array:
    """The sum over a leaf's sets of W - Z + U."""
    return functools.reduce(jnp.add, jax.tree.leaves(_offset(w, z, u)))


def penalty_gradient(params: PyTree, state: ADMMState, grads: PyTree) -> PyTree:
    """Returns `grads` plus `rho * (W - Z + U)` on the constrained leaves."""

    def add(z: Any, g: Array, w: Array, u: Any, factor: Array) -> Array:
        pull = _pull(z, wide(w), u)
        rho = (state.rho * factor).astype(pull.dtype)
        return g + (rho * pull).astype(g.dtype)

    return trees.map_partial(
        add, state.z, grads, params, state.u, state.factor, absent=trees.keep_rest
    )


def augmented_lagrangian(loss: Scalar, params: PyTree, state: ADMMState) -> Array:
    """Returns `loss + rho/2 sum ||W - Z + U||^2 - rho/2 sum ||U||^2`, float32 [].

    Args:
      loss: the value of f at `params`.
      params: the weights W.
      state: an ADMM state of these parameters.
    """

    def penalty(z: Any, w: Array, u: Any, factor: Array) -> Array:
        shifted = trees.squared_norm(_offset(wide(w), z, u))
        return factor * (shifted - trees.squared_norm(u))

    each = trees.map_partial(penalty, state.z, params, state.u, state.factor)
    total = functools.reduce(jnp.add, jax.tree.leaves(each), jnp.float32(0))
    return jnp.asarray(loss, jnp.float32) + 0.5 * state.rho * total


def residuals(params: PyTree, state: ADMMState) -> Residuals:
    """Returns the residuals of the weights as they are now.

    `primal` is `||W - Z||`, `relative` is it divided by `||W||` over the
    constrained leaves, and `dual` is `||Z - Z_previous||` of the last iteration. In a
    leaf of n sets W counts n times, once beside each Z: `relative` of a set that is
    named n times is that of the set.
    """
    gap = trees.map_partial(lambda z, w: _gap(wide(w), z), state.z, params)
    primal = jnp.sqrt(trees.squared_norm(gap))
    norm = _norm(params, state)
    dual = functools.reduce(jnp.add, jax.tree.leaves(state.dual), jnp.float32(0))
    return Residuals(
        primal, jnp.sqrt(dual), primal / jnp.maximum(norm, jnp.finfo(jnp.float32).tiny)
    )


def converged(params: PyTree, state: ADMMState, tolerance: float) -> Array:
    """Returns whether an ADMM run may stop, bool [].

    When ||W - Z|| and ||Z - Z_previous|| are at most `tolerance` times ||W||, over the
    constrained leaves (arXiv 1804.03294, equation 9, in relative terms); W counts once
    for each set of a leaf, as in `residuals`.

    Args:
      params: the weights W.
      state: after an iteration; before the first one nothing has converged.
      tolerance: relative, at least 0.
    """
    found = residuals(params, state)
    still = found.dual <= tolerance * _norm(params, state)
    return (found.relative <= tolerance) & still


def admm(
    inner: optax.GradientTransformation,
    rules: Rules,
    *,
    interval: int,
    rho: Rho = 1e-3,
    reset_inner: bool = True,
    balance: Balance | None = None,
    tolerance: float = 0.0,
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
      rules: pairs of a path regex and a constraint set, or what is short for one, or a
        tuple of them, each of which then has a dual of its own; see `constraints`.
      interval: optimizer steps per ADMM iteration.
      rho: the penalty, positive, or a function of the iteration, positive at every
        one, such as `geometric_rho`.
      reset_inner: whether `inner` starts afresh at every iteration; adaptive
        moments and learning-rate schedules otherwise damp the new pull. All of its
        state is renewed, injected hyperparameters included.
      balance: how penalties of single leaves adapt; None for one penalty in all.
      tolerance: once the run has `converged` to it, Z and U stay as they are and
        `iteration` counts no further; 0 for a fixed number of iterations.

    Returns:
      A transform with `ADMMState`; `update` needs `params`. After the last step
      call `finish` for the pruned weights and their masks.

    Raises:
      InputError: interval below 1, a rho that is not positive or a tolerance below 0.
      RuleError: a rule that matches no leaf, at `init`.
      NonFiniteError: NaN or infinity in a constrained leaf, at `init`.

    References:
      Zhang et al., arXiv 1804.03294, equations 5 to 8.
    """
    check_range("interval", interval, 1)
    check_range("tolerance", tolerance, 0.0)
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> ADMMState:
        state = init_duals(params, rules, rho)._replace(inner=inner.init(params))
        return _beside(params, state)

    def update(updates, state, params=None, **extra):
        params = need_params(params, "admm.admm")

        def new_iteration(state: ADMMState) -> ADMMState:
            new = iterate(params, state, rules, rho, balance)
            if tolerance:
                stays = converged(params, state, tolerance)
                keep = functools.partial(jnp.where, stays)
                new = jax.tree.map(keep, state, new)
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
