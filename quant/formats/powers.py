"""Formats of powers of two, their sums, and words that share their bits out."""

import dataclasses
import math

import numpy as np

from core.errors import InputError, describe
from quant.formats.base import Cost, Format, check_bits, to_even


@dataclasses.dataclass(frozen=True)
class PowerOfTwo(Format):
    """0 and the powers 1, 2, 4, ..., 2**(2**B - 2) of B magnitude bits.

    Attributes:
      bits: B, and one for the sign; B from 1 to 7, beyond which float32 ends.
      signed: whether a sign is stored.
    """

    bits: int
    signed: bool = True

    def __post_init__(self):
        check_bits("bits", self.bits, 1 + int(self.signed), 7 + int(self.signed))

    def values(self) -> np.ndarray:
        """Returns the numbers of the words; see `Format.values`."""
        powers = 2.0 ** np.arange(2**self.magnitude_bits - 1)
        return self._signed(np.concatenate([[0.0], powers]))

    @property
    def cost(self) -> Cost:
        """Shifts and adds of one product."""
        return Cost(int(self.magnitude_bits > 1), 0)  # of 1 bit: 0 and 1


@dataclasses.dataclass(frozen=True)
class SumOfPowers(Format):
    """SP2: q1 + q2 with a sign (arXiv 2012.04240, equation 8); the largest is 1.

    q1 is 0 or 2**-i for i below 2**m1, q2 likewise below 2**m2, m1 + m2 + 1 == bits. A
    word holds sign, i and j, where 0 stands for q = 0; of two words for a number, that
    of the larger q1 is canonical.

    Attributes:
      bits: 3 to 8, the sign among them; float32 holds no more.
    """

    bits: int
    signed = True

    def __post_init__(self):
        check_bits("bits", self.bits, 3, 8)

    @property
    def split(self) -> tuple[int, int]:
        """m1 and m2, the bits of both exponents."""
        first = math.ceil((self.bits - 1) / 2)
        return first, self.bits - 1 - first

    def values(self) -> np.ndarray:
        """Returns the numbers of the words; see `Format.values`."""
        q1, q2 = self._parts()
        return self._signed(q1 + q2)

    def preference(self) -> np.ndarray:
        """Returns the words by falling q1, positive ones first."""
        q1, _ = self._parts()
        order = np.argsort(-q1, kind="stable")
        return np.concatenate([order, order + len(order)])

    def _parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Of every magnitude word q1 and q2."""
        first, second = (_inverse_powers(2**m) for m in self.split)
        return np.repeat(first, len(second)), np.tile(second, len(first))

    @property
    def cost(self) -> Cost:
        """Shifts and adds of one product."""
        return Cost(2, 1)


def _inverse_powers(count: int) -> np.ndarray:
    """0, 1/2, 1/4, ..., 2**-(count - 1)."""
    return np.where(np.arange(count) == 0, 0.0, 2.0 ** -np.arange(count))


@dataclasses.dataclass(frozen=True)
class AdditivePowers(Format):
    """APoT: sums of n powers of two, one of each of n disjoint sets (1909.13144).

    Of B magnitude bits, n = B // 2 terms of two bits: term i is 0, 2**-(i + 1) or
    2**-(i + 1 + n), and a third power below. An odd B has a term of one bit more, 0 or
    2**-(2n + 1); the third powers come after it. So no two words stand for one number,
    as they do in SP2. A word holds the terms, the largest first.

    Attributes:
      bits: B, and one for the sign; B from 2 to 7.
      signed: whether a sign is stored.
    """

    bits: int
    signed: bool = True

    def __post_init__(self):
        check_bits("bits", self.bits, 2 + int(self.signed), 7 + int(self.signed))

    def values(self) -> np.ndarray:
        """Returns the numbers of the words; see `Format.values`."""
        n, odd = divmod(self.magnitude_bits, 2)
        sums = np.zeros(1)
        for i in range(1, n + 1):
            powers = 2.0 ** -np.array([i, i + n, i + 2 * n + odd])
            sums = np.add.outer(sums, np.concatenate([[0.0], powers])).reshape(-1)
        if odd:
            sums = np.add.outer(sums, [0.0, 2.0 ** -(2 * n + 1)]).reshape(-1)
        return self._signed(sums)

    @property
    def cost(self) -> Cost:
        """Shifts and adds of one product."""
        terms = math.ceil(self.magnitude_bits / 2)
        return Cost(terms, terms - 1)


@dataclasses.dataclass(frozen=True)
class ElasticSignificantBits(Format):
    """ESB: k significant bits after the leading one (arXiv 2109.03513).

    Below 1 the step is 2**-k; in the octave of 2**e it is 2**(e - k), for e up to N =
    2**n - 2 with n = B - k exponent bits of the B magnitude bits. k = B - 1 is fixed
    point, k = 0 powers of two. Ties go to the even word, as in floating point; between
    powers of two (k = 0) up, but the one of 0 and 1 to 0.

    Attributes:
      bits: 2 to 8, the sign among them.
      significant: k, from 0 to bits - 2 (bits - 1 if unsigned).
      signed: an unsigned format of b bits has the magnitudes of a signed one of b + 1.
      max_exponent_bits: more exponent bits than that become significant ones, as in the
        authors' code: levels of larger exponents would not be used.
    """

    bits: int
    significant: int
    signed: bool = True
    max_exponent_bits: int = 4

    def __post_init__(self):
        check_bits("bits", self.bits, 1 + int(self.signed), 7 + int(self.signed))
        check_bits("significant", self.significant, 0, self.magnitude_bits - 1)
        check_bits("max_exponent_bits", self.max_exponent_bits, 1, 6)

    @property
    def fraction_bits(self) -> int:
        """k, after the cap of the exponent."""
        return max(self.significant, self.magnitude_bits - self.max_exponent_bits)

    @property
    def largest_exponent(self) -> int:
        """N, the exponent of the last octave."""
        return 2 ** (self.magnitude_bits - self.fraction_bits) - 2

    def values(self) -> np.ndarray:
        """Returns the numbers of the words; see `Format.values`."""
        word, k = np.arange(2**self.magnitude_bits), self.fraction_bits
        field, fraction = word >> k, (word & (2**k - 1)) / 2**k
        normal = 2.0 ** (field - 1) * (1 + fraction)
        return self._signed(np.where(field == 0, fraction, normal))

    def ties_up(self, levels: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Returns which ties go up; see `Format.ties_up`."""
        if self.fraction_bits:
            return to_even(words)
        # round(x / 2^s) 2^s with s of the octave of x: 1.5 is rounded to 2, 0.5 to 0.
        larger = super().ties_up(levels, words)
        return np.where(
            levels[:-1] == 0, False, np.where(levels[1:] == 0, True, larger)
        )

    @property
    def cost(self) -> Cost:
        """Shifts and adds of one product."""
        k = self.fraction_bits
        return Cost(k + int(self.largest_exponent > 0), k)


@dataclasses.dataclass(frozen=True)
class Flint(Format):
    """Leading zeros share a word's bits out, exponent and mantissa (ANT, MICRO 2022).

    Of B magnitude bits: below 2**(B - 1) integers; then 1, z zeros and 1 stand for the
    octave of 2**(B - 1 + z) with B - 2 - z mantissa bits, and 10...0 for 2**(2B - 2).
    Ties go to the larger magnitude.

    Attributes:
      bits: B, and one for the sign; B from 2 to 8.
      signed: whether a sign is stored.
    """

    bits: int
    signed: bool = True

    def __post_init__(self):
        check_bits("bits", self.bits, 2 + int(self.signed), 8 + int(self.signed))

    def base_and_shift(self) -> tuple[np.ndarray, np.ndarray]:
        """Of every magnitude word: integers that give its number as base << shift."""
        B = self.magnitude_bits
        bases, shifts = [], []
        for word in range(2**B):
            rest = word - 2 ** (B - 1)
            if rest < 0:
                base, shift = word, 0
            elif rest == 0:
                base, shift = 1, 2 * B - 2
            else:
                zeros = B - 1 - rest.bit_length()
                base, shift = rest, 2 * zeros + 1
            bases.append(base)
            shifts.append(shift)
        return np.array(bases), np.array(shifts)

    def values(self) -> np.ndarray:
        """Returns the numbers of the words; see `Format.values`."""
        base, shift = self.base_and_shift()
        return self._signed(base * 2.0**shift)

    @property
    def cost(self) -> Cost:
        """Shifts and adds of one product."""
        significand = max(self.magnitude_bits - 1, 1)
        return Cost(significand, significand - 1)


SPECIALS = ("none", "ieee", "one_nan", "fnuz")


@dataclasses.dataclass(frozen=True)
class SmallFloat(Format):
    """Floating point with any share of exponent and mantissa bits, and subnormals.

    Ties go to the even word. Beyond the ends, numbers saturate: infinities and NaN have
    words, but rounding gives none of them. With these specials every float of 4, 6 and
    8 bits of ml_dtypes is one, but for float8_e8m0fnu, the exponents that other
    formats' blocks share: it has no 0, and its ends are no normal float32.

    Attributes:
      exponent_bits: 1 to 8.
      mantissa_bits: 0 to 7; float32 holds every number of at most 8 and 7.
      bias: of the exponent; 2**(exponent_bits - 1) - 1 if None, with "fnuz" one more.
      specials: what the highest exponent means: "none", a number as others; "ieee",
        infinity and NaN; "one_nan", numbers, but for the word of all ones; "fnuz",
        numbers, NaN being the word of -0.
      signed: whether a sign is stored.
    """

    exponent_bits: int
    mantissa_bits: int
    bias: int | None = None
    specials: str = "none"
    signed: bool = True

    def __post_init__(self):
        check_bits("exponent_bits", self.exponent_bits, 1, 8)
        check_bits("mantissa_bits", self.mantissa_bits, 0, 7)
        if self.specials not in SPECIALS:
            raise InputError(
                describe(f"specials={self.specials!r}", f"one of {', '.join(SPECIALS)}")
            )
        if self.specials == "fnuz" and not self.signed:
            given = "specials='fnuz', signed=False"
            raise InputError(describe(given, "signed=True, for the word of -0"))
        largest = np.nanmax(np.where(np.isfinite(v := self.values()), v, np.nan))
        least = 2.0 ** (1 - self.offset - self.mantissa_bits)
        if not (largest < 2.0**127 and least >= 2.0**-125):
            raise InputError(
                describe(
                    f"numbers from {least} to {largest}",
                    "normal numbers of float32 and their halves",
                    "Take fewer exponent bits or another bias.",
                )
            )

    @property
    def bits(self) -> int:  # type: ignore[override]
        """The width of a word."""
        return self.exponent_bits + self.mantissa_bits + int(self.signed)

    @property
    def offset(self) -> int:
        """The bias, also where it was left out."""
        default = 2 ** (self.exponent_bits - 1) - int(self.specials != "fnuz")
        return default if self.bias is None else self.bias

    def values(self) -> np.ndarray:
        """Returns the numbers of the words; see `Format.values`."""
        count, m = 2 ** (self.exponent_bits + self.mantissa_bits), self.mantissa_bits
        word = np.arange(count)
        field, fraction = word >> m, (word & (2**m - 1)) / 2**m
        normal = 2.0 ** (field - self.offset) * (1 + fraction)
        values = np.where(field == 0, 2.0 ** (1 - self.offset) * fraction, normal)
        if self.specials == "ieee":
            top = field == 2**self.exponent_bits - 1
            values = np.where(top, np.where(fraction == 0, np.inf, np.nan), values)
        elif self.specials == "one_nan":
            values = np.where(word == count - 1, np.nan, values)
        values = self._signed(values)
        if self.specials == "fnuz":
            values[count] = np.nan
        return values

    def ties_up(self, levels: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Returns which ties go up; see `Format.ties_up`."""
        return to_even(words)

    @property
    def cost(self) -> Cost:
        """Shifts and adds of one product."""
        m = self.mantissa_bits
        return Cost(m + int(self.exponent_bits > 1), m)  # of 1 bit: fixed point
