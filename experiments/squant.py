"""`python launch.py squant --mode=full`.

SQuant (arXiv 2202.07471): all kernels of trained networks rounded without data, with
every stage of the method, beside rounding to nearest and rounding with biases
corrected from batch norms. Accuracies at 2 to 8 bits, with inputs of layers quantized
too; the sums of errors that the method bounds; output errors of layers; milliseconds.

Quick mode (about a minute on 2 cores, the 5,000 digits that ship with Lathe) trains a
network of four convolutions. Full mode adds the trained ResNet-20 and ResNet-56 on the
10,000 test images of CIFAR-10; they are read from `pretrained` in LATHE_DATA, and are
most of its time. It prints the differences that the paper's order claims: E < E&C <
E&K < E&K&C at 2 and 3 bits. The paper's own figures are of ImageNet.
"""

import dataclasses
from typing import TYPE_CHECKING

from experiments import papers
from experiments.options import check_filled, option
from experiments.registry import Experiment, Mode
from experiments.rounding.options import Networks

if TYPE_CHECKING:
    from experiments.results import Outcome
    from experiments.workdir import Run


@dataclasses.dataclass(frozen=True)
class Config(Networks):
    """Options of the experiment."""

    bits: tuple[int, ...] = option(
        (2, 3, 4), "widths of weights", unit="bits", low=2, high=8
    )
    input_bits: tuple[int, ...] = option(
        (4,), "widths of weights and inputs together", unit="bits", low=2, high=8
    )
    corrected_to: int = option(
        3, "biases are corrected up to this width, for comparison", unit="bits", low=0
    )
    fold: bool = option(True, "fold batch norm into kernels first")
    turns: int = option(15, "timed calls of each rounding", low=1)

    def __post_init__(self):
        check_filled(self, "networks", "bits")


def is_judged(config: Config, network: str, examples: int, images: int) -> bool:
    """Returns whether the order of roundings is judged for a network.

    Besides, networks that a run trains need the seeds of `experiments.differences`.

    Args:
      config: of the run.
      network: one of its networks.
      examples: training images that it gets, if it is trained here.
      images: test images.
    """
    if images < 10_000:
        return False
    if network != "digits":
        return True
    return EXPERIMENT.reaches(config, "epochs", "dataset", examples=examples)


def run(run: "Run", config: Config) -> "Outcome":
    """Measures every network that the config asks for; see `experiments.rounding`."""
    from experiments.differences import RULES
    from experiments.results import Outcome
    from experiments.rounding import claims
    from experiments.rounding.protocol import Protocol

    rows, figures, sources = [], [], []
    all_judged = True
    for name in config.networks:
        made = Protocol(run, config, name)
        found = {trial: made.run_trial(trial) for trial in made.trials()}
        sizes = len(made.train.labels), len(made.test.labels)
        judged = is_judged(config, name, *sizes)
        all_judged &= judged
        rows += claims.rows(found, judged)
        figures += claims.figures(found)
        sources.append(made.dataset.source)
    notes = [
        "Every kernel is rounded on a grid of its own for each output channel, from "
        "the least to the largest weight; biases and batch norms stay float. "
        + ("Batch norms are folded first" if config.fold else "No batch norm is folded")
        + "; a grid spans the weights of its channel, whatever their scale, so codes "
        "are the same either way, mirrored where the scale of a norm is negative.",
        "Inputs of layers are quantized with ranges from batch norms alone: the first "
        "layer's stay float, the last layer's have 8 bits, the weights of all layers "
        "have the width that is given. The paper's figures (ResNet18 on ImageNet: "
        "66.14 % at 4/4, 70.74 % at 6/6, 71.47 % at 8/8) are of other data.",
        "Output errors are mean squares over the outputs of a layer of the float "
        "network on training images, geometric means over layers, without the first. "
        "The advantage is to vanish where inputs have no mean: less their mean, inputs "
        "of one window are still correlated, so part of it is left; with random signs "
        "they are not, and what flips cost is all there is.",
        "Sums of errors may pass their bounds only where weights at the ends of a grid "
        "cannot be moved outwards. E&K leaves the linear layer, whose kernels are one "
        "weight each, rounded to nearest.",
        "Times are of networks of at most 0.9 million weights, far below the paper's "
        "second, and claim nothing: `benchmarks/squant.py` has 25 million.",
        "Differences of weights that are a file are taken image by image, and their "
        "standard error is that of a mean over images. " + RULES,
    ]
    if not all_judged:
        notes.append(
            "Orders are not judged where there are fewer images, seeds or epochs than "
            "in full mode."
        )
    return Outcome(rows, figures, notes, tuple(dict.fromkeys(sources)))


EXPERIMENT = Experiment(
    name="squant",
    paper=papers.SQUANT,
    claim="Rounding by sums of kernels and channels beats rounding to nearest, "
    "without data and within a second",
    config=Config,
    modes={
        "quick": Mode(1.0),
        "full": Mode(
            40.0,
            {
                "networks": ("digits", "resnet20", "resnet20_jpeg", "resnet56"),
                "bits": (2, 3, 4, 5, 6, 7, 8),
                "input_bits": (4, 6, 8),
                "dataset": "mnist",
                "examples": 8_000,
            },
            seeds=(0, 1, 2),
        ),
    },
    data=("mnist_5k", "mnist", "cifar10", "LATHE_DATA/pretrained"),
    run=run,
)


if __name__ == "__main__":
    from experiments import cli

    cli.main(EXPERIMENT)
