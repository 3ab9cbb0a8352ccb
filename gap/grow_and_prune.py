"""Cyclic grow-and-prune (C-GaP): one part of the network after the other is dense.

The prunable leaves are cut into kappa groups. In each stage one group trains dense and
the others with their masks; at the end of a stage the dense group is pruned by
magnitude and the next one grows from zeros. After a round of kappa stages every weight
has been trained, and the network was never dense (arXiv 2106.09857, section 3).

    groups = gap.partition(params, rules, kappa=3)
    tx = gap.cyclic(optax.adam(1e-3), rules, key, groups, interval=500, rounds=4)
    # 4 * 3 * 500 steps; from then on masks are fixed: the fine-tuning
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from core import trees
from core.errors import RuleError, check_range, describe
from core.rules import Rules
from core.types import Array, PartialTree, PyTree
from gap.initial import random_masks, random_scores
from gap.masks import targets
from gap.partitions import Partition
from gap.patterns import Target
from gap.scope import (
    Scope,
    active_scores,
    check_scope,
    check_targets,
    scoped_masks,
)
from gap.transforms import (
    DynamicState,
    masked,
    masked_update,
    need_params,
)


def cyclic(
    inner: optax.GradientTransformation,
    rules: Rules,
    key: Array,
    partition: Partition,
    *,
    interval: int,
    rounds: int,
    grow_to: float = 1.0,
    restart: bool = True,
    scope: Scope = "layer",
) -> optax.GradientTransformationExtraArgs:
    """Cyclic grow-and-prune, C-GaP (arXiv 2106.09857), as one transform.

    Stage s = 0, 1, ... is steps [s * interval, (s + 1) * interval). In it group
    s mod kappa is dense, from the first step on, and the others have masks: random
    ones until they were dense once, those of largest magnitude after that. Where a
    group grows, weights that were pruned start at 0 and the others go on. With the
    step `rounds * kappa * interval` the last group is pruned and masks stay. A run
    that ends before that step leaves a group dense: `magnitude_masks` prunes it.

    The other parameters are dense until the first update; `apply_masks(params,
    state.masks)` after `init` makes the first gradient one of the sparse network.

    Args:
      inner: the optimizer that does the learning.
      rules: pairs of a path regex and a density or `Target`.
      key: decides the first masks, and what grows where `grow_to < 1`.
      partition: the groups, of exactly the leaves that rules prune.
      interval: steps in a stage.
      rounds: how often each group grows.
      grow_to: the density of a group that grows, in units drawn at random; less than
        1 is dense no more. A leaf whose target is denser keeps its target.
      restart: whether every stage begins with a fresh state of `inner`, schedules of
        its learning rate included, as in the paper.
      scope: "layer": leaves have the densities of rules. "global": a group keeps
        those of its weights that are among the largest of the whole network; in the
        end exactly as many in all as the rules say.

    Returns:
      A transform with `DynamicState`, the last of a chain (see `masked`); `update`
      needs `params`.

    Raises:
      InputError: an option out of range; bad rules, at `init`.
      RuleError: a partition of other leaves than rules prune, at `init`.
      NonFiniteError: NaN or infinity in a leaf to be pruned, at `init`.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> params = {"a": jnp.arange(1.0, 5.0), "b": jnp.arange(1.0, 5.0)}
      >>> tx = cyclic(optax.sgd(0.1), [(".*", 0.5)], jax.random.key(0),
      ...             Partition((("a",), ("b",))), interval=1, rounds=1)
      >>> state, none = tx.init(params), jax.tree.map(jnp.zeros_like, params)
      >>> for _ in range(3):
      ...     updates, state = tx.update(none, state, params)
      ...     params = optax.apply_updates(params, updates)
      ...     print({k: int(m.sum()) for k, m in state.masks.items()})
      {'a': 4, 'b': 2}
      {'a': 2, 'b': 4}
      {'a': 2, 'b': 2}
    """
    check_range("interval", interval, 1)
    check_range("rounds", rounds, 1)
    check_range("grow_to", grow_to, 0.0, 1.0, low_open=True)
    check_scope(scope)
    inner = optax.with_extra_args_support(inner)
    impl = jax.random.key_impl(key)
    stages = rounds * partition.kappa

    def init(params: PyTree) -> DynamicState:
        wanted = targets(params, rules)
        check_targets(wanted, params, scope)
        index = _checked_index(partition, params, wanted)
        sparse = random_masks(key, params, rules)
        grown = _grown(wanted, sparse, key, params, grow_to)
        masks = trees.map_partial(
            lambda i, m, g: g if i == 0 else m, index, sparse, grown
        )
        state: Any = masked(inner, masks).init(params)
        numbers = jnp.array(jax.random.key_data(key))
        return DynamicState(state.step, numbers, state.masks, state.inner)

    def update(updates, state: Any, params=None, **extra):
        params = need_params(params, "gap.cyclic")
        wanted = targets(params, rules)
        index = partition.index(params)
        stage = state.step // interval
        due = (state.step % interval == 0) & (stage > 0) & (stage <= stages)

        def usual() -> tuple[PyTree, PartialTree, optax.OptState]:
            changes, inner_state = masked_update(
                inner, updates, state.inner, params, state.masks, extra=extra
            )
            return changes, state.masks, inner_state

        def boundary() -> tuple[PyTree, PartialTree, optax.OptState]:
            now = jax.random.wrap_key_data(state.key, impl=impl)
            now = jax.random.fold_in(now, stage)
            last = stage == stages
            pruned = _pruned(wanted, index, params, state.masks, stage, last)
            grown = _grown(wanted, pruned, now, params, grow_to)
            masks = trees.map_partial(
                lambda i, m, g: jnp.where((stage % partition.kappa == i) & ~last, g, m),
                index,
                pruned,
                grown,
            )
            inner_state = state.inner
            if restart:
                inner_state = _like(inner.init(params), state.inner)
            changes, inner_state = masked_update(
                inner, updates, inner_state, params, masks, kept=pruned, extra=extra
            )
            return changes, masks, inner_state

        # Whole steps in the branches: the optimizer's state does not pass through a
        # `cond`, which would copy it at every step.
        changes, masks, inner_state = jax.lax.cond(due, boundary, usual)
        return changes, DynamicState(state.step + 1, state.key, masks, inner_state)

    def _pruned(
        wanted: PartialTree,
        index: PartialTree,
        params: PyTree,
        masks: PartialTree,
        stage: Array,
        last: Array,
    ) -> PartialTree:
        """Masks after the group that was dense is pruned; all are in the end."""
        scores = trees.map_partial(
            lambda _, w, m: active_scores(jnp.abs(w), m), wanted, params, masks
        )
        dense = (stage - 1) % partition.kappa
        every = last & (scope == "global")
        return trees.map_partial(
            lambda i, new, old: jnp.where((dense == i) | every, new & old, old),
            index,
            scoped_masks(wanted, scores, scope),
            masks,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _checked_index(
    partition: Partition, params: PyTree, wanted: PartialTree
) -> PartialTree:
    """The group of each leaf, after checking that the rules prune the same leaves."""
    index = partition.index(params)
    pruned, grouped = set(trees.paths(wanted)), set(trees.paths(index))
    if pruned != grouped:
        odd = ", ".join(sorted(pruned ^ grouped))
        raise RuleError(
            describe(
                f"{odd} in the rules or in the partition alone",
                "a partition of exactly the leaves that rules prune",
                "Make it with gap.partition(params, rules, kappa).",
            )
        )
    return index


def _grown(
    wanted: PartialTree,
    masks: PartialTree,
    key: Array,
    params: PyTree,
    grow_to: float,
) -> PartialTree:
    """Masks with `grow_to` of the units: those of `masks`, and others at random."""
    if grow_to == 1.0:
        return trees.map_partial(lambda _, m: jnp.ones_like(m), wanted, masks)

    def grow(target: Target, mask: Array, score: Array) -> Array:
        units = target.pattern.units(mask.shape)
        count = Target(density=grow_to, pattern=target.pattern).kept(mask.shape)
        count = max(count, target.kept(mask.shape))
        return target.pattern.mask(jnp.where(mask, jnp.inf, score), min(count, units))

    return trees.map_partial(grow, wanted, masks, random_scores(key, params))


def _like(fresh: PyTree, old: PyTree) -> PyTree:
    """`fresh` in the types of `old`, as both branches of a `cond` must have them."""
    return jax.tree.map(lambda x, y: jnp.asarray(x).astype(y.dtype), fresh, old)
