"""Kernel patterns and connectivity: few forms of kernel, and kernels pruned whole."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import InputError, ShapeError, describe
from core.gemm import GemmShape, gemm_shape
from core.types import Array, ArrayLike
from gap.patterns.base import (
    Storage,
    bits_for,
    check_count,
    check_positive,
    choice_bits,
)
from gap.patterns.ranking import best, group_scores

Library = tuple[tuple[bool, ...], ...]


def _square(*drawn: str) -> Library:
    """Patterns drawn as rows of 'x' and '.'."""
    return tuple(tuple(c == "x" for c in "".join(rows.split())) for rows in drawn)


_COMMON = _square(
    "xx. xx. ...", ".xx .xx ...", "... xx. xx.", "... .xx .xx",
    ".x. xxx ...", ".x. .xx .x.", "... xxx .x.", ".x. xx. .x.",
)  # fmt: skip
"""The 2x2 corners and the T shapes: four entries, the centre among them."""


@dataclasses.dataclass(frozen=True)
class KernelPattern:
    """Every kept kernel has one of a few patterns; other kernels are pruned whole.

    A kernel is the window of one input feature for one output. Each takes the pattern
    of the library under which its score is largest; `count` kernels of largest score
    under their pattern are kept, the others are cut (connectivity pruning). For
    magnitudes that is the Euclidean projection (Ma et al., PCONV, arXiv 1909.05073).

    Attributes:
      library: patterns, each a flag for every window position in C order; all keep
        the same number of entries. The default has eight of four entries for 3x3
        windows; `learn_library` finds those that suit given weights.

    Example:
      >>> import jax.numpy as jnp
      >>> scores = jnp.arange(9.0).reshape(3, 3, 1, 1)
      >>> KernelPattern().mask(scores, 1)[..., 0, 0].astype(int).tolist()
      [[0, 0, 0], [0, 1, 1], [0, 1, 1]]
    """

    library: Library = _COMMON

    def __post_init__(self):
        try:
            rows = tuple(tuple(bool(x) for x in row) for row in self.library)
        except TypeError:
            rows = ()
        if not rows or len({(len(row), sum(row)) for row in rows}) > 1:
            raise InputError(
                describe(
                    f"library={self.library!r}",
                    "patterns of one length with one number of True entries",
                )
            )
        if not any(rows[0]) or len(set(rows)) < len(rows):
            raise InputError(
                describe("empty or repeated patterns", "different patterns of entries")
            )
        object.__setattr__(self, "library", rows)

    @property
    def entries(self) -> int:
        """Weights that a kept kernel keeps."""
        return sum(self.library[0])

    def _view(self, shape: tuple[int, ...]) -> GemmShape:
        view, length = gemm_shape(shape), len(self.library[0])
        if not view.window or math.prod(view.window) != length:
            raise ShapeError(
                describe(
                    f"a weight of shape {tuple(shape)}",
                    f"a convolution whose window has {length} positions",
                    "Give other layers another pattern by a rule of their own.",
                )
            )
        return view

    def units(self, shape: tuple[int, ...]) -> int:
        """Returns the number of kernels: input features times outputs."""
        view = self._view(shape)
        return view.in_features * view.cols

    def mask(self, scores: Array, count: int | Array) -> Array:
        """Returns the mask of the `count` best kernels; see `Pattern.mask`.

        Among patterns, more +inf entries and then fewer -inf or NaN entries go before
        a larger score: a kept kernel does not change its pattern for a tie.
        """
        check_count(count, self.units(scores.shape))
        return self._mask(scores, count)

    @functools.partial(jax.jit, static_argnums=0)
    def _mask(self, scores: Array, count: int | Array) -> Array:
        shape = scores.shape
        flags = jnp.asarray(self.library)[:, :, None]  # [library, positions, 1]
        if not jnp.issubdtype(scores.dtype, jnp.floating):
            scores = scores.astype(jnp.float32)
        kernels = scores.reshape(1, len(self.library[0]), -1)
        finite = jnp.where(jnp.isfinite(kernels), kernels, 0.0)
        order = group_scores(jnp.where(flags, finite, 0.0), (1,))
        above = jnp.sum((kernels == jnp.inf) & flags, axis=1)
        below = jnp.sum(((kernels == -jnp.inf) | jnp.isnan(kernels)) & flags, axis=1)
        first = above * (kernels.shape[1] + 1) - below
        order = jnp.where(first == first.max(0, keepdims=True), order, -jnp.inf)
        chosen = jnp.argmax(order, axis=0)  # the first of the best
        fits = jnp.take(jnp.asarray(self.library), chosen, axis=0).T
        inside = jnp.where(fits, kernels[0], -jnp.inf)
        keep = best(group_scores(inside, (0,)), count, computed=True)
        return (fits & keep[None, :]).reshape(shape)

    def weights(self, shape: tuple[int, ...], count: int) -> int:
        """Returns the kept weights, exactly."""
        check_count(count, self.units(shape))
        return count * self.entries

    def storage(self, shape: tuple[int, ...], count: int, bits: int = 32) -> Storage:
        """Returns the size with a pattern's number for each kept kernel, and which."""
        units = self.units(shape)
        values = self.weights(shape, count) * bits
        if count == units and all(self.library[0]):
            return Storage(values, 0)
        patterns = count * bits_for(len(self.library))
        return Storage(values, patterns + choice_bits(count, units))


def learn_library(w: ArrayLike, entries: int = 4, size: int = 8) -> KernelPattern:
    """Returns the patterns that the kernels of `w` take most often by themselves.

    The natural pattern of a kernel is its `entries` weights of largest magnitude, ties
    to the first position; the `size` most frequent ones are the library (PCONV, arXiv
    1909.05073, section 4), the more energetic first where two are equally frequent.

    Args:
      w: [*window, in, out], concrete; e.g. all kernels of a network, concatenated
        along an axis.
      entries: weights that a pattern keeps.
      size: patterns in the library; less if the kernels show less.

    Raises:
      ShapeError: a weight without a window.
      InputError: more entries than window positions.
    """
    check_positive("entries", entries)
    check_positive("size", size)
    view = gemm_shape(jnp.shape(w))
    positions = math.prod(view.window)
    if not view.window or entries > positions:
        given = f"entries={entries} and a weight of shape {jnp.shape(w)}"
        error = InputError if view.window else ShapeError
        raise error(describe(given, "a window of at least so many positions"))
    kernels = np.abs(np.asarray(w, np.float64)).reshape(positions, -1).T
    best = np.argsort(-kernels, axis=1, kind="stable")[:, :entries]
    natural = np.zeros(kernels.shape, bool)
    np.put_along_axis(natural, best, True, axis=1)
    patterns, which, often = np.unique(
        natural, axis=0, return_inverse=True, return_counts=True
    )
    energy = np.bincount(which.ravel(), weights=(kernels**2 * natural).sum(1))
    order = np.lexsort((-energy, -often))[:size]
    return KernelPattern(tuple(tuple(map(bool, patterns[i])) for i in order))
