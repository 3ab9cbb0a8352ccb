"""Memristor crossbars: how many arrays layers take, and counts that fill them.

A layer's GEMM (rows are inputs, columns filters) is cut into arrays of rows x columns.
A weight is an integer; its magnitude is spread over cells of a few bits each, side by
side, and its sign over a pair of columns (arXiv 1908.10017). What they compute is
`hw.memristor`'s. Areas are relative: no unit of them is known.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import NamedTuple

import quant
from core.errors import InputError, check_range, describe
from core.gemm import gemm_shape
from hw import memristor


@dataclasses.dataclass(frozen=True)
class Layout:
    """The size of an array of memristors, and areas.

    Attributes:
      rows: inputs of an array.
      cols: cells side by side.
      cell_bits: bits that a cell holds.
      adc_share: columns that share a converter.
      adc_area: of a converter, over that of an array's cells and peripherals.
      dac_area: of a row's driver, likewise.
    """

    rows: int = 128
    cols: int = 64
    cell_bits: int = 4
    adc_share: int = 8
    adc_area: float = 30.0
    dac_area: float = 0.1

    def __post_init__(self):
        for name in ("rows", "cols", "cell_bits", "adc_share"):
            check_range(name, getattr(self, name), 1)

    def cells(self, bits: int) -> int:
        """Returns the cells of a weight: its magnitude's, in each of the pair."""
        check_range("bits", bits, 2)
        return int(memristor.cells(bits, self.cell_bits))

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
    shapes: Iterable[tuple[int, ...]], bits: int, layout: Layout | None = None
) -> Arrays:
    """Returns the arrays that kernels take, layer by layer, incomplete ones whole.

    Args:
      shapes: of kernels in flax layout; with an axis of 0 there is no layer.
      bits: of a weight.
      layout: of an array.
    """
    layout = layout or Layout()
    across = layout.weights_across(bits)
    count, weights = 0, 0
    for shape in shapes:
        view = gemm_shape(shape)
        count += math.ceil(view.rows / layout.rows) * math.ceil(view.cols / across)
        weights += view.rows * view.cols
    held = count * layout.rows * layout.cols
    used = weights * layout.cells(bits) / held if held else 0.0
    each = (
        1
        + layout.rows * layout.dac_area
        + layout.cols / layout.adc_share * layout.adc_area
    )
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
    shape: tuple[int, ...], density: float, bits: int, layout: Layout | None = None
) -> Kept:
    """Returns counts of rows and filters that fill whole arrays, near a density.

    Crossbar-aware structured pruning: an array that holds one row is paid in full. Both
    sides keep about sqrt(density), to the nearest multiple of what an array holds, at
    least one array; a side that is not longer than that stays as it is.

    Args:
      shape: of a kernel in flax layout.
      density: the share of weights to keep, above 0.
      bits: of a weight.
      layout: of an array.
    """
    check_range("density", density, 0.0, 1.0, low_open=True)
    layout = layout or Layout()
    view = gemm_shape(shape)

    def near(size: int, unit: int, share: float) -> int:
        whole = max(round(share * size / unit), 1) * unit
        # All of a side may be nearer than whole arrays of it.
        return min(size, whole) if size - share * size > unit / 2 else size

    across = layout.weights_across(bits)
    filters = near(view.cols, across, math.sqrt(density))
    # What the filters could not give, rows do.
    rest = min(1.0, density * view.cols / filters)
    return Kept(near(view.rows, layout.rows, rest), filters)
