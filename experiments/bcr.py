"""`python launch.py bcr --mode=full --seeds=0,1,2`.

Block column-row pruning (GRIM, arXiv 2108.11033) of LeNet-300-100 and of a GRU that
reads digits row by row, beside unstructured and filter pruning at the same rates and
budgets: accuracy, and the time that the pruned networks really take from packed
weights; the same for one layer wide enough to gain, and accuracy and time by block.

Quick mode (about a minute on 2 cores, the 5,000 digits that ship with Lathe) prunes
LeNet-300-100 by 8x. The paper's figure is a speed-up of up to 14.08x over other
frameworks on a phone; it is not comparable with a time on this machine and stands in
the notes only.
"""

import dataclasses
from typing import TYPE_CHECKING

from experiments import papers
from experiments.options import build, check_filled, check_length, option
from experiments.registry import Experiment, Mode

if TYPE_CHECKING:
    from experiments.results import Outcome
    from experiments.workdir import Run

METHODS = ("unstructured", "bcr", "bcr_inputs", "filter")
"""The patterns compared, as `experiments.block_pruning.methods` names them."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the experiment."""

    dataset: str = option(
        "mnist_5k",
        "data set of 28x28 digits",
        choices=("mnist_5k", "mnist", "fashion_mnist"),
    )
    networks: tuple[str, ...] = option(
        ("lenet300",), "networks to prune", choices=("lenet300", "gru")
    )
    methods: tuple[str, ...] = option(METHODS, "patterns compared", choices=METHODS)
    rates: tuple[float, ...] = option(
        (8.0,), "compression rates of the pruned kernels", low=1.0, low_open=True
    )
    block: int = option(16, "inputs and outputs of a BCR block", low=1)
    blocks: tuple[int, ...] = option(
        (16, 64), "blocks of the curve of accuracy and time by block", low=1
    )
    curve_rate: float = option(8.0, "rate of that curve", low=1.0, low_open=True)
    examples: int = option(
        0, "stratified training examples; 0 means all", unit="images", low=0
    )
    epochs: tuple[int, ...] = option(
        (5, 6), "training, pruning with retraining", unit="epochs", low=1
    )
    batch_size: int = option(64, "examples per step", unit="images", low=1)
    learning_rate: float = option(
        1e-3, "Adam's rate; it decays while pruning", low=0.0, low_open=True
    )
    width: int = option(1024, "inputs and outputs of the timed layer", low=1)
    layer_block: int = option(128, "inputs and outputs of its BCR block", low=1)
    batches: tuple[int, ...] = option(
        (1, 16, 128), "batches that are timed", unit="images", low=1
    )
    turns: int = option(15, "timed calls of each candidate", low=1)

    def __post_init__(self):
        check_filled(self, "networks", "methods", "rates", "blocks", "batches")
        check_length(self, "epochs", "training", "pruning")


def is_judged(config: Config, examples: int) -> bool:
    """Returns whether data and training are those of full mode at least.

    Args:
      config: of the run.
      examples: training images there are.
    """
    meant = build(Config, EXPERIMENT.modes["full"].overrides)
    return (
        config.dataset == meant.dataset
        and examples >= meant.examples
        and sum(config.epochs) >= sum(meant.epochs)
    )


def run(run: "Run", config: Config) -> "Outcome":
    """Runs every trial that the config asks for; see `experiments.block_pruning`."""
    from experiments.block_pruning import claims, networks, protocol
    from experiments.block_pruning.methods import TITLES
    from experiments.differences import RULES
    from experiments.results import Outcome

    made = protocol.Protocol(run, config)
    found, rows = {}, []
    network_rows = []
    for name in config.networks:
        first = {}
        for trial in protocol.trials(config, name, run.seeds):
            state, found[trial] = made.run_trial(trial)
            if trial.seed == run.seeds[0] and trial.block in (0, config.block):
                first[trial] = state  # other blocks are for the curve of accuracy
        times = run.stage(f"{name}-time", lambda part=first: made.time_networks(part))
        labels = {}
        for t in first:
            labels[t.stage] = f"{TITLES[t.method]}, {t.rate:g}x"
            for form in ("scipy", "compact"):
                if f"{t.stage}-{form}" in times:
                    labels[f"{t.stage}-{form}"] = f"{TITLES[form]}, {t.rate:g}x"
        dense = next(t.stage for t in first if t.method == "dense")
        title = networks.NETWORKS[name].title
        network_rows += claims.time_rows(title, times, labels, dense)
    layer = run.stage("layer-time", made.time_layer)
    choice = run.stage("block-time", made.choose_block)
    judged = is_judged(config, len(made.train.labels))
    rows += claims.accuracy_rows(found, config, judged)
    rows += network_rows
    labels = {
        key: f"{TITLES[key.split('-')[0]]}, {key.split('-')[1]}x" for key in layer
    }
    title = f"layer {config.width}x{config.width}"
    rows += claims.time_rows(title, layer, labels, "dense-1")
    rows += claims.block_rows(choice, config)
    notes = [
        "Every pattern starts from the same trained network and is pruned gradually "
        "(a cubic schedule over the first half) for the same number of epochs; the "
        "dense control trains on for as long. The last layer is not pruned. BCR keeps "
        "the same share of inputs and of outputs in a block, BCR of inputs all "
        "outputs. Every block keeps as much, also where pixels are always 0: that is "
        "the price of static shapes, and BCR of inputs pays most. The paper "
        "trains with ADMM; the order of patterns is what is compared here.",
        "Times are medians of whole networks in one jitted call, feature-major, of the "
        "first seed; all of a kind were called in turns. A call costs 15 to 30 us "
        "whatever it does: at these widths that is most of a batch of 1. Pruned "
        "filters also leave the network where they can (filter, compact); the gates of "
        "a GRU share its state, so its filters stay.",
        "The paper's up to 14.08x is over other frameworks on a phone. Here dense is "
        "XLA on this machine; unstructured weights run from compressed columns and, in "
        "numpy, from scipy's CSR. BCR is to be faster than each of them; times that "
        "differ by less than 5 % are not judged.",
        RULES,
    ]
    if not judged:
        notes.append(
            "Accuracies are not judged: fewer images or epochs than in full mode."
        )
    figures = claims.figures(found, choice, layer, config)
    return Outcome(rows, figures, notes, (made.dataset.source,))


EXPERIMENT = Experiment(
    name="bcr",
    paper=papers.GRIM,
    claim=(
        "Pruning rows and columns of blocks is faster than unstructured and more "
        "accurate than filter pruning"
    ),
    config=Config,
    modes={
        "quick": Mode(1.0),
        "full": Mode(
            25.0,
            {
                "dataset": "mnist",
                "examples": 20_000,
                "networks": ("lenet300", "gru"),
                "rates": (4.0, 8.0, 16.0),
                "blocks": (16, 32, 64, 128),
                "epochs": (5, 5),
                "batch_size": 128,
                "turns": 51,
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
