"""Bytes of a model file, with a bound on what is read and unpacked."""

import gzip
import io
import zlib
from pathlib import Path
from typing import Any

from core.errors import InputError, check_range, describe
from graph.onnx._refuse import bad, short

MAX_BYTES = 2**30
"""The default bound on a model's size, unpacked, in bytes."""

_GZIP = b"\x1f\x8b"
_PIECE = 2**20


def read_model(path: str | Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Returns the bytes of a model file; gzip is recognised by its first bytes.

    Args:
      path: of a `.onnx` or `.onnx.gz` file.
      max_bytes: the most to read, and the most to unpack.

    Raises:
      DataFormatError: larger than the bound, or a broken gzip stream.
      InputError: no such file.
    """
    path = Path(path)
    check_range("max_bytes", max_bytes, 1)
    if not path.is_file():
        raise InputError(f"onnx: {describe(short(str(path)), 'the path of a file')}")
    try:
        with path.open("rb") as file:
            data = _bounded(file, path.name, max_bytes)
    except OSError as e:
        raise bad(path.name, f"a file that cannot be read ({e})", "a model") from e
    if not data.startswith(_GZIP):
        return data
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            return _bounded(file, path.name, max_bytes)
    except (EOFError, OSError, zlib.error) as e:
        raise bad(path.name, f"a broken gzip stream ({e})", "a whole file") from e


def read_external(
    folder: Path | None, entries: dict[str, str], size: int, name: str
) -> bytes:
    """Returns the `size` bytes of a tensor that is stored beside the model.

    Args:
      folder: of the model file; None where external data is not allowed.
      entries: `location`, `offset` and `length` as the model states them.
      size: bytes that the tensor's shape and type need.
      name: of the tensor, for messages.

    Raises:
      DataFormatError: a location outside of the folder, or another size.
    """
    where = f"tensor {short(name)}"
    location = entries.get("location", "")
    remedy = "Save the model with its weights inside."
    if folder is None or not location or "\0" in location:
        raise bad(where, f"external data at {short(location)}", "a file name", remedy)
    target = _inside(folder, location, where)
    offset, length = (
        _integer(entries.get(key, default), where)
        for key, default in (("offset", "0"), ("length", str(size)))
    )
    if length != size:
        raise bad(where, f"{length} bytes of external data", f"{size} bytes")
    with target.open("rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) != size:
        raise bad(where, f"{len(data)} bytes of external data", f"{size} bytes")
    return data


def _inside(folder: Path, location: str, where: str) -> Path:
    try:
        root = folder.resolve(strict=True)
        target = (root / location).resolve(strict=True)
        found = target.is_relative_to(root) and target.is_file()
    except (OSError, ValueError, RuntimeError):  # missing, too long, a loop of links
        found = False
    if not found:
        raise bad(
            where,
            f"external data at {short(location)}",
            "a file in the model's own folder",
        )
    return target


def _integer(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise bad(where, f"external data with {short(text)}", "a number of bytes")
    return int(text)


def _bounded(file: Any, name: str, max_bytes: int) -> bytes:
    """All that a file holds, in pieces: one read of the bound would allocate it."""
    found = io.BytesIO()
    while piece := file.read(_PIECE):
        if found.tell() + len(piece) > max_bytes:
            raise bad(
                name,
                "a larger file",
                f"at most {max_bytes} bytes, unpacked",
                "Pass a larger `max_bytes` if the file is to be trusted.",
            )
        found.write(piece)
    return found.getvalue()
