"""`report.html`: one run on one page, with nothing outside the file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments import files, results
from experiments.report import page, plots, text

FILE = "report.html"
_HEADS = ("Metric", "Setting", "Paper", "Ours", "Baseline", "Claim holds")


def write_html(workdir: str | Path) -> Path:
    """Writes `report.html` from `results.json` alone and returns its path.

    Args:
      workdir: a work folder with `results.json`, or that file; the report is
        written beside it.

    Raises:
      WorkdirError: there is no `results.json`.
      DataFormatError: it cannot be read as one.
    """
    path = Path(workdir)
    document = results.read(path)
    target = (path.parent if path.suffix == ".json" else path) / FILE
    files.write_text(target, render(document))
    return target


def render(document: Mapping[str, Any]) -> str:
    """Returns the page of a `results.json` document."""
    parts = [_head(document), "<h2>Claims and measurements</h2>", _claims(document)]
    if document["figures"]:
        parts += ["<h2>Plots</h2>", figures(document["figures"])]
    if document["notes"]:
        parts += ["<h2>Notes</h2>", page.notes(document["notes"])]
    parts += ["<h2>Configuration</h2>", _config(document)]
    title = f"{document['experiment']} ({document['mode']})"
    return page.document(title, "\n".join(parts))


def figures(drawn: list[dict[str, Any]], name: str = "plot") -> str:
    """Returns the plots of `figures`, one colour for each label in all of them.

    Args:
      drawn: documents of figures.
      name: starts the ids in the plots; each list of one page needs its own.
    """
    palette = plots.Palette(drawn)
    elements = [
        (figure["title"], plots.svg(figure, palette, f"{name}{index}"))
        for index, figure in enumerate(drawn)
    ]
    return page.plots(elements)


def _head(document: Mapping[str, Any]) -> str:
    seeds = ", ".join(map(str, document["seeds"]))
    circumstances = [
        ("Mode", page.escape(document["mode"])),
        ("Seeds", page.escape(seeds)),
        ("Data", page.escape("; ".join(document["data"]))),
        ("Device", page.escape(document["device"])),
        ("Time", page.escape(text.duration(document["seconds"]))),
        ("Command", f"<code>{page.escape(document.get('command', ''))}</code>"),
    ]
    claim = page.escape(document.get("claim", ""))
    return "\n".join(
        [
            f"<h1>{page.escape(document['experiment'])}</h1>",
            f'<p class="soft">{page.escape(text.paper(document["paper"]))}</p>',
            f'<p class="lead">{claim}</p>' if claim else "",
            f"<p><strong>{page.escape(text.verdict(document['rows']))}.</strong></p>",
            page.facts(circumstances),
        ]
    )


def _claims(document: Mapping[str, Any]) -> str:
    seeds = len(document["seeds"])
    rows = [_row(row, seeds) for row in document["rows"]]
    note = "Ours is the number of this run"
    if seeds > 1:
        note += f": mean ± sample standard deviation over {seeds} seeds"
    return (
        page.table(_HEADS, rows, numeric=(2, 3, 4))
        + f'\n<p class="soft">{note}. Paper and baseline: {text.NOTHING} where there '
        "is none; the last column is computed from the numbers of its row.</p>"
    )


def _row(row: Mapping[str, Any], seeds: int) -> list[str]:
    simulated = ' <span class="tag">simulated</span>' if row["simulated"] else ""
    word = text.HOLDS[row["holds"]]
    kind = {True: "yes", False: "no", None: "soft"}[row["holds"]]
    return [
        page.escape(row["metric"]) + simulated,
        page.escape(row["setting"]),
        page.escape(text.other(row, "paper")),
        page.escape(text.measured(row, seeds)),
        page.escape(text.other(row, "baseline")),
        f'<span class="{kind}">{word}</span>',
    ]


def _config(document: Mapping[str, Any]) -> str:
    config, versions = document["config"], document.get("versions", {})
    cells = [
        [f"<code>{page.escape(key)}</code>", page.escape(text.scalar(value))]
        for key, value in config.items()
    ]
    used = ", ".join(f"{key} {value}" for key, value in versions.items())
    return (
        f"<details><summary>{len(config)} options of this run</summary>\n"
        f"{page.table(('Option', 'Value'), cells)}\n</details>"
        + (f'\n<p class="soft">{page.escape(used)}</p>' if used else "")
    )
