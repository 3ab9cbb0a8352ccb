"""Arrays of processing elements for low-bit types (ANT, arXiv 2208.14286).

An 8-bit unit of ANT and of BitFusion splits into four units of 4 bits; the other
designs have units of one width. All arrays are of equal area, buffers and bandwidth.
"""

import jax.numpy as jnp

from core.types import Array, ArrayLike
from hw.constants import target, unit
from hw.cost import Terms
from hw.workload import Workload


@target()
class AntArray:
    """An output-stationary array whose units have one width, or split into four."""

    name: str
    origins: tuple[tuple[str, str, str], ...]
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
        compute = w.calls * w.groups * down * across * w.k / speed
        size_w, size_a = 8 * w.weight_bytes, w.inputs * w.input_bits
        # What does not fit its buffer comes again for each tile of the other one.
        again_w = jnp.where(size_w / 8 <= self.weight_buffer, 1.0, down)
        again_a = jnp.where(size_a / 8 <= self.input_buffer, 1.0, across)
        cheaper = jnp.minimum(again_w * size_w + size_a, size_w + again_a * size_a)
        moved = w.calls * (cheaper + w.outputs * w.output_bits)
        # A line of operands is read for each cycle of a tile.
        edge = self.rows * w.input_bits + self.columns * w.weight_bits
        near = compute * speed * edge + w.calls * w.outputs * 32.0
        busy = w.macs / (self.rows * self.columns * speed)
        units = self.rows * self.columns
        product = w.is_product
        active = busy * units / self.clock * self.dynamic
        zero = jnp.zeros_like(moved)
        return Terms(
            seconds={
                "compute": jnp.where(product, compute, 0.0) / self.clock,
                "memory": jnp.where(product, moved, 0.0) / self.interface / self.clock,
            },
            overhead=zero,
            joules={
                "core": jnp.where(product, active, 0.0),
                "buffer": jnp.where(product, near, 0.0) * self.near_j,
                "memory": jnp.where(product, moved, 0.0) * self.far_j,
            },
            static_w=units * self.leakage + self.static,
            used={"units": units * (1 + self.decoder_area)},
        )

    def speed(self, bits: Array) -> Array:
        """Returns products of a unit in a cycle: 4 of half its width, 1 of its own.

        Wider numbers take a pass for each pair of parts. It is a power of the width
        between these points, (unit / bits)^2, so that it has a gradient.
        """
        most = jnp.where(jnp.asarray(self.splits) > 0, 4.0, 1.0)
        return jnp.minimum((self.unit_bits / bits) ** 2, most)
