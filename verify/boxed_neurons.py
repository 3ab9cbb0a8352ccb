"""Neurons split inside of small boxes, many boxes at once.

In a small box few neurons are unstable. Within its hidden bounds the network is a small
dense one, on which beta-CROWN decides what halving the box would take many boxes for.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from verify import together
from verify.network import Network, Weights
from verify.pool import Batch
from verify.problem import Config
from verify.programs import Shape, programs
from verify.properties import Spec
from verify.reduce import reduce_within
from verify.regions import Region
from verify.rounding import share

BOXES = 256
"""Boxes that are searched together."""
SIZE = 16
"""The most unstable neurons of a layer."""
ROUNDS = 12
"""Rounds after which a box that is still open is halved instead."""


class Tried(NamedTuple):
    """What became of a batch of boxes.

    Attributes:
      closed: which are refuted, bool [B].
      domains: sub-domains bounded.
      point: a confirmed counterexample, flat, or None.
    """

    closed: np.ndarray
    domains: int
    point: np.ndarray | None = None


@dataclasses.dataclass
class Effort:
    """What a search has learnt about splitting neurons inside of its boxes.

    Attributes:
      limit: the most unstable neurons of a box that is tried; it follows how many
        boxes were refuted.
      slowest: seconds of the slowest batch of boxes.
    """

    limit: float = 32.0
    slowest: float = 0.0

    def has_time(self, deadline: float) -> bool:
        """Whether a batch will end before a deadline, as far as is known."""
        return time.monotonic() + max(2 * self.slowest, 5.0) < deadline

    def learn(self, refuted: float, seconds: float) -> None:
        """Takes the share of a batch that was refuted, and how long it took."""
        self.slowest = max(self.slowest, seconds)
        if refuted < 0.5:
            self.limit = max(0.8 * self.limit, 4.0)
        elif refuted > 0.8:
            self.limit *= 1.1


class NeuronSplitter:
    """Branch and bound over the neurons of boxes of one network."""

    def __init__(self, network: Network):
        self.network = network
        sizes = [int(np.prod(n.inputs[0].shape)) for n in network.nonlinear]
        self.sizes = tuple(min(SIZE, size) for size in sizes)
        within = functools.partial(reduce_within, network, sizes=self.sizes)
        self._reduce = jax.jit(jax.vmap(within, (None, 0, 0)))
        self.shape = Shape(
            int(np.prod(network.input.shape)),
            self.sizes,
            int(np.prod(network.output.shape)),
            str(network.input.dtype),
        )
        self.ready = False

    def __call__(
        self,
        weights: Weights,
        box: tuple[np.ndarray, np.ndarray],
        bounded: Any,
        specs: Sequence[Spec],
        config: Config,
        deadline: float,
        is_unsafe: Callable[[np.ndarray], bool],
        effort: Effort,
    ) -> Tried:
        """Tries to refute all clauses on each of B boxes.

        Args:
          weights: of the network.
          box: lower and upper ends, [B, n] each.
          bounded: their `box_bounds.Bounded`.
          specs: rows of each clause, of one number.
          config: of the search.
          deadline: of `time.monotonic`.
          is_unsafe: the judge of suspected counterexamples, given flat inputs.
          effort: of the search; it learns.
        """
        closed = np.zeros(len(box[0]), bool)
        domains = 0
        unstable = self._unstable(bounded.hidden)
        waiting = np.asarray((unstable <= self.sizes).all(-1))
        while True:
            fits = waiting & (unstable.sum(-1) <= effort.limit)
            tried = np.flatnonzero(fits)[:BOXES]
            if not len(tried) or not effort.has_time(deadline):
                break
            waiting[tried] = False
            began = time.monotonic()
            low, high, own = jax.tree.map(lambda a, i=tried: a[i], (*box, bounded))
            found = self._search(
                weights, (low, high), own, specs, config, deadline, is_unsafe
            )
            seconds = time.monotonic() - began if self.ready else 0.0  # compiled
            self.ready = True
            domains += int(found.domains.sum())
            if found.points:
                return Tried(closed, domains, next(iter(found.points.values())))
            done = found.open[: len(tried)] == 0
            closed[tried[done]] = True
            effort.learn(float(done.mean()), seconds)
            if done.mean() < 0.5:
                break
        return Tried(closed, domains)

    def _unstable(self, hidden: Any) -> np.ndarray:
        """Unstable neurons by layer, [B, layers]."""
        place = {v: k for k, v in enumerate(self.network.hidden)}
        counts = []
        for node in self.network.nonlinear:
            lower, upper = hidden[place[node.inputs[0]]]
            # A form can not be made within bounds that are no numbers: never try.
            known = np.isfinite(lower) & np.isfinite(upper)
            weight = np.where(known, (lower < 0) & (upper > 0), SIZE + 1)
            counts.append(weight.reshape(len(weight), -1).sum(-1))
        return np.stack(counts, -1)

    def _search(self, weights, box, bounded, specs, config, deadline, is_unsafe):
        count = len(box[0])

        def padded(a: np.ndarray) -> Any:
            return jnp.asarray(np.concatenate([a, np.repeat(a[:1], BOXES - count, 0)]))

        params, hidden, bias = self._reduce(
            weights, jax.tree.map(padded, bounded.hidden), padded(bounded.lost)
        )
        forms = together.Forms(
            params, Region(padded(box[0]), padded(box[1])), hidden, bias
        )
        clauses = len(specs)
        least = bounded.lower - bounded.slack  # what is proven so far
        own, clause = np.nonzero(~(least > 0))
        low, high = (
            np.concatenate([np.asarray(b[end])[own] for b in hidden], -1)
            for end in (0, 1)
        )
        chosen = np.zeros((len(own), specs[0].C.shape[0]), np.float32)
        chosen[np.arange(len(own)), bounded.row[own, clause]] = 1
        start = Batch(
            least[own, clause].astype(np.float32),
            (own * clauses + clause).astype(np.int32),
            np.zeros(low.shape, np.int8),
            (high > -low).astype(np.float32),
            np.zeros(low.shape, np.float32),
            chosen,
            np.zeros(len(own), np.int64),
        )
        return together.search(
            programs(self.shape),
            forms,
            np.repeat(np.arange(BOXES), clauses),
            _lowered(specs, bounded.size, BOXES),
            start,
            dataclasses.replace(config, batch=2 * BOXES),
            deadline,
            is_unsafe=lambda _, x: is_unsafe(x),
            max_rounds=ROUNDS,
        )


def _lowered(specs: Sequence[Spec], size: np.ndarray, count: int) -> list[Spec]:
    """The rows of each clause in each box, less what cancelled in a reduced form.

    Args:
      specs: of the clauses.
      size: of the terms, `box_bounds.Bounded.size`.
      count: boxes; those after the given ones repeat the first.
    """
    lost = share(size.dtype) * size
    lost = np.concatenate([lost, np.repeat(lost[:1], count - len(lost), 0)])
    return [
        spec._replace(d=spec.d - own)
        for box in lost
        for spec, own in zip(specs, box, strict=True)
    ]
