"""beta-CROWN: bounds of many sub-domains at once (arXiv 2103.06624).

A sub-domain is the region with signs demanded of some hidden neurons. Each demand
enters the backward pass twice: it tightens the neuron's bounds, so that its ReLU is
exact, and it is a half-space with a multiplier beta >= 0 in the Lagrangian (equation
8). Any alpha in [0, 1] and beta >= 0 give a sound bound; a few steps of Adam choose
them for all sub-domains together.

Sub-domains are rows: the network is shared, each row has slopes of its own. Shapes do
not depend on how many neurons are split or how deep.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from core.types import Array
from graph import Node
from verify.backward import backward
from verify.network import Network, Weights
from verify.regions import Region
from verify.relaxing import Hidden
from verify.rounding import rounding
from verify.types import Numbers, by_layer

Layers = tuple[Numbers, ...]
"""One array [B, n_k] for each ReLU layer of a reduced network."""


class Domains(NamedTuple):
    """A batch of B sub-domains of one region.

    Attributes:
      C: coefficients on the output of the rows that must be positive, [B, m, n_y].
      d: constants [B, m].
      weights: convex combination of the rows that is bounded, [B, m].
      splits: signs demanded of each neuron, int8 [B, n_k] by layer: 1 for z >= 0, -1
        for z <= 0, 0 for none.
      alpha: lower slopes, [B, n_k] by layer, in [0, 1].
      beta: multipliers, [B, n_k] by layer, >= 0; only those of split neurons matter.
    """

    C: Numbers
    d: Numbers
    weights: Numbers
    splits: Layers
    alpha: Layers
    beta: Layers


class Bounded(NamedTuple):
    """What bounding a batch found.

    Attributes:
      lower: the best lower bound of each sub-domain, [B], less a margin for rounding.
      domains: with the multipliers of the best bounds.
      coefficients: on each ReLU's output at the last iterate, [B, n_k] by layer.
      point: the input that minimises the last linear bound, [B, n_x].
    """

    lower: Array
    domains: Domains
    coefficients: Layers
    point: Array


@dataclasses.dataclass(frozen=True)
class BetaConfig:
    """How a batch is optimised.

    Attributes:
      steps: iterations of Adam; 0 bounds once.
      learning_rate_alpha: rate of the lower slopes.
      learning_rate_beta: rate of the split multipliers.
      decay: factor of both rates an iteration.
      beta: whether there are multipliers; without, a split acts on bounds alone.
    """

    steps: int = 20
    learning_rate_alpha: float = 0.01
    learning_rate_beta: float = 0.05
    decay: float = 0.98
    beta: bool = True


class Chords(NamedTuple):
    """What does not change while a batch is optimised, [B, n_k] by layer."""

    free: Array  # whether the lower slope is alpha
    fixed: Array  # the slope elsewhere
    slope: Array  # of the upper line
    intercept: Array
    sign: Array  # of the split


def chords(hidden: Hidden, splits: Layers) -> tuple[Chords, ...]:
    """Returns the relaxation of every neuron within bounds and splits."""
    found = []
    for bounds, split in zip(hidden, splits, strict=True):
        sign = split.astype(bounds.lower.dtype)
        lower = jnp.where(split > 0, jnp.maximum(bounds.lower, 0), bounds.lower)
        upper = jnp.where(split < 0, jnp.minimum(bounds.upper, 0), bounds.upper)
        free = (lower < 0) & (upper > 0)
        width = jnp.where(free, upper - lower, 1)
        on = jnp.where(lower >= 0, jnp.ones_like(upper), jnp.zeros_like(upper))
        slope = jnp.where(free, upper / width, on)
        # So that the line is above both ends, also where numbers underflow.
        ends = jnp.maximum(-slope * lower, (1 - slope) * upper)
        intercept = jnp.where(free, ends + 2 * jnp.finfo(ends.dtype).tiny, 0)
        found.append(Chords(free, on, slope, intercept, sign))
    return tuple(found)


class Pass(NamedTuple):
    """One backward pass of a batch."""

    lower: Array  # [B]
    coefficients: Layers  # on each ReLU's output
    input: Array  # coefficients on the input, [B, n_x]
    margin: Array  # of rounding, [B]


def bound_once(
    network: Network,
    table: Mapping[Any, Array],
    region: Region,
    lines: Sequence[Chords],
    domains: Domains,
    config: BetaConfig,
    lost: Array | float = 0.0,
) -> Pass:
    """Bounds a batch by one backward pass, nothing optimised.

    Args:
      network: of `reduce.apply`.
      table: its weights by value.
      region: of the flat input.
      lines: `chords` of the batch.
      domains: the batch.
      config: whether beta counts.
      lost: to underflow; see `backward`.
    """
    order = {node: k for k, node in enumerate(network.nonlinear)}
    seen: list[Any] = [None] * len(order)

    def relax(node: Node, rows: Array) -> tuple[Sequence[Array], Array]:
        k = order[node]
        seen[k] = rows
        line = lines[k]
        above, below = jnp.maximum(rows, 0), jnp.minimum(rows, 0)
        low = jnp.where(line.free, domains.alpha[k], line.fixed)
        part = above * low + below * line.slope
        if config.beta:
            part = part - domains.beta[k] * line.sign
        return (part,), (below * line.intercept).sum(-1)

    rows = jnp.einsum("bmn,bm->bn", domains.C, domains.weights, precision="highest")
    given = {network.output: rows}
    left, offset, size = backward(network, table, given, relax, lost=lost)
    offset = offset + (domains.d * domains.weights).sum(-1)
    size = size + (jnp.abs(domains.d) * domains.weights).sum(-1)
    given = left[network.input]
    least = region.minimum(given)
    zeros = jnp.zeros_like
    layers = tuple(
        zeros(domains.alpha[k]) if rows is None else rows for k, rows in enumerate(seen)
    )
    margin = rounding(given, offset, size, region)
    return Pass(offset + least, layers, given, margin)


def bound_batch(
    network: Network,
    weights: Weights,
    region: Region,
    hidden: Hidden,
    domains: Domains,
    config: BetaConfig = BetaConfig(),
    lost: Array | float = 0.0,
) -> Bounded:
    """Returns lower bounds of a batch of sub-domains, optimised jointly.

    Args:
      network: of `reduce.apply`: flat input [n_x], flat ReLU layers.
      weights: its weights.
      region: of the flat input.
      hidden: bounds of each layer over the whole region, [n_k].
      domains: where to start from.
      config: see there.
      lost: to underflow; see `reduce.Reduced`.
    """
    table = network.table(weights)
    lines = chords(hidden, domains.splits)
    several = domains.C.shape[1] > 1

    def placed(free: _Free) -> Domains:
        alpha, beta = (tuple(by_layer(part, sizes)) for part in (free.alpha, free.beta))
        rows = domains.weights if free.weights is None else free.weights
        return domains._replace(alpha=alpha, beta=beta, weights=rows)

    def loss(moving: Any) -> tuple[Array, Pass]:
        alpha, beta, rows = moving
        given = domains._replace(alpha=alpha, beta=beta, weights=rows)
        found = bound_once(network, table, region, lines, given, config, lost)
        return -found.lower.sum(), found

    def step(carry: Any, t: Array) -> tuple[Any, None]:
        free, state, best, kept = carry
        (_, found), grads = jax.value_and_grad(loss, has_aux=True)(
            _moving(placed(free))
        )
        best, kept = _better(best, kept, found, free)
        with jax.numpy_dtype_promotion("standard"):
            da, db, dr = grads
            ascent: Any = _free(da, db, dr, several)
            updates, state = optimizer.update(ascent, state)
            moved = _move(free, updates, config.decay**t, config)
        return (moved, state, best, kept), None

    sizes = [split.shape[-1] for split in domains.splits]
    optimizer = optax.scale_by_adam()
    free: Any = _free(*_moving(domains), several)
    best = jnp.full(domains.d.shape[0], -jnp.inf, region.lower.dtype)
    if config.steps:
        with jax.numpy_dtype_promotion("standard"):
            state = optimizer.init(free)
        time = jnp.arange(config.steps, dtype=region.lower.dtype)
        (last, _, best, kept), _ = lax.scan(step, (free, state, best, free), time)
    else:
        last = kept = free
    _, found = loss(_moving(placed(last)))
    best, kept = _better(best, kept, found, last)
    point = region.minimizer(found.input)
    return Bounded(best, placed(kept), found.coefficients, point)


class _Free(NamedTuple):
    """What is optimised, layers side by side: few arrays are few loops to compile."""

    alpha: Array  # [B, n]
    beta: Array  # [B, n]
    weights: Array | None  # [B, m], None where clauses have one row


def _moving(domains: Domains) -> tuple[Layers, Layers, Array]:
    return domains.alpha, domains.beta, domains.weights


def _free(alpha: Layers, beta: Layers, weights: Array, several: bool) -> _Free:
    return _Free(
        jnp.concatenate(alpha, -1),
        jnp.concatenate(beta, -1),
        weights if several else None,
    )


def _better(best: Array, kept: Any, found: Pass, free: Any) -> tuple[Array, Any]:
    """The best bound of each row, and its multipliers; a NaN is never better."""
    lower = found.lower - found.margin
    improved = lower > best
    kept = jax.tree.map(
        lambda new, old: jnp.where(improved[:, None], new, old), free, kept
    )
    return jnp.where(improved, lower, best), kept


def _move(free: _Free, updates: Any, rate: Array, config: BetaConfig) -> _Free:
    """A step of ascent, projected: alpha in [0, 1], beta >= 0, weights a simplex."""
    (alpha, beta, rows), (da, db, dr) = free, updates
    a, b = config.learning_rate_alpha * rate, config.learning_rate_beta * rate
    alpha = jnp.clip(alpha - a * da, 0, 1)
    if config.beta:
        beta = jnp.maximum(beta - b * db, 0)
    if rows is not None:
        rows = jnp.maximum(rows - b * dr, 0)
        rows = rows / jnp.maximum(rows.sum(-1, keepdims=True), 1e-6)
    return _Free(alpha, beta, rows)
