"""What a number format is: code words, the numbers that they stand for, rounding."""

import abc
import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from core.errors import InputError, describe
from core.types import Array, ArrayLike
from quant.formats import lookup

MAX_BITS = 16


class Cost(NamedTuple):
    """What one product with a number of a format takes, built from shifts and adds.

    The worst number counts. A significand of s bits is s shifted copies of the other
    factor: s - 1 shifts and s - 1 adds; an exponent is one shift more.

    Attributes:
      shifts: shifters.
      adds: adders.
    """

    shifts: int
    adds: int


NO_COST = Cost(0, 0)
"""Of numbers whose products are choices of a sign or of 0."""


class Format(abc.ABC):
    """A set of numbers with a code word for each; subclasses are frozen dataclasses.

    A word is an unsigned integer below 2**bits. Two words may stand for one number, as
    those of 0 and -0; `encode` then gives the same one always, the canonical word. A
    word that stands for no number (NaN or infinity of a small float) is never given.

    Numbers are in the format's own unit; the scale of a tensor is a quantizer's.
    """

    bits: int
    signed: bool

    @abc.abstractmethod
    def values(self) -> np.ndarray:
        """Returns the number of every word, float64 [2**bits], NaN for none."""

    def preference(self) -> np.ndarray:
        """Returns the words, those first that are canonical before others."""
        return np.arange(2**self.bits)

    @property
    @abc.abstractmethod
    def cost(self) -> Cost:
        """Shifts and adds of one product."""

    def ties_up(self, levels: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Whether the middle of neighbours goes to the upper one, bool [levels - 1].

        Here: to the one of larger magnitude; the middle of -a and a goes to a.

        Args:
          levels: rising.
          words: their canonical words.
        """
        del words
        return np.abs(levels[1:]) >= np.abs(levels[:-1])

    @property
    def levels(self) -> np.ndarray:
        """The numbers in rising order, each once, float64 [at most 2**bits]."""
        return _table(self).levels

    @property
    def words(self) -> np.ndarray:
        """The canonical word of every level, in the order of `levels`."""
        return _table(self).words

    @property
    def max(self) -> float:
        """The largest number."""
        return float(self.levels[-1])

    @property
    def min(self) -> float:
        """The smallest number: -max for most signed formats, 0 for unsigned ones."""
        return float(self.levels[0])

    @property
    def magnitude_bits(self) -> int:
        """The bits of a word without its sign."""
        return self.bits - int(self.signed)

    @property
    def dtype(self) -> np.dtype:
        """The type of words: uint8, or uint16 above 8 bits."""
        return np.dtype(np.uint8 if self.bits <= 8 else np.uint16)

    def encode(self, x: ArrayLike) -> Array:
        """Returns the word of the nearest level, of `dtype` and the shape of x.

        What lies beyond the ends gets the word of the end. Rounding is exact in the
        type of x (float32 for narrower ones); see `ties_up` for ties.

        Args:
          x: floating-point numbers in the format's unit. NaN gets the word of 0, or of
            what is nearest to it: check before, as quantizers do.

        Raises:
          InputError: integers.
        """
        x = jnp.asarray(x, floating(x))
        return self._words(jnp.where(jnp.isnan(x), jnp.zeros_like(x), x))

    def _words(self, x: Array) -> Array:
        """Words of numbers of float32 or float64 without NaN."""
        return lookup.words(_plan(self, np.dtype(x.dtype)), x)

    def decode(self, words: ArrayLike, dtype=jnp.float32) -> Array:
        """Returns the numbers of words, of `dtype` and the words' shape.

        Args:
          words: unsigned integers; the bits above `bits` are ignored.
          dtype: a floating-point type; the numbers are rounded to it.
        """
        table = jnp.asarray(_table(self).values, dtype)
        mask = jnp.asarray(2**self.bits - 1, jnp.int32)
        return table[jnp.asarray(words).astype(jnp.int32) & mask]

    def round(self, x: ArrayLike) -> Array:
        """Returns the nearest levels, in the type of x; NaN stays NaN."""
        x = jnp.asarray(x)
        near = self.decode(self.encode(x), floating(x)).astype(x.dtype)
        return jnp.where(jnp.isnan(x), x, near)

    def _signed(self, magnitudes: np.ndarray) -> np.ndarray:
        """Values of words whose top bit is the sign, if there is one."""
        return np.concatenate([magnitudes, -magnitudes]) if self.signed else magnitudes


class Table(NamedTuple):
    """What is computed once for a format.

    Attributes:
      values: of every word, float64 [2**bits].
      levels: sorted, each once.
      words: canonical words of the levels.
      ties_up: of the middles of neighbouring levels, bool.
    """

    values: np.ndarray
    levels: np.ndarray
    words: np.ndarray
    ties_up: np.ndarray


@functools.lru_cache(maxsize=256)
def _table(fmt: Format) -> Table:
    values = np.asarray(fmt.values(), np.float64)
    order = fmt.preference()
    known = order[np.isfinite(values[order])]
    levels, first = np.unique(values[known], return_index=True)
    levels = levels + 0.0  # -0.0 is 0.0
    up = np.asarray(fmt.ties_up(levels, known[first]), bool)
    for part in (values, levels, up):
        part.setflags(write=False)
    return Table(values, levels, known[first], up)


@functools.lru_cache(maxsize=256)
def _plan(fmt: Format, dtype: np.dtype) -> lookup.Plan:
    table = _table(fmt)
    words = table.words.astype(fmt.dtype)
    return lookup.plan(table.levels, table.ties_up, words, dtype)


def floating(x: ArrayLike) -> np.dtype:
    """Returns the type that x is rounded in: float64 as it is, float32 for others.

    Raises:
      InputError: numbers that are not floating-point.
    """
    dtype = jnp.result_type(x)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise InputError(
            describe(f"numbers of type {dtype}", "a floating-point type", "Cast them.")
        )
    return np.dtype(np.float64 if dtype == jnp.float64 else np.float32)


def check_bits(name: str, bits: int, low: int, high: int) -> None:
    """Raises `InputError` unless a width is an integer from low to high."""
    whole = isinstance(bits, int | np.integer) and not isinstance(bits, bool)
    if not whole or not low <= bits <= high:
        raise InputError(
            describe(f"{name}={bits!r}", f"an integer from {low} to {high}")
        )


def to_even(words: np.ndarray) -> np.ndarray:
    """Ties to the neighbour whose word is even, as in IEEE 754, bool [levels - 1]."""
    return words[1:] % 2 == 0
