"""Rows and figures of the block-pruning experiment, computed from its trials."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.block_pruning.methods import TITLES, block_of
from experiments.block_pruning.networks import NETWORKS
from experiments.block_pruning.protocol import Trial
from experiments.results import Figure, Row, Series, mean_std

Found = Mapping[Trial, Mapping[str, Any]]
Times = Mapping[str, Mapping[str, float]]
"""Milliseconds by name and batch."""


def accuracies(
    found: Found, network: str, method: str, rate: float, block: int
) -> tuple[float, float]:
    """Returns mean and deviation over seeds of a method's accuracy in %."""
    return mean_std(
        round(result["accuracy"], 4)
        for trial, result in found.items()
        if (trial.network, trial.method, trial.rate, trial.block)
        == (network, method, rate, block)
    )


def accuracy_rows(found: Found, config: Any) -> Iterable[Row]:
    """Yields accuracies, each pruned one beside the dense control's.

    The claims judged are the order that the pattern's fineness implies: BCR no worse
    than filters at the same rate, from 8x on, where the difference shows.
    """
    for network in dict.fromkeys(t.network for t in found):
        title = NETWORKS[network].title
        dense, std = accuracies(found, network, "dense", 1.0, 0)
        yield Row("accuracy", f"{title}, dense", dense, std, unit="%")
        for rate in config.rates:
            filters = None
            if "filter" in config.methods:
                filters = accuracies(found, network, "filter", rate, 0)[0]
            for method in config.methods:
                block = block_of(method, config.block)
                mean, std = accuracies(found, network, method, rate, block)
                name = TITLES[method] + (f" {block}x{block}" if block else "")
                holds = None
                if method == "bcr" and rate >= 8 and filters is not None:
                    holds = mean >= filters
                setting = f"{title}, {rate:g}x, {name}"
                yield Row("accuracy", setting, mean, std, dense, None, "%", holds=holds)
        yield from _kept_rows(found, network, title, config)


def _kept_rows(found: Found, network: str, title: str, config: Any) -> Iterable[Row]:
    """The rates that rounding to whole inputs and filters left."""
    for rate in config.rates:
        for method in config.methods:
            block = block_of(method, config.block)
            results = [
                r
                for t, r in found.items()
                if (t.network, t.method, t.rate, t.block)
                == (network, method, rate, block)
            ]
            kept, size = results[0]["kept"], results[0]["size"]
            setting = f"{title}, {rate:g}x, {TITLES[method]}"
            yield Row("rate, counted from masks", setting, size / kept, unit="x")


def time_rows(
    title: str, times: Times, labels: Mapping[str, str], dense: str
) -> Iterable[Row]:
    """Yields a row for each timed network or layer and batch, beside the dense time.

    Args:
      title: of the network or layer.
      times: milliseconds by key and batch.
      labels: for each key "method, rate" as shown; a BCR claim holds if BCR is faster
        than dense and than unstructured weights at the same rate and batch.
      dense: the key of the dense time.
    """
    for key, label in labels.items():
        for batch, value in times[key].items():
            base = times[dense][batch]
            holds = None
            if label.startswith("BCR"):
                rate = label.rsplit(", ", 1)[-1]
                rivals = [
                    times[other][batch]
                    for other, text in labels.items()
                    if text == f"{TITLES['unstructured']}, {rate}"
                ]
                holds = all(value < other for other in (base, *rivals))
            setting = f"{title}, batch {batch}, {label}"
            yield Row("time", setting, value, None, base, None, "ms", holds=holds)


def block_rows(choice: Mapping[str, Any], config: Any) -> Iterable[Row]:
    """Yields the block that timing alone selects."""
    setting = (
        f"{config.width}x{config.width}, {config.curve_rate:g}x, batch "
        f"{max(config.batches)}, slack 10 %"
    )
    yield Row("selected block, from random weights", setting, choice["block"])


def figures(
    found: Found, choice: Mapping[str, Any], layer: Times, config: Any
) -> list[Figure]:
    """Returns accuracy by rate, accuracy and time by block, and the layer's times."""
    out = []
    for network in dict.fromkeys(t.network for t in found):
        title = NETWORKS[network].title
        if len(config.rates) > 1:
            series = [
                _series(
                    found,
                    TITLES[method],
                    [
                        (rate, network, method, rate, block_of(method, config.block))
                        for rate in config.rates
                    ],
                )
                for method in config.methods
            ]
            out.append(
                Figure(f"{title}: accuracy by rate", "errorbar", "rate", "%", series)
            )
        if "bcr" in config.methods and len(config.blocks) > 1:
            points = [
                (block, network, "bcr", config.curve_rate, block)
                for block in sorted({*config.blocks, config.block})
            ]
            series = [_series(found, f"{config.curve_rate:g}x", points)]
            out.append(
                Figure(f"{title}: accuracy by block", "errorbar", "block", "%", series)
            )
    blocks = [int(block) for block in choice["ms"]]
    series = [Series("BCR", blocks, list(choice["ms"].values()))]
    name = f"{config.width}x{config.width}"
    out.append(Figure(f"{name}: time by block", "line", "block", "ms", series))
    bars = [
        Series(f"batch {batch}", list(layer), [layer[key][str(batch)] for key in layer])
        for batch in config.batches
    ]
    out.append(Figure(f"{name}: time", "bar", "pattern", "ms", bars, log_y=True))
    return out


def _series(
    found: Found, label: str, points: Sequence[tuple[float, str, str, float, int]]
) -> Series:
    values = [accuracies(found, *point[1:]) for point in points]
    means, deviations = zip(*values, strict=True)
    return Series(label, [point[0] for point in points], means, deviations)
