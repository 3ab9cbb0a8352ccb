"""Interval bounds of every value, forward through the network."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from core.types import Array
from graph import Node, Value
from verify import affine
from verify.network import Network
from verify.relaxations import RULES, Relaxation
from verify.types import Bounds

Intervals = dict[Value, Bounds]


def start(network: Network, lower: Array, upper: Array) -> Intervals:
    """Returns the intervals of the input alone."""
    return {network.input: Bounds(lower, upper)}


def advance(
    network: Network,
    table: Mapping[Value, Array],
    nodes: Iterable[Node],
    found: Intervals,
    *,
    share: float = 0.0,
) -> None:
    """Adds the intervals of the outputs of `nodes`, in topological order, to `found`.

    Affine operators take the centre and the radius of their operands: the radius goes
    through the absolute weights.

    Args:
      network: the function.
      table: its weights.
      nodes: to pass.
      found: intervals of what they take.
      share: of the sum of its terms' absolute values that a result may be off by, and
        is widened by.
    """
    for node in nodes:
        reached = [v for v in node.inputs if v in network.active]
        if affine.is_affine(node, network.active):
            given = [found[v] for v in reached]
            own = share if affine.rounds(node) else 0.0
            bounds = _affine(network, table, node, given, own)
            found.update(zip(node.outputs, bounds, strict=True))
            continue
        for out in node.outputs:
            found[out] = _nonlinear(network, table, node, found)


def operand_bounds(
    network: Network, table: Mapping[Value, Array], node: Node, found: Intervals
) -> list[Bounds]:
    """Returns the bounds of all operands; those of a weight are twice the weight."""
    return [
        found[v] if v in network.active else Bounds(table[v], table[v])
        for v in node.inputs
    ]


def intersect(a: Bounds, b: Bounds) -> Bounds:
    """Returns what both say. Bounds that contradict each other meet in one point.

    Rounding can make two sound bounds of one number cross by a few units in the last
    place; the crossing is closed. One that is NaN says nothing.
    """
    lower = jnp.fmax(a.lower, b.lower)
    upper = jnp.fmin(a.upper, b.upper)
    return Bounds(jnp.minimum(lower, upper), jnp.maximum(lower, upper))


def _affine(network, table, node, bounds, share: float) -> list[Bounds]:
    """Bounds of the outputs: infinite where an operand's are, NaN where a weight is."""
    finite = [jnp.isfinite(b.lower) & jnp.isfinite(b.upper) for b in bounds]
    centres = [
        jnp.where(known, 0.5 * b.upper + 0.5 * b.lower, _nothing(b))
        for known, b in zip(finite, bounds, strict=True)
    ]
    radii = [
        jnp.where(known, 0.5 * b.upper - 0.5 * b.lower, jnp.inf)
        for known, b in zip(finite, bounds, strict=True)
    ]
    floor = 0.0
    if share:  # rounding, which absolute weights carry as they carry the radius
        floor = _underflow(bounds, finite)
        radii = [
            radius + share * jnp.maximum(jnp.abs(b.lower), jnp.abs(b.upper))
            for radius, b in zip(radii, bounds, strict=True)
        ]
    found = affine.linear(node, network.active, table)(*centres)
    spread = affine.linear(node, network.active, table, absolute=True)(*radii)
    spread = tuple(radius + floor for radius in spread)
    added = affine.constant(node, network.active, table)
    if added is not None:
        found = tuple(centre + added for centre in found)
        spread = tuple(radius + share * jnp.abs(added) for radius in spread)
    return [_around(c, r) for c, r in zip(found, spread, strict=True)]


def _underflow(bounds: Sequence[Bounds], finite: Sequence[Array]) -> Array:
    """What products with operands, and weights, that underflow may cost a sum."""
    sizes = [
        jnp.where(known, jnp.maximum(jnp.abs(b.lower), jnp.abs(b.upper)), 0.0)
        for known, b in zip(finite, bounds, strict=True)
    ]
    terms = 4.0 * sum(size.size for size in sizes)
    largest = functools.reduce(jnp.maximum, [size.max() for size in sizes])
    tiny = float(jnp.finfo(largest.dtype).tiny)
    return terms * tiny * jnp.maximum(largest, 1.0)


def _nothing(bounds: Bounds) -> Array:
    """0, or NaN where a bound is."""
    is_nan = jnp.isnan(bounds.lower) | jnp.isnan(bounds.upper)
    return jnp.where(is_nan, jnp.nan, jnp.zeros_like(bounds.lower))


def _around(centre: Array, radius: Array) -> Bounds:
    known = jnp.isfinite(centre) & jnp.isfinite(radius)
    widest = jnp.where(jnp.isnan(centre), jnp.nan, jnp.inf)
    return Bounds(
        jnp.where(known, centre - radius, -widest),
        jnp.where(known, centre + radius, widest),
    )


def _nonlinear(network, table, node, found) -> Bounds:
    bounds = operand_bounds(network, table, node, found)
    return of_rule(RULES[node.op], bounds, node.params)


def of_rule(
    rule: Relaxation, bounds: Sequence[Bounds], params: Mapping[str, Any]
) -> Bounds:
    """Returns a rule's interval, NaN where that of an operand is."""
    lower, upper = rule.interval(*bounds, **params)
    ends = [jnp.isnan(end) for each in bounds for end in each]
    is_nan = functools.reduce(jnp.logical_or, ends)
    return Bounds(jnp.where(is_nan, jnp.nan, lower), jnp.where(is_nan, jnp.nan, upper))
