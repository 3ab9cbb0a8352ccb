"""Pruning as optax transforms: masks live in the optimizer state.

Each transform wraps the optimizer that does the learning. The updates it returns
take every pruned weight to exactly 0.0, whatever finite value it had, and moments that
the optimizer keeps for each weight are exactly 0 for pruned ones as well.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from core import rules as core_rules
from core import trees
from core.errors import InputError, describe
from core.numerics import check_finite
from core.rules import Rules
from core.types import Array, PartialTree, PyTree
from gap.masks import apply_masks, check_mask, targets
from gap.patterns import Target
from gap.schedules import DensitySchedule
from gap.scope import active_scores


class MaskedState(NamedTuple):
    """State of `masked` and `prune`.

    Invariants: `step` is int32 []; `masks` is a mask tree of the parameters;
    elementwise moments in `inner` (see `zero_moments`) are 0 where a mask is False.
    """

    step: Array
    masks: PartialTree
    inner: optax.OptState


class DynamicState(NamedTuple):
    """State of `rewire` and `cyclic`, whose masks also gain weights.

    Invariants: those of `MaskedState`; `key` holds the numbers of a random key, so
    that any file format stores the state.
    """

    step: Array
    key: Array
    masks: PartialTree
    inner: optax.OptState


def need_params(params: PyTree | None, name: str) -> PyTree:
    """Returns `params`, or raises `InputError` that says who needs them."""
    if params is None:
        raise InputError(
            f"{name}: {describe('params=None', 'the current parameters')}. "
            "Call update(updates, state, params)."
        )
    return params


def zero_moments(state: PyTree, params: PyTree, masks: PartialTree) -> PyTree:
    """Returns an optimizer state whose moments of pruned weights are exactly 0.

    A moment is a floating-point leaf of the state whose path ends in the path of a
    parameter and whose shape is that parameter's, as in nearly every optax state, also
    under `optax.masked` and `optax.multi_transform`. States that hold no such copy of
    the parameters (`optax.flatten`, the factors of `adafactor`, the memory of L-BFGS)
    are left alone; their weights are kept at 0 all the same.

    Args:
      state: an optimizer state over `params`.
      params: the parameters; only paths and shapes are used.
      masks: a mask tree of `params`.
    """
    # Keys, not text: the field `mu` of a state is no dict key "mu" of a parameter.
    known = {path for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]}
    pruned = dict(jax.tree_util.tree_flatten_with_path(masks)[0])
    flat, treedef = jax.tree_util.tree_flatten_with_path(state)
    out = []
    for path, leaf in flat:
        suffixes = (path[start:] for start in range(len(path) + 1))
        owner = next((suffix for suffix in suffixes if suffix in known), None)
        mask = None if owner is None else pruned.get(owner)
        if (
            mask is not None
            and mask.ndim
            and leaf.shape == mask.shape
            and jnp.issubdtype(leaf.dtype, jnp.floating)
        ):
            leaf = jnp.where(mask, leaf, jnp.zeros_like(leaf))
        out.append(leaf)
    return jax.tree.unflatten(treedef, out)


def masked_update(
    inner: optax.GradientTransformationExtraArgs,
    updates: PyTree,
    state: optax.OptState,
    params: PyTree,
    masks: PartialTree,
    *,
    kept: PartialTree | None = None,
    extra: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[PyTree, optax.OptState]:
    """One step of `inner` that leaves pruned weights and their moments at 0.

    What every transform of this room does once it knows its masks.

    Args:
      inner: the optimizer that does the learning.
      updates: gradients of all weights.
      state: the state of `inner`.
      params: the parameters.
      masks: the weights that are active in this step.
      kept: the active weights that keep their values and moments; the others begin
        this step at 0. None where pruned weights are 0 already, as they are after
        every step of a transform of this room.
      extra: more arguments of `inner`'s update.

    Returns:
      Updates, and the state of `inner`.
    """
    start = params
    if kept is not None:
        start = apply_masks(params, kept)
        state = zero_moments(state, params, kept)
    updates = trees.map_partial(
        lambda m, g: jnp.where(m, g, jnp.zeros_like(g)),
        masks,
        updates,
        absent=trees.keep_rest,
    )
    updates, state = inner.update(updates, state, start, **extra)

    # w + (-w) is exactly 0.0 only in the parameter's own dtype.
    def settle(m: Array, u: Array, s: Array, w: Array) -> Array:
        u = u.astype(w.dtype)
        return jnp.where(m, u if kept is None else u + (s - w), -w)

    updates = trees.map_partial(
        settle, masks, updates, start, params, absent=trees.keep_rest
    )
    return updates, zero_moments(state, params, masks)


def masked(
    inner: optax.GradientTransformation, masks: PartialTree
) -> optax.GradientTransformationExtraArgs:
    """Trains with fixed masks: pruned weights and their moments stay exactly 0.

    The update of a pruned weight w is -w. So this, as every transform of this room that
    holds masks, must be the last of an `optax.chain`: with `scale(0.5)` behind it w / 2
    is left. What comes before it is free, and so is what `inner` is made of.

    Args:
      inner: the optimizer that does the learning.
      masks: a mask tree of the parameters, as `magnitude_masks` gives.

    Returns:
      A transform with `MaskedState`, the last of a chain; `update` needs `params`.

    Raises:
      ShapeError: masks that do not fit the parameters, at `init`.
      NonFiniteError: NaN or infinity in a masked leaf, at `init`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> params = {"w": jnp.array([1.0, 2.0])}
      >>> tx = masked(optax.sgd(0.1), {"w": jnp.array([False, True])})
      >>> updates, _ = tx.update(params, tx.init(params), params)
      >>> optax.apply_updates(params, updates)["w"].tolist()
      [0.0, 1.7999999523162842]
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> MaskedState:
        check_finite(trees.select(masks, params), "params")
        # A copy of its own, so that states can be donated one by one.
        own = trees.map_partial(
            lambda m, w: jnp.array(check_mask(m, w), bool), masks, params
        )
        state = zero_moments(inner.init(params), params, own)
        return MaskedState(jnp.zeros((), jnp.int32), own, state)

    def update(updates, state, params=None, **extra):
        params = need_params(params, "gap.masked")
        updates, inner_state = masked_update(
            inner, updates, state.inner, params, state.masks, extra=extra
        )
        return updates, MaskedState(state.step + 1, state.masks, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def prune(
    inner: optax.GradientTransformation,
    rules: Rules,
    schedule: DensitySchedule,
    *,
    score: Callable[[Array], Array] = jnp.abs,
) -> optax.GradientTransformationExtraArgs:
    """Prunes by score while it trains, on a density schedule.

    With `OneShot` this is magnitude pruning and retraining, with `Staged` the
    iterative method of Han et al. (arXiv 1506.02626), with `Cubic` gradual
    magnitude pruning (arXiv 1710.01878). Masks are recomputed from the weights in
    a `lax.cond` at the steps that the schedule names; nothing recompiles. (Under
    `vmap` XLA computes both branches of a `cond` at every step.)

    Args:
      inner: the optimizer that does the learning.
      rules: pairs of a path regex and a final density or `Target`.
      schedule: when masks change, and to which density.
      score: weight to score, elementwise; the magnitude by default.

    Returns:
      A transform with `MaskedState`, the last of a chain (see `masked`); `update`
      needs `params`. At the end of the schedule each mask keeps exactly
      `Target.kept(leaf.shape)` units.

    Raises:
      RuleError, InputError: bad rules, at `init`.
      NonFiniteError: NaN or infinity in a leaf to be pruned, at `init`.
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> MaskedState:
        wanted = targets(params, rules)
        check_finite(trees.select(wanted, params), "params")
        full = trees.map_partial(lambda _, w: jnp.ones(w.shape, bool), wanted, params)
        return MaskedState(jnp.zeros((), jnp.int32), full, inner.init(params))

    def update(updates, state, params=None, **extra):
        params = need_params(params, "gap.prune")
        wanted = targets(params, rules)

        def recompute(masks: PartialTree) -> PartialTree:
            def leaf_mask(target: Target, w: Array, mask: Array) -> Array:
                scores = active_scores(score(w), mask)
                return _scheduled_mask(target, scores, schedule, state.step)

            return trees.map_partial(leaf_mask, wanted, params, masks)

        masks = jax.lax.cond(
            schedule.due(state.step), recompute, lambda m: m, state.masks
        )
        updates, inner_state = masked_update(
            inner, updates, state.inner, params, masks, extra=extra
        )
        return updates, MaskedState(state.step + 1, masks, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _scheduled_mask(
    target: Target, scores: Array, schedule: DensitySchedule, step: Array
) -> Array:
    """The mask of one leaf at `step`; the final count is exact, not rounded."""
    kept = target.kept(scores.shape)
    units = target.pattern.units(scores.shape)
    final = kept / units if units else 0.0
    density = schedule.density(step, final)
    rounded = jnp.floor(density * units + 0.5).astype(jnp.int32)
    count = jnp.where(density <= jnp.float32(final), kept, jnp.maximum(rounded, kept))
    return target.pattern.mask(scores, count)


def add_l1(
    strength: float, rules: Rules = ((".*", 1.0),)
) -> optax.GradientTransformationExtraArgs:
    """Adds the sub-gradient of `strength * sum |w|` to the updates.

    Args:
      strength: the coefficient, in units of loss per unit of weight.
      rules: pairs of a path regex and a factor on `strength`, or `None`.

    Returns:
      A stateless `optax.GradientTransformationExtraArgs`; `update` needs `params`.

    Raises:
      RuleError: a rule that matches no leaf.
    """

    def update(updates, state, params=None, **_):
        params = need_params(params, "gap.add_l1")
        updates = trees.map_partial(
            lambda c, g, w: g + (c * strength * jnp.sign(w)).astype(g.dtype),
            core_rules.match(rules, params),
            updates,
            params,
            absent=trees.keep_rest,
        )
        return updates, state

    return optax.GradientTransformationExtraArgs(
        lambda params: optax.EmptyState(), update
    )
