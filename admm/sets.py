"""Constraint sets as values: what a weight is projected onto.

A set knows how to project; some also name the support that stays trainable after
hard pruning. Sets are frozen dataclasses of Python scalars, hashable and static
under `jit`. Writing one takes one method:

    @dataclasses.dataclass(frozen=True)
    class NonNegative:
        def project(self, w):
            return jnp.maximum(w, 0)

A `quant.Quantizer` and a `quant.RowMix` have that method, so they are sets as well.

Projecting a point of the set may round it: a decomposition does, and a scale that is
sought again. `violation` allows for that. A set that returns each of its points bit for
bit says so by `exact = True` on the class, and nothing is allowed for.
"""

import dataclasses
import numbers
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax.numpy as jnp

import quant
from admm.circulant import BlockCirculant
from admm.combined import Intersection, Union
from admm.levels import Quantized, Support
from admm.low_rank import LowRank
from core import rules as core_rules
from core import trees
from core.errors import InputError, describe
from core.numerics import check_finite
from core.rules import Rules
from core.types import Array, PartialTree, PyTree
from gap.patterns import Pattern, Target, Unstructured


@runtime_checkable
class ConstraintSet(Protocol):
    """What ADMM needs to know of a set."""

    def project(self, w: Array) -> Array:
        """Returns the nearest point of the set, in the shape and dtype of `w`."""
        ...


@runtime_checkable
class SupportSet(ConstraintSet, Protocol):
    """A set whose points are free on a support and 0 elsewhere."""

    def support(self, w: Array) -> Array:
        """Returns the boolean mask of the entries that the projection keeps."""
        ...


@dataclasses.dataclass(frozen=True)
class Sparse:
    """Weights with at most so many units of a sparsity pattern left.

    With the unstructured pattern this is the cardinality constraint
    {W : card(supp W) <= l} of arXiv 1804.03294, and the projection is exact.

    Attributes:
      density: the share of units to keep, in [0, 1]; None if `count` is given.
      count: the number of units to keep; None if `density` is given.
      pattern: a pattern of `gap.patterns`.

    Raises:
      InputError: both or neither of density and count, or one out of range.
    """

    density: float | None = None
    count: int | None = None
    pattern: Pattern = Unstructured()
    exact: ClassVar[bool] = True

    def __post_init__(self):
        self._target()

    def _target(self) -> Target:
        return Target(self.density, self.count, self.pattern)

    def support(self, w: Array) -> Array:
        """Returns the mask of the entries of largest magnitude."""
        return self.pattern.mask(jnp.abs(w), self._target().kept(w.shape))

    def project(self, w: Array) -> Array:
        """Returns `w` with exactly 0.0 outside of its support."""
        return jnp.where(self.support(w), w, jnp.zeros_like(w))

    def at(self, w: Array) -> Support:
        """Returns the set of the support of `w`, which stays."""
        return Support(self.support(w))


SETS: dict[str, type[ConstraintSet]] = {
    "sparse": Sparse,
    "block_circulant": BlockCirculant,
    "low_rank": LowRank,
    "quantized": Quantized,
    "intersection": Intersection,
    "union": Union,
}
"""Every constraint set by name; one contract test walks it."""


def constraints(params: PyTree, rules: Rules) -> PartialTree:
    """Returns the set of every leaf that a rule matches, `None` elsewhere.

    Args:
      params: a pytree of arrays.
      rules: pairs of a path regex and a `ConstraintSet`, or what is short for one: a
        `gap.Target` or a density in [0, 1] for `Sparse`, a `quant.Format` for
        `Quantized`; or a tuple of such, several sets at once; or `None`. A format
        after a set that prunes is no further set: both make an `Intersection`, whose
        levels are those of the weights that are left.

    Returns:
      A partial tree of sets; a tuple of sets for a leaf of several.

    Raises:
      RuleError: a rule that matches no leaf.
      InputError: a spec that is no set.
    """

    def found(spec: Any, _: Array) -> Any:
        if not isinstance(spec, tuple) or not spec:
            return _as_set(spec)
        sets: list[Any] = []
        for each in spec:
            if isinstance(each, quant.Format) and any(map(prunes, sets)):
                sets = [Intersection((*sets, Quantized(each, pruned=True)))]
            else:
                sets.append(_as_set(each))
        return tuple(sets) if len(sets) > 1 else sets[0]

    return trees.map_partial(found, core_rules.match(rules, params), params)


def _as_set(spec: Any) -> ConstraintSet:
    if isinstance(spec, ConstraintSet) and not isinstance(spec, type):
        return spec
    if isinstance(spec, Target):
        return Sparse(spec.density, spec.count, spec.pattern)
    if isinstance(spec, quant.Format):
        return Quantized(spec)
    if isinstance(spec, numbers.Real) and not isinstance(spec, bool):
        return Sparse(density=float(spec))
    raise InputError(
        describe(
            repr(spec),
            "a constraint set (an object with a method project), a gap.Target, "
            "a quant.Format or a density",
        )
    )


def in_turn(spec: Any) -> ConstraintSet:
    """Returns one set for a leaf's spec: of several sets their intersection."""
    return Intersection(spec) if isinstance(spec, tuple) else spec


def support(spec: Any, w: Array) -> Array | None:
    """Returns the mask of what may be trained after the projection of `w`.

    `None` unless every point with that support is in the set: weights on levels are
    free nowhere, pruned or not.
    """
    spec = in_turn(spec)
    if isinstance(spec, SupportSet):
        return spec.support(w)
    return spec.project(w) != 0 if _is_free(spec) else None


def _is_free(spec: Any) -> bool:
    """Whether a set is all that has one of some supports."""
    if isinstance(spec, Intersection | Union):
        return all(map(_is_free, spec.sets))
    return isinstance(spec, SupportSet)


def prunes(spec: Any) -> bool:
    """Returns whether every point of a set has zeros by it."""
    if isinstance(spec, Intersection):
        return any(map(prunes, spec.sets))
    if isinstance(spec, Union):
        return all(map(prunes, spec.sets))
    return isinstance(spec, SupportSet)


def project(params: PyTree, rules: Rules) -> PyTree:
    """Returns `params` with every leaf that a rule matches projected onto its set.

    Onto several sets in turn, as `Intersection`.

    Raises:
      RuleError, InputError: as `constraints`.
      NonFiniteError: NaN or infinity in a leaf that a rule matches.
    """
    sets = constraints(params, rules)
    check_finite(trees.select(sets, params), "params")
    return trees.map_partial(
        lambda s, w: in_turn(s).project(w), sets, params, absent=trees.keep_rest
    )
