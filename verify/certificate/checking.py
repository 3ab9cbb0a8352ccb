"""Whether a certificate proves its property."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from core.errors import describe
from verify.certificate import balls, passes
from verify.certificate.balls import Ball
from verify.certificate.format import Certificate, RootLayer, regions
from verify.certificate.operators import size
from verify.certificate.passes import Domain, Lines, State
from verify.certificate.plan import Plan, read
from verify.certificate.validate import Pieces, Rejected, validate
from verify.problem import Problem
from verify.regions import Region

BOXES = 256
"""Boxes of an input-split certificate that are bounded at once."""


@dataclasses.dataclass(frozen=True)
class Check:
    """What the checker found.

    Attributes:
      ok: whether the certificate proves that the property holds.
      why: where it does not, the reason; '' otherwise.
      leaves: of the certificate.
      least_margin: the least bound of a leaf's weighted rows; NaN if none was reached.
      seconds: wall time.
    """

    ok: bool
    why: str
    leaves: int
    least_margin: float
    seconds: float


def check(problem: Problem, certificate: Certificate) -> Check:
    """Decides whether a certificate proves that a property holds.

    The network is read as operators from the function's trace, expanded as the
    verifier does (`graph.trace`, `verify.expansions`); every number is computed anew
    here, in numpy float64, with all rounding errors bounded outward. The proof is of
    the function in real arithmetic, with the parameters, the constants of its expanded
    trace and the region as exact numbers.

    Args:
      problem: the network and the property.
      certificate: any, also one that was tampered with.

    Returns:
      Whether it holds, or why not.

    Raises:
      GraphError: a network with an operator that the checker does not compute.
      ShapeError: a property of other shapes than the network.
    """
    start, least = time.perf_counter(), [np.nan]
    why = ""
    plan = read(problem)
    problem.property.check_network(plan.input.shape, size(plan.output))
    try:
        pieces = validate(problem, certificate, plan)
        least = [np.inf]
        with np.errstate(all="ignore"):  # what is not finite is rejected
            _check_bounds(problem, certificate, plan, pieces, least)
    except Rejected as error:
        why = str(error)
    seconds = time.perf_counter() - start
    return Check(not why, why, len(certificate.leaves), min(least), seconds)


def _check_bounds(problem, certificate, plan, pieces: Pieces, least: list) -> None:
    distinct, which = regions(problem.property)
    of_leaf = np.asarray(which, np.int64)[pieces.clause]
    for at, region in enumerate(distinct):
        ids = np.flatnonzero(of_leaf == at)
        tasks = _tasks(problem, pieces, ids)
        if certificate.kind == "relu":
            roots = certificate.roots[at] if certificate.roots else ()
            each = _leaf_bounds(problem, plan, pieces, tasks, region, roots)
        else:
            each = _box_bounds(problem, plan, pieces, tasks, region)
        bounds = np.full(len(ids), -np.inf)
        np.maximum.at(bounds, np.searchsorted(ids, tasks.leaf), each)
        least += [float(bounds.min(initial=np.inf))]
        wrong = np.flatnonzero(~(bounds > 0))  # NaN is wrong too
        if wrong.size:
            first = int(wrong[0])
            raise Rejected(
                f"leaf {ids[first]} of clause {pieces.clause[ids[first]]}: "
                + describe(f"a bound of {bounds[first]:.6g}", "a positive one")
                + (f" ({wrong.size} such leaves)" if wrong.size > 1 else "")
            )


def domain(region: Region) -> Domain:
    """Returns a region as a domain of one box."""
    low, high = (
        np.asarray(a, np.float64).reshape(1, -1) for a in (region.lower, region.upper)
    )
    if region.radius is None or region.norm == "linf":
        return Domain(low, high)
    center = np.asarray(region.center, np.float64).ravel()
    return Domain(low, high, center, float(region.radius), region.norm)


class Tasks(NamedTuple):
    """Rows to be bounded: one for each leaf, or each row of its clause.

    Attributes:
      leaf: positions of the leaves, [T], in ascending order.
      weights: of the rows of its clause, for each task.
    """

    leaf: np.ndarray
    weights: list[np.ndarray]


def _tasks(problem: Problem, pieces: Pieces, ids: np.ndarray) -> Tasks:
    leaf, weights = [], []
    for i in ids:
        own = pieces.weights[i]
        count = len(problem.property.clauses[pieces.clause[i]].spec.d)
        for each in np.eye(count) if own is None else (own,):
            leaf.append(i)
            weights.append(each)
    return Tasks(np.asarray(leaf, np.int64), weights)


def _rows(problem: Problem, pieces: Pieces, tasks: Tasks) -> tuple[Ball, Ball]:
    """The weighted rows of tasks, [T, n_out], and their constants [T]."""
    clauses, count = problem.property.clauses, len(tasks.leaf)
    rows = Ball(*np.zeros((2, count, problem.property.output_size)))
    const = Ball(*np.zeros((2, count)))
    of_task = pieces.clause[tasks.leaf]
    for clause in np.unique(of_task):
        own = np.flatnonzero(of_task == clause)
        weights = balls.exact(np.stack([tasks.weights[i] for i in own]))
        C, d = (balls.exact(a) for a in clauses[clause].spec)
        rows.mid[own], rows.rad[own] = balls.matmul(weights, C)
        const.mid[own], const.rad[own] = balls.matmul(weights, d)
    return rows, const


def _margins(
    plan: Plan,
    state: State,
    rows: Ball,
    const: Ball,
    choose: passes.Choose,
    chunk: slice,
    box: Domain,
) -> np.ndarray:
    """Lower bounds of some rows of the output."""
    found, offset = passes.pull(
        plan, state, plan.output, rows.mid[chunk], choose, chunk, plan.steps
    )
    # What the rows themselves are off by, times the size of the outputs.
    lost = rows.rad[chunk] @ state.sizes[plan.output][0]
    lost = balls.grow(lost, rows.mid.shape[1] + 2)
    offset = balls.add(offset, Ball(const.mid[chunk], const.rad[chunk] + lost))
    return passes.least(found, offset, box)


def _finite(lower: np.ndarray, upper: np.ndarray, layer: int) -> None:
    if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
        raise Rejected(f"bounds of layer {layer} that are not finite")


# Certificates of ReLU splits.


def _leaf_bounds(
    problem: Problem,
    plan: Plan,
    pieces: Pieces,
    tasks: Tasks,
    region: Region,
    roots: Sequence[RootLayer],
) -> np.ndarray:
    box, ids = domain(region), tasks.leaf
    state = passes.forward(plan, box, _root_tightening(plan, box, roots))
    rows, const = _rows(problem, pieces, tasks)
    bounds = np.zeros(len(ids))
    for chunk in passes.chunks(plan, len(ids)):
        own = [
            _split_lines(lines, k, pieces, ids[chunk])
            for k, lines in enumerate(state.lines)
        ]
        bounds[chunk] = _margins(
            plan, state, rows, const, lambda k, _, own=own: own[k], chunk, box
        )
    return bounds


def _split_lines(
    lines: Lines, layer: int, pieces: Pieces, ids: np.ndarray
) -> tuple[Lines, np.ndarray | None]:
    """The lines of a layer within leaves, and what their betas subtract."""
    splits = [
        (row, what[1], side, beta)
        for row, i in enumerate(ids)
        for (what, side), beta in zip(pieces.paths[i], pieces.beta[i], strict=True)
        if what[0] == layer
    ]
    sloped = any(pieces.slopes[i][layer][0].size for i in ids)
    if not splits and not sloped:
        return lines, None
    low, high, intercept, unstable = (np.repeat(a, len(ids), axis=0) for a in lines)
    for row, i in enumerate(ids):
        at, values = pieces.slopes[i][layer]
        low[row, at] = np.where(unstable[row, at], values, low[row, at])
    if not splits:
        return Lines(low, high, intercept, unstable), None
    row, neuron = (np.asarray([s[k] for s in splits]) for k in (0, 1))
    side = np.asarray([s[2] for s in splits], np.float64)
    beta = np.asarray([s[3] for s in splits])
    low[row, neuron] = high[row, neuron] = side > 0
    intercept[row, neuron] = 0.0
    betas = np.zeros_like(low)
    np.add.at(betas, (row, neuron), beta * side)
    return Lines(low, high, intercept, unstable), betas


def _root_tightening(
    plan: Plan, box: Domain, roots: Sequence[RootLayer]
) -> passes.Tighten:
    """Backward bounds of the neurons that root layers list."""

    def tighten(layer: int, low, high, state: State) -> None:
        value = plan.layers[layer]
        steps = plan.before(value)
        for root in roots:
            if root.layer != layer:
                continue
            neurons = np.asarray(root.neurons, np.int64)
            for chunk in passes.chunks(plan, len(neurons)):
                part = neurons[chunk]
                for sign, slopes in ((1.0, root.lower), (-1.0, root.upper)):
                    rows = passes.units(value, part, np.full(len(part), sign))
                    choose = _with_slopes(root, slopes, state.lines)
                    found = passes.pull(plan, state, value, rows, choose, chunk, steps)
                    bound = passes.least(*found, box)
                    if sign > 0:
                        low[0, part] = np.maximum(low[0, part], bound)
                    else:
                        high[0, part] = np.minimum(high[0, part], -bound)
        _finite(low, high, layer)

    return tighten


def _with_slopes(
    root: RootLayer, slopes: Sequence[np.ndarray], before: Sequence[Lines]
) -> passes.Choose:
    def choose(layer: int, rows: slice) -> tuple[Lines, None]:
        lines = before[layer]
        columns = np.asarray(root.columns[layer], np.int64)
        if not columns.size:
            return lines, None
        given = np.asarray(slopes[layer], np.float64)
        given = given if given.shape[0] == 1 else given[rows]
        low = np.repeat(lines.low, given.shape[0], axis=0)
        low[:, columns] = np.where(lines.unstable[:, columns], given, low[:, columns])
        return lines._replace(low=low), None

    return choose


# Certificates of input splits.


def _box_bounds(
    problem: Problem, plan: Plan, pieces: Pieces, tasks: Tasks, region: Region
) -> np.ndarray:
    whole, ids = domain(region), tasks.leaf
    lower, upper = _boxes(whole, [pieces.paths[i] for i in ids])
    both, box_of = np.unique(
        np.concatenate([lower, upper], 1), axis=0, return_inverse=True
    )
    box_of = box_of.ravel()
    n = lower.shape[1]
    rows, const = _rows(problem, pieces, tasks)
    bounds = np.full(len(ids), np.inf)
    for start in range(0, len(both), BOXES):
        part = both[start : start + BOXES]
        box = whole._replace(lower=part[:, :n], upper=part[:, n:])
        state = passes.forward(plan, box, _box_tightening(plan, box))
        mine = np.flatnonzero((box_of >= start) & (box_of < start + len(part)))
        owner = box_of[mine] - start
        own = Ball(rows.mid[mine], rows.rad[mine])
        own_const = Ball(const.mid[mine], const.rad[mine])
        for chunk in passes.chunks(plan, len(mine)):
            leaves = ids[mine[chunk]]
            slopes = [pieces.slopes[i] for i in leaves]
            choose = _owned(state.lines, owner[chunk], slopes)
            boxes = _of(box, owner[chunk])
            bounds[mine[chunk]] = _margins(
                plan, state, own, own_const, choose, chunk, boxes
            )
    # A box with no point in it needs no proof.
    return np.where((lower > upper).any(1), np.inf, bounds)


def _boxes(whole: Domain, paths: list) -> tuple[np.ndarray, np.ndarray]:
    lower = np.repeat(whole.lower, len(paths), axis=0)
    upper = np.repeat(whole.upper, len(paths), axis=0)
    for row, path in enumerate(paths):
        for (dimension, threshold), side in path:
            if side > 0:
                lower[row, dimension] = max(lower[row, dimension], threshold)
            else:
                upper[row, dimension] = min(upper[row, dimension], threshold)
    return lower, upper


def _of(box: Domain, owner: np.ndarray) -> Domain:
    return box._replace(lower=box.lower[owner], upper=box.upper[owner])


def _owned(
    every: Sequence[Lines], owner: np.ndarray, slopes: Sequence[Any] = ()
) -> passes.Choose:
    """The lines of the box that each row belongs to, with lower slopes of its own."""

    def choose(layer: int, _: slice) -> tuple[Lines, None]:
        low, high, intercept, unstable = every[layer]
        low = low[owner]
        for row, own in enumerate(slopes):
            if own:
                at, values = own[layer]
                low[row, at] = np.where(unstable[owner[row], at], values, low[row, at])
        return Lines(low, high[owner], intercept[owner], unstable), None

    return choose


def _box_tightening(plan: Plan, box: Domain) -> passes.Tighten:
    """Backward bounds of all neurons, as the search takes them.

    Those of stable ones serve the intervals of the layers after them.
    """

    def tighten(layer: int, low, high, state: State) -> None:
        value = plan.layers[layer]
        if box.center is not None or not plan.is_exact(value):
            steps = plan.before(value)
            owners, neurons = np.nonzero(np.ones(low.shape, bool))
            for chunk in passes.chunks(plan, len(owners)):
                owner, neuron = owners[chunk], neurons[chunk]
                signs = np.repeat([1.0, -1.0], len(owner))
                rows = passes.units(value, np.tile(neuron, 2), signs)
                both = np.tile(owner, 2)
                choose = _owned(state.lines, both)
                found = passes.pull(plan, state, value, rows, choose, chunk, steps)
                below, above = np.split(passes.least(*found, _of(box, both)), 2)
                low[owner, neuron] = np.maximum(low[owner, neuron], below)
                high[owner, neuron] = np.minimum(high[owner, neuron], -above)
        _finite(low, high, layer)

    return tighten
