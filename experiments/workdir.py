"""A work folder: stages that run once, metrics, checkpoints, one owner at a time.

    with Run(folder, experiment="x", config=c, mode="quick", seeds=(0,)) as run:
        found = run.stage("dense-s0", lambda: train(run))  # a dict

    def train(run):
        state, step = init(), 0
        checkpoints = run.checkpoints("dense-s0")
        if found := checkpoints.restore(state):
            step, state = found
        while step < total:
            state, metrics = epoch(state)
            step += 1
            run.log("dense-s0", step, loss=metrics["loss"])
            checkpoints.save(step, state, force=step == total)
        return {"accuracy": ...}

Files: `config.json` (what the folder belongs to), `stages/NAME.json` (results of
finished stages), `checkpoints/NAME/STEP/`, `metrics.jsonl`, `session.json` (seconds
and notes so far). A process that is killed loses at most one checkpoint interval;
the next one goes on where it was and ends with the same numbers.
"""

import contextlib
import fcntl
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

from core.errors import DataFormatError, InputError, LatheError, WorkdirError
from experiments import files, identity, interrupt
from experiments.checkpoints import Checkpoints, Hooks
from experiments.metrics import Metrics
from experiments.progress import Progress, progress


class Run:
    """One run of an experiment in its work folder; a context manager.

    Attributes:
      dir: the work folder.
      experiment: the experiment's name.
      config: its config.
      mode: name of the mode.
      seeds: one repetition each.
      data_dir: where data sets are, or None for the default.
      checkpoint_secs: least seconds between checkpoints.
      say: takes a line for the user at the end of each stage that ran.
      notes: lines about this run that belong into its results.
      fresh: stages that ran in this session, in order.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        experiment: str,
        config: Any,
        mode: str,
        seeds: Sequence[int] = (0,),
        data_dir: str | Path | None = None,
        checkpoint_secs: float = 30.0,
        say: Callable[[str], None] = lambda line: None,
    ):
        self.dir = Path(directory)
        self.experiment = experiment
        self.config = config
        self.mode = mode
        self.seeds = tuple(seeds)
        self.data_dir = None if data_dir is None else Path(data_dir)
        self.checkpoint_secs = checkpoint_secs
        self.say = say
        self.notes: list[str] = []
        self.fresh: list[str] = []
        self._checkpoints: dict[str, Checkpoints] = {}
        self._running: list[str] = []
        self._rewound: set[str] = set()
        self._before = 0.0
        self._opened = time.monotonic()
        self._drift = ""
        self._is_new = False

    def __enter__(self) -> "Run":
        """Takes the folder.

        Raises:
          WorkdirError: it belongs to another config or another process, or cannot be
            a work folder.
        """
        try:
            if not (self.dir / identity.FILE).exists():
                identity.check_free(self.dir)
            for name in ("stages", "checkpoints"):
                (self.dir / name).mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.dir)
        except OSError as error:
            raise WorkdirError(
                f"--workdir: got {self.dir}; expected a folder that can be written to "
                f"({error.strerror}). Give another --workdir"
            ) from error
        try:
            self._open()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._metrics.close()
            self._keep_session()
            # A mistake before any result must not claim the folder for its config.
            mistake = InputError if self.fresh else LatheError
            if self._is_new and issubclass(kind or int, mistake) and self._bare():
                self._leave_empty()
        finally:
            self._lock.close()

    @property
    def seconds(self) -> float:
        """Wall seconds of all sessions that ran a stage."""
        return self._before + (time.monotonic() - self._opened if self.fresh else 0.0)

    def stage(self, name: str, fn: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Returns the result of a stage, which runs once in the life of the folder.

        Args:
          name: letters, digits and any of `._=,+-`.
          fn: returns a dict that JSON can hold (numpy and jax scalars too). It is
            called unless the stage has finished before; killed in it, the next
            session calls it again.

        Returns:
          The dict as read back from JSON, so the same in every session.

        Raises:
          ValueError: a name that no file should have.
          TypeError: a result that JSON cannot hold.
          KeyboardInterrupt: Ctrl-C was pressed and got lost.
        """
        interrupt.check()
        path = self._stage_file(name)
        found = self._finished(name, path)
        if found is None:
            start = time.monotonic()
            self._begin(name)
            try:
                result = files.plain(fn(), name)
            finally:
                self._running.remove(name)
            self._end(name, path, result)
            self.say(f"stage {name}: {time.monotonic() - start:.1f} s")
            found = files.read_json(path)
        self.checkpoints(name).tidy(found["checkpoint"])
        return found["result"]

    def log(self, stage: str, step: int, /, **scalars: Any) -> None:
        """Appends a line to `metrics.jsonl`.

        Call it before the checkpoint of the same step is saved: a session that goes
        on after step s drops the stage's lines past s, and no others.

        Args:
          stage: the stage that is running.
          step: how far it is.
          **scalars: numbers or text; numpy and jax scalars are fetched.

        Raises:
          ValueError: the stage is not running (its lines could not be kept in step
            with its checkpoints).
          WorkdirError: the file system refuses.
          KeyboardInterrupt: Ctrl-C was pressed and got lost.
        """
        if stage not in self._running:
            raise ValueError(f"log of {stage!r} outside of run.stage({stage!r}, ...)")
        interrupt.check()
        self._settle(stage)
        self._metrics.log(stage, step, scalars)

    def checkpoints(self, stage: str) -> Checkpoints:
        """Returns the checkpoints of a stage; the same object at every call."""
        if stage not in self._checkpoints:
            self._checkpoints[stage] = Checkpoints(
                self.dir / "checkpoints" / self._stage_file(stage).stem,
                every=self.checkpoint_secs,
                hooks=Hooks(
                    note=self.note,
                    before_save=self._before_save,
                    restored=lambda step: self._restored(stage, step),
                ),
            )
        return self._checkpoints[stage]

    def progress(
        self, stage: str, total: int, unit: str = "step", initial: int = 0
    ) -> AbstractContextManager[Progress]:
        """Returns a progress bar, quiet where stderr is not a terminal.

        Args:
          stage: shown before the bar.
          total: units in all.
          unit: their name, in the singular.
          initial: units done in earlier sessions.
        """
        return progress(stage, total, unit, initial)

    def note(self, line: str) -> None:
        """Says `line` on stderr and keeps it for the results."""
        print(f"note: {line}", file=sys.stderr, flush=True)
        if line not in self.notes:
            self.notes.append(line)

    def _open(self) -> None:
        mine = identity.describe_run(
            self.experiment, self.mode, self.seeds, self.config
        )
        if (self.dir / identity.FILE).exists():
            stored = identity.read(self.dir)
            identity.check_same(self.dir, stored, mine)
            self._drift = identity.drift(stored, mine)
        else:
            files.write_json(self.dir / identity.FILE, mine)
            self._is_new = True
        session = _read_session(self.dir / "session.json")
        self._before, self.notes = session["seconds"], session["notes"]
        self._opened = time.monotonic()
        self._metrics = Metrics(self.dir)

    def _leave_empty(self) -> None:
        own = (self.dir / name for name in (identity.FILE, "session.json", ".lock"))
        for path in (*own, self._metrics.path):
            path.unlink(missing_ok=True)
        for name in ("stages", "checkpoints"):
            with contextlib.suppress(OSError):  # not empty: not ours to remove
                (self.dir / name).rmdir()

    def _bare(self) -> bool:
        """Whether no stage has finished and no checkpoint is kept."""
        folders = (self.dir / name for name in ("stages", "checkpoints"))
        return not any(path.is_file() for f in folders for path in f.rglob("*"))

    def _stage_file(self, name: str) -> Path:
        if not re.fullmatch(r"[\w=,+-][\w.=,+-]*", name, re.ASCII):
            raise ValueError(
                f"stage name {name!r} is not made of letters, digits, ._=,+-"
            )
        return self.dir / "stages" / f"{name}.json"

    def _finished(self, name: str, path: Path) -> dict[str, Any] | None:
        if not path.exists():
            return None
        try:
            found = files.read_json(path)
            step = found["checkpoint"]
            problem = "" if step is None else self.checkpoints(name).damage(step)
        except (DataFormatError, KeyError, TypeError) as error:
            found, problem = None, str(error)
        if problem:
            self.note(f"result of stage {name} is damaged ({problem}); it runs again")
            path.unlink()
            return None
        return found

    def _begin(self, name: str) -> None:
        if self._drift:
            self.note(self._drift)
            self._drift = ""
        self.fresh.append(name)
        self._running.append(name)
        self._rewound.discard(name)

    def _end(self, name: str, path: Path, result: dict[str, Any]) -> None:
        self._settle(name)
        self._metrics.sync()
        step = self.checkpoints(name).result()
        files.write_json(path, {"stage": name, "checkpoint": step, "result": result})
        self._keep_session()

    def _before_save(self) -> None:
        self._metrics.sync()
        self._keep_session()

    def _restored(self, stage: str, step: int | None) -> None:
        if stage in self._running:
            self._rewound.add(stage)
            self._metrics.rewind(stage, step)

    def _settle(self, stage: str) -> None:
        """A stage that restored nothing began anew: its older lines go."""
        if stage not in self._rewound:
            self._rewound.add(stage)
            self._metrics.rewind(stage, None)

    def _keep_session(self) -> None:
        session = {"seconds": self.seconds, "notes": self.notes}
        files.write_json(self.dir / "session.json", session)


def _lock(folder: Path) -> IO[str]:
    file = (folder / ".lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise WorkdirError(
            f"work folder {folder} is in use by process {owner}. Wait for it to end, "
            "or give another --workdir"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _read_session(path: Path) -> dict[str, Any]:
    try:
        found = files.read_json(path)
        return {"seconds": float(found["seconds"]), "notes": list(found["notes"])}
    except (FileNotFoundError, DataFormatError, KeyError, TypeError, ValueError):
        return {"seconds": 0.0, "notes": []}
