"""Masks chosen before training: at random, or from the first gradients.

    tx = gap.static_random(optax.adam(1e-3), rules, key)   # the baseline of them all
    tx = gap.snip(optax.adam(1e-3), rules)                 # |w * gradient| at step 0

GraSP's score needs a Hessian-vector product, which an optimizer never sees. Its masks
are made beforehand, from any score tree, and trained with `masked`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from core import trees
from core.errors import check_range
from core.numerics import check_finite
from core.rules import Rules
from core.types import Array, PartialTree, PyTree
from gap.masks import targets
from gap.scope import Scope, check_scope, check_targets, scoped_masks
from gap.scores import connection_sensitivity
from gap.transforms import MaskedState, masked, masked_update, need_params

Score = Callable[[Array, Array], Array]
"""Weight and gradient to a score, elementwise; higher is kept."""


def random_masks(key: Array, params: PyTree, rules: Rules) -> PartialTree:
    """Returns masks that keep units drawn at random, in exact numbers.

    Args:
      key: a random key.
      params: a pytree of arrays; only paths and shapes are used.
      rules: pairs of a path regex and a density in [0, 1] or a `Target`.

    Returns:
      A mask tree; each mask keeps exactly `Target.kept(leaf.shape)` units.

    Raises:
      RuleError, InputError: as `targets`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> masks = random_masks(jax.random.key(0), {"w": jnp.ones(10)}, [("w", 0.3)])
      >>> int(masks["w"].sum())
      3
    """
    return scoped_masks(targets(params, rules), random_scores(key, params))


def random_scores(key: Array, params: PyTree) -> PyTree:
    """Returns uniform float32 scores of the shapes of `params`."""
    leaves, treedef = jax.tree.flatten(params)
    scores = [
        jax.random.uniform(jax.random.fold_in(key, i), jnp.shape(w), jnp.float32)
        for i, w in enumerate(leaves)
    ]
    return jax.tree.unflatten(treedef, scores)


def static_random(
    inner: optax.GradientTransformation, rules: Rules, key: Array
) -> optax.GradientTransformationExtraArgs:
    """Trains with random masks that never change, the baseline of sparse training.

    The parameters are dense until the first update; `apply_masks(params,
    state.masks)` after `init` makes the first gradient one of the sparse network.

    Args:
      inner: the optimizer that does the learning.
      rules: pairs of a path regex and a density or `Target`.
      key: decides the masks.

    Returns:
      A transform with `MaskedState`, the last of a chain (see `masked`); `update`
      needs `params`.

    Raises:
      RuleError, InputError: bad rules, at `init`.
      NonFiniteError: NaN or infinity in a leaf to be pruned, at `init`.
    """

    def init(params: PyTree) -> optax.OptState:
        return masked(inner, random_masks(key, params, rules)).init(params)

    # The masks are in the state, so the update needs none of its own.
    return optax.GradientTransformationExtraArgs(init, masked(inner, {}).update)


def at_init(
    inner: optax.GradientTransformation,
    rules: Rules,
    *,
    score: Score = connection_sensitivity,
    at: int = 0,
    scope: Scope = "layer",
) -> optax.GradientTransformationExtraArgs:
    """Prunes once, at step `at`, by a score of weights and gradients.

    The gradients are those that `update` is given: one batch, or the mean of many
    under `optax.MultiSteps`. Before that step the network is dense.

    Args:
      inner: the optimizer that does the learning.
      rules: pairs of a path regex and a density or `Target`.
      score: weight and gradient to a score; a NaN ranks last.
      at: the step at which masks are made.
      scope: "layer", or "global" for one ranking of all weights.

    Returns:
      A transform with `MaskedState`, the last of a chain (see `masked`); `update`
      needs `params`.

    Raises:
      InputError: an option out of range; bad rules, at `init`.
      RuleError: a rule that matches no leaf, at `init`.
      NonFiniteError: NaN or infinity in a leaf to be pruned, at `init`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from gap import Target
      >>> params = {"w": jnp.array([1.0, 2.0, 3.0])}
      >>> grads = {"w": jnp.array([9.0, 1.0, -2.0])}
      >>> tx = at_init(optax.sgd(0.1), [("w", Target(count=2))])
      >>> _, state = tx.update(grads, tx.init(params), params)
      >>> state.masks["w"].tolist()
      [True, False, True]
    """
    check_range("at", at, 0)
    check_scope(scope)
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> MaskedState:
        wanted = targets(params, rules)
        check_targets(wanted, params, scope)
        check_finite(trees.select(wanted, params), "params")
        full = trees.map_partial(lambda _, w: jnp.ones(w.shape, bool), wanted, params)
        return MaskedState(jnp.zeros((), jnp.int32), full, inner.init(params))

    def update(updates, state: Any, params=None, **extra):
        params = need_params(params, "gap.at_init")
        wanted = targets(params, rules)

        def choose(_: PartialTree) -> PartialTree:
            scores = trees.map_partial(
                lambda _, w, g: score(w, g), wanted, params, updates
            )
            return scoped_masks(wanted, scores, scope)

        masks = jax.lax.cond(state.step == at, choose, lambda m: m, state.masks)
        updates, inner_state = masked_update(
            inner, updates, state.inner, params, masks, extra=extra
        )
        return updates, MaskedState(state.step + 1, masks, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def snip(
    inner: optax.GradientTransformation,
    rules: Rules,
    *,
    at: int = 0,
    scope: Scope = "global",
) -> optax.GradientTransformationExtraArgs:
    """Prunes before training by `|w * gradient|` (SNIP, arXiv 1810.02340).

    Args:
      inner: the optimizer that does the learning.
      rules: pairs of a path regex and a density or `Target`.
      at: the step at which masks are made.
      scope: "global", as in the paper: one ranking keeps as many weights as the rules
        do together. "layer" keeps each leaf's target, and works with every pattern.

    Returns:
      A transform as `at_init` gives.

    Raises:
      InputError, RuleError, NonFiniteError: as `at_init`.
    """
    return at_init(inner, rules, score=connection_sensitivity, at=at, scope=scope)
