"""`python launch.py gap --mode=full --seeds=0,1,2`.

Grow-and-prune (arXiv 2106.09857), cyclic and parallel, beside one-shot, static random,
gradual magnitude pruning, SET, RigL, SNIP and STR. Every method starts from the same
weights and gets the same number of steps; its modelled cost is printed beside.

Quick mode (about a minute on 2 cores, the 5,000 digits that ship with Lathe) prints
LeNet-300-100 at 2 % density for one-shot, GMP, RigL and C-GaP. Full mode (an hour,
measured on one core beside another run) takes 20,000 images of MNIST at 5, 2 and
1 % for 24 epochs, and 6,400 images of CIFAR-10 at 16x16 for 8 epochs of ResNet-8 at 20,
10 and 5 %: fewer than the 10,000 of the specification, so that three seeds fit. Cycles
of other groups are trained with one seed at 10 %. Each network can run alone with
--networks. `--mode=paper` is ResNet-20 on all of CIFAR-10 at
20, 10 and 5 %, 160 epochs a method, for a GPU (about 15 hours by estimate); the paper's
own rows are ResNet-50 at 10 % with 77.9 % and others that do not fit here.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from core.errors import InputError, describe
from experiments import papers
from experiments.options import build, check_filled, check_length, option
from experiments.registry import Experiment, Mode

if TYPE_CHECKING:
    from experiments.growing.networks import Network
    from experiments.results import Outcome
    from experiments.workdir import Run

ALL = ("one_shot", "static", "snip", "gmp", "set", "rigl", "str", "c_gap", "p_gap")
"""Methods that are compared, as `experiments.growing.methods` names them."""
ABLATION = ("c_gap_1", "c_gap_2", "c_gap_6", "c_gap_random")
"""Cyclic grow-and-prune with other groups of layers."""

STR_LENET, STR_CNN = (-3.3, 0.3), (-2.1, 0.01)
"""Where STR ends near the densities compared, in the epochs of full mode."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the experiment; `cnn_` stands for ResNet-8 and ResNet-20."""

    networks: tuple[str, ...] = option(
        ("lenet300",), "networks to train", choices=("lenet300", "resnet8", "resnet20")
    )
    lenet300_dataset: str = option(
        "mnist_5k",
        "images of LeNet-300-100",
        choices=("mnist_5k", "mnist", "fashion_mnist"),
    )
    cnn_dataset: str = option("cifar10", "images of ResNets", choices=("cifar10",))
    lenet300_examples: int = option(
        0, "stratified training images; 0 means all", unit="images", low=0
    )
    cnn_examples: int = option(
        6_400, "stratified training images; 0 means all", unit="images", low=0
    )
    lenet300_methods: tuple[str, ...] = option(
        ("one_shot", "gmp", "rigl", "c_gap"),
        "methods on LeNet-300-100 beside the dense one",
        choices=ALL,
    )
    cnn_methods: tuple[str, ...] = option(
        ALL, "methods on ResNets beside the dense one", choices=ALL
    )
    ablation: tuple[str, ...] = option(
        (), "cycles of other groups on ResNets, at the middle density", choices=ABLATION
    )
    ablation_seeds: int = option(3, "those cycles: how many of the seeds", low=1)
    lenet300_densities: tuple[float, ...] = option(
        (0.02,),
        "share of weights kept in fc1 and fc2 (a tenth is in fc3)",
        low=0.001,
        high=0.9,
    )
    cnn_densities: tuple[float, ...] = option(
        (0.2, 0.1, 0.05), "share of weights kept in the blocks", low=0.001, high=0.9
    )
    lenet300_epochs: tuple[int, ...] = option(
        (18, 6),
        "LeNet-300-100: choosing weights, fine-tuning",
        unit="epochs",
        low=1,
    )
    cnn_epochs: tuple[int, ...] = option(
        (6, 2), "ResNets: choosing weights, fine-tuning", unit="epochs", low=1
    )
    kappa: int = option(3, "groups of layers that grow together", low=1)
    lenet300_stage: int = option(
        2, "LeNet-300-100: stages of C-GaP of about this length", unit="epochs", low=1
    )
    cnn_stage: int = option(
        1, "ResNets: stages of C-GaP of about this length", unit="epochs", low=1
    )
    round_epochs: int = option(3, "P-GaP: rounds of this length", unit="epochs", low=1)
    lenet300_move_every: int = option(
        100, "LeNet-300-100: steps between two moves of SET, RigL", unit="steps", low=1
    )
    cnn_move_every: int = option(
        25, "ResNets: steps between two moves of SET, RigL", unit="steps", low=1
    )
    lenet300_str: tuple[float, ...] = option(
        STR_LENET, "STR: where thresholds start before the sigmoid, their weight decay"
    )
    cnn_str: tuple[float, ...] = option(STR_CNN, "STR of ResNets, likewise")
    cnn_seeds: int = option(3, "ResNets: how many of the seeds", low=1)
    batch_size: int = option(128, "images per step", unit="images", low=1)
    learning_rate: float = option(
        1e-3, "Adam's rate; it decays in fine-tuning", low=0.0, low_open=True
    )
    weight_decay: float = option(
        5e-5, "factor of the sum of squared weights over 2, in the loss", low=0.0
    )

    def __post_init__(self):
        check_filled(self, "networks", "lenet300_densities", "cnn_densities")
        for prefix in ("lenet300", "cnn"):
            check_length(self, f"{prefix}_epochs", "choosing weights", "fine-tuning")
            check_length(self, f"{prefix}_str", "first thresholds", "their decay")
        used = {"lenet300" if n == "lenet300" else "cnn" for n in self.networks}
        for name in (f"{prefix}_epochs" for prefix in sorted(used)):
            first = getattr(self, name)[0]
            if first % self.round_epochs:
                wanted = (
                    f"a first number that --round_epochs={self.round_epochs} divides"
                )
                raise InputError(f"--{name}: {describe(first, wanted)}")

    def of(self, network: "Network", name: str) -> Any:
        """Returns an option of a network, such as `of(network, "epochs")`."""
        return getattr(self, f"{network.options}_{name}")

    @property
    def ablation_density(self) -> float:
        """The density of the ablation."""
        return self.cnn_densities[len(self.cnn_densities) // 2]

    def ablation_of(
        self, network: "Network", seed: int, seeds: Sequence[int]
    ) -> tuple[str, ...]:
        """Returns the cycles of other groups that a network is trained with.

        Args:
          network: which one; the three leaves of LeNet-300-100 make too few groups.
          seed: one of the run's.
          seeds: all of them.
        """
        wanted = network.options == "cnn" and seed in seeds[: self.ablation_seeds]
        return self.ablation if wanted else ()

    def seeds_of(self, network: "Network", seeds: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the seeds that a network is trained with."""
        return seeds if network.options == "lenet300" else seeds[: self.cnn_seeds]


def is_judged(config: Config, network: "Network", examples: int) -> bool:
    """Returns whether accuracies of a network are long and large enough to judge.

    They are if data set, images and epochs are at least those of the mode in which the
    network is meant to be trained.

    Args:
      config: of the run.
      network: one of its networks.
      examples: training images that it gets.
    """
    mode = "paper" if network.name == "resnet20" else "full"
    meant = build(Config, EXPERIMENT.modes[mode].overrides)
    return (
        config.of(network, "dataset") == meant.of(network, "dataset")
        and examples >= (meant.of(network, "examples") or network.images)
        and sum(config.of(network, "epochs")) >= sum(meant.of(network, "epochs"))
    )


def run(run: "Run", config: Config) -> "Outcome":
    """Runs every trial that the config asks for; see `experiments.growing`."""
    from experiments.growing import claims, networks, protocol
    from experiments.results import Outcome

    rows, figures, sources = [], [], []
    notes: list[str] = list(claims.NOTES)
    for name in config.networks:
        network = networks.NETWORKS[name]
        trained = protocol.Protocol(run, config, network)
        found = {trial: trained.run_trial(trial) for trial in trained.trials()}
        judged = is_judged(config, network, len(trained.train.labels))
        more, plots = claims.report(run, trained, found, judged)
        rows, figures = [*rows, *more], [*figures, *plots]
        sources.append(trained.dataset.source)
        if not judged:
            notes.append(
                f"{network.title}: fewer images or epochs than in the mode that judges "
                "its accuracies, so they are not judged here."
            )
    return Outcome(rows, figures, notes, sources)


EXPERIMENT = Experiment(
    name="gap",
    paper=papers.GAP,
    claim="growing and pruning part after part beats other sparse training",
    config=Config,
    modes={
        "quick": Mode(
            1.0,
            {
                "lenet300_epochs": (9, 3),
                "lenet300_stage": 1,
                "lenet300_move_every": 20,
            },
        ),
        "full": Mode(
            60.0,
            {
                "networks": ("lenet300", "resnet8"),
                "lenet300_dataset": "mnist",
                "lenet300_examples": 20_000,
                "lenet300_methods": ALL,
                "ablation": ABLATION,
                "ablation_seeds": 1,
                "lenet300_densities": (0.05, 0.02, 0.01),
            },
            seeds=(0, 1, 2),
        ),
        "paper": Mode(
            900.0,
            {
                "networks": ("resnet20",),
                "cnn_examples": 0,
                "ablation": ABLATION,
                "cnn_epochs": (120, 40),
                "cnn_stage": 10,
                "cnn_move_every": 100,
                "round_epochs": 10,
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
