"""The files of a sweep: `sweep.md`, `sweep.csv`, `sweep.png`, `report.html`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments import files
from experiments.report import html, page, plots, results_md, text
from experiments.sweep import tables
from experiments.sweep.tables import Entry, Table


class Summary(NamedTuple):
    """What a sweep's pages say above the tables.

    Attributes:
      experiment: its name.
      paper: the paper's document, as in `results.json`.
      mode: of all cells.
      axes: the grid's names and values, as text.
      seeds: of each cell.
      flags: other options that all cells share.
      tasks: how many runs the sweep has in all.
      failures: a line for each run that failed.
      data: of the finished runs.
      devices: of the finished runs.
    """

    experiment: str
    paper: Mapping[str, Any]
    mode: str
    axes: Mapping[str, Sequence[str]]
    seeds: Sequence[int]
    flags: Mapping[str, str]
    tasks: int
    failures: Sequence[str]
    data: Sequence[str]
    devices: Sequence[str]

    def facts(self) -> list[tuple[str, str]]:
        """Returns names and values, plain text; some values may be empty."""
        grid = "; ".join(f"{k} = {', '.join(v)}" for k, v in self.axes.items())
        flags = ", ".join(f"{key}={value}" for key, value in self.flags.items())
        ended = self.tasks - len(self.failures)
        return [
            ("Mode", self.mode),
            ("Grid", grid),
            ("Seeds", ", ".join(map(str, self.seeds))),
            ("Other options", flags),
            ("Data", "; ".join(self.data)),
            ("Device", "; ".join(self.devices)),
            ("Runs", f"{ended} of {self.tasks} finished"),
        ]


def write(
    workdir: Path,
    summary: Summary,
    entries: Sequence[Entry],
    made: Sequence[Table],
    curves: list[dict[str, Any]],
) -> list[Path]:
    """Writes a sweep's files into `workdir` and returns their paths.

    Without any number to show there is no plot, and an old one is removed.

    Args:
      workdir: the sweep's folder.
      summary: what the pages say above the tables.
      entries: what was measured.
      made: the tables of the entries.
      curves: plots of what changed during the runs, for the page alone.
    """
    axes = list(summary.axes)
    figures = tables.to_figures(entries, axes)
    image = workdir / "sweep.png"
    texts = {
        workdir / "sweep.md": _markdown(summary, made, bool(figures)),
        workdir / "sweep.csv": tables.to_csv(entries, axes),
        workdir / html.FILE: _page(summary, made, figures, curves),
    }
    for path, content in texts.items():
        files.write_text(path, content)
    image.unlink(missing_ok=True)
    if figures:
        plots.png(figures, image)
    return [*texts, *([image] if figures else [])]


def _markdown(summary: Summary, made: Sequence[Table], plotted: bool) -> str:
    escape = results_md.escape
    facts = [f"- {key}: {escape(value)}" for key, value in summary.facts() if value]
    parts = [
        f"# Sweep of {escape(summary.experiment)}",
        escape(text.paper(summary.paper)),
        "\n".join(facts),
        _explain(summary),
    ]
    for table in made:
        parts += [
            f"## {escape(table.title)}",
            results_md.table(table.heads, table.rows, len(table.heads) - table.axes),
        ]
    if plotted:
        parts.append("![Each metric against the first axis](sweep.png)")
    if summary.failures:
        failed = "\n".join(f"- {escape(line)}" for line in summary.failures)
        parts += ["## Failed runs", failed]
    return "\n\n".join(parts) + "\n"


def _page(
    summary: Summary,
    made: Sequence[Table],
    figures: list[dict[str, Any]],
    curves: list[dict[str, Any]],
) -> str:
    facts = [(key, page.escape(value)) for key, value in summary.facts()]
    parts = [
        f"<h1>Sweep of {page.escape(summary.experiment)}</h1>",
        f'<p class="soft">{page.escape(text.paper(summary.paper))}</p>',
        page.facts(facts),
        f'<p class="soft lead">{page.escape(_explain(summary))}</p>',
    ]
    if figures:
        parts += ["<h2>Plots</h2>", html.figures(figures)]
    for table in made:
        rows = [[page.escape(cell) for cell in row] for row in table.rows]
        numeric = range(table.axes, len(table.heads))
        parts += [f"<h2>{page.escape(table.title)}</h2>"]
        parts += [page.table(table.heads, rows, numeric)]
    if curves:
        parts += ["<h2>Curves</h2>", html.figures(curves, "curve")]
    if summary.failures:
        parts += ["<h2>Failed runs</h2>", page.notes(summary.failures)]
    return page.document(f"Sweep of {summary.experiment}", "\n".join(parts))


def _explain(summary: Summary) -> str:
    if len(summary.seeds) < 2:
        return "One seed in each cell."
    return f"Mean ± sample standard deviation over {len(summary.seeds)} seeds."
