"""Block column-row layers: `gap.packed` for the masks of `gap.BCR`.

    mask = gap.BCR(128, 128).mask(jnp.abs(w), count)
    packed = bcr.pack(w, mask, (128, 128))
    y = jax.jit(bcr.matmul)(x, packed)          # or layout="feature": W.T @ x

`pack` takes any mask and `matmul` any packed form; see `gap.packed` for the others.

Source: arXiv 2108.11033.
"""

from gap.packed import PackedBlocks as Packed
from gap.packed import (
    PackedGRU,
    conv,
    gru,
    gru_step,
    matmul,
    pack_gru,
    reorder,
    select_block,
    storage_bytes,
    unpack,
    with_values,
)
from gap.packed import pack_blocks as pack

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
