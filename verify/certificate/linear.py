"""Linear maps of flat arrays on balls, and their transposes on rows.

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

    def pull(self, rows: np.ndarray) -> np.ndarray:
        """Returns the transposed map of rows [S, n_out], [S, n_in], as rounded."""
        ...

    @property
    def terms(self) -> int:
        """The most products that an element of either map is the sum of."""
        ...

    def absolute(self) -> "Stage | None":
        """The map with all weights by their size; None for the identity."""
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

    def pull(self, rows: np.ndarray) -> np.ndarray:
        """Returns the transposed map of rows."""
        return self.transposed._sum(rows)

    @property
    def terms(self) -> int:
        """Additions of either map."""
        return max(self.index.shape[0], self.transposed.index.shape[0])

    def absolute(self) -> "Taps":
        """Returns itself."""
        return self

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
        rows = x.mid.shape[0]
        _, _, k, n = self.shape
        split = Ball(self._split(x.mid, k), self._split(x.rad, k))
        found = balls.matmul(split, self.weight)
        return Ball(self._join(found.mid, rows, n), self._join(found.rad, rows, n))

    def pull(self, rows: np.ndarray) -> np.ndarray:
        """Returns the transposed map of rows."""
        _, _, k, n = self.shape
        found = self._split(rows, n) @ self.weight.mid.transpose(0, 2, 1)
        return self._join(found, rows.shape[0], k)

    @property
    def terms(self) -> int:
        """Products of either map."""
        return max(self.shape[2:])

    def absolute(self) -> "Product":
        """The product with the weights' sizes."""
        weight = Ball(np.abs(self.weight.mid), self.weight.rad)
        return Product(weight, self.shape[1])

    def _split(self, a: np.ndarray, k: int) -> np.ndarray:
        """[S, G * M * k] as [G, S * M, k]."""
        groups, m = self.shape[:2]
        if groups == 1:
            return a.reshape(1, -1, k)
        a = a.reshape(-1, groups, m, k).transpose(1, 0, 2, 3)
        return a.reshape(groups, -1, k)

    def _join(self, a: np.ndarray, rows: int, n: int) -> np.ndarray:
        """The inverse of `_split`."""
        groups, m = self.shape[:2]
        if groups > 1:
            a = a.reshape(groups, rows, m, n).transpose(1, 0, 2, 3)
        return a.reshape(rows, groups * m * n)


class Scale:
    """Products with a ball [1, n], element by element."""

    def __init__(self, factor: Ball):
        self.factor = factor
        self.width = factor.mid.size

    def forward(self, x: Ball) -> Ball:
        """Returns the map of x."""
        return balls.multiply(x, self.factor)

    def pull(self, rows: np.ndarray) -> np.ndarray:
        """Returns the transposed map of rows."""
        return rows * self.factor.mid

    @property
    def terms(self) -> int:
        """One product."""
        return 1

    def absolute(self) -> "Scale":
        """The product with the factors' sizes."""
        return Scale(Ball(np.abs(self.factor.mid), self.factor.rad))


class Negate:
    """The sign changed."""

    width = 0

    def forward(self, x: Ball) -> Ball:
        """Returns -x."""
        return balls.negate(x)

    def pull(self, rows: np.ndarray) -> np.ndarray:
        """Returns -rows."""
        return -rows

    @property
    def terms(self) -> int:
        """Nothing is rounded."""
        return 0

    def absolute(self) -> None:
        """Returns None: the identity."""
        return None


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

    def pull(self, rows: np.ndarray) -> np.ndarray:
        """Returns the transposed map of rows, as rounded."""
        for stage in reversed(self.stages):
            rows = stage.pull(rows)
        return rows

    @functools.cached_property
    def absolute(self) -> "Chain":
        """The chain with all weights by their size."""
        sizes = [stage.absolute() for stage in self.stages]
        return Chain([stage for stage in sizes if stage is not None])

    def error(self, size: np.ndarray) -> np.ndarray:
        """Returns how much rounding in `pull` can change a row's value.

        The coefficients that `pull` makes of a row `a` are off by at most
        `gamma(terms) |a| |W|` where W is the chain, and by what W itself is off by.

        Args:
          size: [1, n_in], at least the size of the operand's elements.

        Returns:
          [1, n_out]: the value is off by at most its inner product with |a|,
          underflow aside.
        """
        if not self.stages:
            return np.zeros_like(size)
        found = self.absolute.forward(balls.exact(size))
        terms = sum(stage.terms + 1 for stage in self.stages)
        return balls.grow(found.rad + balls.gamma(terms) * (found.mid + found.rad), 4)
