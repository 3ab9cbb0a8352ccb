"""Fixed point at widths that are arrays of integers or of real numbers.

At an integer width b >= 2 the levels are those of `Uniform(b, symmetric=True)` with the
scale of `MaxAbs()`; at b = 1, where that has no step, plus and minus the mean magnitude
(0 counts as plus). Scales are constants: the derivative in the weights is exactly 1.

Widths are [groups], in the order of the scales that `Quantizer.fit` gives for a `Per`.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from core.errors import InputError, ShapeError, check_range, describe
from core.types import Array, ArrayLike
from quant.calibration import Calibration, MaxAbs, Scaling, symmetric
from quant.formats import Binary, Format
from quant.formats.base import MAX_BITS, check_bits, floating
from quant.quantizers import TENSOR, Per, Quantizer, numbers

WIDTHS = tuple(range(1, 9))
"""Widths that a group may have, if nothing else is said."""


@dataclasses.dataclass(frozen=True)
class _MeanAbs(Calibration):
    """The mean magnitude, the best scale of `Binary`; 0 where there is no range."""

    def __call__(self, x: Array, fmt: Format) -> Scaling:
        del fmt
        size = jnp.abs(x)
        most, zero = symmetric(size.max(-1))
        return Scaling(most * (size / most[:, None]).mean(-1), zero)  # never overflows


def check_widths(widths: Sequence[int]) -> None:
    """Raises `InputError` unless widths are rising integers from 1 to 16."""
    for width in widths:
        check_bits("widths", width, 1, MAX_BITS)
    if not len(widths) or list(widths) != sorted(set(widths)):
        raise InputError(describe(f"widths={tuple(widths)}", "rising integers"))


def group_shape(w: ArrayLike | jax.ShapeDtypeStruct, per: Per) -> tuple[int, ...]:
    """Returns the shape of the scales of w, a number for each group.

    Raises:
      InputError, ShapeError: as `Quantizer.fit`.
    """
    return _group_shape(np.shape(w), jnp.result_type(w), per)


@functools.lru_cache(maxsize=1024)
def _group_shape(shape: tuple[int, ...], dtype, per: Per) -> tuple[int, ...]:
    fit = Quantizer(Binary(), per).fit
    return jax.eval_shape(fit, jax.ShapeDtypeStruct(shape, dtype)).scale.shape


def spread(values: Array, w: Array, per: Per) -> Array:
    """Returns values [groups] as an array that broadcasts against w.

    Raises:
      ShapeError: as many values as w has no groups.
    """
    shape = group_shape(w, per)
    if values.shape != (math.prod(shape),):
        raise ShapeError(
            describe(
                f"widths of shape {values.shape}",
                f"({math.prod(shape)},), one for each group of {w.shape} under {per}",
            )
        )
    placed = values.reshape(shape)
    if per.group is None:
        return placed
    return jnp.repeat(placed, per.group, per.group_axis)


def quantize(w: ArrayLike, bits: ArrayLike, per: Per = TENSOR) -> Array:
    """Returns the nearest levels at integer widths, in the type of w.

    scale * clip(round(w / scale), -top, top) with top = 2**(bits - 1) - 1 and scale =
    max|w| / top; mean|w| * sign(w) at one bit. The derivative in w is 1.

    Args:
      w: floating point, any shape.
      bits: integers from 1 to 16, [groups]; may be traced.
      per: what shares a width and a scale.

    Raises:
      InputError: widths out of range or not integers, numbers that are integers.
      NonFiniteError: NaN or infinity in an array that is not traced.
      ShapeError: widths of another number of groups.

    Example:
      >>> import jax.numpy as jnp
      >>> quantize(jnp.array([1.0, -0.4, 0.1]), jnp.array([2])).tolist()
      [1.0, 0.0, 0.0]
    """
    return _quantize(_weights(w), _integers(bits), per)


@functools.partial(jax.jit, static_argnums=2)
def _quantize(w: Array, bits: Array, per: Per) -> Array:
    return _through(w, _levels(w, bits, per))


def encode(w: ArrayLike, bits: ArrayLike, per: Per = TENSOR) -> tuple[Array, Array]:
    """Returns what hardware stores: integers, int16 of w's shape, and scales [groups].

    At one bit the integers are -1 and 1. `quantize` is their product.

    Args:
      w: see `quantize`.
      bits: see `quantize`.
      per: see `quantize`.
    """
    return _encode(_weights(w), _integers(bits), per)


@functools.partial(jax.jit, static_argnums=2)
def _encode(w: Array, bits: Array, per: Per) -> tuple[Array, Array]:
    level, scale = _parts(w, bits, per)
    return level.astype(jnp.int16), scale


def interpolated(
    w: ArrayLike, beta: ArrayLike, per: Per = TENSOR, high: int = WIDTHS[-1]
) -> Array:
    """Returns (1 - r) * Q(w; f) + r * Q(w; f + 1), f = floor(beta), r = beta - f.

    Continuous in beta and, at integers, what hardware computes. The derivative in beta
    is Q(w; f + 1) - Q(w; f), exact within a segment and that of the right one at
    integers; at `high` that of the left one. The derivative in w is 1.

    Args:
      w: floating point, any shape.
      beta: widths from 1 to `high`, [groups].
      per: what shares a width and a scale.
      high: the largest width.
    """
    return _interpolated(_weights(w), jnp.asarray(beta), per, high)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _interpolated(w: Array, beta: Array, per: Per, high: int) -> Array:
    beta = beta.astype(floating(w))
    floor = jnp.clip(lax.stop_gradient(jnp.floor(beta)), 1, high - 1)
    low = floor.astype(jnp.int32)
    r = spread(beta - floor, w, per)
    return _through(w, (1 - r) * _levels(w, low, per) + r * _levels(w, low + 1, per))


def stepped(
    w: ArrayLike, beta: ArrayLike, per: Per = TENSOR, low: int = WIDTHS[0]
) -> Array:
    """Returns d * round(w / d) with the step of a real width, d = max|w| / top.

    top = 2**(beta - 1) - 1; `interpolated` below 2 bits, where the step grows without
    end. The derivative in beta is d' * (round(w / d) - w / d), straight through the
    rounding: an estimate, unlike that of `interpolated`.

    Args:
      w: floating point, any shape.
      beta: widths from `low`, [groups].
      per: what shares a width and a scale.
      low: the least width; from 2 on nothing is interpolated: two roundings less.
    """
    return _stepped(_weights(w), jnp.asarray(beta), per, low)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _stepped(w: Array, beta: Array, per: Per, low: int) -> Array:
    beta = beta.astype(floating(w))
    at = lax.stop_gradient(jnp.maximum(beta, 2))
    floor = jnp.floor(at)
    # Powers of integers are exact, so integer widths are those of `quantize`.
    power = jnp.exp2(at - floor) * _power(floor.astype(jnp.int32) - 1, at.dtype)
    largest = _statistic(w, per, MaxAbs())
    top = power - 1
    step = symmetric(largest / top).scale
    slope = -step * math.log(2) * power / top
    d, unit = spread(step, w, per), lax.stop_gradient(w).astype(step.dtype)
    unit = unit / d
    level = jnp.round(unit)
    moved = spread((beta - lax.stop_gradient(beta)) * slope, w, per)
    by_step = d * level + moved * (level - unit)
    if low >= 2:
        return _through(w, by_step)
    fine = spread(beta, w, per) >= 2
    return jnp.where(fine, _through(w, by_step), _interpolated(w, beta, per, 2))


def mixed(
    w: ArrayLike, shares: Array, widths: Sequence[int], per: Per = TENSOR
) -> Array:
    """Returns sum_b shares_b * Q(w; b); the derivative in w is 1.

    Args:
      w: floating point, any shape.
      shares: of each width, [groups, widths].
      widths: integers.
      per: what shares a width and a scale.
    """
    return _mixed(_weights(w), jnp.asarray(shares), tuple(widths), per)


@functools.partial(jax.jit, static_argnums=(2, 3))
def _mixed(w: Array, shares: Array, widths: tuple[int, ...], per: Per) -> Array:
    shares = shares.astype(floating(w))
    terms = [
        spread(shares[:, at], w, per)
        * _levels(w, jnp.full(shares.shape[:1], width, jnp.int32), per)
        for at, width in enumerate(widths)
    ]
    return _through(w, sum(terms[1:], terms[0]))


def _through(w: Array, levels: Array) -> Array:
    """Levels in the type of w, with the derivative 1 in w."""
    return levels.astype(w.dtype) + (w - lax.stop_gradient(w))


def _levels(w: Array, bits: Array, per: Per) -> Array:
    """Levels at integer widths as constants, float32 or wider."""
    level, scale = _parts(w, bits, per)
    return level * spread(scale, w, per)


def _parts(w: Array, bits: Array, per: Per) -> tuple[Array, Array]:
    """Whole numbers of w's shape and scales [groups], both as constants."""
    largest = _statistic(w, per, MaxAbs())
    mean = _statistic(w, per, _MeanAbs())
    top = _power(jnp.maximum(bits, 2) - 1, largest.dtype) - 1
    step = symmetric(largest / top).scale
    # What depends on the width is worked out for groups, before it is spread.
    wide = lax.stop_gradient(w).astype(step.dtype)
    most = spread(top, w, per)
    many = jnp.clip(jnp.round(wide / spread(step, w, per)), -most, most)
    is_one = bits == 1
    sign = jnp.where(wide < 0, -jnp.ones_like(wide), jnp.ones_like(wide))
    level = jnp.where(spread(is_one, w, per), sign, many)
    return level, jnp.where(is_one, mean, step)


def _statistic(w: Array, per: Per, calibration: Calibration) -> Array:
    """A number of every group as a constant, [groups]."""
    quantizer = Quantizer(Binary(), per, calibration)
    return quantizer.fit(lax.stop_gradient(w)).scale.reshape(-1)


def _power(exponent: Array, dtype: np.dtype) -> Array:
    """2**exponent of integers, exactly."""
    return jnp.left_shift(jnp.ones_like(exponent), exponent).astype(dtype)


def _weights(w: ArrayLike) -> Array:
    """Weights in their own type, checked as `numbers` does."""
    numbers(w, "weights")
    return jnp.asarray(w)


def _integers(bits: ArrayLike) -> Array:
    """Widths, int32, checked for their range if they are not traced."""
    bits = jnp.asarray(bits)
    if not jnp.issubdtype(bits.dtype, jnp.integer):
        raise InputError(describe(f"widths of type {bits.dtype}", "integers"))
    try:
        found = np.asarray(bits)
    except (
        jax.errors.TracerArrayConversionError,
        jax.errors.ConcretizationTypeError,
    ):  # traced: no values yet
        return bits.astype(jnp.int32)
    if found.size:
        check_range("bits", int(found.min()), 1, MAX_BITS)
        check_range("bits", int(found.max()), 1, MAX_BITS)
    return bits.astype(jnp.int32)
