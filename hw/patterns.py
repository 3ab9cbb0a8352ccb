"""Sparsity patterns as hardware sees them: names, and the bits of their indices."""

import jax.numpy as jnp
import numpy as np

from core.errors import unknown_name
from core.types import Array, ArrayLike

PATTERNS = ("dense", "unstructured", "kernel", "block", "group", "filter")
"""Every weight; those of a list; one of 8 shapes of a 3x3 kernel (`gap`'s
KernelPattern); rows and columns of blocks (BCR, Block); at most so many of every 8
(DBB, NM, BankBalanced); whole outputs or inputs (Filter, Channel, Shape)."""

_INDEX = {
    "dense": (0.0, 0.0),
    "unstructured": (0.0, 8.0),  # a relative index of 8 bits a kept weight
    "kernel": (4 / 9, 0.0),  # 4 bits name the shape of each 3x3 kernel
    "block": (24 / 128, 0.0),  # a bit for each row and column of a block of 8 x 16
    "group": (1.0, 0.0),  # a bit for each position
    "filter": (0.0, 0.0),
}
"""Bits of indices for each position and for each kept weight (arXiv 2106.09166 and
2107.07983 for the formats; the widths are our choice)."""
_TABLE = np.array([_INDEX[name] for name in PATTERNS], np.float32)


def code(name: str) -> int:
    """Returns the index of a pattern in `PATTERNS`.

    Raises:
      UnknownNameError: no such pattern.
    """
    if name not in PATTERNS:
        raise unknown_name("pattern", str(name), PATTERNS)
    return PATTERNS.index(name)


def index_bits(pattern: Array, density: Array) -> Array:
    """Returns the bits of indices for each position of a kernel; linear in density.

    Args:
      pattern: int32 [rows], indices in `PATTERNS`.
      density: kept share, float [rows].
    """
    return select(pattern, _TABLE[:, 0]) + select(pattern, _TABLE[:, 1]) * density


def select(pattern: Array, values: ArrayLike) -> Array:
    """Returns `values[pattern]` without a gather: float [rows].

    Args:
      pattern: int32 [rows], indices in `PATTERNS`.
      values: float [len(PATTERNS)].
    """
    table = jnp.asarray(values)
    parts = [
        (pattern == i).astype(table.dtype) * table[i] for i in range(len(PATTERNS))
    ]
    return jnp.sum(jnp.stack(parts), axis=0)
