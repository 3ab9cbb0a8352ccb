"""Flags of the search, and one problem through the verifier, as plain numbers."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from absl import logging

from experiments.options import option

if TYPE_CHECKING:
    from verify.problem import Config, Problem, Verdict

LEAST = 0.1
"""The shortest time limit, in seconds: what is left where loading took all of it."""


@dataclasses.dataclass(frozen=True)
class SearchFlags:
    """`verify.Config` as flags: the same names, kinds and defaults."""

    branching: str = option(
        "auto",
        "what to split: ReLU neurons or the input box; auto takes the box where it has "
        "few dimensions (--input_limit) or where an operator is not piecewise linear",
        choices=("auto", "relu", "input"),
    )
    method: str = option(
        "beta",
        "strongest bound, each with all before it; split is branch and bound without "
        "beta",
        choices=("interval", "crown", "alpha", "split", "beta"),
    )
    heuristic: str = option(
        "kfsb", "how to choose the neuron to split", choices=("kfsb", "babsr")
    )
    candidates: int = option(
        3, "neurons that kfsb tries for each split", unit="neurons", low=1
    )
    reduce_op: str = option(
        "max",
        "how the two children of a split are judged together",
        choices=("min", "max"),
    )
    batch: int = option(
        256, "most sub-domains bounded at once", unit="sub-domains", low=1
    )
    levels: int = option(
        1,
        "most neurons split at once while few sub-domains are open; fills the batch of "
        "an accelerator",
        unit="neurons",
        low=1,
        high=3,
    )
    root_steps: int = option(
        60, "alpha-CROWN before any split", unit="iterations", low=0
    )
    steps: int = option(
        20, "alpha and beta in each round of splits", unit="iterations", low=1
    )
    learning_rate_root: float = option(
        0.1, "Adam's rate before any split", low=0.0, low_open=True
    )
    learning_rate_alpha: float = option(
        0.01, "Adam's rate of alpha in a round", low=0.0, low_open=True
    )
    learning_rate_beta: float = option(
        0.05, "Adam's rate of beta in a round", low=0.0, low_open=True
    )
    decay: float = option(
        0.98, "factor of these rates an iteration", low=0.0, high=1.0, low_open=True
    )
    max_domains: int = option(
        200_000, "most open sub-domains", unit="sub-domains", low=1
    )
    restarts: int = option(
        16, "starts of the search for a counterexample; 0 for none", low=0
    )
    attack_steps: int = option(
        100, "length of that search; 0 for none", unit="iterations", low=0
    )
    input_limit: int = option(
        16, "most inputs for which auto splits the box", unit="inputs", low=0
    )
    seed: int = option(0, "of the search for a counterexample", low=0, high=2**32 - 1)


def search_config(
    flags: SearchFlags, timeout_s: float, certificate: bool = False
) -> "Config":
    """Returns the verifier's config.

    Args:
      flags: of the search, or of a command that inherits them.
      timeout_s: seconds for one problem.
      certificate: whether a proof is to be kept.

    Raises:
      InputError: a value that the verifier refuses.
    """
    from verify.problem import Config

    names = [field.name for field in dataclasses.fields(SearchFlags)]
    chosen = {name: getattr(flags, name) for name in names}
    return Config(timeout_s=timeout_s, certificate=certificate, **chosen)


def decide(problem: "Problem", config: "Config", progress: Any = None) -> "Verdict":
    """Returns the verifier's verdict; the one place that calls it."""
    from verify.search import verify

    return verify(problem, config, progress=progress)


def judged(
    load: Callable[[], "Problem"], flags: SearchFlags, timeout_s: float
) -> tuple[dict[str, Any], "Verdict"]:
    """Returns one decision as JSON can hold it, and the verdict itself.

    What the one before left running in a thread ends first, or it would slow this one.

    Args:
      load: makes the problem; the time that it takes counts.
      flags: of the search.
      timeout_s: seconds for all of it.

    Returns:
      A dict of status, seconds, domains, phase, lower (None where it is not finite)
      and why; and the verdict.
    """
    from verify import timing

    timing.quiet(logging.info)
    start = time.monotonic()
    problem = load()
    left = max(timeout_s - (time.monotonic() - start), LEAST)
    verdict = decide(problem, search_config(flags, left))
    return record(verdict, time.monotonic() - start), verdict


def judged_all(
    problems: "Sequence[Problem]", flags: SearchFlags, timeout_s: float
) -> list[dict[str, Any]]:
    """Returns decisions made in common batches, as `judged` returns one.

    Args:
      problems: of one network.
      flags: of the search.
      timeout_s: seconds for each, as a mean; the seconds of each are that mean too.
    """
    from verify import timing
    from verify.several import verify_all

    timing.quiet(logging.info)
    start = time.monotonic()
    verdicts = verify_all(problems, search_config(flags, timeout_s))
    mean = (time.monotonic() - start) / max(len(problems), 1)
    return [record(verdict, mean) for verdict in verdicts]


def record(verdict: "Verdict", seconds: float) -> dict[str, Any]:
    """Returns what tables show of a verdict.

    Args:
      verdict: any.
      seconds: wall time of it with loading.
    """
    lower = float(verdict.lower)
    return {
        "status": verdict.status,
        "seconds": round(seconds, 3),
        "domains": int(verdict.domains),
        "phase": verdict.phase,
        "lower": lower if abs(lower) < float("inf") else None,  # NaN compares false
        "why": " ".join(verdict.why.split()),
    }
