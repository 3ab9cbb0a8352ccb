"""Coordinate-wise estimates: each slope exact, on all, a block or a sample.

With coordinate i measured with probability p_i and weight 1 / p_i, f linear:

    mean g,   E||ghat - g||^2 = sum_i g_i^2 (1 / p_i - 1),

however the coordinates are drawn together. All of them: no variance. Forward
differences bias entry i by mu H_ii / 2 on a quadratic; central ones are exact there.

References: Lian et al., arXiv 1606.00498 (ZO-SCD); the probabilities are those of
gradient sparsification, Wangni et al., arXiv 1710.09854, section 3.
"""

import dataclasses
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from core.errors import InputError, check_range, describe
from core.types import Array
from zo.base import widened
from zo.differences import Differences, Probes

Choice = Literal["sampled", "block"]


def importance_probs(magnitudes: Array, count: int, floor: float = 0.0) -> Array:
    """Returns inclusion probabilities [d] with sum `count`, by importance.

        p = (1 - floor) p* + floor count / d,
        p* = argmin sum_i m_i^2 / p_i   over   sum_i p_i = count, 0 < p_i <= 1

    p* has the least variance: p*_i = min(1, m_i / lam) (water filling). Those above lam
    = (sum of the others) / (count - their number) are taken for certain, and lam falls
    until none is left: at most `count` rounds, mostly two or three. With a floor p is a
    mixture, and not the minimiser above a floor: p_i >= floor count / d, so 1 / p_i <=
    d / (floor count), and what p* takes for certain has 1 - floor (1 - count / d).

    Args:
      magnitudes: |g_i| or guesses of it, [d], not negative; all zero means uniform.
        What is not finite counts as 0. Probabilities are at least float32.
      count: c, expected size of the sample, 1 to d.
      floor: in [0, 1], the share of uniform sampling.

    Raises:
      InputError: count or floor out of range.
    """
    d = magnitudes.size
    check_range("count", count, 1, d, remedy="A sample is part of the coordinates.")
    check_range("floor", floor, 0.0, 1.0)
    magnitudes = widened(magnitudes)
    dtype = magnitudes.dtype
    m = jnp.where(jnp.isfinite(magnitudes), jnp.abs(magnitudes), 0).astype(dtype)
    m = relative(m)
    # A coordinate that counts for nothing still takes part where others are too few.
    m = jnp.where(m.max() > 0, m, jnp.ones_like(m))
    m = jnp.maximum(m, jnp.asarray(jnp.finfo(dtype).eps, dtype))
    p = jnp.minimum(m / _level(m, count), 1)
    p = (1 - floor) * p + floor * count / d
    return jnp.minimum(p, 1)


def relative(m: Array) -> Array:
    """Returns magnitudes [d], not negative, over the largest; 0 where all are 0.

    So that none of any size vanishes in a quotient, and no square overflows.
    """
    top = m.max()
    # Division by a scalar may multiply by its reciprocal, which is 0 if subnormal.
    less = jnp.where(top > 1, jnp.asarray(2.0**-8, m.dtype), 1)
    return less * m / jnp.where(top > 0, less * top, 1)


def _level(m: Array, count: int) -> Array:
    """Returns lam, at which the sum of min(1, m / lam) is `count`."""

    def lowered(lam: Array) -> Array:
        above = m > lam
        left = count - above.sum(dtype=jnp.int32)
        rest = jnp.where(above, 0, m).sum()
        return rest / jnp.maximum(left, 1).astype(m.dtype)

    # Fewer than `count` are ever above: their sum would exceed count lam.
    start = m.sum() / count
    ends = jax.lax.while_loop(
        lambda lams: lams[1] < lams[0],
        lambda lams: (lams[1], lowered(lams[1])),
        (start, lowered(start)),
    )
    return ends[0]


def systematic_sample(key: Array, p: Array, count: int) -> Array:
    """Returns exactly `count` different coordinates, in random order, int32 [count].

    Coordinate i is among them with probability p_i: equidistant thresholds of one
    random offset fall into the cumulated probabilities. The coordinates are put into a
    random order before: otherwise neighbours never came together, and with equal p_i
    every sample were a comb k, k + d / c, ..., whose teeth a periodic gradient
    (channels, rows of an image) may all meet or all miss. Probabilities are cumulated
    as integers, whose sums are exact in any order and number.

    Args:
      key: a random key.
      p: probabilities in (0, 1] with sum `count`, [d].
      count: size of the sample, at most d.
    """
    shuffle, begin = jax.random.split(key)
    d = p.size
    order = jnp.argsort(jax.random.bits(shuffle, (d,), jnp.uint32)).astype(jnp.int32)
    edges = cumulated(p[order], count)
    gap = edges[-1] // jnp.uint32(count)
    first = jax.random.randint(begin, (), 0, gap, jnp.uint32)
    each = jnp.arange(count, dtype=jnp.int32)
    at = first + gap * each.astype(jnp.uint32)
    place = jnp.searchsorted(edges, at, side="right").astype(jnp.int32)
    # Where rounding made a share wider than the gap its neighbour is taken with it.
    place = jax.lax.cummax(place - each) + each
    return order[jnp.minimum(place, d - count + each)]


def uniform_sample(key: Array, d: int, count: int) -> Array:
    """Returns `count` different coordinates of d, any equally likely, int32 [count]."""
    # Of 32 bits as floats small numbers keep all, so there are next to no ties.
    bits = jax.random.bits(key, (d,), jnp.uint32).astype(jnp.float32)
    return jax.lax.top_k(-bits, count)[1]


def cumulated(p: Array, count: int) -> Array:
    """Returns cumulated probabilities of sum `count` as shares of 2**31, uint32 [d].

    In float32 those of 10 million coordinates would be as far apart as roundings are.
    """
    # Rounding adds d / 2 shares at most, and uint32 holds that.
    unit = jnp.asarray(2**31 / count, p.dtype)
    return jnp.cumsum(jnp.round(p * unit).astype(jnp.uint32), dtype=jnp.uint32)


def sampled_variance(g: Array, p: Array) -> Array:
    """Returns sum_i g_i^2 (1 / p_i - 1), the variance of a weighted sample."""
    return (jnp.square(g) * (1 / p - 1)).sum()


def axis(index: Array, d: int, dtype: Any) -> Array:
    """Returns the unit vector [d] of a coordinate."""
    return jax.nn.one_hot(index, d, dtype=dtype)


@dataclasses.dataclass(frozen=True)
class Coordinate(Differences[tuple[()]]):
    """Slopes along coordinates, in full, or of some with the weight d / c.

    Unbiased but for O(mu^2) (O(mu) forward); total variance (d / c - 1) ||g||^2.

    Attributes:
      count: c, coordinates of an estimate, all where there are fewer; None for all of
        them. Of all of them, a query that failed leaves its entry 0 and the others as
        they are.
      choice: "sampled", any c coordinates, or "block", c neighbours.

    Raises:
      InputError: no coordinate, or an unknown choice.
    """

    count: int | None = None
    choice: Choice = "sampled"

    def __post_init__(self):
        super().__post_init__()
        if self.count is not None:
            check_range("count", self.count, 1)
        if self.choice not in get_args(Choice):
            wanted = " or ".join(get_args(Choice))
            raise InputError(f"choice: {describe(repr(self.choice), wanted)}")

    def sizes(self, d: int) -> tuple[int]:
        """Returns (count,)."""
        return (d if self.count is None else min(self.count, d),)

    def draw(
        self, key: Array, memory: tuple[()], d: int, dtype: Any
    ) -> tuple[Probes, ...]:
        """Returns indices of coordinates."""
        del memory
        (count,) = self.sizes(d)
        if count == d:
            index = jnp.arange(d, dtype=jnp.int32)
        elif self.choice == "block":
            start = jax.random.randint(key, (), 0, d, jnp.int32)
            index = (start + jnp.arange(count, dtype=jnp.int32)) % d
        else:
            index = uniform_sample(key, d, count)
        return (Probes(index, jnp.full((count,), d / count, dtype)),)

    def direction(
        self, kind: int, seed: Array, memory: tuple[()], d: int, dtype: Any
    ) -> Array:
        """Returns a coordinate axis."""
        del kind, memory
        return axis(seed, d, dtype)

    def rescales(self, kind: int, d: int) -> bool:
        """Whether others can stand for a coordinate: not where all are asked."""
        del kind
        return self.sizes(d)[0] < d

    def variance(self, g: Array) -> Array:
        """Returns (d / c - 1) ||g||^2."""
        (count,) = self.sizes(g.size)
        return (g.size / count - 1) * jnp.square(g).sum()
