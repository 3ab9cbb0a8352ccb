"""Rows and figures of `hge_synthetic`: variances, queries to a loss, slopes."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import zo
from core.types import Array
from experiments.results import Figure, Row, Series
from experiments.zeroth.arms import (
    HGE,
    HGE_EMA,
    IMPORTANCE,
    ORACLE,
    SCD,
    SGD,
)
from experiments.zeroth.problems import Problem
from experiments.zeroth.runs import (
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
"""Times more or fewer queries that still count as a tie, for the median and both ends
of its interval."""
SLACK = 0.1
"""What a fitted slope may be above a bound of theory."""
RATE_SLACK = 0.2
"""What it may be off a rate of theory, either way; half of it is the steps' delay."""
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

    Closed forms are those of `closed_forms`, which knows nothing of the estimators.

    Args:
      law: of the gradient's entries.
      d: dimensions.
      probes: directions, and coordinates, of an estimate.
      draws: estimates.
    """
    g = jnp.asarray(gradient(law, d))
    theory, alpha = closed_forms(np.asarray(g), probes)
    mixed = zo.Hybrid(probes, probes, floor=1e-6, mu=0.1)
    best = dataclasses.replace(mixed, alpha=alpha)
    known = mixed.start(d, g.dtype)._replace(magnitudes=jnp.abs(g))
    cases: dict[str, tuple[zo.Differences, Any]] = {
        RANDOM: (zo.Random(probes, mu=0.1), ()),
        UNIFORM: (zo.Coordinate(probes, mu=0.1), ()),
        BY_IMPORTANCE: (dataclasses.replace(mixed, samples=0), known),
        BEST: (best, known),
        CLIPPED: (mixed, known),
    }
    found = {}
    keys = jax.random.split(jax.random.key(1), draws)
    for name, (estimator, memory) in cases.items():
        seen = _errors(estimator)(keys, g, memory).mean()
        found[name] = [float(seen), theory[name]]
    return found


RANDOM, UNIFORM = "random directions", "uniform coordinates"
BY_IMPORTANCE = "coordinates by importance"
BEST, CLIPPED = "hybrid, best weight", "hybrid, best weight in [0.05, 0.95]"


def closed_forms(g: np.ndarray, probes: int) -> tuple[dict[str, float], float]:
    """Returns the variances over ||g||^2 of the specification, and the best weight.

        V_r = (d - 1) / q,   V_u = d / c - 1,   V_c = sum_i g_i^2 (1 / p_i - 1),
        p_i = min(1, |g_i| / lam) with sum c,   alpha = V_c / (V_r + V_c),
        V = alpha^2 V_r + (1 - alpha)^2 V_c, which is V_r V_c / (V_r + V_c) at the best

    in float64, with lam by sorting: the first k that leaves |g|_(k + 1) <= lam_k = (sum
    of the rest) / (c - k).

    Args:
      g: [d], of norm 1.
      probes: q and c.
    """
    g = np.asarray(g, np.float64)
    g, d = g / np.sqrt(np.square(g).sum()), len(g)
    falling = np.sort(np.abs(g))[::-1]
    rest = falling.sum() - np.cumsum(falling) + falling
    levels = rest[:probes] / (probes - np.arange(probes))
    lam = levels[np.argmax(falling[:probes] <= levels)]
    p = np.minimum(1, np.abs(g) / lam)
    here = g != 0
    random = (d - 1) / probes
    chosen = float((np.square(g[here]) * (1 / p[here] - 1)).sum())
    alpha = chosen / (random + chosen)

    def mixed(alpha: float) -> float:
        return alpha**2 * random + (1 - alpha) ** 2 * chosen

    forms = {
        RANDOM: random,
        UNIFORM: d / probes - 1,
        BY_IMPORTANCE: chosen,
        BEST: mixed(alpha),
        CLIPPED: mixed(float(np.clip(alpha, 0.05, 0.95))),
    }
    return forms, alpha


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
    """Yields queries to a share of the first loss, and gains over ZO-SGD and ZO-SCD.

    The better of the two is compared, seed by seed. With heavy tails a gain holds where
    its median is at least `GAIN` and its interval above 1; without, a tie where median
    and interval are within `TIE`. Beside `HGE` stand HGE by running means, and, which
    nobody claims, the hybrid over its importance-sampled part alone and over one that
    knows the gradient.

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
    better = min((SGD, SCD), key=lambda title: float(np.median(reached[title])))
    heavy = problem.name == "heavy"
    pairs = [
        (HGE_EMA, better, True),
        (HGE, ORACLE, False),
        (HGE, IMPORTANCE, False),
        (HGE, better, True),
    ]
    for ours, theirs, claimed in pairs:
        if ours not in reached or theirs not in reached:
            continue
        gain = _ratio(reached[theirs], reached[ours], found[ours]["queries"][-1])
        middle, (low, high) = float(np.median(gain)), median_interval(gain)
        setting = f"{problem.title}, over {theirs}, 95 % [{low:.2f}, {high:.2f}]"
        rule = f"at least {GAIN:g}" if heavy else f"a tie within {TIE:g}"
        if heavy:
            holds = middle >= GAIN and low > 1
        else:
            holds = min(middle, low) >= 1 / TIE and max(middle, high) <= TIE
        metric = f"times fewer queries by {ours} ({rule if claimed else 'no claim'})"
        yield Row(metric, setting, middle, holds=holds if judged and claimed else None)


def _ratio(theirs: np.ndarray, ours: np.ndarray, budget: float) -> np.ndarray:
    """Queries over queries, seed by seed; 0 where ours never gets there.

    A rival that never gets there counts with the whole budget: a lower bound.
    """
    never = np.isinf(ours)
    return np.where(never, 0.0, np.minimum(theirs, budget) / np.where(never, 1.0, ours))


def slope_rows(problem: Problem, found: Found, judged: bool) -> Iterable[Row]:
    """Yields fitted slopes with decaying steps, which theory knows for some methods.

    Of the median over seeds, at the rate whose last value is least. A bound holds up to
    `SLACK` above it; a rate (strong convexity) within `RATE_SLACK` either way: what
    falls faster still is the way from the start, and no rate.

    Args:
      problem: see `problems`.
      found: curves by method.
      judged: whether sizes and seeds are those of full mode.
    """
    for title, each in found.items():
        queries, values = np.asarray(each["queries"], float), _measure(problem, each)
        at = best_rate(values[..., -1])
        fit = slope(queries, np.median(values[at], 0))
        low, high = _slope_interval(queries, values[at])
        rule = "about" if problem.is_rate else "at most"
        metric = f"slope of {_name(problem)} over queries ({rule} {problem.slope:g})"
        setting = f"{problem.title}, {title}, 95 % [{low:.2f}, {high:.2f}]"
        theory = title in (SGD, SCD) or title.startswith("HGE (")
        above = fit - problem.slope
        holds = abs(above) <= RATE_SLACK if problem.is_rate else above <= SLACK
        holds = holds if theory and judged else None
        yield Row(metric, setting, fit, baseline=problem.slope, holds=holds)


def _slope_interval(queries: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Returns the 95 % bootstrap interval over seeds of the slope of the median."""
    draws = np.random.default_rng(0).integers(0, len(values), (200, len(values)))
    fits = [slope(queries, np.median(values[draw], 0)) for draw in draws]
    low, high = np.quantile(fits, [0.025, 0.975])
    return float(low), float(high)


def _name(problem: Problem) -> str:
    names = {"gap": "f - f*", "mean gap": "mean f - f*"}
    return names.get(problem.measure, "mean ||grad f||^2")


def _measure(problem: Problem, each: Any) -> np.ndarray:
    values = np.asarray(each["values"])
    return values if problem.measure == "gap" else average(values)


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


def edges(problem: Problem, found: Found, target: float | None = None) -> list[str]:
    """Returns the methods whose best rate is at an end of the grid.

    Args:
      problem: see `problems`.
      found: curves by method.
      target: of `query_rows`, whose score it is then; that of `slope_rows` if None.
    """
    at_end = []
    for title, each in found.items():
        last = _measure(problem, each)[..., -1]
        score = last if target is None else hits(each, target)
        if best_rate(score) in (0, len(score) - 1):
            at_end.append(title)
    return at_end
