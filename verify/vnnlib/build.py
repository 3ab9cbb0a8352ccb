"""From formulas to a `Property`: boxes of the inputs, rows of the outputs."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

import numpy as np

from core.errors import DataFormatError, describe
from verify import regions
from verify.properties import Clause, Property, Spec
from verify.regions import Region
from verify.vnnlib.logic import Formula, Row, conjunction
from verify.vnnlib.sexpr import fault

_MOST_BOUNDS = 100_000_000  # elements of all boxes, and of all rows


@dataclasses.dataclass(frozen=True)
class Query:
    """What a file says, before it is a property.

    Attributes:
      inputs: how many input variables; they are numbered from 0.
      outputs: how many output variables, numbered after the inputs.
      asserts: formulas that hold together, in the file's order.
    """

    inputs: int
    outputs: int
    asserts: Sequence[Formula]


def build(query: Query, shape: tuple[int, ...] | None, name: str) -> Property:
    """Returns the property of a query: one clause per disjunct that is not empty.

    Args:
      query: variables and formulas.
      shape: of the network's input; None for `(inputs,)`.
      name: what reports call it.

    Raises:
      DataFormatError: a constraint on inputs that is no bound, inputs without a
        bound, or boxes that would need too much memory.
    """
    shared, disjuncts = conjunction(query.asserts, 0)
    wide = np.full(query.inputs, -np.inf), np.full(query.inputs, np.inf)
    base = _Box(query, *wide).cut(_on_inputs(query, shared))
    common = [row for row in shared if _side(query, row) == "Y"]
    clauses, dropped = [], 0
    known: dict[tuple, Region | None] = {}
    for disjunct in disjuncts:
        bounds = tuple(_on_inputs(query, disjunct))
        at = tuple(
            (*row.term.coefficients.items(), row.term.constant) for row in bounds
        )
        if at not in known:
            known[at] = base.cut(bounds).region(shape or (query.inputs,))
            _check_memory(len(known) * query.inputs, "boxes")
        region = known[at]
        dropped += region is None
        if region is not None:
            rows = [row for row in disjunct if _side(query, row) == "Y"]
            clauses.append(Clause(region, _spec(query, common + rows)))
            _check_memory(len(clauses) * len(common + rows) * query.outputs, "rows")
    strict = {id(row) for part in (shared, *disjuncts) for row in part if row.strict}
    return Property(
        tuple(clauses),
        tuple(shape or (query.inputs,)),
        query.outputs,
        name,
        _notes(len(strict), dropped),
    )


def _notes(strict: int, dropped: int) -> tuple[str, ...]:
    notes = []
    if strict:
        notes.append(
            f"{strict} strict comparisons were read as closed ones: "
            "equality counts as unsafe"
        )
    if dropped:
        notes.append(f"{dropped} disjuncts with no input at all were dropped")
    return tuple(notes)


def _side(query: Query, row: Row) -> str:
    sides = {"X" if i < query.inputs else "Y" for i in row.term.coefficients}
    if len(sides) > 1:
        raise fault(
            row.line,
            "a comparison of an input with an output",
            "inputs with constants, and outputs with outputs or constants",
        )
    return sides.pop()


def _on_inputs(query: Query, rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if _side(query, row) == "X"]


@dataclasses.dataclass(frozen=True)
class _Box:
    query: Query
    low: np.ndarray
    high: np.ndarray

    def cut(self, rows: Iterable[Row]) -> "_Box":
        """Returns the box cut by bounds; the tightest of each side counts."""
        rows = list(rows)
        if not rows:
            return self
        low, high = self.low.copy(), self.high.copy()
        for row in rows:
            if len(row.term.coefficients) > 1:
                raise fault(
                    row.line,
                    "a constraint on several inputs",
                    "bounds of single inputs",
                    "Only boxes of inputs can be verified.",
                )
            ((index, slope),) = row.term.coefficients.items()
            bound = -row.term.constant / slope
            if not math.isfinite(bound):
                raise fault(row.line, "an overflow", "a finite bound")
            if slope > 0:
                high[index] = min(high[index], bound)
            else:
                low[index] = max(low[index], bound)
        return _Box(self.query, low, high)

    def region(self, shape: tuple[int, ...]) -> Region | None:
        """Returns the box as a region, or None if it is empty."""
        if np.any(self.low > self.high):
            return None
        missing = np.flatnonzero(~np.isfinite(self.low) | ~np.isfinite(self.high))
        if len(missing):
            names = ", ".join(f"X_{i}" for i in missing[:5])
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            raise DataFormatError(
                describe(
                    f"no lower or no upper bound of {names}{more}",
                    "both bounds of every input, in every disjunct",
                )
            )
        return regions.box(self.low.reshape(shape), self.high.reshape(shape))


def _spec(query: Query, rows: Sequence[Row]) -> Spec:
    # No rows: the network's output does not matter, and 0 <= 0 says just that.
    C = np.zeros((max(len(rows), 1), query.outputs))
    d = np.zeros(len(C))
    for at, row in enumerate(rows):
        d[at] = row.term.constant
        for index, value in row.term.coefficients.items():
            C[at, index - query.inputs] = value
    return Spec(C, d)


def _check_memory(elements: int, what: str) -> None:
    if elements > _MOST_BOUNDS:
        raise DataFormatError(
            describe(f"{what} of more than {_MOST_BOUNDS} elements", "a smaller file")
        )
