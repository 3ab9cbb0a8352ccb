"""The arithmetic of memristor crossbars: conductances in pairs (1908.10017).

A weight is a sign and a magnitude, which is spread over cells of a few bits each, as
conductances between those of the largest and the smallest resistance. A pair of columns
makes the sign; what a cell of 0 conducts cancels in the pair. Rows are driven by one
bit of the inputs after another, and the columns' sums are converted for each.
"""

import math
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from core.errors import InputError, check_range, describe
from core.types import Array, ArrayLike


class Cells(Protocol):
    """What conductances need to know of a crossbar."""

    @property
    def cell_bits(self) -> int:
        """Bits of a cell."""
        ...

    @property
    def r_on(self) -> float:
        """The smallest resistance, in ohm."""
        ...

    @property
    def r_off(self) -> float:
        """The largest resistance, in ohm."""
        ...


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
      adc_bits: of a converter of the difference of a pair; 0 for an exact one.
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


def cells(bits: ArrayLike, cell_bits: ArrayLike, polarity: ArrayLike = 2) -> ArrayLike:
    """Returns the cells of a weight: those of its magnitude, for each sign.

    Args:
      bits: of a weight, its sign among them; whole numbers, at least 2.
      cell_bits: of a cell.
      polarity: columns for the sign: 2 for a pair.
    """
    if isinstance(bits, int) and isinstance(cell_bits, int):
        return polarity * max(math.ceil((bits - 1) / cell_bits), 1)
    magnitude = jnp.maximum(jnp.asarray(bits) - 1.0, 1.0)
    return polarity * jnp.ceil(magnitude / cell_bits)


def unit_conductance(xbar: Cells) -> float:
    """Returns the conductance of one unit of a cell's value, in siemens."""
    return (1 / xbar.r_on - 1 / xbar.r_off) / (2**xbar.cell_bits - 1)


def to_conductance(w: Array, xbar: Cells, bits: int = 8) -> Array:
    """Returns conductances of integer weights, in siemens.

    Args:
      w: whole numbers of at most 2^(bits - 1) - 1 in size as floats, [k, n].
      xbar: whose cells they are.
      bits: of a weight, its sign among them.

    Returns:
      Float [2, cells, k, n]: the positive and the negative column, the lowest cell of
      each first.

    Raises:
      InputError: fewer bits than 2, or a weight that has more.
    """
    check_range("bits", bits, 2)
    if not isinstance(w, Tracer) and jnp.abs(w).max() >= 2 ** (bits - 1):
        wanted = f"at most {2 ** (bits - 1) - 1}"
        raise InputError(describe(f"a weight of size {jnp.abs(w).max()}", wanted))
    size, levels = jnp.abs(w), 2**xbar.cell_bits
    count = cells(bits, xbar.cell_bits, 1)
    places = [jnp.floor(size / levels**i) % levels for i in range(count)]  # type: ignore[arg-type]
    digits = jnp.stack(places)
    sides = (w[None] > 0, w[None] < 0)
    pair = jnp.stack([jnp.where(side, digits, 0.0) for side in sides])
    return 1 / xbar.r_off + pair * unit_conductance(xbar)


def from_conductance(g: Array, xbar: Cells) -> Array:
    """Returns the weights that conductances stand for, [k, n]; not rounded."""
    found = (g - 1 / xbar.r_off) / unit_conductance(xbar)
    return jnp.tensordot(_places(g, xbar), found[0] - found[1], 1)


def _places(g: Array, xbar: Cells) -> Array:
    """What a unit of each cell counts for, [cells]."""
    return jnp.asarray([2.0 ** (xbar.cell_bits * i) for i in range(g.shape[1])])


def age(g: Array, key: Array, xbar: Crossbar, seconds: ArrayLike = 1.0) -> Array:
    """Returns conductances as they were written, some time later.

    Args:
      g: as they should be, in siemens.
      key: of the cells.
      xbar: whose cells they are.
      seconds: since they were written, at least 1.
    """
    # Drawn flat: XLA takes ten times as long to compile draws of several axes.
    draws = jax.random.normal(key, (2 * g.size,), g.dtype).reshape(2, *g.shape)
    written = g * jnp.exp(xbar.noise * draws[0])
    spread = xbar.drift_spread * draws[1]
    return written * jnp.asarray(seconds, g.dtype) ** -(xbar.drift + spread)


def multiply(x: Array, g: Array, xbar: Cells) -> Array:
    """Returns x @ weights from the currents of columns, with exact converters.

    Args:
      x: voltages, [..., k].
      g: conductances of `to_conductance` or `age`, [2, cells, k, n].
      xbar: whose cells they are.

    Returns:
      [..., n], in units of the weights' integers.
    """
    currents = jnp.einsum("...k,sckn->sc...n", x, g)
    pair = (currents[0] - currents[1]) / unit_conductance(xbar)
    return jnp.tensordot(_places(g, xbar), pair, 1)


def crossbar_matmul(
    x: Array,
    w: Array,
    xbar: Crossbar,
    key: Array,
    seconds: ArrayLike = 1.0,
    *,
    bits: int = 8,
    input_bits: int = 8,
    full_scale: ArrayLike = 1.0,
) -> Array:
    """Returns the product of inputs and integer weights as crossbars compute it.

    A bit of the inputs drives the rows at a time; every array's column pairs are
    converted for each bit, over a range that is the same for all inputs. Backwards it
    is the exact product. Without noise, drift and converters it is exact forwards too,
    to the rounding of float32.

    Args:
      x: whole numbers of 0 to 2^input_bits - 1 as floats, [m, k].
      w: whole numbers as floats, [k, n].
      xbar: the crossbars.
      key: of the cells.
      seconds: since they were written.
      bits: of a weight, its sign among them.
      input_bits: of an input; a read for each.
      full_scale: of the converters, a share of the largest difference of a pair, [];
        see `fit_full_scale`.
    """
    written = to_conductance(lax.stop_gradient(w), xbar, bits)
    g = age(written, key, xbar, seconds)
    if xbar.adc_bits:
        found = _converted(lax.stop_gradient(x), g, xbar, input_bits, full_scale)
    else:  # sums of bits are the inputs' where nothing is rounded
        found = multiply(lax.stop_gradient(x), g, xbar)
    exact = x @ w
    return exact + lax.stop_gradient(found - exact)


def _tiled(x: Array, g: Array, xbar: Crossbar) -> tuple[Array, Array]:
    """Inputs [m, arrays, rows] and conductances [2, cells, arrays, rows, n]."""
    k = x.shape[1]
    tiles = -(-k // xbar.rows)
    pad = tiles * xbar.rows - k
    parts = jnp.pad(x, ((0, 0), (0, pad))).reshape(len(x), tiles, xbar.rows)
    # A row that is not used is not driven.
    held = jnp.pad(g, ((0, 0), (0, 0), (0, pad), (0, 0)))
    return parts, held.reshape(*g.shape[:2], tiles, xbar.rows, g.shape[-1])


def _sums(bit: Array, held: Array, xbar: Crossbar) -> Array:
    """Differences of column pairs for a bit of the inputs, [cells, arrays, m, n]."""
    pair = (held[0] - held[1]) / unit_conductance(xbar)
    return jnp.einsum("mtr,ctrn->ctmn", bit, pair)


def _converted(
    x: Array, g: Array, xbar: Crossbar, input_bits: int, full_scale: ArrayLike
) -> Array:
    """The product with every difference of a pair rounded by its converter, [m, n]."""
    parts, held = _tiled(x, g, xbar)
    top = 2 ** (xbar.adc_bits - 1) - 1
    step = xbar.rows * (xbar.levels - 1) * jnp.asarray(full_scale, x.dtype) / top
    places = _places(g, xbar).reshape(-1, 1, 1, 1)

    def read(total: Array, place: Array) -> tuple[Array, None]:
        bit = jnp.floor(parts / place) % 2.0
        codes = jnp.clip(jnp.round(_sums(bit, held, xbar) / step), -top, top)
        return total + place * (places * codes * step).sum((0, 1)), None

    start = jnp.zeros((len(x), g.shape[-1]), x.dtype)
    return lax.scan(read, start, 2.0 ** jnp.arange(input_bits, dtype=x.dtype))[0]


def fit_full_scale(
    x: Array,
    w: Array,
    xbar: Crossbar,
    *,
    bits: int = 8,
    input_bits: int = 8,
    quantile: float = 0.999,
) -> Array:
    """Returns the share of the converters' range that the sums of a layer need, [].

    Args:
      x: inputs of calibration, [m, k], as of `crossbar_matmul`.
      w: whole numbers as floats, [k, n].
      xbar: the crossbars.
      bits: of a weight.
      input_bits: of an input.
      quantile: of the sums' sizes that converters shall not cut off.
    """
    parts, held = _tiled(x, to_conductance(w, xbar, bits), xbar)
    digits = [jnp.floor(parts / 2.0**i) % 2.0 for i in range(input_bits)]
    sums = jnp.stack([jnp.abs(_sums(bit, held, xbar)) for bit in digits])
    found = jnp.quantile(sums, quantile) / (xbar.rows * (xbar.levels - 1))
    return jnp.clip(found, 1 / 256, 1.0)
