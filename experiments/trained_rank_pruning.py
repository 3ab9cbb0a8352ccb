"""`python launch.py trained_rank_pruning --mode=full`.

Trained rank pruning (arXiv 1812.02402): kernels are truncated to low rank every few
steps of training, and the sub-gradient of the nuclear norm draws their spectra down.
Accuracy of what is trained and of its factors, without more training, beside a dense
network decomposed at the same ranks and trained on after that, and the nuclear norm
without truncation.

Quick mode (about a minute on 2 cores, the 5,000 digits that ship with Lathe) takes
LeNet-300-100. Full mode takes ResNet-8 on CIFAR-10 at half size; the paper's row is
ResNet-20, 2.17 times fewer multiplications and 90.50 % of 91.74.
"""

import dataclasses
from typing import TYPE_CHECKING

from experiments import papers
from experiments.options import check_filled, option
from experiments.registry import Experiment, Mode

if TYPE_CHECKING:
    from experiments.results import Outcome
    from experiments.workdir import Run

MEASURED = ("spectra", "truncated")
ARMS = ("dense", "nuclear", "trp", "trp_nuclear")


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the experiment."""

    network: str = option(
        "lenet300", "network to train", choices=("lenet300", "resnet8")
    )
    dataset: str = option(
        "mnist_5k", "data set of LeNet-300-100", choices=("mnist_5k", "mnist")
    )
    examples: int = option(
        0, "stratified training examples; 0 means all", unit="images", low=0
    )
    arms: tuple[str, ...] = option(
        ("dense", "trp", "trp_nuclear"), "what is trained, dense among it", choices=ARMS
    )
    scheme: str = option(
        "channel", "how convolutions are matrices", choices=("channel", "spatial")
    )
    period: int = option(20, "steps between truncations", unit="steps", low=1)
    energy_loss: float = option(
        0.05, "share of energy that a truncation gives up", low=0.0, high=1.0
    )
    nuclear: float = option(3e-4, "weight of the nuclear norm", low=0.0)
    final_loss: float = option(
        0.01, "share of energy that the decomposition gives up", low=0.0, high=1.0
    )
    rates: tuple[float, ...] = option(
        (2.0, 3.0),
        "times fewer multiplications in decomposed layers, besides TRP's own ranks",
        low=1.0,
    )
    epochs: int = option(12, "length of training", unit="epochs", low=1)
    tuning: int = option(
        2, "further training of dense networks' factors", unit="epochs", low=1
    )
    batch_size: int = option(64, "examples per step", unit="images", low=1)
    weight_decay: float = option(
        1e-4, "factor of the sum of squared weights over 2, in the loss", low=0.0
    )

    def __post_init__(self):
        check_filled(self, "arms")


def run(run: "Run", config: Config) -> "Outcome":
    """Trains and decomposes every arm; see `experiments.constrained.rank`."""
    from experiments.constrained import rank
    from experiments.differences import RULES
    from experiments.results import Outcome

    made = rank.Protocol(run, config)
    found: dict[str, list[dict]] = {}
    arms = tuple(dict.fromkeys(("dense", *config.arms)))
    for seed in run.seeds:
        trained = {arm: made.train(seed, arm) for arm in arms}
        wanted = {
            f"ranks of {rank.ARMS[arm]}": made.ranks(trained[arm][1])
            for arm in arms
            if arm in rank.OURS
        }
        params = trained["dense"][0].params
        wanted |= {f"{r:g}x": made.at_rate(params, r) for r in config.rates}
        for arm, (state, result) in trained.items():
            after = {}
            for at, ranks in wanted.items():
                name = at.replace(" ", "-")
                after[at] = made.decomposed(f"s{seed}-{arm}-{name}", state, ranks)
                if arm == "dense":
                    more = rank.trained_on(at, config.tuning)
                    stage = f"s{seed}-tuned-{name}"
                    after[more] = made.tuned(seed, stage, state, ranks)
            found.setdefault(arm, []).append(
                {
                    "trained": result["accuracy"],
                    **{k: v for k, v in result.items() if k in MEASURED},
                    "after": after,
                }
            )
    count = len(made.trainer.train.labels)
    judged = EXPERIMENT.reaches(config, "network", "epochs", examples=count)
    notes = [
        "TRP's networks are those of the step before a truncation, of full rank: "
        f"{config.period - 1} steps after the last one, at the lowest learning rates.",
        "All arms start from the same weights and train for as long with the same "
        "optimizer and weight decay, which shrink spectra too. Ranks are those that "
        f"leave {100 * (1 - config.final_loss):g} % of the energy of TRP's kernels; a "
        "kernel is decomposed only where its factors multiply less. Accuracy of "
        "factors is that of their product: batch norms stay as they are.",
        "Nothing is claimed of ranks that leave more than 1 / "
        f"{rank.LEAST:g} of the network's multiplications.",
        "The first layer and the classifier are not decomposed. Reductions are of the "
        "whole network: multiplications, counted; no time was measured.",
        RULES,
    ]
    if not judged:
        notes.append("Not judged: less data or training than in full mode.")
    figures = [rank.spectra_figure(made.title, found)]
    rows = list(rank.rows(made.title, found, judged, config.tuning))
    return Outcome(rows, figures, notes, (made.dataset.source,))


EXPERIMENT = Experiment(
    name="trained_rank_pruning",
    paper=papers.TRP,
    claim="Networks trained with truncation decompose without loss and without "
    "fine-tuning",
    config=Config,
    modes={
        "quick": Mode(1.0),
        "full": Mode(
            25.0,
            {
                "network": "resnet8",
                "examples": 12_000,
                "arms": ARMS,
                "epochs": 16,
                "batch_size": 128,
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
