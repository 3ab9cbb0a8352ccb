"""Attacks of every method at equal budgets, with rates tuned on images of their own."""

import functools
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core.types import Array, PyTree
from experiments.zeroth.arms import ARMS
from experiments.zeroth.peers import snes_attack
from experiments.zeroth.victims import Victim, towards
from zo import attack
from zo.attack import AttackResult, Threat

NES = "nes"
TITLES: Mapping[str, str] = {
    **{name: arm.title for name, arm in ARMS.items()},
    NES: "SNES (evosax)",
}
RATES: Mapping[str, tuple[float, ...]] = {
    "gradient": (0.01, 0.03, 0.1),
    "sign": (0.01, 0.03, 0.1),
    NES: (0.03, 0.1, 0.3),
    "decision": (0.01, 0.03, 0.1),
}
"""Rates that are tried, of steps as long as an estimate, of steps with entries near 1,
the first deviation of an evolution strategy, and those of directions of length 1. All
but the last are for changes of pixels up to `RADIUS`, and go with what is allowed."""
RADIUS = 0.25
MU, DECISION_MU = 0.01, 0.002
"""Smoothing, in pixels; of directions of length 1 in numbers of about 0.02 to 0.04."""
STARTS = 8
"""Images in whose direction a decision attack looks first."""


def has_evosax() -> bool:
    """Whether the evolution strategies can be imported."""
    return importlib.util.find_spec("evosax") is not None


def rates_of(name: str, threat: Threat, decision: bool) -> tuple[float, ...]:
    """Returns the rates that a method is tuned over."""
    if decision:
        return RATES["decision"]
    unit = 1.0 if threat.radius is None else threat.radius / RADIUS
    return tuple(unit * r for r in RATES[NES if name == NES else ARMS[name].unit])


def attacked(
    victim: Victim,
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    rate: float,
    budget: int,
    probes: int,
    threat: Threat,
    seed: int,
) -> dict[str, list[Any]]:
    """Attacks images one by one from logits.

    Args:
      victim: the network.
      name: of a method, or `NES`.
      images: [n, h, w, c], or [n, b, h, w, c] with one change for each b.
      labels: [n] or [n, b].
      rate: of the method.
      budget: images shown to the network by an attack.
      probes: of a step.
      threat: see `zo.attack`.
      seed: of the attacks.

    Returns:
      "success", "fraction", "queries", "l2", "linf": a value for each attack.

    Raises:
      AssertionError: an attack asked for more than its budget.
    """
    program = _program(victim.logits, name, budget, probes, threat)
    keys = jax.random.split(jax.random.key(seed), len(images))
    found = program(victim.variables, jnp.float32(rate), keys, images, labels)
    return _shown(found, budget)


def decided(
    victim: Victim,
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    rate: float,
    budget: int,
    probes: int,
    threat: Threat,
    seed: int,
    within: float,
) -> dict[str, list[Any]]:
    """Attacks images one by one from decisions; see `attacked`.

    Args:
      victim: the network.
      name: of a method.
      images: [n, h, w, c].
      labels: [n], the true classes, or the wanted ones.
      rate: of the method.
      budget: images shown to the network by an attack.
      probes: of a step.
      threat: see `zo.attack`.
      seed: of the attacks.
      within: l2 distance at which an attack has succeeded.
    """
    program = _decision_program(victim.logits, name, budget, probes, threat, within)
    keys = jax.random.split(jax.random.key(seed), len(images))
    start = jnp.stack(
        [towards(victim, int(y), STARTS, threat.targeted) for y in labels]
    )
    found = program(victim.variables, jnp.float32(rate), keys, images, labels, start)
    return _shown(found, budget)


@functools.cache
def _program(logits: Any, name: str, budget: int, probes: int, threat: Threat) -> Any:
    def one(variables: PyTree, rate: Array, each: tuple[Array, ...]) -> AttackResult:
        key, images, labels = each
        shown = functools.partial(logits, variables)
        if name == NES:
            return snes_attack(
                key, shown, images, labels, rate, probes, budget=budget, threat=threat
            )
        optimizer = ARMS[name].make(rate, probes, MU)
        return attack.logit_attack(
            key, shown, images, labels, optimizer, budget=budget, threat=threat
        )

    @jax.jit
    def run(variables: PyTree, rate: Array, *each: Array) -> AttackResult:
        return jax.lax.map(functools.partial(one, variables, rate), each)

    return run


@functools.cache
def _decision_program(
    logits: Any, name: str, budget: int, probes: int, threat: Threat, within: float
) -> Any:
    def one(variables: PyTree, rate: Array, each: tuple[Array, ...]) -> AttackResult:
        key, image, label, start = each
        return attack.decision_attack(
            key,
            lambda images: logits(variables, images).argmax(-1),
            image,
            label,
            ARMS[name].make(rate, probes, DECISION_MU),
            budget=budget,
            threat=threat,
            towards=start,
            within=within,
        )

    @jax.jit
    def run(variables: PyTree, rate: Array, *each: Array) -> AttackResult:
        return jax.lax.map(functools.partial(one, variables, rate), each)

    return run


def _shown(found: AttackResult, budget: int) -> dict[str, list[Any]]:
    queries = np.asarray(found.queries)
    assert queries.max() <= budget, f"{queries.max()} queries of {budget}"
    return {
        "success": np.asarray(found.success).tolist(),
        "fraction": np.asarray(found.fraction, float).tolist(),
        "queries": queries.tolist(),
        "l2": np.asarray(found.l2, float).mean(-1).tolist(),
        "linf": np.asarray(found.linf, float).max(-1).tolist(),
    }


def score(found: Mapping[str, Sequence[Any]], budget: int) -> float:
    """Returns the mean queries, the whole budget for an attack that failed."""
    pairs = zip(found["success"], found["queries"], strict=True)
    return float(np.mean([q if ok else budget for ok, q in pairs]))
