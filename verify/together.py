"""Branch and bound over ReLU splits of several reduced networks at once.

The networks have one padded shape: instances of one network with regions of their own,
or parts of one input box. Their open sub-domains are in one pool, so the worst ones of
all fill every batch. A batch is lanes by parents: a lane holds sub-domains of one
network, whose weights it gathers.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.types import Array, PyTree
from verify.pool import Batch, Pool
from verify.problem import Config
from verify.programs import Programs, round_config
from verify.properties import Spec
from verify.reduce import Reduced
from verify.regions import Region
from verify.relaxing import Hidden

IN_CACHE = 1 << 18
"""Bytes of weights up to which a lane holds one parent: sharing them gains nothing."""


class Forms(NamedTuple):
    """N reduced networks of one shape; every leaf has a leading axis of N.

    Attributes:
      params: as `Reduced.params`.
      region: of the flat input, all of one kind.
      hidden: bounds of each layer.
      bias: as `Reduced.bias`.
    """

    params: PyTree
    region: Region
    hidden: Hidden
    bias: tuple[Any, ...]


def stacked(items: Sequence[tuple[Reduced, Region]]) -> Forms:
    """Returns reduced networks of one shape, with their regions, as `Forms`."""
    parts = [Forms(r.params, b.flat(), r.hidden, r.bias) for r, b in items]
    return jax.tree.map(lambda *a: np.stack([np.asarray(x) for x in a]), *parts)


@dataclasses.dataclass
class Outcome:
    """How a search over N networks ended.

    Attributes:
      open: sub-domains left of each network, [N]; 0 where every clause is refuted.
      lower: the least bound of what is open of each, [N]; infinity where nothing is.
      domains: sub-domains bounded of each, [N].
      rounds: programs run.
      points: suspected counterexamples that were confirmed, by network.
      stuck: networks with a leaf that nothing decides.
      full: whether it ended because more sub-domains were open than allowed.
    """

    open: np.ndarray
    lower: np.ndarray
    domains: np.ndarray
    rounds: int = 0
    points: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    stuck: set[int] = dataclasses.field(default_factory=set)
    full: bool = False


LeafSolver = Callable[[int, np.ndarray, np.ndarray], tuple[str, np.ndarray | None]]
"""As `bab.LeafSolver`, for a clause numbered over all networks."""


def search(
    programs: Programs,
    forms: Forms,
    owner: np.ndarray,
    specs: Sequence[Spec],
    start: Batch,
    config: Config,
    deadline: float,
    *,
    is_unsafe: Callable[[int, np.ndarray], bool],
    solve_leaf: LeafSolver | None = None,
    max_rounds: int = 1 << 30,
    progress: Callable[[str], None] | None = None,
) -> Outcome:
    """Splits neurons until every clause of every network is refuted.

    Args:
      programs: of the networks' shape.
      forms: the networks.
      owner: which network each clause is of, [G].
      specs: rows of each clause, padded to one number, G of them.
      start: one sub-domain for each open clause.
      config: of the search.
      deadline: of `time.monotonic`.
      is_unsafe: the judge of suspected counterexamples: a network and a flat input.
      solve_leaf: what to do where no neuron is left to split; without, the network
        is stuck.
      max_rounds: after which what is open is left so.
      progress: called with a line of text after every round.
    """
    sizes = [layer["bias"].shape[-1] for layer in forms.params["layers"]]
    count = len(forms.region.lower)
    rows = np.stack([s.C for s in specs]), np.stack([s.d for s in specs])
    pool = Pool(sum(sizes), specs[0].C.shape[0], config.max_domains)
    pool.add(start)
    forms = jax.tree.map(jnp.asarray, forms)
    settings = dataclasses.replace(round_config(config), levels=1)
    found = Outcome(np.zeros(count, int), np.full(count, np.inf), np.zeros(count, int))
    alive = np.ones(count, bool)
    while len(pool) and found.rounds < max_rounds and not pool.full:
        if time.monotonic() > deadline:
            break
        shape = _lanes(forms, len(pool), config)
        parents = pool.take(shape[0] * shape[1])
        slots, rest = assign(owner[parents.clause], parents.lower, *shape)
        if len(rest):
            pool.add(Batch(*(a[rest] for a in parents)))
        used = slots[slots >= 0]
        result, margins = _round(
            programs, forms, parents, slots, owner, rows, sizes, settings
        )
        found.rounds += 1
        np.add.at(found.domains, owner[parents.clause[used]], 2)
        for item, point in _suspects(result, margins, slots, parents, owner):
            if alive[item] and is_unsafe(item, point):
                found.points[item] = point
                alive[item] = False
        neuron = np.asarray(result.neuron)[..., 0][slots >= 0]
        for k in used[neuron < 0]:
            clause = int(parents.clause[k])
            said, point = ("open", None)
            if solve_leaf is not None and alive[owner[clause]]:
                said, point = solve_leaf(clause, parents.splits[k], parents.weights[k])
            if said == "point" and point is not None:
                found.points[int(owner[clause])] = point
            if said == "open":
                found.stuck.add(int(owner[clause]))
            if said in ("point", "open"):
                alive[owner[clause]] = False
        pool.add(_children(result, slots, parents))
        pool.keep(alive[owner[pool.clauses]])
        if progress is not None:
            left = len(np.unique(owner[pool.clauses]))
            progress(f"{found.domains.sum()} sub-domains, {left} networks open")
    found.full = pool.full
    np.add.at(found.open, owner[pool.clauses], 1)
    np.minimum.at(found.lower, owner[pool.clauses], pool.bounds)
    found.open[list(found.stuck)] += 1
    found.lower[list(found.stuck)] = -np.inf
    return found


def _lanes(forms: Forms, alive: int, config: Config) -> tuple[int, int]:
    """Lanes and parents in each: few where few sub-domains are open."""
    weights = sum(a[0].nbytes for a in jax.tree.leaves(forms.params))
    parents = 1 if weights <= IN_CACHE else min(8, config.batch)
    most = max(config.batch // (2 * parents), 1)
    few = max(most // 8, 1)
    return (few if alive <= few * parents else most), parents


def assign(
    item: np.ndarray, lower: np.ndarray, lanes: int, parents: int
) -> tuple[np.ndarray, np.ndarray]:
    """Places sub-domains in lanes, each of one network, the worst ones first.

    Args:
      item: the network of each sub-domain, [P].
      lower: their bounds, [P].
      lanes: how many there are.
      parents: places in a lane.

    Returns:
      Positions of sub-domains [lanes, parents], -1 for an empty place, and those that
      found none.
    """
    order = np.lexsort((lower, item))
    first = np.r_[True, item[order][1:] != item[order][:-1]]
    begin = np.flatnonzero(first)[np.cumsum(first) - 1]
    rank = np.arange(len(order)) - begin
    opens = rank % parents == 0
    lane = np.cumsum(opens) - 1
    worst = np.argsort(lower[order][opens], kind="stable")  # lanes by their worst
    place = np.empty_like(worst)
    place[worst] = np.arange(len(worst))
    lane = place[lane]
    slots = np.full((lanes, parents), -1)
    fits = lane < lanes
    slots[lane[fits], rank[fits] % parents] = order[fits]
    return slots, order[~fits]


def _round(programs, forms, parents, slots, owner, rows, sizes, settings):
    """Runs one round on lanes; empty places repeat a sub-domain that is there."""
    lane_first = np.where(slots[:, :1] >= 0, slots[:, :1], slots[0, 0])
    filled = np.where(slots >= 0, slots, lane_first)
    placed = Batch(*(a[filled] for a in parents))
    item = jnp.asarray(owner[placed.clause[:, 0]])
    lower = placed.lower.astype(rows[0].dtype)
    found, margins = programs.rounds(
        _gathered(forms, item), placed.domains(rows, sizes), lower, settings
    )
    return jax.tree.map(np.asarray, found), np.asarray(margins)


@jax.jit
def _gathered(forms: Forms, item: Array) -> Forms:
    """The networks of lanes; apart, so that rounds do not compile for each N."""
    return jax.tree.map(lambda a: a[item], forms)


def _suspects(result, margins, slots, parents, owner):
    """Minimisers of linear bounds that their networks find unsafe, the worst first."""
    low = np.where((slots >= 0)[..., None], margins, np.inf)
    for at in np.argsort(low, axis=None):
        k = np.unravel_index(at, low.shape)
        if not low[k] <= 0:
            return
        yield int(owner[parents.clause[slots[k[:2]]]]), result.point[k]


def _children(result, slots, parents: Batch) -> Batch:
    """The children that are open."""
    there = slots >= 0
    lower = result.lower  # [lanes, parents, children]
    live = there[..., None] & (result.neuron[..., :1] >= 0) & ~(lower > 0)
    lanes, _, children = lower.shape
    at = np.nonzero(live.reshape(lanes, -1))

    def flat(layers: Sequence[Array]) -> np.ndarray:
        return np.concatenate([np.asarray(a)[at] for a in layers], -1)

    own = slots[at[0], at[1] // children]
    return Batch(
        lower.reshape(lanes, -1)[at],
        parents.clause[own],
        flat(result.domains.splits),
        flat(result.domains.alpha),
        flat(result.domains.beta),
        np.asarray(result.domains.weights)[at],
        parents.node[own],
    )
