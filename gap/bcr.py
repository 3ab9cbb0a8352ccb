"""Block column-row layers: `gap.packed` for the masks of `gap.BCR`.

    pattern = gap.BCR(128, 128)
    packed = bcr.pack(w, pattern.mask(jnp.abs(w), count), pattern)
    y = jax.jit(bcr.matmul)(x, packed)          # or layout="feature": W.T @ x

`matmul` takes any packed form; see `gap.packed` for the others.

Source: arXiv 2108.11033.
"""

import numpy as np

from core.errors import InputError, describe
from core.types import ArrayLike
from gap.packed import PackedBlocks as Packed
from gap.packed import (
    PackedGRU,
    conv,
    gru,
    gru_step,
    matmul,
    pack_blocks,
    pack_gru,
    reorder,
    select_block,
    storage_bytes,
    unpack,
    with_values,
)
from gap.packed.blocks import Form
from gap.patterns import BCR, Block, Target

__all__ = [
    "Packed",
    "PackedGRU",
    "conv",
    "gru",
    "gru_step",
    "matmul",
    "pack",
    "pack_gru",
    "reorder",
    "select_block",
    "storage_bytes",
    "unpack",
    "with_values",
]


def pack(
    w: ArrayLike,
    mask: ArrayLike,
    block: BCR | Block | Target | tuple[int, int] | None = None,
    *,
    form: Form = "auto",
    order: ArrayLike | None = None,
) -> Packed:
    """Packs a pruned kernel into the blocks that its mask was made of.

    Args:
      w: the kernel in flax layout, any floating dtype.
      mask: bool of the same shape.
      block: the pattern of the mask, or inputs and outputs of a block. None tries the
        default blocks of `BCR`, and refuses a mask that does not suit them.
      form: as `gap.packed.pack_blocks`.
      order: as `gap.packed.pack_blocks`.

    Raises:
      InputError: no block given, and blocks of the default size store more than twice
        the weights of the mask; or a target of another pattern.
      ShapeError, InputError: as `gap.packed.pack_blocks`.

    Example:
      >>> w = np.arange(1.0, 9.0).reshape(4, 2)
      >>> pattern = BCR(2, 2)
      >>> pack(w, pattern.mask(w, 2), pattern).values.tolist()
      [[[3.0, 7.0], [4.0, 8.0]]]
    """
    if isinstance(block, Target):
        pattern = block.pattern
        if not isinstance(pattern, BCR | Block):
            raise InputError(describe(f"{pattern}", "gap.BCR or gap.Block"))
        block = pattern
    default = BCR()
    size = default if block is None else block
    if isinstance(size, BCR | Block):
        size = size.inputs, size.outputs
    packed = pack_blocks(w, mask, size, form=form, order=order)
    kept = int(np.count_nonzero(np.asarray(mask)))
    if block is None and packed.values.size > 2 * max(kept, 1):
        raise InputError(
            describe(
                f"a mask of {kept} weights that takes {packed.values.size} slots in "
                f"blocks of {default.inputs} x {default.outputs}",
                "the pattern that made the mask",
                "Write bcr.pack(w, mask, pattern), or name a block's inputs and "
                "outputs.",
            )
        )
    return packed
