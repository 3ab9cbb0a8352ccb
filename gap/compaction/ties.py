"""What ties the axes of operands and results to each other, operator by operator.

Removing a channel removes one index of one axis of many values at once. A `Ties`
collects which indices go together, which have to stay, and where an index ends: at a
sum, which loses a term when it goes.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from graph import Node, Value

Axis = tuple[Value, int]
"""One axis of one value."""


@dataclasses.dataclass(frozen=True, eq=False)
class Sum:
    """An axis that an operator sums over: indices may go if their terms are constant.

    Attributes:
      node: the operator.
      axes: the summed axis of its first operand and, of a product, of its second.
      free: for each of `axes` the axis of the same operand that the results keep, None
        where there is none or more than one.
    """

    node: Node
    axes: tuple[Axis, ...]
    free: tuple[Axis | None, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Merge:
    """One axis that runs over several others, the last one fastest."""

    whole: Axis
    parts: tuple[Axis, ...]
    source: str


class Ties:
    """Collects the ties of a graph.

    Attributes:
      links: pairs of axes, with the indices of each that go together.
      pins: axes that stay whole, with the reason in words.
      merges: axes that a reshape joins or splits.
      sums: axes that end in a sum.
      sized: axes whose length decides what is constant, such as those that windows
        slide over.
    """

    def __init__(self):
        self.links: list[tuple[Axis, Axis, np.ndarray, np.ndarray]] = []
        self.pins: list[tuple[Axis, str]] = []
        self.merges: list[Merge] = []
        self.sums: list[Sum] = []
        self.sized: list[Axis] = []

    def link(
        self,
        a: Axis,
        b: Axis,
        at_a: np.ndarray | None = None,
        at_b: np.ndarray | None = None,
    ) -> None:
        """Index `at_a[k]` of one axis goes with index `at_b[k]` of the other."""
        size = a[0].shape[a[1]]
        at_a = np.arange(size) if at_a is None else at_a
        self.links.append((a, b, at_a, at_a if at_b is None else at_b))

    def pin(self, axis: Axis, why: str) -> None:
        """The axis stays whole."""
        self.pins.append((axis, why))

    def slide(self, axis: Axis, why: str) -> None:
        """The axis stays whole, and what is constant depends on its length."""
        self.pin(axis, why)
        self.sized.append(axis)

    def pin_all(self, node: Node, why: str) -> None:
        """Every axis of every operand and result stays whole."""
        for value in (*node.inputs, *node.outputs):
            for axis in range(len(value.shape)):
                self.pin((value, axis), why)

    def same(self, node: Node, value: Value, out: Value, axes: Sequence[int]) -> None:
        """Axis i of `value` is axis `axes[i]` of `out`, or stays if it is stretched."""
        for i, j in enumerate(axes):
            if value.shape[i] == out.shape[j]:
                self.link((value, i), (out, j))
            else:
                self.pin((value, i), f"{place(node)} stretches it")


def place(node: Node) -> str:
    """Returns an operator with its line, for messages."""
    return f"{node.op} at {node.source or 'an unknown line'}"


def tie_reshape(node: Node, ties: Ties) -> None:
    """Ties axes that a reshape keeps, and those that it joins or splits."""
    (value, *_), (out,) = node.inputs, node.outputs
    for given, found in blocks(value.shape, out.shape):
        ours = [(value, i) for i in given]
        theirs = [(out, j) for j in found]
        if len(ours) == len(theirs) == 1:
            ties.link(ours[0], theirs[0])
        elif len(ours) == 1 and theirs:
            ties.merges.append(Merge(ours[0], tuple(theirs), place(node)))
        elif len(theirs) == 1 and ours:
            ties.merges.append(Merge(theirs[0], tuple(ours), place(node)))
        else:
            for axis in (*ours, *theirs):
                ties.pin(axis, f"{place(node)} regroups it")


def blocks(
    given: Sequence[int], found: Sequence[int]
) -> list[tuple[list[int], list[int]]]:
    """Returns the axes of two shapes in the smallest groups of equal size.

    Args:
      given: a shape.
      found: another of as many elements.

    Example:
      >>> blocks((2, 4, 4, 50), (2, 800))
      [([0], [0]), ([1, 2, 3], [1])]
    """
    a = [i for i, n in enumerate(given) if n != 1]
    b = [j for j, n in enumerate(found) if n != 1]
    if 0 in given or 0 in found:
        return [(a, b), *_ones(given, found)]
    groups = []
    while a:
        left, right = [a.pop(0)], [b.pop(0)]
        while True:
            m = math.prod(given[i] for i in left)
            n = math.prod(found[j] for j in right)
            if m == n:
                break
            (left if m < n else right).append((a if m < n else b).pop(0))
        groups.append((left, right))
    return groups + _ones(given, found)


def _ones(given: Sequence[int], found: Sequence[int]) -> list[tuple[list, list]]:
    """Axes of length 1 have nothing to tie; each is a group that stays."""
    ours = [([i], []) for i, n in enumerate(given) if n == 1]
    return ours + [([], [j]) for j, n in enumerate(found) if n == 1]
