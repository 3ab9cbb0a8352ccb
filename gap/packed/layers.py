"""Convolutions and recurrent cells that run from packed kernels."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import InputError, ShapeError, describe
from core.types import Array, ArrayLike
from gap.packed.base import Layout, Packed, matmul

Padding = str | tuple[tuple[int, int], tuple[int, int]]
_PATCHES = 2**20
"""Numbers of unfolded input that a convolution holds at once, about; 4 MB."""


def conv(
    x: Array,
    packed: Packed,
    *,
    strides: int | tuple[int, int] = 1,
    padding: Padding = "SAME",
    layout: Layout = "batch",
) -> Array:
    """Convolves images with a packed kernel: windows unfolded, then `matmul`.

    Windows are unfolded in the order of the GEMM view, a few images at a time so that
    they stay in cache; a 1x1 kernel with stride 1 needs no unfolding.

    Args:
      x: float [n, h, w, c] with layout "batch", [c, n, h, w] with "feature".
      packed: any packed form of a kernel [kh, kw, c, f].
      strides: steps of the window, rows and columns.
      padding: "SAME", "VALID" or zeros before and after, rows and columns, as in
        `lax.conv_general_dilated`.
      layout: where the features are, of `x` and of the result.

    Returns:
      float [n, h', w', f] or [f, n, h', w'].

    Raises:
      ShapeError: a kernel that is not of an image or of other channels than `x`.
      InputError: no such layout or padding.
    """
    if layout not in ("batch", "feature"):
        raise InputError(describe(f"layout={layout!r}", "'batch' or 'feature'"))
    channels = 3 if layout == "batch" else 0
    if len(packed.shape) != 4 or x.ndim != 4 or x.shape[channels] != packed.shape[2]:
        raise ShapeError(
            describe(
                f"images {x.shape} with layout {layout!r} and a kernel {packed.shape}",
                "a kernel [kh, kw, c, f] and images of c channels",
                "Grouped and depthwise convolutions have no packed form.",
            )
        )
    steps = (strides, strides) if isinstance(strides, int) else tuple(strides)
    window = packed.shape[:2]
    if layout == "batch":
        x = x.transpose(3, 0, 1, 2)
    pads = _pads(x.shape[2:], window, steps, padding)
    apply = functools.partial(_conv, packed=packed, steps=steps, pads=pads)
    y = _in_chunks(apply, x, _patch_size(x.shape, window, steps, pads))
    return y.transpose(1, 2, 3, 0) if layout == "batch" else y


def _pads(size, window, steps, padding: Padding) -> tuple[tuple[int, int], ...]:
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            wanted = "'SAME', 'VALID' or pairs of zeros"
            raise InputError(describe(f"padding={padding!r}", wanted))
        return tuple(jax.lax.padtype_to_pads(size, window, steps, padding))
    return tuple((int(low), int(high)) for low, high in padding)


def _positions(size, window, steps, pads) -> list[int]:
    """Output rows and columns."""
    return [
        (n + low + high - k) // s + 1
        for n, k, s, (low, high) in zip(size, window, steps, pads, strict=True)
    ]


def _patch_size(shape, window, steps, pads) -> int:
    """Numbers in the unfolded windows of one image."""
    return int(
        np.prod(window) * shape[0] * np.prod(_positions(shape[2:], window, steps, pads))
    )


def _in_chunks(apply: Callable[[Array], Array], x: Array, size: int) -> Array:
    """`apply` to as many images at a time as make `_PATCHES` numbers, a divisor."""
    c, n, h, w = x.shape
    fits = [m for m in range(1, n + 1) if n % m == 0 and m * size <= _PATCHES]
    many = max(fits, default=1)
    if many == n or n == 0:
        return apply(x)
    parts = x.reshape(c, n // many, many, h, w).swapaxes(0, 1)
    y = jax.lax.map(apply, parts)
    return y.swapaxes(0, 1).reshape(y.shape[1], n, *y.shape[3:])


def _conv(x: Array, packed: Packed, steps, pads) -> Array:
    """The convolution of [c, n, h, w]; [f, n, h', w']."""
    window = packed.shape[:2]
    rows, columns = _positions(x.shape[2:], window, steps, pads)
    if any(map(any, pads)):
        x = jnp.pad(x, ((0, 0), (0, 0), *pads))
    taps = [
        jax.lax.slice(
            x,
            (0, 0, i, j),
            (
                *x.shape[:2],
                i + (rows - 1) * steps[0] + 1,
                j + (columns - 1) * steps[1] + 1,
            ),
            (1, 1, *steps),
        )
        for i in range(window[0])
        for j in range(window[1])
    ]
    patches = taps[0] if len(taps) == 1 else jnp.concatenate(taps)
    return matmul(patches, packed, "feature")


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["inputs", "hidden", "bias", "hidden_bias"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True, eq=False)
class PackedGRU:
    """A gated recurrent unit (arXiv 1406.1078, as in flax) with packed kernels.

    Attributes:
      inputs: kernel [features, 3h] of the gates r, z, n side by side.
      hidden: kernel [h, 3h], likewise.
      bias: float [3h], of the input side.
      hidden_bias: float [h], of n on the hidden side.
    """

    inputs: Packed
    hidden: Packed
    bias: Array
    hidden_bias: Array


def pack_gru(
    params: Mapping[str, Any],
    masks: Mapping[str, Any],
    pack: Callable[[ArrayLike, ArrayLike], Packed],
) -> PackedGRU:
    """Packs the parameters of a flax `GRUCell`, gates side by side.

    Args:
      params: {"ir", "iz", "in", "hr", "hz", "hn"}, each with a "kernel", those of the
        input side and "hn" with a "bias".
      masks: for each of them a "kernel" mask; a gate without one is kept whole.
      pack: from a kernel [rows, 3h] and its mask to a packed form; see `pack`.

    Raises:
      InputError: a gate is missing.
    """
    missing = [gate for gate in _GATES if gate not in params]
    if missing:
        raise InputError(
            describe(f"parameters without {', '.join(missing)}", "those of a GRUCell")
        )

    def stacked(side: str) -> Packed:
        names = [side + gate for gate in "rzn"]
        kernels = [np.asarray(params[name]["kernel"]) for name in names]
        keep = []
        for name, kernel in zip(names, kernels, strict=True):
            mask = (masks.get(name) or {}).get("kernel")
            keep.append(np.ones(kernel.shape, bool) if mask is None else mask)
        return pack(np.concatenate(kernels, axis=1), np.concatenate(keep, axis=1))

    bias = jnp.concatenate([jnp.asarray(params["i" + gate]["bias"]) for gate in "rzn"])
    hidden_bias = jnp.asarray(params["hn"]["bias"])
    return PackedGRU(stacked("i"), stacked("h"), bias, hidden_bias)


_GATES = ("ir", "iz", "in", "hr", "hz", "hn")


def gru_step(cell: PackedGRU, h: Array, x: Array, layout: Layout = "batch") -> Array:
    """Returns the next state of a GRU.

    r = sigmoid(W_ir x + W_hr h + b_r), z likewise,
    n = tanh(W_in x + b_n + r * (W_hn h + b_hn)), h' = (1 - z) * n + z * h.

    Args:
      cell: the packed cell.
      h: float [..., h] with layout "batch", [h, ...] with "feature".
      x: float [..., features] or [features, ...].
      layout: where the features are, of `h`, `x` and the result.
    """
    return _gru_gates(cell, h, _from_inputs(cell, x, layout), layout)


def gru(
    cell: PackedGRU, h: Array, xs: Array, layout: Layout = "batch"
) -> tuple[Array, Array]:
    """Runs a GRU over a sequence: the inputs of all steps in one product, then a scan.

    Args:
      cell: the packed cell.
      h: the first state, float [..., h] or [h, ...].
      xs: float [time, ..., features] or [time, features, ...].
      layout: where the features are.

    Returns:
      The last state, and all states [time, ...].
    """
    if layout == "feature":  # time joins the batch
        given = jnp.moveaxis(_from_inputs(cell, jnp.moveaxis(xs, 0, 1), layout), 1, 0)
    else:
        given = _from_inputs(cell, xs, layout)

    def step(h: Array, given: Array) -> tuple[Array, Array]:
        h = _gru_gates(cell, h, given, layout)
        return h, h

    return jax.lax.scan(step, h, given)


def _from_inputs(cell: PackedGRU, x: Array, layout: Layout) -> Array:
    y = matmul(x, cell.inputs, layout)
    return y + _along(cell.bias, y, layout)


def _along(bias: Array, y: Array, layout: Layout) -> Array:
    """`bias` with the axes of `y`."""
    ones = (1,) * (y.ndim - 1)
    shape = (*ones, -1) if layout == "batch" else (-1, *ones)
    return bias.astype(y.dtype).reshape(shape)


def _gru_gates(cell: PackedGRU, h: Array, given: Array, layout: Layout) -> Array:
    axis = -1 if layout == "batch" else 0
    r_x, z_x, n_x = jnp.split(given, 3, axis)
    r_h, z_h, n_h = jnp.split(matmul(h, cell.hidden, layout), 3, axis)
    r, z = jax.nn.sigmoid(r_x + r_h), jax.nn.sigmoid(z_x + z_h)
    n = jnp.tanh(n_x + r * (n_h + _along(cell.hidden_bias, n_h, layout)))
    return (jnp.ones((), h.dtype) - z) * n + z * h
