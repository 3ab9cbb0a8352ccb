"""VNN-LIB 1.0: a list of declarations and assertions.

Source: VNN-LIB 1.0 as the competition's files use it, arXiv:2109.00498, section 2.
"""

import re

from verify.vnnlib.build import Query
from verify.vnnlib.logic import Formula, Linear, evaluate
from verify.vnnlib.sexpr import Form, fault, parse

_NAME = re.compile(r"([XY])_(\d{1,9})")
_SORTS = ("Real", "Int")
_NO_MEANING = (
    *("set-logic", "set-info", "set-option", "check-sat", "get-model", "exit"),
    "vnnlib-version",
)


def read(text: str) -> Query:
    """Returns what a VNN-LIB 1.0 text says; its time is linear in the text's length.

    Raises:
      DataFormatError: what is no VNN-LIB 1.0, with the line.
    """
    names: dict[str, int] = {}
    asserts: list[Form] = []
    for form in parse(text):
        if form.head in ("declare-const", "declare-fun"):
            _declare(form, names)
        elif form.head == "assert":
            _check_assert(form, names)
            asserts.append(form)
        elif form.head not in _NO_MEANING:
            raise fault(
                form.line,
                f"the command {form.head!r}" if form.head else "an empty command",
                "declare-const or assert",
            )
    inputs, outputs = (_count(names, letter) for letter in "XY")
    flat = {n: int(n[2:]) + (inputs if n[0] == "Y" else 0) for n in names}
    return Query(inputs, outputs, [_formula(form, flat) for form in asserts])


def _declare(form: Form, names: dict[str, int]) -> None:
    match form.items:
        case ["declare-const", str(name), sort] if sort in _SORTS:
            pass
        case ["declare-fun", str(name), Form(items=[]), sort] if sort in _SORTS:
            pass
        case _:
            raise fault(form.line, "a declaration", "(declare-const X_0 Real)")
    if not _NAME.fullmatch(name) or str(int(name[2:])) != name[2:]:
        raise fault(form.line, repr(name), "a variable called X_0, X_1, ... or Y_0, ..")
    if name in names:
        raise fault(form.line, f"a second declaration of {name}", "one")
    names[name] = form.line


def _count(names: dict[str, int], letter: str) -> int:
    """Returns how many variables of a kind there are, all numbered without a gap."""
    indices = {int(n[2:]): line for n, line in names.items() if n[0] == letter}
    if not indices:
        raise fault(1, f"no variable {letter}_0", "inputs X_i and outputs Y_i")
    last = max(indices)
    if last + 1 != len(indices):
        gap = next(i for i in range(last) if i not in indices)
        raise fault(
            indices[last],
            f"{letter}_{last} but no {letter}_{gap}",
            f"variables {letter}_i numbered from 0 without a gap",
        )
    return len(indices)


def _check_assert(form: Form, names: dict[str, int]) -> None:
    if len(form.items) != 2:
        raise fault(form.line, f"{len(form.items) - 1} expressions", "one in an assert")
    body = form.items[1]
    if isinstance(body, str) and body not in ("true", "false"):
        raise fault(form.line, f"(assert {body[:40]})", "a comparison, 'and' or 'or'")


def _formula(form: Form, flat: dict[str, int]) -> Formula:
    body = form.items[1]
    if isinstance(body, str):
        return Formula([()] if body == "true" else [])
    value = evaluate(body, flat)
    if isinstance(value, Linear):
        raise fault(form.line, "an arithmetic term", "a comparison, 'and' or 'or'")
    return value
