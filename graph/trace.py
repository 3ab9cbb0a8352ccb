"""From a JAX function to an operator graph, through its jaxpr."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend import core as jax_core
from jax.extend import source_info_util

from core.errors import GraphError, InputError, describe
from graph.composites import CALLS, callee, is_composite
from graph.graph import Graph, Node, Value, name_inputs, prune

_LOOPS = ("scan", "while", "cond")
_INSTALLED = frozenset(["site-packages", "dist-packages"])
_DEBUG = ("debug_callback", "debug_print")
MAX_UNROLLED = 100_000
"""The most values that unrolling loops may add to a graph."""


def trace(fn: Callable[..., Any], *example_args: Any) -> Graph:
    """Returns the operator graph of `fn` at the shapes of `example_args`.

    Calls (jit, custom derivatives, checkpoint) are inlined, except those of
    composites; loops are unrolled, and whatever depends on no argument is folded into
    constants.

    Args:
      fn: a function of pytrees of arrays.
      *example_args: arrays or `jax.ShapeDtypeStruct`s of the shapes to trace at.

    Returns:
      A graph whose inputs are the leaves of the arguments.

    Raises:
      GraphError: a loop whose length the data decide, or another operator that no
        graph can hold; the message names it and its line.
    """
    structs = jax.tree.map(_struct, example_args)
    jaxpr, out_shape = jax.make_jaxpr(fn, return_shape=True)(*structs)
    builder = Builder()
    inputs = tuple(
        builder.value(leaf.shape, leaf.dtype, argument, path)
        for (argument, path), leaf in zip(
            name_inputs(structs), jax.tree.leaves(structs), strict=True
        )
    )
    name = getattr(fn, "__name__", type(fn).__name__)
    outputs = builder.inline(jaxpr, inputs, f"({name})")
    return builder.graph(
        inputs,
        outputs,
        in_tree=jax.tree.structure(structs),
        out_tree=jax.tree.structure(out_shape),
    )


Expansions = Mapping[str, Callable[[Node], Callable[..., Any] | None]]
"""From the name of an operator to a function of a node; see `expand`."""


def expand(
    graph: Graph,
    expansions: Expansions,
    *,
    joint: Expansions | None = None,
    sources: Collection[Value] | None = None,
) -> Graph:
    """Returns the graph with nodes replaced by what their expansions compute.

    Args:
      graph: any graph.
      expansions: from the name of an operator to a function that returns, for a node,
        a JAX function of its operands with the same results, or None to leave the
        node as it is. What it expands to is expanded in turn.
      joint: expansions, taken before the others, of nodes with at least two operands
        that depend on `sources`, such as the product of two branches.
      sources: inputs of the graph. Nodes that depend on none of them stay as they
        are; None expands all.

    Raises:
      GraphError: an expansion whose results differ in shape or type from the node's.
    """
    builder = Builder(expansions, joint, sources)
    known = {value: value for value in graph.inputs}
    builder.count = max((v.index for v in graph.inputs), default=-1) + 1
    for value, array in graph.constants.items():
        known[value] = builder.constant(array)
    for node in graph.nodes:
        found = builder.add(node, [known[v] for v in node.inputs])
        known.update(zip(node.outputs, found, strict=True))
    return builder.graph(
        graph.inputs,
        [known[v] for v in graph.outputs],
        in_tree=graph.in_tree,
        out_tree=graph.out_tree,
    )


class Builder:
    """Collects nodes, folding those without an input among their causes."""

    def __init__(
        self,
        expansions: Expansions | None = None,
        joint: Expansions | None = None,
        sources: Collection[Value] | None = None,
    ):
        self.joint = joint or {}
        self.expands_all = sources is None
        self.reached = set(sources or ())
        self.count = 0
        self.nodes: list[Node] = []
        self.constants: dict[Value, Any] = {}
        self.expansions = expansions or {}

    def value(self, shape: Any, dtype: Any, argument=None, path: str = "") -> Value:
        """Returns a new value."""
        self.count += 1
        shape = tuple(int(n) for n in shape)
        if not jnp.issubdtype(dtype, jax.dtypes.extended):
            dtype = np.dtype(dtype)
        return Value(self.count - 1, shape, dtype, argument, path)

    def constant(self, array: Any) -> Value:
        """Returns a new value that holds `array`."""
        value = self.value(np.shape(array), _dtype(array))
        self.constants[value] = array
        return value

    def graph(self, inputs, outputs, **trees: Any) -> Graph:
        """Returns the graph, without the nodes that no output needs."""
        nodes, constants = prune(self.nodes, self.constants, outputs)
        return Graph(tuple(inputs), tuple(outputs), nodes, constants, **trees)

    def inline(
        self,
        closed: Any,
        operands: Sequence[Value],
        source: str = "",
        *,
        ours: bool = False,
    ) -> list[Value]:
        """Adds the equations of a closed jaxpr; returns the values of its outputs.

        Args:
          closed: the jaxpr.
          operands: what it is called with.
          source: the line of the call, for equations that no line of the user's made.
          ours: whether none did, so that all of them are of `source`.
        """
        jaxpr = closed.jaxpr
        env = dict(zip(jaxpr.invars, operands, strict=True))
        for var, array in zip(jaxpr.constvars, closed.consts, strict=True):
            env[var] = self.constant(array)

        def read(atom: Any) -> Value:
            if isinstance(atom, jax_core.Literal):
                return self.constant(np.asarray(atom.val, _dtype(atom.aval)))
            return env[atom]

        for eqn in jaxpr.eqns:
            given = [read(atom) for atom in eqn.invars]
            here = source if ours else line(eqn) or source
            found = self._equation(eqn, given, here)
            env.update(zip(eqn.outvars, found, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def add(self, node: Node, operands: Sequence[Value]) -> list[Value]:
        """Adds a node like `node` on `operands`; returns its outputs."""
        if all(v in self.constants for v in operands):
            return self._fold(node, [self.constants[v] for v in operands])
        outputs = tuple(self.value(v.shape, v.dtype) for v in node.outputs)
        new = dataclasses.replace(node, inputs=tuple(operands), outputs=outputs)
        simpler = self._simpler(new)
        if simpler is None:
            self.nodes.append(new)
            return list(outputs)
        closed = jax.make_jaxpr(simpler)(*(v.struct for v in operands))
        wanted = [(v.shape, v.dtype) for v in outputs]
        given = [(v.shape, v.dtype) for v in closed.out_avals]
        if given != wanted:
            raise GraphError(
                f"expansion of {node.op}: {describe(_listed(given), _listed(wanted))}"
            )
        return self.inline(closed, operands, node.source, ours=True)

    def _simpler(self, node: Node) -> Callable[..., Any] | None:
        reached = sum(v in self.reached for v in node.inputs)
        if reached:
            self.reached.update(node.outputs)
        elif not self.expands_all:
            return None
        table = self.joint if reached > 1 and node.op in self.joint else self.expansions
        return table.get(node.op, lambda _: None)(node)

    def _fold(self, node: Node, arrays: Sequence[Any]) -> list[Value]:
        if any(isinstance(array, Tracer) for array in arrays):
            return [self.constant(array) for array in node(*arrays)]
        with jax.ensure_compile_time_eval():
            return [self.constant(array) for array in node(*arrays)]

    def _equation(self, eqn: Any, operands: list[Value], source: str) -> list[Value]:
        name, params = eqn.primitive.name, eqn.params
        if name in CALLS and callee(params) is not None:
            closed = callee(params)
            if not is_composite(params.get("name", ""), closed):
                return self.inline(closed, operands, source)
            return self.add(self._composite(eqn, closed, source), operands)
        if name in _DEBUG and not eqn.outvars:
            return []
        if name in _LOOPS and not all(v in self.constants for v in operands):
            return self._loop(eqn, operands, source)
        if eqn.effects:
            raise _refused(name, source, "an operator with side effects")
        return self.add(self._node(eqn, source), operands)

    def _node(self, eqn: Any, source: str) -> Node:
        """Returns the node of an equation, to be added on its operands."""
        outputs = tuple(self.value(v.aval.shape, v.aval.dtype) for v in eqn.outvars)
        return Node(eqn.primitive.name, (), outputs, eqn.params, source, eqn.primitive)

    def _composite(self, eqn: Any, closed: Any, source: str) -> Node:
        builder = Builder()
        inner = [builder.value(v.shape, v.dtype) for v in closed.in_avals]
        body = builder.graph(inner, builder.inline(closed, inner, source))
        node = self._node(eqn, source)
        name = eqn.params["name"]
        return dataclasses.replace(node, op=name, params={}, primitive=None, body=body)

    def _loop(self, eqn: Any, operands: list[Value], source: str) -> list[Value]:
        """Unrolls a loop, or takes the branch, where the data have no say in it."""
        name, params = eqn.primitive.name, eqn.params
        if name == "scan":
            return self._scan(params, operands, source)
        if name == "while":
            return self._while(params, operands, source)
        index = self._known(operands[0])
        if index is None:
            raise _refused(name, source, "a branch that the data choose")
        branches = params["branches"]
        branch = branches[int(np.clip(index, 0, len(branches) - 1))]
        return self.inline(branch, operands[1:], source)

    def _known(self, value: Value) -> Any:
        """Returns the array of a constant, None for what only a run decides."""
        array = self.constants.get(value)
        return None if isinstance(array, Tracer) else array

    def _check_size(self, start: int, source: str) -> None:
        if self.count - start > MAX_UNROLLED:
            raise GraphError(
                f"loop at {source}: "
                + describe(
                    f"{self.count - start} operators after unrolling",
                    f"at most {MAX_UNROLLED}",
                )
            )

    def _while(self, params: Any, operands: list[Value], source: str) -> list[Value]:
        start, n = self.count, params["cond_nconsts"]
        m = n + params["body_nconsts"]
        carry = operands[m:]
        while True:
            (going,) = self.inline(
                params["cond_jaxpr"], [*operands[:n], *carry], source
            )
            if self._known(going) is None:
                raise _refused("while", source, "a loop whose length the data decide")
            if not self._known(going):
                return carry
            carry = self.inline(params["body_jaxpr"], [*operands[n:m], *carry], source)
            self._check_size(start, source)

    def _scan(self, params: Any, operands: list[Value], source: str) -> list[Value]:
        closed, length = params["jaxpr"], params["length"]
        n, n_carry, start = params["num_consts"], params["num_carry"], self.count
        consts, carry = operands[:n], operands[n : n + n_carry]
        xs = operands[n + n_carry :]
        rows: dict[int, list[Value]] = {}
        for index in range(length)[:: -1 if params["reverse"] else 1]:
            take = functools.partial(jax.lax.index_in_dim, index=index, keepdims=False)
            here = [self._call(take, [x], source) for x in xs]
            found = self.inline(closed, [*consts, *carry, *here], source)
            carry, rows[index] = found[:n_carry], found[n_carry:]
            self._check_size(start, source)
        if not length:
            made = [np.zeros((0, *v.shape), v.dtype) for v in closed.out_avals]
            return [*carry, *map(self.constant, made[n_carry:])]
        columns = zip(*(rows[index] for index in range(length)), strict=True)
        return [*carry, *(self._call(_stack, list(ys), source) for ys in columns)]

    def _call(self, fn: Any, operands: list[Value], source: str) -> Value:
        closed = jax.make_jaxpr(fn)(*(v.struct for v in operands))
        return self.inline(closed, operands, source, ours=True)[0]


def line(eqn: Any) -> str:
    """Returns the user's line of an equation as 'file.py:12 (function)', '' if none.

    The innermost frame outside of installed packages is the user's; a function that
    is itself installed is named by its own line.
    """
    traceback = getattr(eqn.source_info, "traceback", None)
    for frame in getattr(traceback, "frames", ()):
        parts = pathlib.PurePath(frame.file_name).parts
        if not _INSTALLED.intersection(parts):
            return f"{frame.file_name}:{frame.line_num} ({frame.function_name})"
    return source_info_util.summarize(eqn.source_info)


def _refused(name: str, source: str, given: str) -> GraphError:
    where = f"{name} at {source or 'an unknown line'}: "
    wanted = "operators whose shapes and order are fixed"
    remedy = "Use lax.scan, or jnp.where on both branches."
    return GraphError(where + describe(given, wanted, remedy))


def _listed(kinds: Sequence[tuple[Any, Any]]) -> str:
    return ", ".join(f"{dtype}{list(shape)}" for shape, dtype in kinds)


def _stack(*rows: Any) -> Any:
    return jax.lax.concatenate([jax.lax.expand_dims(row, (0,)) for row in rows], 0)


def _dtype(array: Any) -> Any:
    return array.dtype if hasattr(array, "dtype") else jnp.result_type(array)


def _struct(leaf: Any) -> jax.ShapeDtypeStruct:
    try:
        return jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf))
    except TypeError as e:
        given = f"an argument of type {type(leaf).__name__}"
        wanted = "arrays, or their jax.ShapeDtypeStructs"
        remedy = "Close over what is not an array: trace(lambda x: fn(x, mode), x)."
        raise InputError(f"trace: {describe(given, wanted, remedy)}") from e
