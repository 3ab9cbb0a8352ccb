"""Runs what is left of a network: the original's operators on smaller arrays."""

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from core.errors import GraphError, ShapeError, describe
from core.types import PyTree
from gap.compaction.classes import Classes, Kept
from gap.compaction.operators import Keep, run
from graph import Graph, Node, trace

Sizes = tuple[int | None, ...]
"""The shape of an input, None for an axis of any length."""

Place = tuple[str, int]
"""An operator by its name and its number among those of that name."""


class Traced(NamedTuple):
    """A network at one shape of its inputs."""

    graph: Graph
    keep: Keep
    offsets: Mapping[Node, np.ndarray]


def places(graph: Graph) -> dict[Node, Place]:
    """Returns where each operator stands; sums stand alike at every batch size."""
    seen: collections.Counter[str] = collections.Counter()
    found = {}
    for node in graph.nodes:
        found[node] = (node.op, seen[node.op])
        seen[node.op] += 1
    return found


class Program:
    """The smaller network, a function of its parameters and the same other arguments.

    Jittable and differentiable. The original is traced once for each shape of its
    arguments; which indices go at that shape follows from the parameters' alone.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        structs: PyTree,
        kept: Kept,
        offsets: Mapping[Place, np.ndarray],
        allowed: tuple[Sizes, ...],
    ):
        self.fn = fn
        self.structs = structs
        self.kept = kept
        self.offsets = dict(offsets)
        self.allowed = allowed
        self._traced: dict[Any, Traced] = {}

    def __call__(self, params: PyTree, *args: Any) -> Any:
        """Returns what the masked network returns for `args`.

        Args:
          params: of the smaller network: the structure of the original's.
          *args: as the original takes them, of any batch size.

        Raises:
          ShapeError: parameters or inputs of other shapes.
          GraphError: a batch size at which the network has other operators.
        """
        traced = self._at(args)
        graph, keep = traced.graph, traced.keep
        leaves, tree = jax.tree.flatten((params, *args))
        if tree != graph.in_tree:
            raise ShapeError(
                f"compact: {describe(f'arguments {tree}', str(graph.in_tree))}"
            )
        known = {v: _constant(a, v, keep) for v, a in graph.constants.items()}
        for value, leaf in zip(graph.inputs, leaves, strict=True):
            wanted = tuple(_size(keep, value, i) for i in range(len(value.shape)))
            if np.shape(leaf) != wanted:
                given = f"{value.path or 'an argument'} of shape {np.shape(leaf)}"
                raise ShapeError(f"compact: {describe(given, str(wanted))}")
            known[value] = leaf
        for node in graph.nodes:
            found = run(node, [known[v] for v in node.inputs], keep)
            if node in traced.offsets:
                offset = jnp.asarray(traced.offsets[node], found[0].dtype)
                found[0] = found[0] + jnp.broadcast_to(offset, found[0].shape)
            known.update(zip(node.outputs, found, strict=True))
        return jax.tree.unflatten(graph.out_tree, [known[v] for v in graph.outputs])

    def _at(self, args: Any) -> Traced:
        leaves, tree = jax.tree.flatten(args)
        key = (tree, *((np.shape(x), str(jnp.result_type(x))) for x in leaves))
        if key not in self._traced:
            traced = self._trace(args)
            if any(isinstance(a, Tracer) for a in traced.graph.constants.values()):
                return traced  # of an outer trace, and of no use after it
            self._traced[key] = traced
        return self._traced[key]

    def _check(self, leaves: Sequence[Any]) -> None:
        """Refuses other shapes than the example's, which decided what is constant."""
        shapes = [np.shape(leaf) for leaf in leaves]
        fits = len(shapes) == len(self.allowed) and all(
            len(shape) == len(sizes)
            and all(m in (None, n) for n, m in zip(shape, sizes, strict=True))
            for shape, sizes in zip(shapes, self.allowed, strict=True)
        )
        if not fits:
            remedy = "Call compact with an example of this shape."
            wanted = f"{list(self.allowed)}, None for any length"
            given = f"inputs of shapes {shapes}"
            raise ShapeError(f"compact: {describe(given, wanted, remedy)}")

    def _trace(self, args: Any) -> Traced:
        self._check(jax.tree.leaves(args))
        graph = trace(self.fn, self.structs, *args)
        classes = Classes(graph)
        removed, fits = classes.follow(self.kept)
        where = {place: node for node, place in places(graph).items()}
        if not fits or any(place not in where for place in self.offsets):
            given = f"inputs of shapes {[np.shape(x) for x in jax.tree.leaves(args)]}"
            remedy = "Call compact with an example of this shape."
            wanted = "inputs for which the network has the operators it had"
            raise GraphError(f"compact: {describe(given, wanted, remedy)}")
        offsets = {where[place]: array for place, array in self.offsets.items()}
        return Traced(graph, classes.keep(removed), offsets)


def _size(keep: Keep, value: Any, axis: int) -> int:
    found = keep.get((value, axis))
    return value.shape[axis] if found is None else len(found)


def _constant(array: Any, value: Any, keep: Keep) -> Any:
    for i in range(len(value.shape)):
        if (value, i) in keep:
            if isinstance(array, Tracer):
                array = jnp.take(array, keep[value, i], axis=i)
            else:
                array = np.take(np.asarray(array), keep[value, i], axis=i)
    return array
