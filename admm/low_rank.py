"""Low rank: kernels as matrices, truncation by rank or energy, factors.

A kernel is one matrix A, or several, by a scheme (arXiv 1812.02402, section 3):

    channel   [kh kw C, N]       then a convolution to r channels and one of 1 x 1
    spatial   [kh C, kw N]       a convolution of kh x 1, then one of 1 x kw
    decouple  [N: kh kw, C]      for every filter; pointwise, then depthwise

for kernels [kh, kw, C, N]; a dense kernel [n_in, n_out] is its own matrix by every
scheme. Spectra are those of the Gram matrix of the shorter side, which costs a small
part of a singular value decomposition; small singular values are noise
(`numerical_rank`).
"""

import abc
import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from core.errors import ShapeError, check_range, describe, unknown_name
from core.types import Array

Scheme = Literal["channel", "spatial", "decouple"]
SCHEMES = ("channel", "spatial", "decouple")
product = functools.partial(jnp.matmul, precision="highest")
"""Matrices as they are: a product in TF32 or bfloat16 has full rank."""


class Spectrum(NamedTuple):
    """The shorter side's singular vectors of a matrix [n, m], r = min(n, m).

    Invariants: `values` [r] fall and are not negative; the columns of `vectors` are
    orthonormal, left ones [n, r] if n <= m and right ones [m, r] otherwise.
    """

    vectors: Array
    values: Array


def check_scheme(scheme: str) -> None:
    """Raises `UnknownNameError` unless there is such a scheme."""
    if scheme not in SCHEMES:
        raise unknown_name("scheme", scheme, SCHEMES)


def matricize(kernel: Array, scheme: Scheme) -> Array:
    """Returns the matrix of a kernel, or its matrices [N, kh kw, C].

    Args:
      kernel: [n_in, n_out] or [kh, kw, C, N].
      scheme: "channel", "spatial" or "decouple"; the same for dense kernels.

    Raises:
      UnknownNameError: no such scheme.
      ShapeError: neither two nor four axes.
    """
    check_scheme(scheme)
    if kernel.ndim == 2:
        return kernel
    if kernel.ndim != 4:
        wanted = "[n_in, n_out] or [kh, kw, C, N]"
        raise ShapeError(describe(f"a kernel of {kernel.shape}", wanted))
    high, wide, channels, filters = kernel.shape
    if scheme == "channel":
        return kernel.reshape(-1, filters)
    if scheme == "spatial":
        return kernel.transpose(0, 2, 1, 3).reshape(high * channels, wide * filters)
    return kernel.transpose(3, 0, 1, 2).reshape(filters, high * wide, channels)


def restore(matrix: Array, shape: tuple[int, ...], scheme: Scheme) -> Array:
    """Returns the kernel of `shape` that `matricize` makes `matrix` of."""
    if len(shape) == 2:
        return matrix
    high, wide, channels, filters = shape
    if scheme == "channel":
        return matrix.reshape(shape)
    if scheme == "spatial":
        parts = matrix.reshape(high, channels, wide, filters)
        return parts.transpose(0, 2, 1, 3)
    return matrix.reshape(filters, high, wide, channels).transpose(1, 2, 3, 0)


def spectrum(matrix: Array) -> Spectrum:
    """Returns the spectrum of a matrix [n, m], by its Gram matrix.

    A constant in derivatives: those of a decomposition are infinite where singular
    values meet.
    """
    matrix = jax.lax.stop_gradient(matrix)
    short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    squares, vectors = jnp.linalg.eigh(product(short, short.T))
    return Spectrum(vectors[:, ::-1], jnp.sqrt(jnp.maximum(squares[::-1], 0)))


def rank_by_energy(values: Array, loss: float) -> Array:
    """Returns the least k with sum_{j <= k} s_j^2 >= (1 - loss) sum_j s_j^2.

    Args:
      values: singular values [r], falling.
      loss: the share of energy (of squares) given up, in [0, 1].

    Returns:
      int32 [], from 1 to r.
    """
    energy = jnp.cumsum(values**2)
    # Both from the same sum: the last one is the whole, whatever was rounded.
    short = energy < (1 - loss) * energy[-1]
    rank = jnp.sum(short, dtype=jnp.int32) + 1
    return jnp.minimum(rank, values.size)


def numerical_rank(values: Array) -> Array:
    """Returns how many singular values are no noise, int32 [], 0 of a zero matrix.

    Noise is what is at most sqrt(r eps) of the largest of r: the Gram matrix has their
    squares.
    """
    least = jnp.sqrt(values.size * jnp.finfo(values.dtype).eps) * values[0]
    return jnp.sum(values > least, dtype=jnp.int32)


def truncate(matrix: Array, found: Spectrum, rank: int | Array) -> Array:
    """Returns the nearest matrix of a rank: U_k U_k^T A, or A V_k V_k^T.

    Args:
      matrix: [n, m].
      found: its spectrum.
      rank: k; an int32 [] needs no new program for another rank.
    """
    kept = _kept(found, rank)
    return _mapped(matrix, kept, kept)


def _mapped(matrix: Array, left: Array, right: Array) -> Array:
    """L R^T A, or A L R^T where A is tall."""
    if matrix.shape[0] <= matrix.shape[1]:
        return product(left, product(right.T, matrix))
    return product(product(matrix, left), right.T)


def _kept(found: Spectrum, rank: int | Array) -> Array:
    is_kept = jnp.arange(found.values.size, dtype=jnp.int32) < rank
    return jnp.where(is_kept[None], found.vectors, jnp.zeros_like(found.vectors))


def nuclear_subgradient(matrix: Array, found: Spectrum, rank: int | Array) -> Array:
    """Returns U_k V_k^T, a sub-gradient of the nuclear norm at the truncated matrix.

    Directions whose singular value is noise are left out.

    Args:
      matrix: [n, m].
      found: its spectrum.
      rank: k.
    """
    kept = _kept(found, jnp.minimum(rank, numerical_rank(found.values)))
    scaled = kept / jnp.where(found.values > 0, found.values, 1)[None]
    return _mapped(matrix, scaled, kept)


def wide(kernel: Array) -> Array:
    """Returns a kernel in float32 at least: half precision has no decomposition."""
    kernel = jnp.asarray(kernel)
    return kernel if kernel.dtype.itemsize >= 4 else kernel.astype(jnp.float32)


class Truncated(NamedTuple):
    """A kernel of low rank.

    Attributes:
      kernel: the nearest one, of the shape given.
      rank: of its matrix, int32 []; of several the largest.
      subgradient: of the nuclear norm there, of the kernel's shape.
    """

    kernel: Array
    rank: Array
    subgradient: Array


class Truncation(abc.ABC):
    """What replaces a kernel by one of low rank: a rule of `admm.trp`."""

    scheme: Scheme

    @abc.abstractmethod
    def _rank(self, values: Array) -> Array:
        """The rank of one matrix, from its singular values, int32 []."""

    def truncate(self, w: Array) -> Truncated:
        """Returns the truncated kernel with its rank and sub-gradient.

        bfloat16 and float16 are computed in float32. The matrices of a "decouple"
        scheme have one rank together: the largest that one of them asks for.

        Raises:
          ShapeError: a kernel with neither two nor four axes.
        """
        matrices = matricize(wide(w), self.scheme)
        single = matrices.ndim == 2
        each = matrices[None] if single else matrices
        found = jax.vmap(spectrum)(each)
        rank = jax.vmap(self._rank)(found.values).max()
        rank = jnp.minimum(rank, found.values.shape[-1])
        parts = jax.vmap(truncate, (0, 0, None))(each, found, rank)
        slopes = jax.vmap(nuclear_subgradient, (0, 0, None))(each, found, rank)

        def whole(matrices: Array) -> Array:
            matrix = matrices[0] if single else matrices
            return restore(matrix, w.shape, self.scheme).astype(w.dtype)

        return Truncated(whole(parts), rank, whole(slopes))


@dataclasses.dataclass(frozen=True)
class LowRank(Truncation):
    """Kernels of low rank: the truncated singular value decomposition.

    The Euclidean projection (Eckart and Young).

    Attributes:
      rank: the largest rank, at least 1.
      scheme: how a kernel is a matrix.

    Raises:
      InputError: a rank below 1.
      UnknownNameError: no such scheme.
    """

    rank: int
    scheme: Scheme = "channel"

    def __post_init__(self):
        check_range("rank", self.rank, 1)
        check_scheme(self.scheme)

    def _rank(self, values: Array) -> Array:
        del values
        return jnp.int32(self.rank)

    def project(self, w: Array) -> Array:
        """Returns the truncated kernel."""
        return self.truncate(w).kernel


@dataclasses.dataclass(frozen=True)
class EnergyLoss(Truncation):
    """Truncation to the least rank that keeps a share of a kernel's energy.

    The operator of trained rank pruning (arXiv 1812.02402). It is no set: the rank
    follows from the kernel, and truncating again may lose as much again. `at(w)` is the
    set of the rank that it finds.

    Attributes:
      loss: the share of squared singular values to give up, in [0, 1].
      scheme: how a kernel is a matrix.

    Raises:
      InputError: a loss out of range.
      UnknownNameError: no such scheme.
    """

    loss: float
    scheme: Scheme = "channel"

    def __post_init__(self):
        check_range("loss", self.loss, 0.0, 1.0)
        check_scheme(self.scheme)

    def _rank(self, values: Array) -> Array:
        return rank_by_energy(values, self.loss)

    def at(self, w: Array) -> LowRank:
        """Returns the set of the rank that keeps the energy of `w`; on the host."""
        return LowRank(int(self.truncate(w).rank), self.scheme)
