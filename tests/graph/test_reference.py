"""Graphs in numpy agree with XLA in double precision, to its last digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import graph
from core.errors import GraphError
from graph.reference import OPERATORS
from tests.graph.functions import FUNCTIONS, SHAPE, normal

X = normal(*SHAPE).astype(np.float64)


def agree(given, wanted, rtol=1e-11):
    assert jax.tree.structure(given) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(wanted), strict=True):
        assert isinstance(a, np.ndarray | np.generic)
        scale = np.max(np.abs(np.nan_to_num(np.asarray(b, np.float64))), initial=1e-30)
        np.testing.assert_allclose(a, b, rtol, rtol * scale)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_numpy_agrees_with_xla(name):
    fn = FUNCTIONS[name]
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        found = graph.trace(fn, X)
        agree(graph.evaluate_numpy(found, X), fn(X))


def test_every_operator_of_the_reference_is_in_the_table():
    used = set()
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for fn in FUNCTIONS.values():
            pending = [*graph.trace(fn, X).nodes]
            while pending:
                node = pending.pop()
                used.add(node.op)
                pending += node.body.nodes if node.body else []
    # The last are folded, of gradients, of several devices, or of other versions.
    unused = {"iota", "add_any", "device_put", "pvary", "real", "expand_dims"}
    assert set(OPERATORS) - used <= unused | {"copy_p", "copy"}


def test_float32_graphs_are_evaluated_in_double_precision():
    small = np.float32(1e-9)
    found = graph.trace(lambda x: (1 + x) - 1, small)
    assert graph.evaluate(found, small) == 0
    np.testing.assert_allclose(graph.evaluate_numpy(found, small), small, 1e-6)
    half = graph.trace(lambda x: x.astype(jnp.bfloat16) * 2, np.ones(3, np.float32))
    result = graph.evaluate_numpy(half, np.full(3, 1 + 2.0**-20))
    assert result.dtype == np.float64
    np.testing.assert_array_equal(result, 2 + 2.0**-19)


def test_integers_divide_and_convert_as_xla_does():
    x = np.array([-7, -1, 0, 5, 9], np.int32)
    y = np.array([2, -3, 4, -2, 9], np.int32)
    for fn in (lax.div, lax.rem, lambda a, b: a * b - b):
        np.testing.assert_array_equal(
            graph.evaluate_numpy(graph.trace(fn, x, y), x, y), fn(x, y)
        )
    z = np.array([-1e9, -3.7, -0.5, 2.5, 130.0, np.nan], np.float32)
    for dtype in (jnp.int8, jnp.uint8, jnp.int32, jnp.bool_):
        found = graph.trace(lambda z, d=dtype: lax.convert_element_type(z, d), z)
        np.testing.assert_array_equal(
            graph.evaluate_numpy(found, z), lax.convert_element_type(z, dtype)
        )


def test_infinities_and_nan_are_results():
    x = np.array([-1.0, 0.0, 1.0], np.float32)
    found = graph.trace(lambda x: (jnp.log(x), 1.0 / x), x)
    y = jnp.asarray(x)
    agree(graph.evaluate_numpy(found, x), (jnp.log(y), 1.0 / y), 1e-6)


def test_large_batches_of_convolutions_go_in_parts(monkeypatch):
    monkeypatch.setattr("graph.reference_windows._MOST_PATCHES", 1)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        for name in ("conv_grouped", "conv_transposed"):
            found = graph.trace(FUNCTIONS[name], X)
            agree(graph.evaluate_numpy(found, X), FUNCTIONS[name](X))


def test_an_unknown_operator_is_named_with_its_line():
    x = np.eye(3, dtype=np.float32)
    found = graph.trace(jnp.linalg.cholesky, x)
    with pytest.raises(GraphError, match=r"'cholesky' at .*numpy"):
        graph.evaluate_numpy(found, x)
    rounded = graph.trace(lambda x: lax.reduce_precision(x, 5, 10), x)
    with pytest.raises(GraphError, match="10 bits"):
        graph.evaluate_numpy(rounded, x)


@pytest.mark.data
def test_numpy_agrees_on_real_networks(data_root):
    pytest.importorskip("onnx")
    paths = sorted((data_root / "verify").rglob("*.onnx"))
    # Networks of one size in one folder are alike.
    different = {(path.parent, path.stat().st_size): path for path in paths}
    if not paths:
        pytest.skip(f"no networks in {data_root / 'verify'}")
    with jax.enable_x64(True):
        for path in different.values():
            fn, params = graph.onnx.load(path, dtype=np.float64)
            (given,) = graph.onnx.describe(path).inputs
            shape = [n if isinstance(n, int) and n > 0 else 1 for n in given.shape]
            x = np.random.default_rng(0).uniform(size=shape)
            found = graph.recognise(graph.trace(fn, params, x))
            agree(graph.evaluate_numpy(found, params, x), jax.jit(fn)(params, x))
