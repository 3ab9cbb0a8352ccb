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
from zo.base import Differences, Probes

Choice = Literal["sampled", "block"]


def importance_probs(magnitudes: Array, count: int, floor: float = 0.0) -> Array:
    """Returns inclusion probabilities of least variance, [d], with sum `count`.

        minimise sum_i m_i^2 / p_i   over   sum_i p_i = count, floor <= p_i <= 1

    without the floor: p_i = min(1, m_i / lam) (water filling). Those above lam = (sum
    of the others) / (count - their number) are taken for certain, and lam falls until
    none is left: at most `count` rounds, mostly two or three. The floor is a share of
    uniform probabilities that is mixed in, so that 1 / p_i <= d / (floor count).

    Args:
      magnitudes: |g_i| or guesses of it, [d], not negative; all zero means uniform.
        What is not finite counts as 0.
      count: c, expected size of the sample, 1 to d.
      floor: in [0, 1], the share of uniform sampling.

    Raises:
      InputError: count or floor out of range.
    """
    d = magnitudes.size
    check_range("count", count, 1, d, remedy="A sample is part of the coordinates.")
    check_range("floor", floor, 0.0, 1.0)
    dtype = magnitudes.dtype
    m = jnp.where(jnp.isfinite(magnitudes), jnp.abs(magnitudes), 0).astype(dtype)
    top = m.max()
    # Relative to the largest: tiny magnitudes must not vanish in a quotient. And a
    # coordinate that counts for nothing still takes part where others are too few.
    m = jnp.where(top > 0, m / jnp.where(top > 0, top, 1), jnp.ones_like(m))
    m = jnp.maximum(m, jnp.asarray(jnp.finfo(dtype).eps, dtype))
    p = jnp.minimum(m / _level(m, count), 1)
    p = (1 - floor) * p + floor * count / d
    return jnp.minimum(p, 1)


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
    """Returns exactly `count` different coordinates, rising, int32 [count].

    Coordinate i is among them with probability p_i: thresholds w, w + 1, ... with one
    uniform offset w fall into the cumulated probabilities. Neighbours seldom come
    together, which changes neither the mean nor the total variance of an estimate.

    Args:
      key: a random key.
      p: probabilities in (0, 1] with sum `count`, [d].
      count: size of the sample.
    """
    edges = jnp.cumsum(p)
    # Sums of floats end near `count`: scaled, so that no threshold is beyond.
    edges = edges * (count / edges[-1])
    w = jax.random.uniform(key, (), p.dtype) + jnp.arange(count, dtype=p.dtype)
    place = jnp.searchsorted(edges, w, side="right")
    return jnp.minimum(place, p.size - 1).astype(jnp.int32)


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
      count: c, coordinates of an estimate; None for all of them, where a query that
        failed leaves its entry 0.
      choice: "sampled", any c coordinates, or "block", c neighbours.

    Raises:
      InputError: no coordinate, or an unknown choice; when used, more than there are.
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
        if self.count is None:
            return (d,)
        check_range("count", self.count, 1, d, remedy="Leave it out to take all.")
        return (self.count,)

    def draw(
        self, key: Array, memory: tuple[()], d: int, dtype: Any
    ) -> tuple[Probes, ...]:
        """Returns indices of coordinates."""
        del memory
        (count,) = self.sizes(d)
        if self.count is None:
            index = jnp.arange(d, dtype=jnp.int32)
        elif self.choice == "block":
            start = jax.random.randint(key, (), 0, d, jnp.int32)
            index = (start + jnp.arange(count, dtype=jnp.int32)) % d
        else:
            p = jnp.full((d,), count / d, dtype)
            index = systematic_sample(key, p, count)
        return (Probes(index, jnp.full((count,), d / count, dtype)),)

    def direction(
        self, kind: int, seed: Array, memory: tuple[()], d: int, dtype: Any
    ) -> Array:
        """Returns a coordinate axis."""
        del kind, memory
        return axis(seed, d, dtype)

    def rescales(self, kind: int) -> bool:
        """Whether there are others that can stand for a coordinate."""
        del kind
        return self.count is not None

    def variance(self, g: Array) -> Array:
        """Returns (d / c - 1) ||g||^2."""
        (count,) = self.sizes(g.size)
        return (g.size / count - 1) * jnp.square(g).sum()
