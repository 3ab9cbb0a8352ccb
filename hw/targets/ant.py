"""Arrays of processing elements for low-bit types (ANT, arXiv 2208.14286).

An 8-bit unit of ANT and of BitFusion splits into four units of 4 bits; the other
designs have units of one width. All arrays are of equal area, buffers and bandwidth.
"""

import jax.numpy as jnp

from core.types import Array, ArrayLike
from hw import smooth
from hw.constants import target, unit
from hw.cost import Terms
from hw.targets.base import Hardware
from hw.workload import Workload

SUM_BITS = 32.0
"""Width of a sum that leaves the array: our choice."""


@target()
class AntArray(Hardware):
    """An output-stationary array whose units have one width, or split into four."""

    rows: ArrayLike = unit("1", "rows of units")
    columns: ArrayLike = unit("1", "columns of units")
    unit_bits: ArrayLike = unit("bits", "width of a unit")
    splits: ArrayLike = unit("1", "1 if a unit makes four products of half its width")
    clock: ArrayLike = unit("Hz", "of the array")
    interface: ArrayLike = unit("bits", "from the memory in a cycle")
    weight_buffer: ArrayLike = unit("B", "capacity for weights")
    input_buffer: ArrayLike = unit("B", "capacity for inputs")
    dynamic: ArrayLike = unit("W", "power of a unit that works")
    leakage: ArrayLike = unit("W", "power of a unit whatever it does")
    static: ArrayLike = unit("W", "power of everything else whatever it does")
    near_j: ArrayLike = unit("J/bit", "energy of a bit of the buffers")
    far_j: ArrayLike = unit("J/bit", "energy of a bit of the memory")
    decoder_area: ArrayLike = unit("1", "area of the decoders over that of the units")

    def terms(self, workload: Workload) -> Terms:
        """Returns what the rows of a workload take."""
        w = workload
        speed = self.speed(jnp.maximum(w.weight_bits, w.input_bits))
        down, across = jnp.ceil(w.m / self.rows), jnp.ceil(w.n / self.columns)
        terms = w.k * self.time_share(w)
        compute = w.calls * w.groups * down * across * terms / speed
        size_w, size_a = self.stored_bytes(w), w.input_bytes
        # What does not fit its buffer comes again for each tile of the other one.
        again_w = (down - 1.0) * smooth.beyond(size_w, self.weight_buffer)
        again_a = (across - 1.0) * smooth.beyond(size_a, self.input_buffer)
        again = jnp.minimum(again_w * size_w, again_a * size_a)
        moved = w.calls * (size_w + size_a + again + w.output_bytes)
        # A line of operands is read for each cycle of a tile.
        edge = self.rows * w.input_bits + self.columns * w.weight_bits
        near = compute * speed * edge + w.calls * w.outputs * SUM_BITS
        busy = w.macs * self.executed(w) / (self.rows * self.columns * speed)
        units = self.rows * self.columns
        product = w.is_product
        active = busy * units / self.clock * self.dynamic
        zero = jnp.zeros_like(moved)
        return Terms(
            seconds={"compute": jnp.where(product, compute, 0.0) / self.clock},
            overhead=zero,
            joules={
                "core": jnp.where(product, active, 0.0),
                "buffer": jnp.where(product, near, 0.0) * self.near_j,
                "memory": jnp.where(product, 8.0 * moved, 0.0) * self.far_j,
            },
            static_w=units * self.leakage + self.static,
            moved=jnp.where(product, moved, 0.0),
            bandwidth=self.interface / 8.0 * self.clock,
            priced=product,
            used={"units": units * (1 + self.decoder_area)},
        )

    def speed(self, bits: Array) -> Array:
        """Returns products of a unit in a cycle: 4 of half its width, 1 of its own.

        Wider numbers take a pass for each pair of parts; the passes are exact at whole
        bits.
        """
        splits = jnp.asarray(self.splits) > 0
        part = jnp.where(splits, self.unit_bits / 2.0, self.unit_bits)
        each = jnp.where(splits, 0.25, 1.0)
        return 1.0 / smooth.between(lambda b: each * jnp.ceil(b / part) ** 2, bits)
