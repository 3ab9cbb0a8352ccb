"""Branch and bound over the input: boxes of few dimensions, halved until all hold."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.types import Array
from graph import Node
from verify import alpha as va
from verify import crown
from verify.backward import Relax, backward
from verify.boxed_neurons import Effort, NeuronSplitter, splits_neurons
from verify.network import Network, Weights
from verify.network import network as build
from verify.problem import Config
from verify.properties import Spec
from verify.regions import Region
from verify.types import Bounds, Numbers

SIZES = (64, 1024, 8192)
"""Boxes in a call: the least of these that holds them, several calls of the last."""
CHUNK = SIZES[0]
"""Boxes in every call on a CPU: what they need stays in its caches, and one size
compiles once."""
HARD = 1024
"""Boxes after which neurons are split inside of those that have few unstable ones."""
SLOPES = va.AlphaConfig(steps=5, learning_rate=0.25, hidden=False)
"""How the slopes of the clauses' rows are optimised: next to the hidden bounds of a
box they cost little, and they close most boxes that CROWN's own slopes leave open."""


class Bounded(NamedTuple):
    """A batch of B boxes, bounded.

    Attributes:
      lower: of each clause, the best of its rows, [B, clauses].
      slack: what rounding may have added to those, [B, clauses].
      score: of halving each dimension, larger is better, [B, n].
      point: the most suspicious input of each box, [B, n].
      margin: the largest row of the worst clause at that point, [B].
      row: which row of each clause is the best, [B, clauses].
      hidden: bounds of the hidden values, each [B, *shape].
      slopes: of those rows, for each nonlinear node [B, clauses, size], NaN where the
        slope is CROWN's; empty unless asked for.
    """

    lower: Numbers
    slack: Numbers
    score: Numbers
    point: Numbers
    margin: Numbers
    row: Numbers
    hidden: tuple[Bounds, ...]
    slopes: tuple[Numbers, ...]


@dataclasses.dataclass
class Boxed:
    """How a search over boxes ended.

    Attributes:
      status: "unsat", "timeout", "unknown" or "point".
      lower: the least bound of what is open; positive if nothing is.
      domains: boxes bounded.
      why: for "unknown", the reason.
      point: a suspected counterexample, of the input's shape.
      leaves: `Leaf`s that cover the region, if recorded.
    """

    status: str
    lower: float
    domains: int
    why: str = ""
    point: np.ndarray | None = None
    leaves: list[Any] = dataclasses.field(default_factory=list)


class Leaf(NamedTuple):
    """A box on which every clause is refuted.

    Attributes:
      path: halvings (axis, threshold, side) that lead to it.
      row: of each clause the row that refutes it, [clauses].
      slopes: of those rows, for each nonlinear node [clauses, size], NaN where it is
        CROWN's.
    """

    path: list[tuple[int, float, int]]
    row: np.ndarray
    slopes: tuple[np.ndarray, ...]


def bound_boxes(
    network: Network,
    weights: Weights,
    lower: Array,
    upper: Array,
    C: Array,
    d: Array,
    *,
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
      with_slopes: whether the slopes are returned.
    """
    table = network.table(weights)
    count, m = d.shape
    spec = Spec(C.reshape(count * m, -1), d.reshape(-1))
    free = va.free_nodes(network, network.output)

    def one(low: Array, high: Array) -> Bounded:
        region = Region(low, high)
        hidden = crown.hidden_bounds(network, weights, region)
        found = crown.intervals_from(network, region, hidden)
        slopes, first = None, {}
        if free:
            start = va.init_slopes(network, weights, region, hidden, count * m, SLOPES)
            best = va.optimize(network, weights, region, spec, hidden, SLOPES, start)
            slopes = dict(zip(free, best.slopes["output"], strict=True))
            first = dict(zip(free, start["output"], strict=True))
        relax = crown.relaxation(network, table, found, slopes)
        rows = crown.rows_of_spec(network, spec)
        left, offset, terms = backward(network, table, rows, relax)
        offset = offset + spec.d
        given = left.get(network.input)
        if given is None:
            given = jnp.zeros((count * m, *low.shape), low.dtype)
        least = offset + region.minimum(given)
        terms = terms + jnp.abs(spec.d)
        slack = crown.rounding(given, offset, terms, region).reshape(count, m)
        by_clause = jnp.where(jnp.isnan(least), -jnp.inf, least).reshape(count, m)
        best = by_clause.max(-1)
        best_row = by_clause.argmax(-1)
        half = 0.5 * (high - low).reshape(-1)
        smeared, *_ = backward(network, table, rows, _upper_slopes(relax))
        size = jnp.abs(given) + jnp.abs(smeared.get(network.input, given))
        size = size.reshape(count, m, -1)
        open_rows = (best <= slack[jnp.arange(count), best_row])[:, None]
        least = jnp.where(open_rows, by_clause, -jnp.inf)
        gain = size * half[None, None] + least[..., None]
        # Where nothing tells dimensions apart, the longest one.
        gain = gain.max((0, 1)) + 1e-3 * half * jnp.abs(best.min())
        # Where a bound is no number nothing tells them apart either.
        gain = jnp.where(jnp.isfinite(gain), gain, half)
        score = jnp.where(half > 0, gain, -jnp.inf)
        worst = jnp.argmin(best) * m + jnp.argmax(by_clause[jnp.argmin(best)])
        corner = jnp.where(given[worst] > 0, low, high)
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
            score,
            points[at].reshape(-1),
            margins[at],
            best_row,
            hidden,
            used,
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


class BoxSearch:
    """Branch and bound over the input of one network; compiles once a batch size."""

    def __init__(self, network: Network):
        self.network = network
        self.traces: dict[str, int] = {}
        self._bound = jax.jit(self._bound_counted, static_argnums=5)
        self.splitter = NeuronSplitter(network) if splits_neurons(network) else None

    def _bound_counted(self, weights, lower, upper, C, d, with_slopes) -> Bounded:
        name = f"boxes{lower.shape[0]}"
        self.traces[name] = self.traces.get(name, 0) + 1
        return bound_boxes(
            self.network, weights, lower, upper, C, d, with_slopes=with_slopes
        )

    def __call__(
        self,
        weights: Weights,
        region: Region,
        specs: Sequence[Spec],
        config: Config,
        deadline: float,
        *,
        is_unsafe: Callable[[np.ndarray], bool],
        exact: "Callable[[np.ndarray, np.ndarray], np.ndarray] | None" = None,
        progress: Callable[[str], None] | None = None,
    ) -> Boxed:
        """Halves boxes until every clause is refuted on all of them.

        Args:
          weights: of the network.
          region: a box, of the input's type.
          specs: rows of each clause, of one number.
          config: of the search.
          deadline: of `time.monotonic`.
          is_unsafe: the judge of suspected counterexamples.
          exact: bounds boxes that are positive by less than rounding may add, in
            float64: from lower and upper ends [B, n] to the least bound of each [B].
          progress: called with a line of text.
        """
        shape = self.network.input.shape
        n = int(np.prod(shape))
        C = jnp.asarray(np.stack([s.C for s in specs]))
        d = jnp.asarray(np.stack([s.d for s in specs]))
        low = np.asarray(region.lower).reshape(1, n)
        high = np.asarray(region.upper).reshape(1, n)
        least = np.full(1, -np.inf, low.dtype)
        leaves: list[Leaf] = []
        nodes = np.zeros(1, np.int64)
        tree: list[tuple[int, int, float, int]] = [(-1, -1, 0.0, 0)]
        domains = 0
        limit = max(config.batch * 16, CHUNK)
        effort = Effort()
        while len(low):
            if time.monotonic() > deadline:
                return Boxed("timeout", float(least.min()), domains)
            if len(low) > config.max_domains:
                why = f"{len(low)} open boxes, over max_domains"
                return Boxed("unknown", float(least.min()), domains, why)
            take = _worst(least, limit)
            rest = np.setdiff1d(np.arange(len(low)), take, assume_unique=True)
            found = self._batch(
                weights, low[take], high[take], C, d, config.certificate
            )
            domains += len(take)
            at = int(np.argmin(found.margin))
            if found.margin[at] <= 0 and is_unsafe(found.point[at].reshape(shape)):
                point = found.point[at].reshape(shape)
                return Boxed("point", float(least.min()), domains, point=point)
            lower = found.lower.min(-1)
            closed = (found.lower > found.slack).all(-1)
            # Halving settles most doubts; what is in doubt again needs more digits.
            doubt = np.flatnonzero((lower > 0) & ~closed & (least[take] > 0))
            if len(doubt) and exact is not None:
                closed[doubt] = exact(low[take[doubt]], high[take[doubt]]) > 0
            left = np.flatnonzero(~closed)
            if self._tries_neurons(config, domains, len(left)):
                assert self.splitter is not None
                tried = self.splitter(
                    weights,
                    (low[take[left]], high[take[left]]),
                    jax.tree.map(lambda a, left=left: a[left], found),
                    specs,
                    config,
                    deadline,
                    lambda x: is_unsafe(x.reshape(shape)),
                    effort,
                )
                domains += tried.domains
                if tried.point is not None:
                    point = tried.point.reshape(shape)
                    return Boxed("point", float(least.min()), domains, point=point)
                closed[left[tried.closed]] = True
            if config.certificate:
                leaves += [
                    Leaf(
                        _path(tree, int(nodes[take[k]])),
                        found.row[k],
                        tuple(part[k] for part in found.slopes),
                    )
                    for k in np.flatnonzero(closed)
                ]
            still = take[~closed]
            if not np.isfinite(found.score[~closed].max(-1, initial=-np.inf)).all():
                return Boxed("unknown", float(lower.min()), domains, "a point is open")
            axis = found.score[~closed].argmax(-1) if len(still) else np.zeros(0, int)
            children = _halved(low[still], high[still], axis)
            if children is None:
                why = "a box as small as the type can tell apart is open"
                return Boxed("unknown", float(lower.min()), domains, why)
            first = len(tree)
            if config.certificate:
                cut = children[1][: len(still)][np.arange(len(still)), axis]
                for side in (0, 1):
                    tree += [
                        (int(p), int(a), float(t), side)
                        for p, a, t in zip(nodes[still], axis, cut, strict=True)
                    ]
            new = first + np.arange(2 * len(still))
            nodes = np.concatenate([nodes[rest], new])
            least = np.concatenate([least[rest], np.tile(lower[~closed], 2)])
            low = np.concatenate([low[rest], children[0]])
            high = np.concatenate([high[rest], children[1]])
            if progress is not None and len(low):
                progress(f"{domains} boxes, {len(low)} open, bound {least.min():.4g}")
        return Boxed("unsat", 0.0, domains, leaves=leaves)

    def _tries_neurons(self, config: Config, domains: int, left: int) -> bool:
        """Whether what is open is hard enough to split neurons inside of boxes."""
        if self.splitter is None or config.certificate or config.method != "beta":
            return False
        least = HARD // 8 if domains < 16 * HARD else 1
        return domains >= HARD and left >= least

    def _batch(self, weights, low, high, C, d, with_slopes) -> Bounded:
        """Bounds boxes in calls of fixed sizes; numpy in and out.

        Calls are made before the first one's result is waited for: a CPU runs several
        at once.
        """
        count = len(low)
        sizes = (CHUNK,) if jax.default_backend() == "cpu" else SIZES
        size = next((s for s in sizes if s >= count), sizes[-1])
        shape = self.network.input.shape

        def fixed(boxes: np.ndarray) -> Array:
            padded = np.concatenate([boxes, np.repeat(boxes[:1], size - len(boxes), 0)])
            return jnp.asarray(padded.reshape(size, *shape))

        calls = [
            self._bound(weights, fixed(low[part]), fixed(high[part]), C, d, with_slopes)
            for part in (slice(at, at + size) for at in range(0, count, size))
        ]
        return jax.tree.map(
            lambda *parts: np.concatenate([np.asarray(p) for p in parts])[:count],
            *calls,
        )


def _worst(least: np.ndarray, limit: int) -> np.ndarray:
    if len(least) <= limit:
        return np.arange(len(least))
    return np.argpartition(least, limit - 1)[:limit]


def _halved(
    low: np.ndarray, high: np.ndarray, axis: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Both halves of every box, or None where a midpoint is an end."""
    at = np.arange(len(low)), axis
    middle = 0.5 * (low[at] + high[at])
    if ((middle <= low[at]) | (middle >= high[at])).any():
        return None
    left, right = high.copy(), low.copy()
    left[at] = middle
    right[at] = middle
    return np.concatenate([low, right]), np.concatenate([left, high])


def _path(tree: list[tuple[int, int, float, int]], node: int) -> list[Any]:
    found = []
    while tree[node][0] >= 0:
        parent, *step = tree[node]
        found.append(tuple(step))
        node = parent
    return found[::-1]


class DoubleBounds:
    """CROWN bounds of boxes in float64, for those that float32 can not decide."""

    def __init__(self, fn: Callable[..., Any], shape: tuple[int, ...]):
        self.fn = fn
        self.shape = shape
        self.network: Network | None = None
        self._bound: Any = None

    def __call__(
        self, params: Any, low: np.ndarray, high: np.ndarray, specs: Sequence[Spec]
    ) -> np.ndarray:
        """Returns the least bound of all clauses on each box, less its rounding, [B].

        Args:
          params: of the function, of any float type.
          low: lower ends, [B, n].
          high: upper ends, [B, n].
          specs: rows of each clause, of one number.
        """
        with jax.enable_x64(True):
            wide = jax.tree.map(_double, params)
            if self.network is None:
                example = jax.ShapeDtypeStruct(self.shape, np.float64)
                self.network = build(self.fn, wide, example)
                self._bound = jax.jit(functools.partial(bound_boxes, self.network))
            weights = self.network.prepare(wide)
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


def _double(leaf: Any) -> Any:
    array = np.asarray(leaf)
    return array.astype(np.float64) if array.dtype.kind == "f" else array
