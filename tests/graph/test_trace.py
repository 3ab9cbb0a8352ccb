"""A traced function is the function: loops, calls, constants, parameters, lines."""

import functools
import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import graph
from core.errors import GraphError, InputError
from graph.trace import MAX_UNROLLED
from tests.graph.functions import FUNCTIONS, SHAPE, normal

X = normal(2, 5)


def ops(fn, *args):
    return [node.op for node in graph.trace(fn, *args).nodes]


def check(fn, *args):
    """Asserts that the graph of `fn` computes what `fn` does; returns it."""
    found = graph.trace(fn, *args)
    both = jax.jit(lambda *args: (fn(*args), graph.evaluate(found, *args)))
    wanted, given = both(*args)
    assert jax.tree.structure(wanted) == jax.tree.structure(given)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-6),
        given,
        wanted,
    )
    return found


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_graph_is_its_function(name):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = check(FUNCTIONS[name], normal(*SHAPE))
    assert all(node.source for node in found.nodes)


def test_double_precision_stays():
    with jax.enable_x64(True):
        found = check(lambda x: jax.nn.relu(x) + 1.0, X.astype(np.float64))
        assert {v.dtype for v in found.outputs} == {np.dtype("float64")}


@jax.custom_vjp
def straight_through(x):
    return jnp.round(x)


straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))


@jax.custom_jvp
def sine(x):
    return jnp.sin(x)


sine.defjvp(lambda x, t: (jnp.sin(x[0]), t[0]))

CALLS = {
    "jit": jax.jit(jnp.sin),
    "jit in jit": jax.jit(lambda x: jax.jit(jnp.sin)(x)),
    "custom_jvp": sine,
    "custom_vjp": straight_through,
    "vmapped custom_vjp": jax.vmap(straight_through),
    "checkpoint": jax.checkpoint(jnp.sin),
    "checkpoint of jit": jax.checkpoint(jax.jit(sine)),
    "map": lambda x: lax.map(lambda r: r, jnp.sin(x)),
}


@pytest.mark.parametrize("fn", CALLS.values(), ids=CALLS)
def test_calls_are_inlined(fn):
    assert check(fn, X).nodes[0].op in ("sin", "round")
    assert ops(fn, X)[0] in ("sin", "round")


def test_gradients_have_graphs():
    check(
        jax.grad(lambda x: jax.checkpoint(lambda z: sine(jax.nn.relu(z)))(x).sum()), X
    )


def collect(c, r):
    return jnp.tanh(c + r), (c * r, c.sum())


LOOPS = {
    "scan": lambda x: lax.scan(collect, x[0], x),
    "reverse": lambda x: lax.scan(collect, x[0], x, reverse=True),
    "unroll": lambda x: lax.scan(collect, x[0], x, unroll=2),
    "without xs": lambda x: lax.scan(lambda c, _: (2 * c, c), x, None, length=3),
    "without ys": lambda x: lax.scan(lambda c, r: (c + r, None), x[0], x),
    "empty": lambda x: lax.scan(collect, x[0], x[:0]),
    "nested": lambda x: lax.scan(lambda c, r: lax.scan(collect, c, r[None]), x[0], x),
    "fori_loop": lambda x: lax.fori_loop(0, 3, lambda i, c: c * x, x),
    "counting while": lambda x: lax.while_loop(
        lambda c: c[0] < 4, lambda c: (c[0] + 1, c[1] * x), (0, x)
    ),
    "while of constants": lambda x: (
        x * lax.while_loop(lambda c: c < 50.0, lambda c: 2 * c, jnp.ones(()))
    ),
    "constant cond": lambda x: lax.cond(jnp.ones(3).sum() > 2, jnp.sin, jnp.cos, x),
    "switch": lambda x: lax.switch(7, [jnp.sin, jnp.cos], x),
    "associative": lambda x: lax.associative_scan(jnp.add, x, axis=1),
}


@pytest.mark.parametrize("fn", LOOPS.values(), ids=LOOPS)
def test_loops_of_fixed_length_are_unrolled(fn):
    found = check(fn, X)
    assert not {"scan", "while", "cond"} & {node.op for node in found.nodes}


def test_what_the_data_decide_is_named_with_its_line():
    def forever(x):
        return lax.while_loop(lambda c: c.sum() < 3, lambda c: c + 1, x)

    cases = {
        "while": forever,
        "cond": lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x),
    }
    for name, fn in cases.items():
        with pytest.raises(
            GraphError, match=rf"{name} at .*test_trace.py:\d+ \(.*jnp.where"
        ):
            graph.trace(fn, X)
    with pytest.raises(GraphError, match=r"while at .*\(.*forever\)"):
        graph.trace(jax.jit(forever), X)


def test_a_loop_too_long_to_unroll_is_refused(monkeypatch):
    assert MAX_UNROLLED >= 10_000  # loops of real networks are unrolled
    module = importlib.import_module("graph.trace")  # the package has the function
    monkeypatch.setattr(module, "MAX_UNROLLED", 200)
    rounds = 100
    with pytest.raises(GraphError, match="after unrolling"):
        graph.trace(lambda x: lax.fori_loop(0, rounds, lambda i, c: c * 2 + 1, x), 1.0)


def test_a_side_effect_is_refused_but_debug_prints_are_dropped():
    def host(x):
        return jax.experimental.io_callback(np.asarray, x, x)

    with pytest.raises(GraphError, match=r"io_callback at .*side effects"):
        graph.trace(host, X)

    def printing(x):
        jax.debug.print("{}", x[0, 0])
        return x + 1

    assert ops(printing, X) == ["add"]


def test_what_is_no_array_is_refused():
    with pytest.raises(InputError, match="type str"):
        graph.trace(lambda x, mode: x, X, "train")


def test_constants_are_folded():
    weights = normal(5, 5)

    def fn(x):
        scale = jnp.exp(jnp.arange(5.0)) @ jnp.asarray(weights)
        noise = jax.random.normal(jax.random.key(0), x.shape)
        return x * jnp.broadcast_to(scale, x.shape) + noise

    found = check(fn, X)
    assert [node.op for node in found.nodes] == ["mul", "add"]
    assert len(found.constants) == 2


def test_unused_operators_are_left_out():
    assert ops(lambda x: (jnp.exp(x), x + 1)[1], X) == ["add"]


def test_inside_jit_grad_and_vmap():
    weights = normal(5, 3)

    def outer(weights, x):
        scaled = jnp.tanh(weights) + 1  # traced: not to be folded on its own
        found = graph.trace(lambda x: x @ (2 * scaled).T.T + jnp.ones((1, 3)), x)
        assert [node.op for node in found.nodes] == ["dot_general", "add"]
        return graph.evaluate(found, x)

    def plain(weights, x):
        return 2 * x @ (jnp.tanh(weights) + 1) + 1

    np.testing.assert_allclose(jax.jit(outer)(weights, X), plain(weights, X), 1e-5)
    gradients = [
        jax.jit(jax.grad(lambda w, f=f: f(w, X).sum()))(weights) for f in (outer, plain)
    ]
    np.testing.assert_allclose(*gradients, 1e-5)
    mapped = jax.vmap(outer, (None, 0))(weights, X[:, None])
    np.testing.assert_allclose(mapped[:, 0], plain(weights, X), 1e-5)


def test_a_branch_that_a_traced_constant_chooses_is_refused():
    def outer(flag):
        return graph.trace(lambda x: lax.cond(flag, jnp.sin, jnp.cos, x), X)

    with pytest.raises(GraphError, match="cond"):
        jax.jit(outer)(True)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), name="conv")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="norm")(x))
        x = nn.max_pool(x, (2, 2), (2, 2)) + nn.avg_pool(x, (2, 2), (2, 2))
        return nn.Dense(3, name="fc")(x.reshape(len(x), -1))


def test_a_flax_module_with_the_paths_of_its_parameters(key):
    x = normal(*SHAPE)
    net = Net()
    with jax.numpy_dtype_promotion("standard"):
        variables = net.init(key, x)
        found = check(net.apply, variables, x)
    paths = [v.path for v in found.argument(0)]
    assert "params/conv/kernel" in paths
    assert "batch_stats/norm/mean" in paths
    assert [v.path for v in found.argument(1)] == [""]
    (conv,) = (n for n in found.nodes if n.op == "conv_general_dilated")
    assert conv.inputs[1].path == "params/conv/kernel"
    assert "test_trace.py" in conv.source
    assert "relu" in [node.op for node in found.nodes]


def test_an_nnx_module_has_the_same_paths():
    model = nnx.Sequential(nnx.Linear(5, 4, rngs=nnx.Rngs(0)), nnx.relu)
    definition, state = nnx.split(model)
    found = check(lambda state, x: nnx.merge(definition, state)(x), state, X)
    assert [v.path for v in found.argument(0)] == ["layers/0/bias", "layers/0/kernel"]
    assert [node.op for node in found.nodes if node.body] == ["relu"]


def test_paths_of_a_tree_written_by_hand():
    params = {"fc": [{"w": normal(5, 3)}, {"w": normal(3, 2)}], "unused": np.ones(1)}
    found = check(lambda p, x: x @ p["fc"][0]["w"] @ p["fc"][1]["w"], params, X)
    assert [v.path for v in found.inputs] == ["fc/0/w", "fc/1/w", "unused", ""]
    assert [v.argument for v in found.inputs] == [0, 0, 0, 1]
    assert [n.inputs[1].path for n in found.nodes] == ["fc/0/w", "fc/1/w"]


def test_composites_stay_one_node():
    @graph.composite
    def swish_of_test(x):
        return x * jax.nn.sigmoid(x)

    try:
        fn = jax.jit(lambda x: swish_of_test(jax.nn.relu(x)) + jax.nn.softplus(x))
        found = check(fn, X)
        assert [n.op for n in found.nodes] == [
            "relu",
            "swish_of_test",
            "softplus",
            "add",
        ]
        relu, swish, *_ = found.nodes
        assert "test_trace.py" in swish.source
        assert relu.primitive is None
        assert [n.op for n in swish.body.nodes] == ["logistic", "mul"]
    finally:
        del graph.COMPOSITES["swish_of_test"]


def test_another_function_of_a_composites_name_is_inlined():
    @jax.jit
    def relu(x):
        return jnp.maximum(x, 0.1)

    @jax.jit
    def softplus(x, sharpness):
        return x * sharpness

    assert ops(lambda x: softplus(relu(x), 2.0), X) == ["max", "mul"]


def test_composites_that_differ_in_what_they_close_over_are_inlined():
    ours, theirs = jnp.arange(5.0), jnp.arange(5.0) + 1

    def scaled_of_test(x, by=ours):
        return x * by[None]

    def scaled(by):
        def scaled_of_test(x):
            return x * by[None]

        return jax.jit(scaled_of_test)

    graph.composite(scaled_of_test)
    try:
        assert ops(scaled(ours), X) == ["scaled_of_test"]
        assert ops(scaled(theirs), X) == ["mul"]
    finally:
        del graph.COMPOSITES["scaled_of_test"]


def library(x):
    return jnp.where(x > 0, x, 0.0)


def test_lines_are_the_users():
    def first(x):
        return library(x)

    def second(x):
        return jnp.clip(x, 0.0, 1.0)

    for node in graph.trace(first, X).nodes:
        assert node.source.endswith("(library)")
    for node in graph.trace(second, X).nodes:  # clip's own jit has no line of ours
        assert "test_trace.py" in node.source
        assert "second" in node.source


def test_expanded_nodes_keep_the_line_and_may_be_expanded_again():
    def network(x):
        return jnp.maximum(x, 1.0)

    def larger(_):
        return lambda a, b: b + jax.nn.relu(a - b)

    def softer(_):
        return jax.nn.softplus

    found = graph.trace(network, X)
    simpler = graph.expand(found, {"max": larger, "relu": softer})
    assert [n.op for n in simpler.nodes] == ["sub", "softplus", "add"]
    assert {n.source for n in simpler.nodes} == {found.nodes[0].source}
    np.testing.assert_allclose(
        graph.evaluate(simpler, X), 1 + jax.nn.softplus(X - 1), 1e-6
    )
    assert graph.expand(found, {"max": lambda _: None}).nodes[0].op == "max"
    with pytest.raises(GraphError, match="expansion of max"):
        graph.expand(found, {"max": lambda _: lambda a, b: a[:1]})
    with pytest.raises(GraphError, match=r"int32\[2, 5\].*float32\[2, 5\]"):
        graph.expand(found, {"max": lambda _: lambda a, b: a.astype(int)})


def test_nodes_that_depend_on_no_source_stay_as_they_are():
    def fn(w, x):
        return jnp.maximum(w, 1.0) + jnp.maximum(x, w)

    found = graph.trace(fn, X, X)
    expansions = {"max": lambda _: lambda a, b: b + jax.nn.relu(a - b)}
    simpler = graph.expand(found, expansions, sources=found.argument(1))
    assert [n.op for n in simpler.nodes] == ["max", "sub", "relu", "add", "add"]
    simpler = graph.expand(found, expansions)
    assert "max" not in [n.op for n in simpler.nodes]
