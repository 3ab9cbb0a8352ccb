"""Processors that run compiled code: a roofline with two levels of memory.

CPUs, GPUs and TPUs: a product takes its multiply-accumulates at the rate that its kind
and its shape reach, or its bytes at the bandwidth of the level of memory that holds
them, whichever is slower, and every call has an overhead (Williams et al., CACM 2009).
"""

import jax
import jax.numpy as jnp
import numpy as np

from core.types import Array, ArrayLike
from hw import energy, patterns
from hw.constants import target, unit
from hw.cost import Terms
from hw.targets.base import Hardware
from hw.workload import PRODUCT_KINDS, Workload


@target()
class Processor(Hardware):
    """A processor with a cache and a memory; constants as `hw.constants_table` says."""

    peak: ArrayLike = unit("MAC/s", "float32 multiply-accumulates at best")
    matmul: ArrayLike = unit("1", "share of the peak that large products reach", 1.0)
    conv: ArrayLike = unit("1", "share of the peak that convolutions reach", 1.0)
    depthwise: ArrayLike = unit("1", "share that depthwise convolutions reach", 1.0)
    attention: ArrayLike = unit(
        "1", "share that products of two activations reach", 1.0
    )
    half_rows: ArrayLike = unit("1", "rows of data at which half of that is reached")
    half_terms: ArrayLike = unit("1", "terms of a sum at which half is reached")
    half_columns: ArrayLike = unit("1", "columns at which half of that is reached")
    narrow: ArrayLike = unit("bits", "the narrowest numbers that compute faster")
    gain: ArrayLike = unit("1", "exponent of 32 / width in the rate of narrow numbers")
    group_half: ArrayLike = unit(
        "1", "share of the time with at most half of every group kept", 1.0
    )
    elements: ArrayLike = unit("op/s", "cheap operations")
    functions: ArrayLike = unit("op/s", "functions such as exp")
    windows: ArrayLike = unit("op/s", "operations of pools")
    near: ArrayLike = unit("B/s", "bandwidth of the cache")
    far: ArrayLike = unit("B/s", "bandwidth of the memory")
    cache: ArrayLike = unit("B", "capacity of the cache")
    weight_cache: ArrayLike = unit("B", "capacity for weights from run to run")
    overhead: ArrayLike = unit("s", "of a call of a product")
    chain_overhead: ArrayLike = unit("s", "of a call of anything else")
    launch: ArrayLike = unit("s", "of a run of a program")
    mac_scale: ArrayLike = unit("1", "energy of a MAC over that at 45 nm, control too")
    near_j: ArrayLike = unit("J/B", "energy of a byte of the cache")
    far_j: ArrayLike = unit("J/B", "energy of a byte of the memory")
    static: ArrayLike = unit("W", "power that is drawn whatever happens")

    def terms(self, workload: Workload) -> Terms:
        """Returns what the rows of a workload take."""
        w = workload
        wide_w, wide_a = (
            jnp.maximum(bits, self.narrow) for bits in (w.weight_bits, w.input_bits)
        )
        width = jnp.minimum(jnp.maximum(wide_w, wide_a), 32.0)
        faster = (32.0 / width) ** self.gain
        rate = self.peak * self._utilisation(w) * faster
        near, far = self._bytes(w)
        work = w.calls * (w.elements / self._rate(w) + w.functions / self.functions)
        product = w.is_product
        overhead = jnp.where(product, self.overhead, self.chain_overhead)
        spent = w.macs * self.executed(w) * energy.mac_energy(wide_w, wide_a)
        adds = w.elements + energy.FUNCTION_ADDS * w.functions
        adds = w.calls * adds * energy.ADD_32
        compute = w.macs * self.time_share(w) / rate
        return Terms(
            seconds={
                "compute": jnp.where(product, compute, work),
                "cache": near / self.near,
            },
            overhead=w.calls * overhead + self.launch / len(w),
            joules={
                "compute": (spent + adds) * self.mac_scale,
                "cache": near * self.near_j,
                "memory": far * self.far_j,
            },
            static_w=self.static,
            moved=far,
            bandwidth=self.far,
        )

    def time_share(self, w: Workload) -> Array:
        """Returns the share of dense products' time that pruned ones take, [rows].

        Units that read half of every group take `group_half` up to there, and nothing
        less below: a straight line up to one weight of 8 more.
        """
        group = patterns.select(w.pattern, patterns.by_name(group=1.0))
        held = 1.0 - jnp.clip(8.0 * (w.density - 0.5), 0.0, 1.0)
        halved = 1.0 - group * held * (1.0 - self.group_half)
        return jnp.minimum(super().time_share(w), halved)

    def _utilisation(self, w: Workload) -> Array:
        """The share of the peak that products of a shape reach, [rows]."""
        best = jnp.ones_like(w.m)
        for kind in PRODUCT_KINDS:
            best = jnp.where(w.mask(kind), getattr(self, kind), best)
        wide = np.asarray(~w.mask("depthwise"), np.float32)
        columns = jnp.maximum(w.n, 1.0)
        return (
            best
            * saturate(jnp.maximum(w.m, 1.0), self.half_rows)
            * saturate(jnp.maximum(w.k, 1.0), self.half_terms * wide)
            * saturate(columns, self.half_columns * wide)
        )

    def _rate(self, w: Workload) -> Array:
        return jnp.where(w.mask("window"), self.windows, self.elements)

    def _bytes(self, w: Workload) -> tuple[Array, Array]:
        """Bytes that come from the cache and from the memory, [rows].

        A network is run again and again: its weights stay in the cache if all of them
        fit. Activations do if those of one operator fit.
        """
        weights = self.stored_bytes(w)
        own = w.copies * weights
        lost = spill(jnp.sum(own), self.weight_cache)
        again = (w.calls - w.copies) * weights
        data = w.calls * (w.input_bytes + w.output_bytes)
        away = spill(w.input_bytes + w.output_bytes, self.cache)
        far = own * lost + again * spill(weights, self.cache) + data * away
        return own + again + data, far


def saturate(size: Array, half: ArrayLike) -> Array:
    """Returns size / (size + half): the share of a rate that a size reaches."""
    return size / (size + half)


def spill(size: ArrayLike, capacity: ArrayLike) -> Array:
    """Returns the share of bytes that a memory does not hold, a smooth step.

    size^4 / (size^4 + capacity^4): a half where the size is the capacity.

    Args:
      size: bytes in use.
      capacity: bytes that fit.
    """
    held = jnp.log(jnp.maximum(jnp.asarray(size), 1.0)) - jnp.log(capacity)
    return jax.nn.sigmoid(4.0 * held)
