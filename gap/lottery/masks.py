"""Which weights a lottery ticket keeps: one-shot and iterative magnitude pruning.

Both rank all selected weights together (`scope="global"`), as arXiv 2107.00166 does:
layers with small weights lose more. `scope="layer"` gives every leaf one density.
"""

import functools

import jax
import jax.numpy as jnp

from core import rules as core_rules
from core import trees
from core.errors import InputError, check_range, describe
from core.numerics import check_finite
from core.rules import Rules
from core.types import Array, PartialTree, PyTree
from gap.masks import check_mask
from gap.patterns import Pattern, Target, Unstructured
from gap.scope import Scope, active_scores, check_scope, joint_topk


def imp_density(round: int, ratio: float = 0.2) -> float:
    """Returns the share of weights left after some rounds of iterative pruning.

    d_j = (1 - ratio)^j: each round prunes `ratio` of what *remains*.

    Args:
      round: j >= 0; 0 is the dense network.
      ratio: pruned in each round, in (0, 1).

    Raises:
      InputError: out of range.

    Example:
      >>> [round(1 - imp_density(j), 3) for j in (4, 8, 11, 13)]
      [0.59, 0.832, 0.914, 0.945]
    """
    check_range("round", round, 0)
    check_range("ratio", ratio, 0.0, 1.0, low_open=True)
    return (1.0 - ratio) ** round


def omp(
    params: PyTree,
    density: float,
    rules: Rules,
    *,
    scope: Scope = "global",
    alive: PartialTree | None = None,
) -> PartialTree:
    """One-shot magnitude pruning: masks of the weights of largest magnitude.

    Works under `jit` and `vmap` over the parameters. With `alive` it is one round of
    iterative pruning: what was pruned stays pruned.

    Args:
      params: a pytree of arrays, normally trained weights.
      density: the share of all selected weights to keep, in [0, 1].
      rules: pairs of a path regex and True, or `None` for leaves that stay dense;
        with `scope="layer"` also a `Pattern`, of whose units that share is kept.
      scope: rank all selected weights together, or each leaf's on its own.
      alive: masks of the weights that may be kept; all of them by default.

    Returns:
      A mask tree with exactly `Target(density).kept(size)` weights over all leaves
      ("global") or units in each leaf ("layer"); fewer where fewer are alive.

    Raises:
      RuleError: a rule that matches no leaf.
      InputError: a density or spec out of range, or no leaf selected.
      NonFiniteError: NaN or infinity in a selected leaf.
      ShapeError: masks in `alive` that do not fit the weights.

    Source: arXiv 2107.00166, section 3.1.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"a": jnp.array([0.1, 0.3]), "b": jnp.array([5.0, 4.0, 0.2])}
      >>> masks = omp(params, 0.6, [(".*", True)])
      >>> masks["a"].tolist(), masks["b"].tolist()
      ([False, True], [True, True, False])
    """
    patterns = selection(params, rules, scope)
    check_finite(trees.select(patterns, params), "params")
    if alive is None:
        alive = dense_masks(params, rules)
    counts = kept_counts(params, patterns, density, scope)
    return best(params, alive, counts, patterns=_Static(patterns), scope=scope)


def dense_masks(params: PyTree, rules: Rules) -> PartialTree:
    """Returns masks that keep every weight of the leaves that the rules select."""
    return trees.map_partial(
        lambda _, w: jnp.ones(w.shape, bool), core_rules.match(rules, params), params
    )


def selection(params: PyTree, rules: Rules, scope: Scope) -> PartialTree:
    """Returns the pattern of every selected leaf, `None` elsewhere."""
    check_scope(scope)

    def pattern(spec: object) -> Pattern:
        if spec is True:
            return Unstructured()
        if scope == "layer" and isinstance(spec, Pattern):
            return spec
        expected = "True or None as a rule's spec"
        if scope == "layer":
            expected = "True, a pattern or None as a rule's spec"
        raise InputError(describe(repr(spec), expected))

    found = trees.map_partial(pattern, core_rules.match(rules, params))
    if not jax.tree.leaves(found, is_leaf=lambda x: isinstance(x, Pattern)):
        raise InputError(describe(f"rules {rules!r}", "rules that select some leaf"))
    return found


def kept_counts(
    params: PyTree, patterns: PartialTree, density: float, scope: Scope
) -> PartialTree:
    """Returns what `best` is to keep: int32 [], or a tree of them for "layer"."""
    if scope == "global":
        size = trees.size(trees.select(patterns, params))
        return jnp.int32(Target(density=density).kept((size,)))
    return trees.map_partial(
        lambda pattern, w: jnp.int32(
            Target(density=density, pattern=pattern).kept(w.shape)
        ),
        patterns,
        params,
    )


class _Static:
    """A tree of patterns as one hashable argument."""

    def __init__(self, tree: PartialTree):
        leaves, self.treedef = jax.tree.flatten(
            tree, is_leaf=lambda x: isinstance(x, Pattern)
        )
        self.leaves = tuple(leaves)

    @property
    def tree(self) -> PartialTree:
        return jax.tree.unflatten(self.treedef, self.leaves)

    def __hash__(self):
        return hash((self.leaves, self.treedef))

    def __eq__(self, other: object):
        return isinstance(other, _Static) and (
            (self.leaves, self.treedef) == (other.leaves, other.treedef)
        )


@functools.partial(jax.jit, static_argnames=("patterns", "scope"))
def best(
    params: PyTree,
    alive: PartialTree,
    counts: PyTree,
    *,
    patterns: _Static,
    scope: Scope,
) -> PartialTree:
    """The masks of `omp`; a new count does not recompile."""
    chosen = patterns.tree
    scores = trees.map_partial(_scores, chosen, params, alive)
    if scope == "layer":
        return trees.map_partial(
            lambda pattern, s, m, n: pattern.mask(s, n) & m,
            chosen,
            scores,
            alive,
            counts,
        )
    masks = iter(joint_topk(jax.tree.leaves(scores), counts))
    return trees.map_partial(lambda _, m: next(masks) & m, chosen, alive)


def _scores(_: Pattern, w: Array, mask: Array) -> Array:
    return active_scores(jnp.abs(w), check_mask(mask, w))
