"""Which classes of indices can leave a network, and what their leaving adds."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from gap.compaction.classes import Classes
from gap.compaction.known import Known, linear
from gap.compaction.operators import Keep
from gap.compaction.ties import Axis, Sum, place
from graph import Graph, Node, Value


class Demand(NamedTuple):
    """Which indices of a summed axis have terms that the input changes.

    Attributes:
      axis: of the first operand; the second's is of the same classes.
      terms: [indices], or [indices, outputs] with the axis that outputs are of.
      outputs: None where the term counts for any output.
      why: the reason to stay, in words.
    """

    axis: Axis
    terms: np.ndarray
    outputs: Axis | None
    why: str


class Plan(NamedTuple):
    """What goes and what stays.

    Attributes:
      removed: for each class whether it goes.
      keep: kept indices of the axes that lose any.
      offsets: what the terms that went add to the results of a sum, for each node.
    """

    removed: np.ndarray
    keep: Keep
    offsets: dict[Node, np.ndarray]


def plan(classes: Classes, known: Mapping[Value, Known], *, maps: bool) -> Plan:
    """Returns the largest removal that changes no output.

    It starts from everything that nothing pins being gone, and takes back what a kept
    output still needs until nothing more is needed.

    Args:
      classes: of the graph; gets a pin for whatever is taken back.
      known: what is known of each value.
      maps: whether an offset may differ between positions.
    """
    active = reached(classes.graph)
    demands = [_demand(each, known, active) for each in classes.sums]
    while True:
        removed = _fixpoint(classes, demands)
        if _take_back_empty(classes, removed):
            continue
        offsets, refused = _offsets(classes, known, removed, active, maps)
        if not refused:
            return Plan(removed, classes.keep(removed), offsets)
        for atoms, why in refused:
            classes.pin(atoms, why)


def reached(graph: Graph) -> set[Value]:
    """Returns the values that depend on an argument other than the first."""
    found = {v for v in graph.inputs if v.argument != 0}
    for node in graph.nodes:
        if found.intersection(node.inputs):
            found.update(node.outputs)
    return found


def _demand(each: Sum, known: Mapping[Value, Known], active: set[Value]) -> Demand:
    values = [value for value, _ in each.axes]
    facts = [known[value] for value in values]
    if not active.intersection(values):
        # Of parameters alone: a number would take their place, so it has to be 0.
        terms = np.ones(values[0].shape[each.axes[0][1]], bool)
        for fact, (_, i) in zip(facts, each.axes, strict=True):
            terms = terms & _any(fact.nonzero, i)
        why = f"{place(each.node)} sums parameters over it"
        return Demand(each.axes[0], terms, None, why)
    if len(each.axes) == 1:
        terms = _any(facts[0].unknown, each.axes[0][1])
        return Demand(each.axes[0], terms, None, f"{place(each.node)} sums over it")
    for one, other in ((0, 1), (1, 0)):
        if facts[other].whole:
            i, j = each.axes[one][1], each.axes[other][1]
            name = values[other].path or place(each.node)
            moving = _any(facts[one].unknown, i)
            free = each.free[other]
            if free is None:
                terms = moving & _any(facts[other].nonzero, j)
                return Demand(each.axes[0], terms, None, f"{name} reads it")
            weights = _any(facts[other].nonzero, j, free[1])
            terms = moving[:, None] & weights
            return Demand(each.axes[0], terms, free, f"{name} reads it")
    a, b = facts
    i, j = each.axes[0][1], each.axes[1][1]
    terms = _any(a.unknown, i) & _any(b.nonzero, j)
    terms |= _any(a.nonzero, i) & _any(b.unknown, j)
    return Demand(each.axes[0], terms, None, f"{place(each.node)} reads it")


def _any(where: np.ndarray, *axes: int) -> np.ndarray:
    """Whether any element is true, for each index of `axes`, in their order."""
    rest = tuple(i for i in range(where.ndim) if i not in axes)
    found = np.asarray(where.any(axis=rest))
    return found.T if len(axes) == 2 and axes[0] > axes[1] else found


def _fixpoint(classes: Classes, demands: list[Demand]) -> np.ndarray:
    kept = classes.why() >= 0
    while True:
        changed = False
        for demand in demands:
            terms = demand.terms
            if demand.outputs is not None:
                terms = terms @ kept[classes.classes(demand.outputs)]
            mine = classes.classes(demand.axis)
            fresh = terms & ~kept[mine]
            if fresh.any():
                classes.pin(classes.atoms(demand.axis)[fresh], demand.why)
                kept[mine[fresh]] = True
                changed = True
        if not changed:
            return ~kept


def _take_back_empty(classes: Classes, removed: np.ndarray) -> bool:
    """Keeps one index of every axis: operators of no features are no operators."""
    found = False
    for axis in classes.axes:
        mine = classes.classes(axis)
        if len(mine) and removed[mine].all():
            classes.pin(classes.atoms(axis)[:1], "it is the last one of a layer")
            removed[mine[0]] = False
            found = True
    return found


def _offsets(
    classes: Classes,
    known: Mapping[Value, Known],
    removed: np.ndarray,
    active: set[Value],
    maps: bool,
) -> tuple[dict[Node, np.ndarray], list[tuple[np.ndarray, str]]]:
    """What removed terms add, and the indices whose terms may not be added."""
    by_node: dict[Node, list[Sum]] = {}
    for each in classes.sums:
        gone = removed[classes.classes(each.axes[0])].any()
        if gone and active.intersection(each.node.inputs):
            by_node.setdefault(each.node, []).append(each)
    keep, offsets, refused = classes.keep(removed), {}, []
    for node, sums in by_node.items():
        first = known[node.inputs[0]].values
        gone = np.zeros((1,) * first.ndim, bool)
        for each in sums:
            value, i = each.axes[0]
            shape = [1] * first.ndim
            shape[i] = -1
            gone = gone | removed[classes.classes((value, i))].reshape(shape)
        others = [known[value].values for value in node.inputs[1:]]
        offset = linear(node, [np.where(gone, first, 0.0), *others])
        offset = _shrunk(_sliced(offset, node.outputs[0], keep))
        if not offset.any():
            continue
        if not maps and sum(n > 1 for n in offset.shape) > 1:
            why = f"a constant that {place(node)} makes differ between positions"
            for each in sums:
                atoms = classes.atoms(each.axes[0])
                value, i = each.axes[0]
                constant = _any(known[value].nonzero, i)
                refused.append((atoms[removed[classes.root[atoms]] & constant], why))
            continue
        offsets[node] = offset
    return offsets, refused


def _sliced(array: np.ndarray, value: Value, keep: Keep) -> np.ndarray:
    for i in range(array.ndim):
        if (value, i) in keep:
            array = np.take(array, keep[value, i], axis=i)
    return array


def _shrunk(array: np.ndarray) -> np.ndarray:
    """Takes one index of every axis along which nothing changes but rounding."""
    scale = np.abs(array).max(initial=0.0)
    for i in range(array.ndim):
        first = np.take(array, [0], axis=i)
        if array.shape[i] > 1 and np.abs(array - first).max() <= 1e-12 * scale:
            array = first
    return array
