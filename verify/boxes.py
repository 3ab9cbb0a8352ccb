"""Branch and bound over the input: boxes of few dimensions, halved until all hold."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.types import Array
from verify.box_bounds import CHUNK, Bounded, bound_boxes
from verify.boxed_neurons import Effort, NeuronSplitter
from verify.kept import Kept
from verify.network import Network, Weights
from verify.problem import Config
from verify.properties import Spec
from verify.regions import Region

SIZES = (CHUNK, 1024, 8192)
"""Boxes in a call: the least of these that holds them, several calls of the last."""
HARD = 1024
"""Boxes after which neurons are split inside of those that have few unstable ones."""


@dataclasses.dataclass
class Boxed:
    """How a search over boxes ended.

    Attributes:
      status: "unsat", "timeout", "unknown" or "point".
      lower: the least bound of what is open; positive if nothing is.
      domains: boxes bounded.
      why: for "unknown", the reason.
      point: a suspected counterexample, of the input's shape.
      kept: `Leaf`s that cover the region, if recorded.
    """

    status: str
    lower: float
    domains: int
    why: str = ""
    point: np.ndarray | None = None
    kept: Kept = dataclasses.field(default_factory=Kept)


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


class BoxSearch:
    """Branch and bound over the input of one network; compiles once a batch size."""

    def __init__(self, network: Network):
        self.network = network
        self.traces: dict[str, int] = {}
        self._bound = jax.jit(self._bound_counted, static_argnums=6)
        self.splitter = NeuronSplitter(network) if network.is_piecewise_linear else None

    def _bound_counted(self, weights, lower, upper, C, d, ball, with_slopes) -> Bounded:
        name = f"boxes{lower.shape[0]}"
        self.traces[name] = self.traces.get(name, 0) + 1
        return bound_boxes(
            self.network,
            weights,
            lower,
            upper,
            C,
            d,
            ball=ball,
            with_slopes=with_slopes,
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
          region: of the input's type. Of a ball its box is halved, and parts outside of
            the ball are left out, but for a certificate.
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
        ball = None if region.radius is None else region
        kept = Kept()
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
                weights, low[take], high[take], C, d, ball, config.certificate
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
            if not config.certificate:
                closed |= ~region.meets(low[take], high[take])
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
            recorded = config.certificate and not kept.full
            for k in np.flatnonzero(closed) if recorded else ():
                slopes = tuple(part[k].copy() for part in found.slopes)
                path = _path(tree, int(nodes[take[k]]))
                leaf = Leaf(path, found.row[k].copy(), slopes)
                kept.add(leaf, *slopes, steps=len(path))
            still = take[~closed]
            if not np.isfinite(found.score[~closed].max(-1, initial=-np.inf)).all():
                return Boxed("unknown", float(lower.min()), domains, "a point is open")
            axis = found.score[~closed].argmax(-1) if len(still) else np.zeros(0, int)
            children = _halved(low[still], high[still], axis)
            if children is None:
                why = "a box as small as the type can tell apart is open"
                return Boxed("unknown", float(lower.min()), domains, why)
            first = len(tree)
            if recorded:
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
        return Boxed("unsat", 0.0, domains, kept=kept)

    def whole(
        self, weights: Weights, region: Region, specs: Sequence[Spec]
    ) -> np.ndarray:
        """Returns bounds of each clause over a region that is not split, [clauses]."""
        low, high = (np.asarray(e).reshape(1, -1) for e in (region.lower, region.upper))
        C, d = (jnp.asarray(np.stack(part)) for part in zip(*specs, strict=True))
        ball = None if region.radius is None else region
        found = self._batch(weights, low, high, C, d, ball, False)
        return np.nan_to_num((found.lower - found.slack)[0], nan=-np.inf)

    def _tries_neurons(self, config: Config, domains: int, left: int) -> bool:
        """Whether what is open is hard enough to split neurons inside of boxes."""
        if self.splitter is None or config.certificate or config.method != "beta":
            return False
        least = HARD // 8 if domains < 16 * HARD else 1
        return domains >= HARD and left >= least

    def _batch(self, weights, low, high, C, d, ball, with_slopes) -> Bounded:
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
            self._bound(
                weights, fixed(low[part]), fixed(high[part]), C, d, ball, with_slopes
            )
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
