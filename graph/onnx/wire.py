"""A look at the wire format before it is parsed, so that parsing stays bounded.

A protobuf message of two bytes on the wire takes hundreds in memory, so a small file
could fill it. The scan counts the fields that the schema knows as messages, and all
others, without building anything.
"""

from typing import Any

from graph.onnx._refuse import bad

MAX_FIELDS = 2**20
"""The most protobuf fields that a model may have."""

_WIDTH = {1: 8, 5: 4}  # bytes of a wire type of fixed width
_LENGTH, _VARINT = 2, 0


def scan(data: bytes, descriptor: Any, limit: int = MAX_FIELDS) -> int:
    """Returns the number of fields of a message and of the messages inside of it.

    Args:
      data: the message on the wire.
      descriptor: its protobuf descriptor.
      limit: of fields.

    Raises:
      DataFormatError: more than `limit` fields, or not the wire format.
    """
    tables: dict[str, dict[int, Any]] = {}
    pending = [(descriptor, 0, len(data))]
    count = 0
    while pending:
        kind, position, end = pending.pop()
        inner = tables.get(kind.full_name)
        if inner is None:
            inner = tables[kind.full_name] = _messages(kind)
        while position < end:
            count += 1
            if count > limit:
                raise bad("the file", f"over {limit} fields", "a model of a sane size")
            key, position = _varint(data, position, end)
            wire = key & 7
            if wire == _VARINT:
                _, position = _varint(data, position, end)
            elif wire == _LENGTH:
                size, position = _varint(data, position, end)
                if size > end - position:
                    raise _truncated()
                if key >> 3 in inner:
                    pending.append((inner[key >> 3], position, position + size))
                position += size
            elif wire in _WIDTH and _WIDTH[wire] <= end - position:
                position += _WIDTH[wire]
            else:
                raise _truncated()
    return count


def _messages(descriptor: Any) -> dict[int, Any]:
    """The fields of a message that are messages themselves, by their number."""
    fields = descriptor.fields
    return {f.number: f.message_type for f in fields if f.message_type is not None}


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            break
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise _truncated()


def _truncated() -> Exception:
    return bad("the file", "a truncated or broken message", "an ONNX model")
