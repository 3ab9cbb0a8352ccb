"""Reports, made from `results.json` alone.

| name | what it makes |
| --- | --- |
| `write_html(workdir)` | `report.html` beside `results.json`, with nothing outside it |
| `write_results_md(workdirs, path)` | one Markdown page of exactly these runs |

Both can be repeated at any time (`python launch.py report DIR...`) and give the
same bytes for the same input.

    from experiments import report
    print(report.write_html("work/admm_pruning/quick"))
"""

from experiments.report.html import write_html
from experiments.report.results_md import write_results_md

__all__ = ["write_html", "write_results_md"]
