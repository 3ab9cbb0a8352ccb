"""A table of instances: every verdict in results.csv, and what stands at the end."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.options import option
from experiments.registry import RUNS
from experiments.report import text
from experiments.verification import cases, instances, networks
from experiments.verification.search import SearchFlags

MODE = "instances"
TABLE = "results.csv"


@dataclasses.dataclass(frozen=True)
class OwnFlags:
    """Flags of this form alone."""

    instances: str = option(
        "",
        "table of instances: the competition's (onnx,vnnlib,seconds), or with a header "
        "that names onnx, vnnlib, timeout_s, and benchmark and verdict if it has them",
    )
    benchmark: tuple[str, ...] = option(
        (), "benchmarks of the table to run, in this order; empty means all"
    )
    limit: int = option(
        0, "instances of each benchmark, the first ones; 0 means all", low=0
    )
    timeout: float = option(
        0.0,
        "largest time limit of an instance in seconds; 0 means what the table says",
        low=0.0,
    )
    workdir: str = option(
        "", f"work folder; empty means {RUNS}/verify-FOLDER. A stopped run goes on"
    )


@dataclasses.dataclass(frozen=True)
class Flags(SearchFlags, OwnFlags):
    """Flags of this form and of the search."""


def run(flags: Flags, where: Any, again: str) -> int:
    """Runs a benchmark and prints its summary.

    Args:
      flags: of the command.
      where: not used.
      again: not used.

    Returns:
      The exit code, 0 once every instance has a row.

    Raises:
      LatheError: a table that is missing or damaged, a work folder of another run.
    """
    table = networks.existing(flags.instances, "--instances")
    chosen = instances.chosen(
        instances.read_instances(table),
        flags.benchmark,
        (flags.limit,),
        (flags.timeout,),
    )
    folder = Path(flags.workdir or _folder(table, flags.benchmark))
    with cases.open_run(folder, MODE, flags) as work:
        rows = cases.decide_all(
            work,
            "verify",
            instances.cases(table.parent, chosen, flags),
            "instance",
            TABLE,
            say=lambda row: print(_line(row), flush=True),
            tally=tally,
        )
        took = work.seconds
    print(summary(rows, took))
    print(f"results  {folder / TABLE}")
    return 0


def _folder(table: Path, benchmarks: Sequence[str]) -> Path:
    words = ["verify", table.resolve().parent.name, *benchmarks]
    return Path(RUNS, "-".join(filter(None, words)))


def _line(row: Mapping[str, Any]) -> str:
    took = "" if row["seconds"] is None else f"{row['seconds']:.1f} s"
    wrong = " CONTRADICTS THE OFFICIAL VERDICT" if instances.contradicted([row]) else ""
    why = f"  {row['why']}" if row["status"] == "error" else ""
    return f"{row['status']:8} {took:>8}  {row['onnx']} {row['vnnlib']}{why}{wrong}"


def tally(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Returns how many rows are solved and open."""
    return {
        "solved": cases.count(rows, *instances.DECIDED),
        "open": cases.count(rows, "timeout", "unknown"),
    }


def summary(rows: Sequence[Mapping[str, Any]], seconds: float) -> str:
    """Returns the lines at the end of a benchmark.

    Args:
      rows: all of them.
      seconds: wall time of all parts of the run.
    """
    counts = tally(rows)
    wrong = instances.contradicted(rows)
    known = [row for row in rows if row["official"] in instances.DECIDED]
    lines = [
        "",
        f"{len(rows)} instances: solved {counts['solved']} "
        f"(unsat {cases.count(rows, 'unsat')}, sat {cases.count(rows, 'sat')}), "
        f"open {counts['open']}, errors {cases.count(rows, 'error')}",
        f"contradicted {len(wrong)} of {len(known)} official verdicts"
        if known
        else "no official verdicts to compare with",
        f"time     {text.duration(cases.seconds(rows))} deciding, "
        f"{text.duration(seconds)} in all",
    ]
    lines += [
        f"  {row['onnx']} {row['vnnlib']}: {row['status']}, official {row['official']}"
        for row in wrong
    ]
    return "\n".join(lines)
