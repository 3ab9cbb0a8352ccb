"""What the front door prints: the list of experiments, help pages, a run's summary."""

import dataclasses
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments import options
from experiments.registry import Experiment, Mode, RunFlags

WIDTH = 88

USAGE = """\
Lathe shapes neural networks to hardware and proves what is left.

python launch.py                      run the main job and say where its report is
python launch.py --list               every experiment: paper, claim, minutes, data
python launch.py NAME [flags]         run an experiment; a stopped run goes on
python launch.py NAME --help          its flags
python launch.py resume DIR           go on with the run in a work folder
python launch.py sweep NAME --grid='rho=1e-3,1e-2;weight_decay=0,5e-5'
                                      an ablation: table, CSV and plot
python launch.py report DIR...        rebuild report.html and docs/RESULTS.md
python launch.py cite NAME            BibTeX of the paper behind an experiment
python launch.py verify --onnx=NET --vnnlib=PROP
                                      prove a property of a network, or refute it
python launch.py verify --instances=instances.csv
                                      a whole benchmark; a stopped one goes on
python launch.py verify --net=NET --data=mnist --eps=0.1
                                      robustness over the images of a test set

'python launch.py sweep --help' and the like explain the flags of each command."""


def listing(experiments: Iterable[Experiment]) -> str:
    """Returns the table of experiments, one line each."""
    head = ("experiment", "paper", "minutes", "data", "claim")
    rows = [
        (
            item.name,
            f"{item.paper.arxiv or item.paper.venue} ({item.paper.year})",
            ", ".join(_cost(name, mode) for name, mode in item.modes.items()),
            ", ".join(item.data),
            item.claim,
        )
        for item in experiments
    ]
    return table([head, *rows])


def _cost(name: str, mode: Mode) -> str:
    where = "" if mode.device == Mode.device else f" ({mode.device})"
    return f"{name} {mode.minutes:g}{where}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows as text in columns, with a line under the first."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    ruled = [rows[0], ["-" * width for width in widths], *rows[1:]]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in ruled
    )
    return "\n".join(line.rstrip() for line in lines)


def experiment_help(experiment: Experiment, prog: str) -> str:
    """Returns the help page of an experiment.

    Args:
      experiment: any.
      prog: the command that it is called by.
    """
    paper = experiment.paper
    modes = [
        f"  {name}: about {mode.minutes:g} min on {mode.device}, seeds "
        f"{','.join(map(str, mode.seeds))}"
        for name, mode in experiment.modes.items()
    ]
    return "\n".join(
        [
            f"{prog} [flags]",
            "",
            *textwrap.wrap(experiment.claim, WIDTH),
            *textwrap.wrap(f"{paper.title} ({paper.year}). {paper.url}", WIDTH),
            f"data: {', '.join(experiment.data)}",
            "",
            "modes:",
            *modes,
            "",
            f"flags of {experiment.name}:",
            *flag_lines(experiment.config, _presets(experiment)),
            "",
            "flags of every experiment:",
            *flag_lines(RunFlags, modes=tuple(experiment.modes)),
        ]
    )


def sweep_help(
    usage: str,
    about: str,
    own: type,
    shared: type,
    experiment: Experiment | None = None,
) -> str:
    """Returns the help page of sweeps, of one experiment where it is given.

    Args:
      usage: how it is called.
      about: what it does.
      own: the flags of sweeps alone.
      shared: the flags of each run in a sweep.
      experiment: whose options are the axes.
    """
    modes = tuple(experiment.modes) if experiment else ()
    lines = [command_help(usage, about, own), *flag_lines(shared, modes=modes)]
    if experiment:
        lines += ["", f"axes of {experiment.name}, and flags for all cells:"]
        lines += flag_lines(experiment.config, _presets(experiment))
    return "\n".join(lines)


def _presets(experiment: Experiment) -> dict[str, Mapping[str, Any]]:
    return {name: mode.overrides for name, mode in experiment.modes.items()}


def command_help(usage: str, about: str, flags: type) -> str:
    """Returns the help page of a command.

    Args:
      usage: how it is called.
      about: what it does.
      flags: a dataclass of options.
    """
    return "\n".join([usage, "", *textwrap.wrap(about, WIDTH), "", *flag_lines(flags)])


def flag_lines(
    config_cls: type,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    modes: tuple[str, ...] = (),
) -> list[str]:
    """Returns help on each option: what, unit, range, default, presets of modes.

    Args:
      config_cls: a dataclass of options.
      presets: values that modes set, by mode and option.
      modes: what `--mode` may be, or () where that is not known.
    """
    lines = []
    for name, item in options.options_of(config_cls).items():
        if name == "mode" and modes:
            item = dataclasses.replace(item, choices=modes)
        told = "empty means" in item.help
        value = item.show(item.default) or ("" if told else "none")
        notes = [f"default {value}"] if value else []
        for mode, values in (presets or {}).items():
            if name in values:
                notes.append(f"{mode} {item.show(values[name]) or 'none'}")
        unit = f" [{item.unit}]" if item.unit else ""
        limits = "" if item.kind is str and not item.choices else f"; {item.expected()}"
        default = f" ({'; '.join(notes)})" if notes else ""
        lines.append(f"  --{name}")
        lines += textwrap.wrap(
            f"{item.help}{unit}{limits}{default}",
            WIDTH,
            initial_indent="      ",
            subsequent_indent="      ",
            break_on_hyphens=False,
        )
    return lines


def summary(document: Mapping[str, Any]) -> str:
    """Returns the rows of a `results.json` as text."""
    from experiments.report import text

    rows = document["rows"]
    if not rows:
        return "(no rows)"
    head = ("metric", "setting", "measured", "baseline", "paper", "holds")
    seeds = len(document["seeds"])
    body = [
        (
            row["metric"] + (" (simulated)" if row["simulated"] else ""),
            row["setting"],
            text.measured(row, seeds),
            text.other(row, "baseline"),
            text.other(row, "paper"),
            text.HOLDS[row["holds"]],
        )
        for row in rows
    ]
    return table([head, *body])
