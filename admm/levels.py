"""The levels of number formats as sets: rounding at a scale that is sought each time.

A set is {q v : q > 0, v in levels of the format}, one q for what shares a scale; the
projection is the best q and the nearest levels at it (arXiv 1903.09769). The squared
error as a function of q is quadratic in pieces, with many minima: the search tries
scales over the range that suits the format and ends with turns of levels and scale,
neither of which can raise the error. For binary and ternary levels it is exact.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jax import lax

import quant
from core.errors import check_range
from core.types import Array
from quant.alignment import normal_scale
from quant.calibration import Search, least_squares, symmetric


@dataclasses.dataclass(frozen=True)
class FittedScale(Search):
    """The scale of least squared error, for a Z step.

    Attributes:
      steps: scales tried, evenly spaced in their logarithms.
      turns: of levels and scale, scale = <x, v> / <v, v>, from the best of them.
      skip_zeros: whether numbers that are 0 do not count: pruned weights, which no
        level stands for.
    """

    steps: int = 32
    turns: int = 8
    skip_zeros: bool = False

    def __post_init__(self):
        check_range("steps", self.steps, 2)
        check_range("turns", self.turns, 0)

    def search(self, x: Array, fmt: quant.Format) -> tuple[quant.Scaling, Array]:
        """Returns scalings and their mean squared errors, [groups] each."""
        counts = (x != 0) if self.skip_zeros else jnp.ones_like(x, bool)
        number = jnp.maximum(counts.sum(-1), 1).astype(x.dtype)

        def nearest(unit: Array) -> Array:
            return jnp.where(counts, fmt.round(unit), jnp.zeros_like(unit))

        def error(scale: Array) -> Array:
            unit = x / scale[:, None]
            return jnp.square(nearest(unit) - unit).sum(-1) * scale * scale / number

        size = jnp.abs(x) if fmt.signed else jnp.maximum(x, 0)
        if _is_ternary(fmt):
            scale = _ternary(size) / fmt.max
        else:
            scale = self._searched(x, fmt, size, number, error)
            scale = least_squares(x, nearest, scale, self.turns)
        scaling = symmetric(scale, size.max(-1))
        return scaling, error(scaling.scale)

    def _searched(self, x, fmt, size, number, error) -> Array:
        """The best of scales from a quarter of the normal distribution's to 5/4 max."""
        most = symmetric(size.max(-1) / fmt.max).scale
        unit = size / symmetric(size.max(-1)).scale[:, None]
        sigma = jnp.sqrt(jnp.square(unit).sum(-1) / number) * most * fmt.max
        normal = symmetric(normal_scale(fmt) * sigma).scale
        low = normal / 4
        high = jnp.maximum(jnp.maximum(4 * normal, 1.25 * most), 4 * low)
        shares = jnp.linspace(0, 1, self.steps, dtype=x.dtype)

        def turn(best: tuple[Array, Array], share: Array):
            trial = low * (high / low) ** share
            found = error(trial)
            less = found < best[1]
            kept = jnp.where(less, trial, best[0]), jnp.where(less, found, best[1])
            return kept, None

        return lax.scan(turn, (most, error(most)), shares)[0][0]


def _is_ternary(fmt: quant.Format) -> bool:
    levels = fmt.levels
    return levels.size == 3 and bool(np.all(levels == levels[-1] * np.arange(-1, 2)))


def _ternary(size: Array) -> Array:
    """The mean of the k largest, for the k of largest (sum of them)^2 / k."""
    falling = -jnp.sort(-size, axis=-1)
    sums = jnp.cumsum(falling, -1)
    count = jnp.arange(1, size.shape[-1] + 1, dtype=size.dtype)[None]
    best = jnp.argmax(jnp.square(sums) / count, -1)[:, None]
    means = jnp.take_along_axis(sums / count, best, -1)
    return means[:, 0]


@dataclasses.dataclass(frozen=True)
class Quantized:
    """Weights on the levels of a number format, at the scale of least error.

    Attributes:
      format: the levels; `quant.Binary()` for {-1, 1}.
      per: what shares a scale.
      pruned: whether weights that are exactly 0 stay so and do not count in the scale,
        whether or not 0 is a level: the levels of a pruned layer.
      steps: scales that are tried, see `FittedScale`.
    """

    format: quant.Format
    per: quant.Per = quant.TENSOR
    pruned: bool = False
    steps: int = 32

    def __post_init__(self):
        check_range("steps", self.steps, 2)

    @property
    def quantizer(self) -> quant.Quantizer:
        """The quantizer whose levels these are."""
        fitted = FittedScale(self.steps, skip_zeros=self.pruned)
        return quant.Quantizer(self.format, self.per, fitted)

    def at(self, w: Array) -> "Scaled":
        """Returns the set with the scales that fit `w`, which then stay."""
        return Scaled(self, self.quantizer.fit(w))

    def project(self, w: Array) -> Array:
        """Returns the nearest levels at the best scale found.

        Raises:
          ShapeError: as `quant.Quantizer.fit`.
        """
        return self.at(w).project(w)


@dataclasses.dataclass(frozen=True, eq=False)
class Scaled:
    """Levels at scales that stay, for a final mapping (arXiv 1903.09769).

    Attributes:
      levels: the format and what shares a scale.
      scaling: as `quant.Quantizer.fit` returns it.
    """

    levels: Quantized
    scaling: quant.Scaling

    def project(self, w: Array) -> Array:
        """Returns the nearest levels; the exact Euclidean projection."""
        near = self.levels.quantizer.project(w, self.scaling)
        return jnp.where(w == 0, w, near) if self.levels.pruned else near
