"""CROWN: bounds of the hidden values and of a specification (arXiv 1811.00866)."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from core.types import Array
from graph import Node, Value
from verify import intervals
from verify.backward import Relax, backward, lower_of
from verify.network import Network, Weights
from verify.properties import Spec
from verify.regions import Region
from verify.relaxations import RULES
from verify.types import Bounds, Lines

Hidden = tuple[Bounds, ...]
"""Bounds of the hidden values, in the order of `Network.hidden`."""


@dataclasses.dataclass(frozen=True)
class CrownConfig:
    """How CROWN bounds hidden values.

    Attributes:
      intersect: whether hidden bounds are intersected with intervals: never looser,
        and faster, since chunks of ReLUs that intervals decide are skipped.
      chunk: rows that go back at once; bounds the memory.
      capacity: the most neurons of a hidden value that get backward bounds, those of
        the widest unstable intervals; the others keep their intervals. 0 means all.
      margin: whether all bounds are widened by `rounding`. A proof that takes neurons
        for fixed by their signs needs it.
    """

    intersect: bool = True
    chunk: int = 64
    capacity: int = 0
    margin: bool = False


def rows_of_spec(network: Network, spec: Spec) -> dict[Value, Array]:
    """Returns the rows of a specification as coefficients on the output."""
    value = network.output
    return {value: jnp.asarray(spec.C, value.dtype).reshape(-1, *value.shape)}


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
        make = functools.partial(_lines_of, network, table, found, node)
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


def _lines_of(
    network: Network,
    table: Mapping[Value, Array],
    found: intervals.Intervals,
    node: Node,
    alpha: Array | None = None,
) -> Lines:
    """A node's lines; where an operand is unbounded, what its interval says."""
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


TOLERANCE = 1e-5
"""Share of the size of a bound's terms that rounding may cost, in float32."""


def rounding(rows: Array, offset: Array, size: Array, region: Region) -> Array:
    """Returns what a bound must be above 0 by to count as positive, [S].

    A share of sum |A| max(|x|) over the region, of |offset|, and of the terms that
    cancelled in it: far above the usual error of the sums in the type of `rows`, though
    no proof, since what rows lose on their way is not counted; a certificate is one.

    Args:
      rows: coefficients on the input, [S, *shape].
      offset: constants, [S].
      size: of the constants' terms, as `backward` gives it, and of the row's own, [S].
      region: of the input.
    """
    scale = jnp.maximum(jnp.abs(region.lower), jnp.abs(region.upper)).reshape(-1)
    given = jnp.abs(rows).reshape(rows.shape[0], -1) @ scale.astype(rows.dtype)
    return share(rows.dtype) * (given + jnp.abs(offset) + size)


def on_input(network: Network, left: Mapping[Value, Array], offset: Array) -> Array:
    """Returns the coefficients on the input, [S, *shape]: zero where none arrive."""
    given = left.get(network.input)
    if given is not None:
        return given
    return jnp.zeros((offset.shape[0], *network.input.shape), offset.dtype)


def share(dtype: Any) -> float:
    """Returns the share of its terms' size that a sum in a type may be off by."""
    return TOLERANCE if dtype == jnp.float32 else 1e-12


def hidden_bounds(
    network: Network,
    weights: Weights,
    region: Region,
    config: CrownConfig = CrownConfig(),
    *,
    backward_passes: bool = True,
) -> Hidden:
    """Returns bounds of all hidden values, each by a full backward pass.

    Args:
      network: the function.
      weights: as `network.prepare` gives them.
      region: of the input.
      config: see there.
      backward_passes: without them, intervals alone (for CROWN-IBP).
    """
    table = network.table(weights)
    found = intervals.start(network, region.lower, region.upper)
    lost = share(network.input.dtype) if config.margin else 0.0
    lines: dict[Node, Lines] = {}
    for value in network.hidden:
        before = network.before(value)
        new = [node for node in before if node.outputs[0] not in found]
        intervals.advance(network, table, new, found, share=lost)
        if backward_passes and not _is_exact(network, before, region):
            # Once for all passes, and outside of their loops over chunks of rows.
            for node in network.nonlinear:
                if node in before and node not in lines:
                    lines[node] = _lines_of(network, table, found, node)
            relax = relaxation(network, table, found, lines=lines)
            own = found[value]
            tighter = _rows_bounds(
                network, table, region, relax, value, own, before, config
            )
            if config.intersect:
                tighter = intervals.intersect(tighter, own)
            found[value] = tighter
    return tuple(found[value] for value in network.hidden)


_ADDS = frozenset({"add", "sub", "add_any"})
_MIXING = _ADDS | {
    *("dot_general", "conv_general_dilated", "cumsum"),
    *("reduce_sum", "reduce_window_sum"),
}


def _is_exact(network: Network, before: Sequence[Node], region: Region) -> bool:
    """Whether the intervals of a value are exact already.

    They are for a box and affine operators of which one alone adds entries up.
    """
    mixing = [
        node
        for node in before
        if node.op in _MIXING
        and (node.op not in _ADDS or all(v in network.active for v in node.inputs))
    ]
    nonlinear = set(network.nonlinear).intersection(before)
    return region.radius is None and not nonlinear and len(mixing) <= 1


def _rows_bounds(
    network, table, region, relax, value, own: Bounds, before, config
) -> Bounds:
    """Bounds of the neurons of one hidden value, chunk by chunk."""
    size = own.lower.size
    low, high = own.lower.reshape(-1), own.upper.reshape(-1)
    # Only a ReLU whose sign is open needs more than its interval.
    several = size > config.chunk
    lazy = several and config.intersect and _feeds_relus(network, value)
    is_open = (low < 0) & (high > 0) if lazy else jnp.ones(size, bool)
    if config.capacity and config.capacity < size:
        width = jnp.where((low < 0) & (high > 0), high - low, -1.0)
        _, index = lax.top_k(width, config.capacity)
    else:
        index = jnp.argsort(~is_open) if lazy else jnp.arange(size)
    # Unknown to the compiler, which would fold what rows pass before any weight.
    index = lax.optimization_barrier(index)
    n = index.shape[0]
    chunk = min(config.chunk, n)
    padded = jnp.pad(index, (0, -n % chunk), mode="edge").reshape(-1, chunk)

    def bound(part: Array) -> tuple[Array, Array]:
        unit = jax.nn.one_hot(part, size, dtype=own.lower.dtype)
        unit = unit.reshape(chunk, *value.shape)
        both = jnp.concatenate([unit, -unit])
        left, offset, terms = backward(network, table, {value: both}, relax, before)
        least = concretize(network, left, offset, region)
        if config.margin:
            given = on_input(network, left, offset)
            least = least - rounding(given, offset, terms, region)
        return least[:chunk], -least[chunk:]

    def bound_open(part: Array) -> tuple[Array, Array]:
        keep = lambda part: (low[part], high[part])  # noqa: E731
        return lax.cond(is_open[part].any(), bound, keep, part)

    if padded.shape[0] == 1:
        least, most = bound(padded[0])
    else:
        least, most = lax.map(bound_open if lazy else bound, padded)
    least, most = least.reshape(-1)[:n], most.reshape(-1)[:n]
    if n == size and not lazy:
        return Bounds(least.reshape(value.shape), most.reshape(value.shape))
    lower = low.at[index].max(least).reshape(value.shape)
    upper = high.at[index].min(most).reshape(value.shape)
    return Bounds(lower, upper)


def _feeds_relus(network: Network, value: Value) -> bool:
    """Whether nothing but ReLUs takes a hidden value as a nonlinear operand."""
    users = [node for node in network.nonlinear if value in node.inputs]
    return all(node.op == "relu" for node in users)


def intervals_from(
    network: Network, region: Region, hidden: Hidden
) -> intervals.Intervals:
    """Returns intervals of all that relaxations need, hidden bounds given."""
    found = intervals.start(network, region.lower, region.upper)
    found.update(zip(network.hidden, hidden, strict=True))
    return found


def spec_bound(
    network: Network,
    weights: Weights,
    region: Region,
    spec: Spec,
    hidden: Hidden,
    slopes: Mapping[Node, Array] | None = None,
    *,
    margin: bool = False,
) -> Array:
    """Returns lower bounds [S] of C y + d over a region, hidden bounds given.

    Args:
      network: the function.
      weights: as `network.prepare` gives them.
      region: of the input.
      spec: the rows.
      hidden: bounds of the hidden values.
      slopes: free parameters of nonlinear nodes; the rules' defaults if left out.
      margin: whether the bounds are lowered by `rounding`.
    """
    found = spec_terms(network, weights, region, spec, hidden, slopes)
    return found.least - found.slack if margin else found.least


class SpecPass(NamedTuple):
    """One backward pass of a specification.

    Attributes:
      least: lower bounds of its rows, [S].
      slack: what `rounding` says of them, [S].
      size: of the constants of affine operators and of the rows, [S].
      given: coefficients on the input, [S, *input shape].
    """

    least: Array
    slack: Array
    size: Array
    given: Array


def spec_pass(
    network: Network,
    table: Mapping[Value, Array],
    region: Region,
    spec: Spec,
    relax: Relax,
) -> SpecPass:
    """Bounds C y + d over a region by one pass through relaxations.

    Args:
      network: the function.
      table: its weights, `network.table(weights)`.
      region: of the input.
      spec: the rows.
      relax: as `relaxation` gives it.
    """
    left, offset, size = backward(network, table, rows_of_spec(network, spec), relax)
    d = jnp.asarray(spec.d, offset.dtype)
    offset, size = offset + d, size + jnp.abs(d)
    least = concretize(network, left, offset, region)
    given = on_input(network, left, offset)
    return SpecPass(least, rounding(given, offset, size, region), size, given)


def spec_terms(
    network: Network,
    weights: Weights,
    region: Region,
    spec: Spec,
    hidden: Hidden,
    slopes: Mapping[Node, Array] | None = None,
) -> SpecPass:
    """As `spec_bound`, with all that the pass says."""
    table = network.table(weights)
    found = intervals_from(network, region, hidden)
    relax = relaxation(network, table, found, slopes)
    return spec_pass(network, table, region, spec, relax)


def interval_bound(
    network: Network,
    weights: Weights,
    region: Region,
    spec: Spec,
    *,
    margin: bool = False,
) -> Array:
    """Returns lower bounds [S] of C y + d by intervals.

    The rows go back to the last nonlinear outputs first, so that the intervals of the
    outputs are not subtracted from each other.
    """
    table = network.table(weights)
    found = intervals.start(network, region.lower, region.upper)
    lost = share(network.input.dtype) if margin else 0.0
    intervals.advance(network, table, network.nodes, found, share=lost)
    nonlinear = set(network.nonlinear)
    last = [n for n in network.nodes if n not in nonlinear]

    def relax(node: Node, rows: Array) -> tuple[Sequence[Array], Array]:
        raise AssertionError(node.op)

    rows = rows_of_spec(network, spec)
    left, offset, size = backward(network, table, rows, relax, last)
    d = jnp.asarray(spec.d, offset.dtype)
    total = offset + d
    if margin:
        total = total - share(total.dtype) * (size + jnp.abs(d))
    for value, part in left.items():
        low, high = found[value]
        known = jnp.isfinite(low) & jnp.isfinite(high)
        box = Region(jnp.where(known, low, 0.0), jnp.where(known, high, 0.0))
        exact = region if value is network.input else box
        total = total + exact.minimum(part)
        unbounded = ((part != 0) & ~known[None]).any(tuple(range(1, part.ndim)))
        total = jnp.where(unbounded, -jnp.inf, total)
        if margin:
            zero = jnp.zeros_like(offset)
            total = total - rounding(part, zero, zero, exact)
    return total
