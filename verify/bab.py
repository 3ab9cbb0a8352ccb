"""Branch and bound over ReLU splits: the host's part of a search."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core.types import Array
from verify.kept import Kept
from verify.pool import Batch, Pool
from verify.problem import Config
from verify.programs import Programs, RoundConfig, round_config
from verify.properties import Spec
from verify.reduce import Reduced
from verify.regions import Region

SIZES = (4, 32, 128, 512, 2048)
"""Parents in a round: the least of these that holds the open ones, up to the limit."""


STUCK = (16, 64, 256, 1024)
"""Rounds after which a search that is still open is attacked again."""


@dataclasses.dataclass
class Tree:
    """All splits that were made: of each node its parent, neuron and sign.

    Node c < number of clauses is the root of clause c. Leaves that are proven are kept
    as (node, clause, multipliers or None); multipliers are alpha [n], beta of the
    neurons split, in their order among all, and the weights of the rows. Without
    `Config.certificate` it stays empty.
    """

    parent: list[int]
    neuron: list[int]
    sign: list[int]
    kept: Kept = dataclasses.field(default_factory=Kept)

    def path(self, node: int) -> list[tuple[int, int]]:
        """Returns the neurons and signs from the root to a node."""
        found = []
        while self.parent[node] >= 0:
            found.append((self.neuron[node], self.sign[node]))
            node = self.parent[node]
        return found[::-1]


@dataclasses.dataclass
class Branched:
    """How a search over splits ended.

    Attributes:
      status: "unsat", "timeout", "unknown", or "point" for a suspected counterexample.
      lower: the least bound of what is open; positive if nothing is.
      domains: sub-domains bounded.
      rounds: programs run.
      why: for "unknown", the reason.
      point: flat input of a suspected counterexample.
      tree: the splits.
    """

    status: str
    lower: float
    domains: int
    rounds: int
    why: str = ""
    point: np.ndarray | None = None
    tree: Tree | None = None


LeafSolver = Callable[[int, np.ndarray, np.ndarray], tuple[str, np.ndarray | None]]
"""From a clause, splits and weights to ("empty" | "safe" | "point" | "open", x)."""


def search(
    programs: Programs,
    reduced: Reduced,
    region: Region,
    specs: Sequence[Spec],
    start: Batch,
    config: Config,
    deadline: float,
    *,
    is_unsafe: Callable[[np.ndarray], bool],
    solve_leaf: LeafSolver,
    attack: Callable[[int], np.ndarray | None] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Branched:
    """Splits neurons until every clause is refuted.

    Args:
      programs: of the reduced network's shape.
      reduced: the network within the root's bounds.
      region: its flat input.
      specs: rows of each clause, padded to one number m.
      start: one sub-domain for each open clause.
      config: of the search.
      deadline: of `time.monotonic`.
      is_unsafe: the judge of suspected counterexamples, given flat inputs.
      solve_leaf: what to do where no neuron is left to split.
      attack: looks for a counterexample anew, with a number to draw from; called in
        the rounds of `STUCK`.
      progress: called with a line of text after every round.
    """
    sizes = reduced.sizes
    n = sum(sizes)
    m = specs[0].C.shape[0]
    pool = Pool(n, m, config.max_domains)
    pool.add(start)
    count = len(specs)
    tree = Tree([-1] * count, [-1] * count, [0] * count)
    rows = np.stack([s.C for s in specs]), np.stack([s.d for s in specs])
    fixed = (
        reduced.params,
        region,
        tuple(type(b)(*map(jnp.asarray, b)) for b in reduced.hidden),
        tuple(jnp.asarray(b) for b in reduced.bias),
    )
    domains = rounds = 0
    while len(pool):
        if time.monotonic() > deadline:
            return Branched("timeout", pool.lowest, domains, rounds, tree=tree)
        if pool.full:
            why = f"{len(pool)} open sub-domains, over max_domains"
            return Branched("unknown", pool.lowest, domains, rounds, why, tree=tree)
        levels = _levels(len(pool), config)
        settings = round_config(config, levels)
        left = deadline - time.monotonic()
        size = _size(programs, len(pool), config, settings, left)
        if size == 0:
            why = "no time is left to compile a program"
            return Branched("timeout", pool.lowest, domains, rounds, why, tree=tree)
        parents = pool.take(size)
        alive = len(parents.lower)
        padded = _pad(parents, size)
        began, ready = time.monotonic(), programs.is_ready(size, settings)
        found, margins = programs.round(
            *fixed,
            spread(padded.domains(rows, sizes), size),
            spread(padded.lower.astype(rows[0].dtype), size),
            settings,
        )
        if not ready:
            programs.slowest[0] = max(programs.slowest[0], time.monotonic() - began)
        rounds += 1
        domains += 2**levels * alive
        point = _suspect(found.point, margins, alive, is_unsafe)
        if point is not None:
            return Branched("point", pool.lowest, domains, rounds, "", point, tree)
        if rounds in STUCK and attack is not None:
            point = attack(rounds)
            if point is not None:
                return Branched("point", pool.lowest, domains, rounds, "", point, tree)
        neuron = np.asarray(found.neuron)[:alive, 0]
        for k in np.flatnonzero(neuron < 0):
            clause = int(parents.clause[k])
            said, point = solve_leaf(clause, parents.splits[k], parents.weights[k])
            if said == "point":
                return Branched("point", pool.lowest, domains, rounds, "", point, tree)
            if said == "open":
                why = "a sub-domain without anything left to split is open"
                low = float(parents.lower[k])
                return Branched("unknown", low, domains, rounds, why, tree=tree)
            if config.certificate:
                leaf = int(parents.node[k]), clause, None
                tree.kept.add(leaf, steps=int((parents.splits[k] != 0).sum()))
        _collect(pool, tree, parents, found, alive, config)
        if progress is not None:
            low = min(pool.lowest, 0.0) if len(pool) else 0.0
            progress(f"{domains} sub-domains, {len(pool)} open, lower bound {low:.4g}")
    return Branched("unsat", 0.0, domains, rounds, tree=tree)


def _levels(alive: int, config: Config) -> int:
    """How many neurons to split at once: more while the open ones leave room."""
    levels = 1
    while levels < config.levels and alive * 2 ** (levels + 1) <= config.batch:
        levels += 1
    return levels


def _size(
    programs: Programs, alive: int, config: Config, settings: RoundConfig, left: float
) -> int:
    """The number of parents of the next round, 0 if no program is in time.

    With little time left a program that is compiled already is taken, so that the
    verdict is not late by a compilation.
    """
    limit = max(config.batch // 2**settings.levels, 1)
    sizes = [size for size in SIZES if size < limit] + [limit]
    best = next((size for size in sizes if size >= alive), limit)
    if programs.is_ready(best, settings) or left > 1.5 * programs.slowest[0]:
        return best
    ready = [size for size in sizes if programs.is_ready(size, settings)]
    return max(ready, default=0)


def _pad(batch: Batch, size: int) -> Batch:
    """Repeats the first sub-domain up to a fixed size."""
    extra = size - len(batch.lower)
    return Batch(*(np.concatenate([a, np.repeat(a[:1], extra, 0)]) for a in batch))


def spread(tree: Any, count: int) -> Any:
    """Puts arrays with a leading axis of `count` on all devices of this process.

    Each gets an equal part where `count` allows it; else all stays on one.
    """
    devices = jax.local_devices()
    if len(devices) == 1 or count % len(devices):
        return jax.tree.map(jnp.asarray, tree)
    mesh = jax.sharding.Mesh(np.asarray(devices), ("domains",))
    parts = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("domains"))
    return jax.device_put(tree, parts)


def _suspect(
    points: Array,
    margins: Array,
    alive: int,
    is_unsafe: Callable[[np.ndarray], bool],
) -> np.ndarray | None:
    """A minimiser of a linear bound that the network itself finds unsafe."""
    low = np.asarray(margins)[:alive]
    if not (low <= 0).any():
        return None
    k = np.unravel_index(np.argmin(low), low.shape)
    point = np.asarray(points[k])
    return point if is_unsafe(point) else None


def _collect(
    pool: Pool, tree: Tree, parents: Batch, found: Any, alive: int, config: Config
) -> None:
    """Adds the open children to the pool, and all to the tree of a certificate."""
    lower = np.asarray(found.lower)[:alive]
    neuron = np.asarray(found.neuron)[:alive]  # [P, levels]
    sign = np.asarray(found.sign)  # [children, levels]
    count = lower.shape[1]
    flat = lower.reshape(-1)
    # Where a parent had fewer neurons to split, its children come in equal pairs.
    there = (neuron >= 0)[:, None] | (sign > 0)[None]
    live = (there.all(-1) & (neuron[:, :1] >= 0)).reshape(-1)
    ids = np.zeros(len(live), np.int64)
    recorded = config.certificate and not tree.kept.full
    if recorded:  # else no one asks for the way to a node
        ids = _grow(tree, parents.node, neuron, sign, live)
    kept = {
        name: np.concatenate([np.asarray(a) for a in getattr(found.domains, name)], 1)
        for name in ("splits", "alpha", "beta")
    }
    weights = np.asarray(found.domains.weights)
    clause = np.repeat(parents.clause, count)
    proven = live & (flat > 0)
    if recorded:
        for k in np.flatnonzero(proven):  # copies: a view would hold the whole round
            beta = kept["beta"][k][kept["splits"][k] != 0]
            dual = (kept["alpha"][k].copy(), beta, weights[k].copy())
            leaf = int(ids[k]), int(clause[k]), dual
            tree.kept.add(leaf, *dual, steps=len(beta))
    still = np.flatnonzero(live & ~proven)
    pool.add(
        Batch(
            flat[still],
            clause[still],
            kept["splits"][still],
            kept["alpha"][still],
            kept["beta"][still],
            weights[still],
            ids[still],
        )
    )


def _grow(
    tree: Tree,
    parent: np.ndarray,
    neuron: np.ndarray,
    sign: np.ndarray,
    live: np.ndarray,
) -> np.ndarray:
    """Adds the way to every live child to the tree; returns its last node.

    Children of one parent have their own copies of what is between.
    """
    count, levels = sign.shape
    at = np.repeat(parent[: len(neuron)], count)
    for level in range(levels):
        split = np.repeat(neuron[:, level], count)
        new = live & (split >= 0)
        first = len(tree.parent)
        tree.parent += at[new].tolist()
        tree.neuron += split[new].tolist()
        tree.sign += np.tile(sign[:, level], len(neuron))[new].tolist()
        at[new] = first + np.arange(int(new.sum()))
    return at
