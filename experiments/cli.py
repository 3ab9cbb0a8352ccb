"""The command line: flags in, exit code out.

`front_door(argv)` is `launch.py`; `main(EXPERIMENT)` makes an experiment's module a
script of its own. Whatever a user can do wrong is one line on stderr and exit code
2; Ctrl-C is one line that says how to go on and exit code 130; a bug keeps its trace.
"""

import contextlib
import dataclasses
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging

from core.errors import InputError, LatheError, WorkdirError, describe, unknown_name
from experiments import identity, interrupt, manual, options, registry
from experiments.registry import Experiment, RunFlags

LAUNCH = "python launch.py"
RESULTS_MD = "docs/RESULTS.md"
ROOT = Path(__file__).resolve().parents[1]
_HELP = {"--help", "-help", "-h", "--helpshort", "--helpfull"}


@dataclasses.dataclass(frozen=True)
class ResumeFlags:
    """Flags of `launch.py resume`."""

    data_dir: str = options.option("", "folder of prepared data sets")
    checkpoint_secs: float = options.option(
        30.0, "least time between checkpoints", unit="seconds", low=0.0
    )


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


@dataclasses.dataclass(frozen=True)
class NoFlags:
    """A command without flags."""


def main(experiment: Experiment) -> None:
    """Runs an experiment's module as a script; ends the process.

    Args:
      experiment: the module's.
    """
    spec = sys.modules["__main__"].__spec__
    prog = f"python -m {spec.name}" if spec else f"python {sys.argv[0]}"
    sys.exit(leave(guard(lambda: run_command(experiment, sys.argv[1:], prog))))


def front_door(argv: Sequence[str], main_job: Sequence[str]) -> int:
    """Runs `launch.py`.

    Args:
      argv: the command line without the program.
      main_job: what runs where `argv` names no command: an experiment and its flags.

    Returns:
      The exit code.
    """
    return guard(lambda: _dispatch(list(argv), list(main_job)))


def leave(code: int) -> int:
    """Returns an exit code; ends the process at once if it is Ctrl-C's.

    Python's own way out crashes now and then where XLA still computes. Work folders
    are closed by now.

    Args:
      code: of `front_door` or `guard`.
    """
    if code == 130:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    return code


def guard(command: Callable[[], int]) -> int:
    """Runs a command; a user's mistake becomes one line and exit code 2.

    Args:
      command: returns an exit code. With LATHE_TRACE set in the environment its
        errors keep their traces, to see where in the code a message comes from.

    Returns:
      The exit code.
    """
    with interrupt.listening():
        try:
            with _interruptible(""):
                return command()
        except LatheError as error:
            if os.environ.get("LATHE_TRACE"):
                raise
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        except KeyboardInterrupt as stop:
            print(f"interrupted{''.join(map(str, stop.args))}", file=sys.stderr)
            return 130
        except BrokenPipeError:  # the reader of our output has left: `--list | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0


@contextlib.contextmanager
def _interruptible(remedy: str) -> Iterator[None]:
    """Says how to go on after Ctrl-C, also where it came out as another error."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(*(stop.args or [remedy])) from None
    except Exception:
        if not interrupt.asked():
            raise
        raise KeyboardInterrupt(remedy) from None


def _dispatch(argv: list[str], main_job: list[str]) -> int:
    commands = {
        "resume": resume_command,
        "sweep": sweep_command,
        "report": report_command,
        "cite": cite_command,
    }
    if argv[:1] == ["list"] or "--list" in argv:
        _, rest = parse([word for word in argv if word != "--list"], NoFlags)
        if rest not in ([], ["list"]):
            raise InputError(describe(f"argument {rest[-1]!r}", "--list alone"))
        print(manual.listing(registry.EXPERIMENTS.values()))
        return 0
    if argv[:1] == ["help"]:
        argv = [*argv[1:], "--help"]
    name = argv[0] if argv and not argv[0].startswith("-") else ""
    if not name and _HELP.intersection(argv):
        print(manual.USAGE)
        return 0
    if not name:
        return _dispatch([*main_job, *argv], main_job)
    if name in commands:
        return commands[name](argv[1:])
    if name not in registry.EXPERIMENTS:
        raise unknown_name("experiment", name, [*registry.EXPERIMENTS, *commands])
    return run_command(registry.get(name), argv[1:], f"{LAUNCH} {name}")


def run_command(experiment: Experiment, argv: Sequence[str], prog: str) -> int:
    """Runs an experiment from its flags.

    Args:
      experiment: any, registered or not.
      argv: flags only.
      prog: the command that they follow, for help and for `results.json`.

    Returns:
      The exit code.

    Raises:
      LatheError: whatever the flags have wrong.
    """
    if _HELP.intersection(argv):
        print(manual.experiment_help(experiment, prog))
        return 0
    (own, given), rest = parse(argv, RunFlags, experiment.config)
    _no_more(rest)
    run = options.build(RunFlags, given=own)
    mode = experiment.mode(run.mode)
    config = options.build(experiment.config, mode.overrides, given)
    seeds = _seeds(own, run.seeds, mode.seeds)
    folder = Path(run.workdir or f"{registry.RUNS}/{experiment.name}-{run.mode}")
    run = dataclasses.replace(run, workdir=str(folder), seeds=seeds)
    again = shlex.join([*prog.split(), *argv])
    return _start(experiment, config, run, again, prog)


def resume_command(argv: Sequence[str]) -> int:
    """Goes on with the run of a work folder."""
    usage = f"{LAUNCH} resume DIR [flags]"
    if _HELP.intersection(argv):
        about = "Goes on with the run in a work folder, with the config stored there."
        print(manual.command_help(usage, about, ResumeFlags))
        return 0
    (given,), rest = parse(argv, ResumeFlags)
    folder = Path(_one(rest, "work folder", usage))
    stored = identity.read(folder)
    experiment = registry.get(stored["experiment"])
    config = identity.config_of(stored, experiment.config)
    own = {"mode": stored["mode"], "workdir": str(folder), "seeds": stored["seeds"]}
    run = options.build(RunFlags, own, given)
    experiment.mode(run.mode)
    again = shlex.join([*LAUNCH.split(), "resume", *argv])
    return _start(experiment, config, run, again, f"{LAUNCH} {experiment.name}")


def sweep_command(argv: Sequence[str]) -> int:
    """Runs an experiment over a grid of option values."""
    usage = f"{LAUNCH} sweep NAME --grid=... [flags]"
    words = [word for word in argv if not word.startswith("-")]
    named = [word for word in words if word in registry.EXPERIMENTS]
    name = next(iter([*named, *words]), "")  # '--grid GRID' may come before
    if _HELP.intersection(argv):
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
    _no_more(rest)
    sweep = options.build(SweepFlags, given=given)
    run = options.build(CellFlags, given=own)
    mode = experiment.mode(run.mode)
    extra |= {n: own[n] for n in ("data_dir", "checkpoint_secs") if n in own}
    from experiments import sweep as sweeps

    return sweeps.sweep(
        experiment,
        sweeps.parse_grid(sweep.grid),
        seeds=_seeds(own, run.seeds, mode.seeds),
        mode=run.mode,
        extra_flags=extra,
        workdir=Path(run.workdir or f"{registry.RUNS}/{name}-{run.mode}-sweep"),
        workers=sweep.workers,
        executor=sweep.executor,
    )


def report_command(argv: Sequence[str]) -> int:
    """Rebuilds reports and the page of results from `results.json` files."""
    usage = f"{LAUNCH} report DIR... [flags]"
    if _HELP.intersection(argv):
        about = (
            "Rebuilds report.html in each work folder, and the page of exactly these "
            "results. Folders without results are skipped."
        )
        print(manual.command_help(usage, about, ReportFlags))
        return 0
    (given,), rest = parse(argv, ReportFlags)
    if not rest:
        raise InputError(f"report: {describe('no folder', 'work folders', usage)}")
    named = options.build(ReportFlags, given=given).results_md
    page = Path(named) if named else ROOT / RESULTS_MD
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
    print(f"results  {report.write_results_md(finished, page)}")
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


def cite_command(argv: Sequence[str]) -> int:
    """Prints the BibTeX of an experiment's paper."""
    usage = f"{LAUNCH} cite NAME"
    if _HELP.intersection(argv):
        print(f"{usage}\n\nPrints the BibTeX of the paper behind an experiment.")
        return 0
    _, rest = parse(argv, NoFlags)
    print(registry.get(_one(rest, "experiment", usage)).paper.bibtex())
    return 0


def _start(
    experiment: Experiment, config: Any, flag: RunFlags, again: str, prog: str
) -> int:
    with _interruptible(f"; the same command goes on: {again}"):
        _work(experiment, config, flag, prog)
    return 0


def _work(experiment: Experiment, config: Any, flag: RunFlags, prog: str) -> None:
    from experiments import report, results
    from experiments.workdir import Run

    flags.FLAGS.mark_as_parsed()  # packages look at the global flags and log
    logging.set_verbosity(logging.ERROR)
    folder = Path(flag.workdir)
    run = Run(
        folder,
        experiment=experiment.name,
        config=config,
        mode=flag.mode,
        seeds=flag.seeds,
        data_dir=flag.data_dir or None,
        checkpoint_secs=flag.checkpoint_secs,
        say=lambda line: print(line, flush=True),
    )
    with run:
        outcome = experiment.run(run, config)
        info = results.RunInfo(
            mode=run.mode,
            seeds=run.seeds,
            config=config,
            seconds=run.seconds,
            data=experiment.data,
            command=_command(experiment, config, flag, prog),
        )
        notes = [*outcome.notes, *run.notes]
        document = results.write(
            folder, experiment, info, outcome._replace(notes=notes)
        )
        page = report.write_html(folder)
    _tell(run, document, page)


def _command(experiment: Experiment, config: Any, flag: RunFlags, prog: str) -> str:
    """Returns the command that gives the same numbers: all that is no default."""
    preset = options.build(experiment.config, experiment.mode(flag.mode).overrides)
    words = [prog, f"--mode={flag.mode}", f"--seeds={','.join(map(str, flag.seeds))}"]
    for name, item in options.options_of(experiment.config).items():
        if getattr(config, name) != getattr(preset, name):
            words.append(shlex.quote(f"--{name}={item.show(getattr(config, name))}"))
    return " ".join(words)


def _tell(run: Any, document: dict[str, Any], page: Path) -> None:
    from experiments import results
    from experiments.report import text

    took = text.duration(run.seconds)
    state = f"finished in {took}" if run.fresh else f"was finished before, in {took}"
    print(f"\n{run.experiment}, mode {run.mode}: {state}\n")
    print(manual.summary(document))
    print(f"\n{text.verdict(document['rows'])}.")
    print(f"results  {run.dir / results.FILE}\nreport   {page}")


def parse(
    argv: Sequence[str], *configs: type
) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns the flags given of each config class, and what is no flag."""
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    for config in configs:
        options.define_flags(config, values)
    try:
        rest = values(["launch", *argv])[1:]
    except flags.UnrecognizedFlagError as error:
        names = [f"--{n}" for config in configs for n in options.options_of(config)]
        if not names:
            given = f"--{error.flagname}"
            raise InputError(describe(given, "no flags beside this command")) from error
        raise unknown_name("flag", f"--{error.flagname}", names) from error
    except flags.IllegalFlagValueError as error:  # only switches are read by absl
        given = str(error).split(":")[0]
        raise InputError(describe(given, "true or false")) from error
    except (flags.Error, ValueError) as error:  # ValueError: --noswitch=1
        raise InputError(str(error)) from error
    return [options.given_flags(config, values) for config in configs], rest


def _seeds(
    given: dict[str, Any], seeds: tuple[int, ...], default: tuple[int, ...]
) -> tuple[int, ...]:
    if "seeds" not in given:
        return default
    if not seeds or len(set(seeds)) < len(seeds):
        expected = "distinct integers, as in 0,1,2"
        raise InputError(f"--seeds: {describe(repr(given['seeds']), expected)}")
    return seeds


def _one(rest: list[str], what: str, usage: str) -> str:
    if len(rest) != 1:
        given = " ".join(rest) or "none"
        raise InputError(f"{describe(given, f'one {what}', f'Usage: {usage}')}")
    return rest[0]


def _no_more(rest: list[str]) -> None:
    if rest:
        expected = "flags, as --name=value, after the name of an experiment"
        raise InputError(describe(f"argument {rest[0]!r}", expected))
