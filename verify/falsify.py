"""Counterexamples by projected gradient descent, checked in float64.

`falsify` searches all clauses of a property at once from many starts; `check`
decides, independently of the search, whether a point violates the property.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.types import Array, PyTree
from verify import properties
from verify.double import in_float64
from verify.pgd import Attack, Network, search
from verify.properties import Clause, Property
from verify.regions import Region

__all__ = ["Attack", "Candidate", "Witness", "check", "evaluate", "falsify"]

_CHUNK = 16  # clauses attacked in one call; more are attacked one chunk after another


class Witness(NamedTuple):
    """An input and output in the unsafe set, both float64.

    Attributes:
      x: inside of the clause's region, of the network's input shape.
      y: the network's output for `x`, flattened.
      clause: which clause of the property is met.
      margin: the largest row of `C y + d`; at most 0.
    """

    x: np.ndarray
    y: np.ndarray
    clause: int
    margin: float


class Candidate(NamedTuple):
    """The most promising point of one clause; `margin` is that of the search."""

    x: np.ndarray
    clause: int
    margin: float


def falsify(
    fn: Network,
    params: PyTree,
    prop: Property,
    key: Array,
    attack: Attack = Attack(),  # noqa: B008  # frozen
    starts: Array | None = None,
) -> list[Candidate]:
    """Returns the best point found for each clause, most promising first.

    Minimises the largest row of `C y + d` over each clause's region. Compiled once
    for each `fn`, `attack` and number of clauses and rows; parameters, regions and
    rows are arguments.

    Args:
      fn: `fn(params, x)` for one input of `prop.input_shape`.
      params: the network's parameters; their float dtype is that of the search.
      prop: the property.
      key: a random key.
      attack: options.
      starts: points [m, *input_shape] that every clause tries too, such as
        minimisers of bounds.

    Returns:
      A candidate per clause, inside of its region in float64. A candidate is no
      counterexample before `check` says so.

    Sources: PGD with random starts, arXiv:1706.06083; output diversified starts,
    arXiv:2003.06878.
    """
    weights = sum(jnp.size(leaf) for leaf in jax.tree.leaves(params))
    attack = attack.scaled(math.prod(prop.input_shape), weights)
    found: list[Candidate] = []
    for chunk, size in _chunks(prop):
        key, used = jax.random.split(key)
        filled = [prop.clauses[chunk[i % len(chunk)]] for i in range(size)]
        regions, C, d = _stacked(filled, _dtype(params))
        points, margins = search(fn, attack, params, regions, C, d, used, starts)
        points, margins = np.asarray(points), np.asarray(margins)
        for i, clause in enumerate(chunk):
            at = i + len(chunk) * int(np.argmin(margins[i :: len(chunk)]))
            x = prop.clauses[clause].region.inside(points[at])
            found.append(Candidate(x, clause, float(margins[at])))
        if margins.min() < 0:
            break
    return sorted(found, key=lambda c: c.margin)


def _chunks(prop: Property) -> Iterator[tuple[list[int], int]]:
    """Yields clauses of one norm, by number, and how many to fill them up to.

    A last, shorter chunk is filled up, so that it compiles to nothing new.
    """
    for norm in sorted({clause.region.norm for clause in prop.clauses}):
        same = [i for i, c in enumerate(prop.clauses) if c.region.norm == norm]
        for begin in range(0, len(same), _CHUNK):
            yield same[begin : begin + _CHUNK], min(len(same), _CHUNK)


def _dtype(params: PyTree) -> np.dtype:
    kinds = [jnp.result_type(leaf) for leaf in jax.tree.leaves(params)]
    floats = [k for k in kinds if jnp.issubdtype(k, jnp.floating)]
    return np.dtype(floats[0] if floats else np.float32)


def _stacked(clauses: Sequence[Clause], dtype: np.dtype) -> tuple[Region, Any, Any]:
    """Stacks clauses of one norm; all get as many rows as the longest has."""
    rows = max(len(c.spec.d) for c in clauses)
    at = [np.minimum(np.arange(rows), len(c.spec.d) - 1) for c in clauses]
    C = np.stack([c.spec.C[i] for c, i in zip(clauses, at, strict=True)])
    d = np.stack([c.spec.d[i] for c, i in zip(clauses, at, strict=True)])
    regions = jax.tree.map(
        lambda *leaves: np.stack(leaves).astype(dtype), *[c.region for c in clauses]
    )
    return regions, C.astype(dtype), d.astype(dtype)


def check(fn: Network, params: PyTree, prop: Property, x: Any) -> Witness | None:
    """Returns the violation that `x` is, computed in float64, or None.

    Args:
      fn: `fn(params, x)` for one input of `prop.input_shape`.
      params: the network's parameters, of its own types; see `evaluate`.
      prop: the property.
      x: one input; a float64 point is used as it is.

    Returns:
      The witness of the clause with the smallest margin, all rows of which are at
      most 0 and whose region contains `x` exactly; None if there is no such clause.
    """
    point = np.asarray(x, np.float64)
    inside: dict[int, bool] = {}
    for clause in prop.clauses:
        if id(clause.region) not in inside:
            inside[id(clause.region)] = clause.region.contains(point)
    if not any(inside.values()):
        return None
    y = evaluate(fn, params, point)
    margins = [
        properties.margin(c.spec, y) if inside[id(c.region)] else np.inf
        for c in prop.clauses
    ]
    margins = np.where(np.isnan(margins), np.inf, margins)
    at = int(np.argmin(margins))
    if margins[at] > 0:
        return None
    return Witness(point, y, at, float(margins[at]))


def evaluate(fn: Network, params: PyTree, x: Any) -> np.ndarray:
    """Returns `fn(params, x)` computed in float64, flattened.

    Args:
      fn: the network.
      params: of the types that it is written for. What it makes of them alone is
        computed in those, the rest in float64; see `double.in_float64`.
      x: one input.
    """
    point = np.asarray(x, np.float64)
    wide = in_float64(fn, params, point.shape)
    with jax.enable_x64(True):
        return np.asarray(wide(params, point), np.float64).ravel()
