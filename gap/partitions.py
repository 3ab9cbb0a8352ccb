"""Partitions of a network: which leaves grow together."""

import dataclasses
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import jax
import numpy as np

from core import rules as core_rules
from core import trees
from core.errors import InputError, check_range, describe
from core.rules import Rules
from core.types import Array, PartialTree, PyTree
from gap.masks import targets

_COLLECTIONS = ("params", "batch_stats")
"""flax's names of trees that have the same layers: no layer of a path."""


@dataclasses.dataclass(frozen=True)
class Partition:
    """Disjoint groups of prunable leaves; hashable, so static under `jit`.

    Attributes:
      parts: the paths of each group, in the order in which they grow.

    Example:
      >>> Partition((("fc1/kernel",), ("fc2/kernel", "fc3/kernel"))).kappa
      2
    """

    parts: tuple[tuple[str, ...], ...]

    def __post_init__(self):
        object.__setattr__(self, "parts", tuple(tuple(part) for part in self.parts))
        names = [name for part in self.parts for name in part]
        if not self.parts or not all(self.parts) or len(set(names)) < len(names):
            wanted = "at least one group, none empty and no path twice"
            raise InputError(describe(f"parts {self.parts}", wanted))

    @property
    def kappa(self) -> int:
        """The number of groups."""
        return len(self.parts)

    def index(self, params: PyTree) -> PartialTree:
        """Returns the number of each leaf's group, `None` for leaves in none.

        Raises:
          RuleError: a path that no leaf of `params` has.
        """
        return core_rules.match(
            [
                (re.escape(name), i)
                for i, part in enumerate(self.parts)
                for name in part
            ],
            params,
        )

    def owners(self, tree: PyTree, rules: Rules = ()) -> PyTree:
        """Returns the group that every leaf belongs to, prunable or not.

        A leaf of no group (a bias, a norm) goes with the leaf of a group that shares
        the longest beginning of its path with it, the first such group if there are
        several; one that shares nothing goes with group 0. flax's "params" and
        "batch_stats" in front of a path count for nothing.

        Args:
          tree: parameters, or another tree with such paths, as of batch statistics.
          rules: pairs of a path regex and a group, which go before that.

        Raises:
          RuleError: a rule that matches no leaf.
        """
        names, _, treedef = trees.flatten(tree)
        # A flat dict of the leaves: `None`s of a partial tree are none.
        given = core_rules.match(rules, dict.fromkeys(names, 0))
        known = [
            (_layers(name), i) for i, part in enumerate(self.parts) for name in part
        ]
        found = [
            _owner(_layers(name), known) if given[name] is None else given[name]
            for name in names
        ]
        return jax.tree.unflatten(treedef, found)


def _layers(name: str) -> list[str]:
    """The parts of a path, without the name of a collection in front."""
    parts = name.split("/")
    return parts[1:] if len(parts) > 1 and parts[0] in _COLLECTIONS else parts


def _owner(path: list[str], known: list[tuple[list[str], int]]) -> int:
    """The group whose leaf shares the longest beginning with `path`."""

    def shared(other: list[str]) -> int:
        same = [a == b for a, b in zip(path, other, strict=False)]
        return [*same, False].index(False)

    lengths = [shared(other) for other, _ in known]
    longest = max(lengths)
    return min(i for (_, i), n in zip(known, lengths, strict=True) if n == longest) * (
        longest > 0
    )


def partition(
    params: PyTree,
    rules: Rules,
    kappa: int,
    *,
    by: Literal["depth", "size", "random"] = "depth",
    key: Array | None = None,
    order: Sequence[str] | None = None,
) -> Partition:
    """Cuts the leaves that rules prune into `kappa` groups.

    Args:
      params: a pytree of arrays; only paths and shapes are used.
      rules: pairs of a path regex and a density or `Target`.
      kappa: the number of groups, at most that of prunable leaves.
      by: "depth": consecutive leaves, about as many in each group; "size":
        consecutive leaves, cut so that the largest group has as few weights as can
        be; "random": leaves drawn at random, about as many in each group.
      key: for "random".
      order: path regexes, from the network's input to its output. By default leaves
        are in the order of their paths, with numbers in them counted as numbers: most
        trees of parameters have lost the order of their layers.

    Returns:
      A `Partition` of all prunable leaves.

    Raises:
      InputError: `kappa` out of range, another word for `by`, no key, or an `order`
        that leaves a prunable leaf out.
      RuleError: a rule that matches no leaf.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {f"fc{i}": jnp.ones((2, 2)) for i in (1, 2, 3, 10)}
      >>> partition(params, [(".*", 0.1)], 2).parts
      (('fc1', 'fc2'), ('fc3', 'fc10'))
    """
    wanted = trees.select(targets(params, rules), params)
    sizes = {name: leaf.size for name, leaf in trees.by_path(wanted).items()}
    check_range("kappa", kappa, 1, len(sizes), remedy="Each group needs a leaf.")
    names = _ordered(list(sizes), order)
    if by == "size":
        ends = _balanced([sizes[name] for name in names], kappa)
    else:
        ends = [len(part) for part in np.array_split(names, kappa)]
        ends = np.cumsum(ends)[:-1].tolist()
    if by == "random":
        if key is None:
            raise InputError(describe("by='random' without a key", "key="))
        names = [names[i] for i in np.asarray(jax.random.permutation(key, len(names)))]
    elif by not in ("depth", "size"):
        raise InputError(f"by: {describe(repr(by), 'depth, size or random')}")
    return Partition(
        tuple(tuple(names[a:b]) for a, b in pairwise([0, *ends, len(names)]))
    )


def _ordered(names: list[str], order: Sequence[str] | None) -> list[str]:
    def natural(name: str) -> list[object]:
        # Text and digits alternate, so numbers are only compared with numbers.
        parts = re.split(r"(\d+)", name)
        return [int(part) if i % 2 else part for i, part in enumerate(parts)]

    if order is None:
        return sorted(names, key=natural)

    def rank(name: str) -> int:
        for i, regex in enumerate(order):
            if re.fullmatch(regex, name):
                return i
        raise InputError(
            f"order: {describe(list(order), f'a path regex that matches {name}')}"
        )

    return sorted(names, key=lambda name: (rank(name), natural(name)))


def _balanced(sizes: list[int], parts: int) -> list[int]:
    """Where to cut a list into non-empty runs so that the largest sum is smallest."""
    ends = np.cumsum([0, *sizes])
    n = len(sizes)
    best = {(1, i): int(ends[i]) for i in range(1, n + 1)}
    cut: dict[tuple[int, int], int] = {}
    for k in range(2, parts + 1):
        for i in range(k, n + 1):
            options = [
                (max(best[k - 1, j], int(ends[i] - ends[j])), j)
                for j in range(k - 1, i)
            ]
            best[k, i], cut[k, i] = min(options)
    found, i = [], n
    for k in range(parts, 1, -1):
        i = cut[k, i]
        found.append(i)
    return found[::-1]
