"""`metrics.jsonl`: one line a logged step, equal however often a run was killed."""

import json
import math
import os
from pathlib import Path
from typing import IO, Any

from experiments import files

FILE = "metrics.jsonl"


class Metrics:
    """The metrics file of a work folder, open for appending.

    A line is `{"stage", "step", name: number, ...}`; a number that is not finite is
    null there and its name stands under "not_finite". A stage that goes on after
    step s drops its own lines past s first (`rewind`).
    """

    def __init__(self, folder: Path):
        self.path = folder / FILE
        self._file: IO[str] | None = None
        lines, whole = _read(self.path)
        if not whole:  # the last line was torn by a kill
            self._rewrite(lines)

    def log(self, stage: str, step: int, scalars: dict[str, Any]) -> None:
        """Appends one line."""
        line: dict[str, Any] = {"stage": stage, "step": int(step)}
        lost = []
        for name, value in scalars.items():
            value = files.plain(value, name)
            if isinstance(value, float) and not math.isfinite(value):
                lost.append(name)
                value = None
            line[name] = value
        if lost:
            line["not_finite"] = lost
        with files.writing(self.path):
            if self._file is None:
                self._file = self.path.open("a", encoding="utf-8")
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()

    def rewind(self, stage: str, step: int | None) -> None:
        """Drops the lines of `stage` past `step`, all of them where it is None."""
        self.close()
        last = -math.inf if step is None else step
        lines, _ = _read(self.path)
        kept = [x for x in lines if x["stage"] != stage or x["step"] <= last]
        if len(kept) < len(lines):
            self._rewrite(kept)

    def sync(self) -> None:
        """Asks the file system to keep what was logged so far."""
        if self._file is not None:
            with files.writing(self.path):
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file; the next `log` opens it again."""
        file, self._file = self._file, None
        if file is not None:
            with files.writing(self.path):  # what could not be written before
                file.close()

    def _rewrite(self, lines: list[dict[str, Any]]) -> None:
        files.write_text(self.path, "".join(json.dumps(x) + "\n" for x in lines))


def _read(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """Returns the lines that are whole, and whether all of them are."""
    if not path.exists():
        return [], True
    with files.writing(path):
        text = path.read_text(encoding="utf-8", errors="replace")
    lines = []
    for raw in text.splitlines():
        try:
            line = json.loads(raw)
            if {"stage", "step"} <= line.keys():
                lines.append(line)
        except (ValueError, AttributeError):
            continue
    whole = len(lines) == len(text.splitlines()) and text.endswith("\n")
    return lines, whole or not text
