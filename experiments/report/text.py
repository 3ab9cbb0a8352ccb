"""Numbers and circumstances as short text, the same in every report."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

NOTHING = "—"
NOT_FINITE = "not finite"
HOLDS = {True: "yes", False: "no", None: NOTHING}


def number(value: float, decimals: int | None = None) -> str:
    """Returns a number to four significant digits, or to so many decimals.

    Integers keep all their digits; thousands are separated from 10,000 on.
    """
    if decimals is None:
        if value == 0 or (isinstance(value, int) and abs(value) < 10**15):
            return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.0f}"
        size = math.floor(math.log10(abs(value)))
        if not -4 <= size < 15:
            return f"{value:.3e}"
        decimals = max(0, 3 - size)
    return f"{value:,.{decimals}f}" if abs(value) >= 10_000 else f"{value:.{decimals}f}"


def with_unit(text: str, unit: str) -> str:
    """Returns '98.1 %', '22.9x', '266,200' or '1.2 ms'."""
    if not unit or text in (NOTHING, NOT_FINITE):
        return text
    return f"{text}{unit}" if unit == "x" else f"{text} {unit}"


def spread(value: float | None, std: float | None) -> str:
    """Returns 'mean ± std' with the decimals that the deviation justifies.

    That is two significant digits of a deviation that starts with 1 or 2, else one.
    """
    if value is None:
        return NOT_FINITE
    if std is None or not std:
        return number(value) + ("" if std is None else " ± 0")
    size = math.floor(math.log10(abs(std)))
    if not -6 <= size < 9 or abs(value) >= 1e12:
        return f"{value:.4g} ± {std:.1e}"
    digits = 2 if abs(std) < 2.95 * 10**size else 1
    decimals = max(0, digits - 1 - size)
    return f"{number(value, decimals)} ± {number(std, decimals)}"


def measured(row: Mapping[str, Any], seeds: int) -> str:
    """Returns the measured cell of a row: no deviation where there is one seed."""
    std = row["std"] if seeds > 1 else None
    return with_unit(spread(row["measured"], std), row["unit"])


def other(row: Mapping[str, Any], key: str) -> str:
    """Returns the cell of `key` ('baseline' or 'paper') of a row."""
    if row[key] is None:
        return NOT_FINITE if key in row.get("not_finite", ()) else NOTHING
    return with_unit(number(row[key]), row["unit"])


def duration(seconds: float) -> str:
    """Returns '48 s', '3 min 20 s' or '2 h 05 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def paper(reference: Mapping[str, Any]) -> str:
    """Returns the reference: 'A, B et al. Title. arXiv:1804.03294 (2018)'."""
    authors: Sequence[str] = reference["authors"]
    named = " and ".join(authors) if len(authors) < 3 else f"{authors[0]} et al."
    arxiv = f"arXiv:{reference['arxiv']}" if reference.get("arxiv") else ""
    place = ", ".join(part for part in (reference.get("venue"), arxiv) if part)
    year = number(reference["year"])
    title = reference["title"].rstrip(".")
    start = f"{named.rstrip('.')}. " if named else ""
    return f"{start}{title}. {place} ({year})" if place else f"{start}{title} ({year})"


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns how many of the claims hold, and of the checks, in words."""
    judged = [row for row in rows if row["holds"] is not None]
    claims = [row["holds"] for row in judged if not row.get("check")]
    checks = [row["holds"] for row in judged if row.get("check")]
    noun = "claim" if len(claims) == 1 else "claims"
    found = f"{sum(claims)} of {len(claims)} {noun} reproduced"
    found = found if claims else "No claim was judged"
    if not checks:
        return found
    noun = "check" if len(checks) == 1 else "checks"
    return f"{found}; {sum(checks)} of {len(checks)} {noun} passed"


def scalar(value: Any) -> str:
    """Returns a config value as it would be given on the command line."""
    if isinstance(value, list):
        return ",".join(scalar(item) for item in value)
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, dict):
        return "; ".join(f"{key}: {scalar(item)}" for key, item in value.items())
    return str(value)
