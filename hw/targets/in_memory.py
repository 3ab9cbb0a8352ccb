"""Products within memories: the CAP-RAM macro, memristor crossbars.

Their arithmetic, with converters and noise, is in `hw.capram` and `hw.memristor`.
"""

import jax.numpy as jnp

from core.types import ArrayLike
from hw.constants import target, unit
from hw.cost import Terms
from hw.workload import Workload


@target()
class CapRam:
    """An SRAM macro that adds products as charge (arXiv 2107.02388).

    A cycle adds `clusters` products in each of `columns` columns; weights take a column
    for each plane of bits, inputs a cycle for each digit.
    """

    name: str
    origins: tuple[tuple[str, str, str], ...]
    clusters: ArrayLike = unit("1", "products that a column adds at a time")
    columns: ArrayLike = unit("1", "columns")
    cells: ArrayLike = unit("1", "cells, of a bit each")
    clock: ArrayLike = unit("Hz", "cycles of the macro")
    cells_per_bit: ArrayLike = unit("1", "cells of a bit of the weights")
    conversions: ArrayLike = unit("1", "conversions of a sum")
    input_bits: ArrayLike = unit("bits", "of a digit of the inputs")
    cycle_j: ArrayLike = unit("J", "of a cycle with all clusters and columns")
    fixed: ArrayLike = unit("1", "share of a cycle's energy that does not scale")
    load_bits: ArrayLike = unit("bits", "that are written in a cycle")
    area: ArrayLike = unit("mm2", "of the macro")
    static: ArrayLike = unit("W", "power that is drawn whatever happens")

    @property
    def peak_ops(self) -> ArrayLike:
        """Operations a second at best; a multiply-accumulate of a stored bit is two."""
        return 2.0 * self.clusters * self.columns * self.clock

    def terms(self, workload: Workload) -> Terms:
        """Returns what the rows of a workload take."""
        w = workload
        product = w.is_product
        k = w.k * w.density  # pruned inputs are left out of the columns
        groups = jnp.ceil(k / self.clusters)
        planes = w.weight_bits * self.cells_per_bit
        wide = w.n * planes
        digits = jnp.maximum(w.input_bits / self.input_bits, 1.0)
        cycles = w.calls * w.groups * w.m * groups * jnp.ceil(wide / self.columns)
        cycles = cycles * digits * self.conversions
        cells = w.copies * w.groups * k * w.n * planes
        total = jnp.sum(jnp.where(product, cells, 0.0))
        # What does not fit is written again in every run.
        loads = jnp.where(total > self.cells, cells, 0.0) / self.load_bits
        filled = k / (jnp.maximum(groups, 1.0) * self.clusters)
        columns = jnp.ceil(wide / self.columns) * self.columns
        used = filled * wide / jnp.maximum(columns, 1.0)
        spent = cycles * self.cycle_j * (self.fixed + (1 - self.fixed) * used)
        return Terms(
            seconds={
                "macro": jnp.where(product, cycles, 0.0) / self.clock,
                "loading": jnp.where(product, loads, 0.0) / self.clock,
            },
            overhead=jnp.zeros_like(cycles),
            joules={"macro": jnp.where(product, spent, 0.0)},
            static_w=self.static,
            used={"cells": total, "area_mm2": self.area},
            limits={"cells": self.cells},
        )


@target()
class Memristor:
    """Crossbars of resistive cells, with converters at their edges (1908.10017).

    All weights are programmed once, each matrix on as many arrays as it takes; a
    position of a layer is one read of its arrays for each bit of its inputs.
    """

    name: str
    origins: tuple[tuple[str, str, str], ...]
    rows: ArrayLike = unit("1", "rows of an array")
    columns: ArrayLike = unit("1", "columns of an array")
    cell_bits: ArrayLike = unit("bits", "of a cell")
    polarity: ArrayLike = unit("1", "columns for the sign: 2 for a pair")
    adc_share: ArrayLike = unit("1", "columns that share a converter")
    read: ArrayLike = unit("s", "of an array for one bit of inputs")
    input_bits: ArrayLike = unit("bits", "that a row's driver converts at a time")
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
        side = jnp.sqrt(w.density)
        k, n = w.k * side, w.n * side
        wide = n * self.polarity * w.weight_bits / self.cell_bits
        tiles = jnp.ceil(k / self.rows) * jnp.ceil(wide / self.columns)
        tiles = jnp.where(product, tiles * w.groups * w.copies, 0.0)
        adcs = self.columns / self.adc_share
        passes = jnp.maximum(w.input_bits / self.input_bits, 1.0) * self.adc_share
        reads = w.calls / w.copies * w.m * passes
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
            used={
                "arrays": jnp.sum(tiles),
                "area_mm2": jnp.sum(tiles) * one,
                "peak_w": jnp.sum(tiles * power),
            },
            limits={"arrays": self.arrays},
        )
