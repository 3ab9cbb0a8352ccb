"""The schema of `results.json`, as tables, and its check.

`problem` names the first key that does not fit; `load` reads a file through it.
Keys that the schema does not know are let through, so that a newer file can be
read by an older report.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from core.errors import DataFormatError, describe

KINDS = ("line", "errorbar", "bar", "hist")
_HUGE = sys.float_info.max


def _number(value: Any) -> bool:
    fits = isinstance(value, int | float) and not isinstance(value, bool)
    return fits and -_HUGE <= value <= _HUGE


def _list_of(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(test, value))


def _or_null(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or test(value)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _seed(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _points(value: Any) -> bool:
    return _list_of(_number)(value) or _list_of(_text)(value)


def _boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _object(value: Any) -> bool:
    return isinstance(value, dict)


Table = Mapping[str, tuple[Callable[[Any], bool], str]]

_TOP: Table = {
    "experiment": (_text, "a string"),
    "paper": (_object, "an object with the paper's key, title, authors and year"),
    "mode": (_text, "a string"),
    "seeds": (_list_of(_seed), "a list of whole numbers"),
    "data": (_list_of(_text), "a list of strings"),
    "device": (_text, "a string"),
    "seconds": (_number, "a finite number"),
    "config": (_object, "an object"),
    "rows": (_list_of(_object), "a list of objects"),
    "figures": (_list_of(_object), "a list of objects"),
    "notes": (_list_of(_text), "a list of strings"),
}
_TOP_OPTIONAL: Table = {
    "claim": (_text, "a string"),
    "command": (_text, "a string"),
    "versions": (_object, "an object"),
}
_PAPER: Table = {
    "key": (_text, "a string"),
    "title": (_text, "a string"),
    "authors": (_list_of(_text), "a list of strings"),
    "year": (_number, "a number"),
}
_PAPER_OPTIONAL: Table = {
    "arxiv": (_or_null(_text), "a string or null"),
    "venue": (_or_null(_text), "a string or null"),
}
_ROW: Table = {
    "metric": (_text, "a string"),
    "setting": (_text, "a string"),
    "measured": (_or_null(_number), "a finite number, or null where not finite"),
    "std": (_or_null(_number), "a finite number or null"),
    "baseline": (_or_null(_number), "a finite number or null"),
    "paper": (_or_null(_number), "a finite number or null"),
    "unit": (_text, "a string"),
    "simulated": (_boolean, "true or false"),
    "holds": (_or_null(_boolean), "true, false or null"),
}
_ROW_OPTIONAL: Table = {
    "check": (_boolean, "true or false"),
    "not_finite": (_list_of(_text), "a list of strings"),
}
_FIGURE: Table = {
    "title": (_text, "a string"),
    "kind": (lambda value: value in KINDS, f"one of {', '.join(KINDS)}"),
    "xlabel": (_text, "a string"),
    "ylabel": (_text, "a string"),
    "series": (_list_of(_object), "a list of objects"),
    "log_x": (_boolean, "true or false"),
    "log_y": (_boolean, "true or false"),
}
_SERIES: Table = {
    "label": (_text, "a string"),
    "x": (_points, "a list of finite numbers or a list of names"),
    "y": (_list_of(_or_null(_number)), "a list of finite numbers or nulls"),
}
_SERIES_OPTIONAL: Table = {
    "yerr": (_or_null(_list_of(_or_null(_number))), "a list of numbers, or null"),
}


def problem(document: Any) -> str:
    """Returns what keeps `document` from being a `results.json`, or ''."""
    if not isinstance(document, dict):
        return describe(_brief(document), "an object at the top")
    found = _keys(document, "", _TOP, _TOP_OPTIONAL)
    found = found or _keys(document["paper"], "paper.", _PAPER, _PAPER_OPTIONAL)
    if found:
        return found
    for index, row in enumerate(document["rows"]):
        found = _row(row, f"rows[{index}].")
        if found:
            return found
    for index, figure in enumerate(document["figures"]):
        found = _figure(figure, f"figures[{index}].")
        if found:
            return found
    return ""


def load(file: Path) -> dict[str, Any]:
    """Returns the checked document in `file`.

    Raises:
      DataFormatError: not JSON, cut short, or not of this schema.
    """
    try:
        text = file.read_text(encoding="utf-8")
        document = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        expected = "the JSON document that a run writes"
        remedy = "Run the experiment again in its work folder to rewrite it"
        raise DataFormatError(f"{file}: {describe(error, expected, remedy)}") from error
    found = problem(document)
    if found:
        raise DataFormatError(f"{file}: {found}")
    return document


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant}, which JSON does not have")


def _keys(given: dict[str, Any], where: str, table: Table, optional: Table) -> str:
    for key, (test, expected) in {**table, **optional}.items():
        if key not in given:
            if key in table:
                return f"{where}{key}: {describe('no such key', expected)}"
        elif not _passes(test, given[key]):
            return f"{where}{key}: {describe(_brief(given[key]), expected)}"
    return ""


def _passes(test: Callable[[Any], bool], value: Any) -> bool:
    try:
        return test(value)
    except TypeError:
        return False


def _row(row: dict[str, Any], where: str) -> str:
    found = _keys(row, where, _ROW, _ROW_OPTIONAL)
    if not found and row["measured"] is None and row["holds"]:
        expected = "false or null where the measured number is not finite"
        return f"{where}holds: {describe('true', expected)}"
    return found


def _figure(figure: dict[str, Any], where: str) -> str:
    found = _keys(figure, where, _FIGURE, {})
    if found:
        return found
    for index, series in enumerate(figure["series"]):
        here = f"{where}series[{index}]."
        found = _keys(series, here, _SERIES, _SERIES_OPTIONAL)
        found = found or _lengths(series, here, figure["kind"] == "hist")
        if found:
            return found
    return ""


def _lengths(series: dict[str, Any], where: str, edges: bool) -> str:
    n, points = len(series["y"]), len(series["x"])
    if points != n and not (edges and points == n + 1):
        expected = f"{n} (as many as y)" + (f" or {n + 1} edges" if edges else "")
        return f"{where}x: {describe(f'{points} values', expected)}"
    yerr = series.get("yerr")
    if yerr is not None and len(yerr) != n:
        return f"{where}yerr: {describe(f'{len(yerr)} values', f'{n}, or null')}"
    return ""


def _brief(value: Any) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else text[:57] + "..."
