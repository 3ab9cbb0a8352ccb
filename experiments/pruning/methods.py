"""Every pruning method as an optimizer for the pruning phase.

All methods start from the same trained network and get the same phases: a pruning
phase at a constant learning rate, then retraining under a fixed mask with a fresh
optimizer whose rate decays. They differ only in what the pruning phase does (ADMM's
primal steps are without dropout, as in the paper's code).
"""

import dataclasses
from collections.abc import Callable

import optax

import admm
import gap
from core.errors import InputError, check_range, describe, unknown_name
from core.rules import Rules


@dataclasses.dataclass(frozen=True)
class Phase:
    """The pruning phase of one run.

    Attributes:
      rules: the targets.
      steps: optimizer steps of the phase.
      learning_rate: Adam's, constant.
      interval: optimizer steps per ADMM iteration.
      rho: ADMM's first penalty.
      rho_end: its penalty in the last iteration.
      l1: coefficient of the L1 baseline.
      stages: prune-retrain stages of the iterative baseline.
    """

    rules: Rules
    steps: int
    learning_rate: float
    interval: int
    rho: float
    rho_end: float
    l1: float
    stages: int


def _admm(phase: Phase) -> optax.GradientTransformation:
    iterations = (phase.steps - 1) // phase.interval
    if not iterations:
        given = f"an ADMM iteration every {phase.interval} steps"
        wanted = f"less than the {phase.steps} steps of the pruning phase"
        remedy = "Give a smaller interval (--lenet300_interval, --lenet5_interval) or "
        remedy += "more epochs to prune in."
        raise InputError(f"admm: {describe(given, wanted, remedy)}")
    rho = admm.rising_rho(phase.rho, phase.rho_end, iterations)
    inner = optax.adam(phase.learning_rate)
    return admm.admm(inner, phase.rules, interval=phase.interval, rho=rho)


def _one_shot(phase: Phase) -> optax.GradientTransformation:
    return gap.prune(optax.adam(phase.learning_rate), phase.rules, gap.OneShot())


def _iterative(phase: Phase) -> optax.GradientTransformation:
    check_range("--stages", phase.stages, 1, phase.steps)
    at = tuple(i * phase.steps // phase.stages for i in range(phase.stages))
    return gap.prune(optax.adam(phase.learning_rate), phase.rules, gap.Staged(at))


def _gradual(phase: Phase) -> optax.GradientTransformation:
    # 50 updates of the mask, the last one with a fifth of the phase to go.
    end = max(phase.steps * 4 // 5, 1)
    schedule = gap.Cubic(0, end, max(end // 50, 1))
    return gap.prune(optax.adam(phase.learning_rate), phase.rules, schedule)


def _l1(phase: Phase) -> optax.GradientTransformation:
    selected = [(pattern, 1.0) for pattern, _ in phase.rules]
    return optax.chain(gap.add_l1(phase.l1, selected), optax.adam(phase.learning_rate))


def _dense(phase: Phase) -> optax.GradientTransformation:
    return optax.adam(phase.learning_rate)


METHODS: dict[str, Callable[[Phase], optax.GradientTransformation]] = {
    "admm": _admm,
    "one_shot": _one_shot,
    "iterative": _iterative,
    "gradual": _gradual,
    "l1": _l1,
}
"""Pruning methods by name."""

TITLES = {
    "dense": "dense",
    "admm": "ADMM",
    "one_shot": "one-shot magnitude",
    "iterative": "iterative magnitude",
    "gradual": "gradual magnitude",
    "l1": "L1 and prune",
}


def pruning_optimizer(method: str, phase: Phase) -> optax.GradientTransformation:
    """Returns the optimizer of the pruning phase.

    Args:
      method: a key of `METHODS`, or "dense" for plain training.
      phase: what it gets to know.

    Raises:
      UnknownNameError: no such method.
    """
    methods = METHODS | {"dense": _dense}
    if method not in methods:
        raise unknown_name("method", method, methods)
    return methods[method](phase)


def decayed_adam(
    learning_rate: float, steps: int, left: float
) -> optax.GradientTransformation:
    """Returns Adam whose rate decays by a cosine over `steps` steps.

    Args:
      learning_rate: the first rate.
      steps: length of the decay.
      left: the last rate over the first one.
    """
    return optax.adam(optax.cosine_decay_schedule(learning_rate, steps, alpha=left))
