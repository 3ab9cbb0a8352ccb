"""Rows and figures of `shape_and_prove`: before beside after."""

from collections.abc import Iterable, Mapping
from typing import Any

from experiments import data
from experiments.results import Figure, Outcome, Row, Series, mean_row, mean_std
from experiments.shaping.pipeline import Found, Shaped
from experiments.workdir import Run

SIDES = {"before": "dense, float32", "after": "pruned and quantized"}
INDEX_BITS = 4
"""Of a weight's distance from the one before it, as in deep compression."""


def outcome(run: Run, config: Any, found: Found) -> Outcome:
    """Returns what the report shows.

    Args:
      run: the work folder.
      config: of the experiment.
      found: of all seeds.
    """
    every = list(found.values())
    rows = [*_quality(every, config), *_sizes(every), *_prices(every)]
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
        "second core of designs with two. What does not fit a target is marked. "
        f"Stored weights: {INDEX_BITS} bits of index for each one that is left.",
    ]
    source = data.load(config.dataset, data_dir=run.data_dir).source
    return Outcome(rows, figures, notes, (source,))


def stored_bytes(shaped: Shaped) -> float:
    """Returns the bytes of the kernels: all values, or those left and indices."""
    return sum(
        min(shaped.sizes[path] * shaped.bits, left * (shaped.bits + INDEX_BITS)) / 8
        for path, left in shaped.left.items()
    )


def _certified(shaped: Shaped) -> float:
    counts = shaped.certified
    return 100 * counts["verified"] / sum(counts.values())


def _quality(every: list[Mapping[str, Shaped]], config: Any) -> Iterable[Row]:
    base: dict[str, float] = {}
    for side, title in SIDES.items():
        for metric, value in (
            ("accuracy", lambda s: s.accuracy),
            (f"certified accuracy, eps {config.eps:g}", _certified),
        ):
            row = mean_row(metric, title, [value(f[side]) for f in every], unit="%")
            yield row._replace(baseline=base.get(metric))
            base[metric] = row.measured
        for name in ("falsified", "open"):
            counts = [f[side].certified[name] for f in every]
            yield mean_row(f"images {name}", title, counts)


def _sizes(every: list[Mapping[str, Shaped]]) -> Iterable[Row]:
    before, after = every[0]["before"], every[0]["after"]
    total, left = sum(after.sizes.values()), sum(after.left.values())
    sizes = stored_bytes(before), stored_bytes(after)
    yield Row("weights left", SIDES["after"], left, baseline=total)
    yield Row("bytes of weights", SIDES["after"], sizes[1], baseline=sizes[0])
    yield Row("reduction of bytes", SIDES["after"], sizes[0] / sizes[1], unit="x")


def _prices(every: list[Mapping[str, Shaped]]) -> Iterable[Row]:
    before, after = every[0]["before"].cost, every[0]["after"].cost
    for name in after:
        setting = _priced(name, before[name], after[name])
        for metric, key, scale, unit in (
            ("latency", "latency_s", 1e6, "us"),
            ("energy", "energy_j", 1e6, "uJ"),
        ):
            yield Row(
                metric,
                setting,
                scale * after[name][key],
                baseline=scale * before[name][key],
                unit=unit,
                simulated=True,
            )


def _priced(name: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """A target, the format of the dense network on it, and what does not fit."""
    title = f"{name}, not calibrated" if name == "host" else name
    text = f"{title} (dense: {before['weight_bits']:g} bits)"
    if not before["feasible"]:
        text += ", dense does not fit"
    return text if after["feasible"] else f"{text}, does not fit"


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
    before, after = every[0]["before"].cost, every[0]["after"].cost
    series = [
        Series(
            title,
            tuple(after),
            [before[name][key] / after[name][key] for name in after],
        )
        for title, key in (("latency", "latency_s"), ("energy", "energy_j"))
    ]
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
