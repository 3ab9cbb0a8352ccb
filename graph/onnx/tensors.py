"""Tensors of a model as numpy arrays, checked before anything is allocated."""

from pathlib import Path
from typing import Any

import numpy as np

from graph.onnx._refuse import bad, check_size, short
from graph.onnx.files import read_external

# ONNX data types by number: the numpy type, and the field that holds values where
# there is no raw data. bfloat16 has no numpy type and is widened to float32.
_TYPES: dict[int, tuple[str, str]] = {
    1: ("float32", "float_data"),
    2: ("uint8", "int32_data"),
    3: ("int8", "int32_data"),
    4: ("uint16", "int32_data"),
    5: ("int16", "int32_data"),
    6: ("int32", "int32_data"),
    7: ("int64", "int64_data"),
    9: ("bool", "int32_data"),
    10: ("float16", "int32_data"),
    11: ("float64", "double_data"),
    12: ("uint32", "uint64_data"),
    13: ("uint64", "uint64_data"),
    16: ("bfloat16", "int32_data"),
}
_BITS = {"float16": "uint16", "bfloat16": "uint16"}  # stored in int32_data as bits
_EXTERNAL = 1


def dtype_name(number: int) -> str:
    """Returns the name of an ONNX element type, 'unknown' for one not read here."""
    return _TYPES[number][0] if number in _TYPES else "unknown"


def numpy_dtype(number: int, where: str) -> np.dtype:
    """Returns the numpy type of an ONNX element type; float32 for bfloat16.

    Raises:
      DataFormatError: a type without one (strings, complex, 4- and 8-bit floats).
    """
    name = dtype_name(number)
    if name == "unknown":
        known = ", ".join(each for each, _ in _TYPES.values())
        raise bad(where, f"element type {number}", f"one of {known}")
    return np.dtype("float32" if name == "bfloat16" else name)


def to_array(tensor: Any, folder: Path | None = None) -> np.ndarray:
    """Returns a `TensorProto` as an array.

    Args:
      tensor: the message.
      folder: where external data may lie, None for nowhere.

    Raises:
      DataFormatError: a type that has no place here, or data of another size than
        the shape needs.
    """
    where = f"tensor {short(tensor.name)}"
    dtype = numpy_dtype(tensor.data_type, where)
    name, field = _TYPES[tensor.data_type]
    stored = np.dtype(_BITS.get(name, name)).newbyteorder("<")
    shape = tuple(tensor.dims)
    if len(shape) > 32:
        raise bad(where, f"{len(shape)} axes", "at most 32")
    count = check_size(where, shape)
    if tensor.data_location == _EXTERNAL:
        entries = {e.key[:64]: e.value for e in tensor.external_data}
        raw = read_external(folder, entries, count * stored.itemsize, tensor.name)
        flat = np.frombuffer(raw, stored)
    elif tensor.HasField("raw_data"):
        flat = _raw(tensor.raw_data, stored, count, where)
    else:
        flat = _listed(getattr(tensor, field), stored, count, where)
    return _decode(flat, name, dtype).reshape(shape)


def _raw(raw: bytes, stored: np.dtype, count: int, where: str) -> np.ndarray:
    if len(raw) != count * stored.itemsize:
        expected = f"{count * stored.itemsize} for {count} of {stored.name}"
        raise bad(where, f"{len(raw)} bytes", expected)
    return np.frombuffer(raw, stored)


def _listed(values: Any, stored: np.dtype, count: int, where: str) -> np.ndarray:
    if len(values) != count:
        raise bad(where, f"{len(values)} values", f"{count}, as its shape says")
    wide = np.asarray(values) if count else np.zeros(0, stored)
    return wide.astype(stored)  # int32_data holds narrow types in wide entries


def _decode(flat: np.ndarray, name: str, dtype: np.dtype) -> np.ndarray:
    if name == "bfloat16":
        return (flat.astype(np.uint32) << 16).view(np.float32)
    if name == "float16":
        return flat.astype(np.uint16, copy=False).view(np.float16)
    return flat.astype(dtype)  # to the machine's byte order, and writable
