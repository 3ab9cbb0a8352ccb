"""Rows and figures that the three experiments share."""

from collections.abc import Iterable, Mapping, Sequence

from experiments.differences import difference
from experiments.results import Figure, Row, Series, mean_std

Found = Mapping[str, Sequence[float]]
"""Numbers of each setting, one for each seed."""


def mean_row(
    metric: str,
    setting: str,
    values: Iterable[float],
    unit: str = "",
    baseline: float | None = None,
) -> Row:
    """Returns the row of a mean over seeds."""
    values = list(values)
    mean, std = mean_std(values)
    spread = std if len(values) > 1 else None
    return Row(metric, setting, mean, spread, baseline, unit=unit)


def accuracy_rows(title: str, found: Found, base: str | None = None) -> Iterable[Row]:
    """Yields the accuracy of every setting of a network, in %.

    Args:
      title: of the network.
      found: accuracies.
      base: the setting that is the others' baseline.
    """
    level = mean_std(found[base])[0] if base else None
    for name, values in found.items():
        against = None if name == base else level
        yield mean_row("accuracy", f"{title}, {name}", values, "%", against)


def lead_row(
    title: str, found: Found, ours: str, theirs: str, rule: str, judged: bool
) -> Row:
    """Returns the lead of one setting over another, in points.

    Args:
      title: of the network.
      found: accuracies.
      ours: a setting.
      theirs: another one.
      rule: "better" or "at least equal", see `experiments.differences`; "" for a row
        that claims nothing.
      judged: whether data and training are those of full mode.
    """
    lead = difference(found[ours], found[theirs])
    rules = {"better": lead.better, "at least equal": lead.at_least}
    holds = rules[rule](judged) if rule else None
    metric = f"accuracy above {theirs}" + (f" ({rule})" if rule else "")
    std = lead.std if lead.seeds > 1 else None
    setting = f"{title}, {ours}, {lead.text}"
    return Row(metric, setting, lead.mean, std, unit="points", holds=holds)


def by_number(
    title: str, xlabel: str, found: Mapping[str, Mapping[int, Sequence[float]]]
) -> Figure:
    """Returns accuracies and their deviations by a number, a series for each name."""
    series = []
    for name, values in found.items():
        points = [mean_std(each) for each in values.values()]
        means, stds = zip(*points, strict=True)
        series.append(Series(name, list(values), means, stds))
    return Figure(title, "errorbar", xlabel, "%", series)


def bars(title: str, found: Found) -> Figure:
    """Returns the accuracy of each setting."""
    points = [mean_std(values) for values in found.values()]
    means, stds = zip(*points, strict=True)
    return Figure(title, "bar", "", "%", [Series("", list(found), means, stds)])
