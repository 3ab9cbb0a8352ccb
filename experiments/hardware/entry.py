"""A published number beside what a cost function says."""

import math
from typing import Literal, NamedTuple

import numpy as np

from experiments.results import Row

Kind = Literal["predicted", "fitted", "identity"]


class Entry(NamedTuple):
    """One cell of a published table.

    Attributes:
      table: which one, in a few words.
      what: the row's metric.
      setting: network, layer or design.
      predicted: by our cost function.
      published: in the paper.
      unit: of both.
      kind: 'fitted' where this very number decided a constant of the target,
        'identity' where printed constants give it by arithmetic alone, as a peak.
      least: whether the paper says no more than "at least" the published number.
    """

    table: str
    what: str
    setting: str
    predicted: float
    published: float
    unit: str
    kind: Kind = "predicted"
    least: bool = False

    @property
    def ratio(self) -> float:
        """Predicted over published."""
        return self.predicted / self.published

    @property
    def holds(self) -> bool:
        """The row's one verdict: at least as much, or within `WORST`."""
        if self.least:
            return self.ratio >= 1
        return within(self.ratio, WORST)


WORST, MEDIAN = 2.0, 1.25
"""Factors that a row, and the median of a quantity, are to stay within."""


def within(ratio: float, factor: float) -> bool:
    """Whether a ratio is at most a factor away from 1, to either side."""
    return bool(ratio > 0 and abs(math.log(ratio)) <= math.log(factor) + 1e-12)


def rows(entries: list[Entry]) -> list[Row]:
    """Returns a row for each number; only a predicted one claims anything."""
    return [
        Row(
            f"{e.what} ({e.kind}{', at least' * e.least})",
            f"{e.table}: {e.setting}",
            e.predicted,
            paper=e.published,
            unit=e.unit,
            simulated=True,
            holds=e.holds if e.kind == "predicted" else None,
        )
        for e in entries
    ]


def summaries(entries: list[Entry]) -> list[Row]:
    """Returns the median and the worst ratio of predicted numbers.

    Each quantity of a table, the first word of `what`, is judged apart: one that is
    met hides none that is not. Numbers that are fitted, identities, or bounds from one
    side are in neither.
    """
    groups: dict[tuple[str, str], list[float]] = {}
    for e in entries:
        if e.kind == "predicted" and not e.least:
            key = e.table, e.what.split()[0]
            groups.setdefault(key, []).append(e.ratio)
    found = []
    for (table, quantity), ratios in groups.items():
        away = np.exp(np.abs(np.log(ratios)))
        n = len(ratios)
        text = f"{table}, {quantity}, {n} row" + "s" * (n != 1)
        for what, value, limit in (
            ("median factor between predicted and published", np.median(away), MEDIAN),
            ("largest factor between predicted and published", away.max(), WORST),
        ):
            found.append(
                Row(what, text, float(value), unit="x", simulated=True)._replace(
                    holds=bool(value <= limit)
                )
            )
    return found
