"""Formats of every kind and width, and their rounding by brute force."""

import numpy as np

from quant.formats import (
    AdditivePowers,
    Binary,
    ElasticSignificantBits,
    Flint,
    Levels,
    PowerOfTwo,
    SmallFloat,
    SumOfPowers,
    Ternary,
    Uniform,
)

EVERY = [
    Binary(),
    Ternary(),
    Levels((3.0, 1.0, 7.0, -2.0)),
    Levels(tuple(np.random.default_rng(0).normal(size=100))),
    *(Uniform(bits) for bits in range(2, 9)),
    *(Uniform(bits, signed=False) for bits in range(1, 9)),
    *(Uniform(bits, symmetric=True) for bits in range(2, 9)),
    *(PowerOfTwo(bits) for bits in range(2, 9)),
    *(PowerOfTwo(bits, signed=False) for bits in range(1, 8)),
    *(SumOfPowers(bits) for bits in range(3, 9)),
    *(AdditivePowers(bits) for bits in range(3, 9)),
    *(AdditivePowers(bits, signed=False) for bits in range(2, 8)),
    *(Flint(bits) for bits in range(3, 9)),
    *(Flint(bits, signed=False) for bits in range(2, 9)),
    *(ElasticSignificantBits(b, k) for b in range(2, 9) for k in range(b - 1)),
    *(ElasticSignificantBits(b, k, False) for b in range(1, 8) for k in range(b)),
    *(SmallFloat(e, m) for e in range(1, 8) for m in range(8 - e)),
    *(SmallFloat(e, m, signed=False) for e in range(1, 8) for m in range(9 - e)),
    SmallFloat(4, 3, specials="one_nan"),
    SmallFloat(5, 2, specials="ieee"),
    SmallFloat(4, 3, specials="fnuz"),
]
"""Every kind of format at every width up to 8 bits."""


def nearest(fmt, x):
    """The nearest level by brute force in float64, ties as the format says."""
    levels = fmt.levels
    ties_up = fmt.ties_up(levels, fmt.words)
    wide = np.asarray(x, np.float64)
    at = np.clip(np.searchsorted(levels, wide), 1, len(levels) - 1)
    low, high = levels[at - 1], levels[at]
    middle = low + (high - low) / 2
    up = (wide > middle) | ((wide == middle) & ties_up[at - 1])
    return np.where(up, high, low)


def points(fmt, rng, count=4096):
    """Numbers at, beside, between and far beyond the levels, float32 [count].

    None is subnormal: XLA may take those for 0.
    """
    levels = fmt.levels
    middles = np.float32(levels[:-1] + (levels[1:] - levels[:-1]) / 2)
    sides = [np.nextafter(middles, np.float32(end)) for end in (-np.inf, np.inf)]
    special = np.concatenate([middles, *sides, np.float32(levels), [-3e38, 0.0, 3e38]])
    size = rng.lognormal(sigma=3.0, size=count) * rng.choice([-1, 1], count)
    spread = rng.uniform(levels[0], levels[-1], count)
    drawn = np.where(rng.random(count) < 0.5, size, spread)
    x = np.float32(drawn)
    x[: len(special)] = special[:count]
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.float32(0), x)
