"""Named errors: what was given, what was expected, what to do.

Every error that a user's input can cause derives from `LatheError`, so a front
door can print one line for it, and also from the built-in class that a caller
of a library function would expect (`ValueError`, `LookupError`, ...).
"""

import difflib
from collections.abc import Iterable
from typing import Any


class LatheError(Exception):
    """Base of every error that bad input can cause."""


class InputError(LatheError, ValueError):
    """An argument outside of what the function is defined for."""


class ShapeError(LatheError, ValueError):
    """Arrays or trees whose shapes or structures do not fit together."""


class NonFiniteError(LatheError, ValueError):
    """NaN or infinity where the method needs finite numbers."""


class RuleError(LatheError, ValueError):
    """A path rule that matches no leaf, or is not a regular expression."""


class UnknownNameError(LatheError, LookupError):
    """A name that a registry does not hold."""


class DataUnavailableError(LatheError, RuntimeError):
    """A data set that is neither on disk nor reachable."""


class DataFormatError(LatheError, ValueError):
    """A data file that exists but cannot be what it should be."""


class WorkdirError(LatheError, RuntimeError):
    """A work folder that cannot be used for this run."""


class CheckpointError(LatheError, RuntimeError):
    """No checkpoint of a work folder can be restored."""


def describe(given: Any, expected: str, remedy: str = "") -> str:
    """Returns the house's message: what was given, what was expected, what to do."""
    text = f"got {given}; expected {expected}"
    return f"{text}. {remedy}" if remedy else text


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Returns up to `count` of the `known` names that look most like `name`."""
    return difflib.get_close_matches(name, list(known), n=count, cutoff=0.3)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Returns the error for a `name` that no `kind` has, with the nearest names."""
    names = sorted(known)
    near = nearest(name, names) or names
    return UnknownNameError(
        f"unknown {kind} {name!r}; did you mean {', '.join(near)}?"
        if names
        else f"unknown {kind} {name!r}; none is registered"
    )


def check_range(
    name: str,
    value: float,
    low: float | None = None,
    high: float | None = None,
    *,
    low_open: bool = False,
    remedy: str = "",
) -> None:
    """Raises `InputError` unless `low <= value <= high`.

    Args:
      name: what the value is called where the user gave it.
      value: the number given; NaN never passes.
      low: the smallest allowed value, or None.
      high: the largest allowed value, or None.
      low_open: whether `low` itself is excluded.
      remedy: a sentence that says what to do.

    Raises:
      InputError: outside of the range.
    """
    above = low is None or (value > low if low_open else value >= low)
    below = high is None or value <= high
    if value == value and above and below:
        return
    left = "(-inf" if low is None else f"{'(' if low_open else '['}{low:g}"
    right = "inf)" if high is None else f"{high:g}]"
    raise InputError(
        f"{name}: {describe(value, f'a number in {left}, {right}', remedy)}"
    )
