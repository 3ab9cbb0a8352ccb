"""`python launch.py s2ta --mode=full`.

S2TA (arXiv 2107.07983): blocks of 8 channels with a bounded number of non-zeros. A
network with weights bounded at 4/8 and inputs pruned on the fly, beside unstructured
pruning of the same density; then five kinds of systolic array on the layers of four
networks, with the energy each spends and how the order depends on the constants.

Quick mode (about a minute on 2 cores, the 5,000 digits that ship with Lathe) trains one
network; full mode takes MNIST and more bounds. It prints accuracies, and speed and
energy over an array that gates zeros.
"""

import dataclasses
from typing import TYPE_CHECKING

from experiments import papers
from experiments.options import check_filled, option
from experiments.registry import Experiment, Mode

if TYPE_CHECKING:
    from experiments.results import Outcome
    from experiments.workdir import Run

NETWORKS = ("alexnet", "vgg16", "mobilenet_v1", "resnet50")


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the experiment."""

    networks: tuple[str, ...] = option(NETWORKS, "to price", choices=NETWORKS)
    dataset: str = option(
        "mnist_5k", "to train on", choices=("mnist_5k", "mnist", "fashion_mnist")
    )
    examples: int = option(4_000, "training examples", low=1_000)
    epochs: int = option(6, "of dense training", unit="epochs", low=1)
    tuning: int = option(3, "after each step of pruning", unit="epochs", low=1)
    weight_bounds: tuple[int, ...] = option(
        (4, 2), "kept weights of every 8", low=1, high=8
    )
    input_bounds: tuple[int, ...] = option(
        (4, 2), "kept inputs of every 8", low=1, high=8
    )
    draws: int = option(200, "of perturbed constants", low=10)

    def __post_init__(self):
        check_filled(self, "networks", "weight_bounds", "input_bounds")


def run(run: "Run", config: Config) -> "Outcome":
    """Prices the networks, then trains one with every bound."""
    from experiments import data
    from experiments.hardware import blocks, s2ta
    from experiments.results import Outcome

    priced = run.stage("cost", lambda: s2ta.costs(config.networks))
    orders = run.stage("orders", lambda: s2ta.orders(config, run.seeds[0]))
    trained = [blocks.accuracies(run, config, seed) for seed in run.seeds]
    judged = EXPERIMENT.reaches(config, "dataset", "examples", "epochs", "tuning")
    rows = [
        *s2ta.rows(priced, orders, config.draws),
        *blocks.rows(trained, judged),
    ]
    notes = [
        "Latency and energy are simulated, with the constants of `hw.targets.arrays`: "
        "energies of operations are ours, after the 45 nm table; depthwise layers are "
        "left out. Bounds of inputs fall from 8/8 in the first layer to 2/8 in the "
        "last fifth; the paper gives none by layer.",
        "Without a bound, 45 % of the inputs behind a ReLU are taken as non-zero. The "
        "gated array has the same pruned weights.",
        "In training, weights keep the largest of every 8 inputs' channels, lowered in "
        "steps; inputs keep the largest of every 8 channels in each pass (DAP), with a "
        "gradient for what is kept. The first layer, with one channel, stays dense.",
    ]
    source = data.load(config.dataset, data_dir=run.data_dir).source
    return Outcome(rows, s2ta.figures(priced), notes, (source,))


EXPERIMENT = Experiment(
    name="s2ta",
    paper=papers.S2TA,
    claim="Bounded blocks of weights and activations double speed and halve energy "
    "over gated zeros at the accuracy of a dense network",
    config=Config,
    modes={
        "quick": Mode(2.0),
        "full": Mode(
            15.0,
            {
                "dataset": "mnist",
                "examples": 20_000,
                "weight_bounds": (6, 4, 2, 1),
                "input_bounds": (6, 5, 4, 3, 2),
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
