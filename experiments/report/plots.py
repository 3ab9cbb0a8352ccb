"""Figures of `results.json` drawn with matplotlib, without its global figures.

A `Palette` gives each label one colour in all figures of a report, in the order
of first appearance. `svg` draws for a page that may be light or dark: text and
axes take the colour of the text around them. `png` draws on white.
"""

import io
import math
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.figure import FigureBase
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.textpath import text_to_path
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

COLOURS = (
    "#3f7fd9",
    "#e2792f",
    "#2f9e6e",
    "#c2528b",
    "#8c6fd6",
    "#b08e1e",
    "#2f9fb0",
    "#cf4f4f",
)
DASHES = ("-", (0, (4, 1.6)), (0, (1, 1.3)), (0, (5, 1.4, 1, 1.4)))
MARKERS = ("o", "s", "^", "D")
_SIZE = (5.7, 3.5)
_INK = "#010203"  # replaced by currentColor in SVG
_LARGEST = 1e100  # beyond it a value is drawn as a gap
_STYLE: dict[str, Any] = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "lines.linewidth": 1.7,
    "lines.markersize": 4,
    "errorbar.capsize": 3,
    "legend.frameon": False,
    "legend.fontsize": 8.8,
    "svg.fonttype": "path",
    "svg.hashsalt": "lathe",
}
_INKED = (
    *("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor"),
    *("xtick.color", "ytick.color", "grid.color", "legend.labelcolor"),
)
_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))

Document = Mapping[str, Any]
Style = tuple[str, Any, str]


class Palette:
    """Styles by label, in the order of first appearance in `figures`."""

    def __init__(self, figures: Sequence[Document]):
        labels = [s["label"] for figure in figures for s in figure["series"]]
        self._index = {label: i for i, label in enumerate(dict.fromkeys(labels))}

    def style(self, label: str) -> Style:
        """Returns the colour, line style and marker of a label."""
        turn, place = divmod(self._index[label], len(COLOURS))
        turn %= len(DASHES)
        return COLOURS[place], DASHES[turn], MARKERS[turn]


def svg(figure: Document, palette: Palette, prefix: str) -> str:
    """Returns a figure as an SVG element for the inside of an HTML page.

    Args:
      figure: an entry of `figures` in `results.json`.
      palette: the styles of the report, made from figures that include this one.
      prefix: starts every id in the element; different for each one of a page.
    """
    buffer = io.StringIO()
    with _drawing(_INK):
        canvas = Canvas(figsize=_SIZE, layout="constrained")
        _draw(canvas, figure, palette)
        canvas.savefig(buffer, format="svg", transparent=True, metadata=_METADATA)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    text = re.sub(r'\s(width|height)="[\d.]+pt"', "", text, count=2)
    return text.replace(_INK, "currentColor").strip()


def png(figures: Sequence[Document], path: Path) -> None:
    """Draws all `figures`, at least one, in one PNG file, two in a row, on white."""
    palette = Palette(figures)
    columns = min(2, len(figures))
    rows = -(-len(figures) // columns)
    with _drawing("#222222"):
        size = (_SIZE[0] * columns, _SIZE[1] * rows)
        layout = ConstrainedLayoutEngine(h_pad=0.09, w_pad=0.12)
        canvas = Canvas(figsize=size, layout=layout, facecolor="white")
        cells = canvas.subfigures(rows, columns, squeeze=False).ravel()
        for cell, figure in zip(cells, figures, strict=False):
            _draw(cell, figure, palette)
        canvas.savefig(path, format="png", dpi=130, metadata={"Software": None})


@contextmanager
def _drawing(ink: str) -> Iterator[None]:
    """Sets the style; mutes warnings, such as of characters the font lacks."""
    settings: Any = {**_STYLE, **dict.fromkeys(_INKED, ink)}
    with warnings.catch_warnings(), mpl.rc_context(settings):
        warnings.simplefilter("ignore")
        yield


def _draw(canvas: FigureBase, figure: Document, palette: Palette) -> None:
    kinds: dict[str, Callable[[Axes, Document, Document, Style, int], Any]] = {
        "line": _line,
        "errorbar": _points,
        "bar": _bars,
        "hist": _steps,
    }
    axes = canvas.add_subplot()
    draw = kinds[figure["kind"]]
    handles = [
        draw(axes, figure, series, palette.style(series["label"]), index)
        for index, series in enumerate(figure["series"])
    ]
    axes.grid(axis="y", alpha=0.16, linewidth=0.8)
    axes.set_title(_safe(figure["title"], 66), parse_math=False)
    axes.set_xlabel(_safe(figure["xlabel"]), parse_math=False)
    axes.set_ylabel(_safe(figure["ylabel"]), parse_math=False)
    _scale(axes, figure)
    _legend(canvas, handles, figure)


def _line(axes: Axes, figure: Document, series: Document, style: Style, _: int) -> Any:
    colour, dashes, marker = style
    x, y = _positions(figure, series["x"]), _floats(series["y"])
    shown = marker if len(y) <= 25 else ""
    (line,) = axes.plot(x, y, color=colour, linestyle=dashes, marker=shown)
    if series.get("yerr") is not None:
        error = _errors(series)
        low = y - error
        low = np.where(low > 0, low, y) if figure["log_y"] else low
        axes.fill_between(x, low, y + error, color=colour, alpha=0.16, linewidth=0)
    return line


def _points(
    axes: Axes, figure: Document, series: Document, style: Style, _: int
) -> Any:
    colour, dashes, marker = style
    x, y = _positions(figure, series["x"]), _floats(series["y"])
    look = {"color": colour, "linestyle": dashes, "marker": marker, "elinewidth": 1.1}
    return axes.errorbar(x, y, yerr=_errors(series), **look)


def _bars(
    axes: Axes, figure: Document, series: Document, style: Style, index: int
) -> Any:
    count = len(figure["series"])
    width = 0.78 / count
    left = _positions(figure, series["x"]) + (index - (count - 1) / 2) * width
    whiskers = {"elinewidth": 1, "ecolor": mpl.rcParams["axes.edgecolor"]}
    return axes.bar(
        left,
        _floats(series["y"]),
        width * 0.94,
        yerr=_errors(series),
        color=style[0],
        error_kw=whiskers,
    )


def _steps(axes: Axes, figure: Document, series: Document, style: Style, _: int) -> Any:
    colour = style[0]
    x, y = _positions(figure, series["x"]), _floats(series["y"])
    if len(x) != len(y) + 1:
        (line,) = axes.step(x, y, where="mid", color=colour)
        return line
    floor = None if figure["log_y"] else 0
    filled = not figure["log_y"]
    axes.stairs(y, x, color=colour, alpha=0.18, fill=filled, baseline=floor)
    return axes.stairs(y, x, color=colour, linewidth=1.4, baseline=floor)


def _names(figure: Document) -> list[str]:
    """Returns the categories of a figure in order of appearance, or []."""
    values = [x for series in figure["series"] for x in series["x"]]
    if figure["kind"] != "bar" and not any(isinstance(x, str) for x in values):
        return []
    return list(dict.fromkeys(map(_name, values)))


def _name(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _positions(figure: Document, values: Sequence[Any]) -> np.ndarray:
    names = _names(figure)
    if not names:
        return _floats(values)
    return np.array([names.index(_name(value)) for value in values], float)


def _scale(axes: Axes, figure: Document) -> None:
    names = _names(figure)
    all_x = [] if names else [x for s in figure["series"] for x in s["x"]]
    all_y = [y for s in figure["series"] for y in s["y"] if y is not None]
    if names:
        _categories(axes, [_safe(name, 22) for name in names])
    elif figure["log_x"]:
        _log(axes.set_xscale, axes.xaxis, all_x)
    else:
        whole = all(x == int(x) for x in all_x)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=whole))
    if figure["log_y"]:
        _log(axes.set_yscale, axes.yaxis, all_y)


def _categories(axes: Axes, names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), names)
    crowded = sum(map(len, names)) > 70
    for label in axes.get_xticklabels():
        label.set_parse_math(False)
        if crowded:
            label.set(rotation=35, ha="right", rotation_mode="anchor")


def _log(set_scale: Callable[[str], None], axis: Any, values: Sequence[float]) -> None:
    """Sets a log scale, with labels at the values themselves where they are few."""
    shown = sorted({v for v in values if 0 < v < _LARGEST})
    if not shown:
        return
    set_scale("log")
    decades = math.log10(shown[-1] / shown[0])
    if len(shown) <= 6 and axis.axis_name == "x":
        axis.set_ticks(shown)
        axis.set_minor_locator(NullLocator())
    elif decades < 2.5:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _legend(canvas: FigureBase, handles: Sequence[Any], figure: Document) -> None:
    """Puts the legend below the axes, where it can cover no data."""
    labels = [_safe(series["label"], 40) for series in figure["series"]]
    if not any(labels):
        return
    legend = canvas.legend(
        list(handles),
        [" " + label for label in labels],  # matplotlib hides a leading underscore
        loc="outside lower left",
        ncols=_columns(labels),
        handlelength=2.0,
        handletextpad=0.6,
        columnspacing=1.4,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _columns(labels: Sequence[str]) -> int:
    """Returns how many columns of the widest label fit below the axes."""
    font = FontProperties(size=_STYLE["legend.fontsize"])
    sizes = [text_to_path.get_text_width_height_descent(t, font, False) for t in labels]
    column = max(size[0] for size in sizes) + 4.8 * _STYLE["legend.fontsize"]
    return max(1, min(len(labels), int((72 * _SIZE[0] - 12) // column)))


def _floats(values: Sequence[Any]) -> np.ndarray:
    floats = np.array([math.nan if v is None else float(v) for v in values])
    return np.where(np.abs(floats) > _LARGEST, np.nan, floats)


def _errors(series: Document) -> np.ndarray | None:
    if series.get("yerr") is None:
        return None
    return np.abs(np.nan_to_num(_floats(series["yerr"])))


def _safe(text: str, longest: int = 100) -> str:
    """Returns text that any SVG can hold: control characters become U+FFFD."""
    bad = ("Cc", "Cs", "Co", "Cn")
    text = "".join("\ufffd" if unicodedata.category(c) in bad else c for c in text)
    return text if len(text) <= longest else text[: longest - 1] + "…"
