"""`host` fitted to the machine at hand: microbenchmarks, then gradient descent."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from core.errors import InputError, describe
from core.text import columns
from core.types import Array
from hw.constants import replace, with_values
from hw.cost import cost
from hw.micro import Micro, micros, repeated, seconds_of
from hw.targets.devices import HOST
from hw.targets.processor import Processor
from hw.workload import Workload, distinct, workload

MEASURED = "measured on this machine"
_FITTED = (
    *("matmul", "conv", "depthwise", "attention", "half_rows", "half_terms"),
    *("half_columns", "elements", "functions", "windows", "near", "far", "cache"),
    *("overhead", "chain_overhead"),
)
_PRIOR = 0.02
"""How much a factor of e away from the first guess counts beside an error of e."""
_STEPS, _RATE = 1_000, 0.03


class Calibration(NamedTuple):
    """What `calibrate` found.

    Attributes:
      target: `host` with fitted constants.
      names: of the microbenchmarks.
      measured: their seconds.
      predicted: seconds by the target.
    """

    target: Processor
    names: tuple[str, ...]
    measured: np.ndarray
    predicted: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """|predicted / measured - 1| of each."""
        return np.abs(self.predicted / self.measured - 1)

    def __str__(self) -> str:
        """A line for each microbenchmark."""
        rows = [("", "measured ms", "predicted ms", "ratio")]
        for name, a, b in zip(self.names, self.measured, self.predicted, strict=True):
            rows.append((name, f"{1e3 * a:.4g}", f"{1e3 * b:.4g}", f"{b / a:.2f}"))
        return columns(rows)


def calibrate(
    benchmarks: Iterable[Micro] | None = None,
    timer: Callable[..., float] = seconds_of,
    start: Processor = HOST,
) -> Calibration:
    """Returns `host` as the machine at hand is: about two minutes on two cores.

    Measures small functions on JAX's default device and fits what a `Processor` has but
    its energies, its formats and `weight_cache`, by gradient descent on the squared
    logarithm of predicted over measured. Nothing else should run meanwhile.

    Args:
      benchmarks: what to measure; those of `hw.micro.micros` by default.
      timer: from a jitted function and its arguments to seconds.
      start: the first guess, which also says what is not measured.

    Raises:
      InputError: no benchmark, or a time that is not positive.
    """
    chosen = list(micros() if benchmarks is None else benchmarks)
    if not chosen:
        raise InputError(describe("no benchmarks", "at least one"))
    launch, measured = time_micros(chosen, timer)
    return fit(tables_of(chosen), measured, [m.name for m in chosen], launch, start)


def tables_of(chosen: Iterable[Micro]) -> list[Workload]:
    """Returns the operator tables of microbenchmarks."""
    return [distinct(workload(each.fn, each.params, each.x)) for each in chosen]


def time_micros(
    chosen: Iterable[Micro], timer: Callable[..., float] = seconds_of
) -> tuple[float, list[float]]:
    """Returns the seconds of a run that does nothing, and of each microbenchmark.

    Medians of three turns.
    """
    empty = functools.partial(timer, jax.jit(lambda x: x + 1), jnp.zeros(()))
    runs = [functools.partial(timer, jax.jit(m.fn), *m.arrays()) for m in chosen]
    launch, *times = repeated([empty, *runs])
    return launch, times


def fit(
    tables: list[Workload],
    measured: list[float],
    names: list[str],
    launch: float,
    start: Processor = HOST,
) -> Calibration:
    """Returns the processor that explains measured times best.

    Args:
      tables: what was run.
      measured: seconds of each.
      names: of each.
      launch: seconds of a run that does nothing.
      start: the first guess.

    Raises:
      InputError: a time that is not positive.
    """
    times = np.asarray(measured, np.float64)
    if not (np.isfinite(times).all() and (times > 0).all()):
        raise InputError(f"measured: {describe(times.min(), 'positive seconds')}")
    fastest = max(
        table.total_macs / seconds for table, seconds in zip(tables, times, strict=True)
    )
    peak = 1.25 * fastest if fastest else start.peak
    first = with_values(start, {"peak": peak, "launch": launch})
    logs = jnp.log(jnp.asarray([getattr(first, n) for n in _FITTED], jnp.float32))
    wanted = jnp.log(jnp.asarray(times, jnp.float32))

    def made(values: Array) -> Processor:
        new = {n: jnp.exp(values[i]) for i, n in enumerate(_FITTED)}
        return with_values(first, new)

    def predicted(values: Array) -> Array:
        target = made(values)
        return jnp.stack([cost(table, target).latency_s for table in tables])

    def loss(values: Array) -> Array:
        # Absolute errors weigh less than squares where a benchmark is explained by no
        # constant at all.
        error = jnp.log(predicted(values)) - wanted
        away = jnp.mean(optax.losses.huber_loss(error, delta=0.3))
        return away + _PRIOR * jnp.mean((values - logs) ** 2)

    optimizer = optax.adam(optax.cosine_decay_schedule(_RATE, _STEPS))

    @jax.jit
    def run(values: Array) -> tuple[Array, Array]:
        def step(carry: Any, _: None) -> Any:
            values, state = carry
            updates, state = optimizer.update(jax.grad(loss)(values), state, values)
            return (optax.apply_updates(values, updates), state), None

        (values, _), _ = lax.scan(step, (values, optimizer.init(values)), None, _STEPS)
        return values, predicted(values)

    with jax.numpy_dtype_promotion("standard"):  # as optax is written
        values, seconds = jax.device_get(run(logs))
    constants = {n: float(np.exp(values[i])) for i, n in enumerate(_FITTED)}
    target = replace(
        start,
        "fitted",
        f"{MEASURED}: {jax.devices()[0].device_kind}",
        **constants,  # type: ignore[arg-type]
        peak=peak,
        launch=launch,
    )
    return Calibration(target, tuple(names), times, np.asarray(seconds, np.float64))
