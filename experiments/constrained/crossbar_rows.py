"""Rows and figures of networks for memristor crossbars."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.constrained.crossbars import SAME, WAYS
from experiments.differences import difference
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
        setting = f"{title}, {rate:g}x, {WAYS[way]}"
        values = [r["accuracy"] for r in results]
        yield mean_row("accuracy, pruned", setting, values, baseline=base, unit="%")
        yield from _sizes(setting, results)
        yield from _kept(setting, results, judged, tolerance)
    for (way, rate, bits), results in levels.items():
        setting = f"{title}, {rate:g}x, {WAYS[way]}, {bits} bits"
        before = mean_std([r["purified"] for r in found[way, rate]])[0]
        for key, metric in (
            ("accuracy", "accuracy, ADMM towards levels"),
            ("rounded", "accuracy, rounded"),
        ):
            values = [r[key] for r in results]
            yield mean_row(metric, setting, values, baseline=before, unit="%")
        counts = [r["arrays"] for r in results]
        yield mean_row("arrays of 128 x 64 cells", setting, counts)
        lost = sum(r["rounded to 0"] for r in results)
        metric = "weights that levels make 0"
        yield Row(metric, setting, lost, baseline=0, holds=lost == 0)


STEPS = ("dense", "pruned", "without unused paths", "purified and without paths")


def _sizes(setting: str, results: Sequence[Mapping[str, Any]]) -> Iterable[Row]:
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
    more = [r["weights"][1] / r["weights"][3] for r in results]
    yield mean_row("compression by both passes beyond pruning", setting, more, unit="x")


def _kept(
    setting: str,
    results: Sequence[Mapping[str, Any]],
    judged: bool,
    tolerance: float,
) -> Iterable[Row]:
    changed = sum(r["changed"] for r in results)
    metric = "predictions that path removal changes"
    yield Row(metric, setting, changed, baseline=0, holds=changed == 0)
    worst = max(r["difference"] for r in results)
    metric = "largest difference of logits by path removal"
    yield Row(metric, setting, worst, baseline=SAME, holds=worst <= SAME)
    lead = difference(
        [r["purified"] for r in results], [r["accuracy"] for r in results]
    )
    yield Row(
        f"change of accuracy by purification (at least {-tolerance:g})",
        f"{setting}, {lead.text}",
        lead.mean,
        lead.std if lead.seeds > 1 else None,
        unit="points",
        holds=lead.mean >= -tolerance if judged and lead.seeds >= 3 else None,
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
        label = f"{rate:g}x, {WAYS[way]}, {bits} bits"
        series.append(Series(label, [float(s) for s in sigmas], means, stds))
    name = f"{title}: accuracy with conductances that differ"
    return [Figure(name, "errorbar", "sigma of log conductance", "%", series)]
