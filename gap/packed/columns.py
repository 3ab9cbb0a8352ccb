"""Unstructured weights: every output with a list of its own inputs.

Compressed columns, padded to the longest (ELLPACK), since shapes must be static. The
product adds one slot of all outputs at a time: a gather of rows and a fused
multiply-add, as wide as the batch. It reads no zeros, but does two operations where a
dense product of the same weight does many in registers: on CPU it gains over dense from
a density of about 1/8 downwards. The form is there to be compared with.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from core.gemm import from_matrix
from core.types import Array, ArrayLike
from gap.packed import moves
from gap.packed.base import check_kept, host_matrix, view_of

_UNROLL = 16  # slots per step of the loop over slots


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["values", "inputs", "keep"],
    meta_fields=["shape"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class PackedColumns:
    """A kernel as lists of weights, one for each output.

    Invariants: the kernel's GEMM view is the sum over s of `values[s, o]` at
    (inputs[s, o], o); values are 0 where `keep` is False.

    Attributes:
      values: float [slots, cols].
      inputs: int32 [slots, cols], rows of the GEMM view.
      keep: bool [slots, cols], or None if all lists are equally long.
      shape: the kernel's shape.
    """

    values: Array
    inputs: Array
    keep: Array | None
    shape: tuple[int, ...]

    def product(self, x: Array) -> Array:
        """Returns W^T x, see `Packed.product`."""
        values = moves.frozen(self.values, self.keep).astype(x.dtype)
        return _product(values, self.inputs, x)

    def dense(self) -> Array:
        """Returns the kernel with its zeros."""
        view = view_of(self)
        values = moves.frozen(self.values, self.keep)
        col = jnp.arange(view.cols, dtype=jnp.int32)[None, :]
        matrix = jnp.zeros((view.rows, view.cols), values.dtype)
        return from_matrix(matrix.at[self.inputs, col].add(values), self.shape)

    def index_bytes(self) -> int:
        """Returns the bytes of the indices."""
        return self.inputs.nbytes


@jax.custom_vjp
def _product(values: Array, inputs: Array, x: Array) -> Array:
    """The sum over s of `values[s, :, None] * x[inputs[s]]`, float [cols, b]."""
    return _sum_slots(values, inputs, x)


def _sum_slots(values: Array, inputs: Array, x: Array) -> Array:
    slots, cols = values.shape
    batch = x.shape[1]

    def add(total: Array, slot: tuple[Array, Array]) -> tuple[Array, None]:
        taken = jnp.take(x, slot[1], axis=0, mode="clip")
        return total + slot[0][:, None] * taken, None

    zeros = jnp.zeros((cols, batch), x.dtype)
    unroll = 1 if batch == 1 else min(_UNROLL, slots)
    return jax.lax.scan(add, zeros, (values, inputs), unroll=unroll)[0]


def _forward(values: Array, inputs: Array, x: Array):
    return _sum_slots(values, inputs, x), (values, inputs, x)


def _backward(saved: tuple[Array, Array, Array], gradient: Array):
    values, inputs, x = saved

    # A slot at a time, as forwards: all at once would be slots * cols * b numbers.
    def back(total: Array, slot: tuple[Array, Array]) -> tuple[Array, Array]:
        taken = jnp.take(x, slot[1], axis=0, mode="clip")
        total = total.at[slot[1]].add(slot[0][:, None] * gradient)
        return total, jnp.sum(taken * gradient, axis=1)

    d_x, d_values = jax.lax.scan(back, jnp.zeros_like(x), (values, inputs))
    return d_values, None, d_x


_product.defvjp(_forward, _backward)


def pack_columns(w: ArrayLike, mask: ArrayLike) -> PackedColumns:
    """Packs any mask as one list of inputs for each output.

    Args:
      w: the kernel in flax layout, any floating dtype.
      mask: bool of the same shape.

    Returns:
      A `PackedColumns` on the default device, padded to the longest list.

    Raises:
      ShapeError: a mask of another shape, or a kernel of one axis.
      InputError: a mask that is not boolean.

    Example:
      >>> w = np.array([[1.0, 2.0], [0.0, 4.0]], np.float32)
      >>> pack_columns(w, w > 0).values.tolist()
      [[1.0, 2.0], [0.0, 4.0]]
    """
    kernel = np.asarray(w)
    matrix, kept = host_matrix(kernel, mask)
    counts = kept.sum(axis=0)
    slots = max(int(counts.max(initial=0)), 1)
    col, row = np.nonzero(kept.T)  # ascending inputs within ascending outputs
    slot = np.arange(col.size) - np.repeat(np.cumsum(counts) - counts, counts)
    values = np.zeros((slots, matrix.shape[1]), matrix.dtype)
    inputs = np.zeros(values.shape, np.int32)
    values[slot, col] = matrix[row, col]
    inputs[slot, col] = row
    check_kept(values)
    keep = np.arange(slots)[:, None] < counts
    return PackedColumns(
        jnp.asarray(values),
        jnp.asarray(inputs),
        None if keep.all() else jnp.asarray(keep),
        kernel.shape,
    )
