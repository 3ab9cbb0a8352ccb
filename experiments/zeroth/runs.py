"""Methods on problems: all rates and seeds of a method in one program."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import zo
from core.errors import InputError, describe
from core.types import Array
from experiments.zeroth.arms import ARMS, MU
from experiments.zeroth.problems import (
    Data,
    Problem,
    batch,
    loss,
    measured,
    snapshot,
    snapshot_cost,
    start,
)

FACTORS = tuple(2 ** (i / 2) for i in range(-4, 5))
"""Rates that every method is tried with, in units of the problem; steps are constant.

In steps of sqrt(2): the queries to a target jump where the floor of a rate passes it,
so with steps of 2 luck decided which method had a rate just below.
"""
FALLING = tuple(2.0**i for i in range(-4, 6))
"""The same where steps fall, over a range in which every problem's best rate is."""
EVERY = 20
"""Steps between measurements."""
DELAY = 50.0
"""The delay of decaying steps, see `Problem.power`."""


def rates(problem: Problem, arm: str, decaying: bool) -> np.ndarray:
    """Returns the rates that a method is tried with."""
    unit = problem.unit if ARMS[arm].unit == "gradient" else problem.unit_sign
    return np.asarray(FALLING if decaying else FACTORS) * unit


def curves(
    problem: Problem,
    arm: str,
    seeds: tuple[int, ...],
    *,
    budget: int,
    probes: int,
    size: int,
    decaying: bool,
) -> dict[str, Any]:
    """Returns what a method reaches with every rate and seed.

    Args:
      problem: see `problems`.
      arm: a name of `ARMS`.
      seeds: a start, mini-batches and directions each.
      budget: queries of a run.
      probes: directions or coordinates of a step.
      size: rows of a mini-batch.
      decaying: whether steps fall as the problem's theory says, or stay.

    Returns:
      "rates" [r]; "queries" [k], at each measurement; "start" [seeds]; "values" [r,
      seeds, k], of the problem's measure.

    Raises:
      InputError: a budget below the steps before the first measurements.
    """
    data, tried = problem.data, rates(problem, arm, decaying)
    optimizer, d = _made(arm, 1.0, probes, data, size), data.scales.size
    least = optimizer.queries(d, WINDOW * EVERY)
    if budget < least:
        wanted = f"at least {least} for {ARMS[arm].title}"
        raise InputError(f"--budget: {describe(budget, wanted)}")
    count = optimizer.steps(d, budget) // EVERY
    program = _program(arm, probes, size, count)
    first, values = program(
        data,
        jnp.asarray(seeds, jnp.uint32),
        jnp.asarray(tried, jnp.float32),
        jnp.float32(problem.power if decaying else 0.0),
    )
    return {
        "rates": tried.tolist(),
        "queries": [optimizer.queries(d, EVERY * (i + 1)) for i in range(count)],
        "start": np.asarray(first[0]).tolist(),
        "values": np.asarray(values).tolist(),
    }


def _made(arm: str, rate: Any, probes: int, data: Data, size: int) -> zo.Optimizer:
    """The optimizer of an arm; one with snapshots counts what they show."""
    optimizer = ARMS[arm].make(rate, probes, MU)
    if not isinstance(optimizer, zo.SVRG):
        return optimizer
    return dataclasses.replace(optimizer, full_cost=snapshot_cost(data, size))


@functools.cache
def _program(arm: str, probes: int, size: int, count: int) -> Any:
    """All rates and seeds of a method; problems of one shape share what it compiles."""

    def run(data: Data, seed: Array, rate: Array, power: Array) -> tuple[Array, Array]:
        optimizer = _made(arm, _falling(rate, power), probes, data, size)
        begin, go = jax.random.split(jax.random.key(seed))
        x = start(data, begin)

        def block(carry: Any, key: Array) -> tuple[Any, Array]:
            snap, go = jax.random.split(key)
            # The steps between snapshots are some of these blocks: one draw will do.
            full = snapshot(data, snap, size)

            def one(carry: Any, key: Array) -> tuple[Any, None]:
                draw, probe = jax.random.split(key)
                f = loss(data, batch(data, draw, size))
                if ARMS[arm].knows:
                    carry = _told(carry, f)
                if isinstance(optimizer, zo.SVRG):
                    x, state, _ = optimizer.step(probe, f, *carry, full=full)
                else:
                    x, state, _ = optimizer.step(probe, f, *carry)
                return (x, state), None

            keys = jax.random.split(go, EVERY)
            carry, _ = jax.lax.scan(one, carry, keys)
            return carry, measured(data, carry[0])

        keys = jax.random.split(go, count)
        _, values = jax.lax.scan(block, (x, optimizer.init(x)), keys)
        return measured(data, x), values

    over_seeds = jax.vmap(run, (None, 0, None, None))
    return jax.jit(jax.vmap(over_seeds, (None, None, 0, None)))


def _falling(rate: Array, power: Array) -> Callable[[Array], Array]:
    """The rate by the step: rate / (1 + t / DELAY)^power."""
    return lambda step: rate * (1 + step.astype(jnp.float32) / DELAY) ** -power


def _told(carry: Any, f: Callable[[Array], Array]) -> Any:
    """The state of a hybrid estimator that knows |g_i| of the mini-batch."""
    x, state = carry
    memory = state.estimate.memory._replace(magnitudes=jnp.abs(jax.grad(f)(x)))
    return x, state._replace(estimate=state.estimate._replace(memory=memory))


WINDOW = 3
"""Measurements whose mean has to be below a target: losses of noisy steps dip."""


def hits(found: dict[str, Any], target: float) -> np.ndarray:
    """Returns the queries to a share of the first value, [r, seeds]; inf if never."""
    values, first = np.asarray(found["values"]), np.asarray(found["start"])
    windows = np.lib.stride_tricks.sliding_window_view(values, WINDOW, -1)
    below = windows.mean(-1) <= target * first[None, :, None]
    queries = np.asarray(found["queries"], float)[WINDOW - 1 :]
    return np.where(below.any(-1), queries[below.argmax(-1)], np.inf)


def best_rate(score: np.ndarray) -> int:
    """Returns which rate has the least median score over seeds, from [r, seeds].

    Of equal ones, as where a target was never reached, the middle of the grid.
    """
    medians = np.median(np.where(np.isnan(score), np.inf, score), axis=1)
    middle = np.abs(np.arange(len(medians)) - len(medians) // 2)
    return int(np.lexsort((middle, medians))[0])


def average(values: np.ndarray) -> np.ndarray:
    """Returns the mean of each row [..., k] up to each entry."""
    return np.cumsum(values, -1) / np.arange(1, values.shape[-1] + 1)


def slope(queries: np.ndarray, values: np.ndarray) -> float:
    """Returns that of log values over log queries, in the last two thirds of them."""
    late = queries >= queries[-1] / 3
    return float(np.polyfit(np.log(queries[late]), np.log(values[late]), 1)[0])


def median_interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval of the median of [n] numbers."""
    rng = np.random.default_rng(seed)
    draws = rng.choice(values, (2000, len(values)))
    medians = np.sort(np.median(draws, 1))  # some may be infinite
    return float(medians[50]), float(medians[-51])
