"""The invariants of a graph, and its front door."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graph
from core.errors import ShapeError
from tests.graph.functions import FUNCTIONS, SHAPE, normal

PARAMS = {"fc": {"bias": normal(3), "kernel": normal(5, 3)}}
X = normal(2, 5)


def layer(params, x):
    fc = params["fc"]
    return {"out": jax.nn.relu(x @ fc["kernel"] + fc["bias"][None]), "in": x}


def check_order(found):
    """Every operand is known before it is used; nothing is defined twice."""
    defined = [*found.inputs, *found.constants]
    for node in found.nodes:
        assert set(node.inputs) <= set(defined)
        defined += node.outputs
        if node.body is not None:
            check_order(node.body)
    assert len(set(defined)) == len(defined)
    assert len({value.index for value in defined}) == len(defined)
    assert set(found.outputs) <= set(defined)
    used = {v for node in found.nodes for v in node.inputs} | set(found.outputs)
    assert set(found.constants) <= used, "a constant that nothing uses"
    assert all(used & set(node.outputs) for node in found.nodes)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nodes_are_in_topological_order(name):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = graph.trace(FUNCTIONS[name], normal(*SHAPE))
        check_order(found)
        check_order(graph.recognise(found))
        check_order(
            graph.expand(found, {"max": lambda _: lambda a, b: -jnp.minimum(-a, -b)})
        )


UNARY = [jnp.tanh, jax.nn.relu, jnp.abs, jax.nn.softmax, jax.jit(jnp.sin), jnp.cumsum]
BINARY = [jnp.add, jnp.multiply, jnp.maximum, lambda a, b: a @ b.T @ a]


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 20), st.integers(0, 20)),
        min_size=1,
        max_size=8,
    )
)
def test_random_functions_and_their_graphs_agree(steps):
    def fn(x):
        values = [x, jnp.ones_like(x)]
        for op, a, b in steps:
            a, b = values[a % len(values)], values[b % len(values)]
            found = BINARY[op - 6](a, b) if op > 5 else UNARY[op](a)
            values.append(jnp.tanh(found.reshape(x.shape)))
        return values[-1]

    found = graph.trace(fn, X)
    check_order(found)
    wanted = fn(X)
    np.testing.assert_allclose(graph.evaluate(found, X), wanted, 1e-4, 1e-5)
    np.testing.assert_allclose(graph.evaluate_numpy(found, X), wanted, 1e-4, 1e-5)
    known = graph.recognise(found)
    check_order(known)
    np.testing.assert_allclose(graph.evaluate(known, X), wanted, 1e-4, 1e-5)


def test_arguments_go_in_and_the_result_comes_out_as_the_function_has_them():
    found = graph.trace(layer, PARAMS, jax.ShapeDtypeStruct(X.shape, jnp.float32))
    assert [v.path for v in found.argument(0)] == ["fc/bias", "fc/kernel"]
    assert [v.shape for v in found.argument(1)] == [(2, 5)]
    assert found.outputs[0] is found.inputs[2]
    given = graph.evaluate(found, PARAMS, X)
    jax.tree.map(np.testing.assert_array_equal, given, layer(PARAMS, X))
    flat = found.run([*jax.tree.leaves(PARAMS), X])
    np.testing.assert_array_equal(flat[1], given["out"])


def test_a_graph_evaluates_under_jit_grad_and_vmap():
    found = graph.trace(layer, PARAMS, X)

    def loss(evaluate, params):
        return evaluate(params)["out"].sum()

    ours = jax.jit(jax.grad(lambda p: loss(lambda q: graph.evaluate(found, q, X), p)))
    wanted = jax.jit(jax.grad(lambda p: loss(lambda q: layer(q, X), p)))(PARAMS)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 1e-5), ours(PARAMS), wanted
    )
    stacked = jax.vmap(lambda x: graph.evaluate(found, PARAMS, x)["out"])(X[None])
    np.testing.assert_allclose(stacked[0], layer(PARAMS, X)["out"], 1e-5)


def test_arguments_of_other_shapes_are_named():
    found = graph.trace(layer, PARAMS, X)
    wrong = {"fc": {"bias": normal(3), "kernel": normal(5, 4)}}
    for evaluate in (graph.evaluate, graph.evaluate_numpy):
        with pytest.raises(
            ShapeError, match=r"fc/kernel: got shape \[5, 4\].*\[5, 3\]"
        ):
            evaluate(found, wrong, X)
        with pytest.raises(ShapeError, match=r"argument 1: got shape \[1, 5\]"):
            evaluate(found, PARAMS, X[:1])
        with pytest.raises(ShapeError, match="graph: got arguments"):
            evaluate(found, X)


def test_a_graph_prints_one_line_for_each_operator():
    lines = str(graph.trace(layer, PARAMS, X)).splitlines()
    assert len(lines) == 4
    assert "dot_general" in lines[0]
    assert "fc/kernel" in lines[0]
    assert "test_graph.py" in lines[0]


def test_the_manual_lists_every_public_name():
    for name in graph.__all__:
        assert getattr(graph, name) is not None
        assert f"`{name}" in graph.__doc__ or f"{name}`" in graph.__doc__, name
    with pytest.raises(AttributeError, match="nothing"):
        _ = graph.nothing


def test_the_onnx_package_is_imported_only_when_wanted():
    code = "import graph, sys; assert not {'onnx', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
