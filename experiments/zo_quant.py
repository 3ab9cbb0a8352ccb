"""`python launch.py zo_quant --mode=full`.

Scales of a quantized network tuned without gradients: LeNet-300-100 with weights and
inputs of few bits, a scale for each output and each layer's inputs, a few hundred
numbers in all, from values of the loss alone, as with a device that only runs. By the
hybrid estimate (arXiv 2012.11518) and its rivals at equal queries, from the scales of
least error; beside scales of the largest magnitudes and, which a device could not give,
straight-through gradients for as many steps.

Quick mode (about a minute on 2 cores) has the 5,000 digits that ship with Lathe, full
mode MNIST and three seeds. It prints the accuracy of every choice of scales and what
tuning adds to least error. The paper has no such experiment.
"""

import dataclasses
from typing import TYPE_CHECKING

from experiments import papers
from experiments.options import check_filled, option
from experiments.registry import Experiment, Mode

if TYPE_CHECKING:
    from experiments.results import Outcome
    from experiments.workdir import Run

ARMS = ("sgd", "scd", "sign", "adamm", "hge", "hge_adam")


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the experiment."""

    dataset: str = option(
        "mnist_5k", "data set", choices=("mnist_5k", "mnist", "fashion_mnist")
    )
    examples: int = option(0, "training images; 0 for all", low=0)
    epochs: int = option(6, "of training in floats", low=1)
    batch_size: int = option(64, "of training", low=1)
    bits: int = option(2, "of weights", unit="bits", low=2, high=8)
    input_bits: int = option(3, "of inputs", unit="bits", low=1, high=8)
    calibration_images: int = option(200, "that scales are fitted to", low=1)
    held_images: int = option(500, "training images that rates are chosen with", low=1)
    query_images: int = option(64, "whose mean loss is one query", low=1)
    arms: tuple[str, ...] = option(("adamm", "hge_adam"), "methods", choices=ARMS)
    rates: tuple[float, ...] = option(
        (0.003, 0.01), "of steps with entries near 1", low=0.0, low_open=True
    )
    gradient_rates: tuple[float, ...] = option(
        (0.1, 1.0), "of steps as long as an estimate", low=0.0, low_open=True
    )
    probes: int = option(
        20, "directions and coordinates of a step, two queries each", low=4
    )
    budget: int = option(6_000, "queries of a run", low=100)

    def __post_init__(self):
        check_filled(self, "arms", "rates", "gradient_rates")


def run(run: "Run", config: Config) -> "Outcome":
    """Tunes the scales of every seed's network; see `experiments.zeroth.scales`."""
    from experiments.differences import RULES, difference, lead_row
    from experiments.results import Figure, Outcome, Series, mean_row, mean_std
    from experiments.zeroth import scales
    from experiments.zeroth.arms import ARMS as METHODS

    bench = scales.Bench(run, config)
    found: dict[str, list[float]] = {}
    numbers, queries = 0, 0
    for seed in run.seeds:
        params = bench.weights(seed)
        least = bench.calibrated(params, largest=False)
        largest = bench.calibrated(params, largest=True)
        numbers = scales.count(least)
        start = run.stage(
            f"s{seed}-start",
            lambda p=params, a=least, b=largest: {
                "float": bench.accuracy(p, None),
                "largest magnitudes": bench.accuracy(p, b),
                "least error": bench.accuracy(p, a),
            },
        )
        for name, accuracy in start.items():
            found.setdefault(name, []).append(accuracy)
        for arm in (*config.arms, scales.GRADIENT):
            is_long = arm in METHODS and METHODS[arm].unit == "gradient"
            rates = config.gradient_rates if is_long else config.rates
            tried = [
                run.stage(
                    f"s{seed}-{arm.replace(' ', '-')}-{rate:g}",
                    lambda a=arm, r=rate, p=params, q=least, s=seed: bench.tune(
                        s, a, r, p, q
                    ),
                )
                for rate in rates
            ]
            best = min(tried, key=lambda each: each["loss"])
            queries = max(queries, *(each["queries"] for each in tried))
            found.setdefault(scales.title(arm), []).append(best["accuracy"])
    setting = f"LeNet-300-100, {config.bits}/{config.input_bits} bits"
    base = mean_std(found["least error"])[0]
    rows = [
        mean_row(
            "accuracy",
            f"{setting}, {name}",
            values,
            baseline=None if name == "least error" else base,
            unit="%",
        )
        for name, values in found.items()
    ]
    names = ("dataset", "epochs", "held_images", "budget")
    judged = EXPERIMENT.reaches(config, *names, examples=len(bench.train.labels))
    for arm in config.arms:
        name = scales.title(arm)
        lead = difference(found[name], found["least error"])
        rows.append(
            lead_row(
                "accuracy above least error",
                f"{setting}, {name}",
                lead,
                "better",
                judged,
            )
        )
    points = [mean_std(values) for values in found.values()]
    means, stds = zip(*points, strict=True)
    figures = [Figure(setting, "bar", "", "%", [Series("", list(found), means, stds)])]
    notes = [
        f"{numbers} scales are tuned, as logarithms, with at most {queries:,} queries "
        f"of a budget of {config.budget:,}; a query is the mean loss of "
        f"{config.query_images} training images, the same for all queries of a step. "
        "The best of each method's rates is chosen by the loss on "
        f"{config.held_images} training images held out.",
        "Straight-through gradients are those of `quant.Quantizer.fake` for scales, "
        "with Adam for as many steps: what a simulator could do, and a device could "
        "not.",
        RULES,
    ]
    return Outcome(rows, figures, notes, (bench.dataset.source,))


EXPERIMENT = Experiment(
    name="zo_quant",
    paper=papers.HGE,
    claim="Scales of a quantized network, tuned from values of its loss alone, are "
    "more accurate than those of least error",
    config=Config,
    modes={
        "quick": Mode(1.5),
        "full": Mode(
            20.0,
            {
                "dataset": "mnist",
                "examples": 20_000,
                "held_images": 2_000,
                "arms": ARMS,
                "rates": (0.001, 0.003, 0.01),
                "gradient_rates": (0.03, 0.1, 0.3, 1.0),
                "budget": 20_000,
            },
            seeds=(0, 1, 2),
        ),
    },
    data=("mnist_5k", "mnist", "fashion_mnist"),
    run=run,
)


if __name__ == "__main__":
    from experiments import cli

    cli.main(EXPERIMENT)
