"""What is asked, how to search, and what came out."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from core.errors import InputError, check_range, describe
from core.types import Array, PyTree
from verify.properties import Property

Status = Literal["unsat", "sat", "timeout", "unknown"]
BRANCHINGS = ("auto", "relu", "input")
HEURISTICS = ("kfsb", "babsr")
UNSPLIT = ("interval", "crown", "alpha")
"""Methods that bound each region once."""
METHODS = (*UNSPLIT, "split", "beta")


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A network and a property of it.

    Attributes:
      fn: `fn(params, x) -> y`, for x of the property's input shape.
      params: a pytree of arrays.
      property: what must not happen; see `verify.Property`.
      name: what reports call it.
    """

    fn: Callable[[PyTree, Array], Array]
    params: PyTree
    property: Property
    name: str = ""


@dataclasses.dataclass(frozen=True)
class Config:
    """How to search. The defaults are those of the paper where it has any.

    Attributes:
      timeout_s: seconds for one problem; a verdict comes at most 2 s later.
      branching: "relu" splits ReLU neurons, "input" halves the input box; "auto"
        takes the input of boxes of at most `input_limit` dimensions, and where an
        operator is not piecewise linear.
      method: the strongest bound to use, each with all before it: "interval",
        "crown" and "alpha" bound each region once, whatever `branching` says; "split"
        is branch and bound without beta, "beta" with it.
      heuristic: which neuron to split, "babsr" or "kfsb" (k candidates, bounded).
      candidates: k of "kfsb".
      reduce_op: how the two children of a split are judged together, "min" or "max".
      batch: the most sub-domains bounded at once.
      levels: the most neurons split at once while few sub-domains are open, 1 to 3: it
        fills the batch of an accelerator; a CPU gains nothing.
      root_steps: iterations of alpha-CROWN at the root; 0 for its start alone.
      steps: iterations of alpha and beta in a branch-and-bound round.
      learning_rate_root: Adam's rate at the root.
      learning_rate_alpha: Adam's rate of alpha in a round.
      learning_rate_beta: Adam's rate of beta in a round.
      decay: factor of the rates an iteration.
      max_domains: the most open sub-domains; beyond it the verdict is "unknown".
      restarts: starts of projected gradient descent before bounding; 0 for none.
      attack_steps: its iterations; 0 for none.
      input_limit: see `branching`.
      certificate: whether an "unsat" verdict carries its proof.
      seed: of the falsification.
    """

    timeout_s: float = 60.0
    branching: str = "auto"
    method: str = "beta"
    heuristic: str = "kfsb"
    candidates: int = 3
    reduce_op: str = "max"
    batch: int = 256
    levels: int = 1
    root_steps: int = 60
    steps: int = 20
    learning_rate_root: float = 0.1
    learning_rate_alpha: float = 0.01
    learning_rate_beta: float = 0.05
    decay: float = 0.98
    max_domains: int = 200_000
    restarts: int = 16
    attack_steps: int = 100
    input_limit: int = 16
    certificate: bool = False
    seed: int = 0

    def __post_init__(self):
        check_range("timeout_s", self.timeout_s, 0, low_open=True)
        check_range("levels", self.levels, 1, 3)
        for name in ("batch", "steps", "candidates", "max_domains"):
            check_range(name, getattr(self, name), 1)
        for name in ("root_steps", "restarts", "attack_steps"):
            check_range(name, getattr(self, name), 0)
        for name, known in (
            ("branching", BRANCHINGS),
            ("heuristic", HEURISTICS),
            ("method", METHODS),
            ("reduce_op", ("min", "max")),
        ):
            given = getattr(self, name)
            if given not in known:
                wanted = f"one of {', '.join(known)}"
                raise InputError(f"{name}: {describe(repr(given), wanted)}")


@dataclasses.dataclass(frozen=True, eq=False)
class Verdict:
    """What a search found.

    Attributes:
      status: "unsat" (the property holds), "sat" (a counterexample), "timeout" or
        "unknown".
      lower: the least lower bound of the property's margin that is proven: positive
        where bounds of the root prove it, 0 where splits do, -infinity where nothing
        was bounded.
      domains: sub-domains that were bounded.
      seconds: wall time.
      phase: what decided: "attack", "interval", "crown", "alpha", "branch" or "".
      why: for "unknown" and "timeout", what is open and what may help.
      witness: (x, y) of a counterexample in float64, checked; None otherwise.
      certificate: a `verify.certificate.Certificate`, where asked for and proven; None
        where `why` says what is missing. `verify.certificate.check` judges it.
      info: numbers a person may want, where there are any: "unstable" neurons per
        layer, "rounds" of branch and bound, "programs" by how often they were compiled.
    """

    status: Status
    lower: float
    domains: int
    seconds: float
    phase: str = ""
    why: str = ""
    witness: tuple[np.ndarray, np.ndarray] | None = None
    certificate: Any = None
    info: Mapping[str, Any] = dataclasses.field(default_factory=dict)
