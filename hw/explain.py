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
from hw.targets.base import Hardware
from hw.workload import Workload

_FORMATS = ("weight bits", "data bits", "density", "data density")
"""What a designer turns."""


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
      reuse: multiply-accumulates for each byte that the target really moves: weights
        as it stores them, again where they do not fit; infinite where none moves.
      rate: multiply-accumulates a second that are reached.
      peak: the best rate of any product with memory for free.
      bandwidth: bytes a second of the memory, as the target has it; infinite without.
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
      left_out: names of operators that the target has no unit for.
      unpriced: share of the workload's "macs", "bytes" and "operations" in those.
    """

    target: str
    rows: tuple[Row, ...]
    constants: tuple[tuple[str, float], ...]
    roofline: Roofline
    simulated: bool
    left_out: tuple[str, ...] = ()
    unpriced: dict[str, float] = dataclasses.field(default_factory=dict)

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
        text = f"{columns([head, *lines])}\nfor a percent of a constant: {best}"
        if self.left_out:
            shares = ", ".join(
                f"{100 * v:.2g} % of {k}" for k, v in self.unpriced.items()
            )
            some = ", ".join(self.left_out[:4]) + ", ..." * (len(self.left_out) > 4)
            text += f"\nnot priced, the target has no unit for it: {shares} ({some})"
        return text


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
    index = _index_shares(workload, target)
    rows = [
        _row(workload.names[i], found, slopes, i, float(index[i]))
        for i in range(len(workload))
    ]
    rows.sort(key=lambda row: -row.seconds)
    origins = [each.origin + each.source for each in constants(target)]
    measured = any("measured on this machine" in text for text in origins)
    return Explanation(
        target.name,
        tuple(rows),
        _constant_slopes(workload, target, total),
        roofline(workload, target),
        not measured,
        found.left_out,
        {k: float(v) for k, v in found.unpriced.items()},
    )


def roofline(workload: Workload, target: Target) -> Roofline:
    """Returns the products of a workload under the roof of a target.

    Args:
      workload: the operator table.
      target: any target.
    """
    found = jax.device_get(cost(workload, target))
    priced = ~np.isin(np.array(workload.names, object), found.left_out)
    products = np.flatnonzero(workload.is_product & priced)
    macs = np.asarray(workload.macs)[products]
    moved = found.moved[products]
    others = [v[products] for k, v in found.seconds.items() if k != "memory"]
    slowest = np.maximum(np.max(others, axis=0), 1e-30)
    reuse = np.full(len(products), np.inf)
    np.divide(macs, moved, out=reuse, where=moved > 0)
    return Roofline(
        tuple(workload.names[i] for i in products),
        reuse,
        macs / found.latencies_s[products],
        float((macs / slowest).max()) if len(products) else 0.0,
        float(found.bandwidth),
    )


def _index_shares(workload: Workload, target: Target) -> np.ndarray:
    """Indices' share of what products move, [rows]; 0 where a target stores none."""
    table = jax.tree.map(jnp.asarray, workload)
    if not isinstance(target, Hardware):
        return np.zeros(len(workload))
    index = table.calls * target.index_bytes(table)
    return np.asarray(index / jnp.maximum(target.moved_bytes(table), 1.0))


def _format_slopes(workload: Workload, target: Target) -> dict[str, Array]:
    """D latency / d log of each format, [rows] by name."""

    def latency(logs: dict[str, Array]) -> Array:
        of_weights, of_data, kept, active = (jnp.exp(logs[n]) for n in _FORMATS)
        kernel = np.array([bool(path) for path in workload.paths])
        made = dataclasses.replace(
            workload,
            weight_bits=workload.weight_bits * jnp.where(kernel, of_weights, of_data),
            input_bits=workload.input_bits * of_data,
            output_bits=workload.output_bits * of_data,
            density=workload.density * kept,
            input_density=workload.input_density * active,
        )
        return cost(made, target).latency_s

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


def _row(name: str, found: Cost, slopes: dict[str, Array], i: int, index: float) -> Row:
    total, seconds = float(found.latency_s), float(found.latencies_s[i])
    parts = {name: float(v[i]) for name, v in found.seconds.items()}
    extra = seconds - max(parts.values())
    order = sorted(parts, key=lambda name: -parts[name])
    bound = found.bounds[int(found.bound[i])]
    rest = extra + (parts[order[1]] if len(order) > 1 else 0.0)
    after = order[1] if len(order) > 1 and parts[order[1]] > 0 else "overhead"
    if bound == "overhead":
        rest, after = max(parts.values()), order[0]
    gain = seconds / rest if rest > 0 else float("inf")
    if bound in ("memory", "cache") and index > 0.5:
        bound = "indices"
    share = seconds / total if total else 0.0
    ease = {
        name: float(slope[i]) / seconds if seconds else 0.0
        for name, slope in slopes.items()
    }
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
    if bound in ("memory", "cache"):
        what = what if helps else "less to move"
    return f"{what}; then {after}" if np.isfinite(gain) else what
