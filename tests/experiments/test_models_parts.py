"""The parts of the networks against their definitions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from core.errors import UnknownNameError
from experiments.models import REFERENCE_INIT, RecurrentClassifier, ResNet, create
from experiments.models.norm import BatchNorm
from experiments.models.resnet import shortcut_a


def test_shortcut_a_by_hand():
    """Every second pixel from 0; a quarter of the new width is zero on each side."""
    n, h, w, c = 2, 4, 6, 4
    x = jnp.arange(1.0, n * h * w * c + 1).reshape(n, h, w, c)
    given = x.tolist()
    expected = [
        [
            [[0.0] * 2 + given[b][2 * i][2 * j] + [0.0] * 2 for j in range(w // 2)]
            for i in range(h // 2)
        ]
        for b in range(n)
    ]
    assert shortcut_a(x, 8, 2).tolist() == expected
    assert shortcut_a(x, c, 1).tolist() == given


def test_strided_block_pads_on_all_sides():
    """Position (0, 0) of a strided convolution sees the pixels around (0, 0)."""
    model, key = ResNet(depth=8), jax.random.key(0, impl="rbg")
    x = jax.random.normal(key, (1, 8, 8, 3))

    @jax.jit
    def run(key):
        variables = model.init(key, x)
        return variables, model.apply(variables, x, capture_intermediates=True)[1]

    variables, state = run(key)
    seen = state["intermediates"]
    before = seen["layer1_0"]["__call__"][0]
    after = seen["layer2_0"]["conv1"]["__call__"][0]
    kernel = variables["params"]["layer2_0"]["conv1"]["kernel"]
    by_hand = jnp.einsum("yxc,yxcf->f", before[0, :2, :2], kernel[1:, 1:])
    assert after.shape == (1, 4, 4, 32)
    np.testing.assert_allclose(after[0, 0, 0], by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("train", [False, True])
def test_batch_norm_is_flax_batch_norm(train, key):
    x = 3 * jax.random.normal(key, (8, 5, 5, 6)) + jnp.arange(6.0).reshape(1, 1, 1, 6)
    ours = BatchNorm()
    flax = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5)
    variables = jax.tree.map(
        lambda leaf: leaf + 0.1 * np.arange(6.0, dtype=np.float32),
        jax.jit(functools.partial(ours.init, train=True))(key, x),
    )

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def run(module, *args):
        def total(params, x):
            y, new = module.apply(
                {**variables, "params": params}, x, *args, mutable=["batch_stats"]
            )
            return jnp.sum(jnp.sin(y)), (y, new)

        grad = jax.grad(total, argnums=(0, 1), has_aux=True)
        return grad(variables["params"], x)

    for a, b in zip(
        jax.tree.leaves(run(ours, train)), jax.tree.leaves(run(flax)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


def test_batch_norm_keeps_digits_far_from_zero(key):
    """With the running mean near, a channel at 3000 +- 0.1 has its true variance."""
    x = 3000 + 0.1 * jax.random.normal(key, (4096, 1))
    module = BatchNorm(momentum=0.0)
    variables = module.init(key, x, train=True)
    stats = {"mean": jnp.array([3000.0]), "var": jnp.array([1.0])}
    _, new = module.apply(
        {**variables, "batch_stats": stats}, x, train=True, mutable=["batch_stats"]
    )
    true = np.asarray(x, np.float64).var()
    np.testing.assert_allclose(new["batch_stats"]["var"], true, rtol=1e-3)


def test_batch_norm_keeps_float64(key):
    with jax.enable_x64(True):
        x = jax.random.normal(key, (64, 3), jnp.float64)
        module = BatchNorm(dtype=jnp.float64)
        variables = module.init(key, x, train=True)
        y, new = module.apply(variables, x, train=True, mutable=["batch_stats"])
        assert y.dtype == jnp.float64
        np.testing.assert_allclose(y.mean(0), 0, atol=1e-14)
        stats = new["batch_stats"]
        assert {leaf.dtype for leaf in stats.values()} == {np.dtype("float32")}


def test_lenet5_is_relu_then_pool(key):
    """The reference schedule: conv, ReLU, 2x2 max-pool, twice; fc1, ReLU; fc2."""
    model = create("lenet5", **REFERENCE_INIT)
    x = jax.random.normal(key, (3, 28, 28, 1))
    variables = jax.jit(model.init)(key, x)
    p = variables["params"]
    y, axes = x, ("NHWC", "HWIO", "NHWC")
    for layer in ("conv1", "conv2"):
        kernel = p[layer]["kernel"]
        y = lax.conv_general_dilated(y, kernel, (1, 1), "VALID", dimension_numbers=axes)
        y = jnp.maximum(y + p[layer]["bias"].reshape(1, 1, 1, -1), 0)
        y = nn.max_pool(y, (2, 2), (2, 2))
    y = y.reshape(3, 800) @ p["fc1"]["kernel"] + p["fc1"]["bias"].reshape(1, -1)
    y = jnp.maximum(y, 0) @ p["fc2"]["kernel"] + p["fc2"]["bias"].reshape(1, -1)
    logits = jax.jit(model.apply)(variables, x)
    np.testing.assert_allclose(logits, y, rtol=1e-4, atol=1e-5)


def test_lenet5_weights_biases_and_reference_initialisers(key):
    model = create("lenet5", **REFERENCE_INIT)
    p = jax.jit(model.init)(key, jnp.zeros((1, 28, 28, 1)))["params"]
    weights = {layer: leaves["kernel"].size for layer, leaves in p.items()}
    assert weights == {"conv1": 500, "conv2": 25_000, "fc1": 400_000, "fc2": 5_000}
    assert sum(leaves["bias"].size for leaves in p.values()) == 580
    for leaves in p.values():
        np.testing.assert_array_equal(leaves["bias"], np.float32(0.1))
        assert jnp.abs(leaves["kernel"]).max() <= 0.2


def test_dropout_is_before_fc2_and_scaled(key):
    """Averaged over masks, the logits of training are those of evaluation."""
    model = create("lenet5")
    x = jax.random.normal(key, (1, 28, 28, 1))

    @jax.jit
    def run(key):
        variables = model.init(key, x)

        def sample(key):
            return model.apply(variables, x, train=True, rngs={"dropout": key})[0]

        samples = jax.vmap(sample)(jax.random.split(key, 512))
        return samples, model.apply(variables, x)[0]

    samples, logits = map(np.asarray, run(key))
    spread = samples.std(0) / np.sqrt(512)
    assert (np.abs(samples.mean(0) - logits) < 5 * spread).all()


def test_vgg16_without_the_biases_that_batch_norm_cancels(key):
    model = create("vgg16", use_bias=False)
    variables = jax.eval_shape(model.init, key, jnp.zeros((1, 32, 32, 3)))
    size = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert size == 14_728_266 - 4_224


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def last_state(params, cell, x):
    """Returns the last hidden state, from the equations: numpy, step by step."""
    p = jax.tree.map(np.asarray, params)

    def gate(name, x, h):
        inner = h @ p["h" + name]["kernel"] + p["h" + name].get("bias", 0)
        return x @ p["i" + name]["kernel"] + p["i" + name].get("bias", 0), inner

    h = c = np.zeros((len(x), p["in" if cell == "gru" else "ii"]["kernel"].shape[1]))
    for t in range(x.shape[1]):
        if cell == "lstm":
            i, f, g, o = (sum(gate(name, x[:, t], h)) for name in "ifgo")
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            r, z = (sigmoid(sum(gate(name, x[:, t], h))) for name in "rz")
            outer, inner = gate("n", x[:, t], h)
            h = (1 - z) * np.tanh(outer + r * inner) + z * h
    return h


@pytest.mark.oracle
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_recurrent_classifier_follows_its_equations(cell, key):
    model = RecurrentClassifier(cell=cell, hidden=(7,), num_classes=3)
    x = jax.random.normal(key, (4, 5, 6))
    variables = jax.jit(model.init)(key, x)
    params = jax.tree.map(lambda leaf: leaf + 0.1, variables["params"])
    h = last_state(params[f"{cell}1"], cell, np.asarray(x))
    head = jax.tree.map(np.asarray, params["linear"])
    logits = jax.jit(model.apply)({"params": params}, x)
    np.testing.assert_allclose(
        logits, h @ head["kernel"] + head["bias"], rtol=1e-4, atol=1e-5
    )


def test_recurrent_classifier_reads_images_by_rows(key):
    model = RecurrentClassifier(hidden=(8, 6))
    rows = jax.random.normal(key, (2, 28, 28))
    variables = jax.jit(model.init)(key, rows)
    assert {"lstm1", "lstm2", "linear"} == set(variables["params"])
    run = jax.jit(lambda v, x: (model.apply(v, x), model.apply(v, x[..., None])))
    np.testing.assert_array_equal(*run(variables, rows))
    with pytest.raises(UnknownNameError, match="lstm"):
        RecurrentClassifier(cell="lsmt").init(key, rows)
