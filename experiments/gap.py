"""`python launch.py gap --mode=full --seeds=0,1,2`.

Grow-and-prune (arXiv 2106.09857), cyclic and parallel, beside one-shot, static random,
gradual magnitude pruning, SET, RigL, SNIP and STR. Every method starts from the same
weights and gets the same number of steps; its modelled cost is printed beside.

Quick mode (about a minute on 2 cores, the 5,000 digits that ship with Lathe) prints
LeNet-300-100 at 2 % density for one-shot, GMP, RigL and C-GaP. Full mode takes 20,000
images of MNIST at 5, 2 and 1 %, and ResNet-8 on 10,000 images of CIFAR-10 at 16x16 at
10 and 5 %; each network can run alone with --networks. The paper's rows are ResNet-50
at 10 % with 77.9 % and other networks that do not fit here.
"""

import dataclasses
from typing import TYPE_CHECKING

from core.errors import InputError, describe
from experiments import papers
from experiments.options import option
from experiments.registry import Experiment, Mode

if TYPE_CHECKING:
    from experiments.growing.networks import Network
    from experiments.results import Outcome
    from experiments.workdir import Run

ALL = ("one_shot", "static", "snip", "gmp", "set", "rigl", "str", "c_gap", "p_gap")
"""Methods that are compared, as `experiments.growing.methods` names them."""
MAIN = ("one_shot", "static", "gmp", "set", "rigl", "c_gap", "p_gap")
"""Those of them that the paper's claim needs."""
ABLATION = ("c_gap_1", "c_gap_2", "c_gap_6", "c_gap_random")
"""Cyclic grow-and-prune with other groups of layers."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the experiment."""

    networks: tuple[str, ...] = option(
        ("lenet300",), "networks to train", choices=("lenet300", "resnet8")
    )
    lenet300_dataset: str = option(
        "mnist_5k",
        "images of LeNet-300-100",
        choices=("mnist_5k", "mnist", "fashion_mnist"),
    )
    resnet8_dataset: str = option("cifar10", "images of ResNet-8", choices=("cifar10",))
    lenet300_examples: int = option(
        0, "stratified training images; 0 means all", unit="images", low=0
    )
    resnet8_examples: int = option(
        10_000, "stratified training images; 0 means all", unit="images", low=0
    )
    lenet300_methods: tuple[str, ...] = option(
        ("one_shot", "gmp", "rigl", "c_gap"),
        "methods on LeNet-300-100 beside the dense one",
        choices=ALL,
    )
    resnet8_methods: tuple[str, ...] = option(
        MAIN, "methods on ResNet-8 beside the dense one", choices=ALL
    )
    lenet300_ablation: tuple[str, ...] = option(
        (),
        "cycles of other groups on LeNet-300-100, at its middle density",
        choices=("c_gap_1", "c_gap_2", "c_gap_random"),
    )
    resnet8_ablation: tuple[str, ...] = option(
        (), "cycles of other groups on ResNet-8, at its first density", choices=ABLATION
    )
    lenet300_densities: tuple[float, ...] = option(
        (0.02,),
        "share of weights kept in fc1 and fc2 (a tenth is in fc3)",
        low=0.001,
        high=0.9,
    )
    resnet8_densities: tuple[float, ...] = option(
        (0.1,), "share of weights kept in the blocks", low=0.001, high=0.9
    )
    lenet300_epochs: tuple[int, ...] = option(
        (18, 6),
        "LeNet-300-100: choosing weights, fine-tuning",
        unit="epochs",
        low=1,
    )
    resnet8_epochs: tuple[int, ...] = option(
        (12, 4), "ResNet-8: choosing weights, fine-tuning", unit="epochs", low=1
    )
    kappa: int = option(3, "groups of layers that grow together", low=1)
    stage_epochs: int = option(
        2, "C-GaP: stages of about this length", unit="epochs", low=1
    )
    round_epochs: int = option(3, "P-GaP: rounds of this length", unit="epochs", low=1)
    move_every: int = option(
        100, "SET, RigL: steps between two moves", unit="steps", low=1
    )
    str_start: float = option(-5.0, "STR: where thresholds start, before the sigmoid")
    str_decay: float = option(0.01, "STR: weight decay of the thresholds", low=0.0)
    batch_size: int = option(128, "images per step", unit="images", low=1)
    learning_rate: float = option(
        1e-3, "Adam's rate; it decays in fine-tuning", low=0.0, low_open=True
    )
    weight_decay: float = option(
        5e-5, "factor of the sum of squared weights over 2, in the loss", low=0.0
    )

    def __post_init__(self):
        for name in ("networks", "lenet300_densities", "resnet8_densities"):
            if not getattr(self, name):
                raise InputError(f"--{name}: {describe('nothing', 'at least one')}")
        for name in ("lenet300_epochs", "resnet8_epochs"):
            given = getattr(self, name)
            if len(given) != 2:
                text = ",".join(map(str, given))
                wanted = "two numbers: choosing weights, fine-tuning"
                raise InputError(f"--{name}: {describe(text, wanted)}")
            if given[0] % self.round_epochs:
                wanted = (
                    f"a first number that --round_epochs={self.round_epochs} divides"
                )
                raise InputError(f"--{name}: {describe(given[0], wanted)}")

    def dataset_of(self, network: "Network") -> str:
        """Returns the name of the images of a network."""
        return getattr(self, f"{network.name}_dataset")

    def examples_of(self, network: "Network") -> int:
        """Returns the number of training images, 0 for all."""
        return getattr(self, f"{network.name}_examples")

    def methods_of(self, network: "Network") -> tuple[str, ...]:
        """Returns the methods that train a network sparse."""
        return getattr(self, f"{network.name}_methods")

    def ablation_of(self, network: "Network") -> tuple[str, ...]:
        """Returns the cycles of other groups."""
        return getattr(self, f"{network.name}_ablation")

    def densities_of(self, network: "Network") -> tuple[float, ...]:
        """Returns the densities of the prunable weights."""
        return getattr(self, f"{network.name}_densities")

    def ablation_density(self, network: "Network") -> float:
        """Returns the density of the ablation."""
        densities = self.densities_of(network)
        return densities[len(densities) // 2 if network.name == "lenet300" else 0]

    def epochs_of(self, network: "Network") -> tuple[int, int]:
        """Returns the epochs of choosing weights and of fine-tuning."""
        first, second = getattr(self, f"{network.name}_epochs")
        return first, second


def run(run: "Run", config: Config) -> "Outcome":
    """Runs every trial that the config asks for; see `experiments.growing`."""
    from experiments.growing import claims, networks, protocol
    from experiments.results import Outcome

    rows, figures, sources = [], [], []
    for name in config.networks:
        network = networks.NETWORKS[name]
        trained = protocol.Protocol(run, config, network)
        found = {trial: trained.run_trial(trial) for trial in trained.trials()}
        judged = config.dataset_of(network) in ("mnist", "cifar10")
        more, plots = claims.report(run, trained, found, judged)
        rows, figures = [*rows, *more], [*figures, *plots]
        sources.append(trained.dataset.source)
    notes: list[str] = list(claims.NOTES)
    if "lenet300" in config.networks and config.lenet300_dataset == "mnist_5k":
        notes.append(
            "Accuracies on 5,000 digits are not judged; --mode=full does that."
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
            {"lenet300_epochs": (9, 3), "stage_epochs": 1, "move_every": 20},
        ),
        "full": Mode(
            80.0,
            {
                "networks": ("lenet300", "resnet8"),
                "lenet300_dataset": "mnist",
                "lenet300_examples": 20_000,
                "lenet300_methods": ALL,
                "lenet300_ablation": ("c_gap_1", "c_gap_2", "c_gap_random"),
                "lenet300_densities": (0.05, 0.02, 0.01),
                "resnet8_densities": (0.1, 0.05),
                "resnet8_ablation": ("c_gap_1", "c_gap_6"),
            },
            seeds=(0, 1, 2),
        ),
    },
    data=("mnist_5k", "mnist", "fashion_mnist", "cifar10"),
    run=run,
)


if __name__ == "__main__":
    from experiments import cli

    cli.main(EXPERIMENT)
