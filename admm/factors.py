"""A kernel of low rank as two kernels in turn (arXiv 1812.02402, section 3).

    dense      [n_in, r], [r, n_out]
    channel    [kh, kw, C, r], [1, 1, r, N]
    spatial    [kh, 1, C, r], [1, kw, r, N]
    decouple   [1, 1, C, N r], [kh, kw, N, r]    pointwise, depthwise, sum over r

Batch norm and biases after the kernel stay as they are.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from admm.low_rank import Scheme, check_scheme, matricize, product, spectrum, wide
from core.errors import ShapeError, check_range, describe
from core.types import Array


class Factors(NamedTuple):
    """Two kernels whose composition is one of low rank.

    Invariants: both have two axes, or both four; see the module for their shapes.
    """

    first: Array
    second: Array


OWNERS = {"channel": (0, 0), "spatial": (0, 1), "decouple": (1, 1)}
"""The factor that has the window's height, and the one that has its width.

Strides go where the window is: a first factor without it runs at the inputs' positions.
"""


def break_even(
    shape: tuple[int, ...],
    scheme: Scheme = "channel",
    strides: tuple[int, int] = (1, 1),
) -> int:
    """Returns the largest rank whose factors multiply less than the kernel, or 0.

    Args:
      shape: of a kernel, [n_in, n_out] or [kh, kw, C, N].
      scheme: as in `admm.low_rank`.
      strides: of the kernel; see `multiplications`.
    """
    return (math.prod(shape) - 1) // multiplications(shape, 1, scheme, strides)


def multiplications(
    shape: tuple[int, ...],
    rank: int,
    scheme: Scheme = "channel",
    strides: tuple[int, int] = (1, 1),
) -> int:
    """Returns the multiplications of factors for each output position.

    Args:
      shape: of a kernel, [n_in, n_out] or [kh, kw, C, N].
      rank: of the factors.
      scheme: as in `admm.low_rank`.
      strides: of the kernel in height and width, which must be 1 of a dense one. Images
        count as `strides` times as large as the outputs, as with padding "SAME": `conv`
        runs the first factor at all of their rows or columns where the second one has
        that axis of the window.

    Raises:
      InputError: a stride below 1, or one of a dense kernel.
      UnknownNameError: no such scheme.
    """
    check_scheme(scheme)
    for stride in strides:
        check_range("strides", stride, 1, None if len(shape) == 4 else 1)
    if len(shape) == 2:
        return rank * sum(shape)
    high, across, channels, filters = shape
    first, second = {
        "channel": (channels * high * across, filters),
        "spatial": (channels * high, filters * across),
        "decouple": (filters * channels, filters * high * across),
    }[scheme]
    pairs = zip(strides, OWNERS[scheme], strict=True)
    return rank * (math.prod(s for s, owner in pairs if owner) * first + second)


def factorize(kernel: Array, rank: int, scheme: Scheme = "channel") -> Factors:
    """Returns the factors of the nearest kernel of a rank.

    Both factors have sqrt(s) of each singular value s; of the "spatial" scheme the
    second one has s.

    Args:
      kernel: [n_in, n_out] or [kh, kw, C, N].
      rank: from 1 to the lesser side of its matrix.
      scheme: as in `admm.low_rank`.

    Raises:
      InputError: a rank out of range.
      UnknownNameError, ShapeError: as `admm.low_rank.matricize`.
    """
    matrices = matricize(wide(kernel), scheme)
    check_range("rank", rank, 1, min(matrices.shape[-2:]))
    found = _factors(matrices, kernel.shape, rank, scheme)
    return Factors(*(part.astype(kernel.dtype) for part in found))


def _factors(
    matrices: Array, shape: tuple[int, ...], rank: int, scheme: Scheme
) -> Factors:
    if len(shape) == 2:
        return Factors(*_halves(matrices, rank, share=True))
    high, across, channels, filters = shape
    if scheme == "decouple":
        pairs = [_halves(m, rank, share=True) for m in matrices]
        window = jnp.stack([a for a, _ in pairs], 1)  # [kh kw, N, r]
        point = jnp.stack([b.T for _, b in pairs], 1)  # [C, N, r]
        first = point.reshape(1, 1, channels, filters * rank)
        return Factors(first, window.reshape(high, across, filters, rank))
    left, right = _halves(matrices, rank, share=scheme == "channel")
    if scheme == "channel":
        first = left.reshape(high, across, channels, rank)
        return Factors(first, right.reshape(1, 1, rank, filters))
    second = right.reshape(rank, across, filters).transpose(1, 0, 2)
    return Factors(left.reshape(high, 1, channels, rank), second[None])


def _halves(matrix: Array, rank: int, share: bool) -> tuple[Array, Array]:
    """A [n, m] as [n, r] @ [r, m]; without `share` the left one is orthonormal."""
    found = spectrum(matrix)
    kept, values = found.vectors[:, :rank], found.values[:rank]
    root = jnp.sqrt(values)[None]
    inverse = jnp.where(root > 0, 1 / jnp.where(root > 0, root, 1), 0)
    if matrix.shape[0] <= matrix.shape[1]:
        if not share:
            return kept, product(kept.T, matrix)
        return kept * root, product((kept * inverse).T, matrix)
    if not share:
        return product(matrix, kept * inverse**2), (kept * root**2).T
    return product(matrix, kept * inverse), (kept * root).T


def conv(
    x: Array,
    factors: Factors,
    scheme: Scheme = "channel",
    strides: tuple[int, int] = (1, 1),
    padding: str | Sequence[tuple[int, int]] = "SAME",
) -> Array:
    """Returns the convolution of images with the kernel of the factors.

    Strides and padding in height and width go to the factor that has that axis of the
    window, so that the result is that of the whole kernel.

    Args:
      x: [B, H, W, C].
      factors: of `factorize`, four axes each.
      scheme: that they were made by.
      strides: of the kernel.
      padding: of the kernel: "SAME", "VALID", or a pair for each axis.

    Raises:
      ShapeError: factors of a dense kernel.
      UnknownNameError: no such scheme.
    """
    check_scheme(scheme)
    first, second = factors
    if first.ndim != 4:
        raise ShapeError(
            describe(f"factors of {first.shape}", "those of a convolution")
        )
    filters, rank = second.shape[2:]
    owners = OWNERS[scheme]
    window = [factors[owner].shape[axis] for axis, owner in enumerate(owners)]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], window, strides, padding)
    is_decoupled = scheme == "decouple"
    if is_decoupled:
        second = second.reshape(*second.shape[:2], 1, filters * rank)
    for k, kernel in enumerate((first, second)):
        x = lax.conv_general_dilated(
            x,
            kernel,
            [s if o == k else 1 for s, o in zip(strides, owners, strict=True)],
            [p if o == k else (0, 0) for p, o in zip(padding, owners, strict=True)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=kernel.shape[-1] if is_decoupled and k else 1,
        )
    return x.reshape(*x.shape[:3], filters, rank).sum(-1) if is_decoupled else x
