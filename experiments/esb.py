"""`python launch.py esb --mode=full`.

ESB (arXiv 2109.03513): formats whose numbers keep k significant bits, from powers of
two (k = 0) to fixed point. Their scales and errors on a normal distribution beside the
authors' constants; kernels quantized after training, every k; training with quantized
weights and inputs, ESB with the k of least error beside fixed point and powers of two.

Quick mode (about a minute on 2 cores, the 5,000 digits that ship with Lathe) trains a
network of four convolutions. Full mode takes MNIST, and a network of 0.1 million
weights on CIFAR-10 at half size. It prints the differences that the paper's order
claims. The paper's own figures are of ImageNet and of an FPGA.
"""

import dataclasses
from typing import TYPE_CHECKING

from experiments import papers
from experiments.options import check_filled, option
from experiments.registry import Experiment, Mode
from experiments.trained.options import Training, is_judged

if TYPE_CHECKING:
    from experiments.results import Outcome
    from experiments.workdir import Run


@dataclasses.dataclass(frozen=True)
class Config(Training):
    """Options of the experiment."""

    table: tuple[int, ...] = option(
        (2, 3, 4, 5, 6, 7, 8), "widths of the table on N(0, 1)", low=2, high=8
    )
    bits: tuple[int, ...] = option(
        (4,), "widths of kernels after training", unit="bits", low=3, high=8
    )
    trained_bits: tuple[int, ...] = option(
        (4,), "widths of weights and inputs in training", unit="bits", low=2, high=7
    )

    def __post_init__(self):
        check_filled(self, "networks", "table", "bits", "trained_bits")


def run(run: "Run", config: Config) -> "Outcome":
    """Measures every network that the config asks for; see `experiments.trained`."""
    from experiments.differences import MARGIN_RULES
    from experiments.results import Outcome
    from experiments.trained import claims, esb
    from experiments.trained.protocol import Protocol

    rows = list(esb.table_rows(config.table))
    figures, sources = [esb.table_figure(config.table)], []
    for name in config.networks:
        made = Protocol(run, config, name)
        judged = is_judged(config, EXPERIMENT, name)
        after, trained = {}, []
        for seed in run.seeds:
            after[seed] = {
                bits: run.stage(
                    made.stage(seed, f"after-b{bits}"),
                    lambda m=made, s=seed, b=bits: esb.quantized(m, s, b),
                )
                for bits in config.bits
            }
            trained.append(esb.trained(made, seed, config.trained_bits))
        found, unsettled = (
            claims.by_title(trained, key) for key in ("accuracy", "unsettled")
        )
        title = made.network.title
        rows += esb.trained_rows(title, found, unsettled, config.trained_bits, judged)
        start = [made.start_accuracy(seed) for seed in run.seeds]
        rows += esb.after_rows(title, after, start, judged)
        figures += esb.figures(title, after, found)
        sources.append(made.dataset.source)
    notes = [
        "The scale is that of least error on a normal distribution of the same "
        "deviation (DDA), one for each tensor, in all formats. After training, kernels "
        "alone are quantized, with batch norms as they are; rows that say so have the "
        "scale of least error of a search on the kernel itself, and claim nothing. The "
        "baseline is the float network whose kernels they are, not the one that "
        "trains on.",
        "In training, unsigned formats of b bits quantize what comes from a ReLU, with "
        "scales from running means over batches; the first and the last layer have 8 "
        "bits. ESB takes the k of least error on N(0, 1). Where that is fixed point "
        "(3 bits of weights; 2 of weights and inputs), both are one arm, run once and "
        "not compared.",
        "The float network trains on for as long as the others: it is the control. The "
        "gradient of rounded weights is the identity in every arm, beyond the levels "
        "too; that of inputs ends with the levels.",
        "The authors' constants of 4 bits and 0 significant ones and of 5 bits and 1 "
        "are the first of several minima, 1.8 % and 0.016 % above the least error; all "
        "others are the least. What is computed on N(0, 1) claims nothing here: tests "
        "hold it.",
        "Costs are shifts and adds of a product, see `quant.Cost`. GOPS, energy and "
        "the paper's 10.95 GOPS per 1,000 LUT need a model of hardware and are not in "
        "this experiment.",
        claims.SETTLED,
        MARGIN_RULES,
    ]
    return Outcome(rows, figures, notes, tuple(dict.fromkeys(sources)))


EXPERIMENT = Experiment(
    name="esb",
    paper=papers.ESB,
    claim="A few significant bits with an exponent lose less than fixed point and "
    "powers of two of the same width",
    config=Config,
    modes={
        "quick": Mode(1.0),
        "full": Mode(
            25.0,
            {
                "networks": ("digits", "cifar"),
                "bits": (3, 4, 5, 6),
                "trained_bits": (2, 3, 4),
                "dataset": "mnist",
                "examples": 8_000,
                "epochs": 8,
                "tuning": 2,
                "batch_size": 64,
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
