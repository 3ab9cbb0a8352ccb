"""`python launch.py structured_admm --mode=full`.

Structured pruning by ADMM (arXiv 1807.11091): whole filters, input channels or rows of
the GEMM view, with Adam in the primal step, beside groups of least magnitude tuned for
as long. Accuracy against the multiplications left; the network without its pruned
channels, and the time that it takes on this machine beside what multiplications tell.

Quick mode (about a minute on 2 cores, the 5,000 digits that ship with Lathe) prunes a
network of four convolutions by 3x. Full mode takes CIFAR-10 at half size and four
rates; mode gpu a trained ResNet-20. The paper's figures are of CaffeNet on ImageNet.
"""

import dataclasses
from typing import TYPE_CHECKING

from experiments import papers
from experiments.options import check_filled, check_length, option
from experiments.registry import Experiment, Mode

if TYPE_CHECKING:
    from experiments.results import Outcome
    from experiments.workdir import Run

KINDS = ("filter", "channel", "shape")
METHODS = tuple(
    f"{way}_{kind}" for way in ("admm", "sgd", "lasso", "magnitude") for kind in KINDS
)
MORE = (
    *("admm_shape", "magnitude_shape", "admm_channel", "magnitude_channel"),
    *("sgd_filter", "lasso_filter"),
)
"""What full mode takes at fewer rates."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the experiment."""

    network: str = option(
        "digits", "network to prune", choices=("digits", "cifar", "resnet20")
    )
    dataset: str = option(
        "mnist_5k", "data set of the network of digits", choices=("mnist_5k", "mnist")
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
    methods: tuple[str, ...] = option(
        ("admm_filter", "magnitude_filter"), "ways to prune", choices=METHODS
    )
    rates: tuple[float, ...] = option(
        (3.0,), "times fewer multiplications in pruned layers", low=1.0, low_open=True
    )
    more_methods: tuple[str, ...] = option(
        (), "more ways to prune, at --more_rates", choices=METHODS
    )
    more_rates: tuple[float, ...] = option(
        (), "rates of --more_methods", low=1.0, low_open=True
    )
    epochs: tuple[int, ...] = option(
        (3, 3, 2), "dense, ADMM, masked training", unit="epochs", low=1
    )
    iterations: int = option(4, "ADMM's updates in an epoch", low=1)
    batch_size: int = option(50, "examples per step", unit="images", low=1)
    learning_rate: float = option(
        5e-3, "Adam's rate in dense training", low=0.0, low_open=True
    )
    tuning_rate: float = option(
        1e-3, "Adam's rate in all later training", low=0.0, low_open=True
    )
    sgd_rate: float = option(
        0.02, "rate of SGD with momentum 0.9, for ADMM with SGD", low=0.0, low_open=True
    )
    lasso: float = option(1e-3, "strength of the group lasso", low=0.0)
    weight_decay: float = option(
        5e-5, "factor of the sum of squared weights over 2, in the loss", low=0.0
    )
    rho: float = option(1e-3, "ADMM's first penalty", low=0.0, low_open=True)
    rho_end: float = option(1e-1, "ADMM's last penalty", low=0.0, low_open=True)
    batches: tuple[int, ...] = option(
        (1, 64), "batches that are timed", unit="images", low=1, high=256
    )
    turns: int = option(9, "timed calls of each network", low=1)

    def __post_init__(self):
        check_filled(self, "methods", "rates", "batches")
        check_length(self, "epochs", "dense", "ADMM", "masked training")


def run(run: "Run", config: Config) -> "Outcome":
    """Prunes in every way; see `experiments.constrained.structured`."""
    from experiments.constrained import checks, structured
    from experiments.differences import RULES
    from experiments.results import Outcome

    made = structured.Protocol(run, config)
    cells = [(m, r) for r in config.rates for m in config.methods]
    cells += [(m, r) for r in config.more_rates for m in config.more_methods]
    cells = list(dict.fromkeys(cells))
    dense, pruned = [], {}
    for seed in run.seeds:
        dense.append(made.control(seed)[1]["accuracy"])
        for method, rate in cells:
            pruned[seed, method, rate] = made.prune(seed, method, rate)
    # Times come last, when this process trains no more.
    found = {cell: [] for cell in cells}
    for (seed, method, rate), (state, masks, result) in pruned.items():
        timed = made.measured(seed, method, rate, state, masks)
        found[method, rate].append({**result, **timed})
    count = len(made.trainer.train.labels)
    judged = config.network != "digits"
    judged &= EXPERIMENT.reaches(config, "epochs", examples=count)
    judged &= not config.validation
    rows = list(structured.rows(made.title, dense, found, judged))
    notes = [
        "Every method has as many epochs after dense training, and the dense control "
        "trains on for as long: ADMM, with Adam or SGD, or a group lasso, and then "
        "masked training; or the groups of least magnitude removed at once and masked "
        "training all along. The lasso's strength and SGD's rate were not tuned: "
        "nothing is claimed against these two. Shapes of a rate leave fewer "
        "multiplications than filters. The "
        "first layer and the classifier are not pruned; the norm of a dead filter goes "
        "with it.",
        "Rates that are asked for are of a layer whose inputs and filters both go: "
        "filters and channels keep the square root, shapes all of it. A setting begins "
        "with the reduction that the network met. "
        "Multiplications left are counted, by compaction from real array sizes, from "
        "masks where a shape stays in the array. Compaction removes channels alone; "
        "what shapes give is timed apart: the pruned layers from packed kernels, which "
        "gather the rows that are left.",
        "Times are medians of calls in turns with the whole network, one jitted call "
        "each, which costs 15 to 30 us whatever it does; taken when all networks were "
        "trained. They are of this machine: other work on it at that time shows.",
        checks.NOTE,
        RULES,
    ]
    if not judged:
        notes.append("Not judged: less data or training than in full mode.")
    figures = [structured.figure(made.title, found)]
    return Outcome(rows, figures, notes, (made.dataset.source,))


EXPERIMENT = Experiment(
    name="structured_admm",
    paper=papers.STRUCTURED_ADMM,
    claim="ADMM removes filters, channels and shapes at less loss than magnitudes, and "
    "what is left runs faster",
    config=Config,
    modes={
        "quick": Mode(1.0),
        "full": Mode(
            34.0,
            {
                "network": "cifar",
                "examples": 10_000,
                "rates": (1.5, 3.0, 5.0, 10.0),
                "more_methods": MORE,
                "more_rates": (5.0,),
                "epochs": (8, 4, 4),
                "tuning_rate": 3e-3,
                "rho": 1e-2,
                "rho_end": 10.0,
                "turns": 31,
            },
            seeds=(0, 1, 2),
        ),
        "gpu": Mode(
            60.0,
            {
                "network": "resnet20",
                "rho": 1e-2,
                "rho_end": 10.0,
                "rates": (1.5, 2.0, 3.0, 5.0),
                "more_methods": MORE,
                "more_rates": (2.0, 5.0),
                "epochs": (15, 20, 20),
                "batch_size": 128,
                "turns": 31,
            },
            device="a GPU, estimated",
            seeds=(0, 1, 2),
        ),
    },
    data=("mnist_5k", "mnist", "cifar10", "LATHE_DATA/pretrained"),
    run=run,
)


if __name__ == "__main__":
    from experiments import cli

    cli.main(EXPERIMENT)
