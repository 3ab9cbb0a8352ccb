"""`python launch.py hge_attack --mode=full`.

Black-box attacks (arXiv 2012.11518): images that a network gets wrong, from its answers
alone, by the hybrid gradient estimate and its rivals at equal budgets. A query is one
image shown to the network. From logits: any wrong class, a class drawn at random, and
one change for ten images; from decisions: the nearest wrong image, or the nearest of a
class drawn at random. Success, queries to
the first success, distance.

Quick mode (about a minute on 2 cores) attacks a LeNet-5 that it trains on the 5,000
digits that ship with Lathe. Full mode trains it on MNIST and attacks the pretrained
ResNet-20 on CIFAR-10 too. SNES of evosax is a rival where it is installed
(requirements-bench.txt). It prints how many times fewer queries HGE takes than the
better of ZO-SGD and ZO-SCD. The paper's own figures are not known to us.
"""

import dataclasses
from typing import TYPE_CHECKING

from experiments import papers
from experiments.options import check_filled, option
from experiments.registry import Experiment, Mode

if TYPE_CHECKING:
    from experiments.results import Outcome
    from experiments.workdir import Run

ARMS = ("sgd", "scd", "sign", "adamm", "hge", "hge_adam", "nes")
GOALS = ("untargeted", "targeted", "universal", "decision", "targeted_decision")
SIZES = ("dataset", "epochs", "images", "tuning", "budget", "probes")
"""Options that are those of full mode wherever a gain is judged."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Options of the experiment."""

    victims: tuple[str, ...] = option(
        ("lenet5",), "networks", choices=("lenet5", "resnet20")
    )
    dataset: str = option(
        "mnist_5k", "of LeNet-5", choices=("mnist_5k", "mnist", "fashion_mnist")
    )
    examples: int = option(0, "training images; 0 for all", low=0)
    epochs: int = option(4, "of training", low=1)
    batch_size: int = option(64, "of training", low=1)
    arms: tuple[str, ...] = option(("sgd", "scd", "hge"), "methods", choices=ARMS)
    goals: tuple[str, ...] = option(
        ("untargeted", "universal", "decision"), "of attacks", choices=GOALS
    )
    decision_arms: tuple[str, ...] = option(
        ("sgd", "hge"), "methods that attack from decisions", choices=ARMS[:-1]
    )
    images: int = option(5, "that are attacked, one by one", low=1)
    decision_images: int = option(2, "that are attacked from decisions", low=1)
    universal: int = option(10, "images that share a change", low=2)
    groups: int = option(1, "such groups, and one more to choose rates with", low=1)
    tuning: int = option(2, "images that rates are chosen with", low=1)
    budget: int = option(3_000, "queries of an attack", low=200)
    universal_budget: int = option(20_000, "queries of a change for all", low=2_000)
    decision_budget: int = option(4_000, "queries of a decision attack", low=2_000)
    probes: int = option(
        20, "directions and coordinates of a step, two queries each", low=4
    )
    distance: float = option(0.1, "weight of the squared l2 distance", low=0.0)
    radius: float = option(
        0.25, "most change of a digit's pixel", low=0.0, low_open=True, high=1.0
    )
    colour_radius: float = option(
        0.03, "most change of a photograph's pixel", low=0.0, low_open=True, high=1.0
    )
    near: float = option(
        3.0,
        "l2 distance at which a decision attack ends, digits",
        low=0.0,
        low_open=True,
    )
    colour_near: float = option(1.0, "the same, photographs", low=0.0, low_open=True)

    def __post_init__(self):
        check_filled(self, "victims", "arms", "goals", "decision_arms")


def run(run: "Run", config: Config) -> "Outcome":
    """Attacks every network that the config asks for; see `experiments.zeroth`."""
    from experiments.results import Outcome, Row
    from experiments.zeroth import attack_rows, attacks, campaign, victims

    arms = config.arms
    notes = []
    if "nes" in arms and not attacks.has_evosax():
        arms = tuple(name for name in arms if name != "nes")
        notes.append("SNES was left out: evosax is not installed.")
    rows, figures, sources = [], [], []
    for name in config.victims:
        victim = victims.VICTIMS[name](run, config)
        judged = EXPERIMENT.reaches(config, *SIZES, examples=victim.trained)
        rows.append(Row("accuracy", victim.title, victim.accuracy, unit="%"))
        sources.append(victim.source)
        for goal in config.goals:
            plan = campaign.plan(goal, config, victim, arms)
            if not plan.arms:
                continue
            found = {
                arm: run.stage(
                    f"{name}-{goal}-{arm}",
                    lambda arm=arm, plan=plan: campaign.fought(plan, arm),
                )
                for arm in plan.arms
            }
            words = plan.words
            rows += attack_rows.rows(victim.title, words, found, plan.budget)
            if plan.by_decisions:
                figures.append(attack_rows.distance_figure(victim.title, words, found))
            else:
                figures.append(
                    attack_rows.success_figure(victim.title, words, found, plan.budget)
                )
            rivals = ("sgd", "scd")
            if all(arm in found for arm in ("hge", *rivals)):
                claims = judged and goal in ("untargeted", "targeted")
                rows.append(
                    attack_rows.gain_row(
                        victim.title, words, found, "hge", rivals, claims
                    )
                )
    notes += [
        "A query is one image shown to the network; the test whether an attack has "
        "succeeded is one too, after every step. Attacks end at the first success.",
        "Images are test images that the network gets right; the rate of each method "
        "is the best of three on "
        f"{config.tuning} other images, by mean queries.",
        "The loss is the margin of the logits plus "
        f"{config.distance:g} times the squared l2 distance (for one change of all "
        "images that over their number), in a box of [0, 1]; one "
        "image alone may change by so much in each pixel, so that fast methods do not "
        "win by changing more. From decisions the loss is the distance to the boundary "
        "along a direction (OPT attack, arXiv 1807.04457), a dozen queries each, and "
        f"success is a distance of {config.near:g} on digits and "
        f"{config.colour_near:g} on photographs.",
        "Gains are over the better of ZO-SGD and ZO-SCD, where all three were run, and "
        "judged with the data and sizes of full mode, from logits, one image at a "
        "time.",
    ]
    return Outcome(rows, figures, notes, tuple(dict.fromkeys(sources)))


EXPERIMENT = Experiment(
    name="hge_attack",
    paper=papers.HGE,
    claim="Black-box attacks by the hybrid estimate take fewer queries than by ZO-SGD "
    "and ZO-SCD",
    config=Config,
    modes={
        "quick": Mode(1.5),
        "full": Mode(
            40.0,
            {
                "victims": ("lenet5", "resnet20"),
                "dataset": "mnist",
                "examples": 20_000,
                "arms": ARMS,
                "goals": GOALS,
                "decision_arms": ("sgd", "scd", "adamm", "hge"),
                "images": 30,
                "decision_images": 10,
                "tuning": 5,
                "budget": 5_000,
                "universal_budget": 50_000,
                "groups": 3,
                "decision_budget": 10_000,
            },
        ),
    },
    data=("mnist_5k", "mnist", "cifar10", "LATHE_DATA/pretrained"),
    run=run,
)


if __name__ == "__main__":
    from experiments import cli

    cli.main(EXPERIMENT)
