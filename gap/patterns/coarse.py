"""Patterns of whole groups of the GEMM view: blocks, filters, channels, shapes."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from core.gemm import gemm_shape
from core.types import Array
from gap.patterns.base import (
    Pattern,
    Storage,
    check_count,
    check_positive,
    choice_bits,
    pieces,
)
from gap.patterns.ranking import best, group_scores


def split_blocks(scores: Array, inputs: int, outputs: int) -> Array:
    """Returns the blocks of the GEMM view, [grid in, inputs, grid out, outputs].

    What a border block lacks is filled with -inf, at its end. Scores that are not
    floating-point become float32.

    Args:
      scores: a score per weight, any shape with a GEMM view.
      inputs: rows in a block.
      outputs: columns in a block.
    """
    view = gemm_shape(scores.shape)
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        scores = scores.astype(jnp.float32)
    matrix = scores.reshape(view.rows, view.cols)
    grid = (-(-view.rows // inputs), -(-view.cols // outputs))
    lacking = (grid[0] * inputs - view.rows, grid[1] * outputs - view.cols)
    lowest = jnp.array(-jnp.inf, matrix.dtype)
    matrix = jnp.pad(matrix, ((0, lacking[0]), (0, lacking[1])), constant_values=lowest)
    return matrix.reshape(grid[0], inputs, grid[1], outputs)


def join_blocks(blocks: Array, shape: tuple[int, ...]) -> Array:
    """Returns the weight of `shape` whose `split_blocks` are `blocks`."""
    view = gemm_shape(shape)
    down, inputs, across, outputs = blocks.shape
    matrix = blocks.reshape(down * inputs, across * outputs)
    return matrix[: view.rows, : view.cols].reshape(shape)


def grouped(pattern: Pattern, x: Array) -> Array:
    """Returns, for every weight, the sum of x over its group divided by sqrt(n).

    The squares of the results over a group of n weights add up to the squared sum.

    Args:
      pattern: `Filter`, `Channel`, `Shape` or `Block`; of any other pattern a weight
        is a group of its own.
      x: a finite number for each weight, float [...].
    """
    if isinstance(pattern, Block):
        blocks = split_blocks(x, pattern.inputs, pattern.outputs)
        padding = blocks == -jnp.inf
        total = jnp.where(padding, jnp.zeros_like(blocks), blocks)
        total = total.sum((1, 3), keepdims=True)
        size = jnp.sum(~padding, (1, 3), keepdims=True)
        mean = total / jnp.sqrt(size.astype(total.dtype))
        return join_blocks(jnp.broadcast_to(mean, blocks.shape), x.shape)
    if not isinstance(pattern, _Lines):
        return x
    axes = pattern.axes(x.ndim)
    size = math.prod(x.shape[axis] for axis in axes)
    mean = x.sum(axes, keepdims=True) / math.sqrt(max(size, 1))
    return jnp.broadcast_to(mean, x.shape)


@dataclasses.dataclass(frozen=True)
class Block:
    """Rectangular blocks of the GEMM view, kept or pruned whole; a unit is a block.

    Blocks at the border are smaller where the matrix is no multiple of them. Their
    scores are sums over fewer weights, as the norms they stand for.

    Attributes:
      inputs: rows of the GEMM view in a block.
      outputs: columns of the GEMM view in a block.

    Example:
      >>> import jax.numpy as jnp
      >>> scores = jnp.array([[1.0, 0.0, 2.0], [1.0, 0.0, 2.0]])
      >>> Block(inputs=2, outputs=2).mask(scores, 1).astype(int).tolist()
      [[0, 0, 1], [0, 0, 1]]
    """

    inputs: int = 16
    outputs: int = 16

    def __post_init__(self):
        check_positive("inputs", self.inputs)
        check_positive("outputs", self.outputs)

    def _sides(self, shape: tuple[int, ...]) -> tuple[list[int], list[int]]:
        view = gemm_shape(shape)
        return pieces(view.rows, self.inputs), pieces(view.cols, self.outputs)

    def units(self, shape: tuple[int, ...]) -> int:
        """Returns the number of blocks, those at the border included."""
        down, across = self._sides(shape)
        return len(down) * len(across)

    def mask(self, scores: Array, count: int | Array) -> Array:
        """Returns the mask of the `count` best blocks; see `Pattern.mask`."""
        check_count(count, self.units(scores.shape))
        return self._mask(scores, count)

    @functools.partial(jax.jit, static_argnums=0)
    def _mask(self, scores: Array, count: int | Array) -> Array:
        blocks = split_blocks(scores, self.inputs, self.outputs)
        energy = group_scores(blocks, (1, 3))
        keep = best(energy.ravel(), count, computed=True).reshape(energy.shape)
        keep = jnp.broadcast_to(keep[:, None, :, None], blocks.shape)
        return join_blocks(keep, scores.shape)

    def weights(self, shape: tuple[int, ...], count: int) -> int:
        """Returns the kept weights; the most they can be if border blocks differ."""
        check_count(count, self.units(shape))
        down, across = self._sides(shape)
        sizes = sorted((r * c for r in down for c in across), reverse=True)
        return sum(sizes[:count])

    def storage(self, shape: tuple[int, ...], count: int, bits: int = 32) -> Storage:
        """Returns the size with every kept block full, and which blocks are kept."""
        units = self.units(shape)
        check_count(count, units)
        if count == units:
            return Storage(self.weights(shape, count) * bits, 0)
        values = count * self.inputs * self.outputs
        return Storage(values * bits, choice_bits(count, units))


@functools.partial(jax.jit, static_argnames="axes")
def _line_mask(scores: Array, count: int | Array, axes: tuple[int, ...]) -> Array:
    """The mask of the `count` best groups over `axes` of `scores`."""
    keep = best(group_scores(scores, axes).ravel(), count, computed=True)
    keep = keep.reshape([1 if i in axes else n for i, n in enumerate(scores.shape)])
    return jnp.broadcast_to(keep, scores.shape)


class _Lines:
    """Whole lines of a kernel as units, all of one size."""

    def axes(self, ndim: int) -> tuple[int, ...]:
        """Returns the axes that a group spans, of a kernel of `ndim` axes."""
        raise NotImplementedError

    def _line_size(self, shape: tuple[int, ...]) -> int:
        raise NotImplementedError

    def units(self, shape: tuple[int, ...]) -> int:
        """Returns the number of groups that are kept or pruned whole."""
        raise NotImplementedError

    def weights(self, shape: tuple[int, ...], count: int) -> int:
        """Returns the kept weights, exactly."""
        check_count(count, self.units(shape))
        return count * self._line_size(shape)

    def storage(self, shape: tuple[int, ...], count: int, bits: int = 32) -> Storage:
        """Returns the size of the smaller dense kernel and of the list of the kept."""
        values = self.weights(shape, count) * bits
        return Storage(values, choice_bits(count, self.units(shape)))


@dataclasses.dataclass(frozen=True)
class Filter(_Lines):
    """Output features: the columns of the GEMM view."""

    def axes(self, ndim: int) -> tuple[int, ...]:
        """Returns all axes but the last."""
        return tuple(range(ndim - 1))

    def _line_size(self, shape: tuple[int, ...]) -> int:
        return gemm_shape(shape).rows

    def units(self, shape: tuple[int, ...]) -> int:
        """Returns the number of output features."""
        return gemm_shape(shape).cols

    def mask(self, scores: Array, count: int | Array) -> Array:
        """Returns the mask of the `count` best filters; see `Pattern.mask`."""
        check_count(count, self.units(scores.shape))
        return _line_mask(scores, count, self.axes(scores.ndim))


@dataclasses.dataclass(frozen=True)
class Channel(_Lines):
    """Input features, each at all window positions and for all outputs.

    The input features of a kernel are its axis -2. A depthwise kernel has one there.
    """

    def axes(self, ndim: int) -> tuple[int, ...]:
        """Returns all axes but the one before the last."""
        return (*range(ndim - 2), ndim - 1)

    def _line_size(self, shape: tuple[int, ...]) -> int:
        view = gemm_shape(shape)
        return view.rows // max(view.in_features, 1) * view.cols

    def units(self, shape: tuple[int, ...]) -> int:
        """Returns the number of input features."""
        return gemm_shape(shape).in_features

    def mask(self, scores: Array, count: int | Array) -> Array:
        """Returns the mask of the `count` best channels; see `Pattern.mask`."""
        check_count(count, self.units(scores.shape))
        return _line_mask(scores, count, self.axes(scores.ndim))


@dataclasses.dataclass(frozen=True)
class Shape(_Lines):
    """A window position of an input feature, for all outputs: a row of the GEMM view.

    The rows are the columns of the usual im2col matrix with filters as rows, hence
    'filter shape' or 'column' pruning in the literature.
    """

    def axes(self, ndim: int) -> tuple[int, ...]:
        """Returns the last axis."""
        return (ndim - 1,)

    def _line_size(self, shape: tuple[int, ...]) -> int:
        return gemm_shape(shape).cols

    def units(self, shape: tuple[int, ...]) -> int:
        """Returns the number of rows of the GEMM view."""
        return gemm_shape(shape).rows

    def mask(self, scores: Array, count: int | Array) -> Array:
        """Returns the mask of the `count` best rows; see `Pattern.mask`."""
        check_count(count, self.units(scores.shape))
        return _line_mask(scores, count, self.axes(scores.ndim))
