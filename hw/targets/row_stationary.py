"""Row-stationary arrays (Eyeriss, JSSC 2017, doi 10.1109/JSSC.2016.2616357).

A unit holds a row of a filter and slides it along a row of inputs; a column of units
makes a row of outputs. A set takes as many rows of units as the filter has, and as many
columns as the strip of outputs; sets repeat while they fit.
"""

import jax.numpy as jnp

from core.types import Array, ArrayLike
from hw.constants import target, unit
from hw.cost import Terms
from hw.targets.base import Hardware
from hw.workload import Workload


@target()
class RowStationary(Hardware):
    """An array of units with a scratchpad each, and a buffer for all."""

    rows: ArrayLike = unit("1", "rows of units")
    columns: ArrayLike = unit("1", "columns of units")
    clock: ArrayLike = unit("Hz", "of the units")
    filling: ArrayLike = unit(
        "1", "share of cycles in which a mapped unit multiplies", 1.0
    )
    strip: ArrayLike = unit("1", "most columns of outputs of a set")
    bandwidth: ArrayLike = unit("B/s", "of the memory")
    mac_j: ArrayLike = unit("J", "of a multiply-accumulate and its scratchpad")
    zero_saving: ArrayLike = unit("1", "share of that which a zero input saves", 1.0)
    far_j: ArrayLike = unit("J/B", "energy of a byte of the memory")
    static: ArrayLike = unit("W", "power that is drawn whatever happens")

    def active(self, workload: Workload) -> Array:
        """Returns how many units a layer's mapping uses, [rows].

        Windows are taken as square.
        """
        w = workload
        height = jnp.sqrt(jnp.maximum(w.window, 1.0))
        width = jnp.maximum(w.width, 1.0)
        strips = jnp.ceil(width / self.strip)
        across = jnp.minimum(jnp.ceil(width / strips), width)
        sets = jnp.floor(self.rows / height)
        beside = jnp.maximum(jnp.floor(self.columns / across), 1.0)
        height = jnp.minimum(height, self.rows)
        return height * jnp.maximum(sets, 1.0) * across * beside

    def terms(self, workload: Workload) -> Terms:
        """Returns what the rows of a workload take."""
        w = workload
        product = w.is_product
        rate = self.active(w) * self.filling * self.clock
        far = self.moved_bytes(w)
        useful = 1.0 - self.zero_saving * (1.0 - w.input_density)
        return Terms(
            seconds={
                "array": jnp.where(product, w.macs * self.time_share(w) / rate, 0.0),
            },
            overhead=jnp.zeros_like(far),
            joules={
                "array": w.macs * self.executed(w) * useful * self.mac_j,
                "memory": far * self.far_j,
            },
            static_w=self.static,
            moved=far,
            bandwidth=self.bandwidth,
            priced=product,
            used={"units": jnp.max(jnp.where(product, self.active(w), 0.0))},
            limits={"units": self.rows * self.columns},
        )
