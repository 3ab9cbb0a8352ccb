"""The operator graph: values, nodes, and what they compute."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core as jax_core

from core import trees
from core.errors import ShapeError, describe


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """What flows along an edge of the graph; compared and hashed by identity.

    Attributes:
      index: position in the order of definition, unique in the graph.
      shape: of the array.
      dtype: of the array.
      argument: the positional argument of the traced function that it belongs to, or
        None where a node or a constant defines it.
      path: within that argument, such as 'fc1/kernel'; '' for a bare array.
    """

    index: int
    shape: tuple[int, ...]
    dtype: np.dtype
    argument: int | None = None
    path: str = ""

    @property
    def struct(self) -> jax.ShapeDtypeStruct:
        """Shape and type, as `jax.eval_shape` takes them."""
        return jax.ShapeDtypeStruct(self.shape, self.dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One operator.

    Attributes:
      op: the name of the JAX primitive, or of a composite such as 'relu'.
      inputs: operands, in the primitive's order.
      outputs: results; most operators have one.
      params: of the primitive; of a composite, such as {'axis': 1} of 'softmax'.
      source: the user's line that it comes from, as 'file.py:12 (function)'.
      primitive: the JAX primitive, None for a composite.
      body: what a composite computes, None for a primitive.
    """

    op: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    params: Mapping[str, Any]
    source: str
    primitive: jax_core.Primitive | None = None
    body: "Graph | None" = None

    def __call__(self, *operands: Any) -> list[Any]:
        """Returns the results for operands of the inputs' shapes."""
        if self.body is not None:
            return self.body.run(operands)
        assert self.primitive is not None
        found = self.primitive.bind(*operands, **self.params)
        return list(found) if self.primitive.multiple_results else [found]


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A JAX function as operators in topological order.

    Invariants: every input of a node is an input of the graph, a constant, or an
    output of an earlier node; no value is defined twice.

    Attributes:
      inputs: one for each leaf of the arguments, in their flattened order.
      outputs: one for each leaf of the result; may be inputs or constants too.
      nodes: in topological order.
      constants: values that depend on no input, folded when traced.
      in_tree: the structure of the arguments, a tuple.
      out_tree: the structure of the result.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[Value, Any]
    in_tree: Any = None
    out_tree: Any = None

    def argument(self, position: int) -> tuple[Value, ...]:
        """Returns the inputs of one positional argument."""
        return tuple(v for v in self.inputs if v.argument == position)

    def bind(self, *args: Any) -> dict[Value, Any]:
        """Returns the leaves of arguments by input, the constants included.

        Raises:
          ShapeError: arguments of another structure or other shapes.
        """
        leaves, tree = jax.tree.flatten(args)
        if tree != self.in_tree:
            raise ShapeError(
                f"graph: {describe(f'arguments {tree}', str(self.in_tree))}"
            )
        for value, leaf in zip(self.inputs, leaves, strict=True):
            if np.shape(leaf) != value.shape:
                name = value.path or f"argument {value.argument}"
                given = f"shape {list(np.shape(leaf))}"
                raise ShapeError(
                    f"graph: {name}: {describe(given, f'{list(value.shape)}')}"
                )
        return dict(self.constants) | dict(zip(self.inputs, leaves, strict=True))

    def __str__(self) -> str:
        """One line for each operator, its shapes and its source."""

        def text(value: Value) -> str:
            return f"{value.path or '%'}{value.index}{list(value.shape)}"

        return "\n".join(
            f"{', '.join(map(text, n.outputs))} = {n.op}"
            f"({', '.join(map(text, n.inputs))})  # {n.source}"
            for n in self.nodes
        )

    def run(self, operands: Sequence[Any]) -> list[Any]:
        """Returns the flat outputs for the flat inputs."""
        known = dict(self.constants) | dict(zip(self.inputs, operands, strict=True))
        fill(self.nodes, known)
        return [known[value] for value in self.outputs]


def fill(nodes: Sequence[Node], known: dict[Value, Any]) -> None:
    """Evaluates nodes in their order, adding their outputs to `known`."""
    for node in nodes:
        found = node(*(known[value] for value in node.inputs))
        known.update(zip(node.outputs, found, strict=True))


def evaluate(graph: Graph, *args: Any) -> Any:
    """Returns what the traced function returns, by running the graph.

    Args:
      graph: of a function of `args`.
      *args: of the structure and shapes it was traced with.

    Raises:
      ShapeError: arguments of another structure or other shapes.
    """
    known = graph.bind(*args)
    fill(graph.nodes, known)
    return jax.tree.unflatten(graph.out_tree, [known[v] for v in graph.outputs])


def prune(
    nodes: Sequence[Node], constants: Mapping[Value, Any], outputs: Sequence[Value]
) -> tuple[tuple[Node, ...], dict[Value, Any]]:
    """Returns the nodes and the constants that the outputs need."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            needed.update(node.inputs)
            kept.append(node)
    return tuple(reversed(kept)), {v: a for v, a in constants.items() if v in needed}


def name_inputs(args: Sequence[Any]) -> list[tuple[int, str]]:
    """Returns the argument and the path of every leaf of positional arguments."""
    return [
        (position, path)
        for position, arg in enumerate(args)
        for path in trees.paths(arg)
    ]
