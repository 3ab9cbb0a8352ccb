"""Named errors: what was given, what was expected, what to do.

Every error that a user's input can cause derives from `LatheError`, so a front
door can print one line for it, and also from the built-in class that a caller
of a library function would expect (`ValueError`, `LookupError`, ...).
"""

import difflib
from collections.abc import Iterable
from typing import Any

_FEW = 12  # names that a message may list


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


class GraphError(LatheError, ValueError):
    """A function or model that has no operator graph, or one that a room cannot use."""


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
    """Returns up to `count` of the `known` names that look much like `name`.

    Those that hold `name` as a part come first. The dashes before the name of a flag
    do not count.
    """
    bare = {each.lstrip("-"): each for each in known}
    text = name.lstrip("-")
    holding = [each for each in bare if len(text) > 1 and text.lower() in each.lower()]
    near = difflib.get_close_matches(text, list(bare), count, cutoff=0.6)
    return [bare[each] for each in dict.fromkeys([*holding, *near])][:count]


def unknown_name(
    kind: str, name: str, known: Iterable[str], remedy: str = ""
) -> UnknownNameError:
    """Returns the error for a `name` that no `kind` has, with the nearest names.

    Where none is near, or `name` is a number, all are listed if they are few.

    Args:
      kind: of what is named.
      name: as it was given.
      known: all names.
      remedy: what to do where none is near and there are many.
    """
    names = sorted(known)
    near = [] if _is_number(name) else nearest(name, names)
    if near:
        hint = f"did you mean {', '.join(near)}?"
    elif not names:
        hint = "none is registered"
    elif len(names) <= _FEW:
        hint = f"expected one of {', '.join(names)}"
    else:
        hint = remedy or f"none of the {len(names)} names is like it"
    return UnknownNameError(f"unknown {kind} {name!r}; {hint}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


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
