"""`python launch.py quant_zoo --mode=full`.

All number formats of `quant` on the same trained network at 2 to 8 bits, weights
alone, a scale of least error for each output channel: accuracy, signal over
quantization noise of weights and of each layer's products (all errors before it
included), and what a product costs in shifts and adds. ANT (arXiv 2208.14286) chooses
the format of each tensor by its error: it is to be no worse than any one format.

Quick mode (about a minute on 2 cores, the 5,000 digits that ship with Lathe) trains a
network of four convolutions. Full mode takes the trained ResNet-20 of LATHE_DATA, whose
weights were tuned on JPEG images as the test images are, and three of those networks.
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

FORMATS = (
    *("fixed", "powers", "sp2", "apot", "esb0", "esb1", "esb2"),
    *("esb", "flint", "float", "binary", "ternary"),
)
"""The formats compared, as `experiments.zoo.formats` names them."""


@dataclasses.dataclass(frozen=True)
class Config(Networks):
    """Options of the experiment."""

    formats: tuple[str, ...] = option(
        ("fixed", "powers", "sp2", "esb", "flint", "float"),
        "formats compared",
        choices=FORMATS,
    )
    bits: tuple[int, ...] = option(
        (3, 4, 6), "widths of weights", unit="bits", low=1, high=8
    )
    steps: int = option(
        32, "scales that are tried over the range that suits a format", low=2
    )

    def __post_init__(self):
        check_filled(self, "networks", "bits", "formats")


def run(run: "Run", config: Config) -> "Outcome":
    """Measures every network that the config asks for; see `experiments.zoo`."""
    from experiments.differences import MARGIN_RULES
    from experiments.results import Outcome
    from experiments.rounding.protocol import Protocol
    from experiments.zoo import claims
    from experiments.zoo.protocol import run_trial

    rows, figures, sources = [], [], []
    all_judged = True
    for name in config.networks:
        made = Protocol(run, config, name)
        found = {trial: run_trial(made, trial, config) for trial in made.trials()}
        judged = len(made.test.labels) >= 10_000
        all_judged &= judged
        rows += claims.rows(found, judged)
        figures += claims.figures(found)
        sources.append(made.dataset.source)
    notes = [
        "Batch norms are folded first. Every output channel has the scale of least "
        f"squared error among {config.steps} in the range that the format's levels "
        "give (from a quarter of the scale that is best for a normal distribution), "
        "and 16 about the best of them: the same search for all formats. Biases, "
        "batch norms and inputs stay float; nothing is trained after quantization.",
        "Formats may be one set of levels at a width (ternary and fixed point at 2 "
        "bits; ESB with 1 significant bit and fixed point at 3): they are measured "
        "once. What is chosen may be one format in all kernels: the same network, "
        "which claims nothing. ESB has at most 4 bits of exponent, so k significant "
        "bits go up to k + 5 bits; bits - 3 of them have the least error on normal "
        "weights.",
        "A product's shifts and adds are those of a weight in that format with an "
        "integer activation: see `quant.Cost`.",
        "With a scale of its own for each channel, fixed point has less error on "
        "weights that are nearly normal than SP2, powers of two and, up to 6 bits, "
        "flint, whose levels crowd around 0: they gain by their products and on heavy "
        "tails.",
        "Differences of weights that are a file are taken image by image, and their "
        "standard error is that of a mean over images. " + MARGIN_RULES,
    ]
    if not all_judged:
        notes.append("Accuracies are not judged on fewer than 10,000 test images.")
    return Outcome(rows, figures, notes, tuple(dict.fromkeys(sources)))


EXPERIMENT = Experiment(
    name="quant_zoo",
    paper=papers.ANT,
    claim="The format of least error in each tensor is no worse than any one format",
    config=Config,
    modes={
        "quick": Mode(1.0),
        "full": Mode(
            25.0,
            {
                "networks": ("digits", "resnet20_jpeg"),
                "formats": FORMATS,
                "bits": (1, 2, 3, 4, 5, 6, 7, 8),
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
