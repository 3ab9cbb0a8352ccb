"""Hidden bounds and rows by CROWN; what is unbounded, and what is not a number."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

import verify
from tests.strategies import boxes, seeds
from tests.verify.network_cases import CASES
from verify import crown, intervals, regions
from verify.rounding import rounding
from verify.types import Bounds

METHODS = ("interval", "crown-ibp", "crown")


def bound(fn, params, region, method):
    """`verify.bound`, compiled."""
    run = lambda params, region: verify.bound(fn, params, region, method=method)  # noqa: E731
    return jax.jit(run)(params, regions.outward32(region))


@functools.cache
def tools(name, config):
    case = CASES[name]
    params = case.params(np.random.default_rng(0))
    net = verify.network(case.fn, params, np.zeros(case.input_shape, np.float32))

    @jax.jit
    def hidden(params, region):
        return crown.hidden_bounds(net, net.prepare(params), region, config)

    @jax.jit
    def values(params, points):
        weights = net.prepare(params)

        def one(x):
            known = net.table(weights) | {net.input: x}
            for node in net.nodes:
                found = node(*(known[v] for v in node.inputs))
                known.update(zip(node.outputs, found, strict=True))
            return [known[v] for v in net.hidden]

        return jax.vmap(one)(points)

    return case, net, hidden, values


@pytest.mark.parametrize("name", ["conv", "residual"])
def test_no_hidden_value_leaves_its_bounds(name):
    case, _, hidden, values = tools(name, crown.CrownConfig())

    @settings(max_examples=10)
    @given(seeds, boxes(case.input_shape))
    def check(seed, ends):
        params = case.params(np.random.default_rng(seed))
        region = regions.outward32(regions.box(*ends))
        points = region.sample(jax.random.key(seed), 10_000)
        found = hidden(params, region)
        for z, (low, high) in zip(values(params, points), found, strict=True):
            slack = 1e-5 * (1 + np.abs(z).max(0))
            assert (low <= high).all()
            assert (np.asarray(z).min(0) >= low - slack).all()
            assert (np.asarray(z).max(0) <= high + slack).all()

    check()


@pytest.mark.parametrize("name", ["conv", "residual"])
def test_chunks_change_nothing_and_intersection_tightens(name):
    case, _, whole, _ = tools(name, crown.CrownConfig(intersect=False))
    parts = tools(name, crown.CrownConfig(intersect=False, chunk=5))[2]
    met = tools(name, crown.CrownConfig(chunk=5))[2]
    rng = np.random.default_rng(0)
    params, x = case.params(rng), rng.normal(size=case.input_shape)
    region = regions.outward32(regions.box(x - 0.1, x + 0.1))
    found = whole(params, region), parts(params, region), met(params, region)
    for k, (a, b, c) in enumerate(zip(*found, strict=True)):
        np.testing.assert_allclose(a.lower, b.lower, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(a.upper, b.upper, rtol=1e-4, atol=1e-5)
        # Neurons whose sign intervals decide may keep those; further on, the adaptive
        # slopes of closer bounds are others.
        is_open = (c.lower < 0) & (c.upper > 0) & (k < 2)
        assert (jnp.where(is_open, c.lower - a.lower, 0) >= -1e-5).all()
        assert (jnp.where(is_open, a.upper - c.upper, 0) >= -1e-5).all()


def test_a_capacity_is_sound_and_between_intervals_and_crown():
    case, _, full, values = tools("dense", crown.CrownConfig())
    few = tools("dense", crown.CrownConfig(capacity=3))[2]
    rng = np.random.default_rng(1)
    params, x = case.params(rng), rng.normal(size=case.input_shape)
    region = regions.outward32(regions.box(x - 0.5, x + 0.5))
    a, b = full(params, region)[1], few(params, region)[1]
    assert (b.lower <= a.lower + 1e-5).all()
    assert (b.upper >= a.upper - 1e-5).all()
    z = values(params, region.sample(jax.random.key(0), 1000))[1]
    assert (z >= b.lower[None] - 1e-5).all()
    assert (z <= b.upper[None] + 1e-5).all()


def test_bounds_that_cross_or_are_nan_meet():
    low, high = np.float32([0, 0, np.nan, -1]), np.float32([1, 1, np.nan, 1])
    other = Bounds(np.float32([2, 0.5, -3, np.nan]), np.float32([3, 0.7, 3, np.nan]))
    met = intervals.intersect(Bounds(low, high), other)
    np.testing.assert_array_equal(met.lower, np.float32([1, 0.5, -3, -1]))
    np.testing.assert_array_equal(met.upper, np.float32([2, 0.7, 3, 1]))


def attention(p, x):
    a = jax.nn.softmax((x @ p["q"]) @ (x @ p["k"]).T, axis=-1)
    return (a @ (x @ p["v"])).sum(0)


@pytest.mark.parametrize("method", ["interval", "crown"])
def test_bounds_of_attention_are_finite_where_exp_overflows(method):
    rng = np.random.default_rng(0)
    params = {n: 5 * rng.normal(size=(4, 4)).astype(np.float32) for n in "qkv"}
    x = rng.normal(size=(3, 4)).astype(np.float32)
    region = regions.box(x - 0.05, x + 0.05)
    low, high = bound(attention, params, region, method)
    y = attention(params, x)
    assert np.isfinite(low).all()
    assert np.isfinite(high).all()
    assert (low <= y).all()
    assert (y <= high).all()


@pytest.mark.parametrize("method", METHODS)
def test_what_is_unbounded_is_infinite_and_not_nan(method):
    def fn(p, x):
        z = x @ p
        return jnp.concatenate([1.0 / (1.0 + jnp.exp(z)), x, jnp.exp(z)])

    p = np.full((2, 1), 100.0, np.float32)
    region = regions.box(-np.ones(2), np.ones(2))
    low, high = bound(fn, p, region, method)
    np.testing.assert_allclose([low[1:3], high[1:3]], [[-1, -1], [1, 1]], atol=1e-5)
    assert high[3] == np.inf
    assert low[0] <= 1e-6
    assert high[0] >= 1 - 1e-6
    assert not np.isnan(low).any()
    assert not np.isnan(high).any()


@pytest.mark.parametrize("method", METHODS)
def test_weights_that_are_nan_give_no_bound(method):
    """Not even behind functions of bounded range."""

    def fn(p, x):
        h = jnp.clip(jnp.tanh(jax.nn.relu(x @ p["a"] + p["b"])), -1.0, 1.0)
        return h @ p["c"]

    p = {"a": np.ones((2, 3)), "b": np.array([0, np.nan, 0]), "c": np.ones((3, 1))}
    p = jax.tree.map(np.float32, p)
    region = regions.box(-np.ones(2), np.ones(2))
    low, high = bound(fn, p, region, method)
    assert not low[0] > -np.inf
    assert not high[0] < np.inf


def test_gradients_are_finite_where_bounds_meet():
    case = CASES["residual"]
    rng = np.random.default_rng(0)
    params = case.params(rng)
    x = rng.normal(size=case.input_shape).astype(np.float32)
    net = verify.network(case.fn, params, x)

    @jax.jit
    def grads(params, region):
        def width(params):
            low, high = verify.bound(case.fn, params, region, built=net)
            return (high - low).sum()

        return jax.grad(width)(params)

    for radius in (0.0, 0.1):
        region = regions.outward32(regions.box(x - radius, x + radius))
        for leaf in jax.tree.leaves(grads(params, region)):
            assert np.isfinite(leaf).all()


def test_rounding_is_a_margin_of_the_terms():
    region = regions.outward32(regions.box([-2.0, 1.0], [1.0, 3.0]))
    rows, offset = jnp.array([[1.0, -1.0], [0.0, 0.0]]), jnp.array([-4.0, 0.0])
    found = rounding(rows, offset, jnp.array([5.0, 0.0]), region)
    np.testing.assert_allclose(found, [1e-5 * (2 + 3 + 4 + 5), 0], rtol=1e-5)
    # A part of a ball whose centre is far outside, as a search of boxes meets it.
    ball = regions.outward32(regions.ball([300.0, 400.0], 500.0, "l2"))
    part = dataclasses.replace(ball, lower=region.lower * 0, upper=region.upper * 0)
    found = rounding(rows, offset * 0, offset * 0, part)
    terms = 300 + 400 + 500 * np.sqrt(2)
    np.testing.assert_allclose(found, [1e-5 * terms, 0], rtol=1e-5)
