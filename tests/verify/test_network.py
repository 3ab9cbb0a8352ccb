"""A function cut at its nonlinear operators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import verify
from core.errors import GraphError, ShapeError
from tests.verify.network_cases import CASES, PIECEWISE_LINEAR
from verify.network import operands


def build(name):
    case = CASES[name]
    params = case.params(np.random.default_rng(0))
    x = np.random.default_rng(1).normal(size=case.input_shape).astype(np.float32)
    return case, params, x, verify.network(case.fn, params, x)


@pytest.mark.parametrize("name", CASES)
def test_nodes_compute_the_function_and_relus_are_all_that_is_left(name):
    case, params, x, net = build(name)

    @jax.jit
    def both(params, x):
        known = net.table(net.prepare(params)) | {net.input: x}
        for node in net.nodes:
            found = node(*(known[v] for v in node.inputs))
            known.update(zip(node.outputs, found, strict=True))
        return known[net.output], case.fn(params, x)

    np.testing.assert_allclose(*both(params, x), rtol=1e-5, atol=1e-5)
    for node in net.nodes:
        assert set(operands(node, net.active)) == net.active.intersection(node.inputs)
    only_relus = all(node.op == "relu" for node in net.nonlinear)
    assert only_relus == (name in PIECEWISE_LINEAR)
    assert {v for n in net.nonlinear for v in operands(n, net.active)} == set(
        net.hidden
    )


def test_order_and_what_comes_before():
    _, _, _, net = build("residual")
    order = {v: i for i, node in enumerate(net.nodes) for v in node.outputs}
    assert [order[v] for v in net.hidden] == sorted(order[v] for v in net.hidden)
    assert net.before(net.output) == list(net.nodes)
    assert net.before(net.input) == []
    first = net.before(net.hidden[0])
    assert not set(first).intersection(net.nonlinear)
    for value in net.active - {net.output}:
        assert net.users[value] == sum(n.inputs.count(value) for n in net.nodes)
    branches = [v for v in net.active if net.users.get(v, 0) > 1]
    assert len(branches) >= 2  # where residual branches part


def test_functions_of_parameters_alone_are_computed_once():
    def fn(params, x):
        kernel = jnp.tanh(params["w"]) / jnp.linalg.norm(params["w"])
        return x @ kernel + jnp.sort(params["b"])

    params = {"w": np.ones((2, 3), np.float32), "b": np.float32([3, 1, 2])}
    net = verify.network(fn, params, np.zeros(2, np.float32))
    assert [node.op for node in net.nodes] == ["dot_general", "add"]
    assert net.nonlinear == ()
    weights = jax.jit(net.prepare)(params)
    assert (3,) in [w.shape for w in weights]
    low, high = verify.bound(fn, params, verify.box(-np.ones(2), np.ones(2)), built=net)
    np.testing.assert_allclose((low + high) / 2, [1, 2, 3], atol=1e-5)


def test_products_of_parameters_alone_are_of_full_precision():
    closed = jnp.eye(2)

    @jax.jit
    def folded(w):
        return jax.lax.scan(lambda c, _: (c @ w, None), w, length=2)[0]

    def fn(params, x):
        kernel = jax.lax.dot(params["w"], params["w"], precision="default")
        return x @ (kernel @ folded(closed) @ folded(params["w"]))

    params = {"w": jnp.eye(2)}
    net = verify.network(fn, params, np.zeros(2, np.float32))
    nodes = [n for n in net.graph.nodes if n.op == "dot_general"]
    assert len(nodes) >= 5
    full = (jax.lax.Precision.HIGHEST,) * 2
    assert {node.params["precision"] for node in nodes} == {full}
    text = jax.jit(net.prepare).lower(params).as_text()
    assert "precision = [HIGHEST, HIGHEST]" in text
    assert "DEFAULT" not in text


def test_structs_are_enough_to_build():
    case, params, x, net = build("dense")
    structs = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), params)
    again = verify.network(case.fn, structs, jax.ShapeDtypeStruct(x.shape, x.dtype))
    assert [n.op for n in again.nodes] == [n.op for n in net.nodes]


def test_what_can_not_be_bounded_is_named_with_its_line():
    x = np.zeros(3, np.float32)
    with pytest.raises(
        GraphError, match=r"'sort' at .*test_network\.py:\d+.*relaxation"
    ):
        verify.network(lambda p, x: jnp.sort(x), {}, x)
    with pytest.raises(GraphError, match=r"test_network\.py"):
        verify.network(lambda p, x: x @ jnp.linalg.inv(jnp.outer(x, x)), {}, x)
    with pytest.raises(GraphError, match="does not reach"):
        verify.network(lambda p, x: p, x, x)
    with pytest.raises(ShapeError, match="one array"):
        verify.network(lambda p, x: (x, x), {}, x)


PARAMETERS = {  # functions of parameters alone: expanded they round, wrap or are taken
    "int8 clip": (lambda p: jnp.clip(p, -127, 127), np.int8(100)),
    "int8 reduce_max": (jnp.max, np.int8([100, -100])),
    "int8 abs": (jnp.abs, np.int8([-100, 3])),
    "uint8 max": (lambda p: jnp.maximum(p, np.uint8(3)), np.uint8(1)),
    "max": (lambda p: jnp.maximum(p, -1e9), np.float32(5)),
    "integer division": (lambda p: jax.lax.div(p, np.int32(2)), np.int32(7)),
    "integer quotient": (lambda p: p // 2, np.int32([7, -7])),
    "quotient": (lambda p: jnp.floor(p / p), np.float32(41)),
    "infinite": (lambda p: jnp.isfinite(p).all(), np.float32([np.inf])),
    "NaN": (lambda p: jnp.where(p == p, 1.0, 3.0), np.float32([np.nan])),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_functions_of_parameters_are_computed_as_they_are_written(name):
    of_params, value = PARAMETERS[name]

    def fn(params, x):
        return x * of_params(params["p"]).astype(jnp.float32).sum()

    params = {"p": jnp.asarray(value)}
    x = np.ones(1, np.float32)
    net = verify.network(fn, params, x)
    (weight,) = jax.jit(net.prepare)(params)
    np.testing.assert_array_equal(weight, fn(params, x)[0])
