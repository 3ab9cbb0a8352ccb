"""Counterexamples in the competition's format: `((X_0 0.1) (X_1 0.2) (Y_0 3.0))`.

Source: rules of VNN-COMP 2022 and later, "counterexample" section.
"""

import numpy as np

from core.errors import DataFormatError, describe
from core.types import ArrayLike
from verify.vnnlib.logic import number
from verify.vnnlib.sexpr import Form, fault, parse


def format_witness(x: ArrayLike, y: ArrayLike) -> str:
    """Returns a counterexample as text: an assignment per line, in parentheses.

    Each number has the fewest digits that read back as the same float64.

    Args:
      x: an input of any shape.
      y: the network's output for `x`, any shape.

    Example:
      >>> print(format_witness([0.5], [1.0]))
      ((X_0 0.5)
       (Y_0 1.0))
    """
    pairs = [
        f"({name}_{i} {float(value)!r})"
        for name, values in (("X", x), ("Y", y))
        for i, value in enumerate(np.asarray(values, np.float64).ravel())
    ]
    return f"({chr(10).join(pairs)})".replace("\n", "\n ")


def parse_witness(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the input and output that a counterexample states, flat float64.

    A first line `sat`, as in a results file, is skipped.

    Raises:
      DataFormatError: no such text, an assignment that is missing or doubled.
    """
    body = text.lstrip()
    if body.startswith("sat"):
        body = body[3:]
    forms = parse(body)
    if len(forms) == 1 and not forms[0].head:
        forms = [form for form in forms[0].items if isinstance(form, Form)]
    sides: dict[str, dict[int, float]] = {"X": {}, "Y": {}}
    for form in forms:
        match form.items:
            case [str(name), str(value)] if name[:2] in ("X_", "Y_") and _digits(name):
                side, index = sides[name[0]], int(name[2:])
                if index in side:
                    raise fault(form.line, f"a second value of {name}", "one")
                side[index] = number(value, form.line)
            case _:
                raise fault(form.line, str(form.items)[:60], "(X_0 0.1) or (Y_0 0.1)")
    return _vector(sides["X"], "X"), _vector(sides["Y"], "Y")


def _digits(name: str) -> bool:
    return name[2:].isascii() and name[2:].isdigit() and len(name) < 12


def _vector(side: dict[int, float], letter: str) -> np.ndarray:
    missing = sorted(set(range(max(len(side), 1))) - set(side))
    if missing:
        raise DataFormatError(
            describe(f"no value of {letter}_{missing[0]}", "one of every variable")
        )
    return np.array([side[i] for i in range(len(side))])
