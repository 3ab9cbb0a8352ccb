"""Bounds of sub-domains: below all samples, equal to the linear program, monotone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import seeds
from tests.verify.network_cases import Case, layers, mlp
from verify import beta, exact, regions
from verify.crown import hidden_bounds
from verify.network import network
from verify.programs import Shape, programs
from verify.reduce import Reducer, apply

SMALL = Case(mlp, layers(4, 8, 8, 1), (4,))
WIDE = Case(mlp, layers(4, 8, 8, 3), (4,))


@functools.cache
def tools(outputs, dtype):
    """The network, its hidden bounds compiled, and its reducer."""
    case = SMALL if outputs == 1 else WIDE
    params = case.params(np.random.default_rng(0), dtype)
    built = network(case.fn, params, jax.ShapeDtypeStruct((4,), dtype))
    return built, jax.jit(functools.partial(hidden_bounds, built)), Reducer(built)


def reduced_net(seed, outputs=1, dtype=np.float32, width=1.0):
    """A random network's parameters, region, and reduced form."""
    case = SMALL if outputs == 1 else WIDE
    built, hidden, reducer = tools(outputs, dtype)
    rng = np.random.default_rng(seed)
    params = case.params(rng, dtype)
    x = rng.normal(size=4)
    region = regions.outward(regions.box(x - width, x + width), dtype)
    weights = built.prepare(params)
    found = reducer(weights, hidden(weights, region), (16, 16))
    return params, region, found, rng


@functools.cache
def batch_bound(outputs, dtype, config):
    """`bound_batch` of reduced networks, compiled once."""
    with jax.enable_x64(dtype == np.float64):
        net = programs(Shape(4, (16, 16), outputs, np.dtype(dtype).name)).network

    @jax.jit
    def run(params, region, hidden, domains):
        weights = net.prepare(params)
        return beta.bound_batch(net, weights, region, hidden, domains, config)

    return run


def random_splits(reduced, rng, count, share=0.4):
    """Signs of a share of the unstable neurons, [count, n_k] by layer."""
    found = []
    for index, size in zip(reduced.index, reduced.sizes, strict=True):
        signs = rng.choice([-1, 1], (count, size)) * (
            rng.uniform(size=(count, size)) < share
        )
        signs[:, len(index) :] = 0
        found.append(signs.astype(np.int8))
    return tuple(found)


def domains_of(C, d, splits, rng=None, weights=None, dtype=np.float32):
    """Sub-domains with alpha of a half and beta of zero, or both random."""
    count = len(splits[0])
    C, d = np.broadcast_to(C, (count, *C.shape)), np.broadcast_to(d, (count, *d.shape))
    if weights is None:
        weights = np.full(d.shape, 1 / d.shape[1])
    draw = lambda s, most: (  # noqa: E731
        np.zeros(s.shape) + most / 2 * (most == 1)
        if rng is None
        else rng.uniform(0, most, s.shape)
    )
    values = (
        C,
        d,
        weights,
        splits,
        tuple(draw(s, 1) for s in splits),
        tuple(draw(s, 3) for s in splits),
    )
    cast = lambda a: jnp.asarray(a, a.dtype if a.dtype == np.int8 else dtype)  # noqa: E731
    return beta.Domains(*jax.tree.map(cast, values))


def with_signs(params, splits, reduced, points):
    """Which points have the signs of each sub-domain, [B, points]."""
    z0 = points @ params["fc0"] + params["fc0_bias"]
    z1 = np.maximum(z0, 0) @ params["fc1"] + params["fc1_bias"]
    fits = True
    for z, signs, index in zip((z0, z1), splits, reduced.index, strict=True):
        own = signs[:, None, : len(index)] * z[None, :, index]
        fits &= (own >= 0).all(-1)
    return fits


ONCE = beta.BetaConfig(steps=0)
ROW, ZERO = np.ones((1, 1)), np.zeros(1)


@settings(max_examples=20)
@given(seeds, st.sampled_from([0.2, 1.0]))
def test_any_alpha_and_beta_bound_all_points_with_the_signs(seed, width):
    """A wrong sign of beta, or a cut of the wrong side, fails here."""
    params, region, reduced, rng = reduced_net(seed, width=width)
    splits = random_splits(reduced, rng, 16)
    domains = domains_of(ROW * rng.choice([-1, 1]), ZERO, splits, rng)
    run = batch_bound(1, np.float32, ONCE)
    found = run(reduced.params, region, reduced.hidden, domains)
    points = np.asarray(region.sample(jax.random.key(seed), 10_000))
    fits = with_signs(params, splits, reduced, points)
    h = np.maximum(points @ params["fc0"] + params["fc0_bias"], 0)
    h = np.maximum(h @ params["fc1"] + params["fc1_bias"], 0)
    y = (h @ params["fc2"] + params["fc2_bias"])[:, 0] * float(domains.C[0, 0, 0])
    least = np.where(fits, y[None], np.inf).min(-1)
    assert np.isfinite(found.lower).all()
    assert (np.asarray(found.lower) <= least + 1e-4).all()


def test_optimised_bounds_rise_and_multipliers_stay_in_their_sets():
    _, region, reduced, rng = reduced_net(5)
    splits = random_splits(reduced, rng, 16)
    domains = domains_of(ROW, ZERO, splits)
    args = (reduced.params, region, reduced.hidden, domains)
    before = batch_bound(1, np.float32, ONCE)(*args)
    after = batch_bound(1, np.float32, beta.BetaConfig(20))(*args)
    assert (after.lower >= before.lower).all()
    assert (after.lower > before.lower + 1e-3).any()
    for alpha, multiplier in zip(after.domains.alpha, after.domains.beta, strict=True):
        assert ((alpha >= 0) & (alpha <= 1)).all()
        assert (multiplier >= 0).all()
    cut = batch_bound(1, np.float32, beta.BetaConfig(20, beta=False))(*args)
    assert float(after.lower.sum()) > float(cut.lower.sum())


def test_the_bound_of_kept_multipliers_is_the_one_returned():
    _, region, reduced, rng = reduced_net(6)
    domains = domains_of(ROW, ZERO, random_splits(reduced, rng, 16))
    args = (reduced.params, region, reduced.hidden)
    found = batch_bound(1, np.float32, beta.BetaConfig(20))(*args, domains)
    again = batch_bound(1, np.float32, ONCE)(*args, found.domains)
    np.testing.assert_allclose(again.lower, found.lower, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2, 4, 5, 7])
def test_the_optimum_is_that_of_the_linear_program(seed):
    """Equation 8 is the dual of the triangle relaxation with split signs."""
    with jax.enable_x64(True):
        _, region, reduced, rng = reduced_net(seed, dtype=np.float64)
        splits = random_splits(reduced, rng, 16, 0.3)
        domains = domains_of(ROW, ZERO, splits, dtype=np.float64)
        config = beta.BetaConfig(20_000, 0.02, 0.1, 0.9997)
        run = batch_bound(1, np.float64, config)
        found = np.asarray(run(reduced.params, region, reduced.hidden, domains).lower)
    exact_bounds = np.array(
        [
            exact.lp_bound(
                reduced.params,
                region,
                ROW[0],
                0.0,
                reduced.hidden,
                [s[k] for s in splits],
            )
            for k in range(16)
        ]
    )
    feasible = np.isfinite(exact_bounds)
    assert feasible.sum() >= 4
    assert (found <= exact_bounds + 1e-7).all()
    np.testing.assert_allclose(found[feasible], exact_bounds[feasible], atol=2e-4)


def test_weights_of_rows_are_optimised_and_stay_a_simplex():
    """Two rows that are never both at most zero, though each of them can be."""
    _, region, reduced, _ = reduced_net(7, outputs=3)
    C = np.array([[1.0, 0, 0], [-1.0, 0, 0]])
    d = np.array([0.05, 0.05])
    splits = tuple(np.zeros((16, 16), np.int8) for _ in range(2))
    weights = np.tile([0.9, 0.1], (16, 1))
    domains = domains_of(C, d, splits, weights=weights)
    run = batch_bound(3, np.float32, beta.BetaConfig(100, decay=1.0))
    found = run(reduced.params, region, reduced.hidden, domains)
    kept = np.asarray(found.domains.weights)
    assert (found.lower > 0).all()
    assert (kept >= 0).all()
    np.testing.assert_allclose(kept.sum(-1), 1, atol=1e-5)
    np.testing.assert_allclose(kept, 0.5, atol=0.1)


def test_a_nan_is_never_better():
    _, region, reduced, rng = reduced_net(8)
    domains = domains_of(ROW, np.full(1, np.nan), random_splits(reduced, rng, 16))
    run = batch_bound(1, np.float32, beta.BetaConfig(20))
    found = run(reduced.params, region, reduced.hidden, domains)
    assert (found.lower == -np.inf).all()


def test_padded_neurons_change_nothing():
    params, region, reduced, _rng = reduced_net(9, width=0.3)
    built, hidden, reducer = tools(1, np.float32)
    weights = built.prepare(params)
    sizes = tuple(len(index) for index in reduced.index)
    assert all(0 < n < 16 for n in sizes)
    bare = reducer(weights, hidden(weights, region), sizes)
    points = np.asarray(region.sample(jax.random.key(0), 100))
    found, y = (
        jax.vmap(functools.partial(apply, form.params))(points)
        for form in (reduced, bare)
    )
    np.testing.assert_allclose(found, y, rtol=1e-6, atol=1e-6)
    whole = jax.vmap(functools.partial(SMALL.fn, params))(points)
    np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-5)
    for layer, bounds, n in zip(
        reduced.params["layers"], reduced.hidden, sizes, strict=True
    ):
        assert (layer["matrix"][:, n:] == 0).all()
        assert (layer["bias"][n:] == -1).all()  # inactive
        assert (bounds.upper[n:] == -1).all()
