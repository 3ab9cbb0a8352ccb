"""The HTML page that reports share: skeleton, style, tables. No scripts."""

from collections.abc import Sequence
from html import escape as _escape

_STYLE = """
:root { color-scheme: light dark;
  --ground: #fcfcfa; --ink: #23262b; --soft: #666d78; --rule: #dcdedb;
  --panel: #f4f5f2; --yes: #18794e; --no: #b4292f; --link: #2458a8; }
@media (prefers-color-scheme: dark) { :root {
  --ground: #15171b; --ink: #dfe2e7; --soft: #969ea9; --rule: #32363d;
  --panel: #1c1f24; --yes: #5fca96; --no: #f0868b; --link: #8ab4f3; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
    "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 28px 64px; }
h1 { font-size: 27px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.01em; }
h2 { font-size: 17px; margin: 38px 0 12px; }
p { margin: 0 0 10px; max-width: 76ch; }
.soft { color: var(--soft); }
.lead { font-size: 16.5px; margin-top: 14px; }
code, pre { font: 13px/1.5 ui-monospace, "SF Mono", Menlo, Consolas,
  "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 20px;
  margin: 20px 0 0; padding: 14px 18px; background: var(--panel);
  border-radius: 7px; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; font-size: 13px; color: var(--soft);
  border-bottom: 1.5px solid var(--rule); padding: 6px 14px 6px 0; }
td { border-bottom: 1px solid var(--rule); padding: 7px 14px 7px 0;
  vertical-align: top; overflow-wrap: anywhere; }
td.n, th.n { text-align: right; white-space: nowrap; overflow-wrap: normal; }
td.n + td:not(.n), th.n + th:not(.n) { padding-left: 14px; white-space: nowrap; }
.wide + p { margin-top: 12px; }
.yes, .no { font-weight: 600; } .yes { color: var(--yes); } .no { color: var(--no); }
.tag { font-size: 12px; color: var(--soft); border: 1px solid var(--rule);
  border-radius: 9px; padding: 0 7px; white-space: nowrap; }
.plots { display: grid; gap: 26px 30px;
  grid-template-columns: repeat(auto-fit, minmax(min(430px, 100%), 1fr)); }
figure { margin: 0; } svg { display: block; width: 100%; height: auto; }
details { margin-top: 12px; } summary { cursor: pointer; color: var(--link); }
details table { width: auto; margin-top: 8px; }
ul { padding-left: 20px; max-width: 80ch; } li { margin-bottom: 5px; }
@media print { main { max-width: none; padding: 0; }
  figure, tr { break-inside: avoid; } }
"""


def escape(text: object) -> str:
    """Returns `text` as HTML that shows it; control characters become U+FFFD."""
    shown = "".join(c if c >= " " or c in "\n\t" else "\ufffd" for c in str(text))
    return _escape(shown.replace("\x7f", "\ufffd"), quote=True)


def document(title: str, body: str) -> str:
    """Returns a whole page that needs no other file.

    Args:
      title: plain text for the browser's tab.
      body: HTML, escaped by its maker.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int] = ()
) -> str:
    """Returns a table.

    Args:
      heads: the column heads, plain text.
      rows: the cells, HTML.
      numeric: the columns that are aligned to the right.
    """
    sides = [' class="n"' if i in numeric else "" for i in range(len(heads))]
    top = [f"<th{s}>{escape(h)}</th>" for s, h in zip(sides, heads, strict=True)]
    lines = [
        "".join(f"<td{s}>{cell}</td>" for s, cell in zip(sides, row, strict=True))
        for row in rows
    ]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f'<div class="wide"><table>\n<thead><tr>{"".join(top)}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Returns a list of names and values; the values are HTML, empty ones left out."""
    items = [f"<dt>{escape(key)}</dt><dd>{value}</dd>" for key, value in pairs if value]
    return "<dl>\n" + "\n".join(items) + "\n</dl>"


def plots(drawn: Sequence[tuple[str, str]]) -> str:
    """Returns a grid of plots, each one an accessible title and its SVG."""
    figures = [
        f'<figure role="img" aria-label="{escape(title)}">{element}</figure>'
        for title, element in drawn
    ]
    return '<div class="plots">\n' + "\n".join(figures) + "\n</div>"


def notes(lines: Sequence[str]) -> str:
    """Returns a bulleted list of plain text lines."""
    return (
        "<ul>\n" + "\n".join(f"<li>{escape(line)}</li>" for line in lines) + "\n</ul>"
    )
