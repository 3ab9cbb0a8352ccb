"""A function cut at its nonlinear operators; what lies between is affine."""

import dataclasses
import functools
from collections.abc import Callable, Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import graph
from core.errors import GraphError, ShapeError, describe
from core.types import Array, PyTree
from graph import Node, Value
from graph.graph import fill
from verify import affine
from verify.expansions import EXPANSIONS, JOINT_EXPANSIONS
from verify.relaxations import RULES

Weights = tuple[Array, ...]
"""The values that an affine operator multiplies by or adds, in `Network.known`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A function of one array, ready to be bounded.

    Static: hold it outside of `jit`, pass `Weights` and regions in.

    Attributes:
      nodes: the operators that the input reaches, in topological order.
      input: the array that is perturbed, one example.
      output: the result.
      known: the values, of parameters alone, that nodes use.
      hidden: the values that a nonlinear operator takes, in topological order; their
        bounds decide its relaxation.
      nonlinear: the nonlinear nodes, in topological order.
    """

    graph: graph.Graph
    nodes: tuple[Node, ...]
    input: Value
    output: Value
    known: tuple[Value, ...]
    hidden: tuple[Value, ...]
    nonlinear: tuple[Node, ...]

    def prepare(self, params: PyTree) -> Weights:
        """Returns the weights that the nodes use, computed from parameters.

        Args:
          params: of the structure and shapes that the network was built with.
        """
        leaves = jax.tree.leaves(params)
        given = dict(self.graph.constants)
        given |= dict(zip(self.graph.argument(0), leaves, strict=True))
        reached = {id(node) for node in self.nodes}
        others = [node for node in self.graph.nodes if id(node) not in reached]
        fill(others, given)
        return tuple(_floating(given[value], value.dtype) for value in self.known)

    @property
    def is_piecewise_linear(self) -> bool:
        """Whether splitting neurons decides every property."""
        return all(node.op == "relu" for node in self.nonlinear)

    @functools.cached_property
    def active(self) -> frozenset[Value]:
        """The values that the input reaches, itself among them."""
        outputs = {v for node in self.nodes for v in node.outputs}
        return frozenset(outputs | {self.input})

    @functools.cached_property
    def users(self) -> dict[Value, int]:
        """How many operands are each value."""
        found: dict[Value, int] = {}
        for node in self.nodes:
            for value in node.inputs:
                found[value] = found.get(value, 0) + 1
        return found

    def before(self, value: Value) -> list[Node]:
        """Returns the nodes that `value` depends on, in topological order."""
        needed, found = {value}, []
        for node in reversed(self.nodes):
            if needed.intersection(node.outputs):
                needed.update(node.inputs)
                found.append(node)
        return found[::-1]

    def table(self, weights: Weights) -> dict[Value, Array]:
        """Returns weights by value."""
        return dict(zip(self.known, weights, strict=True))


def network(fn: Callable[..., Any], params: PyTree, example: Any) -> Network:
    """Returns `fn` cut at its nonlinear operators.

    Args:
      fn: `fn(params, x) -> y` of JAX operators, for one example or with a batch axis
        of one; y is one array.
      params: a pytree of arrays, or of their `jax.ShapeDtypeStruct`s.
      example: an x, or its `jax.ShapeDtypeStruct`.

    Raises:
      GraphError: an operator that is neither affine nor has a relaxation; the message
        names it and its line.
    """
    with jax.default_matmul_precision("highest"):  # of what is folded, too
        traced = graph.recognise(graph.trace(fn, params, example))
        traced = graph.expand(
            traced, EXPANSIONS, joint=JOINT_EXPANSIONS, sources=traced.argument(1)
        )
    traced = affine.settled(traced)
    if len(traced.outputs) != 1 or len(traced.argument(1)) != 1:
        raise ShapeError(
            "verify.network: "
            + describe(f"{len(traced.outputs)} outputs", "one array in and one out")
        )
    (given,) = traced.argument(1)
    active, nodes = {given}, []
    for node in traced.nodes:
        if active.intersection(node.inputs):
            active.update(node.outputs)
            nodes.append(node)
    nonlinear, hidden, known = [], {}, {}
    for node in nodes:
        for value in node.inputs:
            if value not in active:
                known[value] = None
        if affine.is_affine(node, active):
            continue
        if node.op not in RULES or affine.narrows(node, active):
            raise _refused(node, active)
        nonlinear.append(node)
        hidden |= dict.fromkeys(v for v in node.inputs if v in active)
    if traced.outputs[0] not in active:
        raise GraphError(describe("an output that x does not reach", "a function of x"))
    order = {v: i for i, n in enumerate(nodes) for v in n.outputs} | {given: -1}
    return Network(
        traced,
        tuple(nodes),
        given,
        traced.outputs[0],
        tuple(known),
        tuple(sorted(hidden, key=order.__getitem__)),
        tuple(nonlinear),
    )


def _refused(node: Node, active: Collection[Value]) -> GraphError:
    where = f"verify: operator {node.op!r} at {node.source or 'an unknown line'}: "
    if affine.reduces(node):
        return GraphError(
            where
            + describe(
                f"a product of precision {node.params['precision']}",
                "products in the type of their operands",
                "Leave out the precision: no bound counts what it loses.",
            )
        )
    if affine.narrows(node, active):
        kinds = sorted({str(v.dtype) for v in operands(node, active)})
        return GraphError(
            where
            + describe(
                f"{' and '.join(kinds)} rounded to {node.outputs[0].dtype}",
                "one float type throughout",
                "Leave out the cast: no bound counts what it loses.",
            )
        )
    return GraphError(
        where
        + describe(
            "neither an affine operator nor one with a relaxation",
            f"a relaxation among {', '.join(sorted(RULES))}",
            "Add one to verify.relaxations, or an expansion.",
        )
    )


def _floating(array: Any, dtype: np.dtype) -> Array:
    array = jnp.asarray(array)
    if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype != dtype:
        return lax.convert_element_type(array, dtype)
    return array


def operands(node: Node, active: Collection[Value]) -> tuple[Value, ...]:
    """Returns the operands of a node that the input reaches."""
    return tuple(v for v in node.inputs if v in active)
