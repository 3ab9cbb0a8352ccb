"""Why a workload costs what it costs, and what would change it."""

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.text import columns
from core.types import Array
from hw import patterns
from hw.constants import constants, with_values
from hw.cost import Cost, Target, cost
from hw.targets.base import Hardware
from hw.workload import Workload

_BOTH = "weight and data bits"
_FORMATS: tuple[str, ...] = (
    "weight bits",
    "data bits",
    _BOTH,
    "density",
    "data density",
)
"""What a designer turns."""
_CHANGED = (
    *("weight_bits", "input_bits", "output_bits"),
    *("density", "input_density", "pattern"),
)


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
      elasticities: percent of its latency saved by a percent less of each format, see
        `elasticities`.
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

    Remedies are of formats that gain, see `elasticities`; they hold until another
    resource holds an operator up. Those of constants are derivatives.

    Args:
      workload: the operator table.
      target: any target.

    Raises:
      ShapeError: a workload without rows.
    """
    found = jax.device_get(cost(workload, target))
    eases, best = elasticities(workload, target)
    total = float(found.latency_s)
    index = _index_shares(workload, target)
    rows = [
        _row(workload.names[i], found, eases[i], best[i], i, float(index[i]))
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


class _Step(NamedTuple):
    """Formats that are smaller, each row's on its own.

    Attributes:
      format: of `_FORMATS`.
      pattern: that dense rows get, '' for none.
      less: share by which the format is smaller, [rows]; 0 of rows without it.
      changed: values of the workload's fields, [rows] by name.
    """

    format: str
    pattern: str
    less: np.ndarray
    changed: dict[str, np.ndarray]


def elasticities(
    workload: Workload, target: Target
) -> tuple[list[dict[str, float]], list[str]]:
    """Returns percent of each row's latency saved by a percent less of each format.

    Of the better of two steps that a designer can take: a whole bit less, or half of
    the bits; a tenth less of a density, or half of it. Dense rows are pruned in the
    pattern that the target gains most from. A format of which less gains nothing has 0;
    all widths have at the least ones of the target.

    Args:
      workload: the operator table.
      target: any target.

    Returns:
      Numbers by format for each row, and that pattern, '' if the row is not dense or
      none gains.
    """
    table = {f: np.asarray(getattr(workload, f)) for f in _CHANGED}
    steps = list(_steps(workload, table))
    changed = {
        f: np.stack([table[f], *(s.changed.get(f, table[f]) for s in steps)])
        for f in _CHANGED
    }
    seconds, saved = jax.device_get(_savings(workload, target, changed))
    eases: list[dict[str, float]] = [
        dict.fromkeys(_FORMATS, 0.0) for _ in range(len(workload))
    ]
    best = [""] * len(workload)
    for step, gains in zip(steps, saved, strict=True):
        for i, row in enumerate(eases):
            if step.less[i] <= 0 or seconds[i] <= 0:
                continue
            ease = float(gains[i] / seconds[i] / step.less[i])
            if ease > row[step.format]:
                row[step.format] = ease
                best[i] = step.pattern if step.format == "density" else best[i]
    return eases, best


def _steps(workload: Workload, table: dict[str, np.ndarray]) -> Iterator[_Step]:
    """Yields smaller formats."""
    kernel = np.array([bool(path) for path in workload.paths])
    wide, data = table["weight_bits"], table["input_bits"]
    for lower in (lambda b: np.maximum(np.ceil(b) - 1, b / 2), lambda b: b / 2):
        weights = np.where(kernel, lower(wide) / wide, 1.0).astype(np.float32)
        inputs = (lower(data) / data).astype(np.float32)
        own = np.where(kernel, 1.0, inputs)  # there both factors are data
        for name, of_weights, of_data in (
            ("weight bits", weights, np.ones_like(inputs)),
            ("data bits", own, inputs),
            (_BOTH, np.where(kernel, weights, inputs), inputs),
        ):
            changed = {
                "weight_bits": wide * of_weights,
                "input_bits": data * of_data,
                "output_bits": table["output_bits"] * of_data,
            }
            less = 1.0 - (of_weights if name == "weight bits" else of_data)
            if name == _BOTH:
                less = np.where(kernel, 1.0 - np.minimum(weights, inputs), 0.0)
            yield _Step(name, "", less, changed)
    dense = kernel & (table["pattern"] == patterns.code("dense"))
    square = np.asarray(workload.window) == 9  # what kernels' patterns are made for
    product = workload.is_product
    for kept in (0.9, 0.5):
        active = {"input_density": table["input_density"] * np.float32(kept)}
        yield _Step("data density", "", np.where(product, 1.0 - kept, 0.0), active)
        density = table["density"] * np.where(kernel, kept, 1.0).astype(np.float32)
        pruned = np.where(kernel & ~dense, 1.0 - kept, 0.0)
        yield _Step("density", "", pruned, {"density": density})
        for code, name in enumerate(patterns.PATTERNS[1:], 1):
            can = dense & (square | (name != "kernel"))
            codes = np.where(can, code, table["pattern"]).astype(np.int32)
            less = np.where(can, 1.0 - kept, 0.0)
            yield _Step("density", name, less, {"density": density, "pattern": codes})


@jax.jit
def _savings(
    workload: Workload, target: Target, changed: dict[str, Array]
) -> tuple[Array, Array]:
    """Seconds of rows [rows], and what is saved by changes of a row [steps, rows].

    The first change of all is none. What other rows save, whose data fit a memory
    then, counts too.
    """
    places = jnp.arange(len(workload))

    def latencies(new: dict[str, Array], row: Array) -> Array:
        made = {
            f: jnp.where(places == row, new[f], jnp.asarray(getattr(workload, f)))
            for f in _CHANGED
        }
        return cost(dataclasses.replace(workload, **made), target).latencies_s

    rows = jax.vmap(latencies, (None, 0))
    found = jax.lax.map(lambda new: rows(new, places), changed)  # a step at a time
    return found[0, 0], jnp.sum(found[:1] - found[1:], axis=-1)


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
    name: str, found: Cost, ease: dict[str, float], pattern: str, i: int, index: float
) -> Row:
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
    remedy = _remedy(bound, ease, pattern, after, gain)
    return Row(name, seconds, share, bound, gain, after, remedy, ease)


def _remedy(
    bound: str, ease: dict[str, float], pattern: str, after: str, gain: float
) -> str:
    """One phrase: the formats that help most, and where that ends."""
    if bound == "overhead":
        return "fewer calls: fuse operators, or a larger batch"
    if bound == "indices":
        return "a pattern with fewer indices, such as blocks"
    helps = [n for n, v in sorted(ease.items(), key=lambda p: -p[1]) if v > 0.05]
    single = max(ease["weight bits"], ease["data bits"])
    if ease[_BOTH] > single + 0.05:  # one of them alone does less
        helps = [n for n in helps if n not in ("weight bits", "data bits")]
    else:
        helps = [n for n in helps if n != _BOTH]
    helps = [f"{n} ({pattern})" if n == "density" and pattern else n for n in helps]
    what = f"less {' or '.join(helps[:2])}" if helps else "another shape or target"
    if bound in ("memory", "cache"):
        what = what if helps else "less to move"
    return f"{what}; then {after}" if np.isfinite(gain) else what
