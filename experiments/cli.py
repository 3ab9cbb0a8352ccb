"""The command line: flags in, exit code out.

`front_door(argv)` is `launch.py`; `main(EXPERIMENT)` makes an experiment's module a
script of its own. What both are made of is in `commandline`, the commands on many runs
in `commands`, the verifier in `verification`.
"""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging

from core.errors import InputError, describe, unknown_name
from experiments import identity, manual, options, registry
from experiments.commandline import (
    HELP,
    LAUNCH,
    NoFlags,
    guard,
    interruptible,
    leave,
    no_more,
    one,
    parse,
    seeds_of,
)
from experiments.commands import RESULTS_MD, SweepFlags, report_command, sweep_command
from experiments.registry import Experiment, RunFlags

ROOT = Path(__file__).resolve().parents[1]

__all__ = [
    "SweepFlags",
    "cite_command",
    "front_door",
    "guard",
    "leave",
    "main",
    "parse",
    "resume_command",
    "run_command",
    "verify_command",
]


@dataclasses.dataclass(frozen=True)
class ResumeFlags:
    """Flags of `launch.py resume`."""

    data_dir: str = options.option("", "folder of prepared data sets")
    checkpoint_secs: float = options.option(
        30.0, "least time between checkpoints", unit="seconds", low=0.0
    )


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


def _dispatch(argv: list[str], main_job: list[str]) -> int:
    commands = {
        "resume": resume_command,
        "sweep": sweep_command,
        "report": lambda words: report_command(words, ROOT / RESULTS_MD),
        "cite": cite_command,
        "verify": verify_command,
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
    if not name and HELP.intersection(argv):
        print(manual.USAGE)
        return 0
    if not name:
        return _dispatch([*main_job, *argv], main_job)
    if name in commands:
        return commands[name](argv[1:])
    if name not in registry.EXPERIMENTS:
        known = [*registry.EXPERIMENTS, *commands]
        raise unknown_name("experiment", name, known, registry.ALL_SHOWN)
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
    if HELP.intersection(argv):
        print(manual.experiment_help(experiment, prog))
        return 0
    (own, given), rest = parse(argv, RunFlags, experiment.config)
    no_more(rest)
    run = options.build(RunFlags, given=own)
    mode = experiment.mode(run.mode)
    config = options.build(experiment.config, mode.overrides, given)
    seeds = seeds_of(own, run.seeds, mode.seeds)
    folder = Path(run.workdir or f"{registry.RUNS}/{experiment.name}-{run.mode}")
    run = dataclasses.replace(run, workdir=str(folder), seeds=seeds)
    again = shlex.join([*prog.split(), *argv])
    return _start(experiment, config, run, again, prog)


def resume_command(argv: Sequence[str]) -> int:
    """Goes on with the run of a work folder."""
    usage = f"{LAUNCH} resume DIR [flags]"
    if HELP.intersection(argv):
        about = "Goes on with the run in a work folder, with the config stored there."
        print(manual.command_help(usage, about, ResumeFlags))
        return 0
    (given,), rest = parse(argv, ResumeFlags)
    folder = Path(one(rest, "work folder", usage))
    stored = identity.read(folder)
    if stored["experiment"] == "verify":
        from experiments import verification

        wanted = options.build(ResumeFlags, given=given)
        return verification.resume_run(folder, stored, wanted.data_dir)
    experiment = registry.get(stored["experiment"])
    config = identity.config_of(stored, experiment.config)
    own = {"mode": stored["mode"], "workdir": str(folder), "seeds": stored["seeds"]}
    run = options.build(RunFlags, own, given)
    experiment.mode(run.mode)
    again = shlex.join([*LAUNCH.split(), "resume", *argv])
    return _start(experiment, config, run, again, f"{LAUNCH} {experiment.name}")


def cite_command(argv: Sequence[str]) -> int:
    """Prints the BibTeX of an experiment's paper."""
    usage = f"{LAUNCH} cite NAME"
    if HELP.intersection(argv):
        print(f"{usage}\n\nPrints the BibTeX of the paper behind an experiment.")
        return 0
    _, rest = parse(argv, NoFlags)
    print(registry.get(one(rest, "experiment", usage)).paper.bibtex())
    return 0


def verify_command(argv: Sequence[str]) -> int:
    """Decides properties of networks; see `experiments.verification`."""
    from experiments import verification

    return verification.verify_command(argv)


def _start(
    experiment: Experiment, config: Any, flag: RunFlags, again: str, prog: str
) -> int:
    with interruptible(f"; the same command goes on: {again}"):
        _work(experiment, config, flag, prog)
    return 0


def _work(experiment: Experiment, config: Any, flag: RunFlags, prog: str) -> None:
    from experiments import report, results
    from experiments.compilation import keep_programs
    from experiments.workdir import Run

    keep_programs()  # a run that was killed resumes without compiling again
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
