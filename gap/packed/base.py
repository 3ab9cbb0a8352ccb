"""What every packed form has, and the product through any of them."""

import dataclasses
import math
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import InputError, NonFiniteError, ShapeError, describe
from core.gemm import GemmShape, gemm_shape
from core.types import Array, ArrayLike
from gap.packed import moves

Layout = Literal["batch", "feature"]


@runtime_checkable
class Packed(Protocol):
    """A pruned kernel without its zeros: a pytree whose shapes are static.

    `values` are the trainable numbers; all other leaves are integers and booleans that
    say where they belong. Slots that pad a form count as 0 whatever they hold, and get
    no gradient.
    """

    @property
    def values(self) -> Array:
        """The trainable numbers."""
        ...

    @property
    def keep(self) -> Array | None:
        """Which values are weights of the mask, bool; None if all are."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The kernel's shape."""
        ...

    def product(self, x: Array) -> Array:
        """Returns W^T x: float [rows, b] to [cols, b], rows and cols of the GEMM view.

        `b` runs along the last axis, which is what makes gathers cheap.
        """
        ...

    def dense(self) -> Array:
        """Returns the kernel with its zeros, of `shape`."""
        ...

    def index_bytes(self) -> int:
        """Returns the bytes of the indices that a product needs."""
        ...


P = TypeVar("P", bound=Packed)


def view_of(packed: Packed) -> GemmShape:
    """Returns the GEMM view of a packed kernel."""
    return gemm_shape(packed.shape)


def unpack(packed: Packed) -> Array:
    """Returns the kernel with its zeros, an array of `packed.shape`."""
    return packed.dense()


def with_values(packed: P, values: Array) -> P:
    """Returns `packed` with other values, such as those an optimizer has updated.

    `jax.grad` wants floating-point arguments only, so differentiate with respect to
    `packed.values` and put them back with this function inside of the loss. Slots that
    pad the form become 0 again.

    Raises:
      ShapeError: values of another shape.
    """
    if jnp.shape(values) != jnp.shape(packed.values):
        raise ShapeError(
            describe(
                f"values of shape {jnp.shape(values)}",
                f"{jnp.shape(packed.values)}, those of the packed weight",
            )
        )
    values = moves.frozen(jnp.asarray(values), packed.keep)
    return dataclasses.replace(packed, values=values)  # type: ignore[type-var]


def matmul(x: Array, packed: Packed, layout: Layout = "batch") -> Array:
    """Returns the product of activations with a packed kernel.

    With layout "batch" it is `x @ W`, with "feature" `W.T @ x`, where W is the GEMM
    view of the kernel. Every form computes with features on the first axis and the
    batch on the last; a network that keeps its activations so saves two transpositions
    a layer. Under `jit` give `packed` as an argument: what a function closes over
    becomes a constant, which XLA folds at compile time.

    Args:
      x: float [..., rows] with layout "batch", [rows, ...] with "feature".
      packed: any packed form of a kernel whose GEMM view is [rows, cols].
      layout: where the features are.

    Returns:
      float [..., cols] or [cols, ...] of the dtype of `x`; differentiable in `x` and in
      `packed.values` in reverse mode, forwards from packed weights and backwards too;
      `moves` says which derivatives there are beyond that.

    Raises:
      ShapeError: `x` has not the rows of the kernel.
      InputError: no such layout.
    """
    rows = view_of(packed).rows
    if layout not in ("batch", "feature"):
        raise InputError(describe(f"layout={layout!r}", "'batch' or 'feature'"))
    axis = -1 if layout == "batch" else 0
    if jnp.ndim(x) == 0 or x.shape[axis] != rows:
        raise ShapeError(
            describe(
                f"x of shape {jnp.shape(x)} with layout {layout!r}",
                f"{rows} features on the {'last' if axis else 'first'} axis",
            )
        )
    if layout == "batch":
        rest = x.shape[:-1]
        y = packed.product(x.reshape(math.prod(rest), rows).T)
        return y.T.reshape(*rest, y.shape[0])
    rest = x.shape[1:]
    y = packed.product(x.reshape(rows, math.prod(rest)))
    return y.reshape(y.shape[0], *rest)


def storage_bytes(tree: Any) -> int:
    """Returns the bytes of values and indices of packed weights and arrays.

    Counted is what a product needs, with indices of 32 bits (8 bits for the positions
    in small groups). What only gradients need is derived from it and left out.

    Args:
      tree: a pytree of packed weights and arrays.
    """
    leaves = jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, Packed))
    return sum(
        leaf.values.nbytes + leaf.index_bytes()
        if isinstance(leaf, Packed)
        else leaf.nbytes
        for leaf in leaves
    )


def host_matrix(w: ArrayLike, mask: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns a kernel and its mask as matrices [rows, cols] on the host.

    Raises:
      ShapeError: shapes that differ, or without a GEMM view.
      InputError: a mask that is not boolean.
    """
    kernel, keep = np.asarray(w), np.asarray(mask)
    if kernel.shape != keep.shape:
        raise ShapeError(
            describe(f"a mask of shape {keep.shape}", f"{kernel.shape}, its weight's")
        )
    if keep.dtype != bool:
        raise InputError(describe(f"a mask of dtype {keep.dtype}", "bool"))
    view = gemm_shape(kernel.shape)
    return kernel.reshape(view.rows, view.cols), keep.reshape(view.rows, view.cols)


def check_kept(values: np.ndarray) -> None:
    """Raises `NonFiniteError` if a kept weight is NaN or infinite; on the host."""
    if not np.isfinite(values).all():
        raise NonFiniteError(
            describe("kept weights with NaN or infinity", "finite numbers")
        )
