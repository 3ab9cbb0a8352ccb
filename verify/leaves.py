"""Leaves of a search: regions where the sign of every neuron is decided, by HiGHS.

The network is linear in its input there, and the signs are rows of a linear program.
All is computed in float64; results hold up to HiGHS's tolerances (1e-7).
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from core.errors import InputError, describe
from core.types import PyTree
from verify.exact import Dense, dense, solve
from verify.properties import Spec
from verify.regions import Region
from verify.rounding import share
from verify.types import Bounds


@dataclasses.dataclass(frozen=True)
class LinearLeaf:
    """A region in which every neuron of a reduced network is stable or split.

    Attributes:
      params: of a reduced network, `Reduced.params`.
      region: of the input; of an l2 ball the programs take the enclosing box.
      hidden: bounds of each z_k, `Reduced.hidden`.
      splits: for each layer the signs of z_k, [n_k]: 1, -1, or 0 where not split.
    """

    params: PyTree
    region: Region
    hidden: Sequence[Bounds]
    splits: Sequence[np.ndarray]

    def minimum(
        self, row: np.ndarray, d: float
    ) -> tuple[str, float, np.ndarray | None]:
        """Minimises a row of a specification, `row . y + d`, by one linear program.

        Args:
          row: coefficients on the flat output, [n_y].
          d: the constant.

        Returns:
          Status, minimum and minimiser. "optimal": a minimiser x [n_x] in the region.
          "relaxed": the region is an l2 ball and the minimiser of the box is outside of
          it, so that the minimum is a lower bound. "infeasible": no x has these signs;
          the minimum is +inf and there is no minimiser. "failed": the solver gave up;
          -inf.

        Raises:
          InputError: a neuron that is neither stable nor split.
        """
        cost, constant = self.line(row, d)
        found = solve(cost, *self.signs, self.region)
        if found.status == 2:
            return "infeasible", np.inf, None
        if found.status != 0:
            return "failed", -np.inf, None
        low, high = np.ravel(self.region.lower), np.ravel(self.region.upper)
        x = np.clip(found.x[: cost.size], low, high)
        inside = self.region.contains(x.reshape(self.region.shape), tol=1e-9)
        return "optimal" if inside else "relaxed", float(found.fun + constant), x

    def rounding(self, row: np.ndarray, d: float) -> float:
        """Returns what `minimum` must be above 0 by to count as positive.

        The program is solved in float64, but its numbers are those of a reduced form
        that was made in the type of the parameters. As `verify.rounding.rounding`, a
        share of the size of the row's terms: coefficients on the input times its
        largest values, and constants; and a tenth of that share of the same by absolute
        values, for what cancels within the leaf. What cancelled while the form was made
        is not seen here; rows are lowered for its constants by the caller.

        Args:
          row: coefficients on the flat output, [n_y].
          d: the constant.
        """
        net, given = self._dense, np.abs(np.ravel(row)).astype(np.float64)
        left, sizes = net.cost(row, 0.0)[0], np.abs(net.output) @ given
        lost = self._lost  # by a unit of each coefficient
        constant = lost + abs(d) + float(given @ (np.abs(net.bias) + lost))
        for D, c, low, _, sign in reversed(list(zip(*net[:5], strict=True))):
            active = np.where(sign != 0, sign > 0, low >= 0)
            left, own = left[: len(D)], left[len(D) :] * active
            sizes, largest = sizes[: len(D)], sizes[len(D) :] * active
            left, sizes = left + D @ own, sizes + np.abs(D) @ largest
            constant += (np.abs(own) + 0.1 * largest) @ (np.abs(c) + lost)
        ends = np.abs(np.ravel(self.region.lower)), np.abs(np.ravel(self.region.upper))
        total = constant + (np.abs(left) + 0.1 * sizes) @ np.maximum(*ends)
        return share(self._dtype) * float(total)

    def weights(self, spec: Spec) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns the rows' convex weights whose combined minimum is the largest.

        One linear program, min t subject to C y(x) + d <= t: no x makes all rows
        unsafe at once just where its optimum is positive, and that is the minimum of
        the combined row.

        Args:
          spec: the rows of a clause, S.

        Returns:
          Weights [S] and the minimiser x [n_x]; None where no x has these signs, or if
          the solver gave up.
        """
        lines = [self.line(*row) for row in zip(*map(np.asarray, spec), strict=True)]
        costs, constants = (np.stack(part) for part in zip(*lines, strict=True))
        A, b = self.signs
        m, n = costs.shape
        rows = np.block([[A, np.zeros((len(b), 1))], [costs, -np.ones((m, 1))]])
        sides = np.concatenate([b, -constants])
        bounds = self._box_and_free()
        found = solve(np.eye(n + 1)[-1], rows, sides, self.region, bounds)
        if found.status != 0:
            return None
        weights = np.maximum(-found.ineqlin.marginals[len(b) : len(b) + m], 0)
        x = np.clip(found.x[:n], bounds[:n, 0], bounds[:n, 1])
        return weights / weights.sum(), x

    def betas(self, row: np.ndarray, d: float) -> tuple[np.ndarray, ...] | None:
        """Returns multipliers beta >= 0 of the signs that prove the minimum of a row.

        They are what a certificate needs of a leaf that `minimum` closed: of its
        optimum where it is feasible; where it is not, multiples of a certificate of
        that, large enough to make the bound positive.

        Args:
          row: coefficients on the flat output, [n_y].
          d: the constant.

        Returns:
          For each layer [n_k], zero where not split; None if the solver gave up.
        """
        (cost, constant), (A, b) = self.line(row, d), self.signs
        found = solve(cost, A, b, self.region)
        if found.status == 0:
            multipliers = -found.ineqlin.marginals[: b.size]
        elif found.status == 2:
            multipliers = self._ray(cost, constant)
        else:
            multipliers = None
        if multipliers is None:
            return None
        betas, at = [], 0
        for sign in self._dense.splits:
            beta = np.zeros(sign.shape)
            split = np.flatnonzero(sign)
            beta[split] = np.maximum(multipliers[at : at + split.size], 0)
            at += split.size
            betas.append(beta)
        return tuple(betas)

    def line(self, row: np.ndarray, d: float) -> tuple[np.ndarray, float]:
        """Returns `row . y + d` as coefficients [n_x] on the input and a constant."""
        slopes, offsets, _, _ = self._values
        cost, constant = self._dense.cost(row, d)
        return cost @ slopes, float(cost @ offsets + constant)

    @property
    def signs(self) -> tuple[np.ndarray, np.ndarray]:
        """A and b of A x <= b, a row for each split neuron, layer by layer."""
        return self._values[2:]

    @property
    def _dtype(self) -> np.dtype:
        return np.asarray(self.params["output"]["matrix"]).dtype

    @property
    def _lost(self) -> float:
        """To underflow, of which `share` counts; see `reduce.Reduced`."""
        return float(self.params.get("lost", 0.0))

    @functools.cached_property
    def _dense(self) -> Dense:
        return dense(self.params, self.hidden, self.splits)

    @functools.cached_property
    def _values(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Values as slopes [n, n_x] and offsets [n] of x, and A x <= b of the signs."""
        net, dtype = self._dense, self._dtype
        n_x = len(net.output) - sum(len(bias) for bias in net.biases)
        slopes, offsets = np.eye(n_x), np.zeros(n_x)
        A, b = [np.zeros((0, n_x))], [np.zeros(0)]
        for D, c, low, high, sign in zip(*net[:5], strict=True):
            free = (sign == 0) & (low < 0) & (high > 0)
            if free.any():
                given = f"{int(free.sum())} neurons that are neither split nor stable"
                raise InputError(f"leaf: {describe(given, 'all decided')}")
            z, at = D.T @ slopes, D.T @ offsets + c
            split = sign != 0
            A.append(-sign[split, None] * z[split])
            b.append(sign[split] * at[split] + share(dtype) * self._lost)
            active = np.where(split, sign > 0, low >= 0)
            slopes = np.concatenate([slopes, z * active[:, None]])
            offsets = np.concatenate([offsets, at * active])
        return slopes, offsets, np.concatenate(A), np.concatenate(b)

    def _box_and_free(self) -> np.ndarray:
        """Bounds [n_x + 1, 2] of the input and of a variable without any."""
        box = np.stack([np.ravel(self.region.lower), np.ravel(self.region.upper)], 1)
        return np.concatenate([box, [[-np.inf, np.inf]]])

    def _ray(self, cost: np.ndarray, constant: float) -> np.ndarray | None:
        """Multipliers of an infeasible A x <= b that make the Lagrangian positive.

        The least t with A x <= b + t is positive; its multipliers m sum to one, and the
        minimum of m . (A x - b) over the region is t.
        """
        A, b = self.signs
        bounds = self._box_and_free()
        rows = np.concatenate([A, -np.ones((len(b), 1))], 1)
        found = solve(np.eye(cost.size + 1)[-1], rows, b, self.region, bounds)
        if found.status != 0 or not found.fun > 0:
            return None
        m = np.maximum(-found.ineqlin.marginals[: b.size], 0)
        low, high = bounds[:-1].T
        least = constant + (np.maximum(cost, 0) @ low + np.minimum(cost, 0) @ high)
        return m * (2 * max(0.0, 1 - least) / found.fun)
