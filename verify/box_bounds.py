"""Bounds of many small boxes at once, each with hidden bounds and slopes of its own."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import GraphError
from core.types import Array
from graph import Node
from verify import alpha as va
from verify import crown, relaxing
from verify.backward import Relax, backward
from verify.double import in_float64
from verify.network import Network, Weights
from verify.network import network as build
from verify.properties import Spec
from verify.regions import Region
from verify.types import Bounds, Numbers

CHUNK = 64
"""Boxes in a call on a CPU: what they need stays in its caches, and one size compiles
once."""
IDLE = 0.05
"""Share of the largest effect on a bound that every dimension is thought to have."""
PROOF = crown.CrownConfig(margin=True)
SLOPES = va.AlphaConfig(steps=5, learning_rate=0.25, hidden=False)
"""How the slopes of the clauses' rows are optimised: next to the hidden bounds of a
box they cost little, and they close most boxes that CROWN's own slopes leave open."""


class Bounded(NamedTuple):
    """A batch of B boxes, bounded.

    Attributes:
      lower: of each clause, the best of its rows, [B, clauses].
      slack: what rounding may have added to those, [B, clauses].
      size: of the terms that cancelled in each row's constant, [B, clauses, m].
      score: of halving each dimension, larger is better, [B, n].
      point: the most suspicious input of each box, [B, n].
      margin: the largest row of the worst clause at that point, [B].
      row: which row of each clause is the best, [B, clauses].
      hidden: bounds of the hidden values, each [B, *shape].
      slopes: of those rows, for each nonlinear node [B, clauses, size], NaN where the
        slope is CROWN's; empty unless asked for.
      lost: to underflow within each box, [B]; see `crown.lost_within`.
    """

    lower: Numbers
    slack: Numbers
    size: Numbers
    score: Numbers
    point: Numbers
    margin: Numbers
    row: Numbers
    hidden: tuple[Bounds, ...]
    slopes: tuple[Numbers, ...]
    lost: Numbers


def bound_boxes(
    network: Network,
    weights: Weights,
    lower: Array,
    upper: Array,
    C: Array,
    d: Array,
    *,
    ball: Region | None = None,
    with_slopes: bool = False,
) -> Bounded:
    """Returns bounds of all clauses on a batch of boxes.

    Every box gets hidden bounds of its own, by backward passes and intervals, and every
    row slopes of its own, optimised as `SLOPES` says (alpha-CROWN, arXiv 2011.13824).

    Args:
      network: the function.
      weights: its weights.
      lower: of the boxes, [B, *input shape].
      upper: likewise.
      C: rows of the clauses, [clauses, m, n_y].
      d: constants, [clauses, m].
      ball: what the boxes are parts of, if no box: bounds are of what it leaves of
        each box.
      with_slopes: whether the slopes are returned.
    """
    table = network.table(weights)
    count, m = d.shape
    spec = Spec(C.reshape(count * m, -1), d.reshape(-1))
    free = va.free_nodes(network, network.output)

    def one(low: Array, high: Array) -> Bounded:
        region = Region(low, high)
        if ball is not None:
            region = dataclasses.replace(ball, lower=low, upper=high)
        hidden = crown.hidden_bounds(network, weights, region, PROOF)
        found = relaxing.intervals_from(network, region, hidden)
        slopes, first = None, {}
        if free:
            start = va.init_slopes(network, weights, region, hidden, count * m, SLOPES)
            best = va.optimize(network, weights, region, spec, hidden, SLOPES, start)
            slopes = dict(zip(free, best.slopes["output"], strict=True))
            first = dict(zip(free, start["output"], strict=True))
        relax = relaxing.relaxation(network, table, found, slopes)
        lost = crown.lost_within(network, table, found)
        passed = crown.spec_pass(network, table, region, spec, relax, lost)
        least, given = passed.least, passed.given
        slack = passed.slack.reshape(count, m)
        size = passed.size.reshape(count, m)
        by_clause = jnp.where(jnp.isnan(least), -jnp.inf, least).reshape(count, m)
        best = by_clause.max(-1)
        best_row = by_clause.argmax(-1)
        half = 0.5 * (high - low).reshape(-1)
        rows = crown.rows_of_spec(network, spec)
        smeared, *_ = backward(network, table, rows, _upper_slopes(relax))
        felt = jnp.abs(given) + jnp.abs(smeared.get(network.input, given))
        felt = felt.reshape(count, m, -1)
        open_rows = (best <= slack[jnp.arange(count), best_row])[:, None]
        least = jnp.where(open_rows, by_clause, -jnp.inf)
        # Effects can cancel, as those of both sides of |x| do: no dimension is idle.
        felt = felt + IDLE * felt.max(-1, keepdims=True)
        gain = felt * half[None, None] + least[..., None]
        # Where nothing tells dimensions apart, the longest one.
        gain = gain.max((0, 1)) + 1e-3 * half * jnp.abs(best.min())
        # Nor does anything where a bound is no number.
        known = jnp.isfinite(best.min()) & ~jnp.isnan(gain) & (gain < jnp.inf)
        gain = jnp.where(known, gain, half)
        score = jnp.where(half > 0, gain, -jnp.inf)
        worst = jnp.argmin(best) * m + jnp.argmax(by_clause[jnp.argmin(best)])
        corner = region.minimizer(given[worst][None])[0]
        points = jnp.stack([corner, 0.5 * (low + high)])
        y = jax.vmap(functools.partial(_value, network, weights))(points)
        margins = (jnp.einsum("cmn,pn->pcm", C, y) + d[None]).max(-1).min(-1)
        margins = jnp.where(jnp.isnan(margins), jnp.inf, margins)
        at = jnp.argmin(margins)
        each = jnp.arange(count)
        used = ()
        if with_slopes and slopes is not None:
            moved = {
                node: jnp.where(slopes[node] == first[node], jnp.nan, slopes[node])
                for node in slopes
            }
            used = tuple(
                moved[node].reshape(count, m, -1)[each, best_row]
                if node in moved
                else jnp.zeros((count, 0), low.dtype)
                for node in network.nonlinear
            )
        return Bounded(
            best,
            slack[each, best_row],
            size,
            score,
            points[at].reshape(-1),
            margins[at],
            best_row,
            hidden,
            used,
            lost,
        )

    return jax.vmap(one)(lower, upper)


def _upper_slopes(relax: Relax) -> Relax:
    """Both lines by the slope of the upper one.

    Lower slopes of zero hide what the input does to a neuron; these show it.
    """

    def both(node: Node, rows: Array) -> Any:
        parts, offset = relax(node, -jnp.abs(rows))
        sign = jnp.where(rows > 0, -1, 1).astype(rows.dtype)
        return [part * sign for part in parts], offset

    return both


def _value(network: Network, weights: Weights, x: Array) -> Array:
    known = network.table(weights)
    known[network.input] = x
    for node in network.nodes:
        found = node(*(known[v] for v in node.inputs))
        known.update(zip(node.outputs, found, strict=True))
    return known[network.output].reshape(-1)


class DoubleBounds:
    """CROWN bounds of boxes in float64, for those that float32 can not decide."""

    def __init__(self, fn: Callable[..., Any], shape: tuple[int, ...]):
        self.fn = fn
        self.shape = shape
        self.network: Network | None = None
        self._prepare: Any = None
        self._bound: Any = None

    def __call__(
        self, params: Any, low: np.ndarray, high: np.ndarray, specs: Sequence[Spec]
    ) -> np.ndarray:
        """Returns the least bound of all clauses on each box, less its rounding, [B].

        It is -infinity where the function in float64 has no bounds.

        Args:
          params: of the function, of its own types; see `double.in_float64`.
          low: lower ends, [B, n].
          high: upper ends, [B, n].
          specs: rows of each clause, of one number.
        """
        wide = in_float64(self.fn, params, self.shape)
        with jax.enable_x64(True):
            if self.network is None:
                example = jax.ShapeDtypeStruct(self.shape, np.float64)
                try:
                    self.network = build(wide, params, example)
                except GraphError:
                    return np.full(len(low), -np.inf)
                self._prepare = jax.jit(self.network.prepare)
                self._bound = jax.jit(functools.partial(bound_boxes, self.network))
            weights = self._prepare(params)
            C = jnp.asarray(np.stack([s.C for s in specs]), np.float64)
            d = jnp.asarray(np.stack([s.d for s in specs]), np.float64)
            found = []
            for at in range(0, len(low), CHUNK):
                parts = [
                    np.resize(
                        a[at : at + CHUNK].astype(np.float64), (CHUNK, *self.shape)
                    )
                    for a in (low, high)
                ]
                bounded = self._bound(weights, *map(jnp.asarray, parts), C, d)
                found.append(np.asarray(bounded.lower - bounded.slack).min(-1))
            return np.concatenate(found)[: len(low)]
