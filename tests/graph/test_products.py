"""What meets a kernel is found, replaced and returned, wherever the product is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from core.errors import GraphError
from experiments.models.convolution import conv2d
from graph.products import intercept

PAD = ((1, 1), (1, 1))


def halve(_, x):
    return x / 2, x.shape


def intercepted(fn, *paths):
    return intercept(fn, paths, halve)


def dense(params, x):
    return jnp.einsum("bi,io->bo", x, params["kernel"]) + params["bias"][None]


@pytest.fixture
def params(key):
    kernel = jax.random.normal(key, (3, 4))
    return {"kernel": kernel, "bias": jnp.arange(4.0)}


@pytest.fixture
def x(key):
    return jax.random.normal(jax.random.fold_in(key, 1), (5, 3))


def wanted(params, x):
    return dense(params, x / 2)


FUNCTIONS = {
    "jit": lambda params, x: jax.jit(dense)(params, x),
    "checkpoint": lambda params, x: jax.checkpoint(dense)(params, x),
    "transposed": lambda p, x: (p["kernel"].T @ x.T).T + p["bias"][None],
    "masked": lambda p, x: (
        x @ (p["kernel"] * jnp.ones((3, 1)) * jnp.float32(1.0)) + p["bias"][None]
    ),
    "vmap": lambda p, x: jax.vmap(lambda row: row @ p["kernel"] + p["bias"])(x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operands_are_replaced_in_calls_and_after_changes_of_the_kernel(
    name, params, x
):
    call = intercepted(FUNCTIONS[name], "kernel")
    out, notes = call(params, x)
    np.testing.assert_allclose(out, wanted(params, x), rtol=1e-5, atol=1e-6)
    assert [*notes] == ["kernel"]
    jitted, _ = jax.jit(lambda params, x: (call(params, x)[0], 0))(params, x)
    np.testing.assert_allclose(jitted, out, rtol=1e-5, atol=1e-6)
    grads = jax.jit(jax.grad(lambda p: call(p, x)[0].sum()))(params)
    found = jax.grad(lambda p: wanted(p, x).sum())(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), grads, found)


def test_in_scans_over_time_and_over_layers(key):
    def rnn(params, x):
        def step(state, row):
            state = jnp.tanh(row @ params["in"] + state @ params["hidden"])
            return state, state.sum()

        return jax.lax.scan(step, jnp.zeros((2, 3)), x)

    def layers(params, x):
        def layer(x, kernel):
            return jnp.tanh(x @ kernel), None

        return jax.lax.scan(layer, x, params["stack"], reverse=True)[0]

    keys = jax.random.split(key, 3)
    params = {
        "in": jax.random.normal(keys[0], (4, 3)),
        "hidden": jax.random.normal(keys[1], (3, 3)),
    }
    x = jax.random.normal(keys[2], (6, 2, 4))
    (state, sums), notes = intercept(rnn, params, lambda site, x: (x / 2, x))(params, x)
    halved = jax.tree.map(lambda leaf: leaf / 2, params)
    for found, same in zip((state, sums), rnn(halved, x), strict=True):
        np.testing.assert_allclose(found, same, rtol=1e-5)
    np.testing.assert_array_equal(notes["in"].operand, x)
    assert notes["hidden"].operand.shape == (6, 2, 3)

    stack = {"stack": jax.random.normal(keys[0], (5, 3, 3))}
    found, notes = intercepted(layers, "stack")(stack, x[0, :, :3])
    same = layers(jax.tree.map(lambda leaf: leaf / 2, stack), x[0, :, :3])
    np.testing.assert_allclose(found, same, rtol=1e-5)
    assert [*notes] == ["stack"]


def test_sites_are_counted_within_a_scan_and_on_after_it(params, x):
    def twice(params, x):
        def step(carry, row):
            met = (row @ params["kernel"]).sum() + (row @ params["kernel"]).max()
            return carry * 0.5 + met, met

        return lax.scan(step, 0.0, x)

    _, notes = intercepted(twice, "kernel")(params, x)
    assert [*notes] == ["kernel", "kernel#2"]
    _, notes = intercepted(lambda p, x: (twice(p, x), x @ p["kernel"]), "kernel")(
        params, x
    )
    assert [*notes] == ["kernel", "kernel#2", "kernel#3"]


def test_convolutions_with_their_own_derivative_keep_it(key):
    kernel, image = jnp.ones((3, 3, 2, 4)), jax.random.normal(key, (1, 5, 5, 2))

    def fn(params, x):
        return conv2d(x, params["kernel"], (1, 1), PAD)

    call = intercepted(fn, "kernel")
    out, _ = call({"kernel": kernel}, image)
    np.testing.assert_allclose(out, fn({"kernel": kernel}, image / 2), rtol=1e-5)
    jaxpr = str(jax.make_jaxpr(lambda k: call({"kernel": k}, image)[0])(kernel))
    assert "custom_jvp_call" in jaxpr
    grad = jax.grad(lambda k: call({"kernel": k}, image)[0].sum())(kernel)
    same = jax.grad(lambda k: fn({"kernel": k}, image / 2).sum())(kernel)
    np.testing.assert_allclose(grad, same, rtol=1e-5)


def test_modules_static_arguments_and_shared_kernels(key):
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x, train: bool):
            layer = nn.Dense(3, name="shared")
            x = layer(nn.relu(layer(x)))
            return nn.BatchNorm(use_running_average=not train)(x)

    model, x = Twice(), jax.random.normal(key, (4, 3))
    variables = model.init(key, x, True)
    notes = {}
    for train in (False, True):
        call = intercept(
            lambda v, x, train: model.apply(v, x, train, mutable=["batch_stats"]),
            ["params/shared/kernel"],
            lambda site, x: (x, x),
            lambda site, product: product,
        )
        (out, state), notes = call(variables, x, train)
        same, other = model.apply(variables, x, train, mutable=["batch_stats"])
        np.testing.assert_allclose(out, same, rtol=1e-5)
        assert jax.tree.structure(state) == jax.tree.structure(other)
    assert [*notes] == ["params/shared/kernel", "params/shared/kernel#2"]
    first = notes["params/shared/kernel"]
    np.testing.assert_array_equal(first.operand, x)
    wanted = x @ variables["params"]["shared"]["kernel"]
    np.testing.assert_allclose(first.product, wanted, rtol=1e-5)


def test_a_kernel_without_a_product_is_named(params, x):
    with pytest.raises(GraphError, match="bias without a product"):
        intercepted(dense, "bias")(params, x)
    with pytest.raises(GraphError, match="kernel without a product"):
        intercepted(lambda p, x: x[:, :, None] * p["kernel"][None], "kernel")(params, x)
