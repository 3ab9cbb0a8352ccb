"""S-expressions with line numbers: a tokenizer and a parser without recursion."""

import re
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from core.errors import DataFormatError, describe

DEEPEST = 1000  # levels of nesting; files of the competition use about five
_TOKEN = re.compile(r';.*|[()]|"[^"]*"|\|[^|]*\||[^\s();"|]+|\S')

Item: TypeAlias = "str | Form"


class Form(NamedTuple):
    """A parenthesised list: its line in the text (from 1) and its items."""

    line: int
    items: list[Item]

    @property
    def head(self) -> str:
        """The first item if it is a name, else an empty string."""
        first = self.items[0] if self.items else ""
        return first if isinstance(first, str) else ""


def fault(line: int, given: object, expected: str, remedy: str = "") -> DataFormatError:
    """Returns the error for a mistake in one line of a file."""
    return DataFormatError(f"line {line}: {describe(given, expected, remedy)}")


def tokens(text: str) -> Iterator[tuple[int, str]]:
    """Yields line numbers and tokens; comments from ';' to the line's end are left out.

    Time and memory are linear in the text.
    """
    for number, line in enumerate(text.splitlines(), 1):
        for token in _TOKEN.findall(line):
            if not token.startswith(";"):
                yield number, token


def parse(text: str) -> list[Form]:
    """Returns the top-level forms of a text.

    Raises:
      DataFormatError: unbalanced parentheses, text outside of any, a quote that
        its line does not close, or nesting deeper than `DEEPEST`.
    """
    top = Form(0, [])
    stack = [top]
    for line, token in tokens(text):
        if token == "(":
            inner = Form(line, [])
            stack[-1].items.append(inner)
            stack.append(inner)
            if len(stack) > DEEPEST:
                raise fault(line, "nested parentheses", f"at most {DEEPEST} levels")
        elif token == ")":
            if len(stack) == 1:
                raise fault(line, "')'", "an open parenthesis before it")
            stack.pop()
        elif len(stack) == 1:
            raise fault(line, repr(token[:40]), "a command in parentheses")
        elif token in ('"', "|"):
            raise fault(line, repr(token), "a quote closed on the same line")
        else:
            stack[-1].items.append(token)
    if len(stack) > 1:
        raise fault(
            stack[-1].line,
            "a parenthesis that is never closed",
            "as many ')' as '('",
            "The file may be cut off.",
        )
    return [item for item in top.items if isinstance(item, Form)]
