"""Small files that survive a kill: written whole or not at all.

write_json(path, value)   temporary file, fsync, rename
read_json(path)           a named error where the text is not JSON
plain(value)              numpy and jax scalars and arrays as JSON values
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import DataFormatError, WorkdirError


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the file system refuses into a named error.

    Args:
      path: what is being written, for the message.

    Raises:
      WorkdirError: no rights, no space, a folder in the file's place, ...
    """
    try:
        yield
    except OSError as error:
        raise WorkdirError(
            f"{path}: cannot be written ({error.strerror or error}). Make room or "
            "give write access there, and repeat the command; or give another place"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path`, whole or not at all.

    Args:
      path: where to; its folder is made where there is none.
      text: the new content; what UTF-8 cannot hold (lone surrogates) becomes a
        question mark.

    Raises:
      WorkdirError: the file system refuses.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(text.encode("utf-8", "replace"))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        sync(path.parent)


def sync(path: Path) -> None:
    """Asks the file system to keep a file, or the names in a folder, for good."""
    handle = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # not every file system can
            os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Writes what `plain` takes as JSON to `path`, whole or not at all."""
    write_text(path, json.dumps(plain(value), indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Reads JSON.

    Args:
      path: an existing file.

    Raises:
      DataFormatError: the file is not JSON (cut short, or another kind of file).
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataFormatError(f"{path}: got text that is not JSON ({error})") from error


def plain(value: Any, where: str = "value") -> Any:
    """Returns `value` as JSON holds it.

    Args:
      value: nested dicts, lists and tuples of None, bool, int, float, str, and of
        numpy or jax scalars and arrays. NaN stays NaN.
      where: the path of `value`, for messages.

    Returns:
      Dicts with text keys, lists, and Python scalars.

    Raises:
      TypeError: anything that JSON cannot hold.
    """
    if isinstance(value, dict):
        return {str(key): plain(v, f"{where}/{key}") for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v, f"{where}/{index}") for index, v in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "tolist"):  # numpy and jax, scalars and arrays
        return plain(value.tolist(), where)
    raise TypeError(f"{where}: JSON cannot hold a {type(value).__name__}")
