"""The patterns that are compared, each with the form it runs from."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gap
from core.errors import unknown_name
from core.types import Array, ArrayLike
from gap import packed


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["values"], meta_fields=["shape"]
)
@dataclasses.dataclass(frozen=True, eq=False)
class Whole:
    """A dense matrix in the interface of packed forms, stored [cols, rows].

    So the dense network runs through the same code, feature-major too.
    """

    values: Array
    shape: tuple[int, ...]

    @property
    def keep(self) -> None:
        """Returns `None`: all values are weights."""
        return None

    def product(self, x: Array) -> Array:
        """Returns W^T x."""
        return self.values @ x

    def dense(self) -> Array:
        """Returns the kernel."""
        return self.values.T.reshape(self.shape)

    def index_bytes(self) -> int:
        """Returns 0."""
        return 0


def pack_whole(w: ArrayLike, mask: ArrayLike) -> Whole:
    """Returns the masked kernel, dense."""
    kept = np.where(np.asarray(mask), np.asarray(w), np.float32(0))
    matrix = kept.reshape(math.prod(kept.shape[:-1]), kept.shape[-1])
    return Whole(jnp.asarray(np.ascontiguousarray(matrix.T)), kept.shape)


def pack_scipy(w: ArrayLike, mask: ArrayLike) -> Any:
    """Returns W^T in scipy's CSR format, a numpy matrix where everything is kept.

    `form @ x` is the product with x [rows, b]; `Network.run_scipy` runs on such forms.
    """
    from scipy import sparse

    matrix = np.asarray(pack_whole(w, mask).values)
    return matrix if np.all(np.asarray(mask)) else sparse.csr_matrix(matrix)


TITLES = {
    "dense": "dense",
    "unstructured": "unstructured",
    "scipy": "unstructured in scipy's CSR",
    "bcr": "BCR",
    "bcr_inputs": "BCR of inputs",
    "filter": "filter",
    "compact": "filter, compact",
}


def pattern_of(method: str, block: int) -> gap.Pattern:
    """Returns the pattern of a method.

    Args:
      method: "unstructured", "bcr" (as many inputs as outputs of a block are kept),
        "bcr_inputs" (all outputs are kept) or "filter".
      block: inputs and outputs of a block of the two BCR.

    Raises:
      UnknownNameError: no such method.
    """
    patterns: dict[str, Callable[[], gap.Pattern]] = {
        "unstructured": gap.Unstructured,
        "bcr": lambda: gap.BCR(block, block, split=0.5),
        "bcr_inputs": lambda: gap.BCR(block, block),
        "filter": gap.Filter,
    }
    if method not in patterns:
        raise unknown_name("method", method, patterns)
    return patterns[method]()


def packer(method: str, block: int) -> Callable[[ArrayLike, ArrayLike], packed.Packed]:
    """Returns the function that packs a kernel and its mask for a method."""
    if method == "dense":
        return pack_whole
    return lambda w, mask: packed.pack(w, mask, pattern_of(method, block))


def block_of(method: str, block: int) -> int:
    """Returns `block` for methods that have blocks, otherwise 0."""
    return block if method.startswith("bcr") else 0
