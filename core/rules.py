"""Which leaf gets which treatment: a list of `(path regex, spec)` pairs.

The first rule whose regular expression matches a leaf's whole path wins
(`re.fullmatch`). A leaf that no rule matches gets no treatment, and a spec of
`None` says so explicitly, ahead of a more general rule:

    rules = [("head/kernel", None), (".*/kernel", 0.1)]
"""

import difflib
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax

from core import trees
from core.errors import InputError, RuleError, describe
from core.types import PartialTree, PyTree

Rules: TypeAlias = Sequence[tuple[str, Any]]


def match(
    rules: Rules, tree: PyTree, kind: type | None = None, hint: str = ""
) -> PartialTree:
    """Returns the spec of the first matching rule for every leaf of `tree`.

    Args:
      rules: pairs of a regular expression over whole paths and a spec of any kind.
      tree: a pytree of arrays or of anything that is a leaf.
      kind: the type that every spec has to have; any if left out.
      hint: how to write one, for the message.

    Returns:
      A tree of the structure of `tree` with specs as leaves and `None` where no
      rule matches or the matching rule's spec is `None`.

    Raises:
      RuleError: a rule that matches no leaf at all (the message lists the nearest
        paths), or one whose expression does not compile.
      InputError: a spec that is no `kind`.
    """
    names, _, treedef = trees.flatten(tree)
    compiled = [(_compile(pattern), spec) for pattern, spec in _pairs(rules)]
    for regex, spec in compiled:
        if kind is not None and not isinstance(spec, (kind, type(None))):
            given = f"{spec!r} for {regex.pattern!r}"
            raise InputError(describe(given, f"a {kind.__name__}, or None", hint))
    for regex, _ in compiled:
        if not any(regex.fullmatch(name) for name in names):
            raise RuleError(
                describe(
                    f"rule {regex.pattern!r}, which matches no leaf",
                    "a regular expression that matches at least one whole path",
                    f"The nearest paths are {', '.join(_near(regex.pattern, names))}.",
                )
            )
    specs = [
        next((spec for regex, spec in compiled if regex.fullmatch(name)), None)
        for name in names
    ]
    return jax.tree.unflatten(treedef, specs)


def _pairs(rules: Rules) -> list[tuple[str, Any]]:
    pairs = list(rules)
    for rule in pairs:
        if not (
            isinstance(rule, tuple) and len(rule) == 2 and isinstance(rule[0], str)
        ):
            raise RuleError(
                describe(
                    repr(rule),
                    "a pair (path regex, spec)",
                    "Write rules as [('fc.*/kernel', spec), ...].",
                )
            )
    return pairs


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as e:
        raise RuleError(
            describe(
                f"rule {pattern!r} ({e})",
                "a regular expression as in Python's re",
                "Escape special signs with a backslash.",
            )
        ) from e


def _near(pattern: str, names: list[str], count: int = 5) -> list[str]:
    plain = re.sub(r"[^\w/]+", "", pattern)

    def likeness(name: str) -> float:
        return difflib.SequenceMatcher(None, plain, name).ratio()

    return sorted(names, key=likeness, reverse=True)[:count] or ["(the tree is empty)"]
