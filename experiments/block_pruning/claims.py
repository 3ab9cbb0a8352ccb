"""Rows and figures of the block-pruning experiment, computed from its trials."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from experiments.block_pruning.methods import TITLES, block_of
from experiments.block_pruning.networks import NETWORKS
from experiments.block_pruning.protocol import Trial
from experiments.differences import difference
from experiments.results import Figure, Row, Series, mean_std

Found = Mapping[Trial, Mapping[str, Any]]
Times = Mapping[str, Mapping[str, float]]
"""Milliseconds by name and batch."""
TIED = 0.05
"""Times that differ by a smaller share are not told apart."""
JUDGED_FROM = 8.0
"""The rate from which patterns differ clearly, by the specification of the paper."""


def _runs(
    found: Found, network: str, method: str, rate: float, block: int
) -> list[float]:
    """A method's accuracy in %, by seed."""
    return [
        round(result["accuracy"], 4)
        for trial, result in found.items()
        if (trial.network, trial.method, trial.rate, trial.block)
        == (network, method, rate, block)
    ]


def accuracies(
    found: Found, network: str, method: str, rate: float, block: int
) -> tuple[float, float]:
    """Returns mean and deviation over seeds of a method's accuracy in %."""
    return mean_std(_runs(found, network, method, rate, block))


def accuracy_rows(found: Found, config: Any, judged: bool = True) -> Iterable[Row]:
    """Yields accuracies, each pruned one beside the dense control's, and differences.

    The claim judged is that BCR is better than filters at the same rate, from
    `JUDGED_FROM` on; its distance to unstructured pruning is printed.

    Args:
      found: the result of every trial.
      config: of the run.
      judged: whether data and training are those of full mode at least.
    """
    for network in dict.fromkeys(t.network for t in found):
        title = NETWORKS[network].title
        dense, std = accuracies(found, network, "dense", 1.0, 0)
        yield Row("accuracy", f"{title}, dense", dense, std, unit="%")
        for rate in config.rates:
            for method in config.methods:
                block = block_of(method, config.block)
                mean, std = accuracies(found, network, method, rate, block)
                setting = f"{title}, {rate:g}x, {_named(method, block)}"
                yield Row("accuracy", setting, mean, std, dense, None, "%")
            yield from _differences(found, network, rate, config, judged)
        yield from _kept_rows(found, network, title)


def _differences(
    found: Found, network: str, rate: float, config: Any, judged: bool
) -> Iterable[Row]:
    """BCR against what is coarser and what is finer, seed by seed."""
    if "bcr" not in config.methods:
        return
    ours = _runs(found, network, "bcr", rate, config.block)
    for rival in ("filter", "unstructured"):
        if rival not in config.methods:
            continue
        lead = difference(ours, _runs(found, network, rival, rate, 0))
        claimed = rival == "filter" and rate >= JUDGED_FROM
        name = f"accuracy of BCR above {TITLES[rival]}"
        setting = f"{NETWORKS[network].title}, {rate:g}x, {lead.text}"
        yield Row(
            f"{name} (better)" if claimed else name,
            setting,
            lead.mean,
            lead.std,
            unit="points",
            holds=lead.better(judged) if claimed else None,
        )


def _named(method: str, block: int) -> str:
    return TITLES[method] + (f" {block}x{block}" if block else "")


def _kept_rows(found: Found, network: str, title: str) -> Iterable[Row]:
    """The rates that rounding to whole inputs and filters left, also by block."""
    arms = {}
    for trial, result in found.items():
        if trial.network == network and trial.method != "dense":
            arms.setdefault((trial.rate, trial.method, trial.block), result)
    for (rate, method, block), result in arms.items():
        setting = f"{title}, {rate:g}x, {_named(method, block)}"
        counted = result["size"] / result["kept"]
        yield Row("rate, counted from masks", setting, counted, unit="x")


def time_rows(
    title: str, times: Times, labels: Mapping[str, str], dense: str
) -> Iterable[Row]:
    """Yields a row for each timed network or layer and batch, beside the dense time.

    Args:
      title: of the network or layer.
      times: milliseconds by key and batch.
      labels: for each key "method, rate" as shown; a BCR claim holds if BCR is faster
        than dense and than unstructured weights at the same rate and batch, from this
        package's packed form and from scipy's. It is judged if the fastest of them
        differs from BCR by more than `TIED`.
      dense: the key of the dense time.
    """
    for key, label in labels.items():
        for batch, value in times[key].items():
            base = times[dense][batch]
            holds = None
            if label.startswith("BCR"):
                rate = label.rsplit(", ", 1)[-1]
                wanted = [f"{TITLES[m]}, {rate}" for m in ("unstructured", "scipy")]
                rivals = [
                    times[other][batch]
                    for other, text in labels.items()
                    if text in wanted
                ]
                share = value / min(base, *rivals)
                holds = share < 1 if abs(share - 1) > TIED else None
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
