"""Probabilities of coordinates, and samples that have them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import optimize

import zo
from zo.coordinates import cumulated, uniform_sample

DRAWS = 20_000


magnitudes = hnp.arrays(
    np.float32,
    12,
    elements=st.one_of(
        st.just(0.0), st.floats(0, 1, width=32), st.floats(0, 2.0**100, width=32)
    ),
)


@given(magnitudes, st.integers(1, 12), st.sampled_from([0.0, 0.1, 1.0]))
def test_probabilities_are_probabilities(m, count, floor):
    p = np.asarray(zo.importance_probs(jnp.asarray(m), count, floor))
    assert np.all(p > 0)
    assert np.all(p <= 1)
    assert p.sum() == pytest.approx(count, rel=1e-4)
    assert np.all(1 / p <= 12 / max(floor * count, 1e-30) * 1.001)
    if m.max() == 0:
        np.testing.assert_allclose(p, count / 12, rtol=1e-5)
    order = np.argsort(m)
    assert np.all(np.diff(p[order]) >= -1e-6)


def test_a_floor_is_mixed_in():
    m = jnp.asarray([9.0, 1, 1, 0.5])
    best, mixed = (zo.importance_probs(m, 2, floor) for floor in (0.0, 0.2))
    np.testing.assert_allclose(mixed, 0.8 * best + 0.2 * 2 / 4, rtol=1e-6)
    assert (float(best[0]), float(mixed[0])) == (1, pytest.approx(1 - 0.2 * (1 - 0.5)))


@pytest.mark.oracle
def test_probabilities_are_those_of_least_variance():
    g = np.abs(np.random.default_rng(3).normal(size=8)) ** 3 + 0.01
    found = np.asarray(zo.importance_probs(jnp.asarray(g, jnp.float32), 3), float)
    best = optimize.minimize(
        lambda p: (g**2 / p).sum(),
        np.full(8, 3 / 8),
        jac=lambda p: -(g**2) / p**2,
        bounds=[(1e-6, 1)] * 8,
        constraints={
            "type": "eq",
            "fun": lambda p: p.sum() - 3,
            "jac": lambda p: np.ones(8),
        },
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )
    assert (g**2 / found).sum() == pytest.approx(best.fun, rel=1e-4)


def test_a_systematic_sample_has_its_probabilities_and_no_doubles():
    p = zo.importance_probs(jnp.asarray([5.0, 1, 1, 2, 0.1, 0.5, 0, 1]), 3, 0.1)
    keys = jax.random.split(jax.random.key(0), DRAWS)
    found = jax.jit(jax.vmap(lambda k: zo.systematic_sample(k, p, 3)))(keys)
    found = np.asarray(found)
    assert all(len(set(row)) == 3 for row in found[:500])
    rate = np.bincount(found.ravel(), minlength=8) / DRAWS
    np.testing.assert_allclose(rate, p, atol=4 * np.sqrt(0.25 / DRAWS))


@functools.cache
def pairs(d, count, uniform):
    """How often two coordinates come together, [d, d], over what independence says."""
    p = jnp.full((d,), count / d)
    draw = (
        (lambda key: uniform_sample(key, d, count))
        if uniform
        else (lambda key: zo.systematic_sample(key, p, count))
    )
    found = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(2), DRAWS))
    hit = np.zeros((DRAWS, d))
    np.put_along_axis(hit, np.asarray(found), 1, 1)
    assert hit.sum() == DRAWS * count
    return hit.T @ hit / DRAWS / (count * (count - 1) / (d * (d - 1)))


@pytest.mark.parametrize("uniform", [True, False])
def test_every_pair_of_coordinates_comes_together(uniform):
    """A comb of equal probabilities meets all teeth of a periodic gradient, or none."""
    together = pairs(20, 4, uniform)
    off = together[~np.eye(20, dtype=bool)]
    np.testing.assert_allclose(off, 1, atol=0.25)


def test_probabilities_of_many_coordinates_are_cumulated():
    """In float32, steps of 1e-6 and sums of 10 are as far apart as roundings."""
    d, count = 2_000_000, 10
    p = np.random.default_rng(0).uniform(0.2, 1.8, d).astype(np.float32)
    p *= count / p.sum()
    edges = np.asarray(cumulated(jnp.asarray(p), count), np.int64)
    widths = np.diff(edges, prepend=0) / edges[-1] * count
    np.testing.assert_allclose(widths, p, rtol=4e-3)


def test_samples_of_low_precision_reach_all_coordinates():
    for dtype in (jnp.bfloat16, jnp.float16):
        p = zo.importance_probs(jnp.ones(1000, dtype), 10)
        assert p.dtype == jnp.float32
        assert float(p.sum()) == pytest.approx(10, rel=1e-5)
        estimator = zo.Hybrid(3, 10)
        state = estimator.init(jnp.zeros(1000, dtype))
        assert state.memory.magnitudes.dtype == jnp.float32
