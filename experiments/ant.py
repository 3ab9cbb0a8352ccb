"""`python launch.py ant --mode=full`.

ANT (arXiv 2208.14286): each tensor in integers, powers of two or flint, whichever has
the least error. Which distribution chooses which format; kernels quantized after
training; training of 4-bit weights and inputs with learned scales, one format for all
beside the choice; accuracy by the number of layers that get 8 bits.

Quick mode (about a minute on 2 cores, the 5,000 digits that ship with Lathe) trains a
network of four convolutions. Full mode takes MNIST, and a network of 0.1 million
weights on CIFAR-10 at half size. It prints the differences that the paper's order
claims. The paper's own figures are of ImageNet and of an accelerator.
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

    map_bits: int = option(4, "width of the map of types", unit="bits", low=3, high=6)
    bits: tuple[int, ...] = option(
        (4,), "widths of kernels after training", unit="bits", low=3, high=6
    )
    trained_bits: int = option(
        4, "width of weights and inputs in training", unit="bits", low=3, high=6
    )
    lists: tuple[str, ...] = option(
        ("I", "IPF"),
        "lists of formats that are trained: I integers, P powers of two, F flint",
        choices=("I", "P", "F", "IP", "IPF"),
    )
    promoted: tuple[int, ...] = option(
        (1,), "numbers of layers that get 8 bits", low=0, high=5
    )
    orders: tuple[str, ...] = option(
        ("error", "reversed"),
        "orders in which layers get them",
        choices=("error", "random", "reversed"),
    )

    def __post_init__(self):
        check_filled(self, "networks", "bits", "lists", "promoted", "orders")


def run(run: "Run", config: Config) -> "Outcome":
    """Measures every network that the config asks for; see `experiments.trained`."""
    from experiments.differences import MARGIN_RULES
    from experiments.results import Outcome
    from experiments.trained import ant, claims
    from experiments.trained.protocol import Protocol

    rows = list(ant.type_rows(config.map_bits))
    figures, sources = [], []
    for name in config.networks:
        made = Protocol(run, config, name)
        judged = is_judged(config, EXPERIMENT, name)
        after, trained, chosen, mixed = {}, [], [], []
        for seed in run.seeds:
            after[seed] = {
                bits: run.stage(
                    made.stage(seed, f"after-b{bits}"),
                    lambda m=made, s=seed, b=bits: ant.quantized(m, s, b),
                )
                for bits in config.bits
            }
            choice = run.stage(
                made.stage(seed, "choices"),
                lambda m=made, s=seed: ant.choices(m, s, config.trained_bits),
            )
            chosen.append(choice)
            trained.append(ant.trained(made, seed, choice, config))
            mixed.append(ant.promoted(made, seed, choice, config))
        found = {title: [each[title] for each in trained] for title in trained[0]}
        title = made.network.title
        rows += ant.trained_rows(title, found, chosen, config.trained_bits, judged)
        rows += ant.choice_rows(title, chosen)
        rows += ant.promoted_rows(title, mixed, len(choice), judged)
        rows += ant.after_rows(title, after, judged)
        figures += ant.figures(title, found, mixed)
        sources.append(made.dataset.source)
    notes = [
        "Scales are the best of 75 from 0.75 to 1.49 times that of the largest number, "
        "as in the paper; kernels have one for each output channel, inputs one. The "
        "map of types is of 20,000 quantiles with scales from 0.05 on: from 0.75 on "
        "so many numbers cannot be clipped, and a normal prefers flint.",
        "A kernel's format is that of the least sum of its channels' errors, an "
        "input's that of least error on training images. So the choice never has more "
        "error than one format for all: that is no claim of this report. Lists that "
        "choose alike are the same network: their lead is no claim, and is there once.",
        "All layers are quantized, the first and the last one and images too; batch "
        "norms are not folded. In training, scales are learned with the paper's "
        "gradient: that of a number is 1, beyond the levels too, that of a scale the "
        "level less the number in its unit. Updates of scales are shares of "
        "themselves. After training, kernels "
        "alone are quantized. Layers of 8 bits have integers, for weights and inputs; "
        "these networks are not trained again.",
        "The float network trains on for as long as the others: it is the control.",
        "Speed and energy need a model of an accelerator and are not in this "
        "experiment.",
        claims.SETTLED,
        MARGIN_RULES,
    ]
    return Outcome(rows, figures, notes, tuple(dict.fromkeys(sources)))


EXPERIMENT = Experiment(
    name="ant",
    paper=papers.ANT,
    claim="The format of least error in each tensor is at least as accurate after "
    "training as one format for all",
    config=Config,
    modes={
        "quick": Mode(1.0),
        "full": Mode(
            25.0,
            {
                "networks": ("digits", "cifar"),
                "bits": (4, 5),
                "lists": ("I", "P", "F", "IP", "IPF"),
                "promoted": (0, 1, 2, 3, 4, 5),
                "orders": ("error", "random", "reversed"),
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
