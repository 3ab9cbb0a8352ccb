"""Linear and mixed-integer programs of small ReLU networks, by scipy's HiGHS.

They are the ground truth of tests, and decide the leaves of a search whose neurons are
all split. All take the dense form of a network, `verify.reduce.Reduced.params`, and
compute in float64; results hold up to HiGHS's tolerances (1e-7), they are no proofs.
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
from verify.rounding import share
from verify.types import Bounds

_SLACK = 1e-6  # of hidden bounds in float32, so that the program contains the network


class Dense(NamedTuple):
    """A reduced network in float64: z_k = [x, h_1, .., h_{k-1}] D_k + c_k."""

    matrices: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    lower: tuple[np.ndarray, ...]
    upper: tuple[np.ndarray, ...]
    splits: tuple[np.ndarray, ...]
    row: np.ndarray
    constant: float


def leaf_lp(
    params: PyTree,
    region: Region,
    row: np.ndarray,
    d: float,
    hidden: Sequence[Bounds],
    splits: Sequence[np.ndarray],
) -> tuple[str, float, np.ndarray | None]:
    """Minimises a row of a specification over a leaf whose neurons are all decided.

    The network is linear in x there: the minimum of `row . y + d` over the region,
    subject to `s z >= 0` of the split neurons, is a linear program.

    Args:
      params: of a reduced network, `Reduced.params`.
      region: of the input; of an l2 ball the program takes the enclosing box.
      row: coefficients on the flat output, [n_y].
      d: the constant.
      hidden: bounds of each z_k, `Reduced.hidden`.
      splits: for each layer the signs of z_k, [n_k]: 1, -1, or 0 where not split.

    Returns:
      Status, minimum and minimiser. "optimal": a minimiser x [n_x] in the region.
      "relaxed": the region is an l2 ball and the minimiser of the box is outside of
      it, so that the minimum is a lower bound. "infeasible": no x has these signs; the
      minimum is +inf and there is no minimiser. "failed": the solver gave up; -inf.

    Raises:
      InputError: a neuron that is neither stable nor split.
    """
    dense = _dense(params, row, d, hidden, splits)
    cost, constant, A, b = _leaf_rows(dense)
    found = _solve(cost, A, b, region, x_only=True)
    if found.status == 2:
        return "infeasible", np.inf, None
    if found.status != 0:
        return "failed", -np.inf, None
    x = found.x[: cost.size]
    low, high = np.ravel(region.lower), np.ravel(region.upper)
    x = np.clip(x, low, high)
    inside = region.contains(x.reshape(region.shape), tol=1e-9)
    return "optimal" if inside else "relaxed", float(found.fun + constant), x


def leaf_rounding(
    params: PyTree,
    region: Region,
    row: np.ndarray,
    d: float,
    hidden: Sequence[Bounds],
    splits: Sequence[np.ndarray],
) -> float:
    """Returns what the minimum of `leaf_lp` must be above 0 by to count as positive.

    The program is solved in float64, but its numbers are those of a reduced form that
    was made in the type of the parameters. As `verify.rounding.rounding`, a share of
    the size of the row's terms: coefficients on the input times its largest values, and
    constants; and a tenth of that share of the same by absolute values, for what
    cancels within the leaf. What cancelled while the form was made is not seen here;
    rows are lowered for its constants by the caller.

    Args:
      params: of a reduced network, `Reduced.params`.
      region: of the input.
      row: coefficients on the flat output, [n_y].
      d: the constant.
      hidden: bounds of each z_k, `Reduced.hidden`.
      splits: for each layer the signs of z_k, [n_k].
    """
    dense = _dense(params, row, d, hidden, splits)
    out = params["output"]
    given = np.abs(np.ravel(row)).astype(np.float64)
    left, sizes = dense.row, np.abs(np.asarray(out["matrix"], np.float64)) @ given
    constant = abs(d) + float(given @ np.abs(np.asarray(out["bias"], np.float64)))
    for D, c, low, _, sign in reversed(list(zip(*dense[:5], strict=True))):
        active = np.where(sign != 0, sign > 0, low >= 0)
        left, own = left[: len(D)], left[len(D) :] * active
        sizes, largest = sizes[: len(D)], sizes[len(D) :] * active
        left, sizes = left + D @ own, sizes + np.abs(D) @ largest
        constant += (np.abs(own) + 0.1 * largest) @ np.abs(c)
    ends = np.abs(np.ravel(region.lower)), np.abs(np.ravel(region.upper))
    total = constant + (np.abs(left) + 0.1 * sizes) @ np.maximum(*ends)
    return share(np.asarray(out["matrix"]).dtype) * float(total)


def leaf_weights(
    params: PyTree,
    region: Region,
    spec: Spec,
    hidden: Sequence[Bounds],
    splits: Sequence[np.ndarray],
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the rows' convex weights whose combined minimum over a leaf is largest.

    One linear program, min t subject to C y(x) + d <= t: no x makes all rows
    unsafe at once just where its optimum is positive, and that is the minimum of the
    combined row.

    Args:
      params: of a reduced network, `Reduced.params`.
      region: of the input; of an l2 ball the program takes the enclosing box.
      spec: the rows of a clause, S.
      hidden: bounds of each z_k, `Reduced.hidden`.
      splits: for each layer the signs of z_k, [n_k].

    Returns:
      Weights [S] and the minimiser x [n_x]; None where no x has these signs, or if the
      solver gave up.
    """
    C, d = (np.asarray(part, np.float64) for part in spec)
    matrix, bias = (
        np.asarray(params["output"][k], np.float64) for k in ("matrix", "bias")
    )
    slopes, offsets, A, b = _leaf_values(_dense(params, C[0], d[0], hidden, splits))
    rows = C @ matrix.T
    costs, constants = rows @ slopes, rows @ offsets + C @ bias + d
    m, n = costs.shape
    rows = np.block([[A, np.zeros((len(b), 1))], [costs, -np.ones((m, 1))]])
    sides = np.concatenate([b, -constants])
    bounds = np.stack([np.ravel(region.lower), np.ravel(region.upper)], 1)
    bounds = np.concatenate([bounds, [[-np.inf, np.inf]]])
    found = _solve(np.eye(n + 1)[-1], rows, sides, region, bounds=bounds)
    if found.status != 0:
        return None
    weights = np.maximum(-found.ineqlin.marginals[len(b) : len(b) + m], 0)
    x = np.clip(found.x[:n], bounds[:n, 0], bounds[:n, 1])
    return weights / weights.sum(), x


def leaf_betas(
    params: PyTree,
    region: Region,
    row: np.ndarray,
    d: float,
    hidden: Sequence[Bounds],
    splits: Sequence[np.ndarray],
) -> tuple[np.ndarray, ...] | None:
    """Returns multipliers beta >= 0 of a leaf's signs that prove its minimum.

    They are what a certificate needs of a leaf that `leaf_lp` closed: of its optimum
    where it is feasible; where it is not, multiples of a certificate of that, large
    enough to make the bound positive.

    Args:
      params: of a reduced network, `Reduced.params`.
      region: of the input.
      row: coefficients on the flat output, [n_y].
      d: the constant.
      hidden: bounds of each z_k, `Reduced.hidden`.
      splits: for each layer the signs of z_k, [n_k].

    Returns:
      For each layer [n_k], zero where not split; None if the solver gave up.
    """
    dense = _dense(params, row, d, hidden, splits)
    cost, constant, A, b = _leaf_rows(dense)
    found = _solve(cost, A, b, region, x_only=True)
    if found.status == 0:
        multipliers = -found.ineqlin.marginals[: b.size]
    elif found.status == 2:
        multipliers = _ray(cost, constant, A, b, region)
    else:
        multipliers = None
    if multipliers is None:
        return None
    betas, at = [], 0
    for sign in dense.splits:
        beta = np.zeros(sign.shape)
        split = np.flatnonzero(sign)
        beta[split] = np.maximum(multipliers[at : at + split.size], 0)
        at += split.size
        betas.append(beta)
    return tuple(betas)


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
    dense = _dense(params, row, d, hidden, splits)
    _refuse_l2(region)
    cost, A, b, bounds = _program(dense, region)
    found = _solve(cost, A, b, region, bounds=bounds)
    return np.inf if found.status == 2 else float(found.fun + dense.constant)


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
    minima = [
        _least(_dense(reduced.params, row, d, reduced.hidden, None), region, timeout_s)
        for row, d in zip(C, consts, strict=True)
    ]
    return np.asarray(minima)


@functools.lru_cache(maxsize=16)
def _compiled(network: Network) -> tuple[Reducer, Any]:
    """What reduces and bounds a network: compiled once, whatever the weights."""
    return Reducer(network), jax.jit(functools.partial(hidden_bounds, network))


def _least(dense: Dense, region: Region, timeout_s: float) -> float:
    """The minimum of one row by a mixed-integer program."""
    from scipy import optimize, sparse

    cost, A, b, bounds = _program(dense, region, integer=True)
    A, b, bounds, n = _with_region(A, b, bounds, region)
    n_x, n_h = np.ravel(region.lower).size, sum(len(bias) for bias in dense.biases)
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
    return float(found.fun + dense.constant)


def _widen(bounds: Bounds) -> Bounds:
    low = np.asarray(bounds.lower, np.float64)
    high = np.asarray(bounds.upper, np.float64)
    low = low - _SLACK * (1 + np.abs(low))
    high = high + _SLACK * (1 + np.abs(high))
    return Bounds(low, high)  # pyright: ignore[reportArgumentType]


def _dense(params, row, d, hidden, splits) -> Dense:
    """Everything in float64; `row` and `d` pulled through the output layer."""
    layers = params["layers"]
    if len(hidden) != len(layers) or (splits and len(splits) != len(layers)):
        given = f"{len(hidden)} hidden bounds and splits"
        raise ShapeError(describe(given, f"one for each of {len(layers)} layers"))
    if splits is None:
        splits = [np.zeros(np.shape(layer["bias"])) for layer in layers]
    row = np.asarray(row, np.float64).ravel()
    out = params["output"]
    return Dense(
        tuple(np.asarray(layer["matrix"], np.float64) for layer in layers),
        tuple(np.asarray(layer["bias"], np.float64) for layer in layers),
        tuple(np.asarray(each.lower, np.float64).ravel() for each in hidden),
        tuple(np.asarray(each.upper, np.float64).ravel() for each in hidden),
        tuple(np.sign(np.asarray(each, np.float64)).ravel() for each in splits),
        np.asarray(out["matrix"], np.float64) @ row,
        float(np.asarray(out["bias"], np.float64) @ row + d),
    )


def _leaf_rows(dense: Dense):
    """The cost [n_x], its constant, and A x <= b of the signs of the split neurons."""
    slopes, offsets, A, b = _leaf_values(dense)
    cost = dense.row @ slopes
    return cost, float(dense.row @ offsets + dense.constant), A, b


def _leaf_values(dense: Dense):
    """Values as slopes [n, n_x] and offsets [n] of x, and A x <= b of the signs."""
    n_x = dense.row.size - sum(len(bias) for bias in dense.biases)
    slopes, offsets = np.eye(n_x), np.zeros(n_x)
    A, b = [np.zeros((0, n_x))], [np.zeros(0)]
    for D, c, low, high, sign in zip(*dense[:5], strict=True):
        free = (sign == 0) & (low < 0) & (high > 0)
        if free.any():
            given = f"{int(free.sum())} neurons that are neither split nor stable"
            raise InputError(f"leaf_lp: {describe(given, 'all decided')}")
        z, at = D.T @ slopes, D.T @ offsets + c
        split = sign != 0
        A.append(-sign[split, None] * z[split])
        b.append(sign[split] * at[split])
        active = np.where(split, sign > 0, low >= 0)
        slopes = np.concatenate([slopes, z * active[:, None]])
        offsets = np.concatenate([offsets, at * active])
    return slopes, offsets, np.concatenate(A), np.concatenate(b)


def _program(dense: Dense, region: Region, integer: bool = False):
    """Cost, A v <= b and bounds over v = [x, h], and binaries a where `integer`."""
    n_x = np.ravel(region.lower).size
    n = dense.row.size
    n_h = n - n_x
    width = n + (n_h if integer else 0)
    A, b, at = [np.zeros((0, width))], [np.zeros(0)], n_x
    bounds = np.full((width, 2), [-np.inf, np.inf])
    bounds[:n_x] = np.stack([np.ravel(region.lower), np.ravel(region.upper)], 1)
    bounds[n:] = [0, 1]
    for D, c, low, high, sign in zip(*dense[:5], strict=True):
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
    cost = np.pad(dense.row, (0, width - n))
    return cost, np.concatenate(A), np.concatenate(b), bounds


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


def _solve(cost, A, b, region: Region, *, x_only: bool = False, bounds=None) -> Any:
    from scipy import optimize

    if x_only:
        bounds = np.stack([np.ravel(region.lower), np.ravel(region.upper)], 1)
    A, b, bounds, n = _with_region(A, b, np.asarray(bounds, np.float64), region)
    cost = np.pad(cost, (0, n - cost.size))
    return optimize.linprog(cost, A, b, bounds=bounds, method="highs")


def _ray(cost, constant, A, b, region: Region) -> np.ndarray | None:
    """Multipliers of an infeasible A x <= b that make the Lagrangian positive.

    The least t with A x <= b + t is positive; its multipliers m sum to one, and the
    minimum of m . (A x - b) over the region is t.
    """
    n = cost.size
    rows = np.concatenate([A, -np.ones((len(b), 1))], 1)
    box = np.stack([np.ravel(region.lower), np.ravel(region.upper)], 1)
    bounds = np.concatenate([box, [[-np.inf, np.inf]]])
    found = _solve(np.eye(n + 1)[-1], rows, b, region, bounds=bounds)
    if found.status != 0 or not found.fun > 0:
        return None
    m = np.maximum(-found.ineqlin.marginals[: b.size], 0)
    least = constant + (
        np.maximum(cost, 0) @ box[:, 0] + np.minimum(cost, 0) @ box[:, 1]
    )
    return m * (2 * max(0.0, 1 - least) / found.fun)


def _refuse_l2(region: Region) -> None:
    if region.radius is not None and region.norm == "l2":
        raise InputError(describe("an l2 ball", "a box or an l1 ball: linear programs"))
