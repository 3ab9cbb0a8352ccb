"""Small files that survive a kill: written whole or not at all.

write_json(path, value)   temporary file, fsync, rename
read_json(path)           a named error where the text is not JSON
plain(value)              numpy and jax scalars and arrays as JSON values
"""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from core.errors import DataFormatError


def write_text(path: Path, text: str) -> None:
    """Writes `text` to `path`, whole or not at all.

    Args:
      path: where to; its folder exists.
      text: the new content.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
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
