"""The checker's arithmetic against exact rationals, and its bounds against samples."""

from fractions import Fraction

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.verify import certificate_cases as cases
from verify import regions
from verify.certificate import RootLayer, balls, check, checking, passes
from verify.certificate.balls import Ball
from verify.certificate.linear import Chain, Negate, Product, Scale, Taps
from verify.certificate.plan import read
from verify.certificate.validate import validate

SEEDS = st.integers(0, 2**32 - 1)
EXACT = np.vectorize(Fraction, otypes=[object])


def wild(rng, *shape):
    """Numbers of very different sizes, zeros and subnormals among them."""
    size = 10.0 ** rng.integers(-12, 12, shape)
    found = rng.normal(size=shape) * size
    found[rng.random(shape) < 0.1] = 0.0
    found[rng.random(shape) < 0.05] = 5e-324
    return found


def ball_of(rng, *shape):
    mid = wild(rng, *shape)
    return Ball(mid, np.abs(mid) * 2.0 ** rng.integers(-60, -2, shape))


def corners(rng, ball):
    """Exact members of a ball."""
    share = EXACT(np.round(rng.uniform(-1, 1, ball.mid.shape), 3))
    return EXACT(ball.mid) + share * EXACT(ball.rad)


def contains(ball, members):
    """Whether all exact numbers are within their balls."""
    apart = np.abs(members - EXACT(ball.mid))
    return bool((apart <= EXACT(ball.rad)).all())


@given(SEEDS)
def test_every_operation_contains_the_exact_result(seed):
    rng = np.random.default_rng(seed)
    a, b = ball_of(rng, 3, 5), ball_of(rng, 3, 5)
    x, y = corners(rng, a), corners(rng, b)
    assert contains(balls.add(a, b), x + y)
    assert contains(balls.multiply(a, b), x * y)
    assert contains(balls.negate(a), -x)
    assert contains(balls.dot(a, b), (x * y).sum(1))
    assert contains(balls.dot(a, Ball(b.mid[:1], b.rad[:1])), (x * y[:1]).sum(1))
    low, high = balls.ends(a)
    assert (EXACT(low) <= x).all()
    assert (x <= EXACT(high)).all()
    assert contains(balls.between(low, high), x)
    w = ball_of(rng, 5, 4)
    assert contains(balls.matmul(a, w), x @ corners(rng, w))
    exact = balls.exact(w.mid)
    assert contains(
        balls.matmul(balls.exact(a.mid), exact), EXACT(a.mid) @ EXACT(w.mid)
    )
    nonzero = np.abs(a.mid) > 1e-300
    inverse = balls.reciprocal(a)
    members = np.where(nonzero, 1 / np.where(nonzero, x, Fraction(1)), Fraction(0))
    assert contains(Ball(*(np.where(nonzero, part, 0) for part in inverse)), members)


@given(SEEDS)
def test_chains_and_their_transposes_are_off_by_no_more_than_they_say(seed):
    rng = np.random.default_rng(seed)
    taps = Taps(rng.integers(-1, 6, (int(rng.integers(1, 40)), 24)), 6)
    weight, factor = ball_of(rng, 2, 3, 5), ball_of(rng, 1, 40)
    if rng.random() < 0.5:
        weight = balls.exact(weight.mid)
    chain = Chain([taps, Product(weight, 4), Negate(), Scale(factor)])
    full = np.zeros((6, 24), object) + Fraction(0)
    for row in taps.index:
        for out, at in enumerate(row):
            if at >= 0:
                full[at, out] += 1
    w, k = corners(rng, weight), corners(rng, factor)
    full = full.reshape(6, 2, 4, 3)
    full = np.stack([full[:, g] @ w[g] for g in (0, 1)], 1).reshape(6, 40) * -k
    x = ball_of(rng, 2, 6)
    members = corners(rng, x)
    assert contains(chain.forward(x), members @ full)
    rows = wild(rng, 2, 40)
    apart = EXACT(chain.pull(rows)) - EXACT(rows) @ full.T
    size = np.maximum(np.abs(x.mid[:1]), 1e-100)
    lost = (np.abs(apart) * EXACT(size)).sum(1)
    allowed = np.abs(EXACT(rows)) @ EXACT(chain.error(size)[0])
    assert (lost <= allowed + EXACT(size).sum() * Fraction(balls.TINY)).all()


@given(SEEDS)
def test_lines_lie_around_relu_at_the_ends_exactly(seed):
    rng = np.random.default_rng(seed)
    a, b = wild(rng, 1, 50), wild(rng, 1, 50)
    low, high = np.minimum(a, b), np.maximum(a, b)
    found = passes.lines(low, high)
    for z in (low, high, np.zeros_like(low)):
        inside = (low <= z) & (z <= high)
        exact, relu = EXACT(z), np.maximum(EXACT(z), 0)
        above = EXACT(found.high) * exact + EXACT(found.intercept)
        assert (above >= relu)[inside].all()
        assert (EXACT(found.low) * exact <= relu)[inside].all()
    assert ((found.low >= 0) & (found.low <= 1)).all()


def exact_bound(params, problem, certificate, hidden):
    """The bound of the first leaf in rationals, hidden bounds given."""
    leaf, spec = certificate.leaves[0], problem.property.clauses[0].spec
    region = problem.property.clauses[0].region
    row = EXACT(leaf.weights) @ EXACT(spec.C)
    total = (EXACT(leaf.weights) * EXACT(spec.d)).sum()
    for k in range(len(params) - 1, -1, -1):
        total += (row * EXACT(params[k]["bias"].astype(np.float64))).sum()
        row = row @ EXACT(params[k]["kernel"].astype(np.float64)).T
        if k == 0:
            break
        low, high = hidden.lower[k - 1][0], hidden.upper[k - 1][0]
        beta = np.zeros(low.size, object) + Fraction(0)
        signs = np.zeros(low.size, int)
        for (layer, neuron, sign), b in zip(leaf.path, leaf.beta, strict=True):
            if layer == k - 1:
                beta[neuron] += sign * Fraction(float(b))
                signs[neuron] = sign
        new = []
        slopes = dict(zip(*(part.tolist() for part in leaf.slopes[k - 1]), strict=True))
        for i, a in enumerate(row):
            lo, hi = Fraction(float(low[i])), Fraction(float(high[i]))
            if signs[i] > 0 or (signs[i] == 0 and lo >= 0):
                new.append(a)
            elif signs[i] < 0 or hi <= 0:
                new.append(Fraction(0))
            elif a >= 0:
                new.append(a * Fraction(slopes.get(i, float(hi > -lo))))
            else:
                new.append(a * hi / (hi - lo))
                total -= a * hi * lo / (hi - lo)
        row = np.asarray(new) - beta
    box = [EXACT(np.ravel(a)) for a in (region.lower, region.upper)]
    return total + (np.maximum(row, 0) * box[0] + np.minimum(row, 0) * box[1]).sum()


@pytest.mark.parametrize("seed", range(12))
def test_bounds_are_below_those_of_exact_arithmetic(seed):
    """Never above the rational bound of the same dual variables, and hardly below."""
    rng = np.random.default_rng(seed)
    params = cases.dense_params(seed, (3, 6, 5, 2))
    scale = np.float32(10.0 ** rng.integers(-3, 4))
    params = jax.tree.map(lambda a: a * scale, params)
    problem = cases.margin_problem(cases.dense, params, cases.UNIT_BOX, 0.1)
    roots = cases.crown_roots(problem)
    hidden = cases.root_bounds(problem, roots)
    path = [(0, 1, 1), (1, 2, -1), (0, 3, -1)]
    leaf = cases.plain_leaf(problem, 0, path, np.abs(wild(rng, 3)) * 1e-9)
    slopes = tuple((np.arange(n), rng.uniform(size=n)) for n in (6, 5))
    leaf = type(leaf)(leaf.clause, leaf.path, slopes, leaf.beta, np.array([0.7]))
    certificate = cases.certify(problem, [leaf, *siblings(problem, path)], roots)
    plan = passes_of(problem, certificate)
    exact = exact_bound(params, problem, certificate, hidden)
    size = sum(np.abs(p["kernel"]).sum() for p in params) * float(scale) ** 3
    assert Fraction(plan) <= exact
    assert float(exact - Fraction(plan)) <= 1e-11 * max(1.0, float(size), abs(plan))


def siblings(problem, path):
    """Leaves that complete the tree of one path."""
    for depth, (layer, neuron, sign) in enumerate(path):
        yield cases.plain_leaf(problem, 0, [*path[:depth], (layer, neuron, -sign)])


def passes_of(problem, certificate):
    """The checker's bound of the first leaf."""
    plan = read(problem)
    pieces = validate(problem, certificate, plan)
    region = problem.property.clauses[0].region
    tasks = checking._tasks(problem, pieces, np.arange(len(certificate.leaves)))
    roots = certificate.roots[0]
    return float(checking._leaf_bounds(problem, plan, pieces, tasks, region, roots)[0])


@pytest.mark.parametrize("seed", range(6))
def test_no_multiplier_lifts_a_bound_above_the_sampled_minimum(seed):
    """Any alpha in [0, 1] and beta >= 0, of roots and leaves, is sound in its leaf."""
    rng = np.random.default_rng(seed)
    params = cases.dense_params(seed, (3, 8, 8, 2))
    region = regions.box(-np.ones(3), np.ones(3))
    problem = cases.margin_problem(cases.dense, params, region, 0.1)
    points = np.asarray(region.sample(jax.random.key(seed), 10_000), np.float64)
    margins, signs = signed_margins(params, problem, points)
    every = np.arange(8)
    for _ in range(6):
        chosen = rng.permutation(16)[:3]
        path = [(int(c) // 8, int(c) % 8, int(rng.choice([-1, 1]))) for c in chosen]
        leaf = cases.plain_leaf(problem, 0, path, rng.exponential(size=3))
        slopes = tuple((every, rng.uniform(size=8)) for _ in range(2))
        leaf = type(leaf)(0, leaf.path, slopes, leaf.beta, np.ones(1))
        drawn = rng.uniform(size=(2, 8, 8))
        roots = (
            RootLayer(0, every, (), (), ()),
            RootLayer(1, every, (every,), (drawn[0],), (drawn[1],)),
        )
        leaves = [leaf, *siblings(problem, path)]
        bound = passes_of(problem, cases.certify(problem, leaves, (roots,)))
        inside = np.ones(len(points), bool)
        for layer, neuron, sign in path:
            inside &= sign * signs[layer][:, neuron] >= 0
        assert bound <= margins[inside].min(initial=np.inf) + 1e-12


def signed_margins(params, problem, points):
    h, signs = points, []
    for layer in params[:-1]:
        z = h @ layer["kernel"].astype(np.float64) + layer["bias"].astype(np.float64)
        signs.append(z)
        h = np.maximum(z, 0)
    y = h @ params[-1]["kernel"].astype(np.float64) + params[-1]["bias"].astype(float)
    spec = problem.property.clauses[0].spec
    return (y @ spec.C.T + spec.d)[:, 0], signs


def test_a_margin_below_the_rounding_error_is_not_proven():
    """1e16 + 1 - 1e16 is 1 in exact arithmetic; float64 cannot know."""
    params = [
        {
            "kernel": np.array([[1e16, 1.0, -1e16]], np.float32).T.copy(),
            "bias": np.zeros(1, np.float32),
        }
    ]
    region = regions.box([1.0] * 3, [1.0] * 3)
    problem = cases.margin_problem(cases.dense, params, region, 0.0, (1.0,))
    assert not check(problem, cases.certify(problem, [cases.plain_leaf(problem, 0)])).ok
