"""Stochastic problems whose gradients have a law over coordinates.

A query is the loss of one mini-batch at one point. Within a step all queries share the
mini-batch. So an estimate has the variance of its own on top of the batch's, and with
small steps a method's excess loss is proportional to the sum of both.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.types import Array

Law = Literal["isotropic", "heavy"]
SNAPSHOT_BATCHES = 16
"""Mini-batches of a snapshot where data have no end."""
Measure = Literal["gap", "mean gap", "mean square"]


class Data(NamedTuple):
    """What a problem is made of; a pytree, so problems of one shape share a program.

    Attributes:
      scales: s_i of the coordinates, [d]; sum of squares 1.
      curvature: h_i of a quadratic, [d].
      rows: of a logistic problem [n, d], with the labels' signs; None for a quadratic.
      penalty: of w^2 / (1 + w^2), [].
      least: the smallest loss, [].
      is_square: whether ||grad f||^2 is measured, bool [].
    """

    scales: Array
    curvature: Array
    rows: Array | None
    penalty: Array
    least: Array
    is_square: Array


@dataclasses.dataclass(frozen=True)
class Problem:
    """A problem with a rate that theory gives.

    Attributes:
      name: short.
      title: in reports.
      data: its arrays.
      measure: "gap", f - f* at the last point; or the mean over all steps so far of
        it, or of ||grad f||^2: what theory bounds without strong convexity.
      power: of decaying steps: rate / (1 + t / delay)^power.
      slope: of log measure over log queries by theory.
      is_rate: whether that is how fast the measure falls in the end, rather than a
        bound on how slowly.
      unit: rates of the grid are multiples of it, for steps as long as an estimate.
      unit_sign: likewise, for steps whose entries are near 1.
    """

    name: str
    title: str
    data: Data
    measure: Measure
    power: float
    slope: float
    is_rate: bool
    unit: float
    unit_sign: float


def scales(law: Law, d: int) -> np.ndarray:
    """Returns s_i with sum of squares 1: equal, or a twentieth in nine of ten."""
    s = np.ones(d)
    if law == "heavy":
        s[np.arange(d) % 10 != 0] = 0.05
    return s / np.sqrt(np.square(s).sum())


def quadratic(law: Law, d: int) -> Problem:
    """Returns f = E ||x - s z||^2 / 2 - const = ||x||^2 / 2, z normal; from x = +-s.

    Gradients are x - s z: their law over coordinates is that of s all the way, while
    the curvature is the same everywhere.
    """
    title = f"noisy quadratic, {'heavy-tailed' if law == 'heavy' else law}"
    return _noisy(law, title, scales(law, d), np.ones(d))


def spectrum(d: int) -> Problem:
    """Returns f = E sum h_i (x_i - s_i z_i)^2 / 2 - const, h from 1 down to 1/10.

    Strongly convex, with eigenvalues in equal ratios in random places.
    """
    h = np.random.default_rng(0).permutation(np.geomspace(0.1, 1.0, d))
    title = "noisy quadratic, eigenvalues 0.1 to 1"
    return _noisy("strong", title, scales("heavy", d), h)


def _noisy(name: str, title: str, s: np.ndarray, h: np.ndarray) -> Problem:
    zero = jnp.zeros((), jnp.float32)
    scaled, curved = (jnp.asarray(x, jnp.float32) for x in (s, h))
    data = Data(scaled, curved, None, zero, zero, jnp.asarray(False))
    # Noise has norm 1, and the first loss is 1/2: steps end at unit kappa / 4.
    unit = 0.008
    sign = unit / np.sqrt(len(s))
    return Problem(name, title, data, "gap", 1.0, -1.0, True, unit, sign)


def logistic(convex: bool, d: int, n: int) -> Problem:
    """Returns logistic regression on features of scales 1 / i, a tenth mislabelled.

    Not convex: with the penalty lam sum w^2 / (1 + w^2).
    """
    rng = np.random.default_rng(0)
    s = 3 / np.arange(1, d + 1)
    features = rng.normal(size=(n, d)) * s
    w = rng.normal(size=d)
    labels = np.sign(features @ w) * np.where(rng.random(n) < 0.1, -1, 1)
    rows = features * labels[:, None]
    penalty = 0.0 if convex else 0.05
    least = _least(rows) if convex else 0.0
    data = Data(
        jnp.asarray(s, jnp.float32),
        jnp.ones((d,), jnp.float32),
        jnp.asarray(rows, jnp.float32),
        jnp.asarray(penalty, jnp.float32),
        jnp.asarray(least, jnp.float32),
        jnp.asarray(not convex),
    )
    name = "convex" if convex else "nonconvex"
    title = "logistic regression" if convex else "logistic, non-convex penalty"
    measure: Measure = "mean gap" if convex else "mean square"
    unit = 1.0 if convex else 0.1
    return Problem(name, title, data, measure, 0.5, -0.5, False, unit, unit / 5)


def _least(rows: np.ndarray) -> float:
    """The smallest mean of log(1 + exp(-row w))."""
    from scipy import optimize

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        margins = rows @ w
        slopes = -1 / (1 + np.exp(margins))
        return float(np.logaddexp(0, -margins).mean()), rows.T @ slopes / len(rows)

    found = optimize.minimize(
        loss, np.zeros(rows.shape[1]), jac=True, options={"gtol": 1e-8, "maxiter": 5000}
    )
    return float(found.fun)


def start(data: Data, key: Array) -> Array:
    """Returns the first point."""
    if data.rows is None:
        return data.scales * jax.random.rademacher(key, data.scales.shape, jnp.float32)
    return jnp.zeros_like(data.scales)


def batch(data: Data, key: Array, size: int) -> Any:
    """Returns what makes one mini-batch."""
    if data.rows is None:
        return data.scales * jax.random.normal(key, data.scales.shape)
    return data.rows[jax.random.randint(key, (size,), 0, len(data.rows))]


def loss(data: Data, batch: Any) -> Callable[[Array], Array]:
    """Returns F(x; batch)."""
    if data.rows is None:
        return lambda x: 0.5 * (data.curvature * jnp.square(x - batch)).sum()
    return lambda x: _logistic(x, batch, data.penalty)


def snapshot(data: Data, key: Array, size: int) -> Callable[[Array], Array]:
    """Returns the loss that a snapshot of ZO-SVRG has: of all rows, or many batches."""
    if data.rows is not None:
        return loss(data, data.rows)
    draws = jax.vmap(lambda k: batch(data, k, size))(
        jax.random.split(key, SNAPSHOT_BATCHES)
    )
    return lambda x: jax.vmap(lambda z: loss(data, z)(x))(draws).mean()


def snapshot_cost(data: Data, size: int) -> int:
    """Returns what a value of `snapshot` costs, in queries of a mini-batch."""
    return SNAPSHOT_BATCHES if data.rows is None else -(-len(data.rows) // size)


def _logistic(x: Array, rows: Array, penalty: Array) -> Array:
    square = jnp.square(x)
    return jax.nn.softplus(-(rows @ x)).mean() + penalty * (square / (1 + square)).sum()


def measured(data: Data, x: Array) -> Array:
    """Returns f(x) - f*, or ||grad f(x)||^2."""
    rows = data.rows
    if rows is None:
        return 0.5 * (data.curvature * jnp.square(x)).sum()

    def f(x: Array) -> Array:
        return _logistic(x, rows, data.penalty)

    value, grad = jax.value_and_grad(f)(x)
    return jnp.where(data.is_square, jnp.square(grad).sum(), value - data.least)
