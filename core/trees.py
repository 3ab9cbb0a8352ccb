"""Pytrees with paths, and trees that have a part for only some leaves.

A leaf's path is its keys joined by '/', such as 'fc1/kernel'. Paths are the one
vocabulary by which rules, masks, formats and reports name a parameter. A
*partial* tree has the shape of another tree with `None` in place of the leaves it
says nothing about; `map_partial` is the only place that deals with such `None`s.
"""

import collections
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from core.errors import ShapeError, describe
from core.types import Array, PartialTree, PyTree


def path_str(path: tuple[Any, ...]) -> str:
    """Returns a key path of `jax.tree_util` as text, such as 'fc1/kernel'.

    Args:
      path: keys as `jax.tree_util.tree_flatten_with_path` gives them.
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")


def flatten(tree: PyTree) -> tuple[list[str], list[Any], Any]:
    """Returns the paths, the leaves and the treedef of `tree`, in one order.

    The `.value` that flax nnx adds for its variables is left out of paths, so that
    linen, nnx and plain dicts name the same parameter alike.

    Raises:
      ShapeError: two leaves have the same path, as in {"a/b": x, "a": {"b": y}}.
    """
    flat, treedef = jax.tree_util.tree_flatten_with_path(tree)
    keys = [path for path, _ in flat]
    children = collections.Counter(path[:-1] for path in keys)
    names = [
        path_str(path[:-1] if _only_value(path, children) else path) for path in keys
    ]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ShapeError(
            describe(f"two leaves with the path {twice!r}", "a path for every leaf")
        )
    return names, [leaf for _, leaf in flat], treedef


def _only_value(path: tuple[Any, ...], children: collections.Counter[Any]) -> bool:
    """Whether a path ends in the attribute `value` of a node with no other leaf."""
    named = bool(path) and isinstance(path[-1], jax.tree_util.GetAttrKey)
    return named and path[-1].name == "value" and children[path[:-1]] == 1


def paths(tree: PyTree) -> list[str]:
    """Returns the path of every leaf of `tree`; `None` is no leaf."""
    return flatten(tree)[0]


def by_path(tree: PyTree) -> dict[str, Any]:
    """Returns the leaves of `tree` as a flat dict from path to leaf."""
    names, leaves, _ = flatten(tree)
    return dict(zip(names, leaves, strict=True))


def map_partial(
    f: Callable[..., Any],
    partial: PartialTree,
    *trees: PyTree,
    absent: Callable[..., Any] | None = None,
) -> PyTree:
    """Maps `f(part, *leaves)` over the leaves that `partial` has a part for.

    Args:
      f: called with the part and the corresponding leaves of `trees`.
      partial: a tree with `None` for the leaves that are not concerned.
      *trees: full trees, or partial ones that have a part wherever `partial` has;
        the first gives the structure. With none, `partial` itself does.
      absent: called with the leaves of `trees` where the part is `None`; such
        leaves become `None` when it is not given.

    Returns:
      A tree of the structure of `trees[0]` with the results.

    Raises:
      ShapeError: the structures do not fit.
    """
    try:
        # With None as a leaf, partial and full trees have one structure.
        main = trees[0] if trees else partial
        _, treedef = jax.tree.flatten(main, is_leaf=lambda x: x is None)
        parts = treedef.flatten_up_to(partial)
        columns = [treedef.flatten_up_to(t) for t in trees]
    except (ValueError, TypeError, KeyError) as e:
        raise ShapeError(
            describe(
                f"trees that differ in structure ({e})",
                "a partial tree and full trees of one structure",
                "Build the partial tree from the same parameters it is used with.",
            )
        ) from e
    rows = zip(*columns, strict=True) if trees else [()] * len(parts)
    out = [
        f(part, *row)
        if part is not None
        else (absent(*row) if absent is not None else None)
        for part, row in zip(parts, rows, strict=True)
    ]
    return jax.tree.unflatten(treedef, out)


def keep_rest(_leaf: Any, *_: Any) -> Any:
    """An `absent` for `map_partial`: the first tree's leaf, unchanged."""
    return _leaf


def select(partial: PartialTree, tree: PyTree) -> PartialTree:
    """Returns `tree` with `None` wherever `partial` has `None`."""
    return map_partial(lambda _, leaf: leaf, partial, tree)


def size(tree: PyTree) -> int:
    """Returns the number of elements of all leaves, a Python int."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def squared_norm(tree: PyTree) -> Array:
    """Returns the sum of squares of all elements, float32 of shape [].

    Squares are taken and summed in float32 at least.
    """
    total = jnp.zeros((), jnp.float32)
    for leaf in jax.tree.leaves(tree):
        wide = leaf if leaf.dtype.itemsize >= 4 else leaf.astype(jnp.float32)
        total = total + jnp.sum(jnp.square(wide)).astype(jnp.float32)
    return total
