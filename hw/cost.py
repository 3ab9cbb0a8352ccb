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
      used: resources that the design takes, [] by name, with their unit in the name.
      limits: how much of those there is, [] by name; others are not limited.
    """

    seconds: dict[str, Array]
    overhead: Array
    joules: dict[str, Array]
    static_w: ArrayLike = 0.0
    used: Mapping[str, ArrayLike] = {}
    limits: Mapping[str, ArrayLike] = {}


@runtime_checkable
class Target(Protocol):
    """Hardware: a pytree of constants that knows what operators take.

    `terms` is pure and jittable; it is smooth in bits and densities wherever no
    resource overtakes another.
    """

    name: str

    def terms(self, workload: Workload) -> Terms:
        """Returns what the rows of a workload take."""
        ...


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=(
        *("latency_s", "energy_j", "feasible", "resources", "limits"),
        *("latencies_s", "energies_j", "bound", "seconds", "joules"),
    ),
    meta_fields=("bounds",),
)
@dataclasses.dataclass(frozen=True, eq=False)
class Cost:
    """What a workload costs.

    Invariants: `latency_s == sum(latencies_s)`, `energy_j == sum(energies_j)`; all are
    positive and finite for designs that are feasible and for those that are not.

    Attributes:
      latency_s: of all rows, one after another, [].
      energy_j: of all rows, [].
      feasible: whether every limited resource suffices, bool [].
      resources: what the design takes, [] by name.
      limits: what there is, [] by name.
      latencies_s: by row, [rows].
      energies_j: by row, [rows].
      bound: what holds a row up, an index in `bounds`, int32 [rows].
      seconds: of each resource alone, [rows] by name.
      joules: of each cause, [rows] by name.
      bounds: names of the resources, and 'overhead' at the end.
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
    bounds: tuple[str, ...]

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
    terms = target.terms(jax.tree.map(jnp.asarray, workload))
    names = tuple(terms.seconds)
    stacked = jnp.stack([terms.seconds[n] for n in names])
    slowest = jnp.max(stacked, axis=0)
    latencies = slowest + terms.overhead
    bound = jnp.where(terms.overhead > slowest, len(names), jnp.argmax(stacked, axis=0))
    joules: dict[str, Any] = {
        **terms.joules,
        "static": terms.static_w * latencies,
    }
    energies = sum(joules.values())
    used = {k: jnp.asarray(v, jnp.float32) for k, v in terms.used.items()}
    limits = {k: jnp.asarray(v, jnp.float32) for k, v in terms.limits.items()}
    fits = [used[k] <= limits[k] for k in limits]
    return Cost(
        latency_s=jnp.sum(latencies),
        energy_j=jnp.sum(energies),  # type: ignore[arg-type]
        feasible=jnp.all(jnp.stack(fits)) if fits else jnp.asarray(True),
        resources=used,
        limits=limits,
        latencies_s=latencies,
        energies_j=energies,  # type: ignore[arg-type]
        bound=bound.astype(jnp.int32),
        seconds=dict(terms.seconds),
        joules=joules,
        bounds=(*names, "overhead"),
    )


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
    """Returns totals in Python numbers: seconds, joules, resources, feasibility."""
    host = jax.device_get(
        (found.latency_s, found.energy_j, found.feasible, found.resources)
    )
    latency, energy, feasible, resources = host
    return {
        "latency_s": float(latency),
        "energy_j": float(energy),
        "feasible": bool(feasible),
        **{name: float(value) for name, value in resources.items()},
    }
