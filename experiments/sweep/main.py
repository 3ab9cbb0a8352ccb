"""Running a sweep: what is checked first, what runs, what is written at the end."""

import json
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from core.errors import (
    DataFormatError,
    InputError,
    WorkdirError,
    check_range,
    describe,
    unknown_name,
)
from experiments import files, identity, options, results
from experiments.registry import Experiment
from experiments.report import text
from experiments.sweep import pages, tables
from experiments.sweep.executors import EXECUTORS, Done, Executor
from experiments.sweep.grid import (
    PASSED_ON,
    Cell,
    Command,
    Grid,
    Task,
    cells,
    launch,
    parse_grid,
    problem,
)

FILE = "sweep.json"


def sweep(
    experiment: Experiment,
    grid: Grid | str,
    seeds: Sequence[int],
    mode: str,
    extra_flags: Mapping[str, Any],
    workdir: str | Path,
    workers: int = 1,
    executor: str = "local",
    *,
    command: Command = launch,
) -> int:
    """Runs an experiment over a grid and reports it.

    Everything given is checked before anything runs.

    Args:
      experiment: a registered one.
      grid: values of each axis, or the text that `parse_grid` takes.
      seeds: repetitions of each cell; the tables give mean and deviation.
      mode: of every run.
      extra_flags: options that all cells share, and flags of a run (`PASSED_ON`).
      workdir: the sweep's folder. It belongs to the experiment, mode and flags of
        its first sweep; the grid and the seeds may grow.
      workers: runs at a time.
      executor: a name in `EXECUTORS`.
      command: makes the command of one run.

    Returns:
      The exit code: 0, 1 if a run failed, 130 if interrupted.

    Raises:
      InputError: a value out of its range, or given twice.
      UnknownNameError: an axis, option, mode or executor that does not exist.
      WorkdirError: the folder belongs to another sweep.
    """
    axes = parse_grid(grid) if isinstance(grid, str) else grid
    workdir = Path(workdir).resolve()
    start = _check(seeds, workers, executor)
    passed, flags = _split(experiment, extra_flags)
    planned = cells(experiment, axes, mode, flags, workdir)
    _claim(workdir, experiment.name, mode, flags)
    tasks: dict[Task, tuple[Cell, int]] = {}
    for cell in planned:
        for seed in seeds:
            folder = cell.folder / f"seed{seed}"
            words = {**passed, **flags, **cell.values}
            line = command(experiment.name, mode, seed, folder, words)
            tasks[Task(f"{cell.name} seed {seed}", folder, tuple(line))] = cell, seed
    expected = experiment.mode(mode).minutes
    try:
        with _terminable():
            failures = _run(tasks, mode, workers, start, workdir, expected)
    except KeyboardInterrupt:
        print("sweep stopped; the same command goes on with it", file=sys.stderr)
        return 130
    _report(workdir, experiment, mode, seeds, flags, planned, failures)
    return 1 if failures else 0


def _check(seeds: Sequence[int], workers: int, executor: str) -> Executor:
    if not seeds or len(set(seeds)) != len(seeds):
        given = ",".join(map(str, seeds)) or "none"
        raise InputError(f"--seeds: {describe(given, 'different whole numbers')}")
    check_range("--workers", workers, 1)
    if executor not in EXECUTORS:
        raise unknown_name("executor", executor, EXECUTORS)
    return EXECUTORS[executor]


def _split(
    experiment: Experiment, given: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, str]]:
    """Returns flags of the run and options of the experiment, both as text."""
    known = options.options_of(experiment.config)
    passed = {key: str(value) for key, value in given.items() if key in PASSED_ON}
    flags = {}
    for key, value in given.items():
        if key in known:
            parsed = known[key].parse(value) if isinstance(value, str) else value
            flags[key] = known[key].show(known[key].check(parsed))
        elif key not in PASSED_ON:
            raise unknown_name("option", key, known)
    return passed, flags


def _claim(workdir: Path, experiment: str, mode: str, flags: Mapping[str, str]) -> None:
    """Marks the folder as this sweep's.

    Raises:
      WorkdirError: it is another's, or cannot be written to.
    """
    mine = {
        "experiment": experiment,
        "mode": mode,
        "flags": dict(sorted(flags.items())),
    }
    path = workdir / FILE
    _check_folder(workdir)
    if path.exists():
        theirs = files.read_json(path)
        if theirs != mine:
            raise WorkdirError(
                f"--workdir: {describe(workdir, 'a folder of the same sweep')}. It "
                f"holds {json.dumps(theirs)}, this is {json.dumps(mine)}. "
                "Give another --workdir"
            )
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        files.write_json(path, mine)
    except OSError as error:
        expected = f"a folder that can be written to ({error.strerror})"
        raise WorkdirError(f"--workdir: {describe(workdir, expected)}") from error


def _check_folder(workdir: Path) -> None:
    """Refuses a run's folder, and one with other files than a sweep makes."""
    if not workdir.is_dir():
        return
    names = sorted(path.name for path in workdir.iterdir())
    strange = [name for name in names if name[0] != "." and name[-4:] != ".log"]
    if identity.FILE in names:
        held = f"{identity.FILE}: it is the folder of a run"
    elif FILE not in names and strange:
        held = f"{strange[0]!r} but no {FILE}"
    else:
        return
    raise WorkdirError(
        f"--workdir: got {workdir}, which holds {held}; expected a new folder or one "
        "of an earlier sweep. Give another --workdir"
    )


def _run(
    tasks: Mapping[Task, tuple[Cell, int]],
    mode: str,
    workers: int,
    start: Executor,
    workdir: Path,
    minutes: float,
) -> dict[Task, str]:
    """Runs what is not finished and returns why tasks failed."""
    ready = [task for task, where in tasks.items() if not _missing(task, *where, mode)]
    for index, task in enumerate(ready, 1):
        _say(f"[{index}/{len(tasks)}] {task.name}: finished before")
    waiting = [task for task in tasks if task not in ready]
    failures: dict[Task, str] = {}
    if not waiting:
        return failures
    with closing(start(waiting, workers, workdir, minutes)) as ended:
        for index, done in enumerate(ended, len(ready) + 1):
            why = _failure(done, *tasks[done.task], mode)
            if why:
                failures[done.task] = why
            took = text.duration(done.seconds)
            state = f"FAILED after {took}: {why}" if why else f"done in {took}"
            _say(f"[{index}/{len(tasks)}] {done.task.name}: {state}")
    return {task: failures[task] for task in tasks if task in failures}


def _missing(task: Task, cell: Cell, seed: int, mode: str) -> str:
    """Returns why a task counts as not finished, or ''."""
    try:
        return problem(results.read(task.folder), cell, mode, seed)
    except (WorkdirError, DataFormatError) as error:
        return str(error)


def _failure(done: Done, cell: Cell, seed: int, mode: str) -> str:
    if done.code:
        return f"exit code {done.code}: {done.message or 'nothing on stderr'}"
    missing = _missing(done.task, cell, seed, mode)
    return f"exit code 0, but {missing}" if missing else ""


def _report(
    workdir: Path,
    experiment: Experiment,
    mode: str,
    seeds: Sequence[int],
    flags: Mapping[str, str],
    planned: Sequence[Cell],
    failures: Mapping[Task, str],
) -> None:
    found: list[tuple[Cell, list[dict[str, Any]]]] = []
    failed = {task.folder for task in failures}
    for cell in planned:
        folders = [cell.folder / f"seed{seed}" for seed in seeds]
        good = [folder for folder in folders if folder not in failed]
        found.append((cell, [results.read(folder) for folder in good]))
    documents = [document for _, runs in found for document in runs]
    axes = {
        axis: list(dict.fromkeys(cell.values[axis] for cell in planned))
        for axis in planned[0].values
    }
    summary = pages.Summary(
        experiment=experiment.name,
        paper=results.plain(experiment.paper),
        mode=mode,
        axes=axes,
        seeds=seeds,
        flags=flags,
        tasks=len(planned) * len(seeds),
        failures=[f"{task.name}: {why}" for task, why in failures.items()],
        data=list(dict.fromkeys(name for d in documents for name in d["data"])),
        devices=list(dict.fromkeys(d["device"] for d in documents)),
    )
    entries = tables.collect(found)
    made = tables.to_tables(entries, planned, len(seeds))
    written = pages.write(workdir, summary, entries, made, tables.to_curves(found))
    for table in made:
        print(tables.to_text(table), end="\n\n")
    for line in summary.failures:
        print(f"FAILED {line}")
    names = ", ".join(path.name for path in written)
    print(f"{dict(summary.facts())['Runs']}. {names} in {workdir}")


def _say(line: str) -> None:
    if sys.stderr.isatty():
        print(line, file=sys.stderr, flush=True)


@contextmanager
def _terminable() -> Iterator[None]:
    """Makes SIGTERM what Ctrl-C is, so that the runs are stopped as well.

    A second one ends the grace time; it must not leave the runs behind.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    both = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(sign, signal.default_int_handler) for sign in both]
    try:
        yield
    finally:
        for sign, handler in zip(both, before, strict=True):
            signal.signal(sign, handler)
