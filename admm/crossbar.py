"""Memristor crossbars: weights as conductances, how many arrays, what they compute.

A layer's GEMM (rows are inputs, columns filters) is cut into arrays of rows x columns.
A weight is an integer; its magnitude is spread over cells of a few bits each, side by
side, and its sign over a pair of columns whose currents are subtracted (arXiv
1908.10017; the linear map from values to conductances and the pair are the
specification's choice). Areas are relative: no unit of them is known.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp

import quant
from core.errors import InputError, check_range, describe
from core.gemm import gemm_shape
from core.types import Array


@dataclasses.dataclass(frozen=True)
class Crossbar:
    """An array of memristors, a resistor in each cell.

    Attributes:
      rows: inputs of an array.
      cols: cells side by side.
      cell_bits: bits that a cell holds.
      r_on: least resistance, ohms.
      r_off: largest resistance, ohms.
      adc_share: columns that share a converter.
      adc_area: of a converter, over that of an array's cells and peripherals.
      dac_area: of a row's driver, likewise.
    """

    rows: int = 128
    cols: int = 64
    cell_bits: int = 4
    r_on: float = 1e6
    r_off: float = 1e7
    adc_share: int = 8
    adc_area: float = 30.0
    dac_area: float = 0.1

    def __post_init__(self):
        for name in ("rows", "cols", "cell_bits", "adc_share"):
            check_range(name, getattr(self, name), 1)
        check_range("r_on", self.r_on, 0.0, self.r_off, low_open=True)

    @property
    def conductances(self) -> tuple[float, float]:
        """The least and the largest conductance, siemens."""
        return 1 / self.r_off, 1 / self.r_on

    @property
    def step(self) -> float:
        """The conductance of one unit of a cell's value, siemens."""
        low, high = self.conductances
        return (high - low) / (2**self.cell_bits - 1)

    def cells(self, bits: int) -> int:
        """Returns the cells of a weight: its magnitude's, in each of the pair."""
        check_range("bits", bits, 2)
        return 2 * math.ceil((bits - 1) / self.cell_bits)

    def weights_across(self, bits: int) -> int:
        """Returns how many weights of a row an array holds."""
        across = self.cols // self.cells(bits)
        if not across:
            given = f"{self.cells(bits)} cells of a weight in {self.cols} columns"
            raise InputError(describe(given, "an array that holds a weight"))
        return across


def levels(bits: int) -> quant.Uniform:
    """Returns the integers that a weight may have: a magnitude and a sign."""
    return quant.Uniform(bits, symmetric=True)


def program(integers: Array, bits: int, xbar: Crossbar) -> Array:
    """Returns the conductances of weights.

    Args:
      integers: weights [rows, cols], int32, of magnitude up to 2**(bits - 1) - 1.
      bits: of a weight, the sign among them.
      xbar: of the cells.

    Returns:
      Siemens, float32 [2, cells, rows, cols]: positive and negative part, the most
      significant cell first; a weight of 0 has the least conductance in all cells.
    """
    count = xbar.cells(bits) // 2
    parts = jnp.stack([jnp.maximum(integers, 0), jnp.maximum(-integers, 0)])
    base = 2**xbar.cell_bits
    places = [base**i for i in reversed(range(count))]
    digits = jnp.stack([parts // place % base for place in places], 1)
    return xbar.conductances[0] + digits.astype(jnp.float32) * xbar.step


def read(conductances: Array, xbar: Crossbar) -> Array:
    """Returns the integers that conductances stand for, int32 [rows, cols]."""
    low = xbar.conductances[0]
    digits = jnp.round((conductances - low) / xbar.step).astype(jnp.int32)
    return jnp.tensordot(_places(conductances, xbar), digits[0] - digits[1], 1)


def _places(conductances: Array, xbar: Crossbar) -> Array:
    count = conductances.shape[1]
    return jnp.asarray([2 ** (xbar.cell_bits * i) for i in reversed(range(count))])


def matmul(x: Array, conductances: Array, xbar: Crossbar) -> Array:
    """Returns x @ weights in units of the weights' integers, from column currents.

    I = sum_r V_r G_rc for every column; the two columns of a pair are subtracted, which
    takes the least conductance out, and cells are added up by their place.

    Args:
      x: voltages, float [..., rows].
      conductances: as `program` gives them, or with `spread`.
      xbar: of the cells.

    Returns:
      [..., cols].
    """
    currents = jnp.einsum("...r,sdrc->sd...c", x, conductances)
    pair = (currents[0] - currents[1]) / xbar.step
    return jnp.tensordot(_places(conductances, xbar).astype(pair.dtype), pair, 1)


def spread(conductances: Array, key: Array, sigma: float) -> Array:
    """Returns conductances times exp(sigma N(0, 1)): devices differ."""
    check_range("sigma", sigma, 0.0)
    noise = jax.random.normal(key, conductances.shape, conductances.dtype)
    return conductances * jnp.exp(sigma * noise)


class Arrays(NamedTuple):
    """What layers take.

    Attributes:
      count: arrays.
      used: share of their cells that hold a weight.
      area: relative: an array's cells are 1.
      power: relative: area weighted with the share of rows and columns in use.
    """

    count: int
    used: float
    area: float
    power: float


def arrays(
    shapes: Iterable[tuple[int, ...]], bits: int, xbar: Crossbar | None = None
) -> Arrays:
    """Returns the arrays that kernels take, layer by layer, incomplete ones whole.

    Args:
      shapes: of kernels in flax layout; with an axis of 0 there is no layer.
      bits: of a weight.
      xbar: of an array.
    """
    xbar = xbar or Crossbar()
    across = xbar.weights_across(bits)
    count, weights = 0, 0
    for shape in shapes:
        view = gemm_shape(shape)
        count += math.ceil(view.rows / xbar.rows) * math.ceil(view.cols / across)
        weights += view.rows * view.cols
    held = count * xbar.rows * xbar.cols
    used = weights * xbar.cells(bits) / held if held else 0.0
    each = 1 + xbar.rows * xbar.dac_area + xbar.cols / xbar.adc_share * xbar.adc_area
    return Arrays(count, used, count * each, count * each * used)


class Kept(NamedTuple):
    """How much of a kernel to keep.

    Attributes:
      rows: of the GEMM view: "shape" groups.
      filters: columns of it.
    """

    rows: int
    filters: int


def whole_arrays(
    shape: tuple[int, ...], density: float, bits: int, xbar: Crossbar | None = None
) -> Kept:
    """Returns counts of rows and filters that fill whole arrays, near a density.

    Crossbar-aware structured pruning: an array that holds one row is paid in full. Both
    sides keep about sqrt(density), to the nearest multiple of what an array holds, at
    least one array; a side that is not longer than that stays as it is.

    Args:
      shape: of a kernel in flax layout.
      density: the share of weights to keep, above 0.
      bits: of a weight.
      xbar: of an array.
    """
    check_range("density", density, 0.0, 1.0, low_open=True)
    xbar = xbar or Crossbar()
    view = gemm_shape(shape)

    def near(size: int, unit: int, share: float) -> int:
        whole = max(round(share * size / unit), 1) * unit
        # All of a side may be nearer than whole arrays of it.
        return min(size, whole) if size - share * size > unit / 2 else size

    across = xbar.weights_across(bits)
    filters = near(view.cols, across, math.sqrt(density))
    # What the filters could not give, rows do.
    rest = min(1.0, density * view.cols / filters)
    return Kept(near(view.rows, xbar.rows, rest), filters)
