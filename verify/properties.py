"""Properties of a network: unions of unsafe sets, each a region and linear rows.

A property holds when no input of any clause's region gives an output that
satisfies all rows of that clause. VNN-LIB files are read into the same type by
`verify.vnnlib`.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from core.errors import InputError, NonFiniteError, ShapeError, describe
from core.types import ArrayLike
from verify import regions
from verify.regions import Norm, Region
from verify.types import Numbers


class Spec(NamedTuple):
    """Rows `C y + d` of a flattened output `y`.

    Attributes:
      C: coefficients [S, n] of n outputs, S >= 1.
      d: constants [S].
    """

    C: Numbers
    d: Numbers


class Clause(NamedTuple):
    """One conjunction: the unsafe set `{x in region : C y + d <= 0 in all rows}`.

    It is refuted when some row, or some convex combination of rows, is positive
    over the whole region.
    """

    region: Region
    spec: Spec


@dataclasses.dataclass(frozen=True, eq=False)
class Property:
    """A union of unsafe sets; it holds ("unsat") when every clause is refuted.

    Attributes:
      clauses: none at all makes a property that holds. Clauses over the same
        inputs share one `Region` object.
      input_shape: the shape of the network's input, with its batch axis if the
        network has one.
      output_size: how many outputs the network has, flattened.
      name: what reports call it.
      notes: what was read in another way than written, one sentence each.

    Raises:
      ShapeError: a clause that does not fit the two shapes.
    """

    clauses: tuple[Clause, ...]
    input_shape: tuple[int, ...]
    output_size: int
    name: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        for clause in self.clauses:
            _check_clause(clause, self.input_shape, self.output_size)

    def check_network(self, input_shape: tuple[int, ...], outputs: int) -> None:
        """Raises an error unless a network has the property's sizes.

        Rows of another length would be read as rows of another number.

        Raises:
          ShapeError: another input shape, or another number of outputs.
        """
        own = tuple(self.input_shape), self.output_size
        if own != (input_shape, outputs):
            given = f"a property of inputs {own[0]}, {own[1]} outputs"
            wanted = f"inputs {input_shape}, {outputs} outputs, those of the network"
            raise ShapeError(describe(given, wanted))


def _check_clause(clause: Clause, shape: tuple[int, ...], outputs: int) -> None:
    C, d = np.shape(clause.spec.C), np.shape(clause.spec.d)
    rows = C[0] if C else 0
    if rows < 1 or (rows, outputs) != C or d != (rows,):
        raise ShapeError(
            describe(
                f"a specification with C of shape {C} and d of {d}",
                f"(S, {outputs}) and (S,) with S of at least 1",
            )
        )
    if clause.region.shape != tuple(shape):
        raise ShapeError(
            describe(f"a region of shape {clause.region.shape}", f"{tuple(shape)}")
        )


def robustness(
    x: ArrayLike,
    label: int,
    eps: ArrayLike,
    norm: Norm = "linf",
    clip: tuple[ArrayLike, ArrayLike] | None = (0.0, 1.0),
    classes: int = 10,
    name: str = "",
) -> Property:
    """Returns local robustness: near `x` no class scores as high as `label`.

    Args:
      x: one input, of the shape that the network takes.
      label: the class whose score must stay the largest.
      eps: the radius; for "linf" also an array that broadcasts to `x`.
      norm: "linf", "l2" or "l1".
      clip: smallest and largest input values, or None; see `regions.ball`.
      classes: how many outputs the network has.
      name: what reports call it.

    Returns:
      A clause per other class `j` with the row `y[label] - y[j] <= 0`; all share
      one region.

    Raises:
      InputError: a label that is no class, or what `regions.ball` refuses.
      ShapeError, NonFiniteError: as `regions.ball`.

    Example:
      >>> len(robustness([[0.1, 0.2]], label=0, eps=0.1, classes=3).clauses)
      2
    """
    if isinstance(label, bool) or label != int(label) or not 0 <= label < classes:
        raise InputError(describe(f"label {label}", f"an integer in [0, {classes})"))
    region = regions.ball(x, eps, norm, clip)
    one = np.eye(classes)
    clauses = tuple(
        Clause(region, Spec(one[label] - one[j : j + 1], np.zeros(1)))
        for j in range(classes)
        if j != label
    )
    return Property(clauses, region.shape, classes, name)


def linear(region: Region, C: ArrayLike, d: ArrayLike, name: str = "") -> Property:
    """Returns the property that `C y + d > 0` in every row, over the region.

    Equality counts as a violation, since unsafe sets are closed. Where it is to be
    safe, add a small tolerance to d.

    Args:
      region: a box or a ball.
      C: coefficients [S, n] of n outputs.
      d: constants [S].
      name: what reports call it.

    Returns:
      A clause per row; all share `region`.

    Raises:
      ShapeError: `C` is no matrix, or `d` does not fit it.
      NonFiniteError: NaN or infinity.
    """
    C, d = np.asarray(C, np.float64), np.asarray(d, np.float64)
    if C.ndim != 2 or d.shape != C.shape[:1]:
        raise ShapeError(
            describe(f"C of shape {C.shape} and d of {d.shape}", "(S, n) and (S,)")
        )
    if not (np.isfinite(C).all() and np.isfinite(d).all()):
        raise NonFiniteError(describe("C or d with NaN or infinity", "finite numbers"))
    clauses = tuple(
        Clause(region, Spec(row[None], const[None]))
        for row, const in zip(C, d, strict=True)
    )
    return Property(clauses, region.shape, C.shape[1], name)


def margin(spec: Spec, y: ArrayLike) -> float:
    """Returns the largest row of `C y + d` in float64; at most 0 is unsafe.

    Args:
      spec: rows.
      y: an output of any shape with as many elements as `C` has columns.

    Raises:
      ShapeError: another number of outputs.
    """
    flat = np.asarray(y, np.float64).ravel()
    if flat.shape != (spec.C.shape[1],):
        raise ShapeError(
            describe(f"{flat.size} outputs", f"{spec.C.shape[1]}, the columns of C")
        )
    return float(np.max(np.asarray(spec.C, np.float64) @ flat + spec.d))


def violates(prop: Property, x: ArrayLike, y: ArrayLike) -> bool:
    """Returns whether `(x, y)` is in the unsafe set, computed in float64.

    Args:
      prop: the property.
      x: an input of shape `prop.input_shape`; NaN violates nothing.
      y: the network's output for `x`, any shape of `prop.output_size` elements.

    Raises:
      ShapeError: another shape.
    """
    inside: dict[int, bool] = {}  # clauses share regions
    for clause in prop.clauses:
        if margin(clause.spec, y) <= 0:
            known = id(clause.region)
            if known not in inside:
                inside[known] = clause.region.contains(x)
            if inside[known]:
                return True
    return False
