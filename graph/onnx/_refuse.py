"""The one error of this package: what of a file cannot be read, and why."""

from core.errors import DataFormatError, describe

MAX_ELEMENTS = 2**28
"""The most elements that one array of a model may have (1 GiB of float32)."""

MAX_INDICES = 2**24
"""The most elements of an array of indices or counts that an operator makes."""

_LONGEST = 80


def bad(where: str, given: str, expected: str, remedy: str = "") -> DataFormatError:
    """Returns the error: where in the file, what was found, what was expected."""
    return DataFormatError(f"onnx: {where}: {describe(given, expected, remedy)}")


def short(name: object) -> str:
    """Returns a name of the file as it may stand in a message: quoted, not too long."""
    text = repr(name)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def check_size(where: str, shape: tuple[int, ...], limit: int = MAX_ELEMENTS) -> int:
    """Returns the number of elements of `shape`, computed without overflow.

    Raises:
      DataFormatError: a negative length, or more elements than `limit`.
    """
    count = 1
    for n in shape:
        if n < 0:
            raise bad(where, f"a shape of {list(shape)[:8]}", "lengths of 0 and more")
        count *= int(n)
    if count > limit:
        raise bad(where, f"{count} elements", f"at most {limit} in one array")
    return count
