"""Products within memories: the CAP-RAM macro, memristor crossbars.

Their arithmetic, with converters and noise, is in `hw.capram` and `hw.memristor`.
"""

import jax.numpy as jnp

from core.types import Array, ArrayLike
from hw import memristor, smooth
from hw.constants import target, unit
from hw.cost import Terms
from hw.targets.base import Hardware
from hw.workload import Workload


@target()
class CapRam(Hardware):
    """An SRAM macro that adds products as charge (arXiv 2107.02388).

    A cycle adds `clusters` products in each of `columns` columns; weights take a column
    for each plane of bits, inputs a cycle for each digit. Products of data by data are
    not priced: cells hold weights.
    """

    clusters: ArrayLike = unit("1", "products that a column adds at a time")
    columns: ArrayLike = unit("1", "columns")
    cells: ArrayLike = unit("1", "cells, of a bit each")
    clock: ArrayLike = unit("Hz", "cycles of the macro")
    cells_per_bit: ArrayLike = unit("1", "cells of a bit of the weights")
    conversions: ArrayLike = unit("1", "conversions of a sum")
    digit_bits: ArrayLike = unit("bits", "of a digit of the inputs")
    cycle_j: ArrayLike = unit("J", "of a cycle with all clusters and columns")
    fixed: ArrayLike = unit("1", "share of a cycle's energy that does not scale")
    load_bits: ArrayLike = unit("bits", "that are written in a cycle")
    load_j: ArrayLike = unit("J/bit", "of writing a cell")
    area: ArrayLike = unit("mm2", "of the macro")
    static: ArrayLike = unit("W", "power that is drawn whatever happens")

    @property
    def peak_ops(self) -> ArrayLike:
        """Operations a second at best; a multiply-accumulate of a stored bit is two."""
        return 2.0 * self.clusters * self.columns * self.clock

    def terms(self, workload: Workload) -> Terms:
        """Returns what the rows of a workload take."""
        w = workload
        product = w.mask("matmul", "conv", "depthwise")
        k = w.k * self.time_share(w)  # removed inputs are left out of the columns
        groups = smooth.pieces(k, w.k, self.clusters)
        wide = w.n * w.weight_bits * self.cells_per_bit
        rounds = smooth.between(
            lambda b: jnp.ceil(w.n * b * self.cells_per_bit / self.columns),
            w.weight_bits,
        )
        digits = smooth.between(lambda b: jnp.ceil(b / self.digit_bits), w.input_bits)
        cycles = w.calls * w.groups * w.m * groups * rounds * digits * self.conversions
        cells = w.copies * w.groups * k * wide
        total = jnp.sum(jnp.where(product, cells, 0.0))
        # What does not fit is written again in every run, while nothing is computed.
        loads = jnp.where(product, cells, 0.0) * smooth.beyond(total, self.cells)
        filled = k / (groups * self.clusters)
        used = filled * wide / jnp.maximum(rounds * self.columns, 1.0)
        used = jnp.minimum(used, 1.0)
        spent = cycles * self.cycle_j * (self.fixed + (1 - self.fixed) * used)
        return Terms(
            seconds={
                "macro": jnp.where(product, cycles + loads / self.load_bits, 0.0)
                / self.clock
            },
            overhead=jnp.zeros_like(cycles),
            joules={
                "macro": jnp.where(product, spent, 0.0),
                "writes": loads * self.load_j,
            },
            static_w=self.static,
            moved=loads / 8.0,
            bandwidth=self.load_bits / 8.0 * self.clock,
            priced=product,
            used={"cells": total, "area_mm2": self.area},
            limits={"cells": self.cells},
        )


@target()
class Memristor(Hardware):
    """Crossbars of resistive cells, with converters at their edges (1908.10017).

    All weights are programmed once, each matrix on as many arrays as it takes; a
    position of a layer is one read of its arrays for each bit of its inputs. Products
    of data by data are not priced: nothing is programmed for them.
    """

    rows: ArrayLike = unit("1", "rows of an array")
    columns: ArrayLike = unit("1", "columns of an array")
    cell_bits: ArrayLike = unit("bits", "of a cell")
    polarity: ArrayLike = unit("1", "columns for the sign: 2 for a pair")
    adc_share: ArrayLike = unit("1", "columns that share a converter")
    read: ArrayLike = unit("s", "of an array for one bit of inputs")
    digit_bits: ArrayLike = unit("bits", "that a row's driver converts at a time")
    array_mm2: ArrayLike = unit("mm2", "area of an array of cells")
    dac_mm2: ArrayLike = unit("mm2", "area of a row's driver")
    adc_mm2: ArrayLike = unit("mm2", "area of a column converter")
    array_w: ArrayLike = unit("W", "power of an array of cells that is read")
    dac_w: ArrayLike = unit("W", "power of a row's driver")
    adc_w: ArrayLike = unit("W", "power of a column converter")
    arrays: ArrayLike = unit("1", "arrays of the chip")
    static: ArrayLike = unit("W", "power that is drawn whatever happens")

    def terms(self, workload: Workload) -> Terms:
        """Returns what the rows of a workload take."""
        w = workload
        product = w.mask("matmul", "conv", "depthwise")
        # Structured pruning shrinks matrices: a share of the rows and of the columns.
        side = jnp.sqrt(self.time_share(w))
        k, n = w.k * side, w.n * side

        def count(bits: Array) -> tuple[Array, Array]:
            """Columns of a weight, and of the weights that an array holds of a row."""
            cells = memristor.cells(bits, self.cell_bits, self.polarity)
            return jnp.asarray(cells), jnp.maximum(jnp.floor(self.columns / cells), 1.0)

        down = smooth.pieces(k, w.k, self.rows)
        across = smooth.between(
            lambda bits: smooth.pieces(n, w.n, count(bits)[1]), w.weight_bits
        )
        tiles = jnp.where(product, down * across * w.groups * w.copies, 0.0)
        wide = n * smooth.between(lambda bits: count(bits)[0], w.weight_bits)
        adcs = self.columns / self.adc_share
        digits = smooth.between(lambda b: jnp.ceil(b / self.digit_bits), w.input_bits)
        reads = w.calls / w.copies * w.m * digits * self.adc_share
        seconds = jnp.where(product, reads * self.read * w.copies, 0.0)
        used = k * wide / (jnp.maximum(tiles, 1.0) * self.rows * self.columns)
        used = jnp.minimum(used * w.groups * w.copies, 1.0)
        power = self.array_w * used + self.dac_w * self.rows + adcs * self.adc_w
        one = self.array_mm2 + self.dac_mm2 * self.rows + adcs * self.adc_mm2
        return Terms(
            seconds={"arrays": seconds},
            overhead=jnp.zeros_like(seconds),
            joules={"arrays": seconds / w.copies * tiles * power},
            static_w=self.static,
            priced=product,
            used={
                "arrays": jnp.sum(tiles),
                "area_mm2": jnp.sum(tiles) * one,
                "peak_w": jnp.sum(tiles * power),
            },
            limits={"arrays": self.arrays},
        )
