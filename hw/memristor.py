"""The arithmetic of memristor crossbars: conductances in pairs (1908.10017).

A weight of 8 bits is a sign and 7 bits, the low 4 and the high 3 in a cell each, as
conductances between those of the largest and the smallest resistance. A pair of
columns makes the sign; what a cell of 0 conducts cancels in the pair.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from core.errors import InputError, describe
from core.types import Array


class Crossbar(NamedTuple):
    """What is known of an array of cells.

    Attributes:
      rows: of an array.
      cell_bits: of a cell.
      r_on: the smallest resistance, in ohm.
      r_off: the largest resistance, in ohm.
      noise: deviation of the logarithm of a conductance when it is written.
      drift: exponent of (time / 1 s)^-drift in every conductance, on average.
      drift_spread: deviation of that exponent from cell to cell.
      adc_bits: of a converter of a column's current; 0 for an exact one.
    """

    rows: int = 128
    cell_bits: int = 4
    r_on: float = 1e6
    r_off: float = 1e7
    noise: float = 0.0
    drift: float = 0.0
    drift_spread: float = 0.0
    adc_bits: int = 0

    @property
    def levels(self) -> int:
        """Values of a cell."""
        return 2**self.cell_bits


def to_conductance(w: Array, xbar: Crossbar) -> Array:
    """Returns conductances of integer weights, in siemens.

    Args:
      w: whole numbers of at most levels^2 - 1 in size as floats, [k, n].
      xbar: whose cells they are.

    Returns:
      Float [2, 2, k, n]: the positive and the negative column, the low and the high
      cell of each.

    Raises:
      InputError: a weight that two cells do not hold.
    """
    if not isinstance(w, Tracer) and jnp.abs(w).max() >= xbar.levels**2:
        wanted = f"at most {xbar.levels**2 - 1}"
        raise InputError(describe(f"a weight of size {jnp.abs(w).max()}", wanted))
    size = jnp.abs(w)
    high = jnp.floor(size / xbar.levels)
    cells = jnp.stack([size - high * xbar.levels, high])
    sides = (w[None] > 0, w[None] < 0)
    pair = jnp.stack([jnp.where(side, cells, 0.0) for side in sides])
    least, most = 1 / xbar.r_off, 1 / xbar.r_on
    return least + pair * (most - least) / (xbar.levels - 1)


def from_conductance(g: Array, xbar: Crossbar) -> Array:
    """Returns the weights that conductances stand for, [k, n]; not rounded."""
    least, most = 1 / xbar.r_off, 1 / xbar.r_on
    cells = (g - least) * (xbar.levels - 1) / (most - least)
    counts = jnp.asarray([1.0, xbar.levels], g.dtype).reshape(1, 2, 1, 1)
    sides = (cells * counts).sum(1)
    return sides[0] - sides[1]


def age(g: Array, key: Array, xbar: Crossbar, seconds: float = 1.0) -> Array:
    """Returns conductances as they were written, some time later.

    Args:
      g: as they should be, in siemens.
      key: of the cells.
      xbar: whose cells they are.
      seconds: since they were written, at least 1.
    """
    first, second = jax.random.split(key)
    written = g * jnp.exp(xbar.noise * jax.random.normal(first, g.shape, g.dtype))
    spread = xbar.drift_spread * jax.random.normal(second, g.shape, g.dtype)
    return written * jnp.asarray(seconds, g.dtype) ** -(xbar.drift + spread)


def crossbar_matmul(
    x: Array, w: Array, xbar: Crossbar, key: Array, seconds: float = 1.0
) -> Array:
    """Returns the product of inputs and integer weights as crossbars compute it.

    Backwards it is the exact product. Without noise, drift and converters it is exact
    forwards too, to the rounding of float32.

    Args:
      x: [m, k].
      w: whole numbers as floats, [k, n].
      xbar: the crossbars.
      key: of the cells.
      seconds: since they were written.
    """
    k, n = w.shape
    cells = age(to_conductance(lax.stop_gradient(w), xbar), key, xbar, seconds)
    tiles = -(-k // xbar.rows)
    pad = tiles * xbar.rows - k
    parts = jnp.pad(x, ((0, 0), (0, pad))).reshape(len(x), tiles, xbar.rows)
    # A row that is not used is not driven.
    cells = jnp.pad(cells, ((0, 0), (0, 0), (0, pad), (0, 0)))
    cells = cells.reshape(2, 2, tiles, xbar.rows, n)
    currents = jnp.einsum("mtr,sctrn->sctmn", parts, cells)
    differences = currents[0] - currents[1]  # what a cell of 0 conducts cancels
    unit = (1 / xbar.r_on - 1 / xbar.r_off) / (xbar.levels - 1)
    sums = differences / unit
    if xbar.adc_bits:
        top = 2 ** (xbar.adc_bits - 1) - 1
        most = jnp.abs(sums).max(axis=(1, 2, 3), keepdims=True)
        step = jnp.maximum(most, 1e-12) / top
        sums = jnp.round(sums / step) * step
    counts = jnp.asarray([1.0, xbar.levels], x.dtype).reshape(2, 1, 1, 1)
    found = (sums * counts).sum((0, 1))
    exact = x @ w
    return exact + lax.stop_gradient(found - exact)
