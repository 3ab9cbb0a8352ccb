"""The commands on many runs: `launch.py sweep` and `launch.py report`."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from core.errors import InputError, WorkdirError, describe
from experiments import manual, options, registry
from experiments.commandline import HELP, LAUNCH, no_more, parse, seeds_of
from experiments.registry import RunFlags

RESULTS_MD = "docs/RESULTS.md"


@dataclasses.dataclass(frozen=True)
class SweepFlags:
    """Flags of `launch.py sweep`, beside those of the experiment."""

    grid: str = options.option(
        "",
        "axes and their values: 'rho=1e-3,1e-2;weight_decay=0,5e-5', with | between "
        "values that are lists themselves: 'lenet300_epochs=60,80,60|30,40,30'",
    )
    executor: str = options.option(
        "local", "where cells run", choices=("local", "slurm")
    )
    workers: int = options.option(
        1, "cells that run at the same time", unit="processes", low=1
    )


@dataclasses.dataclass(frozen=True)
class CellFlags(RunFlags):
    """Flags that hold in all cells of a sweep; the work folder is the sweep's."""

    workdir: str = options.option(
        "", f"folder of the sweep; empty means {registry.RUNS}/NAME-MODE-sweep"
    )


@dataclasses.dataclass(frozen=True)
class ReportFlags:
    """Flags of `launch.py report`."""

    results_md: str = options.option(
        "", f"the page of all results; empty means {RESULTS_MD} beside launch.py"
    )
    keep: bool = options.option(
        True, "whether the page keeps its sections of other commands as they are"
    )


def sweep_command(argv: Sequence[str]) -> int:
    """Runs an experiment over a grid of option values.

    Args:
      argv: the command line after `sweep`.

    Returns:
      The exit code.
    """
    usage = f"{LAUNCH} sweep NAME --grid=... [flags]"
    words = [word for word in argv if not word.startswith("-")]
    named = [word for word in words if word in registry.EXPERIMENTS]
    name = next(iter([*named, *words]), "")  # '--grid GRID' may come before
    if HELP.intersection(argv):
        about = (
            "Runs every cell of a grid, each seed in a work folder of its own, and "
            "writes a table (mean ± std over seeds), CSV and plot. Cells that are "
            "finished are not run again. Flags of the experiment hold in all cells."
        )
        experiment = registry.get(name) if name else None
        usage = usage.replace("NAME", name) if name else usage
        print(manual.sweep_help(usage, about, SweepFlags, CellFlags, experiment))
        return 0
    if not name:
        raise InputError(f"sweep: {describe('no name', 'an experiment', usage)}")
    experiment = registry.get(name)
    (given, own, extra), rest = parse(argv, SweepFlags, CellFlags, experiment.config)
    rest.remove(name)
    no_more(rest)
    sweep = options.build(SweepFlags, given=given)
    run = options.build(CellFlags, given=own)
    mode = experiment.mode(run.mode)
    extra |= {n: own[n] for n in ("data_dir", "checkpoint_secs") if n in own}
    from experiments import sweep as sweeps

    return sweeps.sweep(
        experiment,
        sweeps.parse_grid(sweep.grid),
        seeds=seeds_of(own, run.seeds, mode.seeds),
        mode=run.mode,
        extra_flags=extra,
        workdir=Path(run.workdir or f"{registry.RUNS}/{name}-{run.mode}-sweep"),
        workers=sweep.workers,
        executor=sweep.executor,
    )


def report_command(argv: Sequence[str], usual: Path) -> int:
    """Rebuilds reports and the page of results from `results.json` files.

    Args:
      argv: the command line after `report`.
      usual: the page of all results where no flag names another.

    Returns:
      The exit code.
    """
    usage = f"{LAUNCH} report DIR... [flags]"
    if HELP.intersection(argv):
        about = (
            "Rebuilds report.html in each work folder, and the page of these results "
            "(without --keep of no others). Folders without results are skipped."
        )
        print(manual.command_help(usage, about, ReportFlags))
        return 0
    (given,), rest = parse(argv, ReportFlags)
    if not rest:
        raise InputError(f"report: {describe('no folder', 'work folders', usage)}")
    flags = options.build(ReportFlags, given=given)
    page = Path(flags.results_md) if flags.results_md else usual
    if page.is_dir():
        raise InputError(f"--results_md: {describe(f'folder {page}', 'a file')}")
    from experiments import report, results

    finished = {}
    for folder in map(Path, rest):
        reason = _unfinished(folder)
        if reason:
            print(f"skipped {folder}: {reason}", file=sys.stderr)
        else:
            finished[folder] = results.read(folder)
    if not finished:
        raise WorkdirError("report: got no folder of a finished run; expected one")
    for folder in finished:
        print(f"report   {report.write_html(folder)}")
    print(f"results  {report.write_results_md(finished, page, keep=flags.keep)}")
    for folder, found in finished.items():
        print(f"  holds  {found['experiment']}, mode {found['mode']}, from {folder}")
    return 0


def _unfinished(folder: Path) -> str:
    """Returns why a folder has no results to report, or ''."""
    from experiments import results, sweep

    if folder.suffix == ".json" or (folder / results.FILE).is_file():
        return ""
    if (folder / sweep.FILE).is_file():
        return "a sweep"
    return "not finished" if folder.is_dir() else "no such folder"
