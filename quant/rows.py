"""MSQ: sums of powers in some rows of a layer, fixed point in the others (2012.04240).

A row is an output filter. Rows of small variance get sums of powers, whose levels are
dense near 0, the others fixed point; one scale a layer, so that both share their range.
The share of rows is that of the hardware's shifters, the same in every layer.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from core.errors import check_range
from core.selection import topk_mask
from core.types import Array, ArrayLike
from quant import quantizers
from quant.calibration import least_squares, symmetric
from quant.formats import SumOfPowers, Uniform


class RowScaling(NamedTuple):
    """What a layer's rows are quantized with.

    Attributes:
      scale: the largest level of both formats, [].
      sums: rows that get sums of powers, bool [M].
    """

    scale: Array
    sums: Array


def row_variance(w: ArrayLike) -> Array:
    """Returns the variance of every row of a kernel [..., M], [M]."""
    w = jnp.asarray(w)
    return jnp.var(w, axis=tuple(range(w.ndim - 1)))


def assign_rows(variance: ArrayLike, share: float) -> Array:
    """Returns which rows get sums of powers: the round(share * M) of least variance.

    Of equals the first. By rank, so the number is exact.

    Args:
      variance: [M]; any number by which rows are ordered.
      share: from 0 to 1.
    """
    check_range("share", share, 0.0, 1.0)
    variance = jnp.asarray(variance)
    return topk_mask(-variance, round(share * variance.size))


@dataclasses.dataclass(frozen=True)
class RowMix:
    """A quantizer of kernels by rows; hashable, so static under `jit`.

    Attributes:
      bits: 3 to 8, of both formats, the sign among them.
      share: of rows that get sums of powers: 0.6 on XC7Z020, 2/3 on XC7Z045.
      iterations: turns of levels and scale.
    """

    bits: int = 4
    share: float = 0.6
    iterations: int = 10

    def __post_init__(self):
        check_range("share", self.share, 0.0, 1.0)
        check_range("iterations", self.iterations, 0)
        SumOfPowers(self.bits)

    @property
    def formats(self) -> tuple[SumOfPowers, Uniform]:
        """Sums of powers, fixed point."""
        return SumOfPowers(self.bits), Uniform(self.bits, symmetric=True)

    def fit(self, w: ArrayLike, sums: Array | None = None) -> RowScaling:
        """Returns rows by variance, and the scale that fits their levels best.

        scale = <w, v> / <v, v> with v the nearest levels of w at unit scale, in turns.

        Args:
          w: a kernel in flax layout, [..., M], floating point.
          sums: rows that get sums of powers, bool [M]; by variance if left out.

        Raises:
          NonFiniteError: NaN or infinity in a kernel that is not traced.
          ShapeError: a kernel without rows.
        """
        w = quantizers.kernel(w)
        if sums is None:
            sums = assign_rows(row_variance(w), self.share)

        def nearest(unit: Array) -> Array:
            return self._unit(unit.reshape(w.shape), sums).reshape(1, -1)

        first = symmetric(jnp.abs(w).max()[None]).scale
        scale = least_squares(w.reshape(1, -1), nearest, first, self.iterations)
        return RowScaling(scale[0], sums)

    def encode(self, w: ArrayLike, scaling: RowScaling) -> Array:
        """Returns words, uint8 of the kernel's shape; a row's format says how to read.

        Args:
          w: as was given to `fit`.
          scaling: as `fit` returns it.
        """
        powers, fixed = self.formats
        unit = quantizers.numbers(w) / scaling.scale
        rows = quantizers.along_last(scaling.sums, unit.ndim)
        return jnp.where(rows, powers.encode(unit), fixed.encode(unit * fixed.max))

    def decode(self, words: ArrayLike, scaling: RowScaling) -> Array:
        """Returns the numbers of words, in the type of the scale."""
        powers, fixed = self.formats
        words, dtype = jnp.asarray(words), scaling.scale.dtype
        rows = quantizers.along_last(scaling.sums, words.ndim)
        level = fixed.decode(words, dtype) / fixed.max
        return scaling.scale * jnp.where(rows, powers.decode(words, dtype), level)

    def project(self, w: ArrayLike, scaling: RowScaling | None = None) -> Array:
        """Returns the nearest levels, decode(encode(w)), in the type of w."""
        w = jnp.asarray(w)
        scaling = self.fit(w) if scaling is None else scaling
        unit = w.astype(scaling.scale.dtype) / scaling.scale
        return (scaling.scale * self._unit(unit, scaling.sums)).astype(w.dtype)

    def fake(self, w: ArrayLike, scaling: RowScaling | None = None) -> Array:
        """Returns `project` with the gradient of the identity; the scale has none."""
        w = jnp.asarray(w)
        rest = lax.stop_gradient(w)
        return lax.stop_gradient(self.project(rest, scaling)) + (w - rest)

    def _unit(self, unit: Array, sums: Array) -> Array:
        """The nearest levels, the largest of which is 1."""
        powers, fixed = self.formats
        level = fixed.round(unit * fixed.max) / fixed.max
        rows = quantizers.along_last(sums, unit.ndim)
        return jnp.where(rows, powers.round(unit), level)
