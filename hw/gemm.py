"""Products and convolutions as matrix products."""

import math
from typing import NamedTuple

from graph import Node


class Gemm(NamedTuple):
    """`groups` products of a matrix [m, k] of data with a matrix [k, n] of weights.

    Attributes:
      groups: independent products: batches, or the groups of a convolution.
      m: rows of data: examples times positions.
      k: terms of each sum; of a transposed convolution those on average that meet an
        input and no inserted zero.
      n: columns of weights: outputs of a group.
      window: positions of a convolution's window, 1 of other products; divides k.
      width: of a convolution's output, its last axis; 1 of other products.
    """

    groups: int
    m: int
    k: float
    n: int
    window: float = 1
    width: int = 1

    @property
    def macs(self) -> float:
        """Multiply-accumulates; those with padded zeros count, as in the field."""
        return self.groups * self.m * self.k * self.n


def gemm_of(node: Node, weights: int = 1) -> Gemm:
    """Returns a product's GEMM form.

    Args:
      node: a `dot_general` or a `conv_general_dilated`.
      weights: the operand whose free axes are n, 0 or 1; the kernel of a convolution
        is always the second.
    """
    if node.op == "dot_general":
        (left, right), (batch, batch_right) = node.params["dimension_numbers"]
        shapes = [node.inputs[0].shape, node.inputs[1].shape]
        bound = [{*left, *batch}, {*right, *batch_right}]
        free = [
            math.prod(d for i, d in enumerate(shape) if i not in taken)
            for shape, taken in zip(shapes, bound, strict=True)
        ]
        return Gemm(
            math.prod(shapes[0][i] for i in batch),
            free[1 - weights],
            math.prod(shapes[0][i] for i in left),
            free[weights],
        )
    numbers = node.params["dimension_numbers"]
    groups = node.params["feature_group_count"] * node.params["batch_group_count"]
    out, kernel = node.outputs[0].shape, node.inputs[1].shape
    features = out[numbers.out_spec[1]]
    window = math.prod(kernel[i] for i in numbers.rhs_spec[2:])
    # Between inputs that are spread out stand zeros, which nothing multiplies.
    window = window / math.prod(node.params["lhs_dilation"])
    terms = window * kernel[numbers.rhs_spec[1]]
    positions = math.prod(out) // max(features, 1)
    width = out[numbers.out_spec[-1]] if len(out) > 2 else 1
    return Gemm(groups, positions, terms, features // groups, window, width)
