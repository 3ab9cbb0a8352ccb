"""The root of a search: all clauses of one region bounded before anything is split."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.types import Array
from verify import alpha as va
from verify import crown
from verify.network import Network, Weights
from verify.pool import Batch
from verify.problem import Config
from verify.programs import Programs, Shape, programs
from verify.properties import Spec
from verify.reduce import Reduced, Reducer
from verify.regions import Region
from verify.rounding import share
from verify.types import Bounds

ROWS = (1, 2, 4, 10, 20, 50, 100)
"""Rows of a specification are padded to the least of these."""
CHUNK = 20
"""Iterations of alpha-CROWN between looks at the clock."""
AT_ONCE = 256 << 20
"""Bytes of slopes up to which the rows of a hidden value go back at once."""


@dataclasses.dataclass(eq=False)
class Rooted:
    """What is known before the first split.

    Attributes:
      lower: the best bound of each clause, [clauses]: positive ones are refuted.
      phase: what gave it last: "interval", "crown" or "alpha".
      row: which row of each clause is the best, [clauses].
      reduced: the network within the tightened bounds, None where nothing is open.
      programs: of its shape.
      region: its flat input.
      start: one sub-domain for each open clause.
      slopes: of the hidden bounds, for certificates: (reduced form, `va.Slopes`).
    """

    lower: np.ndarray
    phase: str
    row: np.ndarray
    reduced: Reduced | None = None
    programs: Programs | None = None
    region: Region | None = None
    start: Batch | None = None
    slopes: tuple[Reduced, va.Slopes] | None = None


class Root(NamedTuple):
    """What intervals and CROWN say of a region.

    Attributes:
      lower: the better bound of each clause, [clauses].
      phase: its method, "interval" or "crown".
      specs: rows of each clause, lowered for all that is computed on a reduced form.
      hidden: hidden bounds, None where intervals are enough.
      backward: CROWN's own bound of each clause, [clauses]: what the leaf of a
        certificate can say. -infinity where intervals are enough.
      lost: to underflow in the network; see `crown.lost_within`.
    """

    lower: np.ndarray
    phase: str
    specs: Sequence[Spec]
    hidden: Any = None
    backward: np.ndarray | float = -np.inf
    lost: Array | float = 0.0


class Rooter:
    """Bounds the clauses of a region of one network; compiles once."""

    def __init__(self, network: Network):
        self.network = network
        self.shapes: list[Shape] = []
        self.interval = jax.jit(
            functools.partial(crown.interval_bound, network, margin=True)
        )
        proof = crown.CrownConfig(margin=True)
        self.hidden = jax.jit(
            functools.partial(crown.hidden_bounds, network, config=proof)
        )
        self.bound = jax.jit(functools.partial(crown.spec_terms, network))

    @functools.cached_property
    def reducer(self) -> Reducer:
        """Makes reduced forms; only for ReLU networks."""
        return Reducer(self.network)

    def crown(
        self, weights: Weights, region: Region, specs: Sequence[Spec], config: Config
    ) -> "Root":
        """Returns bounds of each clause by intervals and by CROWN.

        Args:
          weights: of the network.
          region: of the network's input and type.
          specs: of each clause, all of one number of rows.
          config: of the search.

        Returns:
          Bounds, and rows for what comes after: a reduced form has constants in which
          large ones have cancelled, so its rows are lowered by what that may have cost.
        """
        spec, real = stacked(specs)
        lower = by_clause(self.interval(weights, region, spec), specs)
        enough = (lower > 0).all() and not config.certificate
        if enough or config.method == "interval":
            return Root(lower, "interval", specs)
        hidden = self.hidden(weights, region)
        passed = self.bound(weights, region, spec, hidden)
        found = by_clause(passed.least - passed.slack, specs)
        lost = share(passed.least.dtype) * np.asarray(passed.size)[:real]
        lowered = [
            s._replace(d=s.d - each)
            for s, each in zip(specs, np.split(lost, len(specs)), strict=True)
        ]
        best = np.maximum(lower, found)
        return Root(best, "crown", lowered, hidden, found, passed.lost)

    def reduced(
        self, weights: Weights, hidden: Any, lost: Array | float = 0.0
    ) -> tuple[Reduced, Programs]:
        """Returns the reduced form within hidden bounds, and its programs."""
        reduced = self.reducer(weights, hidden, None, lost)
        shape = self._shape(reduced)
        fits = [
            s for s in self.shapes if s.holds(shape) and s.macs() < 1.5 * shape.macs()
        ]
        if fits:
            best = min(fits, key=Shape.macs)
            if best != shape:
                reduced = self.reducer(weights, hidden, best.neurons, lost)
        else:
            self.shapes.append(shape)
        return reduced, programs(self._shape(reduced))

    def alpha(
        self,
        weights: Weights,
        region: Region,
        specs: Sequence[Spec],
        hidden: Any,
        form: tuple[Reduced, Programs],
        config: Config,
        deadline: float,
        progress: Callable[[str], None] | None = None,
        lower: np.ndarray | None = None,
    ) -> Rooted:
        """Returns alpha-CROWN's bounds, hidden ones optimised too, on a reduced form.

        Stops early where all clauses are refuted or the least bound stalls. Where the
        slopes would need too much memory it takes fewer, see `settings_of`.

        Args:
          weights: of the network.
          region: of the network's input and type.
          specs: of each clause.
          hidden: bounds that `form` was made within.
          form: as `reduced` gives it.
          config: of the search.
          deadline: of `time.monotonic`.
          progress: called with a line of text.
          lower: bounds of the clauses that are known, [clauses].

        Raises:
          InputError: the slopes of the clauses' own rows need too much memory.
        """
        reduced, program = form
        spec, _ = stacked(specs)
        flat = region.flat()
        rows = spec.C.shape[0]
        settings = settings_of(program.network, rows, config)
        params = jax.tree.map(jnp.asarray, reduced.params)
        bounds = tuple(Bounds(*map(jnp.asarray, b)) for b in reduced.hidden)
        slopes = program.start(params, flat, bounds, rows, settings)
        found = np.full(len(specs), -np.inf)
        known = found if lower is None else lower
        best, state = known, None
        for done in range(0, max(config.root_steps, 1), CHUNK):
            rate = config.learning_rate_root * config.decay**done
            steps = jnp.asarray(min(CHUNK, config.root_steps - done), jnp.int32)
            start = (slopes, jnp.asarray(rate, flat.lower.dtype), steps)
            state = program.root(params, flat, spec, bounds, start, settings)
            slopes, bounds = state.slopes, state.hidden
            before, found = found, by_clause(state.lower, specs)
            best = np.maximum(known, found)
            if progress is not None:
                progress(f"alpha-CROWN: lower bound {best.min():.4g}")
            late = time.monotonic() > deadline
            if (best > 0).all() or late or not _gains(before, found):
                break
        assert state is not None
        proof = (reduced, state.slopes)
        if (best > 0).all() or config.method == "alpha":
            row = _table(state.lower, specs).argmax(-1)
            return Rooted(best, "alpha", row, slopes=proof)
        return self._branchable(weights, hidden, reduced, state, best, specs, flat)

    def _branchable(self, weights, hidden, reduced, state, best, specs, flat) -> Rooted:
        """The network within the tightened bounds, and where a search starts."""
        m = specs[0].C.shape[0]
        tight = self._spread(hidden, reduced, state.hidden)
        smaller, program = self.reduced(weights, tight, reduced.params["lost"])
        open_clauses = np.flatnonzero(best <= 0)
        row = _table(state.lower, specs).argmax(-1)
        width = sum(smaller.sizes)
        alpha = np.zeros((len(open_clauses), width), flat.lower.dtype)
        at = 0
        for k, size in enumerate(smaller.sizes):
            slopes = np.asarray(state.slopes["output"][k])[:, 0]
            column = np.searchsorted(reduced.index[k], smaller.index[k])
            for i, clause in enumerate(open_clauses):
                own = slopes[clause * m + row[clause]]
                alpha[i, at : at + len(column)] = own[column]
            at += size
        weights_of = np.zeros((len(open_clauses), m), flat.lower.dtype)
        weights_of[np.arange(len(open_clauses)), row[open_clauses]] = 1
        start = Batch(
            best[open_clauses],
            open_clauses.astype(np.int32),
            np.zeros((len(open_clauses), width), np.int8),
            alpha,
            np.zeros_like(alpha),
            weights_of,
            open_clauses.astype(np.int64),
        )
        return Rooted(
            best,
            "alpha",
            row,
            smaller,
            program,
            flat,
            start,
            (reduced, state.slopes),
        )

    def _shape(self, reduced: Reduced) -> Shape:
        n_in = int(np.prod(self.network.input.shape))
        n_out = int(np.prod(self.network.output.shape))
        return Shape(n_in, reduced.sizes, n_out, str(self.network.input.dtype))

    def _spread(self, hidden: Any, reduced: Reduced, tight: Any) -> list[Bounds]:
        """Tightened bounds of the unstable neurons, in the place of the old ones.

        They are of the reduced form, so they give way by what its constants have lost.
        """
        place = {v: k for k, v in enumerate(self.reducer.layers)}
        found = []
        for value, bounds in zip(self.network.hidden, hidden, strict=True):
            lower = np.array(bounds.lower).reshape(-1)
            upper = np.array(bounds.upper).reshape(-1)
            k = place[value]
            index = reduced.index[k]
            lost = share(lower.dtype) * reduced.size[k]
            low, high = (np.asarray(end)[: len(index)] for end in tight[k])
            lower[index] = np.maximum(lower[index], low - lost)
            upper[index] = np.minimum(upper[index], high + lost)
            shape = bounds.lower.shape
            found.append(Bounds(lower.reshape(shape), upper.reshape(shape)))
        return found


def settings_of(network: Network, rows: int, config: Config) -> va.AlphaConfig:
    """Returns how alpha-CROWN fits into memory at a root.

    All rows go back at once where their slopes are few, which is fastest, else in
    chunks. Beyond `alpha.LIMIT` the rows of a hidden value share their slopes, unless
    a certificate is asked for, which needs those of the best bounds; or hidden bounds
    are not optimised.

    Args:
      network: of the reduced form.
      rows: of the specification.
      config: of the search.

    Raises:
      InputError: even so the slopes are beyond the limit.
    """
    whole = va.AlphaConfig(CHUNK, config.learning_rate_root, config.decay)
    shared = dataclasses.replace(whole, share=True)
    alone = dataclasses.replace(whole, hidden=False)
    ways = [whole, alone] if config.certificate else [whole, shared, alone]
    sizes = [va.bytes_of(network, rows, way) for way in ways]
    chosen = next((k for k, size in enumerate(sizes) if size <= va.LIMIT), -1)
    va.check_size(network, rows, ways[chosen])
    at_once = sizes[chosen] <= AT_ONCE and ways[chosen] is whole
    return dataclasses.replace(ways[chosen], chunk=0) if at_once else ways[chosen]


def stacked(specs: Sequence[Spec]) -> tuple[Spec, int]:
    """Returns the rows of all clauses, padded to one of `ROWS`, and the real number."""
    C = np.concatenate([np.asarray(s.C) for s in specs])
    d = np.concatenate([np.asarray(s.d) for s in specs])
    real = len(d)
    total = next((n for n in ROWS if n >= real), real)
    extra = total - real
    C = np.concatenate([C, np.repeat(C[-1:], extra, 0)])
    return Spec(jnp.asarray(C), jnp.asarray(np.pad(d, (0, extra), mode="edge"))), real


def by_clause(lower: Any, specs: Sequence[Spec]) -> np.ndarray:
    """Returns the best row of each clause, [clauses], from bounds of `stacked` rows."""
    return _table(lower, specs).max(-1)


def _table(lower: Any, specs: Sequence[Spec]) -> np.ndarray:
    """Bounds of stacked rows as [clauses, rows]; what is not a number is -infinity."""
    count, m = len(specs), specs[0].C.shape[0]
    flat = np.asarray(lower)[: count * m].reshape(count, m)
    return np.nan_to_num(flat, nan=-np.inf)


def _gains(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether the least bound still rises by a percent."""
    least = before.min()
    return bool(not np.isfinite(least) or after.min() > least + 0.01 * abs(least))
