"""The contract of every relaxation, and what is special to some."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.verify.relaxation_cases import CASES, Case
from verify.relaxations import RULES
from verify.types import Bounds

N = 48  # intervals at once
POINTS = 65  # of each interval
SOME = ["relu", "mul", "tanh", "sqrt", "round", "sin", "pow", "integer_pow"]
"""One operator of every module of rules."""
TYPED = [(case, np.float32) for case in CASES]
TYPED += [
    (case, np.float64)
    for case in CASES
    if case.op in SOME and case.params.get("y", 3) in (3, -3)
]

each_case = pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.op}{c.params}")
each_typed = pytest.mark.parametrize(
    ("case", "dtype"), TYPED, ids=[f"{c.op}{c.params}-{d.__name__}" for c, d in TYPED]
)
seeds = st.integers(0, 2**32 - 1)


def test_every_rule_has_a_case_and_the_name_it_is_registered_by():
    assert {case.op for case in CASES} == set(RULES)
    assert all(rule.name == op for op, rule in RULES.items())


def intervals(case: Case, rng: np.random.Generator, dtype) -> list[Bounds]:
    """Bounds [N] of each operand: narrow and wide, tiny and huge, some one point."""
    return [_intervals(case, rng, dtype) for _ in range(case.operands)]


def _intervals(case: Case, rng, dtype) -> Bounds:
    low, high = case.domain
    scale = 10.0 ** rng.uniform(-7, 7, (2, N))
    scale = np.where(
        rng.random((2, N)) < 0.4, 10.0 ** rng.uniform(-1, 1, (2, N)), scale
    )
    center = rng.standard_normal(N) * scale[0]
    width = np.abs(rng.standard_normal(N)) * scale[1]
    width = np.where(rng.random(N) < 0.2, width * 1e-7 * np.abs(center), width)
    width = np.where(rng.random(N) < 0.1, 0.0, width)
    touch = rng.random(N)
    center = np.where(touch < 0.1, 0.5 * width, center)  # from 0.0
    center = np.where(touch > 0.9, -0.5 * width, center)  # up to 0.0
    center = np.where(np.abs(touch - 0.5) < 0.05, np.round(center), center)
    ends = np.clip([center - 0.5 * width, center + 0.5 * width], low, high)
    ends = ends.astype(dtype)
    return Bounds(ends[0], np.maximum(ends[0], ends[1]))


def grid(bounds: Bounds, dtype) -> np.ndarray:
    """Points [POINTS, N] of the intervals, the ends and 0.0 among them."""
    lower, upper = (np.asarray(end, np.float64) for end in bounds)
    share = np.linspace(0.0, 1.0, POINTS - 5)[:, None]
    near = lower + np.array([1e-3, 1e-2, 0.99, 0.999])[:, None] * (upper - lower)
    zero = np.zeros((1, N))
    points = np.concatenate([lower + share * (upper - lower), near, zero])
    points = np.clip(points, lower, upper).astype(dtype)
    return np.clip(points, *bounds)


@functools.cache
def compiled(op: str, params: tuple, dtype: str):
    """Interval, given lines, default lines and derivatives of a rule, as one call."""
    rule, params = RULES[op], dict(params)

    @jax.jit
    def run(bounds, known, alpha):
        def bounded(bounds, alphas):
            def lines_of(alpha):
                return rule.lines(*bounds, *known, alpha=alpha, **params)

            return rule.interval(*bounds, *known, **params), jax.vmap(lines_of)(alphas)

        initial = rule.initial(*bounds, *known, **params)
        (interval, lines), back = jax.vjp(bounded, bounds, jnp.stack([alpha, initial]))
        slopes = back(jax.tree.map(jnp.ones_like, (interval, lines)))
        given, default = (jax.tree.map(operator.itemgetter(k), lines) for k in (0, 1))
        return interval, given, default, initial, slopes

    return run


def rest(case: Case) -> dict:
    return {k: v for k, v in case.params.items() if k != "exponent"}


def operands(case: Case, bounds: list[Bounds]) -> list[Bounds]:
    if "exponent" not in case.params:
        return bounds
    known = jnp.full_like(bounds[0].lower, case.params["exponent"])
    return [*bounds, Bounds(known, known)]


def run(case: Case, bounds, alpha, dtype):
    ways = compiled(case.op, tuple(rest(case).items()), np.dtype(dtype).name)
    found = ways(bounds, operands(case, bounds)[case.operands :], alpha)
    return jax.tree.map(np.asarray, found)


def weights(case: Case, rng, dtype):
    alpha = rng.uniform(0, 1, (RULES[case.op].free, N))
    ends = rng.random(alpha.shape)
    alpha = np.where(ends < 0.2, 0.0, np.where(ends > 0.8, 1.0, alpha))
    return alpha.astype(dtype)


def values(case: Case, points: list[np.ndarray], slopes, intercept) -> np.ndarray:
    """A line at points, in float64."""
    found = np.asarray(intercept, np.float64)
    for slope, z in zip(slopes, points, strict=False):
        found = found + np.asarray(slope, np.float64) * z
    return found


def slack(case: Case, points, slopes, intercept, exact, dtype) -> np.ndarray:
    """What rounding may take where a rule does not give it away beforehand.

    In float64 the reference itself rounds.
    """
    if dtype == np.float32 and not case.rounds:
        return np.zeros(())
    terms = np.abs(intercept) + np.abs(exact)
    for slope, z in zip(slopes, points, strict=False):
        terms = terms + np.abs(slope * z)
    return 4.0 * np.finfo(dtype).eps * terms.astype(np.float64)


@each_typed
@example(seed=13501)  # products that underflow
@given(seed=seeds)
def test_bounds_hold_and_derivatives_are_finite(case, dtype, seed):
    rng = np.random.default_rng(seed)
    bounds = intervals(case, rng, dtype)
    with jax.enable_x64(dtype == np.float64):
        interval, lines, default, initial, slopes = run(
            case, bounds, weights(case, rng, dtype), dtype
        )
    points = [rng.permutation(grid(z, dtype)).astype(np.float64) for z in bounds]
    exact = case.exact(*points)
    for found in (lines, default):
        low = values(case, points, found.lower_slopes, found.lower_intercept)
        high = values(case, points, found.upper_slopes, found.upper_intercept)
        below = slack(case, points, *found[:2], exact, dtype)
        above = slack(case, points, *found[2:], exact, dtype)
        assert np.all(low <= exact + below)
        assert np.all(high >= exact - above)
    give = 4.0 * np.finfo(dtype).eps * np.abs(exact)
    give = give if dtype == np.float64 or case.op == "mul" else 0.0
    assert np.all(interval.lower <= exact + give)
    assert np.all(interval.upper >= exact - give)
    everything = (interval, lines, default, initial, slopes)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(everything))
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(everything))
    assert np.all((initial >= 0.0) & (initial <= 1.0))
    assert initial.shape == (RULES[case.op].free, N)
    _assert_tight(case, points, interval, default, exact)


def _assert_tight(case: Case, points, interval, default, exact):
    """In the middle, default lines are no worse than the interval."""
    if not case.monotone:
        return
    middle = [0.5 * (z.min(0) + z.max(0)) for z in points]
    low = values(case, middle, default.lower_slopes, default.lower_intercept)
    high = values(case, middle, default.upper_slopes, default.upper_intercept)
    terms = sum(np.abs(s * z.max(0)) for s, z in zip(default[0], points, strict=False))
    terms = terms + np.abs(exact).max(0) + np.abs(default[1]) + np.abs(default[3])
    give = 600.0 * np.finfo(interval.lower.dtype).eps * terms.astype(np.float64) + 1e-30
    assert np.all(low >= interval.lower - give)
    assert np.all(high <= interval.upper + give)


@pytest.mark.parametrize("op", SOME)
def test_vmap_and_jit_change_nothing(op):
    case = next(c for c in CASES[::-1] if c.op == op)
    rng = np.random.default_rng(3)
    bounds = operands(case, intervals(case, rng, np.float32))
    rule = functools.partial(RULES[op].lines, **rest(case))
    alpha = weights(case, rng, np.float32)

    def one(bounds, alpha):
        return rule(*bounds, alpha=alpha)

    together = jax.jit(one)(bounds, alpha)
    apart = jax.jit(jax.vmap(one, in_axes=(0, 1)))(bounds, alpha)
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(apart), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * np.abs(a).max())


def box(lower, upper) -> Bounds:
    return Bounds(jnp.float32(lower)[None], jnp.float32(upper)[None])


def test_relu_is_exact_where_its_sign_is_known_and_adaptive_elsewhere():
    relu = RULES["relu"]
    for lower, upper, slope in [(1.0, 2.0, 1.0), (-2.0, -1.0, 0.0), (0.0, 0.0, 0.0)]:
        for alpha in (0.0, 1.0):
            found = relu.lines(box(lower, upper), alpha=jnp.full((1, 1), alpha))
            assert [leaf.item() for leaf in jax.tree.leaves(found)] == [slope, 0] * 2
    found = relu.lines(box(-1.0, 3.0))
    assert [leaf.item() for leaf in jax.tree.leaves(found)] == [1.0, 0.0, 0.75, 0.75]
    assert relu.lines(box(-3.0, 1.0)).lower_slopes[0].item() == 0.0
    assert relu.initial(box(-3.0, 3.0)).item() == 0.0
    free = relu.lines(box(-1.0, 3.0), alpha=jnp.full((1, 1), 0.25))
    assert free.lower_slopes[0].item() == 0.25


@pytest.mark.parametrize(
    ("op", "lower", "upper", "params"),
    [
        ("log", 0.0, 1.0, {}),
        ("log", -1.0, 1.0, {}),
        ("log1p", -1.0, 1.0, {}),
        ("sqrt", -1e-6, 1.0, {}),
        ("rsqrt", 0.0, 1.0, {}),
        ("reciprocal", -1.0, 1.0, {}),
        ("reciprocal", 0.0, 1.0, {}),
        ("reciprocal", -1.0, 0.0, {}),
        ("integer_pow", -1.0, 1.0, {"y": -2}),
        ("exp", 0.0, 1000.0, {}),
        ("square", 0.0, 1e25, {}),
        ("tanh", np.nan, 1.0, {}),
        ("log", np.nan, np.nan, {}),
        ("square", -np.inf, np.inf, {}),
        ("reciprocal", 1.0, np.nan, {}),
    ],
)
def test_outside_of_its_domain_a_rule_says_nothing(op, lower, upper, params):
    found = RULES[op].interval(box(lower, upper), **params)
    assert not (np.isfinite(found.lower).all() and np.isfinite(found.upper).all())
    assert not np.isnan(jax.tree.leaves(found)).any()
    slope, low, _, high = jax.tree.leaves(RULES[op].lines(box(lower, upper), **params))
    assert slope == 0.0
    assert not (np.isfinite(low).all() and np.isfinite(high).all())
    assert (low, high) == found


def test_an_unknown_exponent_says_nothing():
    found = RULES["pow"].interval(box(1.0, 2.0), box(1.0, 2.0))
    assert (found.lower.item(), found.upper.item()) == (-np.inf, np.inf)


@pytest.mark.parametrize("op", ["floor", "ceil", "round", "sign"])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_a_step_is_exact_within_one_tread(op, alpha):
    found = RULES[op].lines(box(2.6, 2.9), alpha=jnp.full((2, 1), alpha))
    value = {"floor": 2.0, "ceil": 3.0, "round": 3.0, "sign": 1.0}[op]
    assert [leaf.item() for leaf in jax.tree.leaves(found)] == [0.0, value] * 2


@pytest.mark.parametrize("half", [0.5, 1.5, -0.5, -1.5])
@pytest.mark.parametrize("method", [0, 1])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_round_bounds_either_way_to_break_ties(half, method, alpha):
    value = jax.lax.round(half, jax.lax.RoundingMethod(method))
    for z in (box(half - 0.7, half), box(half, half + 0.7), box(half - 1, half + 1)):
        low, shift, high, top = jax.tree.leaves(
            RULES["round"].lines(
                z, alpha=jnp.full((2, 1), alpha), rounding_method=method
            )
        )
        assert low * half + shift <= value <= high * half + top


def test_planes_of_a_product_meet_it_in_the_corners():
    x, y = box(-1.0, 3.0), box(2.0, 5.0)
    for weight, corner in [(0.0, (-1.0, 2.0)), (1.0, (3.0, 5.0))]:
        found = RULES["mul"].lines(x, y, alpha=jnp.full((2, 1), weight))
        value = sum(s * z for s, z in zip(found.lower_slopes, corner, strict=True))
        np.testing.assert_allclose(
            value + found.lower_intercept, corner[0] * corner[1], rtol=1e-4
        )


@pytest.mark.parametrize("op", ["tanh", "logistic", "erf", "atan"])
def test_the_first_tangent_of_an_s_shape_runs_through_the_far_end(op):
    exact = next(c.exact for c in CASES if c.op == op)
    found = RULES[op].lines(box(-2.0, 6.0), alpha=jnp.zeros((2, 1)))
    far = found.upper_slopes[0] * -2.0 + found.upper_intercept
    np.testing.assert_allclose(far, exact(np.array([-2.0])), atol=1e-4)
    touch = np.linspace(0.0, 6.0, 10001)
    gap = found.upper_slopes[0] * touch + found.upper_intercept - exact(touch)
    assert 0.0 <= gap.min() < 1e-4


@pytest.mark.parametrize("op", ["tanh", "logistic", "exp", "square", "softplus"])
def test_default_lines_are_those_of_least_area(op):
    """No other parameter brings a line closer in the middle."""
    lines = jax.jit(RULES[op].lines)
    for lower, upper in [(-2.0, 1.0), (-0.5, 3.0), (0.5, 2.0), (-3.0, -1.0)]:
        z = box(lower, upper)
        default = lines(z)
        middle = 0.5 * (lower + upper)
        low = default.lower_slopes[0] * middle + default.lower_intercept
        high = default.upper_slopes[0] * middle + default.upper_intercept
        for weight in np.linspace(0.0, 1.0, 9, dtype=np.float32):
            alpha = jnp.full((RULES[op].free, 1), weight)
            other = lines(z, alpha=alpha)
            assert other.lower_slopes[0] * middle + other.lower_intercept <= low + 1e-5
            assert other.upper_slopes[0] * middle + other.upper_intercept >= high - 1e-5
