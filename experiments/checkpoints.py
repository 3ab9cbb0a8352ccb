"""Checkpoints of one stage: orbax files, checksums, and a way back from damage.

    found = checkpoints.restore(state)            # (step, state) or None
    checkpoints.save(step, state)                 # when the interval has passed
    checkpoints.save(step, state, force=True)     # a result for later stages

A checkpoint is a folder STEP/ with `arrays/` (one orbax save of the leaves) and
`manifest.json` (what each leaf is, sha256 of every file). It gets its name when it
is complete, so a kill leaves an older checkpoint, never half of one. A checkpoint
whose files do not match their checksums is set aside, the one before it is used,
and a note says so.
"""

import dataclasses
import hashlib
import importlib.metadata
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.errors import CheckpointError, DataFormatError
from core.types import PyTree
from experiments import files, interrupt

MANIFEST = "manifest.json"


def _nothing(*_: Any) -> None:
    return None


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What a work folder does along with its checkpoints.

    Attributes:
      note: takes a line for the user.
      before_save: called before a checkpoint is written.
      restored: called with the step restored, or None.
    """

    note: Callable[[str], None] = _nothing
    before_save: Callable[[], None] = _nothing
    restored: Callable[[int | None], None] = _nothing


class Checkpoints:
    """The checkpoints of one stage, newest last.

    Attributes:
      folder: where they are; made by the first save.
      every: least seconds between two saves that are not forced.
      keep: how many are kept.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every: float = 30.0,
        keep: int = 2,
        hooks: Hooks = Hooks(),
    ):
        self.folder = folder.absolute()
        self.every = every
        self.keep = keep
        self._hooks = hooks
        self._last = time.monotonic()

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, ascending."""
        if not self.folder.is_dir():
            return []
        names = [path.name for path in self.folder.iterdir()]
        return sorted(int(name) for name in names if name.isdigit())

    def save(self, step: int, tree: PyTree, *, force: bool = False) -> bool:
        """Saves `tree` if `every` seconds have passed since the last save.

        Log the metrics of `step` before: a resumed run goes on after `step`.

        Args:
          step: how far the stage is, 0 or more.
          tree: of jax arrays, typed keys, numpy arrays and Python numbers; leaves
            may be None.
          force: save now; the last forced checkpoint outlives its stage, for later
            stages to restore.

        Returns:
          Whether it was saved.

        Raises:
          ValueError: a negative step.
          WorkdirError: the file system refuses.
          KeyboardInterrupt: Ctrl-C was pressed and got lost.
        """
        if step < 0:
            raise ValueError(f"step {step} of a checkpoint is negative")
        if not force and time.monotonic() - self._last < self.every:
            return False
        interrupt.check()
        self._hooks.before_save()
        with files.writing(self.folder):
            self._write(int(step), tree, force)
            for old in self.steps()[: -self.keep]:
                self._remove(old)
        self._last = time.monotonic()
        return True

    def restore(self, like: PyTree) -> tuple[int, PyTree] | None:
        """Returns the newest checkpoint that is whole.

        Args:
          like: a tree of the same structure, dtypes and shapes, such as the state at
            step 0; committed arrays in it give the sharding.

        Returns:
          `(step, tree)`, or None where there is no usable checkpoint. The arrays are
          equal to those saved in every bit, dtype and weak type.

        Raises:
          CheckpointError: a whole checkpoint holds another structure than `like`,
            or orbax cannot read it.
        """
        found = None
        for step in reversed(self.steps()):
            problem = self.damage(step)
            if not problem:
                found = step, self._read(step, like)
                break
            self._set_aside(step, problem)
        self._hooks.restored(found[0] if found else None)
        self._last = time.monotonic()
        return found

    def damage(self, step: int) -> str:
        """Returns what is wrong with the files of a checkpoint, or ''."""
        folder = self._at(step)
        try:
            manifest = files.read_json(folder / MANIFEST)
            expected = manifest["files"]
            given = _digests(folder / "arrays")
        except (OSError, DataFormatError, KeyError, TypeError) as error:
            return f"{type(error).__name__}: {error}"
        changed = sorted(n for n in expected if given.get(n, "") != expected[n])
        return f"checksum of {changed[0]} differs" if changed else ""

    def result(self) -> int | None:
        """Returns the newest step if it was forced: a result for later stages."""
        steps = self.steps()
        if not steps:
            return None
        manifest = files.read_json(self._at(steps[-1]) / MANIFEST)
        return steps[-1] if manifest["forced"] else None

    def tidy(self, result: int | None) -> None:
        """Removes what a finished stage needs no more: all but its result."""
        if result is None:
            self.clear()
        for step in self.steps():
            if step != result:
                self._remove(step)

    def clear(self) -> None:
        """Removes all checkpoints of the stage."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _at(self, step: int) -> Path:
        return self.folder / str(step)

    def _remove(self, step: int) -> None:
        hidden = self.folder / f".{step}.old.tmp"  # a kill leaves no half checkpoint
        shutil.rmtree(hidden, ignore_errors=True)
        os.rename(self._at(step), hidden)
        shutil.rmtree(hidden)

    def _write(self, step: int, tree: PyTree, forced: bool) -> None:
        import jax

        from experiments import leaves

        about = leaves.describe_tree(tree)
        arrays = map(leaves.pack, jax.tree.leaves(tree))
        draft = self.folder / f".{step}.{os.getpid()}.tmp"
        for left in self.folder.glob(".*.tmp"):  # of sessions that were killed
            shutil.rmtree(left)
        draft.mkdir(parents=True)
        _orbax_save(draft / "arrays", {_key(i): a for i, a in enumerate(arrays)})
        manifest = {
            "step": step,
            "forced": forced,
            "orbax": importlib.metadata.version("orbax-checkpoint"),
            "leaves": [dataclasses.asdict(leaf) for leaf in about],
            "files": _digests(draft / "arrays", sync=True),
        }
        files.write_json(draft / MANIFEST, manifest)
        if self._at(step).exists():
            self._remove(step)
        os.rename(draft, self._at(step))
        files.sync(self.folder)

    def _read(self, step: int, like: PyTree) -> PyTree:
        import jax

        from experiments import leaves

        folder = self._at(step)
        manifest = files.read_json(folder / MANIFEST)
        saved = [
            leaves.Leaf(**{**leaf, "shape": tuple(leaf["shape"])})
            for leaf in manifest["leaves"]
        ]
        wanted = leaves.describe_tree(like)
        _check_layout(folder, saved, wanted)
        try:
            arrays = _orbax_restore(folder / "arrays", saved)
        except Exception as error:
            raise CheckpointError(
                f"{folder} is whole, but orbax {manifest['orbax']} wrote it and this "
                f"one cannot read it ({type(error).__name__}: {error}). Install that "
                f"version, or remove {self.folder} to start the stage again"
            ) from error
        old, treedef = jax.tree.flatten(like)
        new = map(leaves.unpack, saved, arrays, old)
        return jax.tree.unflatten(treedef, list(new))

    def _set_aside(self, step: int, problem: str) -> None:
        target = self.folder / f"{step}.damaged"
        shutil.rmtree(target, ignore_errors=True)
        os.rename(self._at(step), target)
        steps = self.steps()
        remedy = (
            f"going back to step {steps[-1]}" if steps else "starting the stage again"
        )
        self._hooks.note(
            f"checkpoint {self.folder.name}/{step} is damaged ({problem}); {remedy}"
        )


def _check_layout(folder: Path, saved: list[Any], wanted: list[Any]) -> None:
    given, expected = {s.path: s for s in saved}, {w.path: w for w in wanted}
    for path in [*expected, *given]:
        one, other = given.get(path), expected.get(path)
        if one is None or other is None or one.layout != other.layout:
            raise CheckpointError(
                f"{folder}: got {one or f'no leaf {path}'}; expected "
                f"{other or f'no leaf {path}'}. It was written by another version of "
                f"the code: use another --workdir, or remove {folder.parent} to start "
                "the stage again"
            )


def _digests(folder: Path, sync: bool = False) -> dict[str, str]:
    """Returns the sha256 of every file under `folder`, by relative path."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found[path.relative_to(folder).as_posix()] = digest
        if sync:
            files.sync(path)
    return found


def _key(index: int) -> str:
    return f"{index:06d}"


def _orbax_save(folder: Path, arrays: dict[str, Any]) -> None:
    import orbax.checkpoint as ocp

    stored = {key: array for key, array in arrays.items() if array.size}
    if not stored:  # orbax has no empty trees
        folder.mkdir()
        return
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        try:
            checkpointer.save(folder, args=ocp.args.StandardSave(stored))  # type: ignore
        except ValueError as error:  # how orbax says that the disk is full
            code = re.search(r"(?:os_error_code='|OS error )(\d+)", str(error))
            if code is None:
                raise
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from error


def _orbax_restore(folder: Path, saved: list[Any]) -> list[Any]:
    import numpy as np
    import orbax.checkpoint as ocp

    likes = [np.empty(leaf.shape, leaf.dtype) for leaf in saved]
    stored = {_key(i): like for i, like in enumerate(likes) if like.size}
    if not stored:
        return likes
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        args = ocp.args.StandardRestore(stored)  # type: ignore[call-arg]
        arrays = checkpointer.restore(folder, args=args)
    return [arrays.get(_key(i), like) for i, like in enumerate(likes)]
