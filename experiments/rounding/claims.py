"""Rows and figures of the experiment of rounding without data."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.differences import Difference, difference
from experiments.results import Figure, Row, Series, mean_row, mean_std
from experiments.rounding.layers import SLACK
from experiments.rounding.networks import NETWORKS
from experiments.rounding.protocol import MODES, TIMED, TIMED_BITS, Trial, unpack

TITLES = {
    "e": "E (nearest)",
    "bias": "E, biases corrected",
    "ec": "E&C",
    "ek": "E&K",
    "ekc": "E&K&C",
}
JUDGED_BITS = (2, 3)
"""Widths at which the order of roundings is to be seen."""

Found = Mapping[Trial, Mapping[str, Any]]


def _accuracies(texts: Iterable[str]) -> list[float]:
    return [100 * float(unpack(text).mean()) for text in texts]


def lead(ours: Sequence[str], theirs: Sequence[str]) -> tuple[Difference, str]:
    """Returns the lead in points of one rounding over another, and its text.

    Over seeds where there are several; otherwise over the images, each of which is 1,
    0 or -1: the paired test of two classifiers.
    """
    if len(ours) > 1:
        found = difference(_accuracies(ours), _accuracies(theirs))
        return found, found.text
    pairs = (100 * unpack(text[0]).astype(float) for text in (ours, theirs))
    found = difference(*pairs)
    return found, f"{found.seeds:,} images, s.e. {found.error:.2g}"


def rows(found: Found, judged: bool) -> Iterable[Row]:
    """Yields the rows of one network.

    Args:
      found: what `Protocol.run_trial` returned, by trial.
      judged: whether data and training are those of full mode at least.
    """
    title = NETWORKS[next(iter(found)).network].title
    results = list(found.values())

    def accuracy(setting: str, texts: list[str], base: float | None) -> Row:
        values = _accuracies(texts)
        at = f"{title}, {setting}"
        return mean_row("accuracy", at, values, baseline=base, unit="%")

    whole = [r["float"] for r in results]
    base = mean_std(_accuracies(whole))[0]
    yield accuracy("float", whole, None)
    for bits in results[0]["rounded"]:
        runs = {
            mode: [r["rounded"][bits][mode] for r in results]
            for mode in TITLES
            if mode in results[0]["rounded"][bits]
        }
        for mode, texts in runs.items():
            yield accuracy(f"{bits} bits, {TITLES[mode]}", texts, base)
        if bits in JUDGED_BITS:
            yield from _order(title, bits, runs, judged)
    for bits in results[0]["inputs"]:
        names = {"float": "inputs alone", "e": TITLES["e"], "ekc": TITLES["ekc"]}
        for mode, name in names.items():
            texts = [r["inputs"][bits][mode] for r in results]
            setting = f"weights and inputs {bits}/{bits}, {name}"
            if mode == "float":
                setting = f"inputs {bits}, weights float"
            yield accuracy(setting, texts, base)
    yield from bound_rows(title, [r["bounds"] for r in results])
    yield from layer_rows(title, [r["layers"] for r in results])
    for mode in TIMED:
        times = [r["ms"][mode] for r in results]
        setting = f"{title}, {TIMED_BITS} bits, {TITLES[mode]}"
        base_ms = mean_std(r["ms"]["e"] for r in results)[0]
        # Not judged: of networks this small all are far below the paper's second.
        name = "time to quantize all kernels"
        yield mean_row(name, setting, times, baseline=base_ms, unit="ms")


def _order(
    title: str, bits: int, runs: Mapping[str, list[str]], judged: bool
) -> Iterable[Row]:
    """The paper's order, step by step, and SQuant against rounding and its rival."""
    for low, high in (("e", "ec"), ("ec", "ek"), ("ek", "ekc"), ("e", "ekc")):
        found, text = lead(runs[high], runs[low])
        metric = f"accuracy of {TITLES[high]} above {TITLES[low]} (better)"
        setting = f"{title}, {bits} bits, {text}"
        std = found.std if len(runs["e"]) > 1 else None
        holds = found.better(judged)
        yield Row(metric, setting, found.mean, std, unit="points", holds=holds)
    if "bias" in runs:
        found, text = lead(runs["ekc"], runs["bias"])
        metric = f"accuracy of {TITLES['ekc']} above {TITLES['bias']}"
        setting = f"{title}, {bits} bits, {text}"
        std = found.std if len(runs["e"]) > 1 else None
        yield Row(metric, setting, found.mean, std, unit="points")


def bound_rows(title: str, results: Sequence[Mapping[str, Any]]) -> Iterable[Row]:
    """Yields the largest sums of errors of any layer, beside those of rounding.

    A row holds if every layer keeps the bound of the method: kernels at most half a
    step after E&K, one step after E&K&C, channels half a step; and, in a row of its
    own, if what is beyond has no weight left to move: it is at an end of the grid.
    """
    for bits in results[0]:
        worst = {
            mode: np.max([list(r[bits][mode].values()) for r in results], (0, 1))
            for mode in MODES
        }
        wanted = (("ek", 0, 0.5), ("ekc", 0, 1.0), ("ekc", 1, 0.5))
        for mode, at, limit in wanted:
            convs = [
                max(
                    pair[at]
                    for name, pair in r[bits][mode].items()
                    if at or _conv(name)
                )
                for r in results
            ]
            most = float(max(convs))
            what = ("kernel", "channel")[at]
            yield Row(
                f"largest |sum of errors| of a {what} (at most {limit:g})",
                f"{title}, {bits} bits, {TITLES[mode]}",
                most,
                baseline=float(worst["e"][at]),
                unit="steps",
                holds=most <= limit + SLACK,
            )
        loose = [
            sum(part[2] for name, part in r[bits]["ekc"].items() if _conv(name))
            for r in results
        ]
        yield Row(
            "kernels beyond their bound that could be nearer (none)",
            f"{title}, {bits} bits, {TITLES['ekc']}",
            sum(loose),
            holds=sum(loose) == 0,
        )


def _conv(name: str) -> bool:
    """Whether a layer has kernels of several places."""
    return not name.endswith("linear/kernel")


def layer_rows(title: str, results: Sequence[Mapping[str, Any]]) -> Iterable[Row]:
    """Yields how output errors of layers compare, and how SQuant's sum fits.

    Ratios are geometric means over layers (and seeds). The first layer's inputs are
    images; the others' come from a ReLU, and are also taken less their mean.
    """
    for bits in results[0]["errors"]:
        for mode in MODES[1:]:
            setting = f"{title}, {bits} bits, {TITLES[mode]} over {TITLES['e']}"
            kinds = (
                ("", " (below 1)", lambda ratio: ratio < 1),
                (", inputs less their mean", " (not below 1)", lambda r: r >= 1),
                (", inputs with random signs", "", lambda _: None),
            )
            for at, (inputs, claim, holds) in enumerate(kinds):
                claimed = mode == "ekc"
                if at and not claimed:
                    continue
                ratio = _mean(ratios(results, bits, mode, at))
                yield Row(
                    f"output error of layers{inputs}{claim if claimed else ''}",
                    setting,
                    ratio,
                    unit="x",
                    holds=holds(ratio) if claimed else None,
                )
    fits = {n: np.mean([r["fits"][n] for r in results], 0) for n in results[0]["fits"]}
    inner = np.array([f for name, f in fits.items() if name != "params/conv1/kernel"])
    names = (
        "after a ReLU",
        "after a ReLU, without the diagonal",
        "after a ReLU, less their mean",
        "after a ReLU, less their mean, without the diagonal",
    )
    for name, values in zip(names, inner.T, strict=True):
        setting = f"{title}, median of layers, {name}"
        yield Row("cosine of E[x x^T] and E + K + C", setting, float(np.median(values)))
    setting = f"{title}, images, without the diagonal"
    value = float(fits["params/conv1/kernel"][1])
    yield Row("cosine of E[x x^T] and E + K + C", setting, value)


def ratios(
    results: Sequence[Mapping[str, Any]], bits: str, mode: str, at: int
) -> dict[str, float]:
    """Returns output errors of layers over those of rounding to nearest, by layer.

    Geometric means over seeds.

    Args:
      results: of the stage "layers", by seed.
      bits: of the weights.
      mode: the rounding.
      at: which errors of `layers.output_errors`.
    """

    def logs(which: str, name: str) -> np.ndarray:
        errors = [r["errors"][bits][which][name][at] for r in results]
        return np.log(np.maximum(errors, np.finfo(np.float32).tiny))

    names = results[0]["errors"][bits]["e"]
    return {n: float(np.exp((logs(mode, n) - logs("e", n)).mean())) for n in names}


def _mean(values: Mapping[str, float]) -> float:
    """The geometric mean over layers whose inputs come from a ReLU."""
    logs = [math.log(v) for n, v in values.items() if n != "params/conv1/kernel"]
    return math.exp(sum(logs) / len(logs))


def figures(found: Found) -> list[Figure]:
    """Returns accuracy by width, and output errors by layer, of one network."""
    title = NETWORKS[next(iter(found)).network].title
    results = list(found.values())
    widths = sorted(results[0]["rounded"])
    series = []
    for mode in MODES:
        points = [
            mean_std(_accuracies(r["rounded"][b][mode] for r in results))
            for b in widths
        ]
        means, stds = zip(*points, strict=True)
        series.append(Series(TITLES[mode], widths, means, stds))
    out = [Figure(f"{title}: accuracy by bits", "errorbar", "bits", "%", series)]
    bits = str(min(widths, key=lambda b: abs(b - 3)))
    parts = [r["layers"] for r in results]
    bars = []
    for mode in MODES[1:]:
        whole = ratios(parts, bits, mode, 0)
        names = [n.removeprefix("params/").removesuffix("/kernel") for n in whole]
        bars.append(Series(TITLES[mode], names, list(whole.values())))
    name = f"{title}: output error over that of E, {bits} bits"
    out.append(Figure(name, "bar", "layer", "x", bars, log_y=True))
    return out
