"""Where the tasks of a sweep run: processes on this machine, or Slurm.

An executor takes tasks and yields one `Done` for each as it ends. Both run the
same `run_task`: a command in a process of its own, so that a crash or a kill of
one task costs no other. Closing an executor stops what it still runs.
"""

import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core.errors import InputError
from experiments.sweep.grid import Task

GRACE_SECS = 20.0
"""How long a stopped task may take to write its checkpoint before it is killed."""
_POLL_SECS = 0.05
_SLURM_SECS = 1.0


class Done(NamedTuple):
    """How a task ended: exit code (0 is good), last line of stderr, seconds."""

    task: Task
    code: int
    message: str
    seconds: float


Executor = Callable[[Sequence[Task], int, Path, float], Generator[Done, None, None]]
"""From tasks, workers, a folder for logs and expected minutes to ended tasks."""


def run_task(task: Task) -> Done:
    """Runs a task to its end."""
    start = time.monotonic()
    process = _start(task)
    try:
        process.wait()
    finally:
        _stop([process])
    return _done(task, process, start)


def local(
    tasks: Sequence[Task], workers: int, folder: Path, minutes: float
) -> Generator[Done, None, None]:
    """Runs `workers` tasks at a time as processes of this machine."""
    del folder, minutes
    waiting = deque(tasks)
    live: list[tuple[Task, subprocess.Popen[bytes], float]] = []
    try:
        while waiting or live:
            while waiting and len(live) < workers:
                task = waiting.popleft()
                live.append((task, _start(task), time.monotonic()))
            ended = [entry for entry in live if entry[1].poll() is not None]
            for entry in ended:
                live.remove(entry)
                yield _done(*entry)
            if not ended:
                time.sleep(_POLL_SECS)
    finally:
        _stop([process for _, process, _ in live])


def slurm(
    tasks: Sequence[Task], workers: int, folder: Path, minutes: float
) -> Generator[Done, None, None]:
    """Runs tasks as a Slurm job array, at most `workers` of them at a time.

    Partition, account, memory and the like are taken from sbatch's own variables
    (SBATCH_PARTITION, SBATCH_TIMELIMIT, ...). The work folder must lie on a file
    system that the nodes share, and the package be installed where they find it.

    Raises:
      InputError: submitit is not installed.
    """
    try:
        import submitit  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            "--executor=slurm: got a Python without submitit; expected it beside "
            "Lathe. Install it with `pip install submitit`"
        ) from error
    executor = submitit.AutoExecutor(folder=folder / "slurm", cluster="slurm")
    limit = max(60, round(10 * minutes))
    executor.update_parameters(
        name="lathe-sweep", timeout_min=limit, slurm_array_parallelism=workers
    )
    jobs = executor.map_array(run_task, list(tasks))
    live = dict(enumerate(jobs))
    try:
        while live:
            ended = [index for index, job in live.items() if job.done()]
            for index in ended:
                yield _result(tasks[index], live.pop(index))
            if live and not ended:
                time.sleep(_SLURM_SECS)
    finally:
        for job in live.values():
            job.cancel(check=False)


EXECUTORS: Mapping[str, Executor] = {"local": local, "slurm": slurm}


def _start(task: Task) -> subprocess.Popen[bytes]:
    """Starts a task in a session of its own: Ctrl-C reaches only the sweep."""
    task.folder.parent.mkdir(parents=True, exist_ok=True)
    with task.stdout.open("wb") as out, task.stderr.open("wb") as err:
        return subprocess.Popen(
            task.command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Interrupts processes; kills what is still there after the grace time.

    A second Ctrl-C ends the grace time.
    """
    live = [process for process in processes if process.poll() is None]
    for process in live:
        process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + GRACE_SECS
    try:
        for process in live:
            process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass
    finally:
        for process in live:
            process.kill()
            process.wait()


def _done(task: Task, process: subprocess.Popen[bytes], start: float) -> Done:
    code = process.returncode
    message = _last_line(task.stderr)
    if code < 0:
        message = f"killed by {signal.Signals(-code).name}. {message}".strip()
    return Done(task, code, message, time.monotonic() - start)


def _last_line(file: Path, tail: int = 8192) -> str:
    """Returns the last line with something in it, cut to 1,000 characters."""
    with file.open("rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - tail))
        text = stream.read().decode("utf-8", "replace")
    lines = [line.strip() for line in text.replace("\r", "\n").split("\n")]
    written = [line for line in lines if line]
    return written[-1][:1000] if written else ""


def _result(task: Task, job: Any) -> Done:
    """Returns what a Slurm job gave; a job that Slurm itself ended has failed."""
    try:
        return job.result()
    except Exception as error:
        lines = str(error).strip().splitlines() or [repr(error)]
        return Done(task, 1, f"Slurm: {lines[-1]}", 0.0)
