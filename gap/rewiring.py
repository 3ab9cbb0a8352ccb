"""Sparse training that moves its connections: SET, RigL and what lies between.

Every `every` steps a share of the kept units with the smallest weights is dropped and
as many are grown elsewhere, at random or where the gradient is largest. The density
never changes, and no step needs a dense network.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from core import trees
from core.errors import InputError, check_range, describe
from core.rules import Rules
from core.selection import topk_mask
from core.types import Array, PartialTree, PyTree, Schedule
from gap.initial import random_masks, random_scores
from gap.masks import check_mask, targets
from gap.patterns import BCR, DBB, NM, BankBalanced, Target, Unstructured
from gap.scope import active_scores
from gap.transforms import DynamicState, masked, masked_update, need_params

Growth = Literal["gradient", "random"]

_FILLED = (Unstructured, NM, DBB, BankBalanced)
"""Patterns of single weights, where any part of a mask can be filled up to a mask."""


def rewire(
    inner: optax.GradientTransformation,
    rules: Rules,
    key: Array,
    *,
    fraction: float | Schedule,
    every: int,
    until: int | None = None,
    grow: Growth = "gradient",
    masks: PartialTree | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Trains at a fixed density and moves a share of the weights now and then.

    At steps `every`, `2 * every`, ... before `until`, for every leaf with n kept units:

        drop = max(1, floor(fraction * n))
        keep = the n - drop active units of largest |w|
        mask = keep and the `drop` best others by |gradient|, or at random

    (nothing if the fraction is 0 or n is 1). In `BCR`, which counts the weights of a
    block, inputs and outputs go instead, at least one of each kind that is pruned. So
    coarse patterns with few units go on moving, in steps larger than the fraction.

    A weight that is dropped and grown again at once keeps its value; the others that
    grow start at 0, moments included. In patterns with a bound for every few weights
    (N:M, blocks of bounded density, banks) single weights are dropped, wherever they
    are, and grow where the bound leaves room; elsewhere whole units move. The gradient
    is the one of all weights at masked values, which is what `jax.grad` gives.

    The parameters are dense until the first update; `apply_masks(params,
    state.masks)` after `init` makes the first gradient one of the sparse network.

    Args:
      inner: the optimizer that does the learning.
      rules: pairs of a path regex and a density or `Target`.
      key: decides the first masks and random growth.
      fraction: the share of units that move, in [0, 1], or a function from the step,
        int32 [], to it.
      every: steps between two moves.
      until: the step from which nothing moves; None means never.
      grow: "gradient" or "random".
      masks: the first masks, of the rules' leaves, patterns and counts; random by
        default.

    Returns:
      A transform with `DynamicState`, the last of a chain (see `masked`); `update`
      needs `params`.

    Raises:
      InputError: an option out of range; bad rules, or masks that are not as the
        rules say, at `init`.
      RuleError: a rule that matches no leaf, at `init`.
      NonFiniteError: NaN or infinity in a leaf to be pruned, at `init`.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> from gap import apply_masks
      >>> params = {"w": jnp.arange(1.0, 5.0)}
      >>> tx = rewire(optax.sgd(0.1), [("w", 0.5)], jax.random.key(0),
      ...             fraction=0.5, every=1, masks={"w": jnp.arange(4) < 2})
      >>> state = tx.init(params)
      >>> params = apply_masks(params, state.masks)
      >>> for gradient in jnp.zeros(4), jnp.array([0.0, 0.0, 0.0, 1.0]):
      ...     updates, state = tx.update({"w": gradient}, state, params)
      >>> state.masks["w"].tolist()
      [False, True, False, True]
    """
    if not callable(fraction):
        check_range("fraction", fraction, 0.0, 1.0)
    check_range("every", every, 1)
    if until is not None:
        check_range("until", until, 0)
    if grow not in ("gradient", "random"):
        raise InputError(f"grow: {describe(repr(grow), 'gradient or random')}")
    inner = optax.with_extra_args_support(inner)
    impl = jax.random.key_impl(key)

    def init(params: PyTree) -> DynamicState:
        if masks is None:
            start = random_masks(key, params, rules)
        else:
            start = _checked(masks, params, targets(params, rules))
        state: Any = masked(inner, start).init(params)
        numbers = jnp.array(jax.random.key_data(key))
        return DynamicState(state.step, numbers, state.masks, state.inner)

    def update(updates, state: Any, params=None, **extra):
        params = need_params(params, "gap.rewire")
        wanted = targets(params, rules)
        step = state.step

        def move(old: PartialTree) -> PartialTree:
            share = jnp.asarray(
                fraction(step) if callable(fraction) else fraction, jnp.float32
            )
            scores = trees.map_partial(lambda _, g: _finite_size(g), wanted, updates)
            if grow == "random":
                now = jax.random.wrap_key_data(state.key, impl=impl)
                scores = random_scores(jax.random.fold_in(now, step), params)
            return trees.map_partial(
                lambda t, w, m, s: moved_mask(t, w, m, s, share),
                wanted,
                params,
                old,
                scores,
            )

        due = (step > 0) & (step % every == 0)
        if until is not None:
            due &= step < until
        now = jax.lax.cond(due, move, lambda m: m, state.masks)
        updates, inner_state = masked_update(
            inner, updates, state.inner, params, now, extra=extra
        )
        return updates, DynamicState(step + 1, state.key, now, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def moved_mask(
    target: Target, w: Array, mask: Array, growth: Array, fraction: float | Array
) -> Array:
    """Returns the mask after one move; the mathematics of `rewire` for one leaf.

    Args:
      target: what the leaf keeps; its count must be that of `mask`.
      w: the weights, [...].
      mask: the active ones, bool [...].
      growth: finite scores of growing, [...].
      fraction: share of the kept units to drop, float32 [].

    Returns:
      bool [...], with as many units as `mask`.
    """
    pattern, count = target.pattern, target.kept(w.shape)
    worth = active_scores(jnp.abs(w), mask)
    fraction = jnp.asarray(fraction, jnp.float32)

    def left(kept: int) -> Array:
        drop = jnp.floor(fraction * kept).astype(jnp.int32)
        least = jnp.where(fraction > 0, min(1, max(kept - 1, 0)), 0)
        return kept - jnp.maximum(drop, least)

    if isinstance(pattern, _FILLED):
        kept = pattern.weights(w.shape, count)
        keep = topk_mask(worth, left(kept))
    elif isinstance(pattern, BCR):
        keep = pattern.mask(worth, pattern.after_drop(w.shape, count, fraction))
    else:
        keep = pattern.mask(worth, left(count))
    return pattern.mask(jnp.where(keep & mask, jnp.inf, growth), count)


def _checked(masks: PartialTree, params: PyTree, wanted: PartialTree) -> PartialTree:
    """`masks`, after checking that they are those of the targets; traced ones pass."""
    given, named = trees.by_path(masks), trees.by_path(wanted)
    odd = sorted(given.keys() ^ named.keys())
    if odd:
        raise InputError(
            describe(
                f"{', '.join(odd)} in the masks or in the rules alone",
                "masks of exactly the leaves that rules prune",
            )
        )

    def check(target: Target, mask: Array, w: Array) -> Array:
        count = target.kept(w.shape)
        # A mask of the pattern and the count is its own best approximation.
        again = target.pattern.mask(check_mask(mask, w).astype(jnp.float32), count)
        return jnp.all(again == mask)

    fits = trees.by_path(trees.map_partial(check, wanted, masks, params))
    try:
        bad = [path for path, fit in jax.device_get(fits).items() if not fit]
    except jax.errors.ConcretizationTypeError:
        return masks
    for path in bad:
        target, mask = named[path], given[path]
        raise InputError(
            describe(
                f"a first mask of {path} with {int(jnp.sum(mask))} weights",
                f"one of {target.pattern} with {target.weights(mask.shape)}",
                "Make it with gap.random_masks(key, params, rules).",
            )
        )
    return masks


def _finite_size(g: Array) -> Array:
    """Returns |g|, 0 where it is not finite: only kept weights rank as infinite."""
    return jnp.where(jnp.isfinite(g), jnp.abs(g), jnp.zeros_like(g))


def cosine_fraction(alpha: float, until: int) -> Callable[[Array], Array]:
    """Returns RigL's share to move: `alpha / 2 * (1 + cos(pi * step / until))`.

    Args:
      alpha: the share at step 0.
      until: the step at which it is 0.
    """
    check_range("alpha", alpha, 0.0, 1.0)
    check_range("until", until, 1)

    def fraction(step: Array) -> Array:
        passed = jnp.clip(step.astype(jnp.float32) / until, 0.0, 1.0)
        return alpha / 2 * (1.0 + jnp.cos(jnp.pi * passed))

    return fraction


def rigl(
    inner: optax.GradientTransformation,
    rules: Rules,
    key: Array,
    *,
    until: int,
    every: int = 100,
    alpha: float = 0.3,
    masks: PartialTree | None = None,
) -> optax.GradientTransformationExtraArgs:
    """RigL: drops the smallest weights, grows where the gradient is largest.

    The share that moves falls by a cosine from `alpha` to 0 (arXiv 1911.11134,
    section 3). Unlike its code, a step that moves weights also learns. Densities of
    its Erdos-Renyi kernels are rules like any others.

    Args:
      inner: the optimizer that does the learning.
      rules: pairs of a path regex and a density or `Target`.
      key: decides the first masks.
      until: the step from which nothing moves; the paper's is 3/4 of the training.
      every: steps between two moves.
      alpha: the share that moves at first.
      masks: the first masks; random by default.

    Returns:
      A transform as `rewire` gives.

    Raises:
      InputError, RuleError, NonFiniteError: as `rewire`.
    """
    return rewire(
        inner,
        rules,
        key,
        fraction=cosine_fraction(alpha, until),
        every=every,
        until=until,
        grow="gradient",
        masks=masks,
    )


def set_(
    inner: optax.GradientTransformation,
    rules: Rules,
    key: Array,
    *,
    every: int,
    until: int | None = None,
    fraction: float = 0.3,
    masks: PartialTree | None = None,
) -> optax.GradientTransformationExtraArgs:
    """SET: drops the smallest weights, grows others at random (arXiv 1707.04780).

    Args:
      inner: the optimizer that does the learning.
      rules: pairs of a path regex and a density or `Target`.
      key: decides the first masks and where weights grow.
      every: steps between two moves; the paper's is one epoch.
      until: the step from which nothing moves; None means never.
      fraction: the share that moves; the paper's is 0.3.
      masks: the first masks; random by default.

    Returns:
      A transform as `rewire` gives.

    Raises:
      InputError, RuleError, NonFiniteError: as `rewire`.
    """
    return rewire(
        inner,
        rules,
        key,
        fraction=fraction,
        every=every,
        until=until,
        grow="random",
        masks=masks,
    )
