"""What every target says of itself: its formats, and which zeros it can skip."""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp

from core.types import Array, ArrayLike
from hw import patterns
from hw.constants import Given, Origin, Provenance, unit
from hw.workload import Workload

SPARSE: Mapping[str, float] = dict.fromkeys(patterns.PATTERNS[1:], 1.0)
"""Every pattern but the dense one."""
REMOVED: Mapping[str, float] = {"filter": 1.0}
"""Whole outputs or inputs: what is left is a smaller dense product."""


_fields = dataclasses.dataclass(frozen=True, eq=False, kw_only=True)


@_fields
class Hardware:
    """Formats and sparsity patterns of a target; classes of targets add the rest.

    Narrower numbers are padded to the least width; wider ones are not feasible. Arrays
    by pattern are in the order of `hw.PATTERNS`; where a target skips nothing, zeros
    cost what other weights do.
    """

    provenance: Provenance
    weight_widths: ArrayLike = unit("bits", "least and most of a weight")
    input_widths: ArrayLike = unit("bits", "least and most of an input")
    skip_time: ArrayLike = unit("1", "share of a pattern's ideal gain in time", 1.0)
    skip_energy: ArrayLike = unit("1", "share of a pattern's zeros not computed", 1.0)
    skip_storage: ArrayLike = unit("1", "share of a pattern's zeros not stored", 1.0)

    @property
    def name(self) -> str:
        """What it is called."""
        return self.provenance.name

    def time_share(self, w: Workload) -> Array:
        """Returns the share of dense products' time that pruned ones take, [rows]."""
        return patterns.time_share(
            w.density, patterns.select(w.pattern, self.skip_time)
        )

    def executed(self, w: Workload) -> Array:
        """Returns the share of multiply-accumulates that spend energy, [rows]."""
        share = patterns.select(w.pattern, self.skip_energy)
        return 1.0 - share * (1.0 - w.density)

    def index_bytes(self, w: Workload) -> Array:
        """Returns bytes of the indices that are stored for a call's weights, [rows]."""
        return w.stored(patterns.select(w.pattern, self.skip_storage))[1]

    def stored_bytes(self, w: Workload) -> Array:
        """Returns bytes of a call's weights as stored, with indices, [rows]."""
        return w.stored(patterns.select(w.pattern, self.skip_storage))[0]

    def moved_bytes(self, w: Workload) -> Array:
        """Returns bytes of products, each value once a call, [rows]; 0 of others."""
        call = self.stored_bytes(w) + w.input_bytes + w.output_bytes
        return jnp.where(w.is_product, w.calls * call, 0.0)


def widths(
    weights: tuple[float, float],
    inputs: tuple[float, float],
    origin: Origin,
    source: str,
) -> dict[str, Given]:
    """Returns the least and the most bits of weights and of inputs."""
    return {
        "weight_widths": Given(weights, origin, source),
        "input_widths": Given(inputs, origin, source),
    }


def skips(
    origin: Origin,
    source: str,
    time: Mapping[str, float],
    energy: Mapping[str, float] | None = None,
    storage: Mapping[str, float] | None = None,
) -> dict[str, Given]:
    """Returns what a target skips by pattern; energy and storage as time by default.

    Args:
      origin: of the numbers.
      source: of the numbers.
      time: share of the ideal gain.
      energy: share of zeros that are not computed; all where time is gained.
      storage: share of zeros that are not stored; likewise.
    """
    whole = {name: float(value > 0) for name, value in time.items()}
    parts = {"time": time, "energy": energy, "storage": storage}
    return {
        f"skip_{key}": Given(
            patterns.by_name(**(whole if value is None else value)), origin, source
        )
        for key, value in parts.items()
    }
