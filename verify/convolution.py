"""The transpose of a convolution for many rows, fast on CPU as well.

XLA's CPU backend has no library kernel for the base-dilated convolution that the
transpose of a strided one is, and in a loop it runs even the others as naive loops. One
matrix product and shifted sums do the same work at the speed of the product.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from core.types import Array


def transposed(
    rows: Array, kernel: Array, shape: tuple[int, ...], params: Mapping[str, Any]
) -> Array:
    """Returns the coefficients on the input of a convolution.

    Args:
      rows: coefficients on its output, [S, *output shape].
      kernel: as the convolution takes it.
      shape: of its input.
      params: of `conv_general_dilated`.

    Returns:
      [S, *shape].
    """
    # The sums are shifted on every platform: elsewhere they only cost some memory.
    found = plain(params)
    if found is None:
        return _derived(rows, kernel, shape, params)
    numbers, strides, pads, dilation = found
    batch, channel, *window = numbers.lhs_spec
    out, into, *taps = numbers.rhs_spec
    weights = kernel.transpose(*taps, into, out)  # [k.., c, f]
    order = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    n = rows.shape[0]
    rows = rows.transpose(0, *(axis + 1 for axis in order))
    rows = rows.reshape(-1, *rows.shape[2:])  # [S * batch, h', w', f]
    sums = shifted(
        rows, weights, [shape[axis] for axis in window], strides, pads, dilation
    )
    images = sums.reshape(n, shape[batch], *sums.shape[1:])
    target = (batch, *window, channel)
    back = [target.index(axis) + 1 for axis in range(len(shape))]
    return images.transpose(0, *back)


def plain(params: Mapping[str, Any]) -> Any:
    """Returns dimension numbers, strides, pads and dilation of a plain convolution.

    None for one of groups, or of a dilated input.

    Args:
      params: of `conv_general_dilated`.
    """
    groups = params["feature_group_count"] * params["batch_group_count"]
    if groups != 1 or any(d != 1 for d in params["lhs_dilation"]):
        return None
    return (
        params["dimension_numbers"],
        params["window_strides"],
        params["padding"],
        params["rhs_dilation"],
    )


def shifted(
    rows: Array,
    weights: Array,
    sizes: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[Any],
    dilation: Sequence[int],
) -> Array:
    """Returns rows [m, h', w', f] times [k.., c, f], each tap added where it belongs.

    Args:
      rows: coefficients on images that a convolution made.
      weights: its kernel, taps first.
      sizes: of the images that it took, the result's.
      strides: of its window.
      pads: before and after, of each spatial axis.
      dilation: of its taps.
    """
    spatial = len(sizes)
    out = rows.shape[1:-1]
    *taps, c, f = weights.shape
    products = lax.dot_general(
        rows.reshape(-1, f),
        weights.reshape(-1, f),
        (((1,), (1,)), ((), ())),
        precision=lax.Precision.HIGHEST,
    ).reshape(rows.shape[0], *out, *taps, c)
    # One spatial axis at a time: k0 + k1 sums instead of k0 * k1.
    for axis in range(spatial):
        products = _fold(
            products,
            1 + axis,
            1 + spatial,
            sizes[axis],
            strides[axis],
            pads[axis],
            dilation[axis],
        )
    return products


def _fold(
    x: Array, at: int, tap: int, size: int, stride: int, pad: Any, dilation: int
) -> Array:
    """Adds x[.., p, .., i, ..] at p * stride + i * dilation - pad[0] of an axis.

    The axis of taps, `tap`, is gone from the result, and axis `at` has `size` entries.
    """
    parts = []
    for i in range(x.shape[tap]):
        part = lax.index_in_dim(x, i, tap, keepdims=False)
        before = i * dilation - pad[0]
        length = (part.shape[at] - 1) * stride + 1
        config = [(0, 0, 0)] * part.ndim
        config[at] = (before, size - before - length, stride - 1)
        parts.append(lax.pad(part, jnp.zeros((), x.dtype), config))
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _derived(rows, kernel, shape, params) -> Array:
    def forward(x: Array) -> Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            params["window_strides"],
            params["padding"],
            params["lhs_dilation"],
            params["rhs_dilation"],
            params["dimension_numbers"],
            params["feature_group_count"],
            params["batch_group_count"],
            precision=lax.Precision.HIGHEST,
        )

    pull = jax.linear_transpose(forward, jax.ShapeDtypeStruct(shape, rows.dtype))
    return jax.vmap(lambda row: pull(row)[0])(rows)
