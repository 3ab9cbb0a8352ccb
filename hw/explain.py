"""Why a workload costs what it costs, and what would change it."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.text import columns
from core.types import Array
from hw.constants import constants, with_values
from hw.cost import Cost, Target, cost
from hw.workload import Workload

_FORMATS = {
    "weight bits": ("weight_bits",),
    "data bits": ("input_bits", "output_bits"),
    "density": ("density",),
    "data density": ("input_density",),
}
"""What a designer turns, and the columns of the table that it is."""


class Row(NamedTuple):
    """Why one operator takes its time.

    Attributes:
      name: of the row.
      seconds: it takes.
      share: of the total.
      bound: the resource that holds it up, 'indices' where bytes of a sparse pattern's
        indices are most of what a memory moves, or 'overhead'.
      gain: how many times faster it gets before the next resource holds it up.
      next: that resource.
      remedy: what would have to change.
      elasticities: percent of its latency saved by a percent less of each format.
    """

    name: str
    seconds: float
    share: float
    bound: str
    gain: float
    next: str
    remedy: str
    elasticities: dict[str, float]


class Roofline(NamedTuple):
    """Products under the roof of a target.

    Attributes:
      names: of the products.
      reuse: multiply-accumulates for each byte.
      rate: multiply-accumulates a second that are reached.
      peak: the best rate of any product with memory for free.
      bandwidth: bytes a second of the memory; infinite without one.
    """

    names: tuple[str, ...]
    reuse: np.ndarray
    rate: np.ndarray
    peak: float
    bandwidth: float


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What `explain` returns; `str()` is a table.

    Attributes:
      target: its name.
      rows: one for each operator, the slowest first.
      constants: percent of the total latency saved by a percent more (or less, where
        negative) of each constant of the target, the largest first.
      roofline: of the products.
      simulated: whether no constant was fitted to a measurement of this machine.
    """

    target: str
    rows: tuple[Row, ...]
    constants: tuple[tuple[str, float], ...]
    roofline: Roofline
    simulated: bool

    def __str__(self) -> str:
        """The ten slowest rows, and the constants that matter."""
        head = ("", "share", "ms", "bound", "gain", "what would have to change")
        lines = [
            (
                *(r.name, f"{100 * r.share:.1f} %", f"{1e3 * r.seconds:.3g}"),
                *(r.bound, f"{r.gain:.2g}x", r.remedy),
            )
            for r in self.rows[:10]
        ]
        rest = self.rows[10:]
        if rest:
            share = sum(r.share for r in rest)
            spent = 1e3 * sum(r.seconds for r in rest)
            name = f"{len(rest)} others"
            lines.append((name, f"{100 * share:.1f} %", f"{spent:.3g}", "", "", ""))
        best = ", ".join(f"{n} {v:+.2f} %" for n, v in self.constants[:4])
        return f"{columns([head, *lines])}\nfor a percent of a constant: {best}"


def explain(workload: Workload, target: Target) -> Explanation:
    """Returns what holds every operator up, and what would have to change to gain.

    Elasticities are derivatives of the latency: they hold near the design, until
    another resource holds an operator up.

    Args:
      workload: the operator table.
      target: any target.

    Raises:
      ShapeError: a workload without rows.
    """
    found = jax.device_get(cost(workload, target))
    slopes = _format_slopes(workload, target)
    total = float(found.latency_s)
    rows = [_row(workload, found, slopes, i, total) for i in range(len(workload))]
    rows.sort(key=lambda row: -row.seconds)
    origins = [each.origin + each.source for each in constants(target)]
    measured = any("measured on this machine" in text for text in origins)
    return Explanation(
        target.name,
        tuple(rows),
        _constant_slopes(workload, target, total),
        roofline(workload, target),
        not measured,
    )


def roofline(workload: Workload, target: Target) -> Roofline:
    """Returns the products of a workload under the roof of a target.

    Args:
      workload: the operator table.
      target: any target.
    """
    found = jax.device_get(cost(workload, target))
    products = np.flatnonzero(workload.is_product)
    macs = np.asarray(workload.macs)[products]
    size = np.maximum(np.asarray(workload.bytes)[products], 1.0)
    memory = found.seconds.get("memory", np.zeros(len(workload)))[products]
    others = [v[products] for k, v in found.seconds.items() if k != "memory"]
    slowest = np.maximum(np.max(others, axis=0), 1e-30)
    moving = memory > 0
    bandwidth = (size[moving] / memory[moving]).min() if moving.any() else np.inf
    return Roofline(
        tuple(workload.names[i] for i in products),
        macs / size,
        macs / found.latencies_s[products],
        float((macs / slowest).max()) if len(products) else 0.0,
        float(bandwidth),
    )


def _format_slopes(workload: Workload, target: Target) -> dict[str, Array]:
    """D latency / d log of each format, [rows] by name."""

    def latency(logs: dict[str, Array]) -> Array:
        changed = {
            field: getattr(workload, field) * jnp.exp(logs[name])
            for name, fields in _FORMATS.items()
            for field in fields
        }
        return cost(dataclasses.replace(workload, **changed), target).latency_s

    zero = {name: jnp.zeros(len(workload)) for name in _FORMATS}
    return jax.device_get(jax.grad(latency)(zero))


def _constant_slopes(
    workload: Workload, target: Target, total: float
) -> tuple[tuple[str, float], ...]:
    """Percent of latency saved by a percent more of each scalar constant."""
    names = [c.name for c in constants(target) if np.ndim(c.value) == 0]
    values = {n: jnp.asarray(getattr(target, n), jnp.float32) for n in names}

    def latency(values: dict[str, Array]) -> Array:
        return cost(workload, with_values(target, values)).latency_s

    slopes = jax.device_get(jax.grad(latency)(values))
    pairs = [(n, float(-slopes[n] * values[n] / total)) for n in names]
    pairs = [(n, v) for n, v in pairs if np.isfinite(v) and abs(v) > 1e-3]
    return tuple(sorted(pairs, key=lambda pair: -abs(pair[1])))


def _row(
    workload: Workload, found: Cost, slopes: dict[str, Array], i: int, total: float
) -> Row:
    seconds = float(found.latencies_s[i])
    parts = {name: float(v[i]) for name, v in found.seconds.items()}
    extra = seconds - max(parts.values())
    order = sorted(parts, key=lambda name: -parts[name])
    bound = found.bounds[int(found.bound[i])]
    rest = extra + (parts[order[1]] if len(order) > 1 else 0.0)
    after = order[1] if len(order) > 1 and parts[order[1]] > 0 else "overhead"
    if bound == "overhead":
        rest, after = max(parts.values()), order[0]
    gain = seconds / rest if rest > 0 else float("inf")
    if bound in ("memory", "cache", "loading"):
        index = float(
            np.asarray(workload.index_bytes)[i] * np.asarray(workload.calls)[i]
        )
        if index > 0.5 * float(np.asarray(workload.bytes)[i]):
            bound = "indices"
    share = seconds / total if total else 0.0
    ease = {
        name: float(slope[i]) / seconds if seconds else 0.0
        for name, slope in slopes.items()
    }
    name = workload.names[i]
    remedy = _remedy(bound, ease, after, gain)
    return Row(name, seconds, share, bound, gain, after, remedy, ease)


def _remedy(bound: str, ease: dict[str, float], after: str, gain: float) -> str:
    """One phrase: the formats that help most, and where that ends."""
    if bound == "overhead":
        return "fewer calls: fuse operators, or a larger batch"
    if bound == "indices":
        return "a pattern with fewer indices, such as blocks"
    helps = [n for n, v in sorted(ease.items(), key=lambda p: -p[1]) if v > 0.05]
    what = f"less {' or '.join(helps[:2])}" if helps else "another shape or target"
    if bound in ("memory", "cache", "loading"):
        what = what if helps else "less to move"
    return f"{what}; then {after}" if np.isfinite(gain) else what
