"""VNN-LIB files, versions 1.0 and 2.0, as properties; counterexamples as text.

A file states an unsafe set: it holds where all of its assertions do. Strict
comparisons are read as closed ones, so that a proof stays a proof; the property's
notes say where that happened.
"""

import gzip
import zlib
from pathlib import Path

from core.errors import DataFormatError, DataUnavailableError, describe
from verify.properties import Property
from verify.vnnlib import version1, version2
from verify.vnnlib.build import build
from verify.vnnlib.sexpr import tokens
from verify.vnnlib.witness import format_witness, parse_witness

__all__ = ["format_witness", "load", "loads", "parse_witness"]

_LARGEST = 500_000_000  # bytes, unpacked


def load(
    path: str | Path,
    input_shape: tuple[int, ...] | None = None,
    output_size: int | None = None,
) -> Property:
    """Returns the property of a `.vnnlib` or `.vnnlib.gz` file.

    Args:
      path: the file.
      input_shape: the shape of the network's input, with its batch axis if it has
        one; `X_i` numbers it in C order. None for a flat vector.
      output_size: how many outputs the network has; None for what the file declares.

    Returns:
      A property named as the file, with numpy float64 bounds. Clauses over the same
      inputs share one `Region` object.

    Raises:
      DataUnavailableError: no such file.
      DataFormatError: as `loads`, naming the file too; or a damaged archive.
    """
    path = Path(path)
    try:
        return loads(_text(path), input_shape, output_size, _stem(path))
    except DataFormatError as error:
        raise DataFormatError(f"{path.name}: {error}") from error


def loads(
    text: str,
    input_shape: tuple[int, ...] | None = None,
    output_size: int | None = None,
    name: str = "",
) -> Property:
    """Returns the property that a VNN-LIB text states.

    Args:
      text: version 1.0, or 2.0 with its header `(vnnlib-version <2.0>)`.
      input_shape: as `load`.
      output_size: as `load`.
      name: what reports call the property.

    Raises:
      DataFormatError: what is no VNN-LIB (with the line), not linear, has no bound
        of some input, does not fit the network, or is too large in disjunctive
        normal form.
      InputError: version 2.0 without the package `vnnlib`.

    Example:
      >>> text = '''(declare-const X_0 Real) (declare-const Y_0 Real)
      ... (assert (>= X_0 0)) (assert (<= X_0 1)) (assert (<= Y_0 0.5))'''
      >>> loads(text).clauses[0].spec
      Spec(C=array([[1.]]), d=array([-0.5]))
    """
    query = version2.read(text) if _version(text) == 2 else version1.read(text)
    given = (input_shape, output_size)
    expected = (
        query.inputs if input_shape is None else _size(input_shape),
        query.outputs if output_size is None else output_size,
    )
    if (query.inputs, query.outputs) != expected:
        raise DataFormatError(
            describe(
                f"{query.inputs} inputs and {query.outputs} outputs in the file",
                f"the network's {given[0]} and {given[1]}",
                "Check that the file belongs to this network.",
            )
        )
    return build(query, input_shape, name)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for axis in shape:
        size *= axis
    return size


def _version(text: str) -> int:
    first = [token for _, token in zip(range(3), tokens(text), strict=False)]
    if [token for _, token in first[:2]] != ["(", "vnnlib-version"]:
        return 1
    given = first[-1][1]
    if given in ("<1.0>", "<2.0>"):
        return int(given[1])
    raise DataFormatError(
        f"line {first[-1][0]}: {describe(given, 'version <1.0> or <2.0>')}"
    )


def _text(path: Path) -> str:
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read(_LARGEST + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataFormatError(describe(str(error), "a whole gzip archive")) from error
    except OSError as error:
        raise DataUnavailableError(
            describe(f"{path}: {error.strerror}", "a VNN-LIB file that can be read")
        ) from error
    if len(content) > _LARGEST:
        raise DataFormatError(describe("more bytes", f"{_LARGEST} at most"))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataFormatError(describe(str(error), "text in UTF-8")) from error


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".vnnlib")
