"""Protocol, rows and figures of `vnncomp`: any benchmark folder."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.results import Figure, Outcome, Row, Series
from experiments.verification import benchmark, cases, instances, networks
from experiments.verification.search import SearchFlags

if TYPE_CHECKING:
    from experiments.workdir import Run

Rows = Sequence[Mapping[str, Any]]

SLACK = 2.0
"""Seconds that a verdict may come after its limit."""
COMPLETE = ("test", "acasxu", "mnistfc")
"""Benchmarks of 2021 of which every provided instance is to be solved."""


def decide(run: "Run", config: Any) -> list[dict[str, Any]]:
    """Decides every instance; each is a stage of the run.

    Args:
      run: the work folder.
      config: of the experiment.

    Returns:
      A row for each instance, with its official limit as `official_s`.

    Raises:
      DataUnavailableError: there is no such folder.
    """
    table = _table(run, config)
    every = instances.read_instances(table)
    chosen = instances.chosen(every, config.benchmarks, config.limits, config.caps)
    official = {one[:3]: one.timeout_s for one in every}
    seed, *others = run.seeds
    if others:
        run.note(f"a verdict is no matter of chance: only seed {seed} is run")
    rows = cases.decide_all(
        run,
        "vnncomp",
        instances.cases(table.parent, chosen, SearchFlags(seed=seed)),
        "instance",
        benchmark.TABLE,
        tally=benchmark.tally,
    )
    keys = ("benchmark", "onnx", "vnnlib")
    return [{**r, "official_s": official[tuple(r[k] for k in keys)]} for r in rows]


def _table(run: "Run", config: Any) -> Path:
    if config.folder:
        return networks.existing(Path(config.folder, "instances.csv"), "--folder")
    return networks.provided(
        "vnncomp2021",
        "instances.csv",
        data_dir=run.data_dir,
        remedy="Or name a benchmark's folder with --folder",
    )


def outcome(rows: Rows) -> Outcome:
    """Returns the report of all verdicts.

    Args:
      rows: as `decide` returns them.
    """
    names = list(dict.fromkeys(row["benchmark"] for row in rows))
    parts = {
        name or "all": [r for r in rows if r["benchmark"] == name] for name in names
    }
    found: list[Row] = []
    for name, part in parts.items():
        found += _rows(name, part)
    wrong = len(instances.contradicted(rows))
    known = sum(row["official"] in instances.DECIDED for row in rows)
    if known:
        where = f"{known} official verdicts"
        found.append(Row("contradictions", where, wrong, None, 0, holds=not wrong))
    late = max((_late(row) for row in rows), default=0.0)
    found.append(
        Row(
            "latest verdict after its limit",
            f"limit of {SLACK:g} s",
            late,
            unit="s",
            holds=late <= SLACK,
        )
    )
    return Outcome(found, list(_figures(parts)), _notes(rows), ("VNN-COMP 2021",))


def _late(row: Mapping[str, Any]) -> float:
    return max(0.0, (row["seconds"] or 0.0) - row["timeout_s"])


def _rows(name: str, part: Rows) -> Iterable[Row]:
    capped = any(row["timeout_s"] < row["official_s"] for row in part)
    limits = sorted({row["timeout_s"] for row in part})
    times = f"{limits[0]:g}" if len(limits) == 1 else f"{limits[0]:g} to {limits[-1]:g}"
    setting = f"{name}, {len(part)} instances, {times} s"
    solved = [row for row in part if row["status"] in instances.DECIDED]
    known = [row["official"] in instances.DECIDED for row in part if row["official"]]
    judged = name in COMPLETE and not capped
    yield Row(
        "solved",
        setting,
        len(solved),
        None,
        sum(known) if known else None,
        holds=len(solved) == len(part) if judged else None,
    )
    for status, title in (("unsat", "holds"), ("sat", "violated")):
        theirs = sum(row["official"] == status for row in part) if known else None
        yield Row(title, setting, cases.count(part, status), None, theirs)
    mean = cases.seconds(solved) / len(solved) if solved else math.nan
    if solved:
        yield Row("time of a solved instance, mean", setting, mean, unit="s")
        longest = max(row["seconds"] for row in solved)
        yield Row("time of a solved instance, longest", setting, longest, unit="s")


def _figures(parts: Mapping[str, Rows]) -> Iterable[Figure]:
    curves = []
    for name, part in parts.items():
        times = sorted(
            max(r["seconds"], 1e-3) for r in part if r["status"] in instances.DECIDED
        )
        if times:
            curves.append(Series(name, times, list(range(1, len(times) + 1))))
    if curves:
        yield Figure(
            "Instances solved in a time",
            "line",
            "seconds an instance",
            "instances solved",
            curves,
            log_x=True,
        )


def _notes(rows: Rows) -> list[str]:
    notes = [
        "Instances are decided one after the other, those of one network in a row; the "
        "time of an instance includes reading its files and whatever is compiled for "
        "it. The baseline of solved instances is what any tool of the competition "
        "solved.",
    ]
    wrong = instances.contradicted(rows)
    notes += [
        f"contradicted: {row['onnx']} {row['vnnlib']} is {row['status']} here and "
        f"{row['official']} in the competition"
        for row in wrong
    ]
    left = [row for row in rows if row["status"] not in instances.DECIDED]
    notes += [
        f"{row['status']}: {row['onnx']} {row['vnnlib']} after "
        f"{row['seconds'] or 0:.0f} s"
        for row in left[:20]
    ]
    if len(left) > 20:
        notes.append(f"and {len(left) - 20} more that are not solved")
    return notes
