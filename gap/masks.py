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
from core.errors import InputError, ShapeError, describe
from core.numerics import check_finite
from core.rules import Rules
from core.types import Array, PartialTree, PyTree
from gap.patterns import Target, as_target
from gap.scope import joint_topk


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
      NonFiniteError: NaN or infinity in a leaf that a rule matches.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"w": jnp.array([3.0, -1.0, 2.0, 0.5]), "b": jnp.ones(2)}
      >>> magnitude_masks(params, [("w", 0.5)])["w"].tolist()
      [True, False, True, False]
    """
    wanted = targets(params, rules)
    check_finite(trees.select(wanted, params), "params")
    return trees.map_partial(
        lambda t, w: t.pattern.mask(score(w), t.kept(w.shape)), wanted, params
    )


def chosen(params: PyTree, rules: Rules) -> PartialTree:
    """Returns True for every leaf that a rule with the spec True selects.

    Raises:
      RuleError: a rule that matches no leaf.
      InputError: a spec that is neither True nor None.
    """

    def check(spec: object) -> bool:
        if spec is not True:
            raise InputError(
                describe(repr(spec), "True or None as a rule's spec")
                + ". None leaves a leaf out."
            )
        return True

    return trees.map_partial(check, core_rules.match(rules, params))


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
      NonFiniteError: NaN or infinity in a selected leaf.
    """
    taking_part = chosen(params, rules)
    selected = trees.select(taking_part, params)
    check_finite(selected, "params")
    parts = jax.tree.leaves(selected)
    if not parts:
        raise InputError(
            describe(f"rules {list(rules)!r}", "rules that select at least one leaf")
        )
    count = Target(density=density).kept((trees.size(selected),))
    masks = iter(joint_topk([score(w) for w in parts], count))
    return trees.map_partial(lambda _, w: next(masks), taking_part, params)


def apply_masks(params: PyTree, masks: PartialTree) -> PyTree:
    """Returns `params` with 0.0 wherever a mask is False; dense leaves unchanged.

    Raises:
      ShapeError: a mask that has not the shape of its weight.
    """

    def apply(mask: Array, w: Array) -> Array:
        return jnp.where(check_mask(mask, w), w, jnp.zeros_like(w))

    return trees.map_partial(apply, masks, params, absent=trees.keep_rest)


def check_mask(mask: Array, w: Array) -> Array:
    """Returns `mask`, or raises `ShapeError` if it has not the shape of `w`."""
    if jnp.shape(mask) != jnp.shape(w):
        raise ShapeError(
            describe(
                f"a mask of shape {jnp.shape(mask)}", f"{jnp.shape(w)}, its weight's"
            )
        )
    return mask


class LeafSummary(NamedTuple):
    """What is left of one leaf.

    Invariants: `0 <= kept <= size`; `density == kept / size`, 0 for an empty leaf.
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

    Raises:
      RuleError, InputError: a rule that matches no leaf, or a spec but True or None.
    """
    leaves = trees.by_path(trees.select(chosen(params, rules), params))
    counts = jax.device_get({k: jnp.count_nonzero(w) for k, w in leaves.items()})
    return [
        LeafSummary(k, w.shape, w.size, int(counts[k]), int(counts[k]) / max(w.size, 1))
        for k, w in leaves.items()
    ]
