"""Rows and figures of the experiment of networks friendly to few bits."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.differences import EQUAL, SEEDS, difference, lead_row
from experiments.mobile.networks import REPAIRED, VARIANTS
from experiments.mobile.protocol import KINDS, OUTLIER, Trial
from experiments.results import Figure, Row, Series, mean_row, mean_std

Found = Mapping[Trial, Mapping[str, Any]]
Results = Mapping[str, Sequence[Mapping[str, Any]]]
"""What was found, by variant, a mapping for each seed."""

PAPER = "paper: ImageNet"
"""Said wherever a row has a figure of the paper."""
TITLES = {
    "tensor": "per tensor",
    "repaired": "variances repaired",
    "channel": "per channel",
}
WITHIN = 1.0
"""Points by which float accuracies may differ."""


def by_variant(found: Found) -> dict[str, list[Mapping[str, Any]]]:
    """Returns what was found by variant, in the order of trials.

    A variant that diverged with any seed is left out: see `diverged`.
    """
    out: dict[str, list[Mapping[str, Any]]] = {}
    for trial, result in found.items():
        out.setdefault(trial.variant, []).append(result)
    lost = diverged(found)
    return {name: results for name, results in out.items() if name not in lost}


def diverged(found: Found) -> dict[str, list[int]]:
    """Returns the seeds whose training diverged, by variant."""
    out: dict[str, list[int]] = {}
    for trial, result in found.items():
        if "diverged" in result:
            out.setdefault(trial.variant, []).append(trial.seed)
    return out


def widths(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the widths that were measured, the largest first."""
    return sorted((k for k in results[0] if k.isdigit()), key=int, reverse=True)


def rows(found: Found, ways: Sequence[str], judged: bool) -> Iterable[Row]:
    """Yields all rows.

    Args:
      found: what `Protocol.run_trial` returned, by trial.
      ways: to find ranges; the last is that of all other rows.
      judged: whether data and training are those of full mode.
    """
    results, lost = by_variant(found), diverged(found)
    for name, seeds in lost.items():
        which = ", ".join(map(str, seeds))
        setting = f"{VARIANTS[name].title}, float, diverged with seed {which}"
        yield Row("accuracy", setting, math.nan, unit="%")
    missing = [VARIANTS[name].title for name in lost if VARIANTS[name].separable]
    yield from float_rows(results, judged, missing)
    yield from natural_rows(results, ways, judged)
    for name in results:
        if len(results[name][0]["dead"]) > 1:
            yield from dead_rows(name, results[name], judged)
            yield from noise_rows(name, results[name], judged)


def float_rows(
    results: Results, judged: bool, lost: Sequence[str] = ()
) -> Iterable[Row]:
    """Yields float accuracies, beside the base's and the paper's.

    Args:
      results: of the variants that were trained.
      judged: whether data and training are those of full mode.
      lost: titles of those with depthwise layers that diverged: if there are any, the
        largest difference is not judged.
    """
    means = {n: mean_std(r["float"] for r in rs)[0] for n, rs in results.items()}
    for name, found in results.items():
        variant = VARIANTS[name]
        setting = f"{variant.title}, float"
        paper = None
        if variant.paper:
            setting, paper = f"{setting} ({PAPER})", variant.paper[0]
        values = (r["float"] for r in found)
        base = None if name == "base" else means.get("base")
        yield mean_row(
            "accuracy", setting, values, baseline=base, paper=paper, unit="%"
        )
    alike = [n for n in results if VARIANTS[n].separable]
    if len(alike) > 1:
        gap = max(means[n] for n in alike) - min(means[n] for n in alike)
        seeds = len(results[alike[0]])
        is_judged = judged and seeds >= SEEDS and not lost
        holds = gap <= WITHIN if is_judged else None
        setting = f"{len(alike)} variants with depthwise layers, {seeds} seeds"
        if lost:
            setting += f", without what diverged ({', '.join(lost)})"
        yield Row(
            f"largest difference of float accuracies (within {WITHIN:g} point)",
            setting,
            gap,
            paper=0.3,
            unit="points",
            holds=holds,
        )


def natural_rows(results: Results, ways: Sequence[str], judged: bool) -> Iterable[Row]:
    """Yields the networks as training left them: outliers, accuracies, ranges."""
    outliers = {}
    for name, found in results.items():
        title = VARIANTS[name].title
        if found[0]["scales"]:
            counts = [sum(n for _, n in r["scales"].values()) for r in found]
            outliers[name] = sum(counts)
            metric = f"channels with a folded scale above {OUTLIER:g}x the median"
            yield mean_row(metric, f"{title}, depthwise layers", counts)
            most = (max(ratio for ratio, _ in r["scales"].values()) for r in found)
            metric = "largest folded scale over the median"
            yield mean_row(metric, f"{title}, depthwise layers", most, unit="x")
        base = mean_std(r["float"] for r in found)[0]
        for bits in widths(found):
            for way in ways:
                setting, paper = f"{title}, {bits} bits, ranges by {way}", None
                if way == ways[-1] and bits == "8" and VARIANTS[name].paper:
                    setting = f"{setting} ({PAPER})"
                    paper = VARIANTS[name].paper[1]  # type: ignore[index]
                values = (r[bits]["ranges"][way] for r in found)
                yield mean_row(
                    "accuracy",
                    setting,
                    values,
                    baseline=base,
                    paper=paper,
                    unit="%",
                )
    if {"base", "l2"} <= set(results):
        for bits in widths(results["base"]):
            pair = [
                [r[bits]["ranges"][ways[-1]] for r in results[name]]
                for name in ("l2", "base")
            ]
            # Without an outlier there is nothing that the change could mend.
            is_claimed = judged and outliers.get("base", 0) > 0
            metric = "accuracy of the friendly network above the base, as trained"
            setting = f"{bits} bits, {outliers.get('base', 0)} outliers in all"
            lead = difference(*pair)
            yield lead_row(metric, setting, lead, "better", is_claimed)


def dead_rows(
    name: str, found: Sequence[Mapping[str, Any]], judged: bool
) -> Iterable[Row]:
    """Yields what dead channels cost at every width, and what mends it."""
    variant = VARIANTS[name]
    counts = [count for count in found[0]["dead"] if count != "0"]
    for count in counts:
        change = [r["dead"][count] - r["dead"]["0"] for r in found]
        setting = f"{variant.title}, {count} dead channels, float"
        yield mean_row("change of accuracy", setting, change, unit="points")
    for bits in widths(found):
        for count in ("0", *counts):
            yield from _dead_rows(name, bits, count, found, judged)


def _dead_rows(
    name: str,
    bits: str,
    count: str,
    found: Sequence[Mapping[str, Any]],
    judged: bool,
) -> Iterable[Row]:
    variant = VARIANTS[name]
    setting = f"{variant.title}, {count} dead channels, {bits} bits"
    kinds = [kind for kind in KINDS if f"{count}-{kind}" in found[0][bits]["dead"]]
    values = {k: [r[bits]["dead"][f"{count}-{k}"] for r in found] for k in kinds}
    clean = [r[bits]["dead"]["0-tensor"] for r in found]
    base = mean_std(clean)[0]
    for kind in kinds:
        where, paper = f"{setting}, {TITLES[kind]}", None
        if (name, bits, kind) == ("base", "8", "repaired") and count != "0":
            where, paper = f"{where} ({PAPER})", REPAIRED
        yield mean_row(
            "accuracy", where, values[kind], baseline=base, paper=paper, unit="%"
        )

    def lead(
        metric: str,
        ours: Sequence[float],
        theirs: Sequence[float],
        rule: str,
        judged: bool = judged,
    ) -> Row:
        return lead_row(metric, setting, difference(ours, theirs), rule, judged)

    if count == "0":
        if variant.depthwise_norm:
            # Without an outlier there is nothing to repair.
            is_claimed = judged and any(
                n for r in found for _, n in r["scales"].values()
            )
            metric = "accuracy of repaired variances above the network as trained"
            yield lead(metric, values["repaired"], clean, "better", is_claimed)
        return
    if variant.depthwise_norm:
        tensor = values["tensor"]
        # Training may have left outliers: those are repaired where there is none.
        healthy = [r[bits]["dead"]["0-repaired"] for r in found]
        yield lead("accuracy lost by dead channels", healthy, tensor, "better")
        metric = "accuracy of repaired variances above dead channels"
        yield lead(metric, values["repaired"], tensor, "better")
        metric = "accuracy of repaired variances beside no dead channel"
        yield lead(metric, values["repaired"], clean, EQUAL)
        metric = "accuracy of weights per channel above per tensor"
        yield lead(metric, values["channel"], tensor, "better")
    else:
        metric = "accuracy of the friendly network with dead channels beside none"
        yield lead(metric, values["tensor"], clean, EQUAL)


def noise_rows(
    name: str, found: Sequence[Mapping[str, Any]], judged: bool
) -> Iterable[Row]:
    """Yields the noisiest layer, and by how much repair mends depthwise layers."""
    variant = VARIANTS[name]
    for bits in widths(found):
        noise = [r[bits]["noise"] for r in found]
        for at in noise[0]:
            count, kind = at.split("-")
            setting = f"{variant.title}, {count} dead channels, {bits} bits"
            where = f"{setting}, {TITLES[kind]}"
            parts = [_depthwise(n[at]) for n in noise]
            yield mean_row(
                "signal over noise of depthwise layers, the least",
                where,
                (min(p.values()) for p in parts),
                unit="dB",
            )
            if kind != "tensor" or count == "0" or not variant.depthwise_norm:
                continue
            lowest = [min(n[at], key=n[at].__getitem__) for n in noise]
            share = [float(layer in p) for layer, p in zip(lowest, parts, strict=True)]
            is_judged = judged and len(share) >= SEEDS
            yield mean_row(
                "networks whose noisiest layer is depthwise (all)",
                f"{where}; {', '.join(dict.fromkeys(lowest))}",
                share,
                holds=min(share) == 1 if is_judged else None,
            )
            mended = [_depthwise(n[f"{count}-repaired"]) for n in noise]
            gap = difference(
                [float(np.median(list(p.values()))) for p in mended],
                [float(np.median(list(p.values()))) for p in parts],
            )
            metric = "signal over noise of depthwise layers, gained by repair"
            at = f"{setting}, median layer"
            yield lead_row(metric, at, gap, "better", judged, unit="dB")


def _depthwise(noise: Mapping[str, float]) -> dict[str, float]:
    return {name: x for name, x in noise.items() if name.endswith("depthwise")}


def figures(found: Found, ways: Sequence[str]) -> list[Figure]:
    """Returns accuracy by bits, with dead channels too, and the noise of layers."""
    results = by_variant(found)
    if not results:
        return []

    def curve(label: str, name: str, value: Any) -> Series:
        bits = widths(results[name])
        points = [mean_std(value(r[b]) for r in results[name]) for b in bits]
        means, stds = zip(*points, strict=True)
        return Series(label, [int(b) for b in bits], means, stds)

    natural = [
        curve(VARIANTS[n].title, n, lambda part: part["ranges"][ways[-1]])
        for n in results
    ]
    out = [Figure("accuracy as trained", "errorbar", "bits", "%", natural)]
    for name, seeds in results.items():
        counts = list(seeds[0]["dead"])
        if len(counts) == 1:
            continue
        at = [f"{count}-tensor" for count in counts]
        at += [f"{counts[-1]}-{kind}" for kind in KINDS[1:]]
        at = [key for key in at if key in seeds[0][widths(seeds)[0]]["dead"]]
        curves = [
            curve(_label(key), name, lambda part, key=key: part["dead"][key])
            for key in at
        ]
        title = f"{VARIANTS[name].title}: accuracy with dead channels"
        out.append(Figure(title, "errorbar", "bits", "%", curves))
        for bits in widths(seeds):
            noise = seeds[0][bits]["noise"]
            bars = [
                Series(_label(k), list(n), list(n.values())) for k, n in noise.items()
            ]
            if bars:
                title = f"{VARIANTS[name].title}: signal over noise, {bits} bits"
                out.append(Figure(title, "bar", "layer", "dB", bars))
    return out


def _label(key: str) -> str:
    count, kind = key.split("-")
    return f"{count} dead, {TITLES[kind]}"
