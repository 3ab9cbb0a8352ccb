"""Numbers with a proven error: numpy float64 arrays and radii, rounded outward.

A `Ball` holds every real array within `rad` of `mid`, element by element. Operations
add what their own rounding can do (Higham, Accuracy and Stability of Numerical
Algorithms, chapter 3): a sum of n products in any order, fused or not, is off by at
most gamma(n) times the sum of their absolute values. Radii are computed in floating
point too and then grown by more than that can have lost.
"""

from typing import NamedTuple

import numpy as np

UNIT = 2.0**-53
"""The unit roundoff of float64."""
TINY = 1e-290
"""More than what underflow, gradual or not, can lose in 1e15 operations."""


class Ball(NamedTuple):
    """Every array within `rad` of `mid`.

    Attributes:
      mid: float64, any shape.
      rad: float64 of that shape, >= 0; NaN in either contains everything.
    """

    mid: np.ndarray
    rad: np.ndarray


def exact(values: np.ndarray) -> Ball:
    """Returns the ball of numbers that float64 holds exactly."""
    mid = np.asarray(values, np.float64)
    return Ball(mid, np.zeros_like(mid))


def grow(radius: np.ndarray, n: int = 1) -> np.ndarray:
    """Returns at least the true value of a nonnegative result of `n` roundings."""
    return radius * (1 + 4 * (n + 8) * UNIT) + TINY


def gamma(n: int) -> float:
    """Returns at least n u / (1 - n u), for n below 1e13."""
    return 1.01 * (n + 2) * UNIT


def ends(ball: Ball) -> tuple[np.ndarray, np.ndarray]:
    """Returns a lower and an upper bound of the numbers of a ball."""
    low = np.nextafter(ball.mid - ball.rad, -np.inf)
    return low, np.nextafter(ball.mid + ball.rad, np.inf)


def between(lower: np.ndarray, upper: np.ndarray) -> Ball:
    """Returns a ball that contains all numbers between two bounds."""
    mid = 0.5 * lower + 0.5 * upper
    return Ball(mid, grow(np.maximum(np.maximum(upper - mid, mid - lower), 0.0)))


def add(a: Ball, b: Ball) -> Ball:
    """Returns the sum; shapes broadcast."""
    mid = a.mid + b.mid
    return Ball(mid, grow(a.rad + b.rad + 2 * UNIT * np.abs(mid), 3))


def multiply(a: Ball, b: Ball) -> Ball:
    """Returns the elementwise product; shapes broadcast."""
    mid = a.mid * b.mid
    size_a, size_b = np.abs(a.mid), np.abs(b.mid)
    rad = size_a * b.rad + a.rad * size_b + a.rad * b.rad + 2 * UNIT * np.abs(mid)
    return Ball(mid, grow(rad, 8))


def negate(a: Ball) -> Ball:
    """Returns -a, exactly."""
    return Ball(-a.mid, a.rad)


def reciprocal(a: Ball) -> Ball:
    """Returns 1 / a; NaN where `a` may be zero."""
    low, high = ends(a)
    apart = (low > 0) | (high < 0)
    low, high = (np.where(apart, end, np.nan) for end in (low, high))
    return between(np.nextafter(1 / high, -np.inf), np.nextafter(1 / low, np.inf))


def matmul(a: Ball, b: Ball) -> Ball:
    """Returns the matrix product of [.., m, k] and [.., k, n]."""
    k = a.mid.shape[-1]
    size = np.abs(a.mid)
    rad = (a.rad + gamma(k) * size) @ np.abs(b.mid)
    if b.rad.any():
        rad = rad + (size + a.rad) @ b.rad
    return Ball(a.mid @ b.mid, grow(rad, 2 * k + 8))


def dot(a: Ball, b: Ball) -> Ball:
    """Returns the inner products [S] of rows [S, n] with rows [S or 1, n]."""
    n = a.mid.shape[-1]
    one = b.mid.shape[0] == 1
    size_a, size_b = np.abs(a.mid), np.abs(b.mid)

    def inner(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return x @ y[0] if one else np.einsum("sn,sn->s", x, y)

    rad = inner(a.rad + gamma(n) * size_a, size_b)
    if b.rad.any():
        rad = rad + inner(size_a + a.rad, b.rad)
    return Ball(inner(a.mid, b.mid), grow(rad, 2 * n + 8))
