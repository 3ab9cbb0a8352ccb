"""The GEMM view: every kernel as a matrix of shape (inputs, outputs).

Structured patterns, projections and hardware costs see a weight as the matrix that
multiplies its unfolded input. Rows run over the kernel window and then the input
features, columns over the output features:

    dense      (in, out)                 -> (in, out)
    conv       (*window, in, out)        -> (prod(window) * in, out)
    depthwise  (*window, 1, out)         -> (prod(window), out)
    recurrent  (in, gates, hidden)       -> (in, gates * hidden)      out_axes=2

Kernels are in flax layout: the last axes are outputs (HWIO for images).
"""

import dataclasses
import math

from core.errors import ShapeError, describe
from core.types import Array


@dataclasses.dataclass(frozen=True)
class GemmShape:
    """How a kernel of shape `window + (in_features,) + outputs` becomes a matrix.

    Invariants: `rows == prod(window) * in_features`, `cols == prod(outputs)` and
    `rows * cols` is the number of weights.
    """

    window: tuple[int, ...]
    in_features: int
    outputs: tuple[int, ...]

    @property
    def rows(self) -> int:
        """The number of weights that feed one output."""
        return math.prod(self.window) * self.in_features

    @property
    def cols(self) -> int:
        """The number of outputs."""
        return math.prod(self.outputs)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the kernel itself."""
        return (*self.window, self.in_features, *self.outputs)


def gemm_shape(shape: tuple[int, ...], out_axes: int = 1) -> GemmShape:
    """Returns the GEMM view of a kernel of `shape`.

    Args:
      shape: the kernel's shape, outputs last.
      out_axes: how many trailing axes count as outputs.

    Raises:
      ShapeError: a kernel with fewer than two axes, or no input axis left.
    """
    if out_axes < 1 or len(shape) < out_axes + 1:
        raise ShapeError(
            describe(
                f"a kernel of shape {tuple(shape)} with out_axes={out_axes}",
                "at least one input axis before the output axes",
                "Biases and scales have no GEMM view: leave them out of the rules.",
            )
        )
    *window, in_features = shape[: len(shape) - out_axes]
    return GemmShape(tuple(window), in_features, tuple(shape[len(shape) - out_axes :]))


def to_matrix(kernel: Array, out_axes: int = 1) -> Array:
    """Returns `kernel` as a matrix of shape (rows, cols); see the module's table.

    Args:
      kernel: an array in flax layout, any dtype.
      out_axes: how many trailing axes count as outputs.

    Raises:
      ShapeError: as `gemm_shape`.
    """
    view = gemm_shape(kernel.shape, out_axes)
    return kernel.reshape(view.rows, view.cols)


def from_matrix(matrix: Array, shape: tuple[int, ...], out_axes: int = 1) -> Array:
    """Returns the kernel of `shape` whose GEMM view is `matrix`.

    Raises:
      ShapeError: the matrix is not of the view's shape.
    """
    view = gemm_shape(shape, out_axes)
    if matrix.shape != (view.rows, view.cols):
        raise ShapeError(
            describe(
                f"a matrix of shape {matrix.shape}",
                f"({view.rows}, {view.cols}), the GEMM view of a kernel {shape}",
            )
        )
    return matrix.reshape(shape)
