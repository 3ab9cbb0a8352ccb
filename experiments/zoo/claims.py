"""Rows and figures of the experiment of number formats side by side."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.differences import EQUAL
from experiments.results import Figure, Row, Series, mean_row, mean_std
from experiments.rounding.claims import lead
from experiments.rounding.networks import NETWORKS
from experiments.rounding.protocol import Trial, unpack
from experiments.zoo.formats import CANDIDATES, CHOSEN, KINDS

TITLES = {name: kind.title for name, kind in KINDS.items()} | {
    CHOSEN: "chosen by tensor (ANT)"
}
Found = Mapping[Trial, Mapping[str, Any]]


def _accuracy(text: str) -> float:
    return 100 * float(unpack(text).mean())


def _widths(result: Mapping[str, Any]) -> list[str]:
    return sorted((name for name in result if name != "float"), key=int)


def rows(found: Found, judged: bool) -> Iterable[Row]:
    """Yields the rows of one network.

    Args:
      found: what `protocol.run_trial` returned, by trial.
      judged: whether data and training are those of full mode.
    """
    title = NETWORKS[next(iter(found)).network].title
    results = list(found.values())
    base = mean_std(_accuracy(r["float"]["float"]) for r in results)[0]
    yield Row("accuracy", f"{title}, float", base, unit="%")
    for bits in _widths(results[0]):
        for name in results[0][bits]:
            yield from _format_rows(title, bits, name, results, base)
        if CHOSEN in results[0][bits]:
            yield from _choice_rows(title, bits, results, judged)


def _format_rows(
    title: str, bits: str, name: str, results: Sequence[Any], base: float
) -> Iterable[Row]:
    setting = f"{title}, {bits} bits, {TITLES[name]}"
    parts = [r[bits][name] for r in results]

    def row(metric: str, values: Iterable[float], unit: str, baseline=None) -> Row:
        return mean_row(metric, setting, values, baseline=baseline, unit=unit)

    yield row("accuracy", (_accuracy(p["right"]) for p in parts), "%", base)
    yield row("signal over noise of weights", map(_weights_noise, parts), "dB")
    noise = (float(np.median(list(p["noise"].values()))) for p in parts)
    yield row("signal over noise of products, median layer", noise, "dB")
    yield row("shifts and adds a product", (p["cost"] for p in parts), "")


def _weights_noise(part: Mapping[str, Any]) -> float:
    signal, error = sum(part["signals"].values()), sum(part["errors"].values())
    return 10 * math.log10(signal / error) if error else math.inf


def _choice_rows(
    title: str, bits: str, results: Sequence[Any], judged: bool
) -> Iterable[Row]:
    """The chosen formats against each candidate alone, equal ones once."""
    ours = _networks(bits, CHOSEN, results)
    compared: list[Any] = []
    for name in CANDIDATES:
        if name not in results[0][bits]:
            continue
        theirs = _networks(bits, name, results)
        if theirs in compared:
            continue
        compared.append(theirs)
        same = sum(a == b for a, b in zip(ours, theirs, strict=True))
        worse = sum(
            error > r[bits][name]["errors"][path]
            for r in results
            for path, error in r[bits][CHOSEN]["errors"].items()
        )
        setting = f"{title}, {bits} bits, {TITLES[CHOSEN]} against {TITLES[name]}"
        # None by construction: a row to see, not a claim to judge.
        metric = "kernels with more error than in one format for all"
        yield Row(metric, setting, worse)
        texts = [[r[bits][which]["right"] for r in results] for which in (CHOSEN, name)]
        found, text = lead(*texts)
        if same == len(results):
            text += ", the same network"
        elif same:
            text += f", the same network in {same} of {len(results)} seeds"
        yield Row(
            f"accuracy above one format for all ({EQUAL})",
            f"{setting}, {text}",
            found.mean,
            found.std if len(results) > 1 else None,
            unit="points",
            holds=found.not_worse(judged and same < len(results)),
        )


def _networks(bits: str, name: str, results: Sequence[Any]) -> list[Any]:
    """What tells networks apart: errors of all kernels, and the images that are right.

    Formats may be one set of levels under several names.
    """
    return [(r[bits][name]["errors"], r[bits][name]["right"]) for r in results]


def figures(found: Found) -> list[Figure]:
    """Returns accuracy by bits and by cost, and the noise of layers."""
    title = NETWORKS[next(iter(found)).network].title
    results = list(found.values())
    widths = _widths(results[0])
    by_bits, by_cost = [], []
    for name, label in TITLES.items():
        there = [bits for bits in widths if name in results[0][bits]]
        if not there:
            continue
        points = [
            mean_std(_accuracy(r[b][name]["right"]) for r in results) for b in there
        ]
        means, stds = zip(*points, strict=True)
        by_bits.append(Series(label, [int(b) for b in there], means, stds))
        costs = [mean_std(r[b][name]["cost"] for r in results)[0] for b in there]
        by_cost.append(Series(label, costs, means, stds))
    out = [
        Figure(f"{title}: accuracy by bits", "errorbar", "bits", "%", by_bits),
        Figure(
            f"{title}: accuracy by cost",
            "errorbar",
            "shifts and adds a product",
            "%",
            by_cost,
        ),
    ]
    bits = min(widths, key=lambda b: abs(int(b) - 4))
    bars = []
    for name, part in results[0][bits].items():
        sites = [
            s.removeprefix("params/").removesuffix("/kernel") for s in part["noise"]
        ]
        bars.append(Series(TITLES[name], sites, list(part["noise"].values())))
    name = f"{title}: signal over noise of products, {bits} bits"
    return [*out, Figure(name, "bar", "layer", "dB", bars)]
