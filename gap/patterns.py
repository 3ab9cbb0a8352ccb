"""Sparsity patterns: which sets of weights may be pruned together.

A pattern turns a score per weight into a mask that keeps an exact number of its
units, the best ones. A unit is what is kept or pruned as a whole: one weight for
`Unstructured`. Patterns are frozen dataclasses of Python scalars, so they can be
static arguments under `jit`; their methods are pure.
"""

import dataclasses
import math
import numbers
from typing import Protocol, runtime_checkable

from core.errors import InputError, check_range, describe
from core.selection import topk_mask
from core.types import Array


@runtime_checkable
class Pattern(Protocol):
    """What masks, transforms and constraint sets need to know of a pattern."""

    def units(self, shape: tuple[int, ...]) -> int:
        """Returns the number of units in a weight of `shape`."""
        ...

    def mask(self, scores: Array, count: int | Array) -> Array:
        """Returns the mask that keeps the `count` best units.

        Args:
          scores: a score per weight, higher is better; any real dtype.
          count: units to keep, a Python int or int32 of shape [].

        Returns:
          A boolean mask of the shape of `scores`; ties go to the first in C order.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Unstructured:
    """Any set of weights; a unit is one weight."""

    def units(self, shape: tuple[int, ...]) -> int:
        """Returns the number of weights."""
        return math.prod(shape)

    def mask(self, scores: Array, count: int | Array) -> Array:
        """Returns the mask of the `count` largest scores; see `Pattern.mask`."""
        return topk_mask(scores, count)


PATTERNS = {"unstructured": Unstructured}
"""Every pattern by name; one contract test walks it."""


@dataclasses.dataclass(frozen=True)
class Target:
    """How much of a leaf is kept, and in which pattern.

    Attributes:
      density: the share of units to keep, in [0, 1]; None if `count` is given.
      count: the exact number of units to keep; None if `density` is given.
      pattern: which units there are.
    """

    density: float | None = None
    count: int | None = None
    pattern: Pattern = Unstructured()

    def __post_init__(self):
        if (self.density is None) == (self.count is None):
            raise InputError(
                describe(
                    f"density={self.density} and count={self.count}",
                    "one of the two",
                    "Write Target(density=0.1) or Target(count=100).",
                )
            )
        if self.density is not None:
            _check_kind("density", self.density, numbers.Real, "a number")
            check_range("density", self.density, 0.0, 1.0)
        if self.count is not None:
            _check_kind("count", self.count, numbers.Integral, "an integer")
            check_range("count", self.count, 0)

    def kept(self, shape: tuple[int, ...]) -> int:
        """Returns how many units of a weight of `shape` are kept, a Python int.

        A density is rounded to the nearest count, halves up.

        Raises:
          InputError: `count` is larger than the number of units.
        """
        units = self.pattern.units(shape)
        if self.count is None:
            assert self.density is not None
            return math.floor(self.density * units + 0.5)
        check_range(f"count for a weight of shape {shape}", self.count, 0, units)
        return self.count


def _check_kind(name: str, value: object, kind: type, expected: str) -> None:
    if isinstance(value, bool) or not isinstance(value, kind):
        raise InputError(f"{name}: {describe(repr(value), expected)}")


def as_target(spec: "float | Target") -> Target:
    """Returns a rule's spec as a `Target`; a plain number is a density.

    Raises:
      InputError: a spec of another kind, or out of range.
    """
    if isinstance(spec, Target):
        return spec
    if isinstance(spec, numbers.Real) and not isinstance(spec, bool):
        return Target(density=float(spec))
    raise InputError(
        describe(repr(spec), "a density in [0, 1] or a gap.Target as a rule's spec")
    )
