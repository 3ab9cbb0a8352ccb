"""Optimised relaxations: never looser than CROWN, sound for any parameters."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import verify
from core.errors import InputError
from tests.verify.network_cases import CASES, Case, dense, layers, mlp
from verify import alpha, certificate, crown, regions, root
from verify.programs import Shape, programs


def smooth(p, x):
    """A ReLU layer, a softplus layer, and a product of the two."""
    h = jax.nn.relu(dense(p, "fc0", x))
    z = jax.nn.softplus(dense(p, "fc1", h))
    return dense(p, "fc2", z * h)


ROW = np.array([1.0, -1.0, 0.0], np.float32)
CASE = Case(smooth, layers(4, 6, 6, 2), (4,))


@functools.cache
def tools():
    params = CASE.params(np.random.default_rng(0))
    net = verify.network(CASE.fn, params, np.zeros(4, np.float32))
    spec = verify.Spec(np.float32([[1, -1], [-1, 0]]), np.zeros(2, np.float32))
    hidden = jax.jit(functools.partial(crown.hidden_bounds, net))
    bound = jax.jit(functools.partial(crown.spec_bound, net))
    return net, spec, hidden, bound


def setup(seed, width=0.3):
    net, spec, hidden, bound = tools()
    rng = np.random.default_rng(seed)
    weights = net.prepare(CASE.params(rng))
    x = rng.normal(size=4)
    region = regions.outward32(regions.box(x - width, x + width))
    found = hidden(weights, region)
    return net, weights, region, spec, found, bound(weights, region, spec, found)


outputs = jax.jit(jax.vmap(smooth, (None, 0)))


@functools.cache
def optimizer(config):
    return jax.jit(functools.partial(alpha.optimize, tools()[0], config=config))


@pytest.mark.parametrize(
    "config",
    [
        alpha.AlphaConfig(20),
        alpha.AlphaConfig(20, share=True),
        alpha.AlphaConfig(20, hidden=False),
    ],
    ids=["hidden", "shared", "output"],
)
def test_no_bound_is_looser_than_crowns(config):
    gained = 0.0
    for seed in range(4):
        _, weights, region, spec, hidden, least = setup(seed)
        state = optimizer(config)(weights, region, spec, hidden)
        assert (state.lower >= least - 1e-5).all()
        gained += float((state.lower - least).sum())
        for old, new in zip(hidden, state.hidden, strict=True):
            assert (new.lower >= old.lower).all()
            assert (new.upper <= old.upper).all()
        for leaf in jax.tree.leaves(state.slopes):
            assert ((leaf >= 0) & (leaf <= 1)).all()
    assert gained > 0.1


def test_own_parameters_beat_shared_ones_and_hidden_ones_help():
    kinds = {
        "own": alpha.AlphaConfig(20),
        "shared": alpha.AlphaConfig(20, share=True),
        "output": alpha.AlphaConfig(20, hidden=False),
    }
    total = dict.fromkeys(kinds, 0.0)
    for seed in range(4):
        _, weights, region, spec, hidden, _ = setup(seed)
        for kind, config in kinds.items():
            total[kind] += float(
                optimizer(config)(weights, region, spec, hidden).lower.sum()
            )
    assert total["own"] > total["shared"] > total["output"]


def test_any_parameters_are_sound():
    net, spec, _, _ = tools()

    @jax.jit
    def at(weights, region, hidden, slopes):
        return alpha.bounds_at(net, weights, region, spec, hidden, slopes)

    for seed in range(6):
        _, weights, region, _, hidden, _ = setup(seed)
        rng = np.random.default_rng(seed)
        start = alpha.init_slopes(net, weights, region, hidden, 2, alpha.AlphaConfig())
        draw = lambda a, rng=rng: rng.uniform(size=a.shape).astype(np.float32)  # noqa: E731
        lower, found = at(weights, region, hidden, jax.tree.map(draw, start))
        points = np.asarray(region.sample(jax.random.key(seed), 10_000))
        params = CASE.params(np.random.default_rng(seed))
        y = np.asarray(outputs(params, points))
        assert ((y @ spec.C.T).min(0) >= lower - 1e-4).all()
        z = np.maximum(points @ params["fc0"] + params["fc0_bias"], 0) @ params["fc1"]
        z = z + params["fc1_bias"]
        (node,) = [n for n in net.nonlinear if n.op == "softplus"]
        low, high = found[net.hidden.index(node.inputs[0])]
        assert (z.min(0) >= low - 1e-5).all()
        assert (z.max(0) <= high + 1e-5).all()


def test_bounds_are_exactly_those_met_and_gradients_those_of_the_new():
    value, like = jnp.float32([0.1, -2e8, 3.0]), jnp.float32([3e7, 1.0, -jnp.inf])
    np.testing.assert_array_equal(alpha._through(value, like), value)
    grad = jax.grad(lambda x: alpha._through(value, x).sum())(like)
    np.testing.assert_array_equal(grad, [1, 1, 0])


def test_the_margin_of_rounding_is_subtracted_when_asked_for():
    net, weights, region, spec, hidden, _ = setup(0)
    config = alpha.AlphaConfig(0, hidden=False)

    @jax.jit
    def both(*given):
        run = functools.partial(alpha.optimize, net, *given, config=config)
        return run().lower, run(margin=True).lower

    plain, less = both(weights, region, spec, hidden)
    assert (less < plain).all()
    np.testing.assert_allclose(less, plain, atol=1e-2)


@pytest.mark.parametrize("rows", [16, 2])  # of each neuron its own, or shared
def test_neurons_in_chunks_have_the_bounds_of_all_at_once(rows):
    case = CASES["dense"]
    net = verify.network(case.fn, case.params(np.random.default_rng(0)), np.ones(6))
    weights = net.prepare(case.params(np.random.default_rng(0)))
    region = verify.Region(-np.ones(6, np.float32), np.ones(6, np.float32))
    wide = verify.types.Bounds(np.full(8, -2, np.float32), np.full(8, 2, np.float32))
    spec = verify.Spec(np.eye(3, dtype=np.float32), np.zeros(3, np.float32))
    draw = np.random.default_rng(1).uniform
    slopes = {
        "hidden1": (np.float32(draw(size=(rows, 1, 8))),),
        "output": (np.float32(draw(size=(3, 1, 8))),) * 2,
    }

    def total(slopes, chunk):
        lower, hidden = alpha.bounds_at(
            net, weights, region, spec, (wide, wide), slopes, chunk=chunk
        )
        return lower.sum(), (lower, hidden)

    value = jax.value_and_grad(total, has_aux=True)
    whole, parts = jax.jit(lambda s: (value(s, 0), value(s, 3)))(slopes)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        parts,
        whole,
    )


def test_slopes_beyond_memory_are_refused_with_a_remedy():
    width = 20_000  # 3.2 GB of slopes between two layers

    def fn(params, x):
        hidden = jax.nn.relu(x * params["a"])
        return jax.nn.relu(hidden * params["a"])[:1]

    params = {"a": jax.ShapeDtypeStruct((width,), np.float32)}
    ends = jax.ShapeDtypeStruct((width,), np.float32)

    def bound(params, region):
        return verify.bound(fn, params, region, None, "alpha-crown")

    with pytest.raises(InputError, match=r"3\.0 GiB of slopes.*share=True"):
        jax.eval_shape(bound, params, verify.Region(ends, ends))
    for options in ({"share": True}, {"hidden": False}):
        net = verify.network(fn, params, ends)
        alpha.check_size(net, 2, verify.AlphaConfig(**options))


def test_a_root_takes_the_slopes_that_fit_into_memory(monkeypatch):
    shape = Shape(4, (30, 20), 3, "float32")  # 40 rows of 30 slopes, 2 of 50
    net, config = programs(shape).network, verify.Config()
    proven = dataclasses.replace(config, certificate=True)
    at_once = root.settings_of(net, 2, config)
    assert (at_once.chunk, at_once.share, at_once.hidden) == (0, False, True)
    monkeypatch.setattr("verify.root.AT_ONCE", 1000)
    assert root.settings_of(net, 2, config) == dataclasses.replace(at_once, chunk=256)
    assert alpha.bytes_of(net, 2, at_once) == 4 * (40 * 30 + 2 * 50)
    monkeypatch.setattr("verify.alpha.LIMIT", 4000)
    shared = root.settings_of(net, 2, config)
    assert shared.share
    assert shared.hidden
    assert not root.settings_of(net, 2, proven).hidden
    monkeypatch.setattr("verify.alpha.LIMIT", 500)
    assert not root.settings_of(net, 2, config).hidden
    monkeypatch.setattr("verify.alpha.LIMIT", 300)
    with pytest.raises(InputError, match="GiB of slopes"):
        root.settings_of(net, 2, config)


@pytest.mark.parametrize("certified", [False, True])
def test_a_search_with_little_memory_for_slopes(monkeypatch, certified):
    rng = np.random.default_rng(0)
    case, x = Case(mlp, layers(4, 12, 8, 3), (4,)), rng.normal(size=4)
    params = case.params(rng)
    points = np.float32(x + rng.uniform(-0.4, 0.4, (2000, 4)))
    least = (jax.vmap(functools.partial(case.fn, params))(points) @ ROW).min()
    prop = verify.linear(verify.box(x - 0.4, x + 0.4), ROW[None], [0.1 - least])
    asked = verify.Problem(case.fn, params, prop)
    taken = []
    settings_of = root.settings_of

    def settings(*given):
        taken.append(settings_of(*given))
        return taken[-1]

    monkeypatch.setattr("verify.root.settings_of", settings)
    monkeypatch.setattr("verify.alpha.LIMIT", 500)
    config = verify.Config(branching="relu", certificate=certified, batch=8)
    found = verify.verify(asked, config)
    assert taken
    assert taken[0].share is not certified
    assert found.status == "unsat", found.why
    if certified:
        assert certificate.check(asked, found.certificate).ok
