"""What a search keeps for its certificate, in memory that is bounded."""

import dataclasses
from typing import Any

import numpy as np

LIMIT = 2 << 30
"""Bytes of the leaves of one search, and of those of a certificate."""
EACH = 1000
"""Bytes that a leaf takes beside its arrays, its part of the tree included."""
STEP = 80
"""Bytes of a cut on the way to a leaf."""
WHY = f"its leaves need more than {LIMIT >> 30} GiB"


@dataclasses.dataclass
class Kept:
    """Leaves that are proven; none once they are more than memory is to hold.

    Attributes:
      leaves: in the order of `add`; empty if full.
      size: bytes of all that were added.
    """

    leaves: list[Any] = dataclasses.field(default_factory=list)
    size: int = 0

    @property
    def full(self) -> bool:
        """Whether the leaves were too many, so that none is kept."""
        return self.size > LIMIT

    def add(self, leaf: Any, *arrays: np.ndarray, steps: int = 0) -> None:
        """Adds a leaf, which holds these arrays and is all that does.

        Args:
          leaf: to keep.
          *arrays: of it.
          steps: how many cuts lead to it.
        """
        self.size += EACH + STEP * steps + sum(array.nbytes for array in arrays)
        if self.full:
            self.leaves.clear()
        else:
            self.leaves.append(leaf)
