"""The levels of number formats as sets: rounding at a scale that is sought each time.

A set is {q v : q > 0, v in levels of the format}, one q for what shares a scale; the
projection is the best q and the nearest levels at it (arXiv 1903.09769). The squared
error as a function of q is quadratic in pieces, with many minima: scales are tried over
the range that suits the format (`quant.calibration.BestScale`), then levels and scale
take turns, neither of which can raise the error. For binary and ternary levels it is
exact.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

import quant
from core.errors import InputError, check_range, describe
from core.types import Array, ArrayLike
from quant.calibration import BestScale, MaxAbs, Search, least_squares, symmetric


class Fixed:
    """A set that does not move with the weights and projects each of them by itself.

    What `admm.at_scales` makes of sets, so that `admm.settle` may put weights there one
    by one.

    Attributes:
      kept: mask of the weights that were not pruned; the others are 0. None for all.
    """

    kept: Array | None
    exact: ClassVar[bool] = True

    def pruned(self, shape: tuple[int, ...]) -> Array:
        """Returns the mask of the weights that are 0, bool."""
        return jnp.zeros(shape, bool) if self.kept is None else ~self.kept


@dataclasses.dataclass(frozen=True)
class WithoutZero(quant.Format):
    """The levels of a format but 0: those of what pruning has left.

    A weight that survived is never rounded away (arXiv 1903.09769 and 1908.10017).

    Attributes:
      format: with a level above 0.
    """

    format: quant.Format

    @property
    def bits(self) -> int:  # type: ignore[override]
        """The width of a word."""
        return self.format.bits

    @property
    def signed(self) -> bool:  # type: ignore[override]
        """Whether a level is negative."""
        return self.format.signed

    @property
    def cost(self) -> quant.Cost:
        """Of one product."""
        return self.format.cost

    def values(self) -> np.ndarray:
        """Returns the numbers of the words; see `quant.Format.values`."""
        values = np.asarray(self.format.values(), np.float64)
        return np.where(values == 0, np.nan, values)

    def preference(self) -> np.ndarray:
        """Returns the words, canonical ones first."""
        return self.format.preference()

    def encode(self, x: ArrayLike) -> Array:
        """Returns the words of the nearest levels; see `quant.Format.encode`."""
        return self.format.encode(self.round(x))

    def round(self, x: ArrayLike) -> Array:
        """Returns the nearest levels; what is as near to two goes up."""
        x = jnp.asarray(x)
        near = self.format.round(x)
        high = float(self.levels[self.levels > 0].min())
        low = float(self.levels[self.levels < 0].max()) if self.min < 0 else high
        either = jnp.where(x >= (low + high) / 2, high, low).astype(near.dtype)
        return jnp.where(near == 0, either, near)


@dataclasses.dataclass(frozen=True)
class _Skipping(WithoutZero):
    """`WithoutZero` to which zeros are no error: for the search of a scale."""

    def round(self, x: ArrayLike) -> Array:
        return jnp.where(jnp.equal(x, 0), jnp.asarray(x), super().round(x))


@dataclasses.dataclass(frozen=True)
class FittedScale(Search):
    """The scale of least squared error, for a Z step.

    Attributes:
      turns: of levels and scale, scale = <x, v> / <v, v>, from the best one that
        `BestScale` finds.
      skip_zeros: whether numbers that are 0 do not count: pruned weights.
    """

    turns: int = 8
    skip_zeros: bool = False

    def __post_init__(self):
        check_range("turns", self.turns, 0)

    def search(self, x: Array, fmt: quant.Format) -> tuple[quant.Scaling, Array]:
        """Returns scalings and their mean squared errors, [groups] each."""
        counts = (x != 0) if self.skip_zeros else jnp.ones_like(x, bool)
        number = jnp.maximum(counts.sum(-1), 1).astype(x.dtype)

        def nearest(unit: Array) -> Array:
            return jnp.where(counts, fmt.round(unit), jnp.zeros_like(unit))

        size = jnp.abs(x) if fmt.signed else jnp.maximum(x, 0)
        if _is_ternary(fmt):
            scale = _ternary(size) / fmt.max
        elif _is_binary(fmt):  # levels are the signs, whatever the scale
            scale = least_squares(x, nearest, MaxAbs()(x, fmt).scale, 1)
        else:
            seen = _Skipping(fmt) if self.skip_zeros else fmt
            scale = BestScale().search(x, seen)[0].scale
            scale = least_squares(x, nearest, scale, self.turns)
        scaling = symmetric(scale, size.max(-1))
        unit = x / scaling.scale[:, None]
        error = jnp.square(nearest(unit) - unit).sum(-1) * scaling.scale**2 / number
        return scaling, error


def _is_binary(fmt: quant.Format) -> bool:
    levels = fmt.levels
    return levels.size == 2 and bool(levels[0] == -levels[1])


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
      pruned: whether the layer was pruned: weights that are exactly 0 stay so and do
        not count in the scale, and no other weight becomes 0 (`WithoutZero`).

    Raises:
      InputError: a format that has no level above 0.
    """

    format: quant.Format
    per: quant.Per = quant.TENSOR
    pruned: bool = False

    def __post_init__(self):
        if not isinstance(self.format, quant.Format):
            raise InputError(describe(repr(self.format), "a quant.Format"))

    @property
    def quantizer(self) -> quant.Quantizer:
        """The quantizer whose levels these are."""
        fmt = WithoutZero(self.format) if self.pruned else self.format
        return quant.Quantizer(fmt, self.per, FittedScale(skip_zeros=self.pruned))

    def at(self, w: Array) -> "Scaled":
        """Returns the set with the scales, and the zeros if `pruned`, of `w`."""
        return Scaled(self.quantizer, self.quantizer.fit(w), self._kept(w))

    def _kept(self, w: Array) -> Array | None:
        return jnp.not_equal(w, 0) if self.pruned else None

    def project(self, w: Array) -> Array:
        """Returns the nearest levels at the best scale found.

        Raises:
          ShapeError: as `quant.Quantizer.fit`.
        """
        return self.at(w).project(w)


@dataclasses.dataclass(frozen=True, eq=False)
class Scaled(Fixed):
    """Levels at scales that stay, for a final mapping (arXiv 1903.09769).

    Attributes:
      quantizer: the format and what shares a scale.
      scaling: as `quant.Quantizer.fit` returns it.
      kept: mask of the weights that have a level; the others are 0. None for all.
    """

    quantizer: quant.Quantizer
    scaling: quant.Scaling
    kept: Array | None = None

    def project(self, w: Array) -> Array:
        """Returns the nearest levels; the exact Euclidean projection."""
        near = self.quantizer.project(w, self.scaling)
        if self.kept is None:
            return near
        return jnp.where(self.kept, near, jnp.zeros_like(near))


@dataclasses.dataclass(frozen=True, eq=False)
class Support(Fixed):
    """Weights that are 0 outside of a mask.

    Attributes:
      kept: the mask, bool, of the weight's shape.
    """

    kept: Array

    def support(self, w: Array) -> Array:
        """Returns the mask."""
        del w
        return self.kept

    def project(self, w: Array) -> Array:
        """Returns `w` with exactly 0.0 outside of the mask."""
        return jnp.where(self.kept, w, jnp.zeros_like(w))
