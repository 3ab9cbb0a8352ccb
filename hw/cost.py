"""What a workload costs on a target: latency, energy, resources, and what bounds it."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from core.errors import InputError, ShapeError, describe
from core.types import Array, ArrayLike
from hw.workload import Workload


class Terms(NamedTuple):
    """What a target says of a workload; `cost` puts it together.

    Attributes:
      seconds: what each resource alone would take, [rows] by name. Resources work at
        the same time: the slowest decides.
      overhead: seconds on top of that, [rows].
      joules: spent by each cause, [rows] by name.
      static_w: power that is drawn for as long as it takes, [].
      moved: bytes between the target and its memory, [rows]; None without a memory.
      bandwidth: bytes a second of that memory, [].
      priced: rows that the target prices, bool [rows], on the host; None for all. What
        it has no unit for takes no time here and is counted in `Cost.unpriced`.
      used: resources that the design takes, [] by name, with their unit in the name.
      limits: how much of those there is, [] by name; others are not limited.
    """

    seconds: dict[str, Array]
    overhead: Array
    joules: dict[str, Array]
    static_w: ArrayLike = 0.0
    moved: Array | None = None
    bandwidth: ArrayLike = np.inf
    priced: np.ndarray | None = None
    used: Mapping[str, ArrayLike] = {}
    limits: Mapping[str, ArrayLike] = {}


@runtime_checkable
class Target(Protocol):
    """Hardware: a pytree of constants that knows what operators take.

    `terms` is pure and jittable, and continuous in bits and densities: counts that
    hardware rounds up are exact where they are whole, with straight lines between.

    Attributes:
      weight_widths: least and most bits of weights, [2].
      input_widths: least and most bits of inputs, [2].
    """

    weight_widths: Any
    input_widths: Any

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    def terms(self, workload: Workload) -> Terms:
        """Returns what the rows of a workload take."""
        ...


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=(
        *("latency_s", "energy_j", "feasible", "resources", "limits"),
        *("latencies_s", "energies_j", "bound", "seconds", "joules"),
        *("moved", "bandwidth", "unpriced"),
    ),
    meta_fields=("bounds", "left_out"),
)
@dataclasses.dataclass(frozen=True, eq=False)
class Cost:
    """What a workload costs.

    Invariants: `latency_s == sum(latencies_s)`, `energy_j == sum(energies_j)`; what is
    feasible is finite.

    Attributes:
      latency_s: of all rows, one after another, [].
      energy_j: of all rows, [].
      feasible: whether the target has the formats of the products that it prices,
        every limited resource suffices, and all is finite, bool [].
      resources: what the design takes, [] by name.
      limits: what there is, [] by name.
      latencies_s: by row, [rows].
      energies_j: by row, [rows].
      bound: what holds a row up, an index in `bounds`, int32 [rows].
      seconds: of each resource alone, [rows] by name.
      joules: of each cause, [rows] by name.
      moved: bytes between the target and its memory, [rows].
      bandwidth: bytes a second of that memory, []; infinite without one.
      unpriced: share of the workload's "macs", "bytes" and "operations" (of elements)
        in rows that the target has no unit for: they are in no total, [] by name.
      bounds: names of the resources, and 'overhead' at the end.
      left_out: names of those rows.
    """

    latency_s: Array
    energy_j: Array
    feasible: Array
    resources: dict[str, Array]
    limits: dict[str, Array]
    latencies_s: Array
    energies_j: Array
    bound: Array
    seconds: dict[str, Array]
    joules: dict[str, Array]
    moved: Array
    bandwidth: Array
    unpriced: dict[str, Array]
    bounds: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def power_w(self) -> Array:
        """The mean power, []."""
        return self.energy_j / self.latency_s


def cost(workload: Workload, target: Target) -> Cost:
    """Returns what a workload costs on a target.

    A row takes as long as the slowest of its resources, and its overhead on top; rows
    run one after another. Pure, jittable, differentiable in the bits and densities of
    the workload and in every constant of the target; vmap it over designs:

        fast = jax.vmap(lambda b: cost(design(table, bits=b), target).latency_s)

    Args:
      workload: the operator table.
      target: of `TARGETS`, or any other of that protocol.

    Raises:
      ShapeError: a workload without rows.
    """
    if not len(workload):
        raise ShapeError(describe("a workload without rows", "at least one operator"))
    table = jax.tree.map(jnp.asarray, workload)
    terms = target.terms(_padded(table, target))
    priced = np.ones(len(table), bool) if terms.priced is None else terms.priced
    seconds = dict(terms.seconds)
    moved, bandwidth = jnp.zeros(len(table)), jnp.asarray(terms.bandwidth, jnp.float32)
    if terms.moved is not None:
        moved = terms.moved
        seconds["memory"] = moved / bandwidth
    names = tuple(seconds)
    stacked = jnp.stack([seconds[n] for n in names])
    slowest = jnp.max(stacked, axis=0)
    latencies = slowest + terms.overhead
    bound = jnp.where(terms.overhead > slowest, len(names), jnp.argmax(stacked, axis=0))
    joules: dict[str, Any] = {
        **terms.joules,
        "static": terms.static_w * latencies,
    }
    energies = sum(joules.values())
    widths = _widths(table, target, priced)
    used = {**terms.used} | {name: pair[0] for name, pair in widths.items()}
    limits = {**terms.limits} | {name: pair[1] for name, pair in widths.items()}
    used = {k: jnp.asarray(v, jnp.float32) for k, v in used.items()}
    limits = {k: jnp.asarray(v, jnp.float32) for k, v in limits.items()}
    latency, energy = jnp.sum(latencies), jnp.sum(energies)  # type: ignore[arg-type]
    fits = [used[k] <= limits[k] for k in limits]
    fits += [jnp.isfinite(latency), jnp.isfinite(energy)]
    return Cost(
        latency_s=latency,
        energy_j=energy,
        feasible=jnp.all(jnp.stack(fits)),
        resources=used,
        limits=limits,
        latencies_s=latencies,
        energies_j=energies,  # type: ignore[arg-type]
        bound=bound.astype(jnp.int32),
        seconds=seconds,
        joules=joules,
        moved=moved,
        bandwidth=bandwidth,
        unpriced=_unpriced(table, priced),
        bounds=(*names, "overhead"),
        left_out=tuple(np.array(table.names, object)[~priced]),
    )


def _padded(table: Workload, target: Target) -> Workload:
    """The workload with narrow numbers in the least width that a target has."""
    least_w, least_a = target.weight_widths[0], target.input_widths[0]
    least = jnp.where(np.array([bool(p) for p in table.paths]), least_w, least_a)
    return dataclasses.replace(
        table,
        weight_bits=jnp.maximum(table.weight_bits, least),
        input_bits=jnp.maximum(table.input_bits, least_a),
        output_bits=jnp.maximum(table.output_bits, least_a),
    )


def _widths(
    table: Workload, target: Target, priced: np.ndarray
) -> dict[str, tuple[Any, Any]]:
    """The widest weights and inputs of products that are priced, and the limits."""
    product = table.is_product & priced
    kernel = product & np.array([bool(path) for path in table.paths])
    most_w, most_a = target.weight_widths[1], target.input_widths[1]
    return {
        "weight_bits": (jnp.max(jnp.where(kernel, table.weight_bits, 0.0)), most_w),
        "input_bits": (jnp.max(jnp.where(product, table.input_bits, 0.0)), most_a),
    }


def _unpriced(table: Workload, priced: np.ndarray) -> dict[str, Array]:
    """Shares of the workload in rows that are not priced."""
    parts = {
        "macs": table.macs,
        "bytes": table.bytes,
        "operations": table.calls * (table.elements + table.functions),
    }
    return {
        name: jnp.sum(jnp.where(priced, 0.0, part)) / jnp.maximum(jnp.sum(part), 1e-30)
        for name, part in parts.items()
    }


def pareto(points: ArrayLike, feasible: ArrayLike | None = None) -> Array:
    """Returns which points no other one beats: bool [designs].

    A point is beaten by one that is at most as large in every objective and smaller in
    one; of equal points all stay. It takes designs^2 comparisons.

    Args:
      points: objectives to be small, [designs, objectives].
      feasible: bool [designs]; what is not feasible neither stays nor beats.

    Raises:
      ShapeError: points that are no matrix.
      InputError: NaN among them.

    Example:
      >>> pareto(np.array([[1.0, 4.0], [2.0, 2.0], [3.0, 3.0]])).tolist()
      [True, True, False]
    """
    if np.ndim(points) != 2:
        given = f"points of shape {np.shape(points)}"
        raise ShapeError(describe(given, "[designs, objectives]"))
    if not isinstance(points, Tracer) and np.isnan(np.asarray(points)).any():
        raise InputError(describe("NaN among the points", "numbers"))
    rows = jnp.asarray(points)
    allowed = jnp.ones(len(rows), bool) if feasible is None else jnp.asarray(feasible)

    def beaten(row: Array) -> Array:
        no_worse = jnp.all(rows <= row[None], axis=1)
        better = jnp.any(rows < row[None], axis=1)
        return jnp.any(no_worse & better & allowed)

    return allowed & ~jax.lax.map(beaten, rows)


def summary(found: Cost) -> dict[str, Any]:
    """Returns totals in Python numbers: seconds, joules, resources, feasibility.

    `unpriced_macs` and the like are the shares of the workload that no total holds.
    """
    host = jax.device_get(
        (found.latency_s, found.energy_j, found.feasible, found.resources)
    )
    latency, energy, feasible, resources = host
    unpriced = jax.device_get(found.unpriced)
    return {
        "latency_s": float(latency),
        "energy_j": float(energy),
        "feasible": bool(feasible),
        **{name: float(value) for name, value in resources.items()},
        **{f"unpriced_{name}": float(value) for name, value in unpriced.items()},
    }
