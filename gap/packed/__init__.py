"""Pruned layers that run from packed weights, inside of `jit`, forwards and backwards.

| name | what |
|------|------|
| `pack(w, mask, pattern)` | the packed form of a pattern's masks |
| `matmul(x, packed)` | `x @ W`, or `W.T @ x` feature-major |
| `conv(x, packed)`, `gru_step`, `gru`, `pack_gru` | layers through it |
| `unpack`, `with_values` | the kernel with zeros; other values |
| `storage_bytes` | bytes of values and indices |
| `pack_blocks`, `PackedBlocks` | BCR, blocks, filters, channels: dense matrices |
| `pack_groups`, `PackedGroups` | N:M, DBB, banks: n of every m |
| `pack_columns`, `PackedColumns` | unstructured: a list of inputs for each output |
| `reorder`, `select_block`, `time_in_turns` | what packs best, what runs best |
| `Packed`, `PackedGRU`, `Order`, `BlockChoice` | types |

Example, a layer of 1/8 of its weights that runs from an eighth of them:

    target = gap.Target(1 / 8, pattern=gap.BCR(128, 128))
    masks = gap.magnitude_masks(params, [("fc1/kernel", target)])
    packed = pack(params["fc1"]["kernel"], masks["fc1"]["kernel"], target)
    y = jax.jit(matmul)(x, packed)                    # packed is an argument
    grads = jax.grad(lambda v: loss(matmul(x, with_values(packed, v))))(packed.values)

What to expect: BCR on CPU runs near the speed of its dense product at 1 / density;
N:M saves bytes only; unstructured lists gain from about 1/8 downwards. Keep activations
feature-major (layout="feature") through a network where you can.

References: arXiv 2108.11033 (BCR), arXiv 2107.07983 (density-bound blocks).
"""

import numpy as np

from core.errors import InputError, describe
from core.types import ArrayLike
from gap.packed.base import Packed, matmul, storage_bytes, unpack, with_values
from gap.packed.blocks import PackedBlocks, pack_blocks
from gap.packed.columns import PackedColumns, pack_columns
from gap.packed.groups import PackedGroups, pack_groups
from gap.packed.layers import PackedGRU, conv, gru, gru_step, pack_gru
from gap.packed.select import BlockChoice, Order, reorder, select_block, time_in_turns
from gap.patterns import (
    BCR,
    DBB,
    NM,
    BankBalanced,
    Block,
    Channel,
    Filter,
    KernelPattern,
    Pattern,
    Shape,
    Target,
    Unstructured,
)

__all__ = [
    "BlockChoice",
    "Order",
    "Packed",
    "PackedBlocks",
    "PackedColumns",
    "PackedGRU",
    "PackedGroups",
    "conv",
    "gru",
    "gru_step",
    "matmul",
    "pack",
    "pack_blocks",
    "pack_columns",
    "pack_groups",
    "pack_gru",
    "reorder",
    "select_block",
    "storage_bytes",
    "time_in_turns",
    "unpack",
    "with_values",
]


def pack(w: ArrayLike, mask: ArrayLike, pattern: Pattern | Target) -> Packed:
    """Packs a pruned kernel in the form of the pattern that made its mask.

    Args:
      w: the kernel in flax layout, any floating dtype.
      mask: bool of the same shape; True is kept.
      pattern: any pattern of this library, or a `Target` with one.

    Returns:
      Blocks for `BCR`, `Block`, `Filter`, `Channel` and `Shape`; groups for `NM` and
      `DBB`; lists for `Unstructured`, `BankBalanced` and `KernelPattern`.

    Raises:
      ShapeError, InputError: as the function of that form.
      InputError: a pattern that is not of this library.

    Example:
      >>> import jax.numpy as jnp
      >>> w = jnp.arange(8.0).reshape(4, 2)
      >>> packed = pack(w, NM(4).mask(w, 1), NM(4))
      >>> matmul(jnp.ones((1, 4)), packed).tolist()
      [[6.0, 7.0]]
    """
    if isinstance(pattern, Target):
        pattern = pattern.pattern
    if isinstance(pattern, BCR | Block):
        return pack_blocks(w, mask, (pattern.inputs, pattern.outputs))
    if isinstance(pattern, Filter | Channel | Shape):  # one block: the whole matrix
        size = max(np.size(mask), 1)
        return pack_blocks(w, mask, (size, size))
    if isinstance(pattern, NM):
        return pack_groups(w, mask, pattern.m, pattern.axis)
    if isinstance(pattern, DBB):
        return pack_groups(w, mask, pattern.block, pattern.axis)
    if isinstance(pattern, Unstructured | BankBalanced | KernelPattern):
        return pack_columns(w, mask)
    raise InputError(
        describe(
            repr(pattern),
            "a pattern of gap.patterns",
            "Call pack_blocks, pack_groups or pack_columns.",
        )
    )
