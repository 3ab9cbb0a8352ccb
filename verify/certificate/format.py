"""What a certificate holds."""

import dataclasses
import hashlib
from typing import Any, Literal

import jax
import numpy as np

from verify.problem import Problem
from verify.properties import Property
from verify.regions import Region

VERSION = 2
"""Of the format; a checker refuses others."""


@dataclasses.dataclass(frozen=True, eq=False)
class RootLayer:
    """Backward bounds of some neurons of a layer, over a whole region.

    Neurons that no `RootLayer` lists keep their intervals.

    Attributes:
      layer: position in `verify.Network.nonlinear`; neurons are those of its operand.
      neurons: flat indices [r].
      columns: for each earlier layer j the flat indices [c_j] of the neurons whose
        lower slopes are given; all others take the adaptive slope, 1 where u > -l
        and else 0.
      lower: for each earlier layer the slopes, in [0, 1], of the lower bounds:
        [r, c_j], or [1, c_j] for all neurons alike.
      upper: those of the upper bounds.
    """

    layer: int
    neurons: np.ndarray
    columns: tuple[np.ndarray, ...]
    lower: tuple[np.ndarray, ...]
    upper: tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Leaf:
    """A sub-domain of signs of ReLU operands, and the dual variables that refute it.

    Attributes:
      clause: of the property, by position.
      path: (layer, flat neuron, sign) of each split, in the order of splitting; the
        sign 1 is z >= 0, -1 is z <= 0.
      slopes: for each layer (ids, values): lower slopes in [0, 1] by flat neuron; all
        others take the adaptive slope.
      beta: multipliers of the path's signs, >= 0.
      weights: of the clause's rows, >= 0 and not all zero; None to try each row alone.
    """

    clause: int
    path: tuple[tuple[int, int, int], ...]
    slopes: tuple[tuple[np.ndarray, np.ndarray], ...]
    beta: np.ndarray
    weights: np.ndarray | None


@dataclasses.dataclass(frozen=True, eq=False)
class BoxLeaf:
    """A part of the input box, and the slopes with which CROWN refutes it.

    Attributes:
      clause: of the property, by position.
      path: (flat dimension, threshold, side) of each cut, in order; the side 1 is
        x >= threshold, -1 is x <= threshold.
      weights: of the clause's rows, >= 0 and not all zero; None to try each row alone.
      slopes: as those of `Leaf`, for the rows of the clause alone: the hidden bounds
        take adaptive slopes. Empty for none.
    """

    clause: int
    path: tuple[tuple[int, float, int], ...]
    weights: np.ndarray | None
    slopes: tuple[tuple[np.ndarray, np.ndarray], ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Certificate:
    """A proof that a property holds; `check` decides whether it is one.

    Attributes:
      kind: "relu", with leaves of type `Leaf`, or "input", with `BoxLeaf`.
      digest: of the parameters and the property, see `digest`.
      leaves: of all clauses, in any order; those of a clause cover its region.
      roots: for each of `regions(property)` the layers that have backward bounds, in
        topological order; empty for "input", whose boxes bound every layer anew.
      version: of the format.
    """

    kind: Literal["relu", "input"]
    digest: str
    leaves: tuple[Leaf, ...] | tuple[BoxLeaf, ...]
    roots: tuple[tuple[RootLayer, ...], ...] = ()
    version: int = VERSION


def regions(prop: Property) -> tuple[list[Region], list[int]]:
    """Returns the distinct regions of a property, and which one each clause has.

    Regions are in the order of the clauses; equal numbers are one region.
    """
    found: dict[bytes, int] = {}
    distinct, which = [], []
    for clause in prop.clauses:
        key = b"|".join(_contents(clause.region)) + clause.region.norm.encode()
        if key not in found:
            found[key] = len(distinct)
            distinct.append(clause.region)
        which.append(found[key])
    return distinct, which


def digest(problem: Problem) -> str:
    """Returns a SHA-256 of the parameters and the property, in hexadecimal.

    It tells a certificate of another problem early; the proof does not rest on it.
    """
    prop, hashed = problem.property, hashlib.sha256()
    parts = _contents(problem.params)
    parts.append(repr((tuple(prop.input_shape), prop.output_size)).encode())
    for clause in prop.clauses:
        parts += [clause.region.norm.encode(), *_contents(clause.region)]
        parts += _contents((np.asarray(clause.spec.C), np.asarray(clause.spec.d)))
    for part in parts:
        hashed.update(len(part).to_bytes(8, "little"))
        hashed.update(part)
    return hashed.hexdigest()


def _contents(tree: Any) -> list[bytes]:
    """Path, dtype, shape and bytes of each leaf of a tree."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        head = f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}"
        found += [head.encode(), np.ascontiguousarray(array).tobytes()]
    return found
