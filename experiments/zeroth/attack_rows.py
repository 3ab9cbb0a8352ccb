"""Rows and figures of `hge_attack`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.results import Figure, Row, Series
from experiments.zeroth.attacks import TITLES

Found = Mapping[str, Mapping[str, Any]]
"""What attacks found, by method; "rate", "spent" and lists over images."""


def rows(title: str, goal: str, found: Found, budget: int) -> Iterable[Row]:
    """Yields success, queries and distance of every method.

    Args:
      title: of the network.
      goal: of the attacks, in words.
      found: see `Found`.
      budget: of each attack.
    """
    for name, each in found.items():
        setting = f"{title}, {goal}, {TITLES[name]}"
        success = np.asarray(each["success"])
        spent = np.asarray(each["spent"], float)
        yield Row("attack success", setting, 100 * float(success.mean()), unit="%")
        if each.get("near"):
            reached = float(np.mean(each["l2"]))
            yield Row("l2 distance that was reached, mean", setting, reached)
        if each.get("shared"):
            share = 100 * float(np.mean(each["fraction"]))
            yield Row("images that are wrong", setting, share, unit="%")
        yield Row("mean queries, all of the budget if in vain", setting, spent.mean())
        if success.any():
            first = np.asarray(each["queries"])[success]
            metric = "median queries to first success"
            yield Row(metric, setting, float(np.median(first)))
            l2 = np.asarray(each["l2"])[success]
            metric = "l2 distance of what succeeded, mean"
            yield Row(metric, setting, float(l2.mean()))
    most = max(max(each["queries"]) for each in found.values())
    # No claim: an attack beyond its budget would have ended the run.
    metric = "most queries of any attack, beside the budget"
    yield Row(metric, f"{title}, {goal}", most, baseline=budget)


def gain_row(
    title: str, goal: str, found: Found, ours: str, theirs: Sequence[str], judged: bool
) -> Row:
    """Returns how many times fewer queries a method takes than the best of others.

    Args:
      title: of the network.
      goal: of the attacks, in words.
      found: see `Found`.
      ours: a method.
      theirs: others, all of which were run.
      judged: whether sizes are those of full mode.
    """
    means = {name: float(np.mean(found[name]["spent"])) for name in theirs}
    best = min(means, key=means.__getitem__)
    a, b = (np.asarray(found[name]["spent"], float) for name in (best, ours))
    rng = np.random.default_rng(0)
    draw = rng.integers(0, len(a), (2000, len(a)))  # the same images on both sides
    low, high = np.quantile(a[draw].mean(1) / b[draw].mean(1), [0.025, 0.975])
    gain = float(a.mean() / b.mean())
    setting = f"{title}, {goal}, over {TITLES[best]}, 95 % [{low:.2f}, {high:.2f}]"
    metric = f"times fewer mean queries by {TITLES[ours]} (interval above 1)"
    # Fewer queries on these images may be luck; the low end of the interval is not.
    return Row(metric, setting, gain, holds=bool(low > 1) if judged else None)


def distance_figure(title: str, goal: str, found: Found) -> Figure:
    """Returns the distances that decision attacks reached, by method."""
    names = [TITLES[name] for name in found]
    means = [float(np.mean(each["l2"])) for each in found.values()]
    series = [Series("", names, means)]
    return Figure(f"{title}, {goal}", "bar", "", "mean l2 distance", series)


def success_figure(title: str, goal: str, found: Found, budget: int) -> Figure:
    """Returns the share of images that are wrong by queries, for each method."""
    grid = np.unique(np.geomspace(10, budget, 40).astype(int))
    series = []
    for name, each in found.items():
        ok, queries = np.asarray(each["success"]), np.asarray(each["queries"])
        share = [100 * float((ok & (queries <= q)).mean()) for q in grid]
        series.append(Series(TITLES[name], grid.tolist(), share))
    return Figure(f"{title}, {goal}", "line", "queries", "success, %", series, True)
