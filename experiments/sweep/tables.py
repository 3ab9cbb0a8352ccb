"""What a sweep measured: collected from `results.json`, as tables and plots."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments import results
from experiments.report import text
from experiments.sweep.grid import Cell

_CSV = ("metric", "setting", "unit", "simulated", "mean", "std", "n")
_WIDE = 8  # most series in one plot
_LOG_RANGE = 10.0  # of an axis that is drawn on a log scale

Document = Mapping[str, Any]


class Entry(NamedTuple):
    """One number of one cell over its seeds.

    Invariants:
      `n` is how many seeds measured it, at least 1.
      `mean` and `std` are NaN where a seed's number is not finite; `std` is 0.0
        for one seed.
    """

    cell: Cell
    metric: str
    setting: str
    unit: str
    simulated: bool
    mean: float
    std: float
    n: int

    def show(self, seeds: int) -> str:
        """Returns 'mean ± std unit', and how many seeds where some are missing."""
        mean = self.mean if math.isfinite(self.mean) else None
        shown = text.spread(mean, self.std if self.n > 1 else None)
        missing = "" if self.n == seeds else f" ({self.n} of {seeds} seeds)"
        return text.with_unit(shown, self.unit) + missing


class Table(NamedTuple):
    """One metric: a line for each cell, a column for each setting."""

    title: str
    heads: list[str]
    rows: list[list[str]]
    axes: int


def collect(found: Sequence[tuple[Cell, Sequence[Document]]]) -> list[Entry]:
    """Returns the mean and deviation of every row of every cell.

    Rows of different seeds belong together by metric, setting and unit (and by
    their order, should a run give the same three twice).

    Args:
      found: each cell with the `results.json` of its finished seeds.
    """
    entries = []
    for cell, documents in found:
        values: dict[tuple[Any, ...], list[float]] = {}
        for document in documents:
            seen: dict[tuple[Any, ...], int] = {}
            for row in document["rows"]:
                key = (row["metric"], row["setting"], row["unit"], row["simulated"])
                seen[key] = seen.get(key, 0) + 1
                number = math.nan if row["measured"] is None else row["measured"]
                values.setdefault((*key, seen[key]), []).append(number)
        for (metric, setting, unit, simulated, _), numbers in values.items():
            names = (metric, setting, unit, simulated)
            mean, std = results.mean_std(numbers)
            entries.append(Entry(cell, *names, mean, std, len(numbers)))
    return entries


def to_csv(entries: Sequence[Entry], axes: Sequence[str]) -> str:
    """Returns a line for each cell and number, with a head; NaN as 'nan'."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*axes, *_CSV])
    for entry in entries:
        points = [entry.cell.values[axis] for axis in axes]
        kind = "true" if entry.simulated else "false"
        names = [entry.metric, entry.setting, entry.unit, kind]
        std = repr(entry.std) if entry.n > 1 else ""
        writer.writerow([*points, *names, repr(entry.mean), std, entry.n])
    return stream.getvalue()


def to_tables(
    entries: Sequence[Entry], planned: Sequence[Cell], seeds: int
) -> list[Table]:
    """Returns a table for each metric, in the order in which runs report them.

    Args:
      entries: what was measured.
      planned: the cells, each of which gets a line.
      seeds: how many each cell should have.
    """
    axes = list(planned[0].values)
    made = []
    for (metric, simulated), group in _by_metric(entries).items():
        settings = list(dict.fromkeys(entry.setting for entry in group))
        shown: dict[str, dict[str, str]] = {}
        for entry in group:
            line = shown.setdefault(entry.cell.name, {})
            before = f"{line[entry.setting]}, " if entry.setting in line else ""
            line[entry.setting] = before + entry.show(seeds)
        rows = [
            [*(cell.values[axis] for axis in axes)]
            + [shown.get(cell.name, {}).get(s, text.NOTHING) for s in settings]
            for cell in planned
        ]
        title = metric + (" (simulated)" if simulated else "")
        made.append(Table(title, [*axes, *settings], rows, len(axes)))
    return made


def to_text(table: Table) -> str:
    """Returns a table for a terminal, columns aligned."""
    lines = [[_line(cell) for cell in line] for line in (table.heads, *table.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width for width in widths]
    shown = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in (lines[0], rule, *lines[1:])
    ]
    return "\n".join([_line(table.title), *(line.rstrip() for line in shown)])


def to_figures(entries: Sequence[Entry], axes: Sequence[str]) -> list[dict[str, Any]]:
    """Returns plots of each metric against the first axis.

    The other axes and the settings are series; where these are more than eight,
    each setting has its own plot. What is not finite is a gap.
    """
    figures = []
    for (metric, simulated), group in _by_metric(entries).items():
        title = metric + (" (simulated)" if simulated else "")
        settings = list(dict.fromkeys(entry.setting for entry in group))
        others = {tuple(entry.cell.values[a] for a in axes[1:]) for entry in group}
        if len(settings) * len(others) <= _WIDE:
            figures.append(_figure(title, group, axes, len(settings) > 1))
            continue
        for setting in settings:
            part = [entry for entry in group if entry.setting == setting]
            figures.append(_figure(f"{title}: {setting}", part, axes, False))
    return [figure for figure in figures if _drawable(figure)]


def to_curves(
    found: Sequence[tuple[Cell, Sequence[Document]]],
) -> list[dict[str, Any]]:
    """Returns the line plots that all finished cells have, with the curves of each.

    They are those of the cells' first finished seeds, matched by title. Where a plot
    would have more than eight curves, each of its own has a plot for itself; where
    there are more than eight cells there are none.

    Args:
      found: each cell with the `results.json` of its finished seeds.
    """
    drawn = {
        cell.name: {f["title"]: f for f in runs[0]["figures"] if f["kind"] == "line"}
        for cell, runs in found
        if runs
    }
    if not 2 <= len(drawn) <= _WIDE:
        return []
    every = list(drawn.values())
    titles = [title for title in every[0] if all(title in own for own in every)]
    figures = []
    for title in titles:
        plots = {name: own[title] for name, own in drawn.items()}
        first = next(iter(plots.values()))
        curves = [
            (series["label"], {**series, "label": f"{name}, {series['label']}"})
            for name, plot in plots.items()
            for series in plot["series"]
        ]
        if len(curves) <= _WIDE:
            figures.append({**first, "series": [series for _, series in curves]})
            continue
        for label in dict.fromkeys(label for label, _ in curves):
            part = [series for own, series in curves if own == label]
            figures.append({**first, "title": f"{title}: {label}", "series": part})
    return [figure for figure in figures if _drawable(figure)]


def _by_metric(entries: Sequence[Entry]) -> dict[tuple[str, bool], list[Entry]]:
    groups: dict[tuple[str, bool], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.metric, entry.simulated), []).append(entry)
    return groups


def _figure(
    title: str, entries: Sequence[Entry], axes: Sequence[str], with_setting: bool
) -> dict[str, Any]:
    first = axes[0]
    names = list(dict.fromkeys(entry.cell.values[first] for entry in entries))
    numbers = _numbers(names)
    lines: dict[str, list[Entry]] = {}
    for entry in entries:
        parts = [entry.setting] if with_setting else []
        parts += [f"{axis}={entry.cell.values[axis]}" for axis in axes[1:]]
        lines.setdefault(", ".join(parts), []).append(entry)
    series = []
    for label, line in lines.items():
        x = [entry.cell.values[first] for entry in line]
        order = range(len(x))
        if numbers:
            x = [float(value) for value in x]
            order = sorted(order, key=lambda index: x[index])
        points = [(x[i], line[i].mean, line[i].std) for i in order]
        columns = [list(column) for column in zip(*points, strict=True)]
        series.append(results.Series(label, *columns))
    unit = entries[0].unit
    figure = results.Figure(
        title=title,
        kind="errorbar",
        xlabel=first,
        ylabel=f"{entries[0].metric}, {unit}" if unit else entries[0].metric,
        series=series,
        log_x=bool(numbers) and min(numbers) > 0 and _wide(numbers),
    )
    return results.figure_document(figure)


def _numbers(names: Sequence[str]) -> list[float]:
    """Returns the axis as numbers, or [] where one of its values is none."""
    try:
        return [float(name) for name in names]
    except ValueError:
        return []


def _wide(numbers: Sequence[float]) -> bool:
    return max(numbers) / min(numbers) >= _LOG_RANGE


def _drawable(figure: Mapping[str, Any]) -> bool:
    return any(y is not None for series in figure["series"] for y in series["y"])


def _line(cell: str) -> str:
    return " ".join(cell.split())
