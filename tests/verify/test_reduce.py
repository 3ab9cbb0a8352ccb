"""The dense form of a ReLU network is the network within its region."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings

import verify
from core.errors import GraphError, NonFiniteError
from tests.strategies import boxes, seeds
from tests.verify.network_cases import CASES
from verify import crown, reduce, regions
from verify.reduce import Reducer, apply


@functools.cache
def tools(name):
    case = CASES[name]
    params = case.params(np.random.default_rng(0))
    net = verify.network(case.fn, params, np.zeros(case.input_shape, np.float32))
    hidden = jax.jit(functools.partial(crown.hidden_bounds, net))
    many = jax.jit(jax.vmap(case.fn, (None, 0)))
    return case, net, hidden, Reducer(net), many


@pytest.mark.parametrize("name", ["conv", "residual", "pools"])
def test_the_reduced_network_is_the_network_within_the_region(name):
    case, net, hidden, reducer, many = tools(name)

    @settings(max_examples=5)
    @given(seeds, boxes(case.input_shape))
    def check(seed, ends):
        params = case.params(np.random.default_rng(seed))
        weights = net.prepare(params)
        region = regions.outward32(regions.box(*ends))
        found = hidden(weights, region)
        largest = [reduce.ladder(int(np.prod(v.shape))) for v in reducer.layers]
        reduced = reducer(weights, found, largest)
        assert reduced.sizes == tuple(largest)
        points = region.sample(jax.random.key(seed), 200)
        y = many(params, points).reshape(200, -1)
        flat = points.reshape(200, -1)
        same = reduced_outputs(reduced.params, flat)
        np.testing.assert_allclose(same, y, rtol=1e-4, atol=1e-4)

    check()


reduced_outputs = jax.jit(jax.vmap(apply, (None, 0)))


def test_bounds_and_neurons_are_those_that_are_unstable():
    case, net, hidden, reducer, _ = tools("dense")
    rng = np.random.default_rng(3)
    params, x = case.params(rng), rng.normal(size=6)
    weights = net.prepare(params)
    region = regions.outward32(regions.box(x - 0.3, x + 0.3))
    found = hidden(weights, region)
    reduced = reducer(weights, found)
    for bounds, index, box in zip(found, reduced.index, reduced.hidden, strict=True):
        low, high = np.asarray(bounds.lower), np.asarray(bounds.upper)
        np.testing.assert_array_equal(index, np.flatnonzero((low < 0) & (high > 0)))
        np.testing.assert_array_equal(box.lower[: len(index)], low[index])
        np.testing.assert_array_equal(box.upper[: len(index)], high[index])
        assert (box.upper[len(index) :] < 0).all()
    assert reduced.unstable == sum(map(len, reduced.index)) > 0
    assert all(n >= len(i) for n, i in zip(reduced.sizes, reduced.index, strict=True))
    for bias, index, name in zip(reduced.bias, reduced.index, "01", strict=True):
        own = params[f"fc{name}_bias"][index]
        np.testing.assert_allclose(bias[: len(index)], own, atol=1e-6)


def test_a_point_leaves_nothing_unstable():
    case, net, hidden, reducer, many = tools("conv")
    rng = np.random.default_rng(4)
    params = case.params(rng)
    x = rng.normal(size=case.input_shape).astype(np.float32)
    weights = net.prepare(params)
    reduced = reducer(weights, hidden(weights, regions.Region(x, x)))
    assert reduced.unstable <= 1  # a neuron within rounding of zero
    y = apply(reduced.params, x.ravel())
    np.testing.assert_allclose(y, many(params, x[None])[0], rtol=1e-4, atol=1e-4)


def test_what_can_not_be_reduced_is_named():
    case = CASES["activations"]
    params = case.params(np.random.default_rng(0))
    net = verify.network(case.fn, params, np.zeros(4, np.float32))
    with pytest.raises(GraphError, match="ReLUs only"):
        Reducer(net)
    case, net, hidden, reducer, _ = tools("dense")
    params = case.params(np.random.default_rng(0))
    params["fc0_bias"][2] = np.nan
    weights = net.prepare(params)
    region = regions.outward32(regions.box(-np.ones(6), np.ones(6)))
    with pytest.raises(NonFiniteError, match="NaN among the weights"):
        reducer(weights, hidden(weights, region))


def test_sizes_of_the_ladder():
    found = [reduce.ladder(n) for n in (0, 16, 17, 33, 49, 65, 97, 129, 200)]
    assert found == [16, 16, 32, 48, 64, 96, 128, 192, 256]
