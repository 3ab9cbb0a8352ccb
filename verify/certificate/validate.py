"""What a certificate must look like before its numbers are looked at."""

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from core.errors import LatheError, describe
from verify.certificate.format import (
    VERSION,
    BoxLeaf,
    Certificate,
    Leaf,
    RootLayer,
    digest,
    regions,
)
from verify.certificate.plan import Plan
from verify.problem import Problem

KINDS = {"relu": Leaf, "input": BoxLeaf}


class Rejected(LatheError):
    """A certificate that proves nothing; says why."""


Cut = tuple[tuple[Any, ...], int]
"""What is split, and the side of it."""


class Pieces(NamedTuple):
    """The leaves of a certificate, checked and in float64.

    Attributes:
      clause: of each leaf, [L].
      paths: the cuts of each leaf.
      beta: of each leaf, [len(path)]; empty for boxes.
      slopes: of each leaf and layer, (ids, values); a box may have none.
      weights: of each leaf, [rows of its clause], or None to try each row alone.
    """

    clause: np.ndarray
    paths: list[list[Cut]]
    beta: list[np.ndarray]
    slopes: list[list[tuple[np.ndarray, np.ndarray]]]
    weights: list[np.ndarray | None]


def validate(problem: Problem, certificate: Certificate, plan: Plan) -> Pieces:
    """Returns the leaves of a certificate that is well formed and complete.

    Raises:
      Rejected: it is for another problem, out of a valid set, or does not cover all.
    """
    if certificate.version != VERSION:
        raise Rejected(describe(f"version {certificate.version}", f"{VERSION}"))
    if certificate.kind not in KINDS:
        raise Rejected(describe(f"kind {certificate.kind!r}", f"one of {set(KINDS)}"))
    if certificate.digest != digest(problem):
        raise Rejected("digest: the certificate is of other parameters or properties")
    try:
        pieces = _pieces(problem, certificate, plan)
        _check_roots(problem, certificate.roots, plan)
    except (TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        if isinstance(error, LatheError):
            raise
        raise Rejected(f"malformed: {error}") from error
    for clause in range(len(problem.property.clauses)):
        own = [pieces.paths[i] for i in np.flatnonzero(pieces.clause == clause)]
        why = uncovered(own)
        if why:
            raise Rejected(f"clause {clause}: {why}")
    return pieces


def uncovered(paths: Sequence[Sequence[Cut]]) -> str | None:
    """Returns why paths do not form a complete binary tree, None if they do.

    Every inner node must cut one thing and have both of its sides, so that what the
    leaves stand for covers what the root stands for. A leaf below another leaf does
    no harm.
    """
    if not paths:
        return "no leaf"
    open_nodes = [(list(range(len(paths))), 0)]
    while open_nodes:
        ids, depth = open_nodes.pop()
        if any(len(paths[i]) == depth for i in ids):
            continue
        what, sides = paths[ids[0]][depth][0], {1: [], -1: []}
        for i in ids:
            found, side = paths[i][depth]
            if found != what:
                return f"leaves at depth {depth} split both {what} and {found}"
            sides[side].append(i)
        for side, own in sides.items():
            if not own:
                return f"no leaf on side {side} of {what} at depth {depth}"
            open_nodes.append((own, depth + 1))
    return None


def _pieces(problem: Problem, certificate: Certificate, plan: Plan) -> Pieces:
    clauses = problem.property.clauses
    pieces = Pieces(np.zeros(len(certificate.leaves), np.int64), [], [], [], [])
    for i, leaf in enumerate(certificate.leaves):
        where = f"leaf {i}"
        if not isinstance(leaf, KINDS[certificate.kind]):
            raise Rejected(f"{where}: not of kind {certificate.kind!r}")
        clause = operator.index(leaf.clause)
        if not 0 <= clause < len(clauses):
            raise Rejected(f"{where}: no clause {clause}")
        pieces.clause[i] = clause
        count = len(clauses[clause].spec.d)
        pieces.weights.append(_weights(leaf.weights, count, where))
        if isinstance(leaf, BoxLeaf):
            pieces.paths.append(_box_path(leaf, plan, problem, where))
            pieces.slopes.append(_leaf_slopes(leaf, plan, where) if leaf.slopes else [])
            continue
        pieces.paths.append(_relu_path(leaf, plan, where))
        beta = _numbers(leaf.beta, f"{where}: beta", 0.0)
        if beta.shape != (len(leaf.path),):
            raise Rejected(f"{where}: {beta.shape} betas of {len(leaf.path)} splits")
        pieces.beta.append(beta)
        pieces.slopes.append(_leaf_slopes(leaf, plan, where))
    return pieces


def _weights(weights: Any, count: int, where: str) -> np.ndarray | None:
    if weights is None:
        return None
    weights = _numbers(weights, f"{where}: weights", 0.0)
    if weights.shape != (count,) or not weights.any():
        raise Rejected(f"{where}: weights that do not fit the clause, or all zero")
    return weights


def _relu_path(leaf: Leaf, plan: Plan, where: str) -> list[Cut]:
    path = []
    for layer, neuron, sign in leaf.path:
        layer, neuron = operator.index(layer), operator.index(neuron)
        if not 0 <= layer < len(plan.layers) or not 0 <= neuron < plan.sizes[layer]:
            raise Rejected(f"{where}: no neuron {neuron} in layer {layer}")
        path.append(((layer, neuron), _side(sign, where)))
    return path


def _box_path(leaf: BoxLeaf, plan: Plan, problem: Problem, where: str) -> list[Cut]:
    n = int(np.prod(problem.property.input_shape))
    path = []
    for dimension, threshold, side in leaf.path:
        dimension, threshold = operator.index(dimension), float(threshold)
        if not 0 <= dimension < n or not np.isfinite(threshold):
            raise Rejected(f"{where}: no cut of x[{dimension}] at {threshold}")
        path.append(((dimension, threshold), _side(side, where)))
    return path


def _side(sign: Any, where: str) -> int:
    sign = operator.index(sign)
    if sign not in (1, -1):
        raise Rejected(f"{where}: {describe(f'sign {sign}', '1 or -1')}")
    return sign


def _leaf_slopes(leaf: Leaf | BoxLeaf, plan: Plan, where: str) -> list:
    found = []
    for (ids, values), n in zip(leaf.slopes, plan.sizes, strict=True):
        ids = _indices(ids, n, f"{where}: slopes")
        values = _numbers(values, f"{where}: slopes", 0.0, 1.0)
        if values.shape != ids.shape:
            raise Rejected(f"{where}: {values.shape} slopes of {ids.shape} neurons")
        found.append((ids, values))
    return found


def _check_roots(problem: Problem, roots: Sequence[Any], plan: Plan) -> None:
    distinct, _ = regions(problem.property)
    if roots and len(roots) != len(distinct):
        raise Rejected(f"{len(roots)} roots of {len(distinct)} regions")
    for layers in roots:
        for root in layers:
            where = "root layer"
            if not isinstance(root, RootLayer):
                raise Rejected(f"{where}: {type(root).__name__}")
            k = operator.index(root.layer)
            if not 0 <= k < len(plan.layers):
                raise Rejected(f"{where}: no layer {k}")
            rows = len(_indices(root.neurons, plan.sizes[k], where))
            if not len(root.columns) == len(root.lower) == len(root.upper) == k:
                raise Rejected(f"{where} {k}: slopes of other than {k} layers")
            for j, columns in enumerate(root.columns):
                wide = len(_indices(columns, plan.sizes[j], where))
                for slopes in (root.lower[j], root.upper[j]):
                    shape = _numbers(slopes, where, 0.0, 1.0).shape
                    if shape not in ((rows, wide), (1, wide)):
                        raise Rejected(f"{where} {k}: slopes of shape {shape}")


def _indices(values: Any, n: int, where: str) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        raise Rejected(f"{where}: indices that are no row of integers")
    values = values.astype(np.int64)
    if ((values < 0) | (values >= n)).any():
        raise Rejected(f"{where}: an index outside of {n} neurons")
    if np.unique(values).size != values.size:
        raise Rejected(f"{where}: a neuron twice")
    return values


def _numbers(values: Any, where: str, least: float, most: float = np.inf) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise Rejected(f"{where}: numbers of type {array.dtype}")
    array = array.astype(np.float64)
    if not (np.isfinite(array) & (array >= least) & (array <= most)).all():
        raise Rejected(f"{where}: a number outside of [{least:g}, {most:g}], or NaN")
    return array
