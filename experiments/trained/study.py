"""Errors of formats on distributions, at quantiles in place of samples."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

import quant
from core.types import Array
from quant.calibration import LeastError

COUNT = 20_000
"""Quantiles of a distribution."""
INVERSES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = MappingProxyType(
    {
        "uniform": lambda p: 2 * p - 1,
        "normal": special.ndtri,
        "Laplace": lambda p: np.sign(p - 0.5) * -np.log1p(-np.abs(2 * p - 1)),
        "Student t(3)": lambda p: special.stdtrit(3, p),
        "uniform from 0": lambda p: p,
        "half-normal": lambda p: special.ndtri((1 + p) / 2),
        "exponential": lambda p: -np.log1p(-p),
        "log-normal": lambda p: np.exp(special.ndtri(p)),
    }
)
"""The inverse distribution functions."""
SIGNED = ("uniform", "normal", "Laplace", "Student t(3)")
"""Those around 0; the others are not negative."""


def quantiles(name: str, count: int = COUNT) -> np.ndarray:
    """Returns the middles of `count` equal shares of a distribution, rising."""
    return INVERSES[name]((np.arange(count) + 0.5) / count)


def relative_error(levels: np.ndarray, x: np.ndarray) -> float:
    """Returns sum (x - q)**2 / sum x**2 with q the nearest of rising levels."""
    near = levels[np.searchsorted((levels[:-1] + levels[1:]) / 2, x)]
    return float(np.square(x - near).sum() / np.square(x).sum())


def at_share(fmt: quant.Format, x: np.ndarray, share: float) -> float:
    """Returns the relative error where the deviation is a share of the largest level.

    Args:
      fmt: the levels.
      x: quantiles of a distribution around 0.
      share: sigma over the largest level.
    """
    top = np.sqrt(np.square(x).mean()) / share
    return relative_error(fmt.levels / fmt.max * top, x)


def crossings(
    first: quant.Format, second: quant.Format, x: np.ndarray, low: float, high: float
) -> list[float]:
    """Returns the shares of `at_share` at which two formats have equal errors, rising.

    Args:
      first: a format.
      second: another one.
      x: quantiles of a distribution around 0.
      low: the least share that is looked at.
      high: the largest one.
    """

    def gap(share: float) -> float:
        return at_share(first, x, share) - at_share(second, x, share)

    shares = np.linspace(low, high, 49)
    gaps = [gap(share) for share in shares]
    found = []
    for i in np.flatnonzero(np.diff(np.sign(gaps))):
        a, b = shares[i], shares[i + 1]
        for _ in range(20):
            middle = (a + b) / 2
            a, b = (middle, b) if gap(middle) * gaps[i] > 0 else (a, middle)
        found.append(float(a))
    return found


def searched_errors(
    formats: Mapping[str, quant.Format], names: tuple[str, ...], search: LeastError
) -> dict[str, dict[str, float]]:
    """Returns relative errors at the best scale of a search, by name and format.

    Args:
      formats: by title.
      names: of distributions.
      search: of scales.
    """
    rows = jnp.asarray(np.stack([quantiles(n) for n in names]), jnp.float32)
    found = {title: _searched(fmt, search, rows) for title, fmt in formats.items()}
    return {
        name: {title: float(errors[i]) for title, errors in found.items()}
        for i, name in enumerate(names)
    }


@functools.partial(jax.jit, static_argnums=(0, 1))
def _searched(fmt: quant.Format, search: LeastError, rows: Array) -> Array:
    return search.search(rows, fmt)[1] / jnp.mean(jnp.square(rows), 1)
