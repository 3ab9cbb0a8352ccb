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


def by_name(**values: float) -> np.ndarray:
    """Returns float32 [len(PATTERNS)]: a number for each, 0 for what is not named."""
    return np.array([values.get(name, 0.0) for name in PATTERNS], np.float32)


def time_share(density: Array, kept: ArrayLike) -> Array:
    """Returns the share of a dense product's time that a pruned one takes.

    min(1, density / kept) with the corner rounded (2106.09166): zeros pay once there
    are enough of them. It is exactly 1 at density 1 and where `kept` is 0, and
    exactly the density where `kept` is 1.

    Args:
      density: kept share of the weights, [rows].
      kept: share of the ideal gain that a target keeps, in [0, 1].
    """
    share = jnp.maximum(jnp.asarray(kept, density.dtype), 1e-6)
    reached = density / share
    width = jnp.clip(1.0 / share - 1.0, 1e-6, 0.1)
    near = jnp.maximum(width - jnp.abs(1.0 - reached), 0.0) / width
    return jnp.minimum(reached, 1.0) - near * near * width / 4.0


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
