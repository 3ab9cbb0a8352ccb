"""How much of a leaf is kept: what a pruning rule says."""

import dataclasses
import math
import numbers

from core.errors import InputError, check_range, describe
from gap.patterns.base import Pattern
from gap.patterns.fine import Unstructured


@dataclasses.dataclass(frozen=True)
class Target:
    """How much of a leaf is kept, and in which pattern.

    Attributes:
      density: the share of units to keep, in [0, 1]; None if `count` is given.
      count: the exact number of units to keep; None if `density` is given.
      pattern: which units there are.

    Raises:
      InputError: a density or count out of range or both or none, or no pattern.

    Example, at most 2 of every 4 weights along the input features:
      >>> from gap.patterns import NM
      >>> Target(density=0.5, pattern=NM(4)).weights((8, 3))
      12
    """

    density: float | None = None
    count: int | None = None
    pattern: Pattern = dataclasses.field(default=Unstructured())

    def __post_init__(self):
        if (self.density is None) == (self.count is None):
            raise InputError(
                describe(
                    f"density={self.density} and count={self.count}",
                    "one of the two",
                    "Write Target(density=0.1) or Target(count=100).",
                )
            )
        if isinstance(self.pattern, type) or not isinstance(self.pattern, Pattern):
            raise InputError(
                f"pattern: {describe(repr(self.pattern), 'a pattern, such as NM(4)')}"
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
          ShapeError: the pattern does not fit the shape.
        """
        units = self.pattern.units(shape)
        if self.count is None:
            assert self.density is not None
            return math.floor(self.density * units + 0.5)
        check_range(f"count for a weight of shape {shape}", self.count, 0, units)
        return self.count

    def weights(self, shape: tuple[int, ...]) -> int:
        """Returns how many weights of `shape` are kept; see `Pattern.weights`.

        Raises:
          InputError, ShapeError: as `kept`.
        """
        return self.pattern.weights(shape, self.kept(shape))


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
