"""Rows and figures of the experiment of widths that learn."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from core import trees
from experiments.differences import EQUAL, SEEDS, difference, lead_row
from experiments.results import Figure, Row, Series, mean_row, mean_std
from experiments.widths.networks import NETWORKS
from experiments.widths.protocol import METHODS, Trial
from quant.sensitivity import Sensitivity

FEW = 3.0
"""Average bits up to which one width for all is to cost accuracy."""
CORRELATED = 0.5
"""The least rank correlation of widths and sensitivities."""
TITLES = {
    "learned": "learned",
    "uniform": "one width",
    "random": "random",
    "greedy": "greedy by sensitivity",
    "tensor": "a width a kernel",
    "16": "a width for 16 channels",
    "channel": "a width a channel",
    "interpolation": "A, interpolated levels",
    "step": "B, real step",
    "categorical": "C, mixture of widths",
}
Found = Mapping[Trial, Mapping[str, Any]]


def seeds_of(found: Found, method: str, target: float) -> list[Mapping[str, Any]]:
    """Returns what a method found at a budget, by seed; nothing if it was not run."""
    return [
        result
        for trial, result in found.items()
        if trial == Trial(trial.network, trial.seed, method, target)
    ]


def accuracies(found: Found, method: str, target: float) -> list[float]:
    """Returns accuracies in % by seed."""
    return [result["accuracy"] for result in seeds_of(found, method, target)]


def targets(found: Found) -> list[float]:
    """Returns the budgets that widths were learned for in all seeds, rising."""
    first = next(iter(found)).seed
    return sorted(
        {
            t.target
            for t in found
            if t == Trial(t.network, first, "learned", t.target)
            and seeds_of(found, "random", t.target)
        }
    )


def rows(found: Found, floats: Sequence[float], judged: bool) -> Iterable[Row]:
    """Yields accuracies, sizes and differences of one network.

    Args:
      found: what `Protocol.run_trial` returned, by trial.
      floats: accuracies in % of the float networks, by seed.
      judged: whether data and training are those of full mode.
    """
    title = NETWORKS[next(iter(found)).network].title
    base = mean_std(floats)[0]
    yield mean_row("accuracy", f"{title}, float", floats, unit="%")
    for target in targets(found):
        at = f"{title}, {target:g} bits"
        for method in METHODS:
            parts = seeds_of(found, method, target)
            if not parts:
                continue
            setting = f"{at}, {TITLES[method]}"
            right, sizes, rates = (
                [p[name] for p in parts] for name in ("accuracy", "bytes", "rate")
            )
            yield mean_row("accuracy", setting, right, baseline=base, unit="%")
            yield mean_row("size with headers", setting, sizes, unit="bytes")
            yield Row("compression rate", setting, mean_std(rates)[0], unit="x")
        spent = max(p["bits"] for p in seeds_of(found, "learned", target))
        yield Row(
            "average bits of learned widths, the most (within the budget)",
            at,
            spent,
            baseline=target,
            unit="bits",
        )
        yield from _leads(at, target, found, judged)


def _leads(at: str, target: float, found: Found, judged: bool) -> Iterable[Row]:
    """The learned widths against every other way to spend the same bits."""
    ours = accuracies(found, "learned", target)
    for method in METHODS[1:]:
        theirs = accuracies(found, method, target)
        if not theirs:
            continue
        gap = difference(ours, theirs)
        is_better = method == "random" or (method == "uniform" and target <= FEW)
        rule = "better" if is_better else EQUAL
        metric = f"accuracy of learned widths above {TITLES[method]}"
        yield lead_row(metric, at, gap, rule, judged)
    if target == int(target):
        return
    low, high = math.floor(target), math.ceil(target)
    ends = [accuracies(found, "uniform", float(b)) for b in (low, high)]
    share = target - low
    chord = [(1 - share) * a + share * b for a, b in zip(*ends, strict=True)]
    gap = difference(ours, chord)
    metric = "accuracy of learned widths above the chord of one width"
    yield lead_row(metric, f"{at}, between {low} and {high}", gap, "better", judged)


def ranks(values: Sequence[float]) -> np.ndarray:
    """Returns ranks from 0, equal values with their mean rank."""
    x = np.asarray(values, np.float64)
    below = (x[None] < x[:, None]).sum(1)
    alike = (x[None] == x[:, None]).sum(1)
    return below + (alike - 1) / 2


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Returns Spearman's correlation; 0 where one side is constant."""
    x, y = ranks(a), ranks(b)
    if x.std() == 0 or y.std() == 0:
        return 0.0
    return float(np.corrcoef(x, y)[0, 1])


def width_rows(
    found: Found,
    sensitivities: Sequence[Sensitivity],
    sizes: Mapping[str, int],
    judged: bool,
) -> Iterable[Row]:
    """Yields how learned widths go with what each kernel alone costs at 2 bits.

    Args:
      found: as for `rows`.
      sensitivities: of the float networks, by seed.
      sizes: weights of each kernel.
      judged: as for `rows`.
    """
    title = NETWORKS[next(iter(found)).network].title
    at = sensitivities[0].widths.index(2)
    rises = [
        {k: float(v[0, at]) for k, v in trees.by_path(s.rises).items()}
        for s in sensitivities
    ]
    weighed = [{k: v / sizes[k] for k, v in rise.items()} for rise in rises]
    for target in targets(found):
        widths = [p["widths"] for p in seeds_of(found, "learned", target)]
        for kind, values in (("a kernel", rises), ("a weight", weighed)):
            found_here = [
                rank_correlation([w[k][0] for k in v], list(v.values()))
                for w, v in zip(widths, values, strict=True)
            ]
            is_judged = judged and len(found_here) >= SEEDS
            holds = mean_std(found_here)[0] > CORRELATED if is_judged else None
            metric = "rank correlation of widths and loss at 2 bits, "
            metric += f"{kind} (above {CORRELATED:g})"
            setting = f"{title}, {target:g} bits"
            yield mean_row(metric, setting, found_here, holds=holds)


def compared_rows(
    found: Found, seconds: Mapping[str, float], config: Any
) -> Iterable[Row]:
    """Yields granularities at equal size and relaxations at equal steps, one seed.

    Args:
      found: as for `rows`.
      seconds: of a joint epoch, by relaxation.
      config: of the run.
    """
    first = next(iter(found))
    title = NETWORKS[first.network].title
    at = Trial(first.network, first.seed, "learned", config.compared_bits)
    base = found[at]["accuracy"] if at in found else None
    groups = [(at._replace(group=name), TITLES[name]) for name in config.groups]
    for trial, name in groups:
        result = found[trial]
        setting = f"{title}, size of {trial.target:g} bits, {name}, one seed"
        yield Row("accuracy", setting, result["accuracy"], baseline=base, unit="%")
        yield Row("size with headers", setting, result["bytes"], unit="bytes")
        yield Row("average bits", setting, result["bits"], unit="bits")
    for name in config.relaxations:
        setting = f"{title}, {config.compared_bits:g} bits, {TITLES[name]}, one seed"
        result = found[at._replace(relaxation=name)]
        yield Row("accuracy", setting, result["accuracy"], baseline=base, unit="%")
        time = seconds[name]
        first_time = seconds.get("interpolation")
        metric = "time of a joint epoch"
        yield Row(metric, setting, time, baseline=first_time, unit="s")


def figures(found: Found, floats: Sequence[float]) -> list[Figure]:
    """Returns accuracy by average bits, and the widths of kernels."""
    title = NETWORKS[next(iter(found)).network].title
    curves = []
    for method in METHODS:
        bits = sorted({t.target for t in found if t.method == method})
        there = [b for b in bits if seeds_of(found, method, b)]
        points = [mean_std(accuracies(found, method, b)) for b in there]
        if points:
            means, stds = zip(*points, strict=True)
            curves.append(Series(TITLES[method], there, means, stds))
    xs = targets(found)
    base = mean_std(floats)[0]
    curves.append(Series("float", xs, [base] * len(xs)))
    out = [Figure(f"{title}: accuracy", "errorbar", "average bits", "%", curves)]
    bars = []
    for target in xs:
        widths = [p["widths"] for p in seeds_of(found, "learned", target)]
        names = [name.removesuffix("/kernel") for name in widths[0]]
        means = [float(np.mean([w[k][0] for w in widths])) for k in widths[0]]
        bars.append(Series(f"{target:g} bits", names, means))
    out.append(Figure(f"{title}: learned widths", "bar", "kernel", "bits", bars))
    return out
