"""The open sub-domains of a search, on the host, in memory that is bounded."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from verify.beta import Domains
from verify.types import by_layer


class Batch(NamedTuple):
    """Sub-domains taken from a pool, P of them, of n neurons over all layers.

    Attributes:
      lower: bounds, float32 [P].
      clause: position of the clause, int32 [P].
      splits: int8 [P, n].
      alpha: float32 [P, n].
      beta: float32 [P, n].
      weights: of the clause's rows, float32 [P, m].
      node: position in the tree of splits, int64 [P].
    """

    lower: np.ndarray
    clause: np.ndarray
    splits: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray
    weights: np.ndarray
    node: np.ndarray

    def domains(
        self, rows: tuple[np.ndarray, np.ndarray], sizes: Sequence[int]
    ) -> Domains:
        """Returns the sub-domains as programs take them, in the type of the rows.

        Fields may have more than one leading axis.

        Args:
          rows: C and d of every clause, [clauses, m, n_y] and [clauses, m].
          sizes: neurons of each layer.
        """
        C, d = (part[self.clause] for part in rows)
        splits, alpha, beta = (
            tuple(by_layer(flat, sizes))
            for flat in (
                self.splits,
                self.alpha.astype(C.dtype),
                self.beta.astype(C.dtype),
            )
        )
        return Domains(C, d, self.weights.astype(C.dtype), splits, alpha, beta)


# In the order of a batch. Any alpha in [0, 1] and beta >= 0 is sound: half is enough.
_STORED = (
    *(np.float32, np.int32, np.int8),
    *(np.float16, np.float16, np.float32, np.int64),
)


class Pool:
    """Sub-domains by lower bound; grows by doubling up to a capacity.

    Args:
      n: neurons over all layers.
      m: rows of a clause.
      capacity: the most sub-domains; `full` says when it is exceeded.
    """

    def __init__(self, n: int, m: int, capacity: int):
        self.capacity = capacity
        self.size = 0
        widths = (0, 0, n, n, n, m, 0)
        self._arrays = [
            np.zeros((256, width) if width else 256, dtype)
            for width, dtype in zip(widths, _STORED, strict=True)
        ]

    def __len__(self) -> int:
        return self.size

    @property
    def full(self) -> bool:
        """Whether there are more sub-domains than the capacity."""
        return self.size > self.capacity

    @property
    def lowest(self) -> float:
        """The least bound of all, infinity if there is none."""
        return float(self._arrays[0][: self.size].min(initial=np.inf))

    @property
    def bounds(self) -> np.ndarray:
        """The bounds of all, [size]."""
        return self._arrays[0][: self.size]

    @property
    def clauses(self) -> np.ndarray:
        """The clauses of all, [size]."""
        return self._arrays[1][: self.size]

    def keep(self, chosen: np.ndarray) -> None:
        """Removes all but the chosen sub-domains, bool [size]."""
        gone = np.flatnonzero(~chosen)
        for array in self._arrays:
            _close(array, gone, self.size)
        self.size -= len(gone)

    def add(self, batch: Batch) -> None:
        """Adds sub-domains."""
        need = self.size + len(batch.lower)
        room = len(self._arrays[0])
        if need > room:
            room = max(need, 2 * room)
            for k, array in enumerate(self._arrays):
                larger = np.zeros((room, *array.shape[1:]), array.dtype)
                larger[: self.size] = array[: self.size]
                self._arrays[k] = larger
        largest = np.finfo(np.float16).max
        stored = batch._replace(beta=np.minimum(batch.beta, largest))
        for array, part in zip(self._arrays, stored, strict=True):
            array[self.size : need] = part
        self.size = need

    def take(self, count: int) -> Batch:
        """Removes and returns the `count` sub-domains of the lowest bounds."""
        count = min(count, self.size)
        lower = self._arrays[0][: self.size]
        if count < self.size:
            order = np.argpartition(lower, count - 1)
            chosen, rest = order[:count], np.sort(order[count:])
        else:
            chosen, rest = np.arange(self.size), np.arange(0)
        taken = [array[chosen] for array in self._arrays]
        for array in self._arrays:
            _close(array, chosen, self.size)
        self.size = len(rest)
        found = Batch(*taken)
        return found._replace(
            alpha=found.alpha.astype(np.float32), beta=found.beta.astype(np.float32)
        )


def _close(array: np.ndarray, gone: np.ndarray, size: int) -> None:
    """Moves entries from the end into the places that are gone."""
    left = size - len(gone)
    holes = gone[gone < left]
    tail = np.setdiff1d(np.arange(left, size), gone, assume_unique=True)
    array[holes] = array[tail]
