"""`python launch.py progressive_admm --mode=full`.

Progressive ADMM (arXiv 1903.09769): pruning in steps of moderate rates, each inside
what the one before has left, from 12x to 300x; beside the same steps without ADMM, and
one-shot ADMM and one-shot, iterative and gradual magnitude pruning, each as long as the
steps to its rate together.
Then weights of all layers on the levels of few bits, down to one, by ADMM and a mapping
in stages, beside rounding and straight-through training; and what pruning left at one
rate on levels too, with the storage that both take together. `--validation` holds out
training images on which options may be chosen.

Quick mode (one to two minutes on 2 cores, the 5,000 digits that ship with Lathe) takes
LeNet-300-100 to 80x and one bit. Full mode takes LeNet-5 on all digits in epochs of
8,000 drawn from them, mode gpu in whole epochs, with more rates and widths; the paper's
row is 246x without loss, and one bit without loss.
"""

import dataclasses
from typing import TYPE_CHECKING

from core.errors import InputError, describe
from experiments import papers
from experiments.options import check_filled, check_length, option
from experiments.registry import Experiment, Mode

if TYPE_CHECKING:
    from experiments.results import Outcome
    from experiments.workdir import Run

METHODS = ("stepped", "admm", "one_shot", "iterative", "gradual")


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the experiment."""

    network: str = option(
        "lenet300", "network to compress", choices=("lenet300", "lenet5")
    )
    dataset: str = option(
        "mnist_5k", "data set of 28x28 digits", choices=("mnist_5k", "mnist")
    )
    examples: int = option(
        0, "stratified training examples; 0 means all", unit="images", low=0
    )
    epoch_examples: int = option(
        0,
        "images of an epoch, drawn anew for each; 0 means all",
        unit="images",
        low=0,
    )
    validation: int = option(
        0,
        "training images held out that accuracy is measured on, to choose options; "
        "0 means the test images",
        unit="images",
        low=0,
    )
    rates: tuple[float, ...] = option(
        (22.9, 80.0), "rates of the steps, rising; each a rate of the network"
    )
    rival_rates: tuple[float, ...] = option(
        (80.0,), "rates at which the others prune, some of --rates"
    )
    methods: tuple[str, ...] = option(
        ("admm", "iterative"), "the others", choices=METHODS
    )
    bits: tuple[int, ...] = option(
        (1,), "widths of levels, in steps; empty for none", choices=(8, 4, 2, 1)
    )
    joint_rate: float = option(
        22.9, "rate after which levels follow, some of --rates; 0 for none", low=0.0
    )
    # Two bits without 0, which pruned weights keep to themselves, are one bit.
    joint_bits: int = option(4, "width of those levels", choices=(8, 4))
    epochs: int = option(6, "length of dense training", unit="epochs", low=1)
    stage_epochs: tuple[int, ...] = option(
        (3, 2), "a step: ADMM, masked retraining", unit="epochs", low=1
    )
    level_epochs: tuple[int, ...] = option(
        (8, 1, 1, 1),
        "levels: ADMM, each stage of the mapping, but each of the two before the last, "
        "and the last, in which biases are left to train",
        unit="epochs",
        low=1,
    )
    iterations: int = option(4, "ADMM's updates in an epoch", low=1)
    batch_size: int = option(64, "examples per step", unit="images", low=1)
    learning_rate: float = option(
        1e-3, "Adam's rate but in retraining", low=0.0, low_open=True
    )
    retrain_rate: float = option(
        1e-3, "Adam's first rate in retraining, after a step", low=0.0, low_open=True
    )
    rival_retrain_rate: float = option(
        1e-3, "that of the others", low=0.0, low_open=True
    )
    level_rate: float = option(
        1e-3, "Adam's rate towards levels", low=0.0, low_open=True
    )
    weight_decay: float = option(
        5e-5, "factor of the sum of squared weights over 2, in the loss", low=0.0
    )
    rho: float = option(1e-3, "a step's first penalty", low=0.0, low_open=True)
    rho_end: float = option(1e-2, "a step's last penalty", low=0.0, low_open=True)
    level_rho: float = option(1e-4, "towards levels: the first", low=0.0, low_open=True)
    level_rho_end: float = option(1e-1, "and the last", low=0.0, low_open=True)

    def __post_init__(self):
        check_filled(self, "rates")
        check_length(self, "stage_epochs", "ADMM", "masked retraining")
        check_length(
            self, "level_epochs", "ADMM", "a stage", "a late one", "the last one"
        )
        if list(self.rates) != sorted(set(self.rates)):
            text = ",".join(f"{r:g}" for r in self.rates)
            raise InputError(f"--rates: {describe(text, 'rising rates')}")
        if set(self.rival_rates) - set(self.rates):
            text = ",".join(f"{r:g}" for r in self.rival_rates)
            raise InputError(f"--rival_rates: {describe(text, 'some of --rates')}")
        if self.joint_rate and self.joint_rate not in self.rates:
            text = f"{self.joint_rate:g}"
            raise InputError(f"--joint_rate: {describe(text, 'one of --rates, or 0')}")


JUDGED = ("network", "dataset", "epochs", "stage_epochs", "level_epochs")
"""Options that a judged run shares with full mode, or has more of."""


def is_judged(config: Config, examples: int) -> bool:
    """Returns whether there are all images, as long training and a test.

    Args:
      config: of the run.
      examples: training images of the data set.
    """
    if config.examples or config.validation:
        return False
    length = config.epoch_examples or examples
    return EXPERIMENT.reaches(config, *JUDGED, epoch_examples=length)


def run(run: "Run", config: Config) -> "Outcome":
    """Compresses in every way; see `experiments.constrained.progressive`."""
    import admm
    from experiments.constrained import progressive, progressive_rows
    from experiments.differences import MARGIN_RULES
    from experiments.results import Outcome

    made = progressive.Protocol(run, config)
    dense, pruned, levels, joint = [], {}, {}, []
    for seed in run.seeds:
        dense.append(made.control(seed)[1]["accuracy"])
        ours = pruned.setdefault("progressive", {})
        for rate, result in made.progressive(seed).items():
            ours.setdefault(rate, []).append(result)
        for method in config.methods:
            part = pruned.setdefault(method, {})
            if method == "stepped":
                for rate, result in made.progressive(seed, method).items():
                    part.setdefault(rate, []).append(result)
                continue
            for rate in config.rival_rates:
                part.setdefault(rate, []).append(made.rival(seed, method, rate))
        if config.joint_rate:
            joint.append(made.joint(seed))
        if not config.bits:
            continue
        for arm, widths in made.quantized(seed).items():
            part = levels.setdefault(arm, {})
            for bits, result in widths.items():
                part.setdefault(bits, []).append(result)
    count = len(made.trainer.train.labels)
    judged = is_judged(config, count)
    network = made.network
    rows = list(progressive_rows.pruning_rows(network, pruned, dense, judged))
    if levels:
        rows += progressive_rows.level_rows(network, levels, dense, judged)
    if joint:
        rows += progressive_rows.joint_rows(
            network, config.joint_rate, config.joint_bits, joint
        )
    notes = [
        "A step is ADMM inside the mask of the step before and masked retraining; its "
        "duals and its penalty are its own. The other methods have as many epochs to a "
        "rate as all steps up to it, in the same two phases; iterative pruning has as "
        "many stages as there are steps. Magnitude in steps is the same pruning with "
        "plain Adam where ADMM was: the same steps, rates and lengths, so the "
        "difference is what ADMM gives. The dense control trains on for as long as "
        "the longest arm, at the rate of dense training. No epoch was selected.",
        "First rates of retraining in full mode are those of 0.01 and 0.003 that were "
        "more accurate at 246x, of seed 3 on 5,000 training images held out after "
        "training on 8,000: 0.01 for progressive ADMM (97.28 and 96.84 %), 0.003 for "
        "gradual pruning (97.06 and 97.22 %), which the other rivals follow. So were "
        "the lengths towards levels, at one bit: 4 epochs of ADMM, of 2, 4 and 6 in 12 "
        "(96.88, 97.60 and 97.40 %).",
        "Epochs of full mode draw 8,000 images from all: with the same 8,000 in each, "
        "246x was 97.28 instead of 97.98 % of those held out, as the dense network was "
        "98.24 instead of 99.04 %.",
        "Dropout of LeNet-5 is on in the dense training that all share, and off in "
        "every phase after it, the control's too.",
        "The residual tells how much of pruning was ADMM's: near 1, nothing was near "
        "its set, and the projection removed weights by their magnitude.",
        "Widths are reached in steps too, each from the network of the width before; "
        "one-shot ADMM and straight-through training have as many epochs as the steps "
        "up to theirs; at the first width one step is one shot. Rounding is of the "
        f"dense control. Shares of {', '.join(f'{s:g}' for s in admm.SHARES)} of "
        "the weights are put on their levels and held; after each, biases take up the "
        "shift of their layer's mean output, on training images. Every kernel has few "
        "bits, the first and the last one too, with one scale each; biases are floats.",
        "Rates count weights alone; with levels, storage is counted too: the bits of "
        "values, and the position of each within its kernel.",
        MARGIN_RULES,
    ]
    if not judged:
        notes.append("Not judged: less data or training than in full mode, or no test.")
    figures = progressive_rows.figures(network, pruned, levels)
    return Outcome(rows, figures, notes, (made.dataset.source,))


EXPERIMENT = Experiment(
    name="progressive_admm",
    paper=papers.PROGRESSIVE,
    claim="ADMM in steps prunes LeNet-5 by 246x, and binarizes all of its layers, "
    "without loss",
    config=Config,
    modes={
        "quick": Mode(1.0),
        "full": Mode(
            75.0,
            {
                "network": "lenet5",
                "dataset": "mnist",
                "epoch_examples": 8_000,
                "rates": (12.0, 30.0, 71.2, 120.0, 246.0, 300.0),
                "rival_rates": (12.0, 71.2, 246.0),
                "methods": METHODS,
                "bits": (4, 1),
                "joint_rate": 71.2,
                "epochs": 8,
                "stage_epochs": (2, 5),
                "retrain_rate": 1e-2,
                "rival_retrain_rate": 3e-3,
                "rho_end": 1e-1,
                "level_epochs": (4, 1, 2, 1),
            },
            seeds=(0, 1, 2),
        ),
        "gpu": Mode(
            45.0,
            {
                "network": "lenet5",
                "dataset": "mnist",
                "rates": (12.0, 30.0, 71.2, 120.0, 180.0, 246.0, 300.0),
                "rival_rates": (12.0, 30.0, 71.2, 120.0, 180.0, 246.0, 300.0),
                "methods": METHODS,
                "bits": (8, 4, 2, 1),
                "joint_rate": 71.2,
                "epochs": 15,
                "stage_epochs": (5, 5),
                "retrain_rate": 1e-2,
                "rival_retrain_rate": 3e-3,
                "rho_end": 1e-1,
                "level_epochs": (8, 2, 2, 2),
                "batch_size": 128,
            },
            device="a GPU, estimated",
            seeds=(0, 1, 2),
        ),
    },
    data=("mnist_5k", "mnist"),
    run=run,
)


if __name__ == "__main__":
    from experiments import cli

    cli.main(EXPERIMENT)
