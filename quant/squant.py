"""SQuant: rounding without data by diagonal Hessian approximation (ICLR 2022).

The second moment of a layer's input is close to a diagonal, plus one constant a kernel,
plus one constant: so the loss grows with the squared errors of elements and with the
squared sums of errors of kernels and channels (arXiv 2202.07471). Rounding to nearest
bounds the first; flipping the direction of some elements bounds the sums of kernels by
half a step, then those of channels.

Arrays are [K, N, M]: kernel window, input channels, output channels, the order of flax
kernels (a dense kernel has K = 1). Sums over kernels run over K, those over channels
over K and N.
"""

import functools
import math
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax

from core import rules as path_rules
from core import trees
from core.errors import InputError, describe
from core.selection import topk_mask
from core.types import Array, ArrayLike, PyTree
from quant.formats.base import check_bits
from quant.quantizers import kernel

Mode = Literal["e", "ec", "ek", "ekc"]
"""Stages that run: elements (rounding to nearest), kernels, channels."""

FLOOR = 1e-8
"""The least range of a channel: constant channels have a finite scale."""


class Grid(NamedTuple):
    """The affine grid of each output channel: x = slope * w - zero.

    Attributes:
      slope: steps per unit of weight, [M]; what other quantizers call 1 / scale.
      zero: whole numbers, [M], in the type of the weights.
    """

    slope: Array
    zero: Array


class Rounding(NamedTuple):
    """Weights on the grid, part of the way.

    Attributes:
      r: rounded numbers, [K, N, M].
      delta: r - x, [K, N, M].
      up: priority of raising an element by 1; 0 where it is no candidate.
      down: priority of lowering it by 1.
    """

    r: Array
    delta: Array
    up: Array
    down: Array


class Quantized(NamedTuple):
    """A quantized kernel.

    Attributes:
      codes: whole numbers from -2**(bits - 1) to 2**(bits - 1) - 1, int8 (int16 above 8
        bits), of the kernel's shape.
      scale: one step in units of weight, [M].
      zero: of the grid, [M]; the weight of code q is (q + zero) * scale.
    """

    codes: Array
    scale: Array
    zero: Array

    def weights(self) -> Array:
        """Returns the kernel, in the type of the scale."""
        lead = (1,) * (self.codes.ndim - 1)
        scale, zero = self.scale.reshape(*lead, -1), self.zero.reshape(*lead, -1)
        return (self.codes.astype(scale.dtype) + zero) * scale


def affine_grid(w: ArrayLike, bits: int) -> Grid:
    """Returns the grid between the least and the largest weight of each channel.

    slope = (2**bits - 1) / max(max - min, 1e-8), zero = round(slope * min) +
    2**(bits - 1). Slopes of huge constants are less, so that all is finite; a channel
    with NaN or infinity, in a kernel that is traced, has slope 1.

    Args:
      w: a kernel in flax layout, outputs last; floating point.
      bits: 2 to 16.
    """
    w = jnp.asarray(w)
    axes = tuple(range(w.ndim - 1))
    low, high = w.min(axes), w.max(axes)
    half = jnp.maximum(high / 2 - low / 2, jnp.asarray(FLOOR / 2, w.dtype))
    size = jnp.maximum(jnp.maximum(-low, high), 1)
    most = float(jnp.finfo(w.dtype).max) / 4 / size
    slope = jnp.minimum((2**bits - 1) / 2 / half, most)  # halves are exact
    slope = jnp.where(jnp.isfinite(low) & jnp.isfinite(high), slope, 1)
    low = jnp.where(jnp.isfinite(low), low, 0)
    return Grid(slope, jnp.round(slope * low) + 2 ** (bits - 1))


def on_grid(w: Array, grid: Grid) -> Array:
    """Returns weights [..., M] in steps of their grid: slope * w - zero.

    The product is rounded before the difference, on every device.
    """
    slope, zero = (each.reshape((1,) * (w.ndim - 1) + (-1,)) for each in grid)
    # The maximum keeps compilers from one fused multiply-add, which rounds once and
    # so changes codes; they do fuse across `lax.optimization_barrier`.
    return jnp.maximum(slope * w, jnp.finfo(w.dtype).min) - zero


def elements(x: Array, bits: int, mask: Array | None = None) -> Rounding:
    """Rounds to nearest, half to even, and names the candidates for flips.

    Args:
      x: weights on the grid, [K, N, M].
      bits: what the grid has.
      mask: elements that may be flipped, bool [K, N, M]; all if left out.
    """
    top = 2 ** (bits - 1) - 1
    r = jnp.round(x)
    delta = r - x
    none = jnp.zeros((), x.dtype)
    free = jnp.ones((), bool) if mask is None else mask
    up = jnp.where((delta < 0) & (x < top) & free, -delta, none)
    down = jnp.where((delta > 0) & (x > -top - 1) & free, delta, none)
    return Rounding(r, delta, up, down)


def kernels(state: Rounding) -> Rounding:
    """Flips elements until the error of each kernel is at most half a step.

    One element of each kernel stays a candidate for `channels`: the last one flipped,
    back, if the kernel was corrected past zero; otherwise the next one. Where the
    candidates run out, as at the ends of a grid or with a mask, none is left: not all
    that were to be flipped were, so there is no last one to undo.
    """
    r, delta, up, down = state
    error = delta.sum(0, keepdims=True)
    raises = error < 0
    priority = jnp.where(raises, up, down)
    count = jnp.round(jnp.abs(error))
    rank = _ranks(priority)
    candidate = priority > 0
    step = _sign(raises, r)
    flips = ((rank < count) & candidate).astype(r.dtype) * step
    r, delta = r + flips, delta + flips
    past = (count >= jnp.abs(error)) & (count >= 1)
    short = count < jnp.abs(error)
    chosen = candidate & (rank == jnp.where(past, count - 1, count)) & (past | short)
    # Past zero the candidate is a flipped element: |delta| is what it has become.
    size = jnp.where(chosen, jnp.abs(delta), jnp.zeros((), r.dtype))
    rises = raises != past
    none = jnp.zeros_like(size)
    return Rounding(
        r, delta, jnp.where(rises, size, none), jnp.where(rises, none, size)
    )


def channels(state: Rounding, *, one_per_kernel: bool = False) -> Rounding:
    """Flips candidates until the error of each channel is at most half a step.

    Args:
      state: as `elements` or `kernels` returns it.
      one_per_kernel: whether no kernel has more than one candidate in a direction, as
        after `kernels`: whole kernels are then ordered, not elements.
    """
    r, delta, up, down = state
    error = delta.sum((0, 1))
    raises = (error < 0)[None, None]
    count = jnp.round(jnp.abs(error)).astype(jnp.int32)
    priority = jnp.where(raises, up, down)
    if one_per_kernel:
        chosen = _largest(priority.max(0), count)[None] & (priority > 0)
    else:  # of equals, those of the first kernel
        by_kernel = priority.swapaxes(0, 1)
        marks = _largest(by_kernel.reshape(-1, r.shape[-1]), count)
        chosen = marks.reshape(by_kernel.shape).swapaxes(0, 1)
    flips = chosen.astype(r.dtype) * _sign(raises, r)
    none = jnp.zeros_like(r)
    return Rounding(r + flips, delta + flips, none, none)


def _sign(raises: Array, like: Array) -> Array:
    return jnp.where(raises, jnp.ones((), like.dtype), -jnp.ones((), like.dtype))


def _ranks(priority: Array) -> Array:
    """Places in falling order along the first axis, the first of equals first."""
    size = priority.shape[0]
    index = jnp.arange(size).reshape(-1, *(1,) * (priority.ndim - 1))

    def count(j: Array | int, ranks: Array) -> Array:
        other = lax.dynamic_index_in_dim(priority, j, 0)
        before = (other > priority) | ((other == priority) & (j < index))
        return ranks + before.astype(priority.dtype)

    ranks = jnp.zeros_like(priority)
    if size <= 16:  # one fused loop
        for j in range(size):
            ranks = count(j, ranks)
        return ranks
    return lax.fori_loop(0, size, count, ranks)


def _largest(priority: Array, count: Array) -> Array:
    """Marks each column's `count` largest positive entries, the first of equals."""
    return jax.vmap(topk_mask, (1, 0), 1)(priority, count) & (priority > 0)


def round_on_grid(
    x: Array, bits: int, mode: Mode = "ekc", mask: Array | None = None
) -> Array:
    """Returns whole numbers for weights on a grid, [K, N, M], within its ends."""
    state = elements(x, bits, mask)
    has_kernels = "k" in mode and x.shape[0] > 1
    if has_kernels:
        state = kernels(state)
    if "c" in mode:
        state = channels(state, one_per_kernel=has_kernels or x.shape[0] == 1)
    top = 2 ** (bits - 1) - 1
    return jnp.clip(state.r, -top - 1, top)


def quantize(
    w: ArrayLike, bits: int, mode: Mode = "ekc", mask: ArrayLike | None = None
) -> Quantized:
    """Quantizes a dense or convolution kernel without data.

    Args:
      w: a kernel in flax layout, [*window, in, out], floating point. A depthwise kernel
        has in = 1.
      bits: 2 to 16.
      mode: stages that run.
      mask: weights that may be flipped, bool of the kernel's shape. (A weight of 0 in a
        channel that spans 0 lies on the grid: it stays 0 in any case.)

    Raises:
      InputError: a width or mode that does not exist, or an integer kernel.
      ShapeError: fewer than two axes, or an empty kernel.
      NonFiniteError: NaN or infinity in a kernel that is not traced.
    """
    check_bits("bits", bits, 2, 16)
    if mode not in get_args(Mode):
        raise InputError(describe(f"mode={mode!r}", " or ".join(get_args(Mode))))
    return _quantize(kernel(w), bits, mode, mask)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _quantize(w: Array, bits: int, mode: Mode, mask: Array | None) -> Quantized:
    grid = affine_grid(w, bits)
    shape = (math.prod(w.shape[:-2]), *w.shape[-2:])
    x = on_grid(w.reshape(shape), grid)
    free = None if mask is None else jnp.asarray(mask, bool).reshape(shape)
    codes = round_on_grid(x, bits, mode, free).reshape(w.shape)
    small = jnp.int8 if bits <= 8 else jnp.int16
    return Quantized(codes.astype(small), 1 / grid.slope, grid.zero)


def quantize_tree(
    params: PyTree,
    rules: path_rules.Rules,
    mode: Mode = "ekc",
) -> PyTree:
    """Returns parameters with the kernels that rules name quantized, as numbers.

    Args: as of `encode_tree`; other leaves stay as they are.
    """
    found = encode_tree(params, rules, mode)

    def one(part: Quantized, leaf: Array) -> Array:
        return part.weights().astype(jnp.result_type(leaf))

    return trees.map_partial(one, found, params, absent=trees.keep_rest)


def encode_tree(
    params: PyTree,
    rules: path_rules.Rules,
    mode: Mode = "ekc",
) -> PyTree:
    """Returns the `Quantized` of every kernel that rules name: what hardware stores.

    Args:
      params: a pytree of arrays.
      rules: `(path regex, bits)`, first match wins; other leaves become None.
      mode: stages that run.

    Raises:
      RuleError: a rule without a leaf. Otherwise as `quantize`.
    """
    widths = path_rules.match(rules, params)
    return trees.map_partial(lambda b, leaf: quantize(leaf, b, mode), widths, params)


class Case(NamedTuple):
    """The largest |sum of errors| of each size, in steps: what SQuant bounds."""

    element: Array
    kernel: Array
    channel: Array


def case_objective(delta: Array) -> Case:
    """Returns the largest absolute sums of errors [K, N, M], each of shape []."""
    sums = delta, delta.sum(0), delta.sum((0, 1))
    return Case(*(jnp.abs(each).max() for each in sums))
