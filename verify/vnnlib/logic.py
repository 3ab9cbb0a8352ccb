"""Linear constraints and boolean formulas over them, in disjunctive normal form."""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from core.errors import nearest
from verify.vnnlib.sexpr import Form, Item, fault

MOST_DISJUNCTS = 100_000
_MOST_ROWS = 5_000_000  # over all disjuncts; bounds the memory of a hostile file
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class Linear(NamedTuple):
    """The term `sum_v coefficients[v] * v + constant`; no coefficient is 0."""

    coefficients: dict[int, float]
    constant: float


class Row(NamedTuple):
    """The constraint `term <= 0`, or `< 0` where `strict`; written in `line`."""

    term: Linear
    strict: bool
    line: int


class Formula(NamedTuple):
    """A union of conjunctions; `[()]` is true and `[]` is false."""

    disjuncts: list[tuple[Row, ...]]


Value: TypeAlias = Linear | Formula
Variables: TypeAlias = Mapping[str, int]


def evaluate(form: Form, variables: Variables) -> Value:
    """Returns the meaning of an expression, without recursion.

    Args:
      form: an arithmetic or boolean expression.
      variables: a number for each declared name.

    Raises:
      DataFormatError: an operator, name or number that is not known, a term that is
        not linear, or more than `MOST_DISJUNCTS` disjuncts.
    """
    frames: list[tuple[Form, Iterator[Item], list[Value]]] = []
    form = _opened(form, frames)
    while True:
        form, rest, values = frames[-1]
        for item in rest:
            if isinstance(item, Form):
                _opened(item, frames)
                break
            values.append(_atom(item, form.line, variables))
        else:
            frames.pop()
            value = _OPERATORS[form.head](form, values)
            if not frames:
                return value
            frames[-1][2].append(value)


def conjunction(
    formulas: Sequence[Formula], line: int
) -> tuple[tuple[Row, ...], list[tuple[Row, ...]]]:
    """Returns the conjunction as rows that all disjuncts share, and the disjuncts.

    Raises:
      DataFormatError: more than `MOST_DISJUNCTS` disjuncts.
    """
    shared = [f.disjuncts[0] for f in formulas if len(f.disjuncts) == 1]
    choices = [f.disjuncts for f in formulas if len(f.disjuncts) != 1]
    count = math.prod(len(c) for c in choices)
    longest = sum(max(map(len, c), default=0) for c in choices)
    _check_size(count, count * longest, line)
    flat = tuple(itertools.chain.from_iterable(shared))
    product = itertools.product(*choices) if count else ()
    return flat, [tuple(itertools.chain.from_iterable(p)) for p in product]


def _check_size(disjuncts: int, rows: int, line: int) -> None:
    if disjuncts > MOST_DISJUNCTS or rows > _MOST_ROWS:
        raise fault(
            line,
            f"{disjuncts} disjuncts of {rows} constraints in disjunctive normal form",
            f"at most {MOST_DISJUNCTS} of {_MOST_ROWS}",
            "Split the property into several files.",
        )


def _opened(form: Form, frames: list[tuple[Form, Iterator[Item], list[Value]]]) -> Form:
    if form.head not in _OPERATORS:
        written = repr(form.head) if form.head else "an expression without operator"
        raise fault(form.line, written, f"one of {', '.join(_OPERATORS)}")
    frames.append((form, iter(form.items[1:]), []))
    return form


def number(token: str, line: int) -> float:
    """Returns the number that a token writes.

    Raises:
      DataFormatError: no number, or one that float64 cannot hold.
    """
    value = float(token) if _NUMBER.fullmatch(token) else math.nan
    if not math.isfinite(value):
        raise fault(line, repr(token[:40]), "a finite number")
    return value


def _atom(token: str, line: int, variables: Variables) -> Value:
    index = variables.get(token)
    if index is not None:
        return Linear({index: 1.0}, 0.0)
    if token in ("true", "false"):
        return Formula([()] if token == "true" else [])
    if _NUMBER.fullmatch(token):
        return Linear({}, number(token, line))
    near = nearest(token, variables, 1)
    hint = f"Did you mean {near[0]}?" if near and len(variables) < 10_000 else ""
    raise fault(line, repr(token[:40]), "a number or a declared variable", hint)


def _sum(terms: Sequence[Linear], signs: Sequence[float]) -> Linear:
    total: dict[int, float] = {}
    constant = 0.0
    for term, sign in zip(terms, signs, strict=True):
        constant += sign * term.constant
        for index, value in term.coefficients.items():
            total[index] = total.get(index, 0.0) + sign * value
    return Linear({k: v for k, v in total.items() if v != 0}, constant)


def _scaled(term: Linear, factor: float) -> Linear:
    scaled = {k: factor * v for k, v in term.coefficients.items()}
    return Linear({k: v for k, v in scaled.items() if v != 0}, factor * term.constant)


def _terms(form: Form, values: Sequence[Value], least: int) -> list[Linear]:
    terms = [v for v in values if isinstance(v, Linear)]
    if len(terms) != len(values) or len(terms) < least:
        raise fault(
            form.line, f"operands of {form.head!r}", f"{least} or more arithmetic terms"
        )
    return terms


def _finite(form: Form, term: Linear) -> Linear:
    if not all(map(math.isfinite, (term.constant, *term.coefficients.values()))):
        raise fault(form.line, "an overflow", "numbers that float64 can hold")
    return term


def _plus(form: Form, values: Sequence[Value]) -> Linear:
    terms = _terms(form, values, 1)
    return _finite(form, _sum(terms, [1.0] * len(terms)))


def _minus(form: Form, values: Sequence[Value]) -> Linear:
    terms = _terms(form, values, 1)
    signs = [-1.0] if len(terms) == 1 else [1.0] + [-1.0] * (len(terms) - 1)
    return _finite(form, _sum(terms, signs))


def _times(form: Form, values: Sequence[Value]) -> Linear:
    product, *rest = _terms(form, values, 1)
    for term in rest:
        if term.coefficients and product.coefficients:
            raise fault(form.line, "a product of variables", "linear terms")
        one, other = (term, product) if product.coefficients else (product, term)
        product = _scaled(other, one.constant)
    return _finite(form, product)


def _over(form: Form, values: Sequence[Value]) -> Linear:
    term, *rest = _terms(form, values, 2)
    for by in rest:
        if by.coefficients or by.constant == 0:
            raise fault(form.line, "a division", "a constant other than 0 below")
        scaled = {k: v / by.constant for k, v in term.coefficients.items()}
        term = Linear(scaled, term.constant / by.constant)
    return _finite(form, term)


def _rows(form: Form, values: Sequence[Value], sign: float, strict: bool) -> Formula:
    """Rows of a chain: (<= a b c) says a <= b and b <= c."""
    rows = []
    terms = _terms(form, values, 2)
    for left, right in itertools.pairwise(terms):
        term = _finite(form, _sum([left, right], [sign, -sign]))
        if term.coefficients:
            rows.append(Row(term, strict, form.line))
        elif term.constant > 0 or (strict and term.constant == 0):
            return Formula([])
    return Formula([tuple(rows)])


def _equal(form: Form, values: Sequence[Value]) -> Formula:
    below, above = _rows(form, values, 1.0, False), _rows(form, values, -1.0, False)
    return _and(form, [below, above])


def _formulas(form: Form, values: Sequence[Value]) -> list[Formula]:
    formulas = [v for v in values if isinstance(v, Formula)]
    if len(formulas) != len(values):
        raise fault(form.line, f"operands of {form.head!r}", "comparisons")
    return formulas


def _and(form: Form, values: Sequence[Value]) -> Formula:
    shared, disjuncts = conjunction(_formulas(form, values), form.line)
    _check_size(len(disjuncts), len(disjuncts) * len(shared), form.line)
    return Formula([shared + d for d in disjuncts])


def _or(form: Form, values: Sequence[Value]) -> Formula:
    formulas = _formulas(form, values)
    disjuncts = list(itertools.chain.from_iterable(f.disjuncts for f in formulas))
    _check_size(len(disjuncts), sum(map(len, disjuncts)), form.line)
    return Formula(disjuncts)


def _comparison(sign: float, strict: bool) -> "Operator":
    return lambda form, values: _rows(form, values, sign, strict)


Operator: TypeAlias = Callable[[Form, Sequence[Value]], Value]
_OPERATORS: dict[str, Operator] = {
    "<=": _comparison(1.0, False),
    ">=": _comparison(-1.0, False),
    "<": _comparison(1.0, True),
    ">": _comparison(-1.0, True),
    "=": _equal,
    "==": _equal,
    "and": _and,
    "or": _or,
    "+": _plus,
    "-": _minus,
    "*": _times,
    "/": _over,
}
