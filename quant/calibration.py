"""Scales of quantizers: from the extremes, from percentiles, by least error.

A calibration is a frozen dataclass that is called with rows [groups, n], each of which
gets a scale of its own, and a format; it returns a `Scaling` of arrays [groups]. A row
without a range, all of it 0, gets scale 1.
"""

import abc
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from core.errors import InputError, check_range, describe
from core.types import Array
from quant.alignment import LEAST, normal_scale
from quant.formats import Format, Uniform


class Scaling(NamedTuple):
    """How numbers become levels: level = x / scale + zero.

    Attributes:
      scale: positive.
      zero: the level that stands for 0; a whole number where codes are integers.
    """

    scale: Array
    zero: Array


def mean_scaling(found: Scaling, axes: int | tuple[int, ...] | None) -> Scaling:
    """Returns the scaling whose range has the mean ends of others.

    The ends are (level - zero) * scale, so the scale is the mean, and the zero the mean
    of zero * scale over that: not a whole number, round it where codes are.

    Args:
      found: of one format.
      axes: of the others, all if None.
    """
    scale = found.scale.mean(axes)
    return Scaling(scale, (found.zero * found.scale).mean(axes) / scale)


class Calibration(abc.ABC):
    """A way to choose scales."""

    @abc.abstractmethod
    def __call__(self, x: Array, fmt: Format) -> Scaling:
        """Returns the scaling of every row [groups] of x [groups, n]."""


def symmetric(scale: Array, size: Array | None = None) -> Scaling:
    """Returns scales around 0, all positive and finite: 1 where none is left.

    None is left of rows with NaN or infinity, which `fit` refuses unless it is traced.

    Args:
      scale: [groups].
      size: of the largest number of each row, [groups]; where it has one, a scale
        beyond the normal floats becomes the nearest of them: powers of two of 8 bits
        reach 2**126, so that no number may be their largest level.
    """
    limits = jnp.finfo(scale.dtype)
    tiny = jnp.asarray(limits.tiny, scale.dtype)
    if size is not None:
        has_size = (size >= tiny) & jnp.isfinite(size)
        scale = jnp.where(has_size, jnp.clip(scale, tiny, limits.max), scale)
    is_usable = (scale >= tiny) & jnp.isfinite(scale)
    usable = jnp.where(is_usable, scale, jnp.ones_like(scale))
    return Scaling(usable, jnp.zeros_like(usable))


def _sizes(x: Array, fmt: Format) -> Array:
    """What levels have to reach: magnitudes, or what is not negative."""
    return jnp.abs(x) if fmt.signed else jnp.maximum(x, 0)


@dataclasses.dataclass(frozen=True)
class MaxAbs(Calibration):
    """The largest magnitude becomes the format's largest level.

    Attributes:
      ratio: of the largest magnitude, that becomes it instead; below 1 clips.
    """

    ratio: float = 1.0

    def __post_init__(self):
        check_range("ratio", self.ratio, 0.0, low_open=True)

    def __call__(self, x: Array, fmt: Format) -> Scaling:
        """Returns the scaling of every row; see `Calibration`."""
        size = _sizes(x, fmt).max(-1)
        return symmetric(self.ratio * size / fmt.max, size)


@dataclasses.dataclass(frozen=True)
class MinMax(Calibration):
    """The range from the least to the largest number, and 0, on all integers.

    For `Uniform` alone: the zero is an integer of the format, so 0 is exact.
    """

    def __call__(self, x: Array, fmt: Format) -> Scaling:
        """Returns the scaling of every row; see `Calibration`."""
        if not isinstance(fmt, Uniform):
            raise InputError(
                describe(f"MinMax() for {fmt}", "the format Uniform", "Take MaxAbs().")
            )
        zero = jnp.zeros((), x.dtype)
        low, high = jnp.minimum(x.min(-1), zero), jnp.maximum(x.max(-1), zero)
        steps = fmt.highest - fmt.lowest
        span = (high - low) / steps
        span = jnp.where(jnp.isinf(span), high / steps - low / steps, span)
        scale, none = symmetric(span)
        place = jnp.round(fmt.lowest - low / scale)
        place = jnp.where(jnp.isfinite(span), place, none)
        return Scaling(scale, jnp.clip(place, fmt.lowest, fmt.highest))


@dataclasses.dataclass(frozen=True)
class Percentile(Calibration):
    """A percentile of the magnitudes becomes the largest level; what is above clips.

    Attributes:
      percent: above 0 and at most 100.
    """

    percent: float = 99.9

    def __post_init__(self):
        check_range("percent", self.percent, 0.0, 100.0, low_open=True)

    def __call__(self, x: Array, fmt: Format) -> Scaling:
        """Returns the scaling of every row; see `Calibration`.

        A row whose percentile is 0 keeps all of its range.
        """
        sizes = _sizes(x, fmt)
        most = jnp.percentile(sizes, self.percent, axis=-1)
        most = jnp.where(most > 0, most, sizes.max(-1))
        return symmetric(most / fmt.max, most)


@dataclasses.dataclass(frozen=True)
class MeanMagnitude(Calibration):
    """2 E|x| / sqrt(the largest level): the step that LSQ starts from (1902.08153).

    Unsigned formats take the mean of what is not negative, 0 for the rest.
    """

    def __call__(self, x: Array, fmt: Format) -> Scaling:
        """Returns the scaling of every row; see `Calibration`."""
        size = _sizes(x, fmt)
        most, _ = symmetric(size.max(-1))
        mean = jnp.mean(size / most[:, None], -1)  # sums do not overflow
        return symmetric(most * (2 * mean / math.sqrt(fmt.max)), size.max(-1))


class Search(Calibration):
    """A calibration that knows the error of each scale, as `choose` has to."""

    @abc.abstractmethod
    def search(self, x: Array, fmt: Format) -> tuple[Scaling, Array]:
        """Returns scalings and their mean squared errors, [groups] each."""

    def __call__(self, x: Array, fmt: Format) -> Scaling:
        """Returns the scaling of every row; see `Calibration`."""
        return self.search(x, fmt)[0]


@dataclasses.dataclass(frozen=True)
class LeastError(Search):
    """The scale of least mean squared error among multiples of that of `MaxAbs`.

    The first of equals is taken. With the defaults the search of ANT (MICRO 2022);
    `BestScale` looks where the format has its best scale.

    Attributes:
      low, high: the least and the largest multiple, both tried.
      steps: how many multiples, evenly spaced.
    """

    low: float = 0.75
    high: float = 1.49
    steps: int = 75

    def __post_init__(self):
        check_range("low", self.low, 0.0, low_open=True)
        check_range("high", self.high, self.low)
        check_range("steps", self.steps, 1)

    def search(self, x: Array, fmt: Format) -> tuple[Scaling, Array]:
        """Returns scalings and their mean squared errors, [groups] each."""
        most = MaxAbs()(x, fmt).scale
        shares = jnp.linspace(self.low, self.high, self.steps, dtype=x.dtype)

        def turn(best: tuple[Array, Array], share: Array):
            return _better(x, fmt, best, most * share), None

        start = most, jnp.full_like(most, jnp.inf)
        (scale, error), _ = lax.scan(turn, start, shares)
        size = _sizes(x, fmt).max(-1)
        return symmetric(jnp.where(size > 0, scale, most), size), error


@dataclasses.dataclass(frozen=True)
class BestScale(Search):
    """The scale of least mean squared error, in the range that suits the format.

    In multiples of that of `MaxAbs` the best scale is 0.3 for 2 bits of fixed point,
    1 for 8 of them, and 30 for flint of 8 bits, whose dense levels end far below its
    largest one. So the range follows from the levels: it goes from a quarter of the
    scale that is best for a normal distribution (`Aligned`, from the format's table) to
    four times that, or to where the largest level is 5/4 of the largest number, if that
    is more. Scales are evenly spaced in their logarithms; then the neighbourhood of the
    best one is searched again. The first of equals is taken.

    Attributes:
      steps: scales over the range.
      finer: scales between the neighbours of the best of them.
    """

    steps: int = 48
    finer: int = 16

    def __post_init__(self):
        check_range("steps", self.steps, 2)
        check_range("finer", self.finer, 0)

    def search(self, x: Array, fmt: Format) -> tuple[Scaling, Array]:
        """Returns scalings and their mean squared errors, [groups] each."""
        size = _sizes(x, fmt).max(-1)
        unit, _ = symmetric(size)
        x = x / unit[:, None]  # squares neither overflow nor vanish
        tiny = jnp.finfo(x.dtype).tiny / jnp.minimum(unit, 1)
        first, normal = MaxAbs()(x, fmt).scale, Aligned()(x, fmt).scale
        low = jnp.maximum(normal / 4, tiny)
        high = jnp.maximum(jnp.maximum(4 * normal, 1.25 * first), 4 * low)
        ratio = jnp.power(high / low, 1 / (self.steps - 1))
        between = jnp.linspace(-1, 1, self.finer + 2, dtype=x.dtype)[1:-1]
        powers = jnp.concatenate([jnp.arange(self.steps, dtype=x.dtype), between])
        is_fine = jnp.arange(powers.size) >= self.steps

        def turn(best: tuple[Array, Array, Array], place: tuple[Array, Array]):
            power, fine = place
            scale, error, middle = best
            trial = jnp.where(fine, middle, low) * ratio**power
            kept = _better(x, fmt, (scale, error), trial)
            return (*kept, jnp.where(fine, middle, kept[0])), None

        start = first, jnp.full_like(first, jnp.inf), first
        best, _ = lax.scan(turn, start, (powers, is_fine))
        scale = jnp.where(size > 0, best[0] * unit, jnp.ones_like(unit))
        return symmetric(scale, size), best[1] * unit * unit


@dataclasses.dataclass(frozen=True)
class LeastSquares(Calibration):
    """Levels and the scale that fits them best, in turns (arXiv 2012.04240).

    scale = <x, v> / <v, v> with v the levels of x; from `MaxAbs`.

    Attributes:
      iterations: turns.
    """

    iterations: int = 10

    def __post_init__(self):
        check_range("iterations", self.iterations, 0)

    def __call__(self, x: Array, fmt: Format) -> Scaling:
        """Returns the scaling of every row; see `Calibration`."""
        first = MaxAbs()(x, fmt).scale
        return symmetric(least_squares(x, fmt.round, first, self.iterations))


@dataclasses.dataclass(frozen=True)
class Aligned(Calibration):
    """DDA: the best scale for a normal distribution of the same spread (2109.03513).

    scale = alpha * sigma; see `normal_scale`. sigma is the root of the mean square,
    which unsigned formats take of what is not negative. It is the paper's standard
    deviation where the mean is 0; elsewhere, as levels stay around 0, it is what the
    error's model is of.

    Attributes:
      within: of the scale's minimum, see `normal_scale`; `alignment.AUTHORS` for the
        published constants.
    """

    within: float = LEAST

    def __post_init__(self):
        check_range("within", self.within, 0.0)

    def __call__(self, x: Array, fmt: Format) -> Scaling:
        """Returns the scaling of every row; see `Calibration`."""
        size = _sizes(x, fmt)
        most, _ = symmetric(size.max(-1))
        share = size / most[:, None]
        sigma = most * jnp.sqrt(jnp.mean(share * share, -1))  # squares do not overflow
        return symmetric(normal_scale(fmt, self.within) * sigma, size.max(-1))


@dataclasses.dataclass(frozen=True)
class LeastDivergence(Calibration):
    """The clip of least Kullback-Leibler divergence from the histogram of magnitudes.

    As published with TensorRT: for each clip the clipped histogram, what lies beyond in
    its last bin, is compared with itself spread evenly over the numbers of a level. The
    least clip has one bin for each level that is not negative, as there 128 of 2048.

    Attributes:
      bins: of the histogram.
      steps: how many clips are tried, evenly spaced.
    """

    bins: int = 2048
    steps: int = 128

    def __post_init__(self):
        check_range("bins", self.bins, 16)
        check_range("steps", self.steps, 1, self.bins // 4)

    def __call__(self, x: Array, fmt: Format) -> Scaling:
        """Returns the scaling of every row; see `Calibration`."""
        size = _sizes(x, fmt)
        unit = symmetric(size.max(-1)).scale / self.bins
        place = jnp.clip((size / unit[:, None]).astype(jnp.int32), 0, self.bins - 1)
        count = jax.vmap(lambda at: jnp.bincount(at, length=self.bins))(place)
        clip = jax.vmap(functools.partial(self._clip, fmt))(count.astype(x.dtype))
        return symmetric(clip * unit / fmt.max)

    def _clip(self, fmt: Format, count: Array) -> Array:
        """The best clip of one histogram, in bins."""
        index = jnp.arange(self.bins)
        middles = index.astype(count.dtype) + 0.5
        least = min(int((fmt.levels >= 0).sum()), self.bins // 4)
        clips = jnp.linspace(least, self.bins, self.steps).astype(jnp.int32)
        total = count.sum()

        def divergence(clip: Array) -> Array:
            inside = index < clip
            p = jnp.where(inside, count, 0)
            beyond = total - p.sum()
            own = p  # without what lies beyond: what the levels can tell apart
            p = p.at[clip - 1].add(beyond)
            levels = fmt.encode(middles / clip.astype(count.dtype) * fmt.max)
            levels = levels.astype(jnp.int32)
            filled = (own > 0) & inside
            sums = jnp.zeros(2**fmt.bits, count.dtype).at[levels].add(own)
            sizes = jnp.zeros(2**fmt.bits, count.dtype)
            sizes = sizes.at[levels].add(filled.astype(count.dtype))
            q = jnp.where(filled, sums[levels] / jnp.maximum(sizes[levels], 1), 0)
            p, q = p / total, q / jnp.maximum(q.sum(), 1)
            ratio = jnp.where(q > 0, p / jnp.where(q > 0, q, 1), 1e4)
            safe = jnp.where((p > 0) & (ratio > 0), ratio, 1)
            return jnp.where(p > 0, p * jnp.log(safe), 0).sum()

        return clips[jnp.argmin(lax.map(divergence, clips))].astype(count.dtype)


def least_squares(
    x: Array, nearest: Callable[[Array], Array], first: Array, iterations: int
) -> Array:
    """Returns the scale of each row that fits its levels best, [groups].

    scale = <x, v> / <v, v> with v = nearest(x / scale), in turns.

    Args:
      x: rows [groups, n].
      nearest: maps rows in units of their scales to their levels.
      first: scales to begin with, [groups].
      iterations: turns.
    """

    def turn(_, scale: Array) -> Array:
        v = nearest(x / scale[:, None])
        size = (v * v).sum(-1)
        fitted = (x * v).sum(-1) / jnp.where(size > 0, size, jnp.ones_like(size))
        return jnp.where(fitted > 0, fitted, scale)

    return lax.fori_loop(0, iterations, turn, first)


def _better(
    x: Array, fmt: Format, best: tuple[Array, Array], scale: Array
) -> tuple[Array, Array]:
    """Returns the scale and the error of each row: the best ones so far, or others."""
    error = squared_error(x, fmt, scale)
    is_less = error < best[1]
    return jnp.where(is_less, scale, best[0]), jnp.minimum(error, best[1])


def squared_error(x: Array, fmt: Format, scale: Array) -> Array:
    """Returns the mean squared error of each row of x at its scale, [groups]."""
    scale = scale[:, None]
    # Squares in units of x: those of levels overflow, which may reach 2**126.
    return jnp.mean(jnp.square(fmt.round(x / scale) * scale - x), -1)
