"""Rows and figures of networks for memristor crossbars."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.constrained import checks
from experiments.constrained.crossbars import WAYS
from experiments.differences import EQUAL, SEEDS, difference, lead_row
from experiments.results import Figure, Row, Series, mean_row, mean_std


def rows(
    title: str,
    dense: Sequence[float],
    found: Mapping[tuple[str, float], Sequence[Mapping[str, Any]]],
    levels: Mapping[tuple[str, float, int], Sequence[Mapping[str, Any]]],
    judged: bool,
    tolerance: float = 0.3,
) -> Iterable[Row]:
    """Yields accuracies, sizes and arrays after each step, and the claims.

    Args:
      title: of the network.
      dense: accuracies of the control.
      found: of pruned networks, over seeds, by way and rate.
      levels: of those with levels, by width too.
      judged: whether data and training are those of full mode.
      tolerance: points that purification may cost.
    """
    base = mean_std(dense)[0]
    yield mean_row("accuracy", f"{title}, dense", dense, unit="%")
    for (way, rate), results in found.items():
        setting = _setting(title, way, rate, results)
        values = [r["accuracy"] for r in results]
        yield mean_row("accuracy, pruned", setting, values, baseline=base, unit="%")
        yield from checks.residual_rows(f"{setting}, pruning", results)
        yield from _sizes(setting, results, judged)
        yield from checks.equality_rows("path removal", setting, results)
        yield _purified(setting, results, judged, tolerance)
    for (way, rate, bits), results in levels.items():
        floats = [r["floats"] for r in results]
        base = mean_std(floats)[0]
        setting = f"{_setting(title, way, rate, found[way, rate])}, {bits} bits"
        for key, metric in (
            ("accuracy", "accuracy, ADMM towards levels"),
            ("rounded", "accuracy, rounded"),
        ):
            values = [r[key] for r in results]
            yield mean_row(metric, setting, values, baseline=base, unit="%")
        yield from checks.residual_rows(setting, results)
        lead = difference([r["accuracy"] for r in results], floats)
        rule = EQUAL if bits == CLAIMED_BITS else ""
        metric = "levels above floats trained as long"
        yield lead_row(metric, setting, lead, rule, judged)
        counts = [r["arrays"] for r in results]
        yield mean_row("arrays of 128 x 64 cells", setting, counts)
        # By construction: the set of levels has no 0.
        lost = sum(r["rounded to 0"] for r in results)
        yield Row("weights that levels make 0", setting, lost, baseline=0)
        off = max(r["programmed"] for r in results)
        metric = "largest error of a programmed weight without noise, in levels"
        near = off <= EXACT
        yield Row(metric, setting, off, baseline=EXACT, holds=near, check=True)


CLAIMED_BITS = 8
"""The width that the paper says costs nearly nothing."""
EXACT = 1e-3
"""Of a level: conductances are floats."""


def _setting(
    title: str, way: str, rate: float, results: Sequence[Mapping[str, Any]]
) -> str:
    """Names the compression that pruning met: whole arrays may be far from the rate."""
    met = mean_std([r["weights"][0] / r["weights"][1] for r in results])[0]
    return f"{title}, {met:.3g}x (asked: {rate:g}x), {WAYS[way]}"


STEPS = ("dense", "pruned", "without unused paths", "purified and without paths")


def _sizes(
    setting: str, results: Sequence[Mapping[str, Any]], judged: bool
) -> Iterable[Row]:
    for i, step in enumerate(STEPS[1:], start=1):
        at = f"{setting}, {step}"
        ratio = [r["weights"][0] / r["weights"][i] for r in results]
        yield mean_row("compression of weights", at, ratio, unit="x")
        whole = mean_std([r["arrays"][0] for r in results])[0]
        counts = [r["arrays"][i] for r in results]
        yield mean_row("arrays of 128 x 64 cells", at, counts, baseline=whole)
        for key in ("area", "power"):
            share = [r[key][i] / r[key][0] for r in results]
            yield mean_row(f"{key}, over dense", at, share)._replace(simulated=True)
    for metric, i in (
        ("compression by both passes beyond pruning (above 1)", 1),
        ("compression by purification beyond path removal (above 1)", 2),
    ):
        more = _gain(results, i)
        holds = difference(more, [1.0] * len(more)).better(judged)
        row = mean_row(metric, setting, more, baseline=1, unit="x")
        yield row._replace(holds=holds)


def _gain(results: Sequence[Mapping[str, Any]], i: int) -> list[float]:
    """How many times fewer weights the last step leaves than step i."""
    return [r["weights"][i] / r["weights"][3] for r in results]


def _purified(
    setting: str,
    results: Sequence[Mapping[str, Any]],
    judged: bool,
    tolerance: float,
) -> Row:
    lead = difference(
        [r["purified"] for r in results], [r["accuracy"] for r in results]
    )
    # What removes nothing costs nothing: that shows no more than the row above.
    judged &= lead.seeds >= SEEDS and min(_gain(results, 2)) > 1
    return Row(
        f"change of accuracy by purification (at least {-tolerance:g})",
        f"{setting}, {lead.text}",
        lead.mean,
        lead.std if lead.seeds > 1 else None,
        unit="points",
        holds=lead.mean >= -tolerance if judged else None,
    )


def figures(
    title: str, levels: Mapping[tuple[str, float, int], Sequence[Mapping[str, Any]]]
) -> list[Figure]:
    """Returns accuracy against the spread of conductances, of every width."""
    series = []
    for (way, rate, bits), results in levels.items():
        sigmas = list(results[0]["noise"])
        points = [mean_std([r["noise"][s] for r in results]) for s in sigmas]
        means, stds = zip(*points, strict=True)
        label = f"asked: {rate:g}x, {WAYS[way]}, {bits} bits"
        series.append(Series(label, [float(s) for s in sigmas], means, stds))
    name = f"{title}: accuracy with conductances that differ"
    return [Figure(name, "errorbar", "sigma of log conductance", "%", series)]
