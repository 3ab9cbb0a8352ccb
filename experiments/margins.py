"""Claims that one side is not worse than another, with a margin that is stated.

A tie is lower than minus one standard error one time in five (three seeds), so that
rule, `Difference.at_least`, refuses many ties. Here a lead in points of accuracy

- holds if its mean is at least -`MARGIN` points;
- does not hold if it is lower by more than that and by more than 2 standard errors;
- else is not judged: the seeds differ by more than what is to be told apart.

Experiments on quantization use it for every claim of "at least equal".
"""

from experiments.differences import SEEDS, Difference, lead_row
from experiments.results import Row

MARGIN = 0.5
"""Points of accuracy that count as equal."""
EQUAL = f"at least equal, within {MARGIN:g} point"
"""The rule's name, in a row's metric."""
RULES = (
    "Differences are means over seeds of paired differences, with their standard "
    f'error (s.e.). "{EQUAL.capitalize()}" holds if the mean is at least {-MARGIN:g} '
    "points, and does not if it is lower than that and than minus two s.e.; what is "
    'lower but within two s.e. is not judged. "Better" holds if the mean is above two '
    f"s.e. With fewer than {SEEDS} seeds nothing is judged."
)
"""The note that belongs into every report with claims by this rule."""


def not_worse(lead: Difference, judged: bool = True) -> bool | None:
    """Returns whether a lead in points is at least `-MARGIN`; `None` if not judged.

    NaN does not hold.

    Args:
      lead: of ours over theirs.
      judged: whether data and training are those of full mode.

    Example:
      >>> from experiments.differences import difference
      >>> not_worse(difference([97.0, 98.1, 98.9], [97.1, 98.0, 99.0]))
      True
    """
    if lead.error is None or lead.seeds < SEEDS or not judged:
        return None
    if lead.mean >= -MARGIN:
        return True
    return None if -2 * lead.error <= lead.mean else False


def judged_row(
    metric: str,
    setting: str,
    lead: Difference,
    rule: str = "",
    judged: bool = True,
    unit: str = "points",
) -> Row:
    """Returns `differences.lead_row` whose "at least equal" has the margin.

    Args:
      metric: what is compared.
      setting: of both sides.
      lead: of ours over theirs, in points if it is to be equal.
      rule: "better", "at least equal", or "" for a row that claims nothing.
      judged: whether data and training are those of full mode.
      unit: of the difference.
    """
    if rule != "at least equal":
        return lead_row(metric, setting, lead, rule, judged, unit)
    row = lead_row(f"{metric} ({EQUAL})", setting, lead, unit=unit)
    return row._replace(holds=not_worse(lead, judged))
