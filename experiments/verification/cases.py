"""Many decisions in one work folder: each runs once, each is a row of a table.

A case is a stage of the run, so a killed run goes on with the first case that is not
finished. A case that fails is a row with the status `error`; it is tried again when
the same command is given again, and the others go on.
"""

import csv
import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from core.errors import WorkdirError
from experiments import files, interrupt

if TYPE_CHECKING:
    from experiments.workdir import Run

COMMAND = "verify"
"""What `config.json` of such a folder calls the experiment."""
FOUND = ("status", "seconds", "domains", "phase", "lower")
"""Columns of every table, as `search.record` makes them."""


class Case(NamedTuple):
    """One decision.

    Attributes:
      stage: its name in the work folder; see `stage_name`.
      about: what stands before the verdict in its row.
      decide: returns the dict of `search.record`.
      after: what stands behind the verdict.
    """

    stage: str
    about: Mapping[str, Any]
    decide: Callable[[], dict[str, Any]]
    after: Mapping[str, Any] = {}


def stage_name(*words: Any) -> str:
    """Returns a stage's name that is readable, short, and different for other words.

    Example:
      >>> stage_name("nets/a.onnx", "p.vnnlib", 60.0)
      'a-p-60.0-7ff0d6b1'
    """
    text = [str(word) for word in words]
    code = hashlib.sha256("\0".join(text).encode()).hexdigest()[:8]
    short = [re.sub(r"\.(onnx|vnnlib)(\.gz)?$", "", w.split("/")[-1]) for w in text]
    readable = re.sub(r"[^A-Za-z0-9._=,+-]", "_", "-".join(short))[:80]
    return f"{readable.lstrip('.') or 'case'}-{code}"


def decide_all(
    run: "Run",
    title: str,
    cases: Sequence[Case],
    unit: str,
    table: str = "",
    say: Callable[[Mapping[str, Any]], None] = lambda row: None,
    tally: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """Returns a row for each case, in order.

    Args:
      run: the work folder.
      title: shown before the progress bar.
      cases: with stages of different names.
      unit: what a case is called, in the singular.
      table: name of a csv file in the work folder, written row by row; '' for none.
      say: called with each row that was not there before.
      tally: numbers to show beside the bar, from the rows so far.
    """
    rows: list[dict[str, Any]] = []
    with (
        run.progress(title, len(cases), unit) as bar,
        _Table(run.dir / table if table else None) as sheet,
    ):
        for case in cases:
            before = len(run.fresh)
            found = _decided(run, case)
            row = {**case.about, **found, **case.after}
            row["why"] = row.pop("why", "")
            rows.append(row)
            sheet.add(row)
            if len(run.fresh) > before:
                say(row)
            bar.update(1, **(tally(rows) if tally else {}))
    return rows


def _decided(run: "Run", case: Case) -> dict[str, Any]:
    try:
        return run.stage(case.stage, case.decide)
    except WorkdirError:  # no case's fault
        raise
    except Exception as error:  # one bad case must not lose the others
        interrupt.check()
        why = f"{type(error).__name__}: {' '.join(str(error).split())}"
        empty: dict[str, Any] = dict.fromkeys(FOUND)
        return {**empty, "status": "error", "why": why[:500]}


class _Table:
    """A csv file that grows by a row at a time and is whole after each."""

    def __init__(self, path: Path | None):
        self._path = path
        self._file = None
        self._writer: Any = None

    def __enter__(self) -> "_Table":
        if self._path is not None:
            with files.writing(self._path):
                self._file = self._path.open("w", newline="", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, row: Mapping[str, Any]) -> None:
        if self._file is None or self._path is None:
            return
        with files.writing(self._path):
            if self._writer is None:
                self._writer = csv.DictWriter(self._file, list(row))
                self._writer.writeheader()
            self._writer.writerow(row)
            self._file.flush()


def count(rows: Iterable[Mapping[str, Any]], *statuses: str) -> int:
    """Returns how many rows have one of the statuses."""
    return sum(row["status"] in statuses for row in rows)


def seconds(rows: Iterable[Mapping[str, Any]]) -> float:
    """Returns the seconds of all rows that were decided, together."""
    return sum(row["seconds"] or 0.0 for row in rows)


def open_run(folder: Path, mode: str, flags: Any) -> "Run":
    """Returns the work folder of a `launch.py verify` that decides many things.

    Args:
      folder: where.
      mode: which form of the command.
      flags: its flags; a folder belongs to one set of them.
    """
    from experiments.workdir import Run

    mine = dataclasses.replace(flags, workdir="")
    return Run(folder, experiment=COMMAND, config=mine, mode=mode, seeds=(flags.seed,))
