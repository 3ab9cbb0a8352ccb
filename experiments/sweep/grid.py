"""The grid of a sweep: its text, its cells, and where each one runs."""

import hashlib
import itertools
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core.errors import InputError, describe, unknown_name
from experiments import options, results
from experiments.registry import Experiment

LAUNCH = Path(__file__).resolve().parents[2] / "launch.py"
PASSED_ON = ("data_dir", "checkpoint_secs")
"""Flags of a run that are no option of its experiment; they change no number."""
_FORM = "'name=value,value;name=value,...'"

Grid = Mapping[str, Sequence[str]]


class Cell(NamedTuple):
    """One point of the grid.

    Attributes:
      values: text of each axis, as the command line takes it, in the grid's order.
      folder: where its seeds run, one folder each.
      config: what its `results.json` must hold as config.
    """

    values: dict[str, str]
    folder: Path
    config: dict[str, Any]

    @property
    def name(self) -> str:
        """The cell in words: 'rho=0.001 stages=5'."""
        return " ".join(f"{key}={value}" for key, value in self.values.items())


class Task(NamedTuple):
    """One seed of one cell: a command, its work folder and its two logs."""

    name: str
    folder: Path
    command: tuple[str, ...]

    @property
    def stdout(self) -> Path:
        """What the command printed."""
        return self.folder.with_name(f"{self.folder.name}.out")

    @property
    def stderr(self) -> Path:
        """What it printed as errors and progress."""
        return self.folder.with_name(f"{self.folder.name}.err")


Command = Callable[[str, str, int, Path, Mapping[str, str]], Sequence[str]]
"""From experiment, mode, seed, work folder and flags to the words of a command."""


def launch(
    experiment: str, mode: str, seed: int, folder: Path, flags: Mapping[str, str]
) -> list[str]:
    """Returns the command that runs one seed of one cell through `launch.py`."""
    words = [sys.executable, str(LAUNCH), experiment, f"--mode={mode}"]
    words += [f"--workdir={folder}", f"--seeds={seed}"]
    return words + [f"--{name}={value}" for name, value in flags.items()]


def parse_grid(text: str) -> dict[str, list[str]]:
    """Returns the values of each axis of a grid.

    Values are separated by commas, or by bars where a value itself holds commas:
    'rho=1e-3,1e-2;lenet300_epochs=60,80,60|30,40,30'. Names and ranges are checked by
    `cells`.

    Raises:
      InputError: not of that form, an empty value, or an axis given twice.

    Example:
      >>> parse_grid("rho=1e-3,1e-2;stages=5")
      {'rho': ['1e-3', '1e-2'], 'stages': ['5']}
    """
    axes: dict[str, list[str]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, listed = (word.strip() for word in part.partition("="))
        if not name or not equals:
            raise InputError(f"--grid: {describe(repr(part), _FORM)}")
        if name in axes:
            remedy = "Put all its values after one name"
            raise InputError(f"--grid: {describe(f'{name} twice', 'once', remedy)}")
        separator = "|" if "|" in listed else ","
        axes[name] = [value.strip() for value in listed.split(separator)]
        if not all(axes[name]):
            expected = f"{name}=value,value with no empty value"
            raise InputError(f"--grid: {describe(repr(part), expected)}")
    if not axes:
        raise InputError(f"--grid: {describe(repr(text), _FORM)}")
    return axes


def cells(
    experiment: Experiment,
    grid: Grid,
    mode: str,
    flags: Mapping[str, Any],
    workdir: Path,
) -> list[Cell]:
    """Returns the product of the grid's axes, the last one fastest, all checked.

    Values take the form in which options show them (1e-3 becomes 0.001), so that
    one value has one folder however it was written.

    Args:
      experiment: its config says what the axes may be.
      grid: the values of each axis.
      mode: whose presets hold where neither grid nor flags give a value.
      flags: values of other options, the same in every cell.
      workdir: the sweep's folder.

    Raises:
      UnknownNameError: an axis, a flag or a mode that the experiment has not.
      InputError: a value out of its range, given twice, or both as axis and flag.
    """
    known = options.options_of(experiment.config)
    axes: dict[str, list[str]] = {}
    for name, values in grid.items():
        if name not in known:
            raise unknown_name("option", name, known)
        if name in flags:
            remedy = "Leave one of them out"
            raise InputError(
                f"--grid: {describe(f'{name} and --{name}', 'one of them', remedy)}"
            )
        axes[name] = [known[name].show(known[name].parse(value)) for value in values]
        twice = {value for value in axes[name] if axes[name].count(value) > 1}
        if twice or not values:
            given = f"{name}={sorted(twice)[0]} twice" if twice else f"{name} empty"
            remedy = _lists(known, {name: ""})
            raise InputError(f"--grid: {describe(given, 'each value once', remedy)}")
    preset = experiment.mode(mode).overrides
    found = []
    for point in itertools.product(*axes.values()):
        values = dict(zip(axes, point, strict=True))
        folder = workdir / folder_name(values)
        cell = Cell(values, folder, {})
        try:
            config = options.build(experiment.config, preset, {**flags, **values})
        except InputError as error:  # of values that do not fit together
            words = f"--grid: cell {cell.name}: {error}. {_lists(known, values)}"
            raise InputError(words.rstrip(". ")) from error
        found.append(cell._replace(config=results.plain(config)))
    return found


def _lists(known: Mapping[str, options.Option], axes: Mapping[str, str]) -> str:
    """Returns how to write values that are lists, if `axes` has such options."""
    many = [name for name in axes if known[name].many]
    return f"Values of {many[0]} are lists: put | between them" if many else ""


def folder_name(values: Mapping[str, str]) -> str:
    """Returns a cell's folder: readable, and one name for one cell.

    What a file system may not take is replaced, and a hash is added then.
    """
    whole = "__".join(f"{key}={value}" for key, value in values.items())
    name = re.sub(r"[^\w.+=,-]", "_", whole, flags=re.ASCII)
    if name == whole and len(name) <= 120 and whole.count("__") == len(values) - 1:
        return name
    return f"{name[:100]}-{hashlib.sha256(whole.encode()).hexdigest()[:10]}"


def problem(document: Mapping[str, Any], cell: Cell, mode: str, seed: int) -> str:
    """Returns how a `results.json` differs from what a task must give, or ''."""
    wanted = {"mode": mode, "seeds": [seed], "config": cell.config}
    for key, value in wanted.items():
        if document[key] != value:
            return f"{key} is {document[key]}, not {value}"
    return ""
