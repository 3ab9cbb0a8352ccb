"""Indices that go together: classes over all axes of all values of a graph."""

from collections.abc import Mapping

import numpy as np

from gap.compaction.known import Known
from gap.compaction.operators import OPERATORS, Keep
from gap.compaction.ties import Axis, Merge, Sum, Ties, place
from graph import Graph, Value

Kept = Mapping[str, Mapping[int, np.ndarray]]
"""For each parameter path the kept indices of the axes that lose any."""


class Classes:
    """The classes of a graph: what is removed is always a whole class.

    Attributes:
      sums: where an index ends.
      root: for each index of each axis of each value, the number of its class.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.reasons: list[str] = []
        self._first: dict[Axis, int] = {}
        values = [*graph.inputs, *graph.constants]
        values += [v for node in graph.nodes for v in node.outputs]
        self.axes = [(v, i) for v in values for i in range(len(v.shape))]
        total = 0
        for axis in self.axes:
            self._first[axis] = total
            total += axis[0].shape[axis[1]]
        self.root = np.arange(total)
        self._why = np.full(total, -1)
        ties = self._ties()
        self.sums: tuple[Sum, ...] = tuple(ties.sums)
        self._sized = tuple(ties.sized)
        self._join_links(ties)
        for axis, why in ties.pins:
            self.pin(self.atoms(axis), why)
        for merge in ties.merges:
            self._merge(merge)
        self._pin_strangers()

    def atoms(self, axis: Axis) -> np.ndarray:
        """Returns the numbers of the indices of an axis."""
        first = self._first[axis]
        return np.arange(first, first + axis[0].shape[axis[1]])

    def classes(self, axis: Axis) -> np.ndarray:
        """Returns the class of each index of an axis."""
        return self.root[self.atoms(axis)]

    def pin(self, atoms: np.ndarray, why: str) -> None:
        """These indices stay; the first reason given is the one that is told."""
        if why not in self.reasons[-1:]:
            self.reasons.append(why)
        fresh = atoms[self._why[atoms] < 0]
        self._why[fresh] = len(self.reasons) - 1

    def why(self) -> np.ndarray:
        """Returns for each class the number of a reason to stay, -1 where none is."""
        found = np.full(len(self.root), len(self.reasons))
        given = np.flatnonzero(self._why >= 0)
        np.minimum.at(found, self.root[given], self._why[given])
        return np.where(found == len(self.reasons), -1, found)

    def keep(self, removed: np.ndarray) -> Keep:
        """Returns the kept indices of the axes that lose any.

        Args:
          removed: for each class whether it goes.
        """
        found = {}
        for axis in self.axes:
            gone = removed[self.classes(axis)]
            if gone.any():
                found[axis] = np.flatnonzero(~gone)
        return found

    def any_size(self, value: Value, known: Mapping[Value, Known]) -> bool:
        """Whether the first axis of an input may have any length, as a batch may.

        What is constant, and what it is, must not depend on the length: nothing slides
        over the axis, pads it or cuts it, and no sum over it has a constant in it.
        """
        if not value.shape:
            return False
        mine = self.classes((value, 0))
        sums = [axis for each in self.sums for axis in each.axes]
        touched = [axis for axis in sums if not known[axis[0]].blank]
        touched += self._sized
        return not any(np.isin(mine, self.classes(axis)).any() for axis in touched)

    def follow(self, kept: Kept) -> tuple[np.ndarray, bool]:
        """Returns which classes go if parameters lose indices, and if all fits."""
        removed = np.zeros(len(self.root), bool)
        stays = self.why() >= 0
        for value in self.graph.argument(0):
            for i, indices in kept.get(value.path, {}).items():
                gone = np.ones(value.shape[i], bool)
                gone[indices] = False
                removed[self.classes((value, i))[gone]] = True
        for value in self.graph.argument(0):
            for i, n in enumerate(value.shape):
                kept_here = kept.get(value.path, {}).get(i, np.arange(n))
                stays[self.classes((value, i))[kept_here]] = True
        return removed, not (removed & stays).any()

    def _ties(self) -> Ties:
        ties = Ties()
        for node in self.graph.nodes:
            rule = OPERATORS.get(node.op)
            if rule is None:
                ties.pin_all(node, f"{place(node)} is not understood")
            else:
                rule.tie(node, ties)
        for value in self.graph.inputs:
            if value.argument != 0:
                for i in range(len(value.shape)):
                    ties.pin((value, i), "it belongs to an input of the network")
        used = {value for node in self.graph.nodes for value in node.inputs}
        for value in self.graph.inputs:
            if value not in used:
                for i in range(len(value.shape)):
                    ties.pin((value, i), "the network does not use it")
        for value in self.graph.outputs:
            for i in range(len(value.shape)):
                ties.pin((value, i), "it belongs to an output of the network")
        return ties

    def _join_links(self, ties: Ties) -> None:
        if ties.links:
            left = [self._first[a] + at for a, _, at, _ in ties.links]
            right = [self._first[b] + at for _, b, _, at in ties.links]
            self._join(np.concatenate(left), np.concatenate(right))

    def _join(self, left: np.ndarray, right: np.ndarray) -> None:
        """Unites classes: each is named by its least index."""
        root = self.root
        while True:
            a, b = root[left], root[right]
            if np.array_equal(a, b):
                return
            np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
            while not np.array_equal(root, root[root]):
                root = root[root]
            self.root = root

    def _merge(self, merge: Merge) -> None:
        """Lets one of the joined axes lose indices: the first that is not held whole.

        Of a flattened map that is the channel, since convolutions and pools hold its
        rows and columns; of features split into heads it is the head.
        """
        held = self.why() >= 0
        free = [p for p in merge.parts if not held[self.classes(p)].all()]
        if not free or held[self.classes(merge.whole)].all():
            for axis in (merge.whole, *merge.parts):
                self.pin(self.atoms(axis), f"{merge.source} joins it with what stays")
            return
        chosen = merge.parts.index(free[0])
        for part in merge.parts:
            if part != free[0]:
                self.pin(self.atoms(part), f"{merge.source} joins it with others")
        sizes = [value.shape[i] for value, i in merge.parts]
        which = np.indices(sizes)[chosen].ravel()
        self._join(self.atoms(merge.whole), self.atoms(free[0])[which])

    def _pin_strangers(self) -> None:
        """Classes without an index of a parameter stay, so that parameters say all."""
        known = np.zeros(len(self.root), bool)
        for value in self.graph.argument(0):
            for i in range(len(value.shape)):
                known[self.classes((value, i))] = True
        strange = np.flatnonzero(~known[self.root])
        self.pin(strange, "no parameter decides it")
