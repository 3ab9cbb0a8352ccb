"""Activations by tables and numbers in fixed point, as hardware of E-RNN has them.

A table has equal segments between two ends, a straight line on each, and constants
beyond: an argument's segment is its top bits (arXiv 1812.07106, after C-LSTM).
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from admm.recurrent import Activations
from core.errors import InputError, check_range, describe
from core.types import Array


@dataclasses.dataclass(frozen=True)
class FixedPoint:
    """Numbers k 2^-fraction of so many bits in two's complement, the sign among them.

    Attributes:
      bits: 2 to 24, so that float32 holds every number.
      fraction: bits behind the point; may be negative, or more than `bits`.
    """

    bits: int
    fraction: int

    def __post_init__(self):
        check_range("bits", self.bits, 2, 24)

    def __call__(self, x: Array) -> Array:
        """Returns the nearest numbers, ties to even, of the type of x; it saturates."""
        step = 2.0**-self.fraction
        top = 2 ** (self.bits - 1)
        return jnp.clip(jnp.round(x / step), -top, top - 1) * step


def fixed_for(x: Array, bits: int) -> FixedPoint:
    """Returns the numbers of so many bits that reach the largest of x.

    Reads x on the host: for calibration, not under `jit`.
    """
    largest = float(jnp.max(jnp.abs(x)))
    whole = math.ceil(math.log2(largest * (1 + 2.0**-bits))) if largest > 0 else 0
    return FixedPoint(bits, bits - 1 - whole)


@dataclasses.dataclass(frozen=True)
class Table:
    """A function of one number as straight lines, parallel to chords of it.

    A chord lies on one side of a curve that bends one way: shifted by half of its
    largest error it has half of that on both sides. With f'' continuous the error is at
    most max |f''| h^2 / 16 between the ends, h the length of a segment, where f'' does
    not change its sign within one; and beyond them |f - f(end)| and as much. Lines do
    not meet where segments do.

    Attributes:
      slopes: of the segments.
      offsets: line i is slopes[i] x + offsets[i].
      low: where the first segment begins.
      high: where the last one ends.
    """

    slopes: tuple[float, ...]
    offsets: tuple[float, ...]
    low: float
    high: float

    def __call__(self, x: Array) -> Array:
        """Returns the lines' values, of the type of x."""
        count = len(self.slopes)
        x = jnp.clip(x, self.low, self.high)
        place = jnp.floor((x - self.low) * (count / (self.high - self.low)))
        index = jnp.clip(place, 0, count - 1).astype(jnp.int32)
        slopes, offsets = (jnp.asarray(t, x.dtype) for t in (self.slopes, self.offsets))
        return slopes[index] * x + offsets[index]


def table(
    fn: Callable[[np.ndarray], np.ndarray], low: float, high: float, segments: int
) -> Table:
    """Returns the table of a function.

    Args:
      fn: of a numpy array.
      low: where segments begin; arguments below have the value there.
      high: where they end, above `low`.
      segments: how many, at least 1.

    Raises:
      InputError: no segments, or ends in the wrong order.

    Example:
      >>> lines = table(np.tanh, -4.0, 4.0, 22)
      >>> x = jnp.linspace(-8, 8, 1001)
      >>> bool(jnp.max(jnp.abs(lines(x) - jnp.tanh(x))) < 0.01)
      True
    """
    check_range("segments", segments, 1)
    if not low < high:
        raise InputError(describe(f"ends {low:g} and {high:g}", "the lower one first"))
    x = np.linspace(low, high, segments + 1)
    y = np.asarray(fn(x), np.float64)
    slopes = np.diff(y) / np.diff(x)
    offsets = y[:-1] - slopes * x[:-1]
    # The errors of chords, at points that are near enough for their largest.
    inside = np.linspace(x[:-1], x[1:], 129)
    away = np.asarray(fn(inside), np.float64) - (slopes * inside + offsets)
    offsets += (away.max(axis=0) + away.min(axis=0)) / 2
    return Table(tuple(slopes.tolist()), tuple(offsets.tolist()), low, high)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Returns 1 / (1 + exp(-x)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


@functools.lru_cache(maxsize=64)
def tables(segments: int = 22, number: FixedPoint | None = None) -> Activations:
    """Returns sigmoid on [-8, 8] and tanh on [-4, 4] as tables.

    Args:
      segments: of each.
      number: what arguments, results and states are rounded to; None for floats.
    """
    found = (table(sigmoid, -8.0, 8.0, segments), table(np.tanh, -4.0, 4.0, segments))
    if number is None:
        return Activations(*found)

    def rounded(lines: Table) -> Callable[[Array], Array]:
        return lambda x: number(lines(number(x)))

    return Activations(rounded(found[0]), rounded(found[1]), number)
