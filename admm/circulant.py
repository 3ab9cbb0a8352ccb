"""Block-circulant kernels: projection, generators, products by FFT.

A kernel [n_in, n_out] in blocks of k x k has one generator g of k numbers a block,

    kernel[j k + c, i k + r] = g[j, i, (r - c) mod k],

so that y = x @ kernel is, block by block, a sum of circular convolutions,
y_i = irfft(sum_j rfft(x_j) rfft(g_ji)): n_in n_out / k numbers instead of n_in n_out.
Sizes that k does not divide are padded with zeros.

References: CirCNN, arXiv 1708.08917; E-RNN, arXiv 1812.07106.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np

from admm.low_rank import wide
from core.errors import ShapeError, check_range, describe
from core.types import Array


def blocks(size: int, block: int) -> int:
    """Returns how many blocks a side of `size` takes."""
    return -(-size // block)


def _columns(n_in: int, n_out: int, block: int, gates: int) -> tuple[int, int, int]:
    """Returns q, p of each gate, and outputs of each gate.

    Raises:
      InputError: a block or a number of gates below 1.
      ShapeError: outputs that are no multiple of `gates`.
    """
    check_range("block", block, 1)
    check_range("gates", gates, 1)
    if n_out % gates:
        raise ShapeError(describe(f"{n_out} outputs", f"a multiple of {gates} gates"))
    return blocks(n_in, block), blocks(n_out // gates, block), n_out // gates


def generators(kernel: Array, block: int, gates: int = 1) -> Array:
    """Returns the generators of the nearest block-circulant kernel.

    The mean of the existing entries of each wrapped diagonal of each block, which is
    the Euclidean projection (the sets are linear subspaces).

    Args:
      kernel: [..., n_in, n_out]; leading axes, a convolution's window for one, hold a
        matrix each.
      block: k, at least 1.
      gates: how many equal groups the outputs are made of, such as the four gates of a
        fused LSTM kernel; no block reaches across two of them.

    Returns:
      g of [..., ceil(n_in / k), gates ceil(n_out / gates / k), k], of the kernel's
      dtype; 0 on diagonals that lie in the padding.

    Raises:
      ShapeError: fewer than two axes, or outputs that are no multiple of `gates`.
      InputError: a block or a number of gates below 1.
    """
    if kernel.ndim < 2:
        raise ShapeError(describe(f"a kernel of {kernel.shape}", "[..., n_in, n_out]"))
    *lead, n_in, n_out = kernel.shape
    q, p, each = _columns(n_in, n_out, block, gates)
    apart = kernel.reshape(*lead, n_in, gates, each)
    edges = (q * block - n_in, p * block - each)
    pads = [(0, 0)] * len(lead) + [(0, edges[0]), (0, 0), (0, edges[1])]
    parts = jnp.pad(apart, pads).reshape(*lead, q, block, gates * p, block)
    # Entry [c, d] of a block is the column (c + d) mod k of row c, on diagonal d.
    c, d = np.ogrid[:block, :block]
    columns = (c + d) % block
    lines = jnp.moveaxis(parts, -2, -3)[..., c, columns]
    # Distances to one entry: equal entries have exactly their own mean.
    if edges == (0, 0):  # and no mask of the kernel's size in the program
        one = lines[..., :1, :]
        return one[..., 0, :] + (lines - one).mean(-2)
    is_row = np.arange(q * block).reshape(q, 1, block, 1) < n_in
    is_column = np.arange(p * block).reshape(p, block)[:, columns] < each
    exists = is_row & np.tile(is_column, (gates, 1, 1))[None]
    first = exists.argmax(2)[:, :, None]
    outer = (None,) * len(lead)
    index = np.broadcast_to(first, (*lead, *first.shape))
    one = jnp.take_along_axis(lines, jnp.asarray(index), axis=-2)
    away = jnp.where(exists[outer], lines - one, jnp.zeros_like(lines)).sum(-2)
    count = np.maximum(exists.sum(2), 1)[outer]
    return one[..., 0, :] + away / jnp.asarray(count, kernel.dtype)


def expand(g: Array, n_in: int, n_out: int, gates: int = 1) -> Array:
    """Returns the kernel [..., n_in, n_out] of `generators`.

    Raises:
      ShapeError: generators of other sizes.
      InputError: a number of gates below 1.
    """
    q, p, each = _sizes(g.shape[-3:], n_in, n_out, g.shape[-1], gates)
    block = g.shape[-1]
    c, r = np.ogrid[:block, :block]
    parts = jnp.moveaxis(g[..., (r - c) % block], -2, -3)
    padded = parts.reshape(*g.shape[:-3], q * block, gates, p * block)
    return padded[..., :n_in, :, :each].reshape(*g.shape[:-3], n_in, n_out)


def _sizes(
    found: tuple[int, ...], n_in: int, n_out: int, block: int, gates: int
) -> tuple[int, int, int]:
    """Checks that [q, gates p, k] was found; returns as `_columns` does."""
    q, p, each = _columns(n_in, n_out, block, gates)
    if found != (q, gates * p, block):
        given = f"generators or spectra of [q, p, k] = {found}"
        sizes = f"{(q, gates * p, block)} for {n_in} inputs and {n_out} outputs"
        raise ShapeError(describe(given, sizes))
    return q, p, each


def spectra(g: Array) -> Array:
    """Returns rfft(g) with the frequency first, [k // 2 + 1, q, p], complex64 or 128.

    What a network that is not trained any more keeps instead of its generators:
    a product is then one batched matrix product between two transforms.
    """
    return jnp.moveaxis(jnp.fft.rfft(wide(g)), -1, 0)


def matmul(x: Array, g: Array, n_out: int, gates: int = 1) -> Array:
    """Returns x @ expand(g), by FFT.

    Args:
      x: [..., n_in]; half precision is computed in float32.
      g: generators [q, gates p, k] of x's dtype; gradients with respect to them are
        sums over diagonals.
      n_out: outputs.
      gates: as in `generators`.

    Returns:
      [..., n_out] of x's dtype.

    Raises:
      ShapeError: sizes that do not fit.
    """
    _sizes(g.shape, x.shape[-1], n_out, g.shape[-1], gates)
    return spectral_matmul(x, spectra(g), g.shape[-1], n_out, gates)


def spectral_matmul(
    x: Array, s: Array, block: int, n_out: int, gates: int = 1
) -> Array:
    """Returns `matmul(x, g, n_out, gates)` from `s = spectra(g)`.

    One transform for each block of inputs and one back for each block of outputs; the
    sum over blocks is taken between them.

    Args:
      x: [..., n_in].
      s: [k // 2 + 1, q, gates p].
      block: k, which `s` does not tell.
      n_out: outputs.
      gates: as in `generators`.

    Raises:
      ShapeError: sizes that do not fit.
    """
    *lead, n_in = x.shape
    if s.ndim != 3 or s.shape[0] != block // 2 + 1:
        given = f"spectra of {s.shape} for {n_in} inputs"
        wanted = f"[{block // 2 + 1}, q, p] of blocks of {block}"
        raise ShapeError(describe(given, wanted))
    q, p, each = _sizes((*s.shape[1:], block), n_in, n_out, block, gates)
    padded = jnp.pad(wide(x).reshape(-1, n_in), [(0, 0), (0, q * block - n_in)])
    parts = jnp.fft.rfft(padded.reshape(-1, q, block))
    products = jnp.einsum("bqf,fqp->fbp", parts, s, precision="highest")
    y = jnp.fft.irfft(jnp.moveaxis(products, 0, -1), n=block)
    y = y.reshape(-1, gates, p * block)[..., :each]
    return y.reshape(*lead, n_out).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class BlockCirculant:
    """Kernels of circulant blocks, a linear subspace (arXiv 1812.07106, section III).

    The last two axes are inputs and outputs; leading axes, a convolution's window for
    one, hold a matrix each.

    Attributes:
      block: k, the size of a block; 1 is every kernel.
      gates: how many equal groups the outputs are made of, such as the four gates of
        a fused LSTM kernel; no block reaches across two of them.

    Raises:
      InputError: a block or a number of gates below 1.
    """

    block: int
    gates: int = 1
    exact: ClassVar[bool] = True

    def __post_init__(self):
        check_range("block", self.block, 1)
        check_range("gates", self.gates, 1)

    def project(self, w: Array) -> Array:
        """Returns the nearest kernel of circulant blocks.

        Raises:
          ShapeError: as `generators`.
        """
        g = generators(w, self.block, self.gates)
        return expand(g, w.shape[-2], w.shape[-1], self.gates)


class Cost(NamedTuple):
    """What one product of a vector takes; counts.

    Attributes:
      multiplications: real ones; a real FFT of k numbers counts as k log2 k.
      dense: those of the dense kernel.
      weights: numbers stored.
    """

    multiplications: float
    dense: int
    weights: int


def cost(n_in: int, n_out: int, block: int) -> Cost:
    """Returns what x @ kernel takes with circulant blocks.

    4 (k/2 + 1) p q for the products of spectra and (p + q) k log2 k for the transforms:
    the saving levels off as k grows.

    Raises:
      InputError: a block below 1.
    """
    check_range("block", block, 1)
    q, p = blocks(n_in, block), blocks(n_out, block)
    dense = n_in * n_out
    if block == 1:
        return Cost(float(dense), dense, dense)
    products = 4 * (block // 2 + 1) * p * q
    transforms = (p + q) * block * float(np.log2(block))
    return Cost(products + transforms, dense, p * q * block)
