"""Rows and figures of `hge_synthetic`: variances, queries to a loss, slopes."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import zo
from core.types import Array
from experiments.results import Figure, Row, Series
from experiments.zeroth.arms import HGE, SCD, SGD
from experiments.zeroth.problems import Problem
from experiments.zeroth.runs import (
    FACTORS,
    average,
    best_rate,
    hits,
    median_interval,
    slope,
)

LAWS = ("normal", "Laplace", "one entry in ten")
GAIN = 1.3
"""Times fewer queries that the hybrid estimate is to take with heavy tails."""
TIE = 1.25
"""Times more or fewer queries that still count as a tie."""
SLACK = 0.1
"""What a fitted slope may be above that of theory."""
Found = Mapping[str, Any]
"""Curves of each method, as `runs.curves` returns them."""


def gradient(law: str, d: int) -> np.ndarray:
    """Returns a gradient of norm 1 whose entries have a law."""
    rng = np.random.default_rng(0)
    if law == "normal":
        g = rng.normal(size=d)
    elif law == "Laplace":
        g = rng.laplace(size=d)
    else:
        g = np.where(np.arange(d) % 10 == 0, rng.normal(size=d), 0)
    return (g / np.sqrt(np.square(g).sum())).astype(np.float32)


def variances(law: str, d: int, probes: int, draws: int) -> dict[str, list[float]]:
    """Returns [measured, closed form] of E||ghat - g||^2 / ||g||^2 by estimator.

    Args:
      law: of the gradient's entries.
      d: dimensions.
      probes: directions, and coordinates, of an estimate.
      draws: estimates.
    """
    g = jnp.asarray(gradient(law, d))
    best = zo.Hybrid(1, probes, 0.0, floor=1e-6, mu=0.1)
    mixed = zo.Hybrid(probes, probes, floor=1e-6, mu=0.1)
    known = mixed.start(d, g.dtype)._replace(magnitudes=jnp.abs(g))
    cases: dict[str, tuple[zo.Differences, Any]] = {
        "random directions": (zo.Random(probes, mu=0.1), ()),
        "uniform coordinates": (zo.Coordinate(probes, mu=0.1), ()),
        "coordinates by importance": (best, known),
        "hybrid, best weight in [0.05, 0.95]": (mixed, known),
    }
    found = {}
    keys = jax.random.split(jax.random.key(1), draws)
    for name, (estimator, memory) in cases.items():
        theory = (
            estimator.variance_at(g, memory)
            if isinstance(estimator, zo.Hybrid)
            else estimator.variance(g)
        )
        seen = _errors(estimator)(keys, g, memory).mean()
        found[name] = [float(seen), float(theory)]
    return found


@functools.cache
def _errors(estimator: zo.Differences) -> Any:
    """Squared errors of an estimator, one for each key; gradients share the program."""

    @jax.jit
    def errors(keys: Array, g: Array, memory: Any) -> Array:
        x = jnp.zeros_like(g)
        state = estimator.init(x)._replace(memory=memory)

        def one(key: Array) -> Array:
            f = functools.partial(jnp.vdot, g)
            return jnp.square(estimator.estimate(key, f, x, state)[0] - g).sum()

        return jax.lax.map(one, keys, batch_size=500)

    return errors


def variance_rows(found: Mapping[str, Mapping[str, Sequence[float]]]) -> Iterable[Row]:
    """Yields measured variances beside closed forms; they hold within 3 %."""
    for law, cases in found.items():
        for name, (seen, theory) in cases.items():
            holds = abs(seen / theory - 1) <= 0.03
            setting = f"{name}, {law}"
            metric = "variance over ||g||^2, beside its closed form (within 3 %)"
            yield Row(metric, setting, seen, baseline=theory, holds=holds)


def query_rows(
    problem: Problem, found: Found, target: float, judged: bool
) -> Iterable[Row]:
    """Yields queries to a share of the first loss, and the hybrid's gain.

    Args:
      problem: with steps of one size.
      found: curves by method, ZO-SGD, ZO-SCD and `HGE` among them.
      target: the share.
      judged: whether sizes and seeds are those of full mode.
    """
    reached = {}
    for title, each in found.items():
        score = hits(each, target)
        reached[title] = score[best_rate(score)]
        low, high = median_interval(reached[title])
        setting = f"{problem.title}, {title}, 95 % [{low:,.0f}, {high:,.0f}]"
        metric = f"median queries to {target:.0%} of the loss"
        yield Row(metric, setting, float(np.median(reached[title])))
    parts = {title: reached[title] for title in (SGD, SCD)}
    better = min(parts, key=lambda title: float(np.median(parts[title])))
    gain = _ratio(parts[better], reached[HGE], found[HGE]["queries"][-1])
    middle, (low, high) = float(np.median(gain)), median_interval(gain)
    setting = f"{problem.title}, over {better}, 95 % [{low:.2f}, {high:.2f}]"
    heavy = problem.name == "heavy"
    rule = f"at least {GAIN:g}" if heavy else f"a tie within {TIE:g}"
    holds = middle >= GAIN and low > 1 if heavy else 1 / TIE <= middle <= TIE
    metric = f"times fewer queries by {HGE} ({rule})"
    yield Row(metric, setting, middle, holds=holds if judged else None)


def _ratio(theirs: np.ndarray, ours: np.ndarray, budget: float) -> np.ndarray:
    """Queries over queries, seed by seed; 0 where ours never gets there.

    A rival that never gets there counts with the whole budget: a lower bound.
    """
    never = np.isinf(ours)
    return np.where(never, 0.0, np.minimum(theirs, budget) / np.where(never, 1.0, ours))


def slope_rows(problem: Problem, found: Found, judged: bool) -> Iterable[Row]:
    """Yields fitted slopes with decaying steps, which theory bounds for some methods.

    Args:
      problem: see `problems`.
      found: curves by method.
      judged: whether sizes and seeds are those of full mode.
    """
    for title, each in found.items():
        queries, values = np.asarray(each["queries"], float), _measure(problem, each)
        at = best_rate(values[..., -1])
        fits = [slope(queries, row) for row in values[at]]
        middle = float(np.median(fits))
        low, high = median_interval(np.asarray(fits))
        metric = f"slope of {_name(problem)} over queries (at most {problem.slope:g})"
        setting = f"{problem.title}, {title}, 95 % [{low:.2f}, {high:.2f}]"
        theory = title in (SGD, SCD) or title.startswith("HGE")
        holds = middle <= problem.slope + SLACK if theory and judged else None
        yield Row(metric, setting, middle, baseline=problem.slope, holds=holds)


def _name(problem: Problem) -> str:
    return "f - f*" if problem.measure == "gap" else "mean ||grad f||^2"


def _measure(problem: Problem, each: Any) -> np.ndarray:
    values = np.asarray(each["values"])
    return average(values) if problem.measure == "square" else values


def curve_figure(problem: Problem, found: Found, what: str) -> Figure:
    """Returns the median measure of each method at its best rate, by queries."""
    series = []
    for title, each in found.items():
        values = _measure(problem, each)
        at = best_rate(values[..., -1])
        medians = np.median(values[at], 0)
        series.append(Series(title, each["queries"], medians.tolist()))
    title = f"{problem.title}, {what}"
    return Figure(title, "line", "queries", _name(problem), series, True, True)


def variance_figure(found: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Returns measured variances of each estimator by law."""
    names = list(next(iter(found.values())))
    series = [
        Series(name, list(found), [found[law][name][0] for law in found])
        for name in names
    ]
    return Figure(
        "variance of the estimate", "bar", "entries of g", "E||ghat - g||^2", series
    )


def edges(found: Found) -> list[str]:
    """Returns the methods whose best last value is at an end of the grid of rates."""
    at = {
        title: best_rate(np.asarray(each["values"])[..., -1])
        for title, each in found.items()
    }
    return [title for title, i in at.items() if i in (0, len(FACTORS) - 1)]
