"""CROWN: bounds of the hidden values and of a specification (arXiv 1811.00866)."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from core.types import Array
from graph import Node, Value
from verify import intervals, windows
from verify.backward import Relax, backward
from verify.network import Network, Weights
from verify.properties import Spec
from verify.regions import Region
from verify.relaxing import (
    Hidden,
    concretize,
    intervals_from,
    lines_of,
    on_input,
    relaxation,
)
from verify.rounding import largest, rounding, share, underflow
from verify.types import Bounds, Lines

EASE = 4
"""The most times that a chunk of windows is larger than one of whole rows."""


@dataclasses.dataclass(frozen=True)
class CrownConfig:
    """How CROWN bounds hidden values.

    Attributes:
      intersect: whether hidden bounds are intersected with intervals: never looser,
        and faster, since chunks of ReLUs that intervals decide are skipped.
      chunk: rows that go back at once; bounds the memory. Up to `EASE` times as many
        where they are windows of images.
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
    C = jnp.asarray(spec.C, value.dtype)
    return {value: C.reshape(C.shape[0], *value.shape)}


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
    rounded = share(network.input.dtype) if config.margin else 0.0
    lines: dict[Node, Lines] = {}
    most = largest([network.input], found)
    for value in network.hidden:
        before = network.before(value)
        new = [node for node in before if node.outputs[0] not in found]
        intervals.advance(network, table, new, found, share=rounded)
        most = jnp.maximum(most, largest(_given(new, value), found))
        if backward_passes and not _is_exact(network, before, region):
            # Once for all passes, and outside of their loops over chunks of rows.
            for node in network.nonlinear:
                if node in before and node not in lines:
                    lines[node] = lines_of(network, table, found, node)
            relax = relaxation(network, table, found, lines=lines)
            own = found[value]
            lost = underflow(before, most) if config.margin else 0.0
            pull = _pull(network, table, lines, relax, value, before, lost)
            tighter = _rows_bounds(network, region, pull, value, own, config)
            if config.intersect:
                tighter = intervals.intersect(tighter, own)
            found[value] = tighter
    return tuple(found[value] for value in network.hidden)


def _given(nodes: Sequence[Node], *more: Value) -> list[Value]:
    """The operands of nodes, and more values."""
    return [*more, *(value for node in nodes for value in node.inputs)]


def lost_within(
    network: Network, table: Mapping[Value, Array], found: intervals.Intervals
) -> Array:
    """Returns what `rounding.underflow` says of rows of the output.

    Args:
      network: the function.
      table: its weights.
      found: intervals of the input and of all hidden values.
    """
    found = dict(found)
    new = [node for node in network.nodes if node.outputs[0] not in found]
    intervals.advance(network, table, new, found)
    values = _given(network.nodes, network.output)
    return underflow(network.nodes, largest(values, found))


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


class Pull(NamedTuple):
    """How the rows of neurons of a value, both signs of each, go back to the input.

    Attributes:
      rows: from flat positions [n] to what `backward` returns, of 2 n rows.
      ease: how many times smaller a row is than one that is whole, all the way.
    """

    rows: Callable[[Array], tuple[dict[Value, Array], Array, Array]]
    ease: float


def _pull(network, table, lines, relax, value, before, lost) -> Pull:
    how = windows.plan(network, value, before)
    if how is None:

        def dense(neurons: Array):
            size = int(np.prod(value.shape))
            unit = jax.nn.one_hot(neurons, size, dtype=value.dtype)
            unit = unit.reshape(-1, *value.shape)
            both = {value: jnp.concatenate([unit, -unit])}
            return backward(network, table, both, relax, before, lost)

        return Pull(dense, 1.0)
    end, rest = how.end, network.before(how.end)

    def windowed(neurons: Array):
        rows, *constants = windows.pulled(network, table, lines, how, neurons)
        left, *more = backward(network, table, {end: rows}, relax, rest, lost)
        offset, terms = (a + b for a, b in zip(constants, more, strict=True))
        return left, offset, terms

    return Pull(windowed, how.saved if end is network.input else 1.0)


def _rows_bounds(network, region, pull: Pull, value, own: Bounds, config) -> Bounds:
    """Bounds of the neurons of one hidden value, chunk by chunk."""
    size = own.lower.size
    low, high = own.lower.reshape(-1), own.upper.reshape(-1)
    # Only a ReLU whose sign is open needs more than its interval.
    most = config.chunk * int(np.clip(pull.ease, 1, EASE))
    several = size > most
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
    chunk = min(most, n)
    padded = jnp.pad(index, (0, -n % chunk), mode="edge").reshape(-1, chunk)

    def bound(part: Array) -> tuple[Array, Array]:
        left, offset, terms = pull.rows(part)
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
      lost: to underflow, of `size`; a scalar.
    """

    least: Array
    slack: Array
    size: Array
    given: Array
    lost: Array | float


def spec_pass(
    network: Network,
    table: Mapping[Value, Array],
    region: Region,
    spec: Spec,
    relax: Relax,
    lost: Array | float = 0.0,
) -> SpecPass:
    """Bounds C y + d over a region by one pass through relaxations.

    Args:
      network: the function.
      table: its weights, `network.table(weights)`.
      region: of the input.
      spec: the rows.
      relax: as `relaxation` gives it.
      lost: to underflow; see `backward`.
    """
    rows = rows_of_spec(network, spec)
    left, offset, size = backward(network, table, rows, relax, lost=lost)
    d = jnp.asarray(spec.d, offset.dtype)
    offset, size = offset + d, size + jnp.abs(d)
    least = concretize(network, left, offset, region)
    given = on_input(network, left, offset)
    return SpecPass(least, rounding(given, offset, size, region), size, given, lost)


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
    lost = lost_within(network, table, found)
    return spec_pass(network, table, region, spec, relax, lost)


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
    rounded = share(network.input.dtype) if margin else 0.0
    intervals.advance(network, table, network.nodes, found, share=rounded)
    nonlinear = set(network.nonlinear)
    last = [n for n in network.nodes if n not in nonlinear]

    def relax(node: Node, rows: Array) -> tuple[Sequence[Array], Array]:
        raise AssertionError(node.op)

    rows = rows_of_spec(network, spec)
    lost = lost_within(network, table, found) if margin else 0.0
    left, offset, size = backward(network, table, rows, relax, last, lost)
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
