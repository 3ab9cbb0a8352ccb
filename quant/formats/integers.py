"""Formats whose levels are integers, or a few numbers: fixed point, binary, ternary."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from core.errors import InputError, describe
from core.types import Array, ArrayLike
from quant.formats.base import (
    MAX_BITS,
    NO_COST,
    Cost,
    Format,
    check_bits,
    floating,
)


@dataclasses.dataclass(frozen=True)
class Uniform(Format):
    """Fixed point: the integers of a range, as two's complement words.

    Ties go to the even integer.

    Attributes:
      bits: 1 to 16; at least 2 if signed.
      signed: from -2**(bits - 1) to 2**(bits - 1) - 1, else from 0 to 2**bits - 1.
      symmetric: leaves out the integer that has no negative: 2**bits - 1 levels, the
        fixed-point set of MSQ (arXiv 2012.04240) in units of its smallest level.
    """

    bits: int
    signed: bool = True
    symmetric: bool = False

    def __post_init__(self):
        check_bits("bits", self.bits, 2 if self.signed else 1, MAX_BITS)
        if self.symmetric and not self.signed:
            raise InputError(describe("symmetric=True, signed=False", "signed=True"))

    @property
    def lowest(self) -> int:
        """The smallest integer."""
        return (int(self.symmetric) - 2 ** (self.bits - 1)) if self.signed else 0

    @property
    def highest(self) -> int:
        """The largest integer."""
        return 2**self.magnitude_bits - 1

    def values(self) -> np.ndarray:
        """Returns the numbers of the words; see `Format.values`."""
        words = np.arange(2**self.bits)
        if not self.signed:
            return words.astype(np.float64)
        values = np.where(words > self.highest, words - 2**self.bits, words) * 1.0
        return np.where(values < self.lowest, np.nan, values)

    def ties_up(self, levels: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Returns which ties go up; see `Format.ties_up`."""
        del words
        return levels[1:] % 2 == 0

    def _words(self, x: Array) -> Array:
        integers = jnp.clip(jnp.round(x), self.lowest, self.highest).astype(jnp.int32)
        return (integers & (2**self.bits - 1)).astype(self.dtype)

    def round(self, x: ArrayLike) -> Array:
        """Returns the nearest integers; see `Format.round`."""
        x = jnp.asarray(x)
        wide = x.astype(floating(x))
        return jnp.clip(jnp.round(wide), self.lowest, self.highest).astype(x.dtype)

    def integers(self, words: ArrayLike) -> Array:
        """Returns the integers of words, int32."""
        word = jnp.asarray(words).astype(jnp.int32) & (2**self.bits - 1)
        if not self.signed:
            return word
        return jnp.where(word > self.highest, word - 2**self.bits, word)

    def decode(self, words: ArrayLike, dtype=jnp.float32) -> Array:
        """Returns numbers; see `Format.decode`."""
        integers = self.integers(words)
        numbers = integers.astype(dtype)
        if not self.symmetric:
            return numbers
        return jnp.where(integers < self.lowest, jnp.asarray(jnp.nan, dtype), numbers)

    @property
    def cost(self) -> Cost:
        """Shifts and adds of one product."""
        return Cost(self.magnitude_bits - 1, self.magnitude_bits - 1)


@dataclasses.dataclass(frozen=True)
class Binary(Format):
    """One bit: word 0 is -1, word 1 is 1; 0 goes to 1."""

    bits = 1
    signed = True

    def values(self) -> np.ndarray:
        """Returns the numbers of the words; see `Format.values`."""
        return np.array([-1.0, 1.0])

    @property
    def cost(self) -> Cost:
        """Shifts and adds of one product."""
        return NO_COST


@dataclasses.dataclass(frozen=True)
class Ternary(Format):
    """Two bits, sign and magnitude: -1, 0 and 1."""

    bits = 2
    signed = True

    def values(self) -> np.ndarray:
        """Returns the numbers of the words; see `Format.values`."""
        return self._signed(np.array([0.0, 1.0]))

    @property
    def cost(self) -> Cost:
        """Shifts and adds of one product."""
        return NO_COST


@dataclasses.dataclass(frozen=True)
class Levels(Format):
    """Any set of numbers; the word of a number is its place in rising order.

    Attributes:
      numbers: 2 to 65536 different finite numbers in any order, one above 0.
      cost_of_product: its cost; None for what the numbers tell, see `cost`.
    """

    numbers: tuple[float, ...]
    cost_of_product: Cost | None = None

    def __post_init__(self):
        object.__setattr__(self, "numbers", tuple(sorted(map(float, self.numbers))))
        distinct, count = len(set(self.numbers)), len(self.numbers)
        finite = bool(np.isfinite(self.numbers).all())
        if not 2 <= count <= 2**MAX_BITS or distinct != count or not finite:
            raise InputError(
                describe(
                    f"{count} numbers, {distinct} of them different"
                    + ("" if finite else ", not all finite"),
                    f"2 to {2**MAX_BITS} different finite numbers",
                )
            )
        if self.numbers[-1] <= 0:
            given = f"numbers up to {self.numbers[-1]:g}"
            wanted = "one above 0, which scales are fitted to"
            raise InputError(describe(given, wanted))

    @property
    def bits(self) -> int:  # type: ignore[override]
        """The width of a word."""
        return (len(self.numbers) - 1).bit_length()

    @property
    def signed(self) -> bool:  # type: ignore[override]
        """Whether a number is negative."""
        return self.numbers[0] < 0

    def values(self) -> np.ndarray:
        """Returns the numbers of the words; see `Format.values`."""
        values = np.full(2**self.bits, np.nan)
        values[: len(self.numbers)] = self.numbers
        return values

    @property
    def cost(self) -> Cost:
        """Shifts and adds of one product.

        If it is not given: a number with c binary digits that are 1 (as float32) is c
        shifted copies, c shifts and c - 1 adds; or all numbers are integers of s bits
        times one unit, s - 1 shifts and adds. The cheaper one for the worst number.
        """
        if self.cost_of_product is not None:
            return self.cost_of_product
        sizes = {abs(float(np.float32(number))) for number in self.numbers} - {0.0}
        if len(sizes) <= 1:
            return NO_COST
        parts = [size.as_integer_ratio() for size in sizes]
        copies = max(whole.bit_count() for whole, _ in parts)
        unit = max(below for _, below in parts)
        wholes = [whole * (unit // below) for whole, below in parts]
        width = (max(wholes) // (math.gcd(*wholes) & -math.gcd(*wholes))).bit_length()
        each = Cost(copies, copies - 1), Cost(width - 1, width - 1)
        return min(each, key=sum)
