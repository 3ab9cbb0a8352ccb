"""`python launch.py memristor --mode=full`.

Networks for memristor crossbars (arXiv 1908.10017): ADMM towards few rows and filters,
in numbers that fill whole arrays or in equal shares; purification and removal of unused
paths, on the operator graph; ADMM towards the integers that cells hold. Accuracy,
weights and arrays after each step, what either pass gives beyond pruning, whether
predictions stay, and accuracy with conductances that differ.

Quick mode (about a minute on 2 cores, the 5,000 digits that ship with Lathe) prunes
LeNet-5 by 10x. Full mode takes MNIST and CIFAR-10. The paper's row is LeNet-5 at
231.82x with 98.05 % in 8 bits.
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
        ("lenet5",), "networks", choices=("lenet5", "convnet")
    )
    dataset: str = option(
        "mnist_5k", "data set of LeNet-5", choices=("mnist_5k", "mnist")
    )
    examples: int = option(
        0, "stratified training examples; 0 means all", unit="images", low=0
    )
    validation: int = option(
        0,
        "training images held out that accuracy is measured on, to choose options; "
        "0 means the test images",
        unit="images",
        low=0,
    )
    ways: tuple[str, ...] = option(
        ("aware",), "how counts are chosen", choices=("aware", "plain")
    )
    rates: tuple[float, ...] = option(
        (10.0,), "times fewer weights in pruned kernels", low=1.0, low_open=True
    )
    bits: tuple[int, ...] = option(
        (8,), "widths of weights", unit="bits", low=2, high=8
    )
    epochs: tuple[int, ...] = option(
        (4, 3, 3, 1),
        "dense, ADMM, retraining, ADMM towards levels",
        unit="epochs",
        low=1,
    )
    iterations: int = option(4, "ADMM's updates in an epoch", low=1)
    batch_size: int = option(64, "examples per step", unit="images", low=1)
    learning_rate: float = option(1e-3, "Adam's rate", low=0.0, low_open=True)
    level_rate: float = option(
        3e-4, "Adam's rate towards levels", low=0.0, low_open=True
    )
    weight_decay: float = option(
        5e-5, "factor of the sum of squared weights over 2, in the loss", low=0.0
    )
    rho: float = option(1e-3, "ADMM's first penalty", low=0.0, low_open=True)
    rho_end: float = option(3e-2, "ADMM's last penalty", low=0.0, low_open=True)
    level_rho: float = option(1e-2, "towards levels: the first", low=0.0, low_open=True)
    level_rho_end: float = option(1.0, "and the last", low=0.0, low_open=True)
    emptiness: float = option(
        0.9, "share near zero above which a group may go", low=0.0, high=1.0
    )
    importance: float = option(
        0.05, "share of the mean importance below which it may", low=0.0
    )
    delta: float = option(0.05, "near zero, over the root mean square", low=0.0)
    noise: tuple[float, ...] = option(
        (0.0, 0.05, 0.1), "deviations of the logarithm of conductances", low=0.0
    )

    def __post_init__(self):
        check_filled(self, "networks", "ways", "rates")
        check_length(
            self, "epochs", "dense", "ADMM", "retraining", "ADMM towards levels"
        )


def run(run: "Run", config: Config) -> "Outcome":
    """Runs every step of every network; see `experiments.constrained.crossbars`."""
    from experiments.constrained import checks, crossbar_rows, crossbars
    from experiments.differences import MARGIN_RULES
    from experiments.results import Outcome

    rows, figures, sources = [], [], []
    for name in config.networks:
        made = crossbars.Protocol(run, config, name)
        dense, found, levels = [], {}, {}
        for seed in run.seeds:
            dense.append(made.control(seed)["accuracy"])
            for way in config.ways:
                for rate in config.rates:
                    _, _, result = made.removed(seed, way, rate)
                    found.setdefault((way, rate), []).append(result)
                    for bits in config.bits:
                        result = made.levels(seed, way, rate, bits)
                        levels.setdefault((way, rate, bits), []).append(result)
        count = len(made.trainer.train.labels)
        judged = EXPERIMENT.reaches(config, "epochs", examples=count)
        judged &= not config.validation
        rows += crossbar_rows.rows(made.title, dense, found, levels, judged)
        if config.bits:
            figures += crossbar_rows.figures(made.title, levels)
        sources.append(made.dataset.source)
    notes = [
        "Rows of GEMM views and filters are pruned, rows first; the first layer stays "
        "dense and the classifier keeps its filters. Counts that fill whole arrays are "
        "the nearest to the rate that is asked for, which they may miss by far: a "
        "setting begins with the compression that was met. Equal shares keep as many "
        "weights of each kernel.",
        "Path removal moves constants that dead channels leave into biases; the "
        "smaller network is compared with the masked one on all test images. "
        f"{checks.NOTE} "
        "Purification does change outputs; nothing is trained after it but towards "
        "levels, and the floats that levels are compared with, for as long.",
        "Arrays have 128 x 64 cells of 4 bits, with a pair of columns for the sign. "
        "Areas and powers are relative and of the specification's constants "
        "(simulated). No teacher was distilled.",
        "Noise multiplies every conductance by exp(sigma N(0, 1)), of one draw.",
        MARGIN_RULES,
    ]
    return Outcome(rows, figures, notes, tuple(dict.fromkeys(sources)))


EXPERIMENT = Experiment(
    name="memristor",
    paper=papers.MEMRISTOR,
    claim="Purification and removal of unused paths compress pruned networks further "
    "at the same accuracy, and 8-bit conductances cost little",
    config=Config,
    modes={
        "quick": Mode(1.0),
        "full": Mode(
            35.0,
            {
                "networks": ("lenet5", "convnet"),
                "dataset": "mnist",
                "examples": 5_000,
                "ways": ("aware", "plain"),
                "rates": (10.0, 60.0),
                "bits": (8, 4),
                "epochs": (6, 4, 4, 1),
                "learning_rate": 3e-3,
                "rho": 1e-1,
                "rho_end": 3.0,
                "noise": (0.0, 0.02, 0.05, 0.1),
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
