"""What a pattern is, and the checks that all patterns share."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from core.errors import InputError, ShapeError, check_range, describe
from core.types import Array


class Storage(NamedTuple):
    """Size of a packed weight in bits.

    Invariants: both are Python integers, at least 0; `value_bits` counts every value
    slot of the format, padding included; `index_bits` is 0 for a weight of which all
    units are kept, since that is stored dense.
    """

    value_bits: int
    index_bits: int

    @property
    def bits(self) -> int:
        """Values and indices together."""
        return self.value_bits + self.index_bits


@runtime_checkable
class Pattern(Protocol):
    """What masks, transforms and constraint sets need to know of a pattern."""

    def units(self, shape: tuple[int, ...]) -> int:
        """Returns what a density counts in: density = count / units.

        Raises:
          ShapeError: a shape that has no such pattern.
        """
        ...

    def mask(self, scores: Array, count: int | Array) -> Array:
        """Returns the mask that keeps the `count` best units.

        Args:
          scores: a score per weight, higher is better; any real dtype. -inf ranks
            below every finite score and NaN below -inf.
          count: units to keep, a Python int or an integer array of shape [], which
            may be traced and is clipped to [0, units].

        Returns:
          A boolean mask of the shape of `scores`; ties go to the first in C order.
        """
        ...

    def weights(self, shape: tuple[int, ...], count: int) -> int:
        """Returns how many weights `mask(scores, count)` keeps, whatever the scores.

        It is exact, but for `Block` on a matrix that its blocks do not tile: there
        it is the most that a mask can keep.
        """
        ...

    def storage(self, shape: tuple[int, ...], count: int, bits: int = 32) -> Storage:
        """Returns the packed size with `count` units kept and `bits` bits a value.

        Index bits are those of the tightest usual encoding, not of int32 indices.
        """
        ...


def check_count(count: int | Array, units: int) -> int | Array:
    """Returns `count`; a Python integer is checked against [0, units].

    Raises:
      InputError: a Python `count` out of range.
    """
    if isinstance(count, int | np.integer):
        check_range("count", int(count), 0, units)
    return count


def axis_of(shape: Sequence[int], axis: int) -> int:
    """Returns `axis` counted from the front.

    Raises:
      ShapeError: `shape` has no such axis.
    """
    if not -len(shape) <= axis < len(shape):
        raise ShapeError(
            describe(
                f"a weight of shape {tuple(shape)}",
                f"one that has an axis {axis}",
                "Leave biases and scales out of the rules.",
            )
        )
    return axis % len(shape)


def check_positive(name: str, value: object) -> None:
    """Raises `InputError` unless `value` is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name}: {describe(repr(value), 'an integer of at least 1')}")


def pieces(length: int, size: int) -> list[int]:
    """Returns the lengths of the pieces of `size` that cover `length`; the last short.

    Example:
      >>> pieces(10, 4)
      [4, 4, 2]
    """
    full, rest = divmod(length, size)
    return [size] * full + [rest] * bool(rest)


def bits_for(values: int) -> int:
    """Returns the bits that tell `values` values apart: ceil(log2(values))."""
    return max(values - 1, 0).bit_length()


def choice_bits(count: int, units: int) -> int:
    """Returns the bits that say which `count` of `units` are kept.

    A bit for every unit or a number for every kept one, whichever is smaller; 0 if
    all are kept, or none.
    """
    if count in (0, units):
        return 0
    return min(units, count * bits_for(units))
