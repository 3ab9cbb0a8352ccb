"""Which values of a run have the examples of a batch along their first axis."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graph.onnx.model import Node
from graph.onnx.registry import Apply, Call, Operand, Operator


class MixedRows(Exception):
    """A step that could mix the examples of a batch."""


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """A node ready to run."""

    node: Node
    operator: Operator
    apply: Apply
    operands: tuple[Operand | None, ...]


class Rows:
    """Which values have the examples of a batch along their first axis.

    `sizes` are constants that depend on how many examples there are; nothing but the
    target of a Reshape may use them, as one example alone would see another number.
    """

    def __init__(self, names: Sequence[str]):
        self.rows = set(names)
        self.sizes: set[str] = set()

    def follow(
        self,
        step: Step,
        call: Call,
        values: Mapping[str, Any],
        results: Mapping[str, Any],
    ) -> None:
        """Records the results of a step.

        Raises:
          MixedRows: the step could mix examples.
        """
        names = [o.name if o and o.name else "" for o in step.operands]
        rows = [n in self.rows for n in names]
        sizes = any(n in self.sizes for n in names)
        if all(isinstance(v, np.ndarray) for v in results.values()):
            if sizes or any(rows):
                self.sizes |= set(results)
            return
        if not any(rows):
            if sizes:
                raise MixedRows
            return
        if call.mixed or (sizes and step.operator.rows != "own"):
            raise MixedRows
        if not _kept(step, names, rows, values, results):
            raise MixedRows
        self.rows |= set(results)


def _kept(
    step: Step,
    names: Sequence[str],
    rows: Sequence[bool],
    values: Mapping[str, Any],
    results: Mapping[str, Any],
) -> bool:
    """Whether row i of the results comes from row i of the operands alone."""
    rule = step.operator.rows
    present = [r for r, o in zip(rows, step.operands, strict=True) if o is not None]
    if rule == "own":
        return True
    if rule == "first":
        return rows[0] and not any(rows[1:])
    if rule == "all":
        return all(present)
    rank = max(y.ndim for y in results.values())
    for operand, name, row in zip(step.operands, names, rows, strict=True):
        if row and values[name].ndim != rank:
            return False
        if operand is not None and not row:
            shape = _shape(operand, values)
            if len(shape) == rank and shape[0] != 1:
                return False
    return True


def _shape(operand: Operand, values: Mapping[str, Any]) -> tuple[int, ...]:
    if operand.constant is not None:
        return operand.constant.shape
    return tuple(values[operand.name].shape) if operand.name else operand.shape
