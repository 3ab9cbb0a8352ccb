"""Block column-row weights as a batch of small dense matrices.

The GEMM view W [rows, cols] is cut into blocks, and each keeps some of its inputs
(rows) and some of its outputs (columns). Blocks of one block column add up to the same
outputs, so their inputs are folded into one contraction:

    y[p, :, b] = V[p] @ x[inputs[p], b]        for each block column p

one gather, one batched product and, where outputs are pruned too, one gather back. That
is the form "folded". Where the blocks of a column keep different outputs, they may
stay apart (the form "separate"), with their contributions added up at the end.

Source: arXiv 2108.11033, with the transposed convention of this library: its columns
are our inputs.
"""

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import InputError, check_range, describe
from core.gemm import from_matrix
from core.types import Array, ArrayLike
from gap.packed import moves
from gap.packed.base import check_kept, host_matrix, view_of

Form = Literal["auto", "folded", "separate"]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["values", "inputs", "readers", "outputs", "writers", "keep"],
    meta_fields=["shape", "block"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class PackedBlocks:
    """A kernel as `p` dense matrices of `n_out` x `n_in`.

    Invariants: the kernel's GEMM view is the sum over p, o, i of `values[p, o, i]` at
    (inputs[p, i], outputs[p, o]); no two slots that hold a weight share a place;
    values are 0 where `keep` is False. Integers are int32.

    Attributes:
      values: float [p, n_out, n_in].
      inputs: row of the GEMM view of each column of a matrix, [p, n_in]; None if they
        are all, in order, as where only outputs are pruned.
      readers: `moves.invert` of `inputs`, [r, rows]; None for many readers.
      outputs: column of the GEMM view of each row of a matrix, [p, n_out], `cols` for
        padding; None if they are 0, 1, 2, ... in order.
      writers: `moves.invert` of `outputs`, [r, cols].
      keep: bool [p, n_out, n_in], or None if every slot holds a weight of the mask.
      shape: the kernel's shape.
      block: inputs and outputs of a block.
    """

    values: Array
    inputs: Array | None
    readers: Array | None
    outputs: Array | None
    writers: Array | None
    keep: Array | None
    shape: tuple[int, ...]
    block: tuple[int, int]

    def product(self, x: Array) -> Array:
        """Returns W^T x, see `Packed.product`."""
        values = moves.frozen(self.values, self.keep).astype(x.dtype)
        p, n_out, n_in = values.shape
        batch = x.shape[1]
        if self.inputs is None:
            y = values.reshape(p * n_out, n_in) @ x
        else:
            taken = moves.spread(x, self.inputs.reshape(-1), self.readers)
            y = jnp.einsum("poi,pib->pob", values, taken.reshape(p, n_in, batch))
            y = y.reshape(p * n_out, batch)
        cols = view_of(self).cols
        if self.outputs is None:
            return y[:cols]
        like = jnp.zeros((cols,), bool)
        return moves.collect(y, self.outputs.reshape(-1), self.writers, like)

    def dense(self) -> Array:
        """Returns the kernel with its zeros."""
        view = view_of(self)
        p, n_out, n_in = self.values.shape
        inputs, outputs = self.inputs, self.outputs
        if inputs is None:
            inputs = jnp.arange(n_in, dtype=jnp.int32)[None]
        if outputs is None:
            outputs = jnp.arange(p * n_out, dtype=jnp.int32).reshape(p, n_out)
        values = moves.frozen(self.values, self.keep)
        matrix = jnp.zeros((view.rows, view.cols), self.values.dtype)
        place = inputs[:, None, :], outputs[:, :, None]
        return from_matrix(matrix.at[place].add(values, mode="drop"), self.shape)

    def index_bytes(self) -> int:
        """Returns the bytes of the indices."""
        outputs = 0 if self.writers is None else self.writers.nbytes
        if self.writers is None and self.outputs is not None:
            outputs = self.outputs.nbytes
        return outputs + (0 if self.inputs is None else self.inputs.nbytes)


def pack_blocks(
    w: ArrayLike,
    mask: ArrayLike,
    block: tuple[int, int] = (128, 128),
    *,
    form: Form = "auto",
    order: ArrayLike | None = None,
) -> PackedBlocks:
    """Packs a pruned kernel into dense blocks; on the host, once, after pruning.

    Any mask can be packed. What a block stores is the inputs times the outputs that the
    mask uses anywhere in it, so a mask that is not of BCR form costs zeros: they are
    stored, multiplied and kept at 0. All matrices have one size; smaller ones are
    padded. `packed.values.size` over the mask's count is the price of both.

    Args:
      w: the kernel in flax layout, any floating dtype.
      mask: bool of the same shape.
      block: inputs and outputs of a block; at most the GEMM view's are used.
      form: "folded", "separate" or whichever multiplies less ("auto").
      order: a permutation of the outputs to pack them in, as `reorder` finds; the
        product still has them in their own order.

    Returns:
      A `PackedBlocks` on the default device.

    Raises:
      ShapeError: a mask or an order of another shape, or a kernel of one axis.
      InputError: a mask that is not boolean, a block below 1, an order that is no
        permutation, no such form.

    Example:
      >>> w = np.arange(8, dtype=np.float32).reshape(4, 2)
      >>> packed = pack_blocks(w, np.array([[True] * 2, [False] * 2] * 2), (4, 2))
      >>> packed.values.tolist()
      [[[0.0, 4.0], [1.0, 5.0]]]
      >>> packed.inputs.tolist()
      [[0, 2]]
    """
    kernel = np.asarray(w)
    matrix, kept = host_matrix(kernel, mask)
    for name, given in zip(("inputs", "outputs"), block, strict=True):
        check_range(f"{name} of a block", given, 1)
    rows, cols = matrix.shape
    size = min(block[0], max(rows, 1)), min(block[1], max(cols, 1))
    if form not in ("auto", "folded", "separate"):
        raise InputError(describe(f"form={form!r}", "'auto', 'folded', 'separate'"))
    renamed = None
    if order is not None:
        renamed = check_order(order, cols)
        matrix, kept = matrix[:, renamed], kept[:, renamed]
    used_in, used_out = _used(kept, size)
    down, across = used_in.shape[:2]
    if form == "auto":
        form = _cheaper(used_in, used_out)
    if form == "folded":
        inputs = _listed(used_in.swapaxes(0, 1).reshape(across, -1))
        outputs = _listed(np.asarray(used_out.any(axis=0)), size[1] * np.arange(across))
        if outputs.index.shape[1] == size[1]:  # one is full: all stay, in their order
            every = np.arange(across * size[1]).reshape(across, -1)
            outputs = _Listed(every, every < cols)
    else:
        first_in = size[0] * np.repeat(np.arange(down), across)
        first_out = size[1] * np.tile(np.arange(across), down)
        inputs = _listed(used_in.reshape(down * across, -1), first_in)
        outputs = _listed(used_out.reshape(down * across, -1), first_out)
    values, keep = _fill(matrix, kept, inputs, outputs)
    check_kept(values)
    return PackedBlocks(
        jnp.asarray(values),
        *_sources(inputs, rows),
        *_destinations(outputs, cols, renamed),
        None if keep.all() else jnp.asarray(keep),
        kernel.shape,
        size,
    )


def check_order(order: ArrayLike, cols: int) -> np.ndarray:
    """Returns `order` as integers, or raises `InputError` if it is no permutation."""
    given = np.asarray(order)
    if given.shape != (cols,) or not np.array_equal(np.sort(given), np.arange(cols)):
        raise InputError(
            describe(
                f"an order of shape {given.shape}",
                f"a permutation of the {cols} outputs",
            )
        )
    return given


class _Listed(NamedTuple):
    """Members of p sets in lists of one length.

    Invariants: `index` [p, n] ascends where `valid` [p, n] is True; n >= 1.
    """

    index: np.ndarray
    valid: np.ndarray


def _used(kept: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Which inputs and outputs of each block the mask uses.

    Returns:
      bool [down, across, inputs] and [down, across, outputs] for `down` x `across`
      blocks of `size`.
    """
    rows, cols = kept.shape
    down, across = -(-rows // size[0]), -(-cols // size[1])
    widths = (0, down * size[0] - rows), (0, across * size[1] - cols)
    if any(map(any, widths)):
        kept = np.pad(kept, widths)
    blocks = kept.reshape(down, size[0], across, size[1])
    inputs, outputs = np.asarray(blocks.any(axis=3)), np.asarray(blocks.any(axis=1))
    return inputs.swapaxes(1, 2), outputs


def _listed(flags: np.ndarray, first: np.ndarray | None = None) -> _Listed:
    """The members of each row of bool [p, n], counted from `first` [p]."""
    longest = max(int(flags.sum(axis=1).max(initial=0)), 1)
    index = np.argsort(~flags, axis=1, kind="stable")[:, :longest]
    valid = np.take_along_axis(flags, index, axis=1)
    return _Listed(index if first is None else index + first[:, None], valid)


def _cheaper(used_in: np.ndarray, used_out: np.ndarray) -> Form:
    """The form with fewer multiplications, small products counted dearer.

    The factor is what blocks of 45 x 45 cost against folded ones on CPU.
    """
    separate = used_in.sum(2).max(initial=0) * used_out.sum(2).max(initial=0)
    folded = used_in.sum((0, 2)).max(initial=0) * used_out.any(0).sum(1).max(initial=0)
    return "separate" if 1.3 * used_in.shape[0] * separate < folded else "folded"


def _fill(
    matrix: np.ndarray, kept: np.ndarray, inputs: _Listed, outputs: _Listed
) -> tuple[np.ndarray, np.ndarray]:
    """The values [p, n_out, n_in], and where they are weights of the mask."""
    row = np.minimum(inputs.index, matrix.shape[0] - 1)[:, None, :]
    col = np.minimum(outputs.index, matrix.shape[1] - 1)[:, :, None]
    keep = kept[row, col] & inputs.valid[:, None, :] & outputs.valid[:, :, None]
    return np.where(keep, matrix[row, col], np.zeros((), matrix.dtype)), keep


def _inverse(index: np.ndarray, valid: np.ndarray, size: int) -> Array | None:
    found = moves.invert(np.where(valid, index, -1).ravel(), size)
    return None if found is None else jnp.asarray(found)


def _sources(inputs: _Listed, rows: int) -> tuple[Array | None, Array | None]:
    """`inputs` and `readers` of a `PackedBlocks`."""
    every = inputs.index.shape[1] == rows and inputs.valid.all()
    if every:  # they ascend, so they are 0, 1, 2, ... in each matrix
        return None, None
    index = np.where(inputs.valid, inputs.index, 0).astype(np.int32)
    return jnp.asarray(index), _inverse(inputs.index, inputs.valid, rows)


def _destinations(
    outputs: _Listed, cols: int, renamed: np.ndarray | None
) -> tuple[Array | None, Array | None]:
    """`outputs` and `writers` of a `PackedBlocks`."""
    index = outputs.index
    if renamed is not None:
        index = renamed[np.minimum(index, cols - 1)]
    index = np.where(outputs.valid, index, cols)
    wanted = np.minimum(np.arange(index.size), cols).reshape(index.shape)
    if index.size >= cols and np.array_equal(index, wanted):
        return None, None
    return jnp.asarray(index.astype(np.int32)), _inverse(index, index < cols, cols)
