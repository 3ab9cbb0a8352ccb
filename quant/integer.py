"""Layers computed from code words alone: int32 sums and shifts, no floating point.

    x = integers(words_of_x, inputs, scales_of_x)
    w = integers(words_of_w, weights, scales_of_w)
    sums = add_bias(dense(x, w), bias)
    words = requantize(sums, outputs, scales_of_outputs)  # what the next layer reads

Any format whose numbers are small multiples of one unit takes part: fixed point, SP2,
ESB, flint, small floats. Reference: Jacob et al., arXiv 1712.05877, section 2.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer

from core.errors import InputError, ShapeError, describe
from core.types import Array, ArrayLike
from quant.calibration import Scaling
from quant.formats import Format, Uniform
from quant.quantizers import Quantizer, along_last

_MOST = 2**31 - 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Integers:
    """Numbers as integers times a scale.

    Attributes:
      values: integers, int32.
      scale: floating point, of the rank of `values`, 1 along axes that share it.
      bound: the largest magnitude that any value can have, a Python int.
    """

    values: Array
    scale: Array
    bound: int = dataclasses.field(metadata={"static": True})

    def numbers(self) -> Array:
        """Returns values * scale, in the type of the scale."""
        return self.values.astype(self.scale.dtype) * self.scale


@functools.lru_cache(maxsize=256)
def multiples(fmt: Format) -> tuple[np.ndarray, float]:
    """Returns the numbers of a format's words as multiples of one unit.

    Returns:
      (int32 [2**bits], the unit, a power of two); a word without a number is 0.

    Raises:
      InputError: numbers that are no multiples, below 2**31, of a power of two.
    """
    values = np.nan_to_num(fmt.values(), nan=0.0, posinf=0.0, neginf=0.0)
    odd = [value.as_integer_ratio()[1] for value in values[values != 0].tolist()]
    unit = 1.0 / max(odd, default=1)
    scaled = values / unit
    if np.abs(scaled).max() >= 2**31:
        raise InputError(
            describe(
                f"{fmt}, whose largest number is {np.abs(scaled).max():.3g} units",
                "a format whose numbers are multiples of a unit below 2**31",
            )
        )
    return scaled.astype(np.int32), unit


def integers(words: ArrayLike, quantizer: Quantizer, scaling: Scaling) -> Integers:
    """Returns the numbers of words as integers, less their zero.

    Args:
      words: as `quantizer.encode` returns them.
      quantizer: which wrote them; one without groups.
      scaling: as was given to `encode`.

    Raises:
      InputError: a quantizer with groups, or a format as for `multiples`.
    """
    if quantizer.per.group is not None:
        raise InputError(describe(f"{quantizer.per}", "scales of axes or of tensors"))
    table, unit = multiples(quantizer.format)
    values = jnp.asarray(table)[jnp.asarray(words, jnp.int32)]
    span = int(np.abs(table).max())
    if isinstance(quantizer.format, Uniform):  # others have no zeros
        values = values - scaling.zero.astype(jnp.int32)
        span = quantizer.format.highest - quantizer.format.lowest
    return Integers(values, scaling.scale * unit, span)


def dense(x: Integers, w: Integers) -> Integers:
    """Returns x @ w.

    Args:
      x: [..., K], one scale along K.
      w: a kernel [K, M], one scale along K.

    Raises:
      ShapeError: shapes or scales that do not fit.
      InputError: sums that int32 may not hold.
    """
    _check(x, w, (-1,), (0,))
    if x.values.shape[-1] != w.values.shape[0] or w.values.ndim != 2:
        raise ShapeError(
            describe(f"shapes {x.values.shape}, {w.values.shape}", "[..., K], [K, M]")
        )
    bound = _bound(x, w, x.values.shape[-1])
    sums = jnp.matmul(x.values, w.values, preferred_element_type=jnp.int32)
    return Integers(sums, x.scale * along_last(w.scale[0], sums.ndim), bound)


def conv(
    x: Integers,
    w: Integers,
    strides: Sequence[int] = (1, 1),
    padding: str | Sequence[tuple[int, int]] = "SAME",
    groups: int = 1,
) -> Integers:
    """Returns the convolution of images with a kernel.

    Args:
      x: [n, h, w, c], one scale but for the n.
      w: a kernel in flax layout [kh, kw, c / groups, f], one scale but for the f.
      strides: of the window.
      padding: as of `lax.conv_general_dilated`; what is padded is the number 0.
      groups: as its feature_group_count.

    Raises:
      ShapeError: scales that do not fit.
      InputError: sums that int32 may not hold.
    """
    _check(x, w, (1, 2, 3), (0, 1, 2))
    bound = _bound(x, w, math.prod(w.values.shape[:-1]))
    sums = lax.conv_general_dilated(
        x.values,
        w.values,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        preferred_element_type=jnp.int32,
    )
    return Integers(sums, x.scale * w.scale, bound)


def add_bias(sums: Integers, bias: ArrayLike) -> Integers:
    """Returns sums plus a bias [M], rounded to the unit of the sums.

    So the layer equals the fake-quantized one whose bias is rounded to that unit.

    Args:
      sums: of `dense` or `conv`.
      bias: floating point [M].

    Raises:
      InputError: a bias that int32 may not hold with the sums. One that is traced ends
        where they still fit.
    """
    bias = jnp.asarray(bias).astype(sums.scale.dtype)
    unit = jnp.round(along_last(bias, sums.values.ndim) / sums.scale)
    room = (_MOST - sums.bound) // 256 * 256  # which float32 holds
    most = jnp.abs(unit).max()
    if not isinstance(most, Tracer) and not most <= room:
        raise InputError(
            describe(
                f"a bias of {float(most):.3g} units of the sums",
                f"at most {room}, beside sums of up to {sums.bound}",
                "Use larger scales: a channel whose scale is near 0 has huge units.",
            )
        )
    values = sums.values + jnp.clip(unit, -room, room).astype(jnp.int32)
    return dataclasses.replace(sums, values=values, bound=_MOST)


def requantize(sums: Integers, quantizer: Quantizer, scaling: Scaling) -> Array:
    """Returns the words of the nearest levels of sums, by integer arithmetic.

    The ratio of the scales is a multiplier of 31 bits and a shift; products are exact
    in 64 bits and rounded once, ties to the even level, as `Quantizer.encode` does.

    Args:
      sums: of `dense` or `conv`.
      quantizer: of the outputs, with a `Uniform` format.
      scaling: of the outputs; shapes broadcast against the sums.

    Raises:
      InputError: another format.
    """
    fmt = quantizer.format
    if not isinstance(fmt, Uniform):
        raise InputError(describe(f"{fmt}", "Uniform(...)", "Encode sums.numbers()."))
    share, exponent = jnp.frexp(sums.scale / scaling.scale)
    mantissa = jnp.round(jnp.ldexp(share, 31)).astype(jnp.uint32)
    zero = scaling.zero.astype(jnp.int32)
    rounded = _times(sums.values, mantissa, 31 - exponent, zero)
    kept = jnp.clip(rounded, fmt.lowest - zero, fmt.highest - zero) + zero
    return (kept & (2**fmt.bits - 1)).astype(fmt.dtype)


def _times(values: Array, mantissa: Array, shift: Array, zero: Array) -> Array:
    """Returns round(values * mantissa / 2**shift) within +-(2**31 - 1).

    Ties go to where the result and zero are even together.

    Args:
      values: int32.
      mantissa: uint32 below 2**31.
      shift: int32; beyond 63 the result is 0, below 0 it is the end of the range.
      zero: int32, broadcasts against the values.
    """
    size = jnp.abs(values).astype(jnp.uint32)
    low, high = _product(size, jnp.broadcast_to(mantissa, values.shape))
    shift = jnp.broadcast_to(shift, values.shape)
    # All bits but the last of those to drop are dropped first, and remembered.
    drop = jnp.clip(shift - 1, 0, 62).astype(jnp.uint32)
    one, none = jnp.ones_like(low), jnp.zeros_like(low)
    far, near = drop >= 32, drop % 32
    carried = jnp.where(near > 0, high << (32 - jnp.maximum(near, one)), none)
    doubled = jnp.where(far, high >> near, (low >> near) | carried)
    lost = jnp.where(far, high, low) & ((one << near) - 1)
    inexact = (lost | jnp.where(far, low, none)) > 0
    odd = (doubled >> 1) % 2 != (zero % 2).astype(jnp.uint32)
    up = (doubled % 2 == 1) & (inexact | odd)
    whole = (doubled >> 1) + up.astype(jnp.uint32)
    most = jnp.asarray(_MOST, jnp.uint32)
    beyond = (~far & (high >> near > 0)) | (whole > most) | (shift < 1)
    whole = jnp.where(beyond, most, whole)
    whole = jnp.where((shift > 63) | (size == 0), none, whole).astype(jnp.int32)
    return jnp.where(values < 0, -whole, whole)


def _product(a: Array, b: Array) -> tuple[Array, Array]:
    """The low and high words of the 64-bit product of two uint32."""
    half = jnp.uint32(16)
    mask = jnp.uint32(0xFFFF)
    a0, a1, b0, b1 = a & mask, a >> half, b & mask, b >> half
    first, mixed, other, last = a0 * b0, a1 * b0, a0 * b1, a1 * b1
    middle = (first >> half) + (mixed & mask) + (other & mask)
    low = (first & mask) | (middle << half)
    return low, last + (mixed >> half) + (other >> half) + (middle >> half)


def _check(x: Integers, w: Integers, of_x: Sequence[int], of_w: Sequence[int]) -> None:
    """Requires one scale along axes that are summed."""
    for name, part, axes in (("inputs", x, of_x), ("weights", w, of_w)):
        if any(part.scale.shape[axis] != 1 for axis in axes):
            raise ShapeError(
                describe(
                    f"scales {part.scale.shape} of the {name} {part.values.shape}",
                    f"one scale along the axes {tuple(axes)}, which are summed",
                )
            )


def _bound(x: Integers, w: Integers, terms: int) -> int:
    bound = x.bound * w.bound * terms
    if bound >= 2**31:
        raise InputError(
            describe(
                f"{terms} products of up to {x.bound} * {w.bound}",
                "sums below 2**31",
                "Use fewer bits, or formats of smaller range.",
            )
        )
    return bound
