"""A problem's network as the checker reads it: affine sums and ReLUs."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

import graph
from core.errors import GraphError, describe
from graph import Node, Value
from verify import affine
from verify.certificate import balls, known
from verify.certificate.balls import Ball
from verify.certificate.indices import unsupported
from verify.certificate.linear import Chain
from verify.certificate.operators import AFFINE, ROUNDS, Parts, parts, size
from verify.expansions import EXPANSIONS
from verify.problem import Problem


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One operator that the input reaches.

    Attributes:
      node: of the graph.
      out: its result.
      moving: the chains of the operands that the input reaches.
      added: what known operands add, ball [1, n], or None.
      layer: of a ReLU its position among them, -1 of an affine operator; `moving` is
        then its operand with an empty chain.
    """

    node: Node
    out: Value
    moving: Parts
    added: Ball | None
    layer: int = -1


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """A network of one input and one output.

    Attributes:
      steps: in topological order.
      input: the value that is perturbed.
      output: the result.
      layers: the operand of each ReLU, in the order of `verify.Network.nonlinear`.
    """

    steps: tuple[Step, ...]
    input: Value
    output: Value
    layers: tuple[Value, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of neurons of each ReLU layer."""
        return tuple(size(value) for value in self.layers)

    @functools.cached_property
    def width(self) -> int:
        """The longest row of numbers that a pass makes."""
        chains = [c.width for step in self.steps for _, c in step.moving]
        return max([size(self.input), *(size(s.out) for s in self.steps), *chains])

    def before(self, value: Value) -> list[Step]:
        """Returns the steps that `value` depends on, in topological order."""
        needed, found = {value}, []
        for step in reversed(self.steps):
            if step.out in needed:
                needed.update(v for v, _ in step.moving)
                found.append(step)
        return found[::-1]

    def is_exact(self, value: Value) -> bool:
        """Whether intervals of a box are the range of each neuron of `value`.

        So it is if nothing but one product lies between the input and it.
        """
        steps = self.before(value)
        mixing = sum(chain.mixes for step in steps for _, chain in step.moving)
        plain = all(s.layer < 0 and len(s.moving) == 1 for s in steps)
        return plain and mixing <= 1


def read(problem: Problem) -> Plan:
    """Returns the plan of a problem's network.

    Parameters are exact real numbers, whatever their dtype, and so are the constants
    of the traced function.

    Raises:
      GraphError: an operator beyond ReLUs and the affine ones of `operators.AFFINE`.
    """
    leaves = jax.tree.leaves(problem.params)
    dtypes = [jnp.result_type(leaf) for leaf in leaves]
    floating = [d for d in dtypes if jnp.issubdtype(d, jnp.floating)]
    dtype = floating[0] if floating else jnp.dtype(jnp.float32)
    example = jax.ShapeDtypeStruct(tuple(problem.property.input_shape), dtype)
    # A quotient is computed here: expanded, its constants would be rounded by JAX.
    simpler = {op: rule for op, rule in EXPANSIONS.items() if op != "div"}
    with jax.default_matmul_precision("highest"):  # of what is folded
        traced = graph.trace(problem.fn, problem.params, example)
        traced = graph.expand(traced, simpler, sources=traced.argument(1))
    if len(traced.outputs) != 1:
        raise GraphError(describe(f"{len(traced.outputs)} outputs", "one array"))
    table = {v: balls.exact(known.flat(a)) for v, a in traced.constants.items()}
    given = [balls.exact(known.flat(leaf)) for leaf in leaves]
    table |= dict(zip(traced.argument(0), given, strict=True))
    (start,) = traced.argument(1)
    active, steps, layers = {start}, [], []
    for node in traced.nodes:
        if not active.intersection(node.inputs):
            table |= known.evaluate(node, table)
            continue
        step = _step(node, table, active, len(layers))
        if step.layer >= 0:
            layers.append(node.inputs[0])
        active.add(step.out)
        steps.append(step)
    if traced.outputs[0] not in active:
        raise GraphError(describe("an output that x does not reach", "a function of x"))
    return Plan(tuple(steps), start, traced.outputs[0], tuple(layers))


def _step(node: Node, table: Mapping[Value, Ball], active: set[Value], k: int) -> Step:
    if len(node.outputs) != 1:
        raise unsupported(node, f"{len(node.outputs)} results")
    (out,) = node.outputs
    if node.op == "relu":
        return Step(node, out, [(node.inputs[0], Chain())], None, k)
    if affine.narrows(node, active):
        raise unsupported(node, ROUNDS)
    if node.op not in AFFINE:
        raise unsupported(node, "an operator that is neither affine nor a ReLU")
    found = parts(node, table, active)
    moving = [(v, chain) for v, chain in found if v in active]
    fixed = [chain.forward(table[v]) for v, chain in found if v not in active]
    if not moving:
        raise unsupported(node, "an operator that is not affine in the input")
    added = functools.reduce(balls.add, fixed) if fixed else None
    return Step(node, out, moving, added)
