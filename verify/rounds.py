"""One round of branch and bound as one program: choose, split, bound."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from core.types import Array
from verify import branching
from verify.beta import (
    BetaConfig,
    Domains,
    Layers,
    bound_batch,
    bound_once,
    chords,
)
from verify.network import Network, Weights
from verify.regions import Region
from verify.relaxing import Hidden
from verify.types import by_layer


@dataclasses.dataclass(frozen=True)
class RoundConfig:
    """How a round splits and bounds.

    Attributes:
      bound: how the children are optimised.
      heuristic: "kfsb" or "babsr".
      candidates: k of "kfsb".
      reduce_op: how children are judged together.
      levels: neurons split at once; a parent has 2 ** levels children.
    """

    bound: BetaConfig = BetaConfig()  # noqa: RUF009 - frozen
    heuristic: str = "kfsb"
    candidates: int = 3
    reduce_op: str = "max"
    levels: int = 1


class Round(NamedTuple):
    """The children of a batch of P parents, 2 ** levels of each.

    Attributes:
      lower: bounds, never below the parent's, [P, children].
      domains: the children, [P * children, ..].
      neuron: what was split, flat over all layers, [P, levels]; -1 where a parent has
        nothing left to split.
      sign: of each child at each level, [children, levels].
      point: the minimiser of each child's linear bound, [P, children, n_x].
    """

    lower: Array
    domains: Domains
    neuron: Array
    sign: Array
    point: Array


def split_round(
    network: Network,
    weights: Weights,
    region: Region,
    hidden: Hidden,
    bias: Layers,
    parents: Domains,
    parent_lower: Array,
    config: RoundConfig,
    lost: Array | float = 0.0,
) -> Round:
    """Splits a batch of parents and bounds their children.

    Args:
      network: of `reduce.apply`.
      weights: its weights.
      region: of the flat input.
      hidden: bounds of each layer.
      bias: `Reduced.bias`.
      parents: P sub-domains.
      parent_lower: their bounds [P].
      config: see there.
      lost: to underflow; see `Reduced`.
    """
    neuron = choose(network, weights, region, hidden, bias, parents, config)
    levels = config.levels
    count = 2**levels
    code = jnp.arange(count)[:, None] >> jnp.arange(levels)[None]
    sign = (1 - 2 * (code & 1)).astype(jnp.int8)  # [children, levels]
    children = _repeat(parents, count)
    flat = _flat(children.splits)
    at = jnp.arange(flat.shape[-1], dtype=jnp.int32)[None]
    for level in range(levels):
        chosen = jnp.repeat(neuron[:, level], count)[:, None]
        signs = jnp.tile(sign[:, level], neuron.shape[0])[:, None]
        flat = jnp.where(at == chosen, signs, flat)
    children = children._replace(splits=_layers(flat, parents.splits))
    bounded = bound_batch(
        network, weights, region, hidden, children, config.bound, lost
    )
    lower = bounded.lower.reshape(-1, count)
    lower = jnp.where(jnp.isnan(lower), -jnp.inf, lower)
    point = bounded.point.reshape(-1, count, bounded.point.shape[-1])
    lower = jnp.maximum(lower, parent_lower[:, None])
    return Round(lower, bounded.domains, neuron, sign, point)


def choose(
    network: Network,
    weights: Weights,
    region: Region,
    hidden: Hidden,
    bias: Layers,
    parents: Domains,
    config: RoundConfig,
) -> Array:
    """Returns the neurons to split of each parent [P, levels], -1 for none left."""
    table = network.table(weights)
    lines = chords(hidden, parents.splits)
    passed = bound_once(network, table, region, lines, parents, config.bound)
    scores, intercepts = branching.babsr(
        lines, passed.coefficients, bias, config.reduce_op
    )
    if config.heuristic == "babsr":
        ranking = branching.ranked(scores, intercepts)
        best, index = jax.lax.top_k(ranking, min(config.levels, ranking.shape[-1]))
        return _as_wide(jnp.where(best > branching.NEVER, index, -1), config.levels)
    index, valid = branching.candidates(scores, intercepts, config.candidates)
    judged = _judge(network, table, region, hidden, parents, index, config)
    judged = jnp.where(valid & ~_repeated(index), judged, -jnp.inf)
    best, place = jax.lax.top_k(judged, min(config.levels, judged.shape[-1]))
    neuron = jnp.take_along_axis(index, place, -1)
    return _as_wide(jnp.where(best > -jnp.inf, neuron, -1), config.levels)


def _as_wide(neuron: Array, levels: int) -> Array:
    """Neurons to split padded to `levels` columns."""
    extra = levels - neuron.shape[-1]
    return jnp.pad(neuron, ((0, 0), (0, extra)), constant_values=-1)


def _judge(
    network: Network,
    table: Any,
    region: Region,
    hidden: Hidden,
    parents: Domains,
    index: Array,
    config: RoundConfig,
) -> Array:
    """The bounds of both children of every candidate, reduced, [P, candidates]."""
    count = index.shape[-1]
    both = _repeat(parents, 2 * count)
    flat = _flat(both.splits)
    chosen = jnp.repeat(index.reshape(-1), 2)[:, None]
    signs = jnp.tile(jnp.asarray([1, -1], jnp.int8), index.size)[:, None]
    at = jnp.arange(flat.shape[-1], dtype=jnp.int32)[None]
    flat = jnp.where(at == chosen, signs, flat)
    splits = _layers(flat, parents.splits)
    lines = chords(hidden, splits)
    both = both._replace(splits=splits)
    found = bound_once(network, table, region, lines, both, config.bound)
    lower = found.lower.reshape(index.shape[0], count, 2)
    return lower.max(-1) if config.reduce_op == "max" else lower.min(-1)


def _repeated(index: Array) -> Array:
    """Which entries of each row have been there before, [B, c]."""
    same = index[:, :, None] == index[:, None, :]
    earlier = jnp.tril(jnp.ones(same.shape[1:], bool), -1)[None]
    return (same & earlier).any(-1)


def _repeat(domains: Domains, count: int) -> Domains:
    return jax.tree.map(lambda a: jnp.repeat(a, count, axis=0), domains)


def _flat(layers: Layers) -> Array:
    return jnp.concatenate(layers, -1)


def _layers(flat: Array, like: Layers) -> Layers:
    return tuple(by_layer(flat, [layer.shape[-1] for layer in like]))
