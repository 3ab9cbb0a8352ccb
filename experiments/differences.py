"""Comparing two means over seeds, with the error that the comparison has.

Both sides were trained with the same seeds, so differences are taken seed by seed: they
share the initial weights, and the order of images where an experiment's protocol says
so. A claim is judged by one of three rules, which every row that uses one repeats in
its report:

- "better" holds if the mean difference > 2 standard errors.
- "at least equal" holds if the mean difference >= -(its standard error).
- `EQUAL`, of points of accuracy, has a margin, since a tie is lower than minus one
  standard error one time in five (three seeds): it holds if the mean is at least
  minus the margin, and does not if it is lower by more than that and by more than 2
  standard errors; else it is not judged, for the seeds differ by more than what is to
  be told apart. The margin is what counts as equal on the data set
  (`gap.lottery.tolerances`); a loss within it that is more than 2 standard errors is
  named in the row.

None is judged with fewer than `SEEDS` seeds.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from core.errors import InputError, describe
from experiments.results import Row, mean_std

SEEDS = 3
"""The fewest seeds with which a difference is judged."""

RULES = (
    "Differences are means over seeds of paired differences, with their standard "
    'error (s.e.). "At least equal" holds if the mean is no lower than minus one s.e., '
    f'"better" if it is above two; with fewer than {SEEDS} seeds neither is judged.'
)
"""The note that belongs into every report with judged differences."""
MARGIN = 0.5
"""Points of accuracy that count as equal by the rule with a margin: of CIFAR-10."""


def within(margin: float) -> str:
    """Returns the name of the rule with a margin, in points."""
    return f"at least equal, within {margin:g} point"


EQUAL = within(MARGIN)
"""That rule, as `lead_row` takes it whatever the margin."""
MARGIN_RULES = (
    "Differences are means over seeds of paired differences, with their standard "
    f'error (s.e.). "{EQUAL.capitalize()}", or the margin that the row names, holds if '
    "the mean is not lower than minus the margin; the row says if it is lower than "
    "minus two s.e. all the same. It does not hold if the mean is lower than both; "
    'what is lower but within two s.e. is not judged. "Better" holds if the mean is '
    f"above two s.e. With fewer than {SEEDS} seeds nothing is judged."
)
"""The note that belongs into every report with claims by it."""


class Difference(NamedTuple):
    """A mean of paired differences.

    Attributes:
      mean: of the differences; NaN if any is not finite.
      std: their sample standard deviation, 0.0 for one seed.
      seeds: how many there are.
    """

    mean: float
    std: float
    seeds: int

    @property
    def error(self) -> float | None:
        """Standard error of the mean, `None` for one seed."""
        return self.std / math.sqrt(self.seeds) if self.seeds > 1 else None

    @property
    def text(self) -> str:
        """The number of seeds and the standard error, for a row's setting."""
        if self.error is None:
            return "one seed"
        return f"{self.seeds} seeds, s.e. {self.error:.2g}"

    def at_least(self, judged: bool = True) -> bool | None:
        """Returns whether the left side is at least equal; `None` if not judged."""
        if self.error is None or self.seeds < SEEDS or not judged:
            return None
        return self.mean >= -self.error

    @property
    def worse(self) -> bool:
        """Whether the left side is lower by more than two standard errors."""
        return self.error is not None and self.mean < -2 * self.error

    def not_worse(self, judged: bool = True, margin: float = MARGIN) -> bool | None:
        """Returns whether a lead in points is at least -margin; `None` if not judged.

        NaN does not hold.
        """
        if self.error is None or self.seeds < SEEDS or not judged:
            return None
        if self.mean >= -margin:
            return True
        return None if -2 * self.error <= self.mean else False

    def better(self, judged: bool = True) -> bool | None:
        """Returns whether the left side is better; `None` if not judged."""
        if self.error is None or self.seeds < SEEDS or not judged:
            return None
        return self.mean > 2 * self.error


def difference(left: Iterable[Any], right: Iterable[Any]) -> Difference:
    """Returns the difference of two sides, seed by seed.

    Args:
      left: numbers, one for each seed.
      right: numbers with the same seeds in the same order.

    Raises:
      InputError: sides of other lengths, or without a seed.

    Example:
      >>> found = difference([97.0, 98.0, 99.0], [96.0, 96.0, 96.0])
      >>> found.mean, found.text, found.at_least(), found.better()
      (2.0, '3 seeds, s.e. 0.58', True, True)
    """
    ours, theirs = [float(x) for x in left], [float(x) for x in right]
    if len(ours) != len(theirs):
        given = f"{len(ours)} and {len(theirs)} values"
        raise InputError(describe(given, "the same seeds on both sides"))
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    return Difference(*mean_std(gaps), len(gaps))


def lead_row(
    metric: str,
    setting: str,
    lead: Difference,
    rule: str = "",
    judged: bool = True,
    unit: str = "points",
    margin: float = MARGIN,
) -> Row:
    """Returns the row of a difference, judged by a rule that its metric names.

    Args:
      metric: what is compared.
      setting: of both sides.
      lead: of ours over theirs.
      rule: "better", "at least equal", `EQUAL` for a lead in points, or "" for a row
        that claims nothing.
      judged: whether data and training are those of full mode.
      unit: of the difference.
      margin: points that count as equal, for `EQUAL`.
    """
    holds = {
        "": None,
        "better": lead.better(judged),
        "at least equal": lead.at_least(judged),
        EQUAL: lead.not_worse(judged, margin),
    }[rule]
    name = within(margin) if rule == EQUAL else rule
    lower = ", lower by more than two s.e." if rule == EQUAL and lead.worse else ""
    return Row(
        f"{metric} ({name})" if rule else metric,
        f"{setting}, {lead.text}{lower}",
        lead.mean,
        lead.std if lead.seeds > 1 else None,
        unit=unit,
        holds=holds,
    )
