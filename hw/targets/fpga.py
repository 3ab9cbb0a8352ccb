"""FPGAs: DSP slices and LUTs as multipliers, block RAM as tiles.

Three designs: `Fpga`, any mix of the two kinds of multiplier (arXiv 2106.09166); `Msq`,
two cores that share rows between fixed point and sums of two powers (arXiv 2012.04240);
`Esb`, multipliers of a few significant bits from LUTs alone (arXiv 2109.03513).
"""

import itertools

import jax.numpy as jnp

from core.types import Array, ArrayLike
from hw import energy
from hw.constants import replace, target, unit
from hw.cost import Terms
from hw.targets.base import Hardware
from hw.workload import Workload

_TILES = (8.0, 32.0, 128.0, 512.0)
"""Edges of tiles that are tried: our choice."""
_TERMS = 512.0
"""Terms of a sum in a tile at most: our choice."""
_BRAM_BITS = 36_864.0
"""Of a BRAM36 (Xilinx data sheet)."""
_SUM_BITS = 32.0
"""Width of a sum in a tile (2106.09166)."""


@target()
class Fpga(Hardware):
    """DSP slices for fixed point and LUTs for sums of two powers, side by side.

    A row of the workload is split by the share of its outputs that are sums of two
    powers; both parts run at the same time, so the share that fits the device is
    lut / (lut + dsp), see `best_share`. Multipliers are arrays of `inputs` x `outputs`,
    as many as there are, see `array_cycles`.
    """

    dsps: ArrayLike = unit("DSP", "slices of the device")
    luts: ArrayLike = unit("LUT", "look-up tables of the device")
    brams: ArrayLike = unit("BRAM36", "blocks of 36 Kbit")
    clock: ArrayLike = unit("Hz", "of the design")
    inputs: ArrayLike = unit("1", "terms of a sum at a time")
    outputs: ArrayLike = unit("1", "outputs at a time")
    dsp_use: ArrayLike = unit("1", "share of the slices that multiply", 1.0)
    lut_use: ArrayLike = unit("1", "share of the tables that multiply", 1.0)
    share: ArrayLike = unit(
        "1", "share of outputs with sums of two powers, on LUTs", 1.0
    )
    conv: ArrayLike = unit("1", "share of cycles in which products run", 1.0)
    depthwise: ArrayLike = unit(
        "1", "share of multipliers that depthwise layers use", 1.0
    )
    shift_luts: ArrayLike = unit("LUT", "of adding a sum of two shifted inputs")
    bit_luts: ArrayLike = unit("LUT", "of that sum, for a bit of the inputs")
    idle_luts: ArrayLike = unit("1", "share of the tables without multipliers", 1.0)
    reuse: ArrayLike = unit("1", "products for each read of block RAM")
    bandwidth: ArrayLike = unit("B/s", "of the memory")
    far_j: ArrayLike = unit("J/B", "energy of a byte of the memory")
    near_j: ArrayLike = unit("J/B", "energy of a byte of block RAM")
    mac_scale: ArrayLike = unit("1", "energy of a MAC over that at 45 nm, routing too")
    shift_j: ArrayLike = unit("J", "of a sum of two shifted inputs at 45 nm")
    static: ArrayLike = unit("W", "power that is drawn whatever happens")

    def terms(self, workload: Workload) -> Terms:
        """Returns what the rows of a workload take."""
        w = workload
        dsp, lut = self.rates(w.weight_bits, w.input_bits)
        use = jnp.where(w.mask("depthwise"), self.depthwise, self.conv)
        parts = {"dsp": (1 - self.share, dsp), "lut": (self.share, lut)}
        seconds = {}
        for name, (part, rate) in parts.items():
            cycles = array_cycles(self, w, rate / self.clock, part)
            seconds[name] = cycles / (use * self.clock)
        width = jnp.max(jnp.where(w.is_product, _width(w), 0.0))
        least = (
            self.inputs / macs_per_dsp(width),
            self.inputs * self.luts_per_shift(width),
        )
        far, tile_bits = self._tiles(w)
        executed = w.macs * self.executed(w)
        fixed = energy.mac_energy(w.weight_bits, w.input_bits)
        mac_j = (1 - self.share) * fixed + self.share * jnp.minimum(self.shift_j, fixed)
        near = executed * (w.weight_bits + w.input_bits) / 8 / self.reuse
        product = w.is_product
        return Terms(
            seconds={k: jnp.where(product, v, 0.0) for k, v in seconds.items()},
            overhead=jnp.zeros_like(far),
            joules={
                "compute": executed * mac_j * self.mac_scale,
                "bram": jnp.where(product, near, 0.0) * self.near_j,
                "memory": jnp.where(product, far, 0.0) * self.far_j,
            },
            static_w=self.static,
            moved=jnp.where(product, far, 0.0),
            bandwidth=self.bandwidth,
            priced=product,
            used={
                "dsp": jnp.maximum(self.dsps * self.dsp_use, least[0]),
                "lut": jnp.where(
                    self.share > 0,
                    jnp.maximum(self.luts * self.lut_use, least[1]),
                    self.luts * self.idle_luts,
                ),
                "bram": jnp.max(tile_bits) / _BRAM_BITS,
            },
            limits={"dsp": self.dsps, "lut": self.luts, "bram": self.brams},
        )

    def rates(self, weight_bits: Array, input_bits: Array) -> tuple[Array, Array]:
        """Returns multiply-accumulates a second of all DSP slices and of all LUTs."""
        width = jnp.maximum(weight_bits, input_bits)
        dsp = self.dsps * self.dsp_use * macs_per_dsp(width) * self.clock
        lut = self.luts * self.lut_use / self.luts_per_shift(input_bits) * self.clock
        return jnp.asarray(dsp), jnp.asarray(lut)

    def luts_per_shift(self, input_bits: ArrayLike) -> Array:
        """Returns LUTs of a sum of two shifted inputs, and of adding it."""
        return jnp.asarray(self.bit_luts * input_bits + self.shift_luts)

    def best_share(self, weight_bits: ArrayLike, input_bits: ArrayLike) -> Array:
        """Returns the share of outputs on LUTs that keeps both busy, []."""
        dsp, lut = self.rates(jnp.asarray(weight_bits), jnp.asarray(input_bits))
        return lut / (lut + dsp)

    def _tiles(self, w: Workload) -> tuple[Array, Array]:
        """Bytes of memory with the best square tiles that fit, and bits of the tiles.

        Weights come again for every tile of rows and inputs for every tile of columns;
        inputs themselves once, not their windows.
        """
        k = jnp.clip(w.k, 1.0, _TERMS)
        weights, inputs = w.calls * self.stored_bytes(w), w.calls * w.input_bytes
        capacity = self.brams * _BRAM_BITS
        far, bits = jnp.full_like(k, jnp.inf), jnp.zeros_like(k)
        for high, wide in itertools.product(_TILES, _TILES):
            size = high * k * w.input_bits + k * wide * w.weight_bits
            size = 2.0 * (size + high * wide * _SUM_BITS)
            again = jnp.ceil(jnp.maximum(w.m / high, 1.0))
            across = jnp.ceil(jnp.maximum(w.n / wide, 1.0))
            moved = weights * again + inputs * across
            better = (size <= capacity) & (moved < far)
            if (high, wide) == (_TILES[0], _TILES[0]):  # whether it fits or not
                better = jnp.ones_like(better)
            far, bits = jnp.where(better, moved, far), jnp.where(better, size, bits)
        far = far + w.calls * w.output_bytes
        return far, jnp.where(w.is_product, bits, 0.0)


def array_cycles(
    target: "Fpga | Esb", w: Workload, multipliers: Array, share: ArrayLike = 1.0
) -> Array:
    """Returns cycles of products, [rows]; of other rows what has no meaning.

    ceil(k / inputs) max(m ceil(n / outputs) inputs outputs / multipliers, 1) a group:
    the edges of a sum and of the outputs leave multipliers idle (2106.09166), and each
    array takes a position and outputs of its own, as far as there are any. Channels of
    a depthwise layer take the place of outputs; their windows fill arrays by a
    constant.

    Args:
      target: a design with arrays of `inputs` x `outputs` multipliers.
      w: any workload.
      multipliers: of the design, [rows] or [].
      share: of the outputs that they make; a cycle is the least of any.
    """
    deep = w.mask("depthwise")
    terms = w.k / target.inputs
    terms = jnp.where(deep, terms, jnp.ceil(terms))
    outputs = jnp.ceil(jnp.where(deep, w.groups * w.n, w.n) / target.outputs)
    rounds = w.m * outputs * target.inputs * target.outputs / multipliers
    cycles = terms * jnp.maximum(rounds, 1.0) * target.time_share(w)
    least = jnp.where(share > 0, 1.0, 0.0)
    each = jnp.where(deep, 1.0, w.groups)
    return w.calls * each * jnp.maximum(cycles * share, least)


def _width(w: Workload) -> Array:
    return jnp.maximum(w.weight_bits, w.input_bits)


def macs_per_dsp(bits: Array) -> Array:
    """Returns products a DSP slice makes in a cycle: 4, 2, 1 at 4, 8, 16 bits.

    2**(log2(16 / bits)) between; 32-bit floats take 4.5 slices (arXiv 2106.09166).
    """
    width = jnp.clip(bits, 4.0, 32.0)
    exponent = jnp.where(width > 16.0, 2.17, 1.0)
    return (16.0 / width) ** exponent


@target()
class Msq(Hardware):
    """Two matrix cores that share a stream of inputs (arXiv 2012.04240).

    A core of DSP slices for fixed-point rows and one of LUTs for rows of sums of two
    powers, each with `batch x inputs x outputs` multipliers; a layer takes
    ceil(m / batch) ceil(k / inputs) max(ceil(fixed rows / fixed outputs), ceil(sp2 rows
    / sp2 outputs)) cycles.
    """

    batch: ArrayLike = unit("1", "positions at a time")
    inputs: ArrayLike = unit("1", "terms of a sum at a time")
    fixed: ArrayLike = unit("1", "fixed-point outputs at a time")
    sp2: ArrayLike = unit("1", "outputs of sums of two powers at a time")
    share: ArrayLike = unit("1", "share of a layer's outputs that are such sums", 1.0)
    clock: ArrayLike = unit("Hz", "of the design")
    stall: ArrayLike = unit("1", "cycles of a layer over those of the formula")
    dsps: ArrayLike = unit("DSP", "slices of the device")
    luts: ArrayLike = unit("LUT", "look-up tables of the device")
    dsp_pack: ArrayLike = unit("1", "fixed-point multipliers in a slice")
    lut_base: ArrayLike = unit("LUT", "tables of everything else")
    lut_sp2: ArrayLike = unit("LUT", "tables of a unit of shifts and adds")
    bandwidth: ArrayLike = unit("B/s", "of the memory")
    far_j: ArrayLike = unit("J/B", "energy of a byte of the memory")
    mac_scale: ArrayLike = unit("1", "energy of a MAC over that at 45 nm, routing too")
    shift_j: ArrayLike = unit("J", "of a sum of two shifted inputs at 45 nm")
    static: ArrayLike = unit("W", "power that is drawn whatever happens")

    @property
    def peak_ops(self) -> Array:
        """Operations a second at best; a multiply-accumulate is two."""
        outputs = jnp.asarray(self.fixed + self.sp2)
        return jnp.asarray(2.0 * self.batch * self.inputs * outputs * self.clock)

    def best_design(self, use: float = 0.8, step: float = 8.0) -> "Msq":
        """Returns the design with the largest core of LUTs, and its share of outputs.

        The core has the largest multiple of `step` outputs whose LUTs are within `use`
        of the device's (2012.04240's specification; its published designs have fewer).

        Args:
          use: share of the tables that the design may take.
          step: outputs that are added at a time.
        """
        free = use * self.luts - self.lut_base
        units = self.batch * self.inputs * self.lut_sp2
        sp2 = step * jnp.maximum(jnp.floor(free / units / step), 0.0)
        share = sp2 / (sp2 + self.fixed)
        source = f"the largest core within {use:g} of the device's LUTs"
        return replace(self, "design", source, sp2=sp2, share=share)

    def terms(self, workload: Workload) -> Terms:
        """Returns what the rows of a workload take."""
        w = workload
        # Channels of a depthwise layer take the place of outputs, each with its window.
        deep = w.mask("depthwise")
        outputs = jnp.where(deep, w.groups * w.n, w.n)
        terms = jnp.ceil(w.k / self.inputs) * jnp.where(deep, 1.0, w.groups)
        outer = jnp.ceil(w.m / self.batch) * terms
        outer = outer * w.calls * self.stall / self.clock * self.time_share(w)
        rows = jnp.round(outputs * self.share)
        fixed = jnp.ceil((outputs - rows) / jnp.maximum(self.fixed, 1e-6))
        sp2 = jnp.ceil(rows / jnp.maximum(self.sp2, 1e-6))
        product = w.is_product
        far = self.moved_bytes(w)
        fixed_j = energy.mac_energy(w.weight_bits, w.input_bits)
        shifts = jnp.minimum(self.shift_j, fixed_j)
        mac_j = fixed_j * (1 - self.share) + shifts * self.share
        units = self.batch * self.inputs
        return Terms(
            seconds={
                "dsp": jnp.where(product, outer * fixed, 0.0),
                "lut": jnp.where(product, outer * sp2, 0.0),
            },
            overhead=jnp.zeros_like(far),
            joules={
                "compute": w.macs * self.executed(w) * mac_j * self.mac_scale,
                "memory": far * self.far_j,
            },
            static_w=self.static,
            moved=far,
            bandwidth=self.bandwidth,
            priced=product,
            used={
                "dsp": units * self.fixed / self.dsp_pack,
                "lut": self.lut_base + units * self.sp2 * self.lut_sp2,
                "fixed_rows": 1.0 - self.share,
                "sp2_rows": self.share,
            },
            limits={
                "dsp": self.dsps,
                "lut": self.luts,
                # Rows of a kind need a core of that kind.
                "fixed_rows": jnp.where(self.fixed > 0, 1.0, 0.0),
                "sp2_rows": jnp.where(self.sp2 > 0, 1.0, 0.0),
            },
        )


@target()
class Esb(Hardware):
    """Multipliers of significands from LUTs, a shifter and an adder; no DSP slices.

    Numbers are 2^e times a significand of `significant` + 1 bits, with exponents up to
    `largest` (arXiv 2109.03513). The area of a unit follows from both.
    """

    weight_significant: ArrayLike = unit("bits", "significant bits of a weight, k")
    weight_largest: ArrayLike = unit("1", "the largest exponent of a weight, N")
    input_significant: ArrayLike = unit("bits", "significant bits of an input, k")
    input_largest: ArrayLike = unit("1", "the largest exponent of an input, N")
    inputs: ArrayLike = unit("1", "terms of a sum at a time")
    outputs: ArrayLike = unit("1", "outputs at a time")
    fan_in: ArrayLike = unit("1", "terms of a sum that the accumulator holds")
    clock: ArrayLike = unit("Hz", "of the design")
    luts: ArrayLike = unit("LUT", "look-up tables of the device")
    lut_use: ArrayLike = unit("1", "share of the tables in multipliers", 1.0)
    bandwidth: ArrayLike = unit("B/s", "of the memory")
    far_j: ArrayLike = unit("J/B", "energy of a byte of the memory")
    lut_j: ArrayLike = unit("J", "energy of a LUT in a cycle")
    static: ArrayLike = unit("W", "power that is drawn whatever happens")

    @property
    def mac_luts(self) -> Array:
        """LUTs of a multiply-accumulate: product, shift, sum and registers."""
        kw, nw = jnp.asarray(self.weight_significant), self.weight_largest
        ka, na = jnp.asarray(self.input_significant), self.input_largest
        smaller = jnp.minimum(kw + 1, ka + 1)
        product = jnp.where(smaller <= 1, smaller, (kw + 1) * (ka + 1))
        wide = kw + ka + 2
        places = nw + na + 1
        shift = wide * jnp.ceil(jnp.log(places) / jnp.log(4.0) - 1e-6)
        total = wide + nw + na + jnp.ceil(jnp.log2(self.fan_in) - 1e-6)
        exponents = jnp.log2(nw + 2.0) + jnp.log2(na + 2.0)
        return product + shift + total + 2 * exponents

    @property
    def gops_per_klut(self) -> Array:
        """Peak giga-operations a second of 1,000 LUTs."""
        return jnp.asarray(2.0 * self.clock / self.mac_luts * 1e3 / 1e9)

    def terms(self, workload: Workload) -> Terms:
        """Returns what the rows of a workload take."""
        w = workload
        units = self.luts * self.lut_use / self.mac_luts
        product = w.is_product
        far = self.moved_bytes(w)
        compute = array_cycles(self, w, jnp.asarray(units)) / self.clock
        return Terms(
            seconds={"lut": jnp.where(product, compute, 0.0)},
            overhead=jnp.zeros_like(far),
            joules={
                "compute": w.macs * self.executed(w) * self.mac_luts * self.lut_j,
                "memory": far * self.far_j,
            },
            static_w=self.static,
            moved=far,
            bandwidth=self.bandwidth,
            priced=product,
            used={
                "lut": jnp.maximum(
                    self.luts * self.lut_use, self.inputs * self.mac_luts
                )
            },
            limits={"lut": self.luts},
        )
