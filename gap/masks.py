"""Masks over pytrees: made from scores, applied, counted.

A mask tree has the structure of the parameters, a boolean array where a leaf is
pruned and `None` where it is dense. Masks are applied with `where`, never by
multiplication, so that a pruned entry is exactly 0.0 whatever it held before.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from core import rules as core_rules
from core import trees
from core.errors import InputError, describe
from core.rules import Rules
from core.selection import topk_mask
from core.types import Array, PartialTree, PyTree
from gap.patterns import Target, as_target


def targets(params: PyTree, rules: Rules) -> PartialTree:
    """Returns the `Target` of every leaf that a rule matches, `None` elsewhere.

    Args:
      params: a pytree of arrays.
      rules: pairs of a path regex and a density, a `Target` or `None`.

    Raises:
      RuleError: a rule that matches no leaf.
      InputError: a spec that is no target.
    """
    return trees.map_partial(as_target, core_rules.match(rules, params))


def magnitude_masks(
    params: PyTree, rules: Rules, *, score: Callable[[Array], Array] = jnp.abs
) -> PartialTree:
    """Returns masks that keep the weights of largest score in each leaf.

    Args:
      params: a pytree of arrays of any real dtype.
      rules: pairs of a path regex and a density in [0, 1] or a `Target`.
      score: weight to score, elementwise; the magnitude by default.

    Returns:
      A mask tree; each mask keeps exactly `Target.kept(leaf.shape)` units.

    Raises:
      RuleError, InputError: as `targets`.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"w": jnp.array([3.0, -1.0, 2.0, 0.5]), "b": jnp.ones(2)}
      >>> magnitude_masks(params, [("w", 0.5)])["w"].tolist()
      [True, False, True, False]
    """
    return trees.map_partial(
        lambda t, w: t.pattern.mask(score(w), t.kept(w.shape)),
        targets(params, rules),
        params,
    )


def global_magnitude_masks(
    params: PyTree,
    density: float,
    rules: Rules = ((".*", True),),
    *,
    score: Callable[[Array], Array] = jnp.abs,
) -> PartialTree:
    """Returns masks that keep the weights of largest score over all leaves at once.

    Args:
      params: a pytree of arrays.
      density: the share of all selected weights to keep, in [0, 1].
      rules: pairs of a path regex and True for a leaf that takes part, or `None`
        for one that stays dense; every leaf by default.
      score: weight to score, elementwise; the magnitude by default.

    Returns:
      A mask tree; over all masks exactly `Target(density).kept((n,))` of the `n`
      weights are kept. Ties go to the first leaf in tree order.

    Raises:
      RuleError: a rule that matches no leaf.
      InputError: a density out of range, or no leaf selected.
    """
    chosen = core_rules.match(rules, params)
    parts = jax.tree.leaves(trees.select(chosen, params))
    if not parts:
        raise InputError(
            describe(f"rules {list(rules)!r}", "rules that select at least one leaf")
        )
    flat = jnp.concatenate([score(w).astype(jnp.float32).ravel() for w in parts])
    keep = topk_mask(flat, Target(density=density).kept(flat.shape))
    bounds = [0]
    for w in parts:
        bounds.append(bounds[-1] + w.size)
    masks = iter(
        keep[a:b].reshape(w.shape)
        for a, b, w in zip(bounds, bounds[1:], parts, strict=False)
    )
    return trees.map_partial(lambda _, w: next(masks), chosen, params)


def apply_masks(params: PyTree, masks: PartialTree) -> PyTree:
    """Returns `params` with 0.0 wherever a mask is False; dense leaves unchanged."""
    return trees.map_partial(
        lambda m, w: jnp.where(m, w, jnp.zeros_like(w)),
        masks,
        params,
        absent=trees.keep_rest,
    )


class LeafSummary(NamedTuple):
    """What is left of one leaf.

    Invariants: `0 <= kept <= size`; `density == kept / size`.
    """

    path: str
    shape: tuple[int, ...]
    size: int
    kept: int
    density: float


def summary(params: PyTree, rules: Rules = ((".*", True),)) -> list[LeafSummary]:
    """Counts the non-zero weights of every leaf that a rule selects.

    It reads the weights, not a mask, and waits for them (one transfer for all).

    Args:
      params: a pytree of arrays.
      rules: pairs of a path regex and True, or `None` for leaves not to count.

    Returns:
      A row per selected leaf in tree order.
    """
    chosen = trees.by_path(trees.select(core_rules.match(rules, params), params))
    counts = jax.device_get({k: jnp.count_nonzero(w) for k, w in chosen.items()})
    return [
        LeafSummary(k, w.shape, w.size, int(counts[k]), int(counts[k]) / max(w.size, 1))
        for k, w in chosen.items()
    ]
