"""Block-circulant kernels: projection, generators, products by FFT.

A kernel [n_in, n_out] in blocks of k x k has one generator g of k numbers a block,

    kernel[j k + c, i k + r] = g[j, i, (r - c) mod k],

so that y = x @ kernel is, block by block, a sum of circular convolutions,
y_i = irfft(sum_j rfft(x_j) rfft(g_ji)): n_in n_out / k numbers instead of n_in n_out.
Sizes that k does not divide are padded with zeros.

References: CirCNN, arXiv 1708.08917; E-RNN, arXiv 1812.07106.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from core.errors import ShapeError, check_range, describe
from core.types import Array


class _Layout(NamedTuple):
    """Where the entries of a padded kernel are; numpy, static under `jit`.

    Attributes:
      rows: entry [c, d] is the column (c + d) mod k of row c on diagonal d.
      exists: whether that entry is one of the kernel, [q, p, c, d].
      first: the first row of each diagonal that exists, 0 if none, [q, p, 1, d].
    """

    rows: np.ndarray
    exists: np.ndarray
    first: np.ndarray


@functools.lru_cache(maxsize=64)
def _layout(n_in: int, n_out: int, block: int) -> _Layout:
    c, d = np.ogrid[:block, :block]
    rows = (c + d) % block
    q, p = blocks(n_in, block), blocks(n_out, block)
    is_row = np.arange(q * block).reshape(q, 1, block, 1) < n_in
    is_column = np.arange(p * block).reshape(p, block)[:, rows] < n_out
    exists = is_row & is_column[None]
    return _Layout(rows, exists, exists.argmax(2)[:, :, None])


def blocks(size: int, block: int) -> int:
    """Returns how many blocks a side of `size` takes."""
    return -(-size // block)


def _checked(shape: tuple[int, ...], block: int) -> None:
    check_range("block", block, 1)
    if len(shape) < 2:
        raise ShapeError(describe(f"a kernel of {shape}", "[..., n_in, n_out]"))


def generators(kernel: Array, block: int) -> Array:
    """Returns the generators of the nearest block-circulant kernel.

    The mean of the existing entries of each wrapped diagonal of each block, which is
    the Euclidean projection (the sets are linear subspaces).

    Args:
      kernel: [..., n_in, n_out]; leading axes, a convolution's window for one, hold a
        matrix each.
      block: k, at least 1.

    Returns:
      g of [..., ceil(n_in / k), ceil(n_out / k), k], of the kernel's dtype; 0 on
      diagonals that lie in the padding.

    Raises:
      ShapeError: fewer than two axes.
      InputError: a block below 1.
    """
    _checked(kernel.shape, block)
    *lead, n_in, n_out = kernel.shape
    found = _layout(n_in, n_out, block)
    q, p = found.exists.shape[:2]
    pads = [(0, 0)] * len(lead) + [(0, q * block - n_in), (0, p * block - n_out)]
    parts = jnp.pad(kernel, pads).reshape(*lead, q, block, p, block)
    parts = jnp.moveaxis(parts, -2, -3)
    lines = parts[..., np.arange(block)[:, None], found.rows]
    # Distances to one entry: equal entries have exactly their own mean.
    index = np.broadcast_to(found.first, (*lead, *found.first.shape))
    one = jnp.take_along_axis(lines, jnp.asarray(index), axis=-2)
    exists = np.broadcast_to(found.exists, lines.shape)
    apart = jnp.where(exists, lines - one, jnp.zeros_like(lines)).sum(-2)
    count = np.maximum(exists.sum(-2), 1)
    return one[..., 0, :] + apart / jnp.asarray(count, kernel.dtype)


def expand(g: Array, n_in: int, n_out: int) -> Array:
    """Returns the kernel [..., n_in, n_out] of generators [..., q, p, k].

    Raises:
      ShapeError: the sizes do not need q and p blocks.
    """
    q, p, block = _sizes(g, n_in, n_out)
    c, r = np.ogrid[:block, :block]
    parts = jnp.moveaxis(g[..., (r - c) % block], -2, -3)
    padded = parts.reshape(*g.shape[:-3], q * block, p * block)
    return padded[..., :n_in, :n_out]


def _sizes(g: Array, n_in: int, n_out: int) -> tuple[int, int, int]:
    q, p, block = g.shape[-3:]
    if (blocks(n_in, block), blocks(n_out, block)) != (q, p):
        wanted = f"[{blocks(n_in, block)}, {blocks(n_out, block)}, {block}]"
        given = f"generators of {g.shape} for {n_in} inputs and {n_out} outputs"
        raise ShapeError(describe(given, wanted))
    return q, p, block


def spectra(g: Array) -> Array:
    """Returns rfft(g) with the frequency first, [k // 2 + 1, q, p], complex.

    What a network that is not trained any more keeps instead of its generators:
    a product is then one batched matrix product between two transforms.
    """
    return jnp.moveaxis(jnp.fft.rfft(g), -1, 0)


def matmul(x: Array, g: Array, n_out: int) -> Array:
    """Returns x @ expand(g), by FFT.

    Args:
      x: [..., n_in], float32 or float64.
      g: generators [q, p, k] of x's dtype; gradients with respect to them are sums
        over diagonals.
      n_out: outputs.

    Returns:
      [..., n_out].

    Raises:
      ShapeError: sizes that do not fit.
    """
    _sizes(g, x.shape[-1], n_out)
    return spectral_matmul(x, spectra(g), g.shape[-1], n_out)


def spectral_matmul(x: Array, s: Array, block: int, n_out: int) -> Array:
    """Returns `matmul(x, g, n_out)` from `s = spectra(g)`.

    One transform for each block of inputs and one back for each block of outputs; the
    sum over blocks is taken between them.

    Args:
      x: [..., n_in].
      s: [k // 2 + 1, q, p].
      block: k, which `s` does not tell.
      n_out: outputs.

    Raises:
      ShapeError: sizes that do not fit.
    """
    bins, q, p = s.shape
    *lead, n_in = x.shape
    wanted = (block // 2 + 1, blocks(n_in, block), blocks(n_out, block))
    if wanted != (bins, q, p):
        given = f"spectra of {s.shape} for {n_in} inputs, {n_out} outputs"
        raise ShapeError(describe(f"{given}, blocks of {block}", str(wanted)))
    padded = jnp.pad(x.reshape(-1, n_in), [(0, 0), (0, q * block - n_in)])
    parts = jnp.fft.rfft(padded.reshape(-1, q, block))
    products = jnp.einsum("bqf,fqp->fbp", parts, s)
    y = jnp.fft.irfft(jnp.moveaxis(products, 0, -1), n=block)
    return y.reshape(-1, p * block)[:, :n_out].reshape(*lead, n_out)


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

    def __post_init__(self):
        check_range("block", self.block, 1)
        check_range("gates", self.gates, 1)

    def generators(self, w: Array) -> Array:
        """Returns the generators [..., gates, q, p, k] of the nearest point.

        Raises:
          ShapeError: outputs that are no multiple of `gates`.
        """
        if w.ndim < 2 or w.shape[-1] % self.gates:
            wanted = f"[..., n_in, n_out], n_out a multiple of {self.gates} gates"
            raise ShapeError(describe(f"a kernel of {w.shape}", wanted))
        apart = w.reshape(*w.shape[:-1], self.gates, -1)
        return generators(jnp.moveaxis(apart, -2, -3), self.block)

    def expand(self, g: Array, n_in: int, n_out: int) -> Array:
        """Returns the kernel [..., n_in, n_out] of `generators`."""
        parts = expand(g, n_in, n_out // self.gates)
        return jnp.moveaxis(parts, -3, -2).reshape(*g.shape[:-4], n_in, n_out)

    def project(self, w: Array) -> Array:
        """Returns the nearest kernel of circulant blocks."""
        return self.expand(self.generators(w), *w.shape[-2:])


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
