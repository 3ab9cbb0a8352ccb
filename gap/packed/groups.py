"""N:M and density-bound blocks: so many weights of every m along an axis.

Values and their positions in the group are stored; a product fills the groups in with
compares and selects (no scatter) inside of the program and multiplies densely. So the
form saves memory and bandwidth of the parameters, n / m of them, and no
multiplications: XLA has no sparse product on CPU or TPU and does not use the sparse
tensor cores of a GPU. Hardware that has one reads `values` and `positions` as they are
(arXiv 2107.07983 for density-bound blocks).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import InputError, ShapeError, check_range, describe
from core.gemm import to_matrix
from core.types import Array, ArrayLike
from gap.packed import moves
from gap.packed.base import check_kept, host_matrix


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["values", "positions", "keep"],
    meta_fields=["shape", "m", "axis"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class PackedGroups:
    """A kernel as n of every m consecutive weights along an axis.

    Invariants: the weight at position `positions[..., j, ...]` of a group is
    `values[..., j, ...]`; positions ascend over the slots that hold weights of the
    mask; other slots hold 0, `keep` is False there.

    Attributes:
      values: float of the kernel's shape with `axis` replaced by (groups, n).
      positions: uint8 of the same shape, below m.
      keep: bool of the same shape, or None if every slot holds a weight of the mask.
      shape: the kernel's shape.
      m: length of a group; the last may be shorter.
      axis: along which groups lie, counted from the front.
    """

    values: Array
    positions: Array
    keep: Array | None
    shape: tuple[int, ...]
    m: int
    axis: int

    def product(self, x: Array) -> Array:
        """Returns W^T x, see `Packed.product`."""
        return to_matrix(self.dense().astype(x.dtype)).T @ x

    def dense(self) -> Array:
        """Returns the kernel with its zeros."""
        values = moves.frozen(self.values, self.keep)
        slot = self.axis + 1
        wide = (*values.shape[:slot], self.m, *values.shape[slot + 1 :])
        place = jax.lax.broadcasted_iota(jnp.uint8, wide, slot)
        full = jnp.zeros(wide, values.dtype)
        for j in range(values.shape[slot]):
            value = jax.lax.slice_in_dim(values, j, j + 1, axis=slot)
            at = jax.lax.slice_in_dim(self.positions, j, j + 1, axis=slot)
            full = full + jnp.where(place == at, value, jnp.zeros((), values.dtype))
        flat = (*self.shape[: self.axis], -1, *self.shape[slot:])
        length = self.shape[self.axis]
        return jax.lax.slice_in_dim(full.reshape(flat), 0, length, axis=self.axis)

    def index_bytes(self) -> int:
        """Returns the bytes of the positions, a byte each."""
        return self.positions.nbytes


def pack_groups(
    w: ArrayLike, mask: ArrayLike, m: int, axis: int = -2, count: int | None = None
) -> PackedGroups:
    """Packs a kernel that keeps at most n of every m weights along an axis.

    Args:
      w: the kernel in flax layout, any floating dtype.
      mask: bool of the same shape.
      m: length of a group, at most 256.
      axis: along which groups lie; the input features by default.
      count: n, the slots of a group; the most that the mask keeps in one by default.

    Returns:
      A `PackedGroups` on the default device.

    Raises:
      ShapeError: a mask of another shape, a kernel of one axis or without `axis`.
      InputError: a group in which the mask keeps more than `count`, or an m beyond 256.

    Example:
      >>> w = np.array([[1.0], [2.0], [3.0], [4.0]], np.float32)
      >>> packed = pack_groups(w, w % 2 == 0, m=2)
      >>> packed.values.ravel().tolist(), packed.positions.ravel().tolist()
      ([2.0, 4.0], [1, 1])
    """
    check_range("m", m, 1, 256, remedy="Positions are stored in a byte.")
    kernel = np.asarray(w)
    matrix, kept = host_matrix(kernel, mask)
    kernel, kept = matrix.reshape(kernel.shape), kept.reshape(kernel.shape)
    if not -kernel.ndim <= axis < kernel.ndim:
        wanted = f"one that has an axis {axis}"
        raise ShapeError(describe(f"a kernel of shape {kernel.shape}", wanted))
    axis %= kernel.ndim
    length = kernel.shape[axis]
    groups = -(-length // m)
    widths = [(0, 0)] * kernel.ndim
    widths[axis] = (0, groups * m - length)
    grouped = (*kernel.shape[:axis], groups, m, *kernel.shape[axis + 1 :])
    values = np.pad(kernel, widths).reshape(grouped)
    kept = np.pad(kept, widths).reshape(grouped)
    most = int(kept.sum(axis=axis + 1).max(initial=0))
    if count is not None and most > count:
        raise InputError(
            describe(
                f"a mask with {most} weights in a group of {m}",
                f"at most {count}",
                "Make the mask with gap.NM(m) or gap.DBB(block) and that count.",
            )
        )
    slots = max(most if count is None else count, 1)
    # Positions in groups ascend: a stable sort brings kept ones to the front.
    order = np.argsort(~kept, axis=axis + 1, kind="stable")
    order = np.take(order, np.arange(min(slots, m)), axis=axis + 1)
    keep = np.take_along_axis(kept, order, axis=axis + 1)
    values = np.take_along_axis(values, order, axis=axis + 1)
    values = np.where(keep, values, np.zeros((), values.dtype))
    check_kept(values)
    return PackedGroups(
        jnp.asarray(values),
        jnp.asarray(order.astype(np.uint8)),
        None if keep.all() else jnp.asarray(keep),
        kernel.shape,
        m,
        axis,
    )
