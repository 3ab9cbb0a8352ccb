"""Plots of costs: ratios, rooflines, fronts."""

from collections.abc import Mapping, Sequence

import numpy as np

import hw
from experiments.hardware.entry import Entry
from experiments.results import Figure, Series


def ratios(entries: Sequence[Entry]) -> list[Figure]:
    """Returns predicted over published of every predicted row, by table."""
    shown = [e for e in entries if e.kind == "predicted"]
    tables = dict.fromkeys(e.table for e in shown)
    if not shown:
        return []
    series = [
        Series(
            table,
            [e.published for e in shown if e.table == table],
            [e.ratio for e in shown if e.table == table],
        )
        for table in tables
    ]
    return [
        Figure(
            "Predicted over published",
            *("errorbar", "published value, its own unit", "ratio"),
            series,
            log_x=True,
            log_y=True,
        )
    ]


def roofline(title: str, found: hw.Roofline) -> Figure:
    """Returns products below the roof of a target."""
    low, high = float(found.reuse.min()) / 2, float(found.reuse.max()) * 2
    x = np.geomspace(low, high, 33)
    roof = np.minimum(found.peak, x * found.bandwidth)
    return Figure(
        title,
        *("errorbar", "multiply-accumulates for each byte", "GMAC/s"),
        [
            Series("roof", x.tolist(), (roof / 1e9).tolist()),
            Series("products", found.reuse.tolist(), (found.rate / 1e9).tolist()),
        ],
        log_x=True,
        log_y=True,
    )


def front(
    title: str,
    points: Mapping[str, np.ndarray],
    xlabel: str = "latency (ms)",
    ylabel: str = "energy (mJ)",
) -> Figure:
    """Returns designs by label and, of all of them, the Pareto front.

    Args:
      title: of the plot.
      points: two objectives [designs, 2] by label.
      xlabel: of the first.
      ylabel: of the second.
    """
    everything = np.concatenate(list(points.values()))
    best = everything[np.asarray(hw.pareto(everything))]
    best = best[np.argsort(best[:, 0])]
    series = [Series(k, v[:, 0].tolist(), v[:, 1].tolist()) for k, v in points.items()]
    series.append(Series("Pareto front", best[:, 0].tolist(), best[:, 1].tolist()))
    return Figure(title, "errorbar", xlabel, ylabel, series, log_x=True, log_y=True)
