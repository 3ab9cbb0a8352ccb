"""Clauses as a search takes them: by region, flat, and of one number of rows."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from verify.leaves import LinearLeaf
from verify.properties import Clause, Property, Spec
from verify.regions import Region
from verify.types import Bounds

TOLERANCE = 1e-7
"""Of linear programs: a minimum counts as positive above it."""


def grouped(prop: Property) -> list[tuple[Region, list[Clause]]]:
    """Returns the clauses of a property by their region."""
    found: dict[int, tuple[Region, list[Clause]]] = {}
    for clause in prop.clauses:
        found.setdefault(id(clause.region), (clause.region, []))[1].append(clause)
    return list(found.values())


def flattened(prop: Property) -> Property:
    """Returns the property of the network whose input is flat."""
    regions = {id(region): region.flat() for region, _ in grouped(prop)}
    clauses = tuple(c._replace(region=regions[id(c.region)]) for c in prop.clauses)
    size = int(np.prod(prop.input_shape))
    return dataclasses.replace(prop, clauses=clauses, input_shape=(size,))


def padded(clauses: Sequence[Clause], dtype: Any) -> list[Spec]:
    """Returns the rows of each clause, all of one number: the last one is repeated."""
    most = max(len(c.spec.d) for c in clauses)
    found = []
    for clause in clauses:
        extra = most - len(clause.spec.d)
        own = _cast(clause.spec, dtype)
        C = np.pad(own.C, ((0, extra), (0, 0)), "edge")
        found.append(Spec(C, np.pad(own.d, (0, extra), "edge")))
    return found


def _cast(spec: Spec, dtype: Any) -> Spec:
    """Rows in another type; those that underflow in it are scaled beforehand.

    A power of two changes no sign. Where C underflows all the same the row proves
    nothing: its constant is -infinity.
    """
    C, d = np.asarray(spec.C, np.float64), np.asarray(spec.d, np.float64)
    kind = np.finfo(dtype)

    def small(x: np.ndarray) -> np.ndarray:
        return (x != 0) & (np.abs(x) < kind.tiny)

    lost = small(C).any(1) | small(d)
    if not lost.any():
        return Spec(C.astype(dtype), d.astype(dtype))
    power = np.where(lost, -np.frexp(np.abs(C).max(1))[1], 0)
    C, d = np.ldexp(C, power[:, None]), np.ldexp(d, power)
    d = np.where(small(C).any(1), -np.inf, np.minimum(d, kind.max))
    with np.errstate(over="ignore"):  # to -infinity
        least = d.astype(dtype)
    below = np.nextafter(least, np.array(-np.inf, dtype))
    return Spec(C.astype(dtype), np.where(lost & (least > d), below, least))


def unpadded(weights: np.ndarray, rows: int) -> np.ndarray:
    """Returns the weights of a clause's own rows; the repeated ones are its last."""
    weights = np.asarray(weights, np.float64)
    return np.r_[weights[: rows - 1], weights[rows - 1 :].sum()]


def decide_leaf(
    reduced: Any,
    region: Region,
    spec: Spec,
    splits: Sequence[np.ndarray],
    weights: np.ndarray,
    is_unsafe: Callable[[np.ndarray], bool],
) -> tuple[str, np.ndarray | None]:
    """Decides a leaf by linear programs: the row of `weights`, then the best one.

    Args:
      reduced: the network within the root's bounds, a `reduce.Reduced`.
      region: of the input.
      spec: rows of the clause.
      splits: of each layer the signs of its neurons.
      weights: of the rows, those of the last bound.
      is_unsafe: the judge of suspected counterexamples.

    Returns:
      "empty", "safe", "point" with a counterexample, or "open": programs can not
      decide a leaf with neurons that no one could split since all bounds were no
      numbers, nor all of what an l2 ball cuts off its box.
    """
    hidden = [Bounds(*map(np.asarray, b)) for b in reduced.hidden]
    for bounds, sign in zip(hidden, splits, strict=True):
        if ((np.asarray(sign) == 0) & (bounds.lower < 0) & (bounds.upper > 0)).any():
            return "open", None
    if not all(np.isfinite(part).all() for part in jax.tree.leaves(reduced.params)):
        return "open", None
    leaf = LinearLeaf(reduced.params, region.flat(), hidden, list(splits))

    def decide(weights: np.ndarray) -> tuple[str, np.ndarray | None]:
        row = weights @ spec.C, float(weights @ spec.d)
        status, value, x = leaf.minimum(*row)
        if status == "infeasible":
            return "empty", None
        least = max(leaf.rounding(*row), TOLERANCE)
        if status in ("optimal", "relaxed") and value > least:
            return "safe", None
        return ("point", x) if x is not None and is_unsafe(x) else ("open", None)

    found = decide(np.asarray(weights, np.float64))
    if found[0] != "open" or len(weights) == 1:
        return found
    best = leaf.weights(spec)
    if best is None:
        return found
    if is_unsafe(best[1]):
        return "point", best[1]
    return decide(best[0])
