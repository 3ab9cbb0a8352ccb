"""Quantization-aware functions: values, gradients, scales, what layers see."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from core.errors import GraphError, InputError, RuleError
from quant.aware import Layer, Scales, aware, calibrate, record
from quant.calibration import MinMax, Scaling
from quant.formats import SumOfPowers, Uniform
from quant.quantizers import CHANNEL, Quantizer
from quant.rows import RowMix

WEIGHTS = Quantizer(SumOfPowers(4), CHANNEL)
INPUTS = Quantizer(Uniform(4, signed=False), calibration=MinMax())


def mlp(params, x):
    hidden = jax.nn.relu(x @ params["a"]["kernel"] + params["a"]["bias"][None])
    return hidden @ params["b"]["kernel"]


@pytest.fixture
def params(key):
    keys = jax.random.split(key, 2)
    first = {"kernel": jax.random.normal(keys[0], (6, 8)), "bias": jnp.ones(8)}
    return {"a": first, "b": {"kernel": jax.random.normal(keys[1], (8, 3))}}


@pytest.fixture
def x(key):
    return jax.random.normal(jax.random.fold_in(key, 7), (16, 6))


@jax.jit
def by_hand(params, x, inputs=(None, None)):
    kernels = [WEIGHTS.fake(params[name]["kernel"]) for name in "ab"]
    hidden = INPUTS.fake(x, inputs[0]) @ kernels[0] + params["a"]["bias"][None]
    return INPUTS.fake(jax.nn.relu(hidden), inputs[1]) @ kernels[1]


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_weights_and_inputs_are_quantized_with_straight_through_gradients(params, x):
    network = jax.jit(aware(mlp, [(".*/kernel", Layer(WEIGHTS, INPUTS))]))
    close(network(params, x), by_hand(params, x))
    found = jax.jit(jax.grad(lambda p: (network(p, x) ** 2).sum()))(params)
    wanted = jax.jit(jax.grad(lambda p: (by_hand(p, x) ** 2).sum()))(params)
    jax.tree.map(close, found, wanted)
    network(jax.tree.map(jnp.negative, params), x)
    assert network._cache_size() == 1
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (params, x))
    assert network(*half).dtype == jnp.bfloat16


def test_rules_choose_layers_and_parts(params, x):
    one = aware(mlp, [("a/kernel", None), (".*/kernel", Layer(weights=WEIGHTS))])
    quantized = {**params, "b": {"kernel": WEIGHTS.fake(params["b"]["kernel"])}}
    np.testing.assert_array_equal(one(params, x), mlp(quantized, x))
    inputs = aware(mlp, [("a/kernel", Layer(inputs=INPUTS))])
    wanted = mlp(params, INPUTS.fake(x))
    np.testing.assert_allclose(inputs(params, x), wanted, rtol=1e-5)
    rows = aware(mlp, [("b/kernel", Layer(RowMix(share=0.5)))])
    quantized = {
        **params,
        "b": {"kernel": RowMix(share=0.5).fake(params["b"]["kernel"])},
    }
    np.testing.assert_array_equal(rows(params, x), mlp(quantized, x))


def test_fixed_scales_are_means_over_batches_and_may_be_learned(params, x):
    rules = [(".*/kernel", Layer(WEIGHTS, INPUTS))]
    batches = [(x,), (2 * x,)]
    scales = calibrate(mlp, rules, params, batches)
    hidden = [jax.nn.relu(b @ params["a"]["kernel"] + 1.0) for (b,) in batches]
    for site, seen in (("a/kernel", [x, 2 * x]), ("b/kernel", hidden)):
        fits = [INPUTS.fit(each) for each in seen]
        found = scales.inputs[site]
        low = np.mean([-fit.zero * fit.scale for fit in fits])
        high = np.mean([(15 - fit.zero) * fit.scale for fit in fits])
        np.testing.assert_allclose(found.scale, [[(high - low) / 15]], rtol=1e-5)
        assert found.zero == np.round(-low / ((high - low) / 15))

    network = aware(mlp, rules, scales)
    inputs = scales.inputs["a/kernel"], scales.inputs["b/kernel"]
    close(network(params, x), by_hand(params, x, inputs))

    def total(network):
        return lambda scales: (network(scales) ** 2).sum()

    found = jax.jit(jax.grad(total(lambda s: aware(mlp, rules, s)(params, x))))(scales)
    hand = jax.jit(jax.grad(total(lambda s: by_hand(params, x, s))))(inputs)
    for site, same in zip(("a/kernel", "b/kernel"), hand, strict=True):
        np.testing.assert_allclose(found.inputs[site].scale, same.scale, rtol=1e-4)
    assert all((s.scale != 0).all() for s in found.weights.values())


def test_modules_train_with_their_statistics(key):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = nn.Conv(4, (3, 3), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
            return nn.Dense(3)(x.mean((1, 2)))

    model, x = Net(), jax.random.normal(key, (2, 6, 6, 1))
    variables = model.init(key, x, True)

    def apply(variables, x, train):
        return model.apply(variables, x, train, mutable=["batch_stats"])

    rules = [("params/.*/kernel", Layer(Quantizer(Uniform(8), CHANNEL), INPUTS))]
    train = functools.partial(apply, train=True)
    (out, stats), seen = jax.jit(record(train, rules))(variables, x)
    plain = record(train, [("params/.*/kernel", Layer())])
    (same, _), exact = jax.jit(plain)(variables, x)
    np.testing.assert_allclose(same, jax.jit(train)(variables, x)[0], rtol=1e-5)
    assert jnp.abs(out - same).max() < 0.5
    assert (out != same).any()
    assert stats["batch_stats"]["BatchNorm_0"]["mean"].any()
    conv, dense = "params/Conv_0/kernel", "params/Dense_0/kernel"
    np.testing.assert_array_equal(seen[conv].inputs, x)
    assert exact[conv].products.shape == (2, 6, 6, 4)
    assert (seen[dense].inputs != exact[dense].inputs).any()


def test_ranges_over_batches_have_their_mean_ends():
    """[0, 1] and [-1, 1] have the mean [-1/2, 1]; apart, scale and zero give -0.376."""
    inputs = Quantizer(Uniform(8, signed=False), calibration=MinMax())
    params = {"kernel": jnp.ones((2, 1))}
    batches = [(jnp.array([[0.0, 1.0]]),), (jnp.array([[-1.0, 1.0]]),)]
    rules = [("kernel", Layer(inputs=inputs))]
    found = calibrate(lambda p, x: x @ p["kernel"], rules, params, batches)
    scale, zero = found.inputs["kernel"]
    assert zero == 85
    ends = (np.array([0, 255]) - 85) * scale.item()
    np.testing.assert_allclose(ends, [-0.5, 1.0], rtol=1e-6)


def test_scales_of_a_scanned_layer_are_means_over_its_steps(key):
    def rnn(params, x):
        def step(state, row):
            return jnp.tanh(row @ params["in"] + state @ params["hidden"]), None

        return jax.lax.scan(step, jnp.zeros((2, 3)), x)[0]

    params = {"in": jnp.ones((4, 3)), "hidden": jnp.eye(3)}
    x = jax.random.normal(key, (5, 2, 4))
    rules = [("in", Layer(inputs=INPUTS)), ("hidden", Layer())]
    scales = calibrate(rnn, rules, params, [(x,)])
    steps = jnp.stack([INPUTS.fit(row).scale for row in x])
    np.testing.assert_allclose(scales.inputs["in"].scale, steps.mean(0), rtol=1e-5)
    out = aware(rnn, rules, scales)(params, x)
    np.testing.assert_allclose(out, rnn(params, x), atol=0.2)


@pytest.mark.parametrize("gradient", ["step", "lsq", "clip"])
def test_scales_learn_by_step_by_lsq_or_by_clip(gradient):
    quantizer = Quantizer(Uniform(2, signed=False), gradient=gradient)
    x = jnp.array([-1.0, 0.3, 1.6, 2.9, 4.0, 9.0])
    zero = jnp.zeros(1)

    def total(scale):
        return quantizer.fake(x, Scaling(scale, zero)).sum()

    value, found = jax.jit(jax.value_and_grad(total))(jnp.ones(1))
    assert value == 0 + 0 + 2 + 3 + 3 + 3
    inside = (0 - 0.3) + (2 - 1.6) + (3 - 2.9)
    wanted = {"step": inside + 6, "lsq": (inside + 6) / np.sqrt(6 * 3), "clip": 6.0}
    np.testing.assert_allclose(found, [wanted[gradient]], rtol=1e-5)
    by_x = jax.grad(lambda x: quantizer.fake(x, Scaling(jnp.ones(1), zero)).sum())(x)
    np.testing.assert_array_equal(by_x, [0, 1, 1, 1, 0, 0])


def test_lsq_counts_the_numbers_of_one_example(key):
    """The mean loss over a batch has the slope of its examples' mean."""
    quantizer = Quantizer(Uniform(4, signed=False), gradient="lsq")
    x = jax.random.uniform(key, (2, 6)) * 20
    params = {"kernel": jnp.ones((6, 1))}
    scales = Scaling(jnp.ones((1, 1)), jnp.zeros((1, 1)))

    @jax.jit
    @jax.grad
    def slope(scales, x):
        rules = [("kernel", Layer(inputs=quantizer))]
        network = aware(lambda p, x: x @ p["kernel"], rules, Scales({}, scales))
        return network(params, x).mean()

    both = slope({"kernel": scales}, x)["kernel"].scale
    each = [slope({"kernel": scales}, x[i : i + 1])["kernel"].scale for i in (0, 1)]
    np.testing.assert_allclose(both, (each[0] + each[1]) / 2, rtol=1e-5)
    plain = dataclasses.replace(quantizer, gradient="step").fake
    wanted = jax.grad(lambda s: plain(x, scales._replace(scale=s)).sum())(scales.scale)
    np.testing.assert_allclose(both, wanted / 2 / np.sqrt(6 * 15), rtol=1e-5)


def test_bad_rules_are_named(params, x):
    with pytest.raises(InputError, match="Layer"):
        aware(mlp, [("a/kernel", WEIGHTS)])(params, x)
    with pytest.raises(RuleError, match="kernal"):
        aware(mlp, [("kernal", Layer())])(params, x)
    with pytest.raises(GraphError, match="a/bias"):
        aware(mlp, [("a/bias", Layer(inputs=INPUTS))])(params, x)
    with pytest.raises(InputError, match="batch"):
        calibrate(mlp, [("a/kernel", Layer(inputs=INPUTS))], params, [])
    alone = calibrate(mlp, [("a/kernel", Layer(WEIGHTS))], params, [])
    assert (list(alone.weights), alone.inputs) == (["a/kernel"], {})
    with pytest.raises(InputError, match="gradient='ste'"):
        Quantizer(Uniform(4), gradient="ste")  # type: ignore[arg-type]
