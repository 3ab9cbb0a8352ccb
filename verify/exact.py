"""Linear and mixed-integer programs of small ReLU networks, by scipy's HiGHS.

They are the ground truth of tests. All take the dense form of a network,
`verify.reduce.Reduced.params`, and compute in float64; results hold up to HiGHS's
tolerances (1e-7), they are no proofs. `verify.leaves` has those of a search's leaves.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from core.errors import InputError, ShapeError, describe
from core.types import PyTree
from verify.crown import hidden_bounds
from verify.network import Network, Weights
from verify.properties import Spec
from verify.reduce import Reducer
from verify.regions import Region
from verify.types import Bounds

_SLACK = 1e-6  # of hidden bounds in float32, so that the program contains the network


class Dense(NamedTuple):
    """A reduced network in float64: z_k = [x, h_1, .., h_{k-1}] D_k + c_k."""

    matrices: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    lower: tuple[np.ndarray, ...]
    upper: tuple[np.ndarray, ...]
    splits: tuple[np.ndarray, ...]
    output: np.ndarray
    bias: np.ndarray

    def cost(self, row: np.ndarray, d: float) -> tuple[np.ndarray, float]:
        """`row . y + d` as coefficients on [x, h_1, .., h_K] and a constant."""
        row = np.asarray(row, np.float64).ravel()
        return self.output @ row, float(self.bias @ row + d)


def dense(
    params: PyTree,
    hidden: Sequence[Bounds],
    splits: Sequence[np.ndarray] | None = None,
) -> Dense:
    """Returns the dense form of a reduced network in float64.

    Args:
      params: of a reduced network, `Reduced.params`.
      hidden: bounds of each z_k, `Reduced.hidden`.
      splits: for each layer the signs of z_k, [n_k]; none if left out.

    Raises:
      ShapeError: not one pair of bounds and one array of signs for each layer.
    """
    layers, out = params["layers"], params["output"]
    if splits is None:
        splits = [np.zeros(np.shape(layer["bias"])) for layer in layers]
    if len(hidden) != len(layers) or len(splits) != len(layers):
        given = f"{len(hidden)} hidden bounds and {len(splits)} splits"
        raise ShapeError(describe(given, f"one for each of {len(layers)} layers"))
    return Dense(
        tuple(np.asarray(layer["matrix"], np.float64) for layer in layers),
        tuple(np.asarray(layer["bias"], np.float64) for layer in layers),
        tuple(np.asarray(each.lower, np.float64).ravel() for each in hidden),
        tuple(np.asarray(each.upper, np.float64).ravel() for each in hidden),
        tuple(np.sign(np.asarray(each, np.float64)).ravel() for each in splits),
        np.asarray(out["matrix"], np.float64),
        np.asarray(out["bias"], np.float64),
    )


def lp_bound(
    params: PyTree,
    region: Region,
    row: np.ndarray,
    d: float,
    hidden: Sequence[Bounds],
    splits: Sequence[np.ndarray] | None = None,
) -> float:
    """Returns the minimum of a row over the triangle relaxation with split signs.

    The program holds the region, the triangle of each unstable neuron, the equality
    of each stable or split one, and the signs of the split ones, nothing else: it is
    what alpha and beta together are the dual of, for fixed hidden bounds.

    Args:
      params: of a reduced network, `Reduced.params`.
      region: of the input, a box or an l1 ball.
      row: coefficients on the flat output, [n_y].
      d: the constant.
      hidden: bounds of each z_k, `Reduced.hidden`.
      splits: for each layer the signs of z_k, [n_k]; none if left out.

    Returns:
      The minimum; +inf if no point has these signs.
    """
    _refuse_l2(region)
    net = dense(params, hidden, splits)
    A, b, bounds = _program(net, region)
    cost, constant = net.cost(row, d)
    found = solve(np.pad(cost, (0, len(bounds) - cost.size)), A, b, region, bounds)
    return np.inf if found.status == 2 else float(found.fun + constant)


def dense_milp(
    params: PyTree,
    region: Region,
    row: np.ndarray,
    d: float,
    hidden: Sequence[Bounds],
    *,
    timeout_s: float = 60.0,
) -> float:
    """Returns the exact minimum of a row of a dense form over a region.

    Args:
      params: of a reduced network, `Reduced.params`.
      region: a box or an l1 ball.
      row: coefficients on the flat output, [n_y].
      d: the constant.
      hidden: bounds of each z_k; the big M of the program.
      timeout_s: seconds.

    Raises:
      InputError: an l2 ball, or a row that is not solved in time.
    """
    from scipy import optimize, sparse

    _refuse_l2(region)
    net = dense(params, hidden)
    A, b, bounds = _program(net, region, integer=True)
    A, b, bounds, n = _with_region(A, b, bounds, region)
    cost, constant = net.cost(row, d)
    n_x, n_h = np.ravel(region.lower).size, sum(len(bias) for bias in net.biases)
    binary = np.zeros(n)
    binary[n_x + n_h : n_x + 2 * n_h] = 1
    within: Any = optimize.Bounds
    rows: Any = optimize.LinearConstraint
    found = optimize.milp(
        np.pad(cost, (0, n - cost.size)),
        integrality=binary,
        bounds=within(bounds[:, 0], bounds[:, 1]),
        constraints=rows(sparse.csr_matrix(A), -np.inf, b),
        options={"time_limit": timeout_s, "mip_rel_gap": 1e-9},
    )
    if found.status != 0:
        raise InputError(
            f"milp: {describe(found.message, f'an optimum in {timeout_s} s')}"
        )
    return float(found.fun + constant)


def solve(cost, A, b, region: Region, bounds=None) -> Any:
    """Minimises `cost . v` over A v <= b, v within `bounds` and its first in a region.

    Args:
      cost: [n] float64.
      A: [m, n] float64.
      b: [m] float64.
      region: of the first variables; of an l2 ball the enclosing box.
      bounds: [n, 2] float64; if left out, the region's box, for n inputs.

    Returns:
      What `scipy.optimize.linprog` returns; status 2 means infeasible.
    """
    from scipy import optimize

    if bounds is None:
        bounds = np.stack([np.ravel(region.lower), np.ravel(region.upper)], 1)
    A, b, bounds, n = _with_region(A, b, np.asarray(bounds, np.float64), region)
    cost = np.pad(cost, (0, n - cost.size))
    return optimize.linprog(cost, A, b, bounds=bounds, method="highs")


def milp(
    network: Network,
    weights: Weights,
    region: Region,
    spec: Spec,
    hidden: Sequence[Bounds] | None = None,
    *,
    timeout_s: float = 60.0,
) -> np.ndarray:
    """Returns the exact minima [S] of `C y + d` over a region.

    A mixed-integer program with a binary variable for each unstable neuron, and its
    bounds as big M. For networks of up to some hundred unstable neurons.

    Args:
      network: of ReLUs.
      weights: its weights, of `network.prepare`.
      region: a box or an l1 ball.
      spec: the rows.
      hidden: bounds of `network.hidden`; those of CROWN if left out. They are widened
        by 1e-6 of their size for the rounding of float32.
      timeout_s: seconds for each row.

    Raises:
      InputError: an l2 ball, or a row that is not solved in time.
    """
    _refuse_l2(region)
    reducer, bound = _compiled(network)
    known = bound(weights, region) if hidden is None else hidden
    reduced = reducer(weights, [_widen(each) for each in known])
    C, consts = np.asarray(spec.C, np.float64), np.asarray(spec.d, np.float64)
    args = reduced.params, region
    minima = [
        dense_milp(*args, row, d, reduced.hidden, timeout_s=timeout_s)
        for row, d in zip(C, consts, strict=True)
    ]
    return np.asarray(minima)


@functools.lru_cache(maxsize=16)
def _compiled(network: Network) -> tuple[Reducer, Any]:
    """What reduces and bounds a network: compiled once, whatever the weights."""
    return Reducer(network), jax.jit(functools.partial(hidden_bounds, network))


def _widen(bounds: Bounds) -> Bounds:
    low = np.asarray(bounds.lower, np.float64)
    high = np.asarray(bounds.upper, np.float64)
    low = low - _SLACK * (1 + np.abs(low))
    high = high + _SLACK * (1 + np.abs(high))
    return Bounds(low, high)  # pyright: ignore[reportArgumentType]


def _program(net: Dense, region: Region, integer: bool = False):
    """A v <= b and bounds over v = [x, h], and binaries a where `integer`."""
    n_x = np.ravel(region.lower).size
    n = len(net.output)
    n_h = n - n_x
    width = n + (n_h if integer else 0)
    A, b, at = [np.zeros((0, width))], [np.zeros(0)], n_x
    bounds = np.full((width, 2), [-np.inf, np.inf])
    bounds[:n_x] = np.stack([np.ravel(region.lower), np.ravel(region.upper)], 1)
    bounds[n:] = [0, 1]
    for D, c, low, high, sign in zip(*net[:5], strict=True):
        for i in range(len(c)):
            z, h = np.zeros(width), np.zeros(width)
            z[: D.shape[0]] = D[:, i]
            h[at + i] = 1
            low_i, high_i = low[i], high[i]
            if sign[i] > 0 or (sign[i] == 0 and low_i >= 0):  # h = z
                rows, sides = [z - h, h - z], [-c[i], c[i]]
            elif sign[i] < 0 or high_i <= 0:
                rows, sides = [h, -h], [0.0, 0.0]
            elif integer:
                a = np.zeros(width)
                a[n + at - n_x + i] = 1
                rows = [-h, z - h, h - high_i * a, h - z - low_i * a]
                sides = [0.0, -c[i], 0.0, c[i] - low_i]
            else:
                slope = high_i / (high_i - low_i)
                rows = [-h, z - h, h - slope * z]
                sides = [0.0, -c[i], slope * (c[i] - low_i)]
            if sign[i]:
                rows.append(-sign[i] * z)
                sides.append(sign[i] * c[i])
            A.append(np.stack(rows))
            b.append(np.asarray(sides))
        at += len(c)
    return np.concatenate(A), np.concatenate(b), bounds


def _with_region(A, b, bounds, region: Region):
    """Adds the l1 ball, with t >= |x - center| as new variables."""
    from scipy import sparse

    n = A.shape[1]
    if region.radius is None or region.norm != "l1":
        return A, b, bounds, n
    center = np.asarray(region.center, np.float64).ravel()
    k = center.size
    one, none = sparse.eye_array(k), sparse.csr_array((k, n - k))
    ball = sparse.block_array([[one, none, -one], [-one, none, -one]])
    total = np.concatenate([np.zeros(n), np.ones(k)])[None]
    A = sparse.hstack([sparse.csr_array(A), sparse.csr_array((len(A), k))])
    A = sparse.vstack([A, ball, sparse.csr_array(total)])
    b = np.concatenate([b, center, -center, [float(region.radius)]])
    bounds = np.concatenate([bounds, np.full((k, 2), [0, np.inf])])
    return A, b, bounds, n + k


def _refuse_l2(region: Region) -> None:
    if region.radius is not None and region.norm == "l2":
        raise InputError(describe("an l2 ball", "a box or an l1 ball: linear programs"))
