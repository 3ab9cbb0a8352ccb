"""VNN-LIB 2.0, parsed and type-checked by the standard's own package `vnnlib`.

The package's syntax tree is turned into the s-expressions of version 1.0, so that
both versions share their semantics.

Source: https://www.vnnlib.org, the VNN-LIB 2.0 standard.
"""

import json
import math
import re
from decimal import Decimal
from typing import Any

import numpy as np

from core.errors import DataFormatError, InputError, describe
from verify.vnnlib.build import Query
from verify.vnnlib.logic import Formula, Linear, evaluate
from verify.vnnlib.sexpr import Form, Item, fault, parse

_EXPONENT = re.compile(r"(?<![\w.])-?\d+(\.\d+)?[eE][+-]?\d{1,3}(?![\w.])")
_SYMBOLS = {
    "And": "and",
    "Or": "or",
    "LessEqual": "<=",
    "GreaterEqual": ">=",
    "LessThan": "<",
    "GreaterThan": ">",
    "Equal": "==",
    "Plus": "+",
    "Minus": "-",
    "Negate": "-",
    "Multiply": "*",
}


def read(text: str) -> Query:
    """Returns what a VNN-LIB 2.0 text says of one network with one input and output.

    Raises:
      DataFormatError: what the package refuses, with its line, or what is beyond one
        input tensor, one output tensor and linear comparisons.
      InputError: the package `vnnlib` is not installed.
    """
    lines = [form.line for form in parse(text) if form.head == "assert"]
    query = _parsed(text)
    source, target = _tensors(query)
    sizes = math.prod(source.shape), math.prod(target.shape)
    names = {f"X_{i}": i for i in range(sizes[0])}
    names |= {f"Y_{i}": sizes[0] + i for i in range(sizes[1])}
    kinds = {source.name: "X", target.name: "Y"}
    asserts = []
    for line, assertion in zip(lines, query.assertions, strict=True):
        value = evaluate(_form(assertion.expr, line, kinds), names)
        if isinstance(value, Linear):
            raise fault(line, "an arithmetic term", "a comparison")
        asserts.append(Formula(value.disjuncts))
    return Query(*sizes, asserts)


def _parsed(text: str) -> Any:
    try:
        import vnnlib  # the package of the standard, not this one
    except ImportError as error:
        raise InputError(
            describe(
                "a VNN-LIB 2.0 file and a Python without the package vnnlib",
                "it beside Lathe",
                "Install it with `pip install vnnlib`.",
            )
        ) from error
    plain = "\n".join(_EXPONENT.sub(_written_out, line) for line in _uncommented(text))
    try:
        return vnnlib.parse_query_string(plain)
    except vnnlib.VNNLibException as error:
        raise _translated(str(error)) from error


def _uncommented(text: str) -> list[str]:
    return [line.split(";", 1)[0] for line in text.splitlines()]


def _written_out(match: re.Match[str]) -> str:
    """1.5e-3 as 0.0015: the package reads no exponents."""
    plain = format(Decimal(match.group()), "f")
    return plain if "." in plain else plain + ".0"


def _translated(message: str) -> DataFormatError:
    try:
        first = json.loads(message)["errors"][0]
        line, what, hint = first["line"], first["message"], first["hint"]
        text = f"{what} at {first['offendingSymbol']!r}"
        return fault(int(line), text, "VNN-LIB 2.0", str(hint))
    except (ValueError, KeyError, IndexError, TypeError):
        found = re.search(r"line (\d+)", message)
        line = int(found.group(1)) if found else 1
        return fault(line, message[:200].strip(), "VNN-LIB 2.0")


def _tensors(query: Any) -> tuple[Any, Any]:
    networks = query.networks
    parts = [(n.inputs, n.outputs, n.hidden) for n in networks]
    if len(parts) != 1 or [len(p) for p in parts[0]] != [1, 1, 0]:
        raise fault(
            1,
            f"{len(parts)} networks, with inputs, outputs and hidden tensors "
            f"{[tuple(map(len, p)) for p in parts]}",
            "one network with one input and one output",
        )
    return networks[0].inputs[0], networks[0].outputs[0]


def _form(root: Any, line: int, kinds: dict[str, str]) -> Form:
    """Returns the syntax tree as an s-expression, without recursion."""
    top: list[Item] = []
    todo: list[tuple[Any, list[Item]]] = [(root, top)]
    while todo:
        node, into = todo.pop()
        kind = type(node).__name__
        if kind == "Var":
            into.append(f"{kinds[node.name]}_{_flat(node)}")
        elif hasattr(node, "lexeme"):
            into.append(node.lexeme)
        elif kind in _SYMBOLS:
            inner = Form(line, [_SYMBOLS[kind]])
            into.append(inner)
            # Last in, first out: reversed, so that siblings keep their order.
            todo.extend((child, inner.items) for child in reversed(node.children()))
        else:
            raise fault(line, f"the operator of {node}", f"one of {[*_SYMBOLS]}")
    (form,) = top
    if isinstance(form, str):
        raise fault(line, repr(form), "a comparison")
    return form


def _flat(node: Any) -> int:
    shape, at = tuple(node.shape), tuple(node.indices)
    return int(np.ravel_multi_index(at, shape)) if shape else 0
