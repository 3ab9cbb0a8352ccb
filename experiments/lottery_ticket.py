"""`python launch.py lottery_ticket --mode=full --seeds=0,1,2`.

Sanity checks for lottery tickets (arXiv 2107.00166): LeNet-300-100 on MNIST over
learning rates and densities: winning tickets (theta_0 and mask) from one-shot and
iterative pruning, the same masks re-initialised, small dense networks of their size,
and the five conditions of the strict definition; the same after a quarter of the
epochs; ResNet-8 with and without residual connections on CIFAR-10 at 16x16, where full
mode only prints: one seed, no controls, 8 epochs for the specification's 15.

Quick mode (about a minute on 2 cores, the 5,000 digits that ship with Lathe) takes two
rates, two densities, one-shot pruning and two seeds. Full mode took 44 minutes on one
core beside another run; its parts alone are `--networks=lenet300` and
`--networks=resnet8,plain8`. Iterative pruning is run twice, with rewinding of weights
and of the learning rate. It prints the verdict of every density; the paper found no
clear jackpot ticket.
"""

import dataclasses
from typing import TYPE_CHECKING

from core.errors import InputError, describe
from experiments import papers
from experiments.options import check_filled, option
from experiments.registry import Experiment, Mode

if TYPE_CHECKING:
    from experiments.results import Outcome
    from experiments.workdir import Run

CONTROLS = ("rr", "sdt", "random", "rewind", "replay")
"""What is trained beside the tickets; see `experiments.lottery.trials.Plan`."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the experiment."""

    dataset: str = option(
        "mnist_5k",
        "data set of LeNet-300-100",
        choices=("mnist_5k", "mnist", "fashion_mnist"),
    )
    networks: tuple[str, ...] = option(
        ("lenet300",),
        "networks whose tickets are sought",
        choices=("lenet300", "resnet8", "plain8"),
    )
    examples: int = option(
        0,
        "LeNet-300-100: stratified training examples; 0 means all",
        unit="images",
        low=0,
    )
    epochs: int = option(
        8, "LeNet-300-100: length T of every training", unit="epochs", low=2
    )
    short: int = option(
        4, "the second table trains T divided by this; 0 leaves it out", low=0
    )
    longer: int = option(
        0,
        "LeNet-300-100: a dense network trained this many times T says whether T is "
        "long enough; 0 leaves it out",
        low=0,
    )
    batch_size: int = option(128, "examples per step", unit="images", low=1)
    rates: tuple[float, ...] = option(
        (0.005, 0.1), "LeNet-300-100: learning rates", low=0.0, low_open=True
    )
    levels: tuple[int, ...] = option(
        (4, 8),
        "LeNet-300-100: densities as rounds j of pruning a fifth, 0.8^j",
        unit="rounds",
        low=1,
        high=30,
    )
    methods: tuple[str, ...] = option(
        ("omp",), "how tickets are found", choices=("omp", "imp")
    )
    controls: tuple[str, ...] = option(
        ("rr", "sdt"),
        "LeNet-300-100: what is trained beside the tickets",
        choices=CONTROLS,
    )
    extra_levels: tuple[int, ...] = option(
        (8,), "levels at which random, rewind and replay are trained", low=1
    )
    cnn_examples: int = option(
        10_000, "ResNet-8: stratified training examples", unit="images", low=1
    )
    cnn_epochs: int = option(
        8, "ResNet-8: length of every training", unit="epochs", low=2
    )
    cnn_rates: tuple[float, ...] = option(
        (0.01, 0.1), "ResNet-8: learning rates", low=0.0, low_open=True
    )
    cnn_levels: tuple[int, ...] = option(
        (5,), "ResNet-8: densities as rounds", unit="rounds", low=1, high=30
    )
    cnn_controls: tuple[str, ...] = option(
        (), "ResNet-8: what is trained beside the tickets", choices=CONTROLS
    )
    cnn_seeds: int = option(1, "ResNet-8: how many of the seeds", low=1)
    cnn_pool: int = option(
        2, "ResNet-8: side of the squares averaged to a pixel", choices=(1, 2, 4)
    )

    def __post_init__(self):
        names = "networks", "rates", "levels", "methods", "cnn_rates", "cnn_levels"
        check_filled(self, *names)
        for name in ("rates", "cnn_rates", "levels", "cnn_levels"):
            given = getattr(self, name)
            if list(given) != sorted(set(given)):
                text = ",".join(f"{value:g}" for value in given)
                raise InputError(f"--{name}: {describe(text, 'rising values')}")
        if self.short and self.epochs // self.short < 1:
            wanted = f"at most the {self.epochs} epochs"
            raise InputError(f"--short: {describe(self.short, wanted)}")


def is_judged(config: Config, network: str, examples: int) -> bool:
    """Returns whether the tables of a network are judged.

    They are if data set, images and epochs are at least those of full mode. Besides,
    every claim needs the seeds of `experiments.differences`.

    Args:
      config: of the run.
      network: one of its networks.
      examples: training images that it gets.
    """
    if network != "lenet300":
        return EXPERIMENT.reaches(config, "cnn_epochs", cnn_examples=examples)
    return EXPERIMENT.reaches(config, "dataset", "epochs", examples=examples)


def run(run: "Run", config: Config) -> "Outcome":
    """Trains all tables that the config asks for; see `experiments.lottery`."""
    from experiments import data
    from experiments.lottery import claims, networks, plans, training, trials

    parts, sources = [], []
    for name in config.networks:
        dataset_name = plans.dataset_of(config, name)
        dataset = data.load(dataset_name, data_dir=run.data_dir)
        arrays = training.make_data(dataset, *plans.sizes(config, name))
        programs = trials.Programs(
            networks.NETWORKS[name], plans.recipe(config, name), dataset, arrays
        )
        sources.append(dataset.source)
        for plan in plans.plans(config, name, run.seeds):
            found = trials.Trials(run, plan, programs).run_all()
            judged = is_judged(config, name, len(arrays.train.labels))
            parts.append(claims.Part(plan, found, dataset_name, judged))
    return claims.outcome(parts, tuple(dict.fromkeys(sources)))


EXPERIMENT = Experiment(
    name="lottery_ticket",
    paper=papers.LOTTERY_TICKET,
    claim="No clear jackpot ticket at well-trained rates; small ones and few epochs "
    "make tickets seem to win",
    config=Config,
    modes={
        "quick": Mode(1.0, seeds=(0, 1)),
        "full": Mode(
            44.0,
            {
                "dataset": "mnist",
                "networks": ("lenet300", "resnet8", "plain8"),
                "examples": 10_000,
                "epochs": 12,
                "longer": 3,
                "rates": (0.005, 0.02, 0.1, 0.3),
                "levels": (4, 8, 11, 13),
                "methods": ("omp", "imp"),
                "controls": CONTROLS,
            },
            seeds=(0, 1, 2),
        ),
        "paper": Mode(
            600.0,
            {
                "networks": ("resnet8", "plain8"),
                "methods": ("omp", "imp"),
                "batch_size": 64,
                "cnn_examples": 50_000,
                "cnn_epochs": 160,
                "cnn_rates": (0.001, 0.005, 0.01, 0.05, 0.1, 0.15),
                "cnn_levels": (4, 8, 11, 13),
                "cnn_controls": CONTROLS,
                "cnn_seeds": 3,
                "cnn_pool": 1,
            },
            device="a GPU, estimated",
            seeds=(0, 1, 2),
        ),
    },
    data=("mnist_5k", "mnist", "fashion_mnist", "cifar10"),
    run=run,
)


if __name__ == "__main__":
    from experiments import cli

    cli.main(EXPERIMENT)
