"""What a backward pass does at nonlinear nodes, and where it ends."""

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from core.types import Array
from graph import Node, Value
from verify import intervals
from verify.backward import Relax, lower_of
from verify.network import Network
from verify.regions import Region
from verify.relaxations import RULES
from verify.types import Bounds, Lines

Hidden = tuple[Bounds, ...]
"""Bounds of the hidden values, in the order of `Network.hidden`."""


def intervals_from(
    network: Network, region: Region, hidden: Hidden
) -> intervals.Intervals:
    """Returns intervals of all that relaxations need, hidden bounds given."""
    found = intervals.start(network, region.lower, region.upper)
    found.update(zip(network.hidden, hidden, strict=True))
    return found


def relaxation(
    network: Network,
    table: Mapping[Value, Array],
    found: intervals.Intervals,
    slopes: Mapping[Node, Array] | None = None,
    cuts: Mapping[Node, Array] | None = None,
    lines: Mapping[Node, Lines] | None = None,
) -> Relax:
    """Returns the relaxation of every nonlinear node within intervals.

    Args:
      network: the function.
      table: its weights.
      found: bounds of the operands of the nodes that will be passed.
      slopes: the free parameters of nodes, [free, *shape], or [S, free, *shape] for
        one set a row; a node without takes its rule's default.
      cuts: beta times the sign of each split neuron of a node, [S, *shape]: what the
        half-spaces take from the coefficients on its operand (arXiv 2103.06624,
        equation 8).
      lines: of nodes without slopes that earlier passes went through already.
    """
    lines = lines or {}

    def relax(node: Node, rows: Array) -> tuple[Sequence[Array], Array]:
        alpha = None if slopes is None else slopes.get(node)
        make = functools.partial(lines_of, network, table, found, node)
        if alpha is not None and alpha.ndim == rows.ndim + 1:
            own = jax.vmap(make)(alpha)
        else:
            one = lines[node] if alpha is None and node in lines else make(alpha)
            own = jax.tree.map(lambda a: a[None], one)
        reached = [v in network.active for v in node.inputs]
        zero = jnp.zeros((), rows.dtype)
        values = [table.get(v, zero) for v in node.inputs]
        parts, offset = lower_of(own, rows, reached, values)
        if cuts is not None and node in cuts:
            parts = [parts[0] - cuts[node]]
        return parts, offset

    return relax


def lines_of(
    network: Network,
    table: Mapping[Value, Array],
    found: intervals.Intervals,
    node: Node,
    alpha: Array | None = None,
) -> Lines:
    """Returns a node's lines; where an operand is unbounded, what its interval says.

    Args:
      network: the function.
      table: its weights.
      found: bounds of the operands.
      node: nonlinear.
      alpha: its free parameters; its rule's defaults if left out.
    """
    rule, params = RULES[node.op], node.params
    bounds = intervals.operand_bounds(network, table, node, found)
    if rule.name == "relu":  # in the inner loop; it has no poles, and NaN fails closed
        return rule.lines(*bounds, alpha=alpha, **params)
    finite = [jnp.isfinite(b.lower) & jnp.isfinite(b.upper) for b in bounds]
    tame = [
        Bounds(*(jnp.where(known, end, 1.0) for end in b))
        for known, b in zip(finite, bounds, strict=True)
    ]
    lines = rule.lines(*tame, alpha=alpha, **params)
    whole = intervals.of_rule(rule, bounds, params)
    known = functools.reduce(jnp.logical_and, finite)
    slopes = [
        tuple(jnp.where(known, s, 0.0) for s in each)
        for each in (lines.lower_slopes, lines.upper_slopes)
    ]
    return Lines(
        slopes[0],
        jnp.where(known, lines.lower_intercept, whole.lower),
        slopes[1],
        jnp.where(known, lines.upper_intercept, whole.upper),
    )


def concretize(
    network: Network, left: Mapping[Value, Array], offset: Array, region: Region
) -> Array:
    """Returns the least value [S] of rows on the input over a region."""
    if network.input not in left:
        return offset
    return offset + region.minimum(left[network.input])


def on_input(network: Network, left: Mapping[Value, Array], offset: Array) -> Array:
    """Returns the coefficients on the input, [S, *shape]: zero where none arrive."""
    given = left.get(network.input)
    if given is not None:
        return given
    return jnp.zeros((offset.shape[0], *network.input.shape), offset.dtype)
