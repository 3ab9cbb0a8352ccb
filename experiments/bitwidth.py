"""`python launch.py bitwidth --mode=full`.

Widths of kernels as real numbers that are trained with the weights within a budget of
average bits, rounded, and frozen for the last epochs (the idea of arXiv 1810.10351),
beside one width for all, random widths of the same size, and widths chosen greedily by
measured sensitivity. All of them start from the same float network and get the same
number of epochs; sizes count headers.

Quick mode (about a minute on 2 cores, the 5,000 digits that ship with Lathe) has one
budget, 2.5 bits. Full mode has five, on MNIST and on CIFAR-10, and compares what shares
a width and how widths become real. It prints how far learned widths are ahead.
"""

import dataclasses
from typing import TYPE_CHECKING

from experiments import papers
from experiments.options import check_filled, check_length, option
from experiments.registry import Experiment, Mode

if TYPE_CHECKING:
    from experiments.results import Outcome
    from experiments.workdir import Run


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the experiment."""

    networks: tuple[str, ...] = option(
        ("digits",), "networks that are quantized", choices=("digits", "cifar")
    )
    dataset: str = option(
        "mnist_5k", "data set of the network of digits", choices=("mnist_5k", "mnist")
    )
    bits: tuple[float, ...] = option(
        (2.5,), "budgets: average bits of a weight", unit="bits", low=1.0, high=8.0
    )
    groups: tuple[str, ...] = option(
        (),
        "what shares a width, compared on the last network",
        choices=("tensor", "16", "channel"),
    )
    relaxations: tuple[str, ...] = option(
        (),
        "how widths become real, compared on the last network",
        choices=("interpolation", "step", "categorical"),
    )
    compared_bits: float = option(
        3.0, "the budget of both comparisons", unit="bits", low=1.0, high=8.0
    )
    examples: int = option(
        0, "stratified training examples; 0 means all", unit="images", low=0
    )
    epochs: tuple[int, ...] = option(
        (2, 2, 1), "float, joint and last epochs", unit="epochs", low=1
    )
    batch_size: int = option(32, "examples per step", unit="images", low=1)
    learning_rate: float = option(
        5e-3,
        "Adam's rate for float weights; a tenth for quantized ones",
        low=0.0,
        low_open=True,
    )
    width_rate: float = option(0.1, "Adam's rate for widths", low=0.0, low_open=True)
    single_level: bool = option(
        False, "train widths on the weights' examples, at each step"
    )

    def __post_init__(self):
        check_filled(self, "networks", "bits")
        check_length(self, "epochs", "float", "joint", "last")


def is_judged(config: Config, network: str, examples: int) -> bool:
    """Returns whether data and training are those of full mode at least.

    Args:
      config: of the run.
      network: one of its networks.
      examples: training images that it gets.
    """
    names = ("epochs", "dataset") if network == "digits" else ("epochs",)
    return EXPERIMENT.reaches(config, *names, examples=examples)


def run(run: "Run", config: Config) -> "Outcome":
    """Runs every trial that the config asks for; see `experiments.widths`."""
    from experiments.differences import MARGIN_RULES
    from experiments.results import Outcome
    from experiments.widths import claims
    from experiments.widths.protocol import Protocol, trials

    rows, figures, sources = [], [], []
    all_judged = True
    for name in config.networks:
        made = Protocol(run, config, name)
        found = {t: made.run_trial(t) for t in trials(config, name, run.seeds)}
        floats = [made.float_of(seed)["accuracy"] for seed in run.seeds]
        judged = is_judged(config, name, made.count)
        all_judged &= judged
        rows += claims.rows(found, floats, judged)
        known = [made.sensitivity(seed) for seed in run.seeds]
        rows += claims.width_rows(found, known, made.sizes(run.seeds[0]), judged)
        if name == config.networks[-1]:
            seconds = made.seconds(run.seeds[0]) if config.relaxations else {}
            rows += claims.compared_rows(found, seconds, config)
        figures += claims.figures(found, floats)
        sources.append(made.dataset.source)
    notes = [
        "The method section of the paper was not at hand: the design (relaxations, "
        "budget, rounding) keeps its idea alone, and no number of it is quoted.",
        "Widths are trained on a tenth of the training images that no weight is "
        "trained on"
        + (", or here on the weights' own, " if config.single_level else ", ")
        + "and so are sensitivities measured; no method sees test images. Rounding "
        "never exceeds the budget. Baselines are frozen from the start and get the "
        "joint and the last epochs with the same rates. The float network is the one "
        "that all start from, without these epochs: nothing is claimed beside it.",
        "Sizes count 8 bits of width and 32 of scale for each group, and 32 for each "
        "number that is not quantized (norms, biases). Inputs of layers stay float.",
        "Correlations are of ranks over kernels, with the rise of the loss where one "
        "kernel alone has 2 bits: as it is, and divided by the number of its weights, "
        "which is what a bit of the budget buys. There are few kernels.",
        "Granularities and relaxations are compared with one seed and judge nothing; "
        "granularities at the size, headers included, of one width a kernel.",
        MARGIN_RULES,
    ]
    if not all_judged:
        notes.append("Nothing is judged on fewer images or epochs than in full mode.")
    return Outcome(rows, figures, notes, tuple(dict.fromkeys(sources)))


EXPERIMENT = Experiment(
    name="bitwidth",
    paper=papers.BITWIDTH,
    claim="Widths of kernels that are trained within a budget beat one width for all "
    "at the same size",
    config=Config,
    modes={
        "quick": Mode(1.0),
        "full": Mode(
            30.0,
            {
                "networks": ("digits", "cifar"),
                "dataset": "mnist",
                "bits": (2.0, 2.5, 3.0, 4.0, 6.0),
                "groups": ("tensor", "16", "channel"),
                "relaxations": ("interpolation", "step", "categorical"),
                "examples": 6_000,
                "epochs": (4, 2, 1),
            },
            seeds=(0, 1, 2),
        ),
    },
    data=("mnist_5k", "mnist", "cifar10"),
    run=run,
)


if __name__ == "__main__":
    from experiments import cli

    cli.main(EXPERIMENT)
