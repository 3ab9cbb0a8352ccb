"""What a search knows while it is under way."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from core.types import PyTree
from verify.problem import Config, Verdict
from verify.proofs import Proof
from verify.properties import Clause, Property, Spec
from verify.regions import Region
from verify.root import Rooted

Progress = Callable[[str], None]


@dataclasses.dataclass
class Search:
    """One search under way.

    Attributes:
      params: of the network.
      asked: the property.
      config: how to search.
      began: when, of `time.monotonic`.
      progress: called with a line of text, if any one listens.
      domains: bounded so far.
      lower: the least bound so far.
      phase: under way.
      proof: what a certificate is made of, if one is asked for.
      info: of the verdict.
      is_last: whether this region is the only one left to refute.
      is_refuted: whether all regions are: what is left is to collect their proof.
    """

    params: PyTree
    asked: Property
    config: Config
    began: float
    progress: Progress | None
    domains: int = 0
    lower: float = np.inf
    phase: str = ""
    proof: Proof | None = None
    info: dict[str, Any] = dataclasses.field(default_factory=dict)
    is_last: bool = False
    is_refuted: bool = False

    @property
    def deadline(self) -> float:
        """When the time is over, of `time.monotonic`."""
        return self.began + self.config.timeout_s

    def say(self, text: str) -> None:
        """Reports a line of text, if any one listens."""
        if self.progress is not None:
            self.progress(text)

    def verdict(self, status: Any, why: str = "", witness: Any = None) -> Verdict:
        """Returns a verdict with all that is known so far."""
        # Nothing bounded: nothing open proves all, anything else proves nothing.
        nothing = 0.0 if status == "unsat" else -np.inf
        lower = self.lower if self.lower < np.inf else nothing
        found = None if witness is None else (witness.x, witness.y)
        seconds = time.monotonic() - self.began
        return Verdict(
            status,
            float(lower),
            self.domains,
            seconds,
            self.phase,
            why,
            found,
            info=dict(self.info),
        )


class Opened(NamedTuple):
    """What is left to split after the root of a region.

    Attributes:
      rooted: what is known of it.
      specs: rows of each clause, of one number.
      region: of the input.
      clauses: of the region, all of them.
    """

    rooted: Rooted
    specs: Sequence[Spec]
    region: Region
    clauses: Sequence[Clause]
