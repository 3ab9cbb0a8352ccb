"""Rows and figures of `shape_and_prove`: before beside after."""

from collections.abc import Iterable, Mapping
from typing import Any

from experiments import data
from experiments.results import Figure, Outcome, Row, Series, mean_row, mean_std
from experiments.shaping.measures import INDEX_BITS
from experiments.shaping.pipeline import Found, Shaped
from experiments.workdir import Run

SIDES = {"before": "dense, float32", "after": "pruned and quantized"}
MOST_LOST = 1.0
"""Points of accuracy that shaping may cost."""


def outcome(run: Run, config: Any, found: Found, judged: bool = False) -> Outcome:
    """Returns what the report shows.

    Args:
      run: the work folder.
      config: of the experiment.
      found: of all seeds.
      judged: whether data and training are those of full mode.
    """
    every = list(found.values())
    rows = [*_quality(every, config, judged), *_sizes(every), *_prices(every)]
    figures = [_quality_figure(every), _price_figure(every), _layers_figure(every[0])]
    notes = [
        f"LeNet-300-100 pruned {config.rate:g}x by ADMM at the published ratios, then "
        f"drawn by ADMM to {config.bits}-bit levels, {config.share:g} of the rows sums "
        "of powers of two, and put on them. The dense network trained on for as long "
        "as the pruned one, but for the epochs of quantization.",
        f"Certified: no change of any pixel by up to {config.eps:g} (of a range of 1) "
        f"changes the class, decided by beta-CROWN within {config.timeout_s:g} s an "
        f"image on average, for the first {config.images} test images. What is open "
        "counts as not certified. Weights are on their levels; inputs are rounded to "
        f"{config.input_bits} bits where accuracy and prices are of, and not where "
        "networks are certified.",
        "Latency and energy are those of models of hardware (`hw`), simulated from "
        "published constants; weights that are 0 lie anywhere: they help where a "
        "target skips those. The dense network is priced in the widest format, up to "
        f"32 bits, that each target has; {config.share:g} of the rows run on the "
        "second core of designs with two. What does not fit a target is marked.",
        "Stored weights are the kernels, each in the smallest of three forms: all "
        "values; a bit for each place beside the values that are left; or those with "
        f"distances of {' or '.join(map(str, INDEX_BITS))} bits between them, and "
        "zeros stored where a distance is longer. Biases, a scale for each kernel and "
        "a bit for each row's format are in neither size.",
        "Judged in runs as large as full mode: shaping costs at most "
        f"{MOST_LOST:g} point of accuracy, and no fewer images are certified. All "
        "figures are means over seeds but for the plot of layers, which is of the "
        "first.",
    ]
    source = data.load(config.dataset, data_dir=run.data_dir).source
    return Outcome(rows, figures, notes, (source,))


def _certified(shaped: Shaped) -> float:
    counts = shaped.certified
    return 100 * counts["verified"] / sum(counts.values())


def _quality(
    every: list[Mapping[str, Shaped]], config: Any, judged: bool
) -> Iterable[Row]:
    base: dict[str, float] = {}
    for side, title in SIDES.items():
        for metric, value, lost in (
            ("accuracy", lambda s: s.accuracy, MOST_LOST),
            (f"certified accuracy, eps {config.eps:g}", _certified, 0.0),
        ):
            row = mean_row(metric, title, [value(f[side]) for f in every], unit="%")
            before = base.setdefault(metric, row.measured)
            if side == "after":
                holds = bool(row.measured >= before - lost) if judged else None
                row = row._replace(baseline=before, holds=holds)
            yield row
        for name in ("falsified", "open"):
            counts = [f[side].certified[name] for f in every]
            yield mean_row(f"images {name}", title, counts)


def _sizes(every: list[Mapping[str, Shaped]]) -> Iterable[Row]:
    title = SIDES["after"]
    left = [sum(f["after"].left.values()) for f in every]
    total = sum(every[0]["after"].sizes.values())
    before, after = (
        [sum(f[side].stored.values()) for f in every] for side in ("before", "after")
    )
    gains = [b / a for b, a in zip(before, after, strict=True)]
    yield mean_row("weights left", title, left, baseline=total)
    yield mean_row("bytes of weights", title, after, baseline=mean_std(before)[0])
    yield mean_row("reduction of bytes", title, gains, unit="x")


def _prices(every: list[Mapping[str, Shaped]]) -> Iterable[Row]:
    for name in every[0]["after"].cost:
        before, after = ([f[side].cost[name] for f in every] for side in SIDES)
        setting = _priced(name, before, after)
        for metric, key, unit in (
            ("latency", "latency_s", "us"),
            ("energy", "energy_j", "uJ"),
        ):
            yield mean_row(
                metric,
                setting,
                [1e6 * cost[key] for cost in after],
                baseline=mean_std([1e6 * cost[key] for cost in before])[0],
                unit=unit,
                simulated=True,
            )


def _priced(
    name: str, before: list[Mapping[str, Any]], after: list[Mapping[str, Any]]
) -> str:
    """A target, the format of the dense network on it, and what does not fit."""
    title = f"{name}, not calibrated" if name == "host" else name
    text = f"{title} (dense: {before[0]['weight_bits']:g} bits)"
    if not all(cost["feasible"] for cost in before):
        text += ", dense does not fit"
    return text if all(cost["feasible"] for cost in after) else f"{text}, does not fit"


def _quality_figure(every: list[Mapping[str, Shaped]]) -> Figure:
    series = []
    for side, title in SIDES.items():
        pairs = [
            mean_std([value(f[side]) for f in every])
            for value in (lambda s: s.accuracy, _certified)
        ]
        means, stds = zip(*pairs, strict=True)
        series.append(Series(title, ("accuracy", "certified"), means, stds))
    return Figure(
        "Accuracy and certified accuracy", "bar", "", "test images (%)", series
    )


def _price_figure(every: list[Mapping[str, Shaped]]) -> Figure:
    names = tuple(every[0]["after"].cost)
    series = []
    for title, key in (("latency", "latency_s"), ("energy", "energy_j")):
        gains = [
            [f["before"].cost[name][key] / f["after"].cost[name][key] for f in every]
            for name in names
        ]
        series.append(Series(title, names, [mean_std(g)[0] for g in gains]))
    return Figure(
        "Gain on every target, before / after", "bar", "target", "times", series,
        log_y=True,
    )  # fmt: skip


def _layers_figure(first: Mapping[str, Shaped]) -> Figure:
    names = tuple(path.removesuffix("/kernel") for path in first["after"].sizes)
    series = [
        Series(SIDES[side], names, [float(n) for n in first[side].left.values()])
        for side in SIDES
    ]
    return Figure("Weights left by layer", "bar", "", "weights", series, log_y=True)
