"""Spelled-out functions are found; what only looks like them is left alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import graph
from tests.graph.functions import FUNCTIONS, SHAPE, normal

X = normal(3, 4, 4)
SLOPES = jnp.asarray([0.1, -0.5, 2.0, 0.0])


def naive_softmax(x):
    return jnp.exp(x) / jnp.exp(x).sum(1, keepdims=True)


def written_out(x):
    e = jnp.exp(x - lax.stop_gradient(jnp.max(x, -1, keepdims=True)))
    return e / jnp.sum(e, -1, keepdims=True)


FOUND = {
    "softmax": ("softmax", jax.nn.softmax, {"axis": 2}),
    "softmax of axis 0": ("softmax", lambda x: jax.nn.softmax(x, 0), {"axis": 0}),
    "vmapped softmax": ("softmax", jax.vmap(jax.nn.softmax), {"axis": 2}),
    "unshifted softmax": ("softmax", naive_softmax, {"axis": 1}),
    "softmax written out": ("softmax", written_out, {"axis": 2}),
    "jitted softmax": ("softmax", jax.jit(written_out), {"axis": 2}),
    "log_softmax": ("log_softmax", jax.nn.log_softmax, {"axis": 2}),
    "log_softmax of axis 1": (
        "log_softmax",
        lambda x: jax.nn.log_softmax(x, 1),
        {"axis": 1},
    ),
    "logsumexp": (
        "logsumexp",
        lambda x: jax.nn.logsumexp(x, 1),
        {"axis": 1, "keepdims": False},
    ),
    "logsumexp with keepdims": (
        "logsumexp",
        lambda x: jax.nn.logsumexp(x, 0, keepdims=True),
        {"axis": 0, "keepdims": True},
    ),
    "leaky_relu": ("leaky_relu", jax.nn.leaky_relu, {}),
    "leaky_relu by slope": ("leaky_relu", lambda x: jax.nn.leaky_relu(x, 0.3), {}),
    "leaky_relu as max": ("leaky_relu", lambda x: jnp.maximum(0.3 * x, x), {}),
    "leaky_relu by <": ("leaky_relu", lambda x: jnp.where(x < 0, 2.0 * x, x), {}),
    "leaky_relu by >": ("leaky_relu", lambda x: jnp.where(x < 0, x * 2.0, x), {}),
    "prelu": (
        "leaky_relu",
        lambda x: jnp.where(x >= 0, x, SLOPES[None, :, None] * x),
        {},
    ),
    "relu": ("relu", jax.nn.relu, {}),
    "relu as where": ("relu", lambda x: jnp.where(x > 0, x, 0.0), {}),
    "relu as where <=": ("relu", lambda x: jnp.where(x <= 0, 0.0, x), {}),
    "relu as max": ("relu", lambda x: jnp.maximum(0.0, x), {}),
    "relu as max of zeros": ("relu", lambda x: jnp.maximum(x, jnp.zeros_like(x)), {}),
    "relu as product": ("relu", lambda x: x * (x > 0).astype(x.dtype), {}),
}


@pytest.mark.parametrize("name", FOUND)
def test_spelled_out_functions_become_one_node(name):
    op, fn, params = FOUND[name]
    with jax.numpy_dtype_promotion("standard"):
        traced = graph.trace(fn, X)
    found = graph.recognise(traced)
    (node,) = (n for n in found.nodes if n.body is not None)
    assert node.op == op
    assert len(found.nodes) == 1
    assert dict(node.params) == params
    assert node.inputs[0] is found.inputs[0]
    assert node.source
    assert len(node.inputs) == (2 if op == "leaky_relu" else 1)
    for x in (X, 20 * X, np.zeros_like(X), np.abs(X)):
        given, wanted = graph.evaluate(found, x), graph.evaluate(traced, x)
        np.testing.assert_allclose(given, wanted, 1e-6, 1e-7, equal_nan=False)
        apart = graph.evaluate_numpy(found, x)
        np.testing.assert_allclose(apart, wanted, 1e-4, 1e-6)


OTHERS = {
    "max of one": lambda x: jnp.maximum(x, 1.0),
    "max of some zeros": lambda x: jnp.maximum(x, SLOPES[None, None]),
    "the other half": lambda x: jnp.where(x > 0, 0.0, x),
    "another test": lambda x: jnp.where(x > 1, x, 0.0),
    "another value": lambda x: jnp.where(x > 0, 2 * x, 0.0),
    "a steep max": lambda x: jnp.maximum(x, 2.0 * x),
    "sum over another axis": lambda x: jnp.exp(x[0]) / jnp.exp(x[0]).sum(1)[None],
    "sum of others": lambda x: jnp.exp(x) / jnp.exp(2 * x).sum(1, keepdims=True),
    "softmax over two axes": lambda x: jax.nn.softmax(x, (0, 1)),
    "a masked sum": lambda x: jax.nn.softmax(x, where=jnp.arange(4)[None, None] < 2),
    "max of integers": lambda x: jnp.maximum(x.astype(int), 0),
}


@pytest.mark.parametrize("fn", OTHERS.values(), ids=OTHERS)
def test_what_only_looks_like_it_is_left_alone(fn):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = graph.trace(fn, X)
        known = graph.recognise(found)
        assert [n.op for n in known.nodes] == [n.op for n in found.nodes]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_stay(name):
    x = normal(*SHAPE)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = graph.trace(FUNCTIONS[name], x)
        given = graph.evaluate(graph.recognise(found), x)
    wanted = graph.evaluate(found, x)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), given, wanted
    )


def test_slopes_may_be_parameters():
    def prelu(params, x):
        return jnp.where(x > 0, x, params["slope"][None, :, None] * x)

    found = graph.recognise(graph.trace(prelu, {"slope": SLOPES}, X))
    node = found.nodes[-1]
    assert node.op == "leaky_relu"
    assert node.inputs[0] is found.inputs[1]
    assert node.inputs[1].shape == (1, 4, 1)
    given = graph.evaluate(found, {"slope": 2 * SLOPES}, X)
    np.testing.assert_allclose(given, prelu({"slope": 2 * SLOPES}, X), 1e-6)


def test_what_is_used_elsewhere_too_stays():
    def fn(x):
        e = jnp.exp(x)
        return e / e.sum(-1, keepdims=True), e

    found = graph.recognise(graph.trace(fn, X))
    assert [n.op for n in found.nodes] == ["exp", "softmax"]


def test_patterns_may_be_chosen():
    found = graph.trace(lambda x: jax.nn.softmax(jnp.maximum(x, 0.0)), X)
    only = {"softmax": graph.PATTERNS["softmax"]}
    assert [n.op for n in graph.recognise(found, only).nodes] == ["max", "softmax"]


def test_recognition_inside_jit_leaves_traced_constants_alone():
    def outer(x, floor):
        found = graph.recognise(graph.trace(lambda x: jnp.maximum(x, floor), x))
        assert [n.op for n in found.nodes] == ["max"]
        return graph.evaluate(found, x)

    np.testing.assert_array_equal(jax.jit(outer)(X, 0.0), np.maximum(X, 0))
