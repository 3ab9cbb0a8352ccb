"""Masks from score trees: leaf by leaf, or with all leaves in one ranking."""

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from core import trees
from core.errors import InputError, describe
from core.selection import topk_mask
from core.types import Array, PartialTree, PyTree
from gap.patterns import Target, Unstructured

Scope: TypeAlias = Literal["layer", "global"]


def check_scope(scope: str) -> None:
    """Raises `InputError` unless `scope` is 'layer' or 'global'."""
    if scope not in ("layer", "global"):
        raise InputError(f"scope: {describe(repr(scope), 'layer or global')}")


def check_targets(wanted: PartialTree, params: PyTree, scope: Scope) -> None:
    """Raises `InputError` for targets that a scope or the shapes of leaves refuse.

    Args:
      wanted: a tree of `Target`s, `None` for leaves without a mask.
      params: the parameters; only shapes are used.
      scope: "layer" or "global".
    """
    check_scope(scope)
    trees.map_partial(lambda t, w: t.kept(w.shape), wanted, params)
    for target in jax.tree.leaves(wanted) if scope == "global" else ():
        if not isinstance(target.pattern, Unstructured):
            remedy = "Use scope='layer' for patterns."
            given = f"{target.pattern} in the global scope"
            raise InputError(describe(given, "gap.Unstructured()", remedy))


def scoped_masks(
    wanted: PartialTree, scores: PartialTree, scope: Scope = "layer"
) -> PartialTree:
    """Returns masks that keep the best scores.

    Args:
      wanted: a tree of `Target`s, `None` for leaves without a mask.
      scores: a score per weight; only leaves with a target are used.
      scope: "layer": every leaf keeps its own target. "global": one ranking over all
        leaves keeps as many weights as the targets do together.

    Raises:
      InputError: the global scope and a pattern other than `Unstructured`.
    """
    check_targets(wanted, scores, scope)
    if scope == "layer":
        return trees.map_partial(
            lambda t, s: t.pattern.mask(s, t.kept(s.shape)), wanted, scores
        )
    chosen: list[Target] = jax.tree.leaves(wanted)
    parts = jax.tree.leaves(trees.select(wanted, scores))
    count = sum(t.kept(s.shape) for t, s in zip(chosen, parts, strict=True))
    masks = iter(joint_topk(parts, count))
    return trees.map_partial(lambda _, s: next(masks), wanted, scores)


def active_scores(scores: Array, mask: Array) -> Array:
    """Returns scores in which pruned weights rank last, so that none comes back.

    A NaN ranks before them: it is the worst of the active ones.
    """
    lowest = jnp.finfo(scores.dtype).min
    scores = jnp.where(jnp.isnan(scores), lowest, scores)
    return jnp.where(mask, scores, -jnp.inf)


def joint_topk(scores: list[Array], count: int | Array) -> list[Array]:
    """Marks the `count` largest scores of several arrays together.

    Args:
      scores: arrays of any shapes and real dtypes; compared in the widest one.
      count: how many to mark in all; may be traced.

    Returns:
      A bool array for each; ties go to the first.
    """
    if not scores:
        return []
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*scores)
    flat = jnp.concatenate([s.ravel().astype(dtype) for s in scores])
    ends = np.cumsum([s.size for s in scores])[:-1]
    masks = jnp.split(topk_mask(flat, count), ends)
    return [m.reshape(s.shape) for m, s in zip(masks, scores, strict=True)]
