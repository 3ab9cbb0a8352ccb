"""Sets made of sets: one after another, or whichever is nearest."""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp

import quant
from admm.levels import Fixed, Scaled
from admm.low_rank import wide
from core.errors import InputError, describe
from core.types import Array


@dataclasses.dataclass(frozen=True)
class Intersection:
    """Weights in all of several sets: projected onto one after another.

    As the papers do for structured sparsity and then levels (arXiv 1908.10017): the
    projection is exact where that is so, as for unstructured sparsity with levels that
    are symmetric (what a weight gains by being kept rises with its magnitude), and
    where the sets are subspaces whose projections commute. Otherwise the point lies in
    the intersection, and is near. Each set must keep what those before it gave:
    zeros of a pruned layer stay if `Quantized(..., pruned=True)` comes after.

    Attributes:
      sets: in the order of projection.
    """

    sets: tuple

    def __post_init__(self):
        object.__setattr__(self, "sets", tuple(self.sets))
        _check(self.sets)

    def project(self, w: Array) -> Array:
        """Returns `w` projected onto each set in turn."""
        for each in self.sets:
            w = each.project(w)
        return w

    def at(self, w: Array) -> "Intersection":
        """Returns the sets that do not move, each at what those before it left."""
        found = []
        for each in self.sets:
            found.append(fixed_at(each, w))
            w = found[-1].project(w)
        return Intersection(tuple(found))


@dataclasses.dataclass(frozen=True)
class Union:
    """Weights in any of several sets: the nearest of their projections, exactly.

    One set for a whole leaf: the format or the pattern that fits it best. Of equals
    the first.

    Attributes:
      sets: what is chosen from.
    """

    sets: tuple

    def __post_init__(self):
        object.__setattr__(self, "sets", tuple(self.sets))
        _check(self.sets)

    def choose(self, w: Array) -> Array:
        """Returns which set is nearest, int32 []."""
        return self._nearest(w)[0]

    def project(self, w: Array) -> Array:
        """Returns the nearest of the projections."""
        best, points = self._nearest(w)
        return points[best]

    def at(self, w: Array) -> Any:
        """Returns the set that does not move of the nearest one; reads on the host."""
        return fixed_at(self.sets[int(self.choose(w))], w)

    def _nearest(self, w: Array) -> tuple[Array, Array]:
        points = jnp.stack([each.project(w) for each in self.sets])
        away = jnp.square(wide(points - w[None]))
        return jnp.argmin(away.sum(tuple(range(1, away.ndim)))), points


def is_fixed(spec: Any) -> bool:
    """Returns whether a set, or every one of several, does not move."""
    if isinstance(spec, Intersection):
        return is_fixed(spec.sets)
    if isinstance(spec, tuple):
        return all(map(is_fixed, spec))
    return isinstance(spec, Fixed)


def pruned_by(spec: Any, w: Array) -> Array:
    """Returns the mask of the weights that a set that does not move has at 0, bool."""
    if isinstance(spec, Intersection):
        spec = spec.sets
    if isinstance(spec, tuple):
        masks = [pruned_by(each, w) for each in spec]
        return functools.reduce(jnp.logical_or, masks)
    return spec.pruned(w.shape)


def fixed_at(spec: Any, w: Array) -> Any:
    """Returns a set that does not move and that has the projection of `w`.

    Raises:
      InputError: a set whose points are not free to be chosen weight by weight.
    """
    if isinstance(spec, tuple):
        return Intersection(spec).at(w).sets
    if isinstance(spec, quant.Quantizer):
        return Scaled(spec, spec.fit(w))
    if is_fixed(spec):
        return spec
    if not hasattr(spec, "at"):
        wanted = "sets of levels or of zeros, which can be fixed weight by weight"
        raise InputError(describe(repr(spec), wanted))
    return spec.at(w)


def _check(sets: tuple) -> None:
    if not sets:
        raise InputError(describe("no sets", "at least one"))
    for each in sets:
        if isinstance(each, type) or not hasattr(each, "project"):
            raise InputError(describe(repr(each), "sets with a method project"))
