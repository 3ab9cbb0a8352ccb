"""Rows and figures that the three experiments share."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments import differences
from experiments.differences import difference
from experiments.results import Figure, Row, Series, mean_row, mean_std
from experiments.trained.protocol import SETTLING

SETTLED = (
    f"After training norms have the moments of {SETTLING:,} training images, each with "
    "scales and the norms before it as in evaluation. Running means over batches are "
    "no such moments: batches differ by the level to which a number that many pixels "
    "share is rounded."
)
"""The note of reports on networks whose inputs are quantized in training."""
Found = Mapping[str, Sequence[float]]
"""Numbers of each setting, one for each seed."""


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
        setting = f"{title}, {name}"
        yield mean_row("accuracy", setting, values, baseline=against, unit="%")


def lead_row(
    title: str,
    found: Found,
    ours: str,
    theirs: str,
    rule: str,
    judged: bool,
    differ: int | None = None,
) -> Row:
    """Returns the lead of one setting over another, in points.

    Args:
      title: of the network.
      found: accuracies.
      ours: a setting.
      theirs: another one.
      rule: "better" or `EQUAL`, see `experiments.differences`; "" for a row that
        claims nothing.
      judged: whether data and training are those of full mode.
      differ: in how many seeds the settings are two networks, all if None; with 0 the
        row claims nothing.
    """
    lead = difference(found[ours], found[theirs])
    metric, setting = f"accuracy above {theirs}", f"{title}, {ours}"
    if differ == 0:
        setting, judged = f"{setting}, the same network", False
    elif differ is not None and differ < lead.seeds:
        setting += f", another network in {differ} of {lead.seeds} seeds"
    return differences.lead_row(metric, setting, lead, rule, judged)


def after_training(
    found: Mapping[int, Mapping[int, Mapping[str, Mapping[str, Any]]]],
) -> Iterable[tuple[int, str, dict[str, list[Any]], dict[str, list[float]]]]:
    """Yields what was quantized without training: results by setting, all seeds.

    Args:
      found: results by seed, width and name; each with an "accuracy".

    Yields:
      (bits, the prefix of its settings, results by setting, accuracies by setting).
    """
    for bits, names in next(iter(found.values())).items():
        at = f"{bits} bits after training, "
        parts = {at + n: [each[bits][n] for each in found.values()] for n in names}
        right = {n: [p["accuracy"] for p in each] for n, each in parts.items()}
        yield bits, at, parts, right


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


def by_title(trained: Iterable[Mapping[str, Any]], key: str) -> dict[str, list[float]]:
    """Returns a number of every arm that has it, a value for each seed."""
    found: dict[str, list[float]] = {}
    for results in trained:
        for title, result in results.items():
            if key in result:
                found.setdefault(title, []).append(result[key])
    return found
