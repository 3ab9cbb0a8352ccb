"""No output leaves its bounds, whatever the method, the region and the operators."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import verify
from core.errors import GraphError, InputError, ShapeError
from tests.verify.network_cases import CASES, PIECEWISE_LINEAR
from verify.regions import Region

FAST = ("interval", "crown-ibp", "crown")


@functools.cache
def built(name):
    case = CASES[name]
    params = case.params(np.random.default_rng(0))
    example = jax.ShapeDtypeStruct(case.input_shape, np.float32)
    return verify.network(case.fn, params, example)


@functools.cache
def bounder(name, method):
    case, net = CASES[name], built(name)
    config = verify.AlphaConfig(steps=5)

    def run(params, region):
        return verify.bound(
            case.fn, params, region, None, method, built=net, alpha_config=config
        )

    return jax.jit(run)


@functools.cache
def outputs(name):
    """The function of many points, compiled once for all weights."""
    return jax.jit(jax.vmap(CASES[name].fn, (None, 0)))


def samples(region, rng, count=4000):
    """Points of a region: uniform ones, and corners of its box."""
    low, high = np.asarray(region.lower), np.asarray(region.upper)
    inner = rng.uniform(size=(count, *low.shape)).astype(np.float32)
    corners = rng.integers(0, 2, size=(count, *low.shape)).astype(np.float32)
    points = low + np.concatenate([inner, corners]) * (high - low)
    if region.radius is None:
        return np.clip(points, low, high)
    centre = np.asarray(region.center)
    apart = (points - centre).reshape(len(points), -1)
    order = 2 if region.norm == "l2" else 1
    length = np.linalg.norm(apart, ord=order, axis=1, keepdims=True)
    inside = apart * np.minimum(1, float(region.radius) / np.maximum(length, 1e-12))
    return (centre + (1 - 1e-6) * inside.reshape(points.shape)).astype(np.float32)


def assert_sound(name, method, params, region, rng):
    found = bounder(name, method)(params, region)
    points = samples(region, rng)
    y = np.asarray(outputs(name)(params, points)).reshape(len(points), -1)
    slack = 2e-5 * (1 + np.abs(y).max(0))
    assert np.isfinite(y).all()
    assert (y >= np.asarray(found.lower) - slack).all()
    assert (y <= np.asarray(found.upper) + slack).all()
    return found


# Optimising what has many operators takes XLA minutes to compile.
OPTIMISED = [(name, "alpha-crown") for name in ("dense", "conv", "residual")]


# crown-ibp is what the two others are made of: one case of each kind is enough.
MIXED = [("dense", "crown-ibp"), ("residual", "crown-ibp")]
# Lines of all activations at once compile for a minute: test_relaxations has each.
LONG = [("activations", "crown")]
SOUND = [(n, m) for n in sorted(CASES) for m in ("interval", "crown")]
SOUND = [case for case in SOUND if case not in LONG]


@pytest.mark.parametrize(("name", "method"), SOUND + MIXED + OPTIMISED)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), width=st.floats(0, 1, width=32))
@example(seed=0, width=0.0)
def test_no_output_leaves_its_bounds(name, method, seed, width):
    rng = np.random.default_rng(seed)
    case = CASES[name]
    params = case.params(rng)
    x = rng.uniform(-1, 1, size=case.input_shape).astype(np.float32)
    region = Region(x - np.float32(width), x + np.float32(width))
    found = assert_sound(name, method, params, region, rng)
    if width == 0.0 and name in PIECEWISE_LINEAR:
        np.testing.assert_allclose(found.lower, found.upper, atol=1e-4)


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("name", ["dense", "residual"])
def test_balls_are_bounded_and_closer_than_their_boxes(name, norm):
    rng = np.random.default_rng(1)
    case = CASES[name]
    params = case.params(rng)
    x = rng.uniform(-1, 1, size=case.input_shape)
    ball = jax.tree.map(np.float32, verify.ball(x, 0.3, norm))
    found = assert_sound(name, "crown", params, ball, rng)
    box = Region(np.float32(x - 0.3), np.float32(x + 0.3))
    wide = bounder(name, "crown")(params, box)
    assert (np.asarray(found.lower) >= np.asarray(wide.lower) - 1e-5).all()


@pytest.mark.parametrize("name", ["dense", "conv", "residual"])
def test_every_method_is_at_least_as_close_as_the_one_before(name):
    rng = np.random.default_rng(2)
    case = CASES[name]
    params = case.params(rng)
    x = rng.uniform(-1, 1, size=case.input_shape).astype(np.float32)
    region = Region(x - np.float32(0.2), x + np.float32(0.2))
    found = {m: bounder(name, m)(params, region) for m in verify.METHODS[:-1]}
    alpha, crown = np.asarray(found["alpha-crown"].lower), found["crown"].lower
    assert (alpha >= np.asarray(crown) - 1e-5).all()
    assert np.asarray(crown).sum() >= np.asarray(found["interval"].lower).sum()


def test_gradients_are_those_of_finite_differences(key):
    case = CASES["dense"]
    with jax.enable_x64(True):
        params = case.params(np.random.default_rng(3), np.float64)
        x = np.linspace(-1, 1, 6)
        region = Region(jnp.asarray(x - 0.1), jnp.asarray(x + 0.1))

        def total(params, method):
            found = verify.bound(case.fn, params, region, None, method)
            return (found.lower - 0.5 * found.upper).sum()

        @jax.jit
        def both(params):
            return [jax.value_and_grad(total)(params, method) for method in FAST]

        way = {
            k: np.random.default_rng(4).normal(size=v.shape) for k, v in params.items()
        }
        h = 1e-6
        above, below = (
            both({k: v + s * h * way[k] for k, v in params.items()}) for s in (1, -1)
        )
        each = zip(both(params), above, below, strict=True)
        for (_, slope), (high, _), (low, _) in each:
            exact = sum(float((slope[k] * way[k]).sum()) for k in way)
            assert exact == pytest.approx(float(high - low) / (2 * h), rel=1e-4)


def test_regions_can_be_vmapped():
    case = CASES["dense"]
    params = case.params(np.random.default_rng(5))
    x = np.random.default_rng(6).uniform(-1, 1, (4, 6)).astype(np.float32)
    low, high = x - np.float32(0.1), x + np.float32(0.1)
    one = bounder("dense", "crown")
    many = jax.vmap(lambda a, b: one(params, Region(a, b)))(low, high)
    for k in range(4):
        alone = one(params, Region(low[k], high[k]))
        np.testing.assert_allclose(many.lower[k], alone.lower, rtol=1e-5, atol=1e-5)


def test_beta_crown_bounds_the_part_with_the_signs():
    case, net = CASES["dense"], built("dense")
    params = case.params(np.random.default_rng(7))
    x = np.zeros(6, np.float32)
    region = Region(x - np.float32(1), x + np.float32(1))
    centre = x @ params["fc0"] + params["fc0_bias"]
    sign = np.zeros(8, np.int8)
    sign[:2] = np.where(centre[:2] >= 0, 1, -1)

    @jax.jit
    def run(params, region, sign):
        bound = functools.partial(verify.bound, case.fn, params, region, built=net)
        splits = {net.nonlinear[0]: sign}
        return bound(method="beta-crown", splits=splits), bound(method="alpha-crown")

    found, whole = run(params, region, sign)
    points = samples(region, np.random.default_rng(8), 100_000)
    hidden = points @ params["fc0"] + params["fc0_bias"]
    there = (hidden[:, :2] * sign[None, :2] >= 0).all(1)
    assert there.sum() > 100
    y = np.asarray(outputs("dense")(params, points))[there]
    assert (y >= np.asarray(found.lower) - 1e-4).all()
    assert (y <= np.asarray(found.upper) + 1e-4).all()
    assert (np.asarray(found.lower) >= np.asarray(whole.lower) - 1e-4).all()


def test_bad_requests_are_named(key):
    case = CASES["dense"]
    params = case.params(np.random.default_rng(0))
    region = Region(np.zeros(6, np.float32), np.ones(6, np.float32))
    with pytest.raises(InputError, match="method"):
        verify.bound(case.fn, params, region, None, "magic")
    spec = verify.Spec(np.ones((1, 7)), np.zeros(1))
    with pytest.raises(ShapeError, match="this fn"):
        verify.bound(case.fn, params, region, spec)
    with pytest.raises(InputError, match="splits"):
        verify.bound(case.fn, params, region, splits={object(): np.ones(8)})
    with pytest.raises(GraphError, match=r"sort.*test_bounds"):
        verify.network(lambda p, x: jnp.sort(x), {}, np.zeros(3, np.float32))
