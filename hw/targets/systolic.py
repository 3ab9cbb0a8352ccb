"""Systolic arrays: dense, with gated zeros, and S2TA with density-bound blocks.

A product is cut into tiles of the array, and each tile takes as many cycles as terms
(output stationary), rows of data (weight stationary) or columns (input stationary)
stream through it, and those in which the array fills and drains (SCALE-Sim, arXiv
1811.02883, equations 1-3). S2TA (arXiv 2107.07983) bounds the non-zeros of every 8
consecutive channels, so that a block takes as many cycles as its bound allows.
"""

from typing import Literal

import jax.numpy as jnp

from core.types import Array, ArrayLike
from hw import patterns, smooth
from hw.constants import target, unit
from hw.cost import Terms
from hw.targets.base import Hardware
from hw.workload import Workload

BLOCK = 8.0
OPERATION_BITS = 8.0
"""Width of the units: `multiply_j` is of such a product."""
PRUNING = 7.0
"""Comparisons that find the largest of a block of 8 (2107.07983)."""
MOST_INPUTS, MOST_WEIGHTS = 5.0, 4.0
"""Non-zeros of a block that S2TA's pruning and its multiplexers can hold."""
Dataflow = Literal["output", "weight", "input"]
Zeros = Literal["dense", "gated", "smt", "s2ta_w", "s2ta_aw"]


@target("dataflow", "zeros")
class Systolic(Hardware):
    """An array of multiply-accumulate units that pass operands to their neighbours.

    `zeros` says what it makes of zeros: 'dense' nothing; 'gated' saves the energy of
    their products; 'smt' packs two streams into one by queues; 's2ta_w' skips bounded
    weights; 's2ta_aw' takes a cycle for each bounded input where weights are bounded
    too. Weights are bounded if their pattern is 'group': `density` is the bound over 8
    then. `input_density` is the bound of inputs for 's2ta_aw', which prunes them
    itself; natural zeros inside of a bound are not known. Elsewhere both are the
    densities themselves.
    """

    dataflow: Dataflow
    zeros: Zeros
    rows: ArrayLike = unit("1", "rows of the array")
    columns: ArrayLike = unit("1", "columns of the array")
    clock: ArrayLike = unit("Hz", "of the array")
    drain: ArrayLike = unit("1", "rows of cycles to drain a tile, of its rows")
    reuse_input: ArrayLike = unit("1", "units that share a register of inputs")
    reuse_weight: ArrayLike = unit("1", "units that share a register of weights")
    multiply_j: ArrayLike = unit("J", "of an 8-bit product")
    add_j: ArrayLike = unit("J", "of an accumulation")
    gate_j: ArrayLike = unit("J", "of a slot whose product is gated")
    register_j: ArrayLike = unit("J/B", "of a byte in the units' registers")
    buffer_j: ArrayLike = unit("J/B", "of a byte of the buffers")
    compare_j: ArrayLike = unit("J", "of a comparison that prunes inputs")
    queue_j: ArrayLike = unit("J", "of a slot of queues ('smt')")
    queue_loss: ArrayLike = unit("1", "share of cycles that full queues cost ('smt')")
    weight_buffer: ArrayLike = unit("B", "capacity for the weights of a layer")
    input_buffer: ArrayLike = unit("B", "capacity for the inputs of a layer")
    bandwidth: ArrayLike = unit("B/s", "of the memory")
    far_j: ArrayLike = unit("J/B", "energy of a byte of the memory")
    static: ArrayLike = unit("W", "power that is drawn whatever happens")

    def terms(self, workload: Workload) -> Terms:
        """Returns what the rows of a workload take."""
        w = workload
        product = w.is_product
        cycles = self.cycles(w)
        bound_w, bound_a = self._bounds(w)
        slots = cycles * self.rows * self.columns
        products = w.macs * self.executed(w)
        if self.zeros != "dense":
            products = products * w.input_density
        products = jnp.minimum(products, slots)
        skips = self.zeros in ("s2ta_w", "s2ta_aw")
        packed_w = stored(bound_w) if skips else jnp.ones_like(bound_w)
        packed_a = stored(bound_a) if self.zeros == "s2ta_aw" else 1.0
        # Slots are as few as the kept inputs already.
        registers = slots * (1.0 / self.reuse_input + packed_w / self.reuse_weight)
        down = jnp.ceil(w.m / self.rows)
        across = jnp.ceil(w.n / self.columns)
        removed = patterns.select(w.pattern, patterns.by_name(filter=1.0))
        left = 1.0 - removed * (1.0 - w.density)
        size_w = w.groups * w.k * w.n * w.weight_bits / 8 * packed_w * left
        # The inputs of a product of data by data are both of its factors.
        size_a = jnp.minimum(w.inputs, w.groups * w.m * w.k)
        size_a = size_a * w.input_bits / 8 * packed_a
        buffers = w.calls * (size_w * down + size_a * across + w.output_bytes)
        kept = BLOCK * bound_a
        pruned = 0.0
        if self.zeros == "s2ta_aw":
            # What bypasses the five stages is compared with nothing.
            found = jnp.minimum(kept, MOST_INPUTS)
            passed = jnp.clip((kept - MOST_INPUTS) / (BLOCK - MOST_INPUTS), 0.0, 1.0)
            pruned = w.outputs / BLOCK * PRUNING * found * (1.0 - passed)
        queues = slots * self.queue_j if self.zeros == "smt" else 0.0
        # What does not fit its buffer comes again for each tile of the other operand.
        again_w = (down - 1.0) * smooth.beyond(size_w, self.weight_buffer)
        again_a = (across - 1.0) * smooth.beyond(size_a, self.input_buffer)
        again = jnp.minimum(again_w * size_w, again_a * size_a)
        far = w.calls * (size_w + size_a + again + w.output_bytes)
        joules = {
            "multiply": products * (self.multiply_j + self.add_j),
            "gated": (slots - products) * self.gate_j,
            "registers": registers * self.register_j + queues,
            "buffers": buffers * self.buffer_j,
            "pruning": w.calls * pruned * self.compare_j,
            "memory": far * self.far_j,
        }
        zero = jnp.zeros_like(far)
        return Terms(
            seconds={"array": jnp.where(product, cycles / self.clock, 0.0)},
            overhead=zero,
            joules={k: jnp.where(product, v, zero) for k, v in joules.items()},
            static_w=self.static,
            moved=jnp.where(product, far, zero),
            bandwidth=self.bandwidth,
            priced=product,
        )

    def cycles(self, workload: Workload) -> Array:
        """Returns the cycles of products, [rows]; of other rows what has no meaning."""
        w = workload
        m, k, n = (jnp.maximum(x, 1.0) for x in (w.m, w.k, w.n))
        rows, columns = self.rows, self.columns
        terms = self._terms(w, k)
        if self.dataflow == "output":
            tiles = jnp.ceil(m / rows) * jnp.ceil(n / columns)
            cycles = tiles * (terms + (1 + self.drain) * rows + columns - 2)
        else:
            streamed, held = (m, n) if self.dataflow == "weight" else (n, m)
            tiles = smooth.pieces(terms, k, rows) * jnp.ceil(held / columns)
            cycles = tiles * (streamed + (1 + self.drain) * rows + columns - 2)
        return w.calls * w.groups * cycles

    def _terms(self, w: Workload, k: Array) -> Array:
        """Cycles of the terms of a sum; removed inputs or outputs leave fewer."""
        removed = patterns.select(w.pattern, patterns.by_name(filter=1.0))
        left = 1.0 - removed * (1.0 - w.density)
        if self.zeros == "smt":
            scattered = patterns.select(w.pattern, self.skip_time) * (1.0 - removed)
            both = (1.0 - scattered * (1.0 - w.density)) * w.input_density
            return left * k * jnp.maximum(both, 0.5) / (1 - self.queue_loss)
        if self.zeros not in ("s2ta_w", "s2ta_aw"):
            return left * k
        channels = k / jnp.maximum(w.window, 1.0)
        blocks = w.window * jnp.ceil(channels / BLOCK)
        bound_w, bound_a = self._bounds(w)
        skipped = BLOCK * blocks * (bound_w if self.zeros == "s2ta_w" else bound_a)
        # Fewer channels than a block make none: the layer runs as on a dense array.
        return left * jnp.where(channels < BLOCK, k, skipped)

    def _bounds(self, w: Workload) -> tuple[Array, Array]:
        """The bounds that the hardware has, over 8; whole non-zeros are exact."""
        if self.zeros not in ("s2ta_w", "s2ta_aw"):
            return w.density, w.input_density
        group = patterns.select(w.pattern, patterns.by_name(group=1.0))
        given = BLOCK * (1.0 - group * (1.0 - w.density))
        if self.zeros == "s2ta_w":
            held = jnp.clip(given, MOST_WEIGHTS, MOST_WEIGHTS + 1.0) - MOST_WEIGHTS
            weights = MOST_WEIGHTS + held * (BLOCK - MOST_WEIGHTS)
        else:
            weights = _up_to(given, MOST_WEIGHTS)
        inputs = _up_to(BLOCK * w.input_density, MOST_INPUTS)
        # A multiplexer finds the weight of each kept input among at most four.
        free = jnp.clip(given - MOST_WEIGHTS, 0.0, 1.0)
        return weights / BLOCK, (inputs + free * (BLOCK - inputs)) / BLOCK


def _up_to(nonzeros: Array, most: float) -> Array:
    """Non-zeros of a block that hardware takes: all 8 above the most it can find."""
    beyond = jnp.clip(nonzeros - most, 0.0, 1.0)
    held = jnp.minimum(nonzeros, most)
    return held + beyond * (BLOCK - most)


def stored(bound: Array) -> Array:
    """Returns bytes of a block over 8: z values and a mask, at most 8 (2107.07983)."""
    return jnp.minimum(bound + 1 / BLOCK, 1.0)
