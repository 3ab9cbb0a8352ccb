"""Linear maps of flat arrays, and their transposes, on balls.

Whatever the operator, its linear part is a sequence of three kinds of stage: sums of
elements picked by index, products with matrices, and products element by element.
Values are flat with rows in front, [S, n].
"""

import functools
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from verify.certificate import balls
from verify.certificate.balls import Ball

_FEW = 32  # taps that are summed one after the other


class Stage(Protocol):
    """A linear map from [S, n_in] to [S, n_out]."""

    width: int
    """The longest row that it makes."""

    def forward(self, x: Ball) -> Ball:
        """Returns the map of x."""
        ...

    def back(self, rows: Ball) -> Ball:
        """Returns the transposed map of rows [S, n_out], [S, n_in]."""
        ...


class Taps:
    """out[i] = sum over t of x[index[t, i]], where an index of -1 picks zero.

    Args:
      index: [T, n_out].
      size: n_in.
    """

    def __init__(self, index: np.ndarray, size: int):
        self.index = np.asarray(index, np.int64)
        self.size = size
        self.width = max(self.index.size, size)

    @property
    def same(self) -> bool:
        """Whether it is the identity."""
        taps, n = self.index.shape
        return (
            taps == 1 and n == self.size and bool((self.index[0] == np.arange(n)).all())
        )

    @functools.cached_property
    def transposed(self) -> "Taps":
        """The transposed map."""
        taps, n = self.index.shape
        picked = self.index.ravel()
        to = np.tile(np.arange(n), taps)[picked >= 0]
        picked = picked[picked >= 0]
        order = np.argsort(picked, kind="stable")
        picked, to = picked[order], to[order]
        count = np.bincount(picked, minlength=self.size)
        rank = np.arange(picked.size) - (np.cumsum(count) - count)[picked]
        index = np.full((max(int(count.max(initial=0)), 1), self.size), -1, np.int64)
        index[rank, picked] = to
        return Taps(index, n)

    @functools.cached_property
    def _needs_zero(self) -> bool:
        return bool((self.index < 0).any())

    def forward(self, x: Ball) -> Ball:
        """Returns the map of x."""
        taps = self.index.shape[0]
        if taps == 1:
            return Ball(self._sum(x.mid), self._sum(x.rad))
        rad = self._sum(x.rad + balls.gamma(taps) * np.abs(x.mid))
        return Ball(self._sum(x.mid), balls.grow(rad, taps + 4))

    def back(self, rows: Ball) -> Ball:
        """Returns the transposed map of rows."""
        return self.transposed.forward(rows)

    def _sum(self, x: np.ndarray) -> np.ndarray:
        if self._needs_zero:
            x = np.concatenate([x, np.zeros((x.shape[0], 1))], axis=1)
        taps, n = self.index.shape
        if taps > _FEW:
            picked = np.take(x, self.index.T.ravel(), axis=1)
            return picked.reshape(x.shape[0], n, taps).sum(-1)
        found = np.take(x, self.index[0], axis=1)
        for index in self.index[1:]:
            found += np.take(x, index, axis=1)
        return found


class Product:
    """[S, G, M, K] times a matrix [G, K, N] for each of G groups, [S, G, M, N].

    Args:
      weight: ball [G, K, N].
      m: M.
    """

    def __init__(self, weight: Ball, m: int):
        self.weight = weight
        groups, k, n = weight.mid.shape
        self.shape = (groups, m, k, n)
        self.width = groups * m * max(k, n)

    def forward(self, x: Ball) -> Ball:
        """Returns the map of x."""
        _, _, k, n = self.shape
        return self._run(x, self.weight, k, n)

    def back(self, rows: Ball) -> Ball:
        """Returns the transposed map of rows."""
        _, _, k, n = self.shape
        return self._run(rows, self._transposed, n, k)

    @functools.cached_property
    def _transposed(self) -> Ball:
        mid, rad = (np.ascontiguousarray(a.transpose(0, 2, 1)) for a in self.weight)
        return Ball(mid, rad)

    def _run(self, x: Ball, weight: Ball, k: int, n: int) -> Ball:
        groups, m = self.shape[:2]
        rows = x.mid.shape[0]

        def split(a: np.ndarray) -> np.ndarray:
            a = a.reshape(rows, groups, m, k).transpose(1, 0, 2, 3)
            return a.reshape(groups, rows * m, k)

        def join(a: np.ndarray) -> np.ndarray:
            a = a.reshape(groups, rows, m, n).transpose(1, 0, 2, 3)
            return a.reshape(rows, groups * m * n)

        found = balls.matmul(Ball(split(x.mid), split(x.rad)), weight)
        return Ball(join(found.mid), join(found.rad))


class Scale:
    """Products with a ball [1, n], element by element."""

    def __init__(self, factor: Ball):
        self.factor = factor
        self.width = factor.mid.size

    def forward(self, x: Ball) -> Ball:
        """Returns the map of x."""
        return balls.multiply(x, self.factor)

    def back(self, rows: Ball) -> Ball:
        """Returns the transposed map of rows."""
        return balls.multiply(rows, self.factor)


class Negate:
    """The sign changed."""

    width = 0

    def forward(self, x: Ball) -> Ball:
        """Returns -x."""
        return balls.negate(x)

    def back(self, rows: Ball) -> Ball:
        """Returns -rows."""
        return balls.negate(rows)


class Chain:
    """Stages one after the other; identities among them are left out."""

    def __init__(self, stages: Sequence[Stage] = ()):
        self.stages = [s for s in stages if not (isinstance(s, Taps) and s.same)]

    @property
    def width(self) -> int:
        """The longest row that a stage makes."""
        return max((stage.width for stage in self.stages), default=0)

    @property
    def mixes(self) -> bool:
        """Whether an output can depend on more than one element of the operand."""
        return any(
            isinstance(s, Product) or (isinstance(s, Taps) and s.index.shape[0] > 1)
            for s in self.stages
        )

    def forward(self, x: Ball) -> Ball:
        """Returns the map of x."""
        for stage in self.stages:
            x = stage.forward(x)
        return x

    def back(self, rows: Ball) -> Ball:
        """Returns the transposed map of rows."""
        for stage in reversed(self.stages):
            rows = stage.back(rows)
        return rows
