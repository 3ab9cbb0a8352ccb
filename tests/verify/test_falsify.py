import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import InputError
from verify import falsify, properties, regions, vnnlib
from verify.falsify import Attack

SMALL = Attack(restarts=4, steps=30, draws=2, diverse_steps=3)


def affine(params, x):
    return params["w"] @ x + params["b"]


def mlp(params, x):
    h = jax.nn.relu(params["w1"] @ x.ravel() + params["b1"])
    return params["w2"] @ h + params["b2"]


def _mlp(seed, inputs=3, hidden=6, outputs=3):
    rng = np.random.default_rng(seed)
    shapes = {"w1": (hidden, inputs), "b1": hidden, "w2": (outputs, hidden)}
    shapes["b2"] = outputs
    return {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}


def _linear(region, row, const):
    return properties.linear(region, [row], [const])


def _affine(w):
    w = jnp.asarray(w, jnp.float32)
    return {"w": w, "b": jnp.zeros(len(w))}


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_minimum_of_an_affine_network_is_found(norm, key):
    w = np.array([[3.0, -1.0, 0.5, 2.0]])
    center = np.array([0.2, -0.1, 0.3, 0.0])
    region = regions.ball(center, 0.5, norm)
    dual = {"linf": 6.5, "l2": np.linalg.norm(w), "l1": 3.0}[norm]
    least = float((w @ center).item() - 0.5 * dual)
    prop = _linear(region, [1.0], -least + 0.02)  # just out of reach
    (found,) = falsify.falsify(affine, _affine(w), prop, key, SMALL)
    np.testing.assert_allclose(found.margin, 0.02, atol=2e-3)
    assert region.contains(found.x)
    assert falsify.check(affine, _affine(w), prop, found.x) is None


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_reachable_minimum_is_a_witness(norm, key):
    w = np.array([[3.0, -1.0, 0.5, 2.0]])
    region = regions.ball(np.zeros(4), 0.5, norm)
    least = float(region.minimum(jnp.asarray(w))[0])
    prop = _linear(region, [1.0], -least - 0.02)
    (found, *_) = falsify.falsify(affine, _affine(w), prop, key, SMALL)
    witness = falsify.check(affine, _affine(w), prop, found.x)
    assert witness is not None
    assert properties.violates(prop, witness.x, witness.y)


def test_the_worst_corner_of_a_relu_network_is_found(key):
    params = _mlp(0)
    region = regions.box(-np.ones(3), np.ones(3))
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 21)] * 3), -1).reshape(-1, 3)
    values = jax.jit(jax.vmap(lambda x: mlp(params, x)))(
        jnp.asarray(grid, jnp.float32)
    )[:, 0]
    prop = _linear(region, [1.0, 0, 0], -float(values.min()) + 0.5)
    (found,) = falsify.falsify(mlp, params, prop, key, Attack(restarts=4))
    assert found.margin <= 0.5 + 1e-4


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.sampled_from(["linf", "l2", "l1"]))
def test_every_witness_violates_and_every_candidate_is_inside(seed, norm):
    rng, params = np.random.default_rng(seed), _mlp(seed)
    region = regions.ball(rng.uniform(-1, 1, 3), 0.7, norm, clip=(-1, 1))
    C, d = rng.normal(size=(2, 3, 3)), rng.normal(size=(2, 3))
    clauses = [
        properties.Clause(region, properties.Spec(a, b))
        for a, b in zip(C, d, strict=True)
    ]
    prop = properties.Property(tuple(clauses), (3,), 3)
    found = falsify.falsify(mlp, params, prop, jax.random.key(seed % 99), SMALL)
    assert sorted(c.clause for c in found) == [0, 1]
    for candidate in found:
        assert region.contains(candidate.x)
        witness = falsify.check(mlp, params, prop, candidate.x)
        wide = {k: np.asarray(v, np.float64) for k, v in params.items()}
        h = np.maximum(wide["w1"] @ candidate.x + wide["b1"], 0)
        y = wide["w2"] @ h + wide["b2"]
        assert (witness is not None) == properties.violates(prop, candidate.x, y)
        if witness is not None:
            np.testing.assert_allclose(witness.y, y, rtol=1e-9, atol=1e-12)
            assert witness.margin <= 0


def _plateau(params, x):
    return 1.0 - jnp.maximum(params["w"] @ x - 40.0, 0.0)


@pytest.mark.parametrize("leak", [0.0, 0.1])
def test_leaky_gradients_leave_a_plateau(leak, key):
    params = {"w": jnp.ones((1, 64))}
    prop = _linear(regions.box(-np.ones(64), np.ones(64)), [1.0], 0.0)
    attack = Attack(restarts=4, diverse=0.0, leak=leak)
    found = falsify.falsify(_plateau, params, prop, key, attack)
    witness = falsify.check(_plateau, params, prop, found[0].x)
    assert (witness is not None) == (leak > 0)


def test_given_starts_are_tried(key):
    def needle(params, x):
        return jnp.abs(x - 0.123).max(keepdims=True) - params["w"]

    params = {"w": jnp.full(1, 1e-3)}
    prop = _linear(regions.box(-np.ones(40), np.ones(40)), [1.0], 0.0)
    starts = jnp.full((2, 40), 0.123)
    attack = Attack(restarts=2, steps=1)
    none = falsify.falsify(needle, params, prop, key, attack)
    some = falsify.falsify(needle, params, prop, key, attack, starts)
    assert falsify.check(needle, params, prop, none[0].x) is None
    assert falsify.check(needle, params, prop, some[0].x) is not None


def test_a_rounding_error_is_no_counterexample(key):
    def rounding(params, x):
        return (x - params["w"]) + params["w"]

    params = {"w": jnp.full(1, 1e9)}
    prop = _linear(regions.box([0.01], [0.1]), [1.0], 0.0)
    (found,) = falsify.falsify(rounding, params, prop, key, SMALL)
    assert found.margin <= 0
    assert falsify.check(rounding, params, prop, found.x) is None


def test_points_outside_of_the_region_are_no_counterexamples():
    prop = _linear(regions.box([0.0], [1.0]), [1.0], 0.0)
    params = _affine([[1.0]])
    assert falsify.check(affine, params, prop, [-1e-9]) is None
    assert falsify.check(affine, params, prop, [np.nan]) is None
    assert falsify.check(affine, params, prop, [0.0]) is not None


def test_nan_is_no_counterexample(key):
    params = {"w": jnp.full((1, 2), jnp.nan), "b": jnp.zeros(1)}
    prop = _linear(regions.box([0.0, 0.0], [1.0, 1.0]), [1.0], 0.0)
    for candidate in falsify.falsify(affine, params, prop, key, SMALL):
        assert falsify.check(affine, params, prop, candidate.x) is None


def test_a_start_that_overflows_does_not_stop_the_others(key):
    def partly(params, x):
        return jnp.where(x > 0.9, jnp.nan, x) + params["w"]

    params = {"w": jnp.zeros(1)}
    prop = _linear(regions.box([-1.0], [1.0]), [1.0], 0.5)
    (found,) = falsify.falsify(partly, params, prop, key, SMALL)
    assert falsify.check(partly, params, prop, found.x) is not None


def test_another_property_of_a_network_does_not_trace_again(key):
    traced = []

    def counted(params, x):
        traced.append(None)
        return affine(params, x)

    for shift in range(3):
        prop = _linear(regions.box([shift, 0.0], [shift + 1, 1.0]), [1.0], 9.0 + shift)
        falsify.falsify(counted, _affine([[1.0, 2.0]]), prop, key, SMALL)
        if shift == 0:
            first = len(traced)
    assert len(traced) == first


def test_many_clauses_of_several_norms_are_all_searched(key):
    region = regions.box([0.0, 0.0], [1.0, 1.0])
    round_ = regions.ball([0.5, 0.5], 0.5, "l2")
    specs = [properties.Spec(np.ones((1, 1)), np.full(1, 1.0 + i)) for i in range(19)]
    clauses = [properties.Clause(region, s) for s in specs]
    clauses.insert(3, properties.Clause(round_, specs[0]))
    prop = properties.Property(tuple(clauses), (2,), 1)
    found = falsify.falsify(affine, _affine([[1.0, 1.0]]), prop, key, SMALL)
    assert sorted(c.clause for c in found) == list(range(20))
    assert falsify.falsify(affine, _affine([[1.0, 1.0]]), _none(prop), key) == []


def _none(prop):
    return properties.Property((), prop.input_shape, prop.output_size)


def test_a_width_of_zero_stays_where_it_is(key):
    value = 0.1 + 1e-12  # no float32
    prop = _linear(regions.box([value, 0.0], [value, 1.0]), [1.0], 5.0)
    (found,) = falsify.falsify(affine, _affine([[1.0, 1.0]]), prop, key, SMALL)
    assert found.x[0] == value


@pytest.mark.parametrize(
    "options",
    [
        {"restarts": 0},
        {"steps": 1.5},
        {"step": 0.0},
        {"momentum": 1.0},
        {"diverse": 2.0},
        {"leak": -1.0},
        {"draws": True},
    ],
)
def test_options_out_of_range_are_named(options):
    with pytest.raises(InputError, match=next(iter(options))):
        Attack(**options)


@pytest.mark.data
def test_a_property_that_resists_plain_descent_is_falsified(data_root, key):
    onnx = pytest.importorskip("onnx")
    folder = data_root / "verify" / "vnncomp2021" / "mnistfc"
    model = onnx.load(folder / "mnist-net_256x2.onnx")
    arrays = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    params = {name: jnp.asarray(array) for name, array in arrays.items()}

    def network(params, x):
        h = x.ravel()
        for layer in (0, 2, 4):
            h = params[f"layers.{layer}.weight"] @ h + params[f"layers.{layer}.bias"]
            h = jax.nn.relu(h) if layer < 4 else h
        return h

    prop = vnnlib.load(folder / "prop_0_0.05.vnnlib.gz", (1, 784, 1), 10)
    plain = falsify.falsify(network, params, prop, key, Attack(leak=0.0))
    assert falsify.check(network, params, prop, plain[0].x) is None
    found = falsify.falsify(network, params, prop, key)
    assert falsify.check(network, params, prop, found[0].x) is not None
