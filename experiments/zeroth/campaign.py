"""What is attacked with which goal, and attacks of one method with its best rate."""

import dataclasses
from typing import Any

import numpy as np

from core.errors import InputError, describe
from experiments.zeroth.attacks import attacked, decided, rates_of, score
from experiments.zeroth.victims import Victim, targets
from zo.attack import Threat


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Attacks with one goal on one network.

    Attributes:
      goal: of `hge_attack`.
      words: the goal in reports.
      victim: the network.
      arms: methods.
      tuning: images and labels that rates are chosen with, a row for each attack.
      test: those that count.
      budget: images shown to the network by an attack.
      probes: directions and coordinates of a step.
      threat: see `zo.attack`.
      near: l2 distance at which a decision attack has succeeded.
    """

    goal: str
    words: str
    victim: Victim
    arms: tuple[str, ...]
    tuning: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    budget: int
    probes: int
    threat: Threat
    near: float

    @property
    def by_decisions(self) -> bool:
        """Whether the class alone is visible."""
        return self.goal.endswith("decision")


def plan(goal: str, config: Any, victim: Victim, arms: tuple[str, ...]) -> Plan:
    """Returns the attacks of a goal.

    Args:
      goal: of `hge_attack.GOALS`.
      config: of `hge_attack`.
      victim: the network.
      arms: methods from logits.

    Raises:
      InputError: fewer images than are asked for.
    """
    labels = victim.labels.astype(np.int32)
    if goal.startswith("targeted"):
        labels = targets(labels, 0)
    digits = victim.name == "lenet5"
    radius = config.radius if digits else config.colour_radius
    near = config.near if digits else config.colour_near
    threat = Threat(
        targeted=goal == "targeted", radius=radius, distance=config.distance
    )
    words = f"{goal}, logits, pixels within {radius:g}"
    count, budget = config.images, config.budget
    if goal == "universal":
        share = config.distance / config.universal
        threat = dataclasses.replace(threat, radius=None, distance=share)
        # A change for each group of images, and another group to choose rates with.
        each, groups = config.universal, config.groups + 1
        _check(victim, groups * each)
        images = victim.images[: groups * each]
        images = images.reshape(groups, each, *images.shape[1:])
        several = labels[: groups * each].reshape(groups, each)
        budget = config.universal_budget
        words = f"one change for {config.universal} images, logits"
        return Plan(
            goal,
            words,
            victim,
            arms,
            (images[:1], several[:1]),
            (images[1:], several[1:]),
            budget,
            config.probes,
            threat,
            near,
        )
    if goal.endswith("decision"):
        arms, count = config.decision_arms, config.decision_images
        threat = Threat(targeted=goal.startswith("targeted"))
        kind = "targeted" if threat.targeted else "untargeted"
        budget, words = config.decision_budget, f"{kind}, decisions"
    _check(victim, count + config.tuning)
    split = slice(0, count), slice(count, count + config.tuning)
    test, tuning = ((victim.images[s], labels[s]) for s in split)
    return Plan(
        goal,
        words,
        victim,
        arms,
        tuning,
        test,
        budget,
        config.probes,
        threat,
        near,
    )


def _check(victim: Victim, count: int) -> None:
    if len(victim.labels) < count:
        given = f"{count} images to attack"
        wanted = f"at most the {len(victim.labels)} that {victim.title} gets right"
        raise InputError(f"--images: {describe(given, wanted)}")


def fought(plan: Plan, arm: str) -> dict[str, Any]:
    """Returns what a method finds with the best of its rates.

    Args:
      plan: see `Plan`.
      arm: a method.

    Returns:
      "rate", "tried" (mean queries by rate), "spent" (queries of each attack, all of
      the budget if in vain), and what `attacked` returns.
    """
    rates = rates_of(arm, plan.threat, plan.by_decisions)
    tried = {rate: _measure(plan, arm, plan.tuning, rate, 1) for rate in rates}
    rate = min(rates, key=lambda rate: _score(plan, tried[rate]))
    found = _measure(plan, arm, plan.test, rate, 0)
    pairs = zip(found["success"], found["queries"], strict=True)
    more = {"shared": plan.goal == "universal", "near": plan.by_decisions}
    return {
        **found,
        **more,
        "rate": rate,
        "tried": {str(rate): _score(plan, each) for rate, each in tried.items()},
        "spent": [q if ok else plan.budget for ok, q in pairs],
    }


def _score(plan: Plan, found: dict[str, Any]) -> float:
    """Mean queries; of attacks in vain those are better that came nearer."""
    spent = score(found, plan.budget)
    if plan.by_decisions:
        return spent + float(np.mean(found["l2"]))
    return spent - float(np.mean(found["fraction"]))


def _measure(
    plan: Plan, arm: str, part: tuple[np.ndarray, np.ndarray], rate: float, seed: int
) -> dict[str, Any]:
    options: dict[str, Any] = {
        "rate": rate,
        "budget": plan.budget,
        "probes": plan.probes,
        "threat": plan.threat,
        "seed": seed,
    }
    if plan.by_decisions:
        return decided(plan.victim, arm, *part, **options, within=plan.near)
    return attacked(plan.victim, arm, *part, **options)
