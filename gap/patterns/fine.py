"""Patterns of single weights: anywhere, or so many in every group along an axis."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from core.gemm import gemm_shape
from core.selection import topk_mask
from core.types import Array
from gap.patterns.base import (
    Storage,
    axis_of,
    bits_for,
    check_count,
    check_positive,
    choice_bits,
    pieces,
)
from gap.patterns.ranking import best


@dataclasses.dataclass(frozen=True)
class Unstructured:
    """Any set of weights; a unit is one weight."""

    def units(self, shape: tuple[int, ...]) -> int:
        """Returns the number of weights."""
        return math.prod(shape)

    def mask(self, scores: Array, count: int | Array) -> Array:
        """Returns the mask of the `count` largest scores; see `Pattern.mask`."""
        return topk_mask(scores, count)

    def weights(self, shape: tuple[int, ...], count: int) -> int:
        """Returns `count`."""
        check_count(count, self.units(shape))
        return count

    def storage(self, shape: tuple[int, ...], count: int, bits: int = 32) -> Storage:
        """Returns the size with a bit a weight, or compressed columns if smaller.

        Compressed columns hold the input of every value and where an output begins.
        """
        units = self.units(shape)
        index = choice_bits(self.weights(shape, count), units)
        if index and len(shape) > 1:
            view = gemm_shape(shape)
            starts = (view.cols + 1) * bits_for(count + 1)
            index = min(index, count * bits_for(view.rows) + starts)
        return Storage(count * bits, index)


@functools.partial(jax.jit, static_argnames=("size", "axis"))
def _group_mask(scores: Array, count: int | Array, size: int, axis: int) -> Array:
    """The `count` best of every `size` consecutive scores along `axis`."""
    length = scores.shape[axis]
    lead, tail = scores.shape[:axis], scores.shape[axis + 1 :]
    groups = -(-length // size)
    grouped = (*lead, groups, size, *tail)
    valid = None
    if groups * size != length:
        widths = [(0, 0)] * scores.ndim
        widths[axis] = (0, groups * size - length)
        valid = jnp.pad(jnp.ones(scores.shape, bool), widths).reshape(grouped)
        scores = jnp.pad(scores, widths)
    mask = best(scores.reshape(grouped), count, axis + 1, valid)
    mask = mask.reshape(*lead, groups * size, *tail)
    return mask if valid is None else jnp.take(mask, jnp.arange(length), axis=axis)


@dataclasses.dataclass(frozen=True)
class NM:
    """N of every M consecutive weights along an axis; 2:4 is `density=0.5, NM(4)`.

    `count` is N: `units` is `m` for every shape. A last group shorter than `m` keeps
    at most `count`.

    Attributes:
      m: the length of a group.
      axis: the axis along which groups lie; the default is the input features.

    Example:
      >>> import jax.numpy as jnp
      >>> NM(m=4, axis=0).mask(jnp.array([1.0, 3.0, 2.0, 0.0, 5.0, 6.0]), 1).tolist()
      [False, True, False, False, False, True]
    """

    m: int = 4
    axis: int = -2

    def __post_init__(self):
        check_positive("m", self.m)

    def units(self, shape: tuple[int, ...]) -> int:
        """Returns `m`."""
        axis_of(shape, self.axis)
        return self.m

    def mask(self, scores: Array, count: int | Array) -> Array:
        """Returns the mask of the `count` best of each group; see `Pattern.mask`."""
        check_count(count, self.units(scores.shape))
        return _group_mask(scores, count, self.m, axis_of(scores.shape, self.axis))

    def weights(self, shape: tuple[int, ...], count: int) -> int:
        """Returns the kept weights, exactly."""
        check_count(count, self.units(shape))
        groups = pieces(shape[self.axis], self.m)
        return _lines(shape, self.axis) * sum(min(count, size) for size in groups)

    def storage(self, shape: tuple[int, ...], count: int, bits: int = 32) -> Storage:
        """Returns the size with `count` slots a group and a position for each."""
        check_count(count, self.units(shape))
        if count == self.m:
            return Storage(math.prod(shape) * bits, 0)
        groups = _lines(shape, self.axis) * len(pieces(shape[self.axis], self.m))
        return Storage(groups * count * bits, groups * count * bits_for(self.m))


def _lines(shape: tuple[int, ...], axis: int) -> int:
    """The number of lines along `axis`."""
    return math.prod(n for i, n in enumerate(shape) if i != axis % len(shape))


@dataclasses.dataclass(frozen=True)
class DBB:
    """Density bound blocks: at most `count` non-zeros in a block of input channels.

    The masks are those of `NM(block, axis)`. Hardware that knows the bound stores a
    block as `count` values and one mask of `block` bits (arXiv 2107.07983): 4/8 of
    8-bit weights take 5 bytes of 8.

    Attributes:
      block: the length of a block.
      axis: the axis along which blocks lie; the default is the input features.
    """

    block: int = 8
    axis: int = -2

    def __post_init__(self):
        check_positive("block", self.block)

    def _groups(self) -> NM:
        return NM(self.block, self.axis)

    def units(self, shape: tuple[int, ...]) -> int:
        """Returns `block`."""
        return self._groups().units(shape)

    def mask(self, scores: Array, count: int | Array) -> Array:
        """Returns the mask of the `count` best of each block; see `Pattern.mask`."""
        return self._groups().mask(scores, count)

    def weights(self, shape: tuple[int, ...], count: int) -> int:
        """Returns the kept weights, exactly."""
        return self._groups().weights(shape, count)

    def storage(self, shape: tuple[int, ...], count: int, bits: int = 32) -> Storage:
        """Returns the size with `count` slots and a position mask for each block."""
        packed = self._groups().storage(shape, count, bits)
        if count == self.block:
            return packed
        blocks = _lines(shape, self.axis) * len(pieces(shape[self.axis], self.block))
        return Storage(packed.value_bits, blocks * self.block)


@dataclasses.dataclass(frozen=True)
class BankBalanced:
    """The same number of weights in every bank of inputs of every output.

    Each column of the GEMM view (the inputs of one output) is cut into banks of `bank`
    consecutive inputs, which hardware reads in parallel (Cao et al., FPGA 2019). A
    column shorter than `bank` is one bank; a last bank that is shorter than the others
    keeps at most `count`.

    Attributes:
      bank: inputs in a bank.
    """

    bank: int = 64

    def __post_init__(self):
        check_positive("bank", self.bank)

    def units(self, shape: tuple[int, ...]) -> int:
        """Returns the inputs of a bank."""
        return min(self.bank, gemm_shape(shape).rows)

    def mask(self, scores: Array, count: int | Array) -> Array:
        """Returns the mask of the `count` best of each bank; see `Pattern.mask`."""
        units = self.units(scores.shape)
        check_count(count, units)
        view = gemm_shape(scores.shape)
        matrix = scores.reshape(view.rows, view.cols)
        return _group_mask(matrix, count, max(units, 1), 0).reshape(scores.shape)

    def weights(self, shape: tuple[int, ...], count: int) -> int:
        """Returns the kept weights, exactly."""
        check_count(count, self.units(shape))
        view = gemm_shape(shape)
        return view.cols * sum(min(count, n) for n in pieces(view.rows, self.bank))

    def storage(self, shape: tuple[int, ...], count: int, bits: int = 32) -> Storage:
        """Returns the size with `count` slots a bank and a position for each."""
        units = self.units(shape)
        check_count(count, units)
        if count == units:
            return Storage(math.prod(shape) * bits, 0)
        view = gemm_shape(shape)
        slots = view.cols * len(pieces(view.rows, self.bank)) * count
        return Storage(slots * bits, slots * bits_for(units))
