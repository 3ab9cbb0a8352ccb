"""Instances of a competition: a network, a property, a time limit, known verdicts."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core.errors import DataFormatError, InputError, describe, unknown_name
from experiments.verification.cases import Case, stage_name
from experiments.verification.networks import Networks, existing
from experiments.verification.search import SearchFlags, judged

DECIDED = ("sat", "unsat")
_LEAST = ("onnx", "vnnlib", "timeout_s")


class Instance(NamedTuple):
    """One row of `instances.csv`.

    Attributes:
      benchmark: what it belongs to, '' where the table does not say.
      onnx: the network's file as written, below the table's folder.
      vnnlib: the property's file, likewise.
      timeout_s: the competition's limit in seconds.
      official: the competition's verdict, '' where the table has none.
    """

    benchmark: str
    onnx: str
    vnnlib: str
    timeout_s: float
    official: str = ""


def read_instances(path: Path) -> list[Instance]:
    """Reads a table of instances.

    Args:
      path: the competition's form (onnx, vnnlib, seconds, without a header), or one
        with a header of at least onnx, vnnlib and timeout_s; benchmark and verdict
        are read where there are such columns.

    Raises:
      InputError: no such file.
      DataFormatError: a row that is none; it is named.
    """
    existing(path, "--instances")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataFormatError(f"{path}: {error}") from error
    rows = [row for row in csv.reader(text.splitlines()) if any(row)]
    names: Sequence[str] = _LEAST
    if rows and {"onnx", "vnnlib"} <= {word.strip() for word in rows[0]}:
        other = {"timeout": "timeout_s"}
        names = [other.get(word.strip(), word.strip()) for word in rows.pop(0)]
    found = [_instance(path, at, names, row) for at, row in enumerate(rows, 1)]
    if not found:
        raise DataFormatError(f"{path}: {describe('no instance', 'one a line')}")
    return found


def _instance(
    path: Path, at: int, names: Sequence[str], row: Sequence[str]
) -> Instance:
    entry = {n: word.strip() for n, word in zip(names, row, strict=False)}
    try:
        onnx, vnnlib, limit = (entry[name] for name in _LEAST)
        timeout = float(limit)
        if not (onnx and vnnlib and 0 < timeout < float("inf")):
            raise ValueError
    except (KeyError, ValueError):
        expected = "network, property and seconds above 0"
        raise DataFormatError(
            f"{path}, instance {at}: {describe(','.join(row), expected)}"
        ) from None
    official = entry.get("verdict", "")
    return Instance(entry.get("benchmark", ""), onnx, vnnlib, timeout, official)


def chosen(
    instances: Sequence[Instance],
    benchmarks: Sequence[str] = (),
    most: Sequence[int] = (0,),
    caps: Sequence[float] = (0.0,),
) -> list[Instance]:
    """Returns the instances of some benchmarks, network by network.

    Args:
      instances: of one table.
      benchmarks: names in the order to run; none for all.
      most: instances of each benchmark, one number for all or one for each; 0 for all.
      caps: largest time limits in seconds, likewise; 0 for none.

    Raises:
      InputError: neither one number nor one for each benchmark.
      UnknownNameError: a benchmark that the table has not.
    """
    known = list(dict.fromkeys(instance.benchmark for instance in instances))
    names = list(benchmarks) or known
    for name in names:
        if name not in known:
            raise unknown_name("benchmark", name, known)
    limits, ceilings = _each("limits", most, names), _each("caps", caps, names)
    found = []
    for name, limit, cap in zip(names, limits, ceilings, strict=True):
        part = [instance for instance in instances if instance.benchmark == name]
        part = part[: int(limit) or None]
        for one in _by_network(part):
            seconds = min(one.timeout_s, cap) if cap else one.timeout_s
            found.append(one._replace(timeout_s=seconds))
    return found


def _each(flag: str, given: Sequence[float], names: Sequence[str]) -> list[float]:
    if len(given) not in (1, len(names)):
        wanted = f"one number, or {len(names)}: one for each benchmark"
        raise InputError(f"--{flag}: {describe(','.join(map(str, given)), wanted)}")
    return list(given) * (len(names) if len(given) == 1 else 1)


def _by_network(instances: Iterable[Instance]) -> list[Instance]:
    groups: dict[str, list[Instance]] = {}
    for instance in instances:
        groups.setdefault(instance.onnx, []).append(instance)
    return [instance for group in groups.values() for instance in group]


def cases(
    folder: Path, instances: Sequence[Instance], flags: SearchFlags
) -> list[Case]:
    """Returns the cases of instances.

    Args:
      folder: of the table.
      instances: in the order to run; those of one network follow each other.
      flags: of the search.
    """
    networks = Networks()

    def case(one: Instance) -> Case:
        def load() -> Any:
            onnx, vnnlib = existing(folder / one.onnx), existing(folder / one.vnnlib)
            return networks.problem(onnx, vnnlib)

        about = {"benchmark": one.benchmark, "onnx": one.onnx, "vnnlib": one.vnnlib}
        return Case(
            stage_name(one.onnx, one.vnnlib, f"{one.timeout_s:g}"),
            {**about, "timeout_s": one.timeout_s},
            lambda: judged(load, flags, one.timeout_s)[0],
            {"official": one.official},
        )

    distinct = {case(one).stage: case(one) for one in instances}
    return list(distinct.values())


def contradicted(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns the rows whose verdict is the opposite of the official one."""
    return [
        row
        for row in rows
        if row["status"] in DECIDED
        and row["official"] in DECIDED
        and row["status"] != row["official"]
    ]
