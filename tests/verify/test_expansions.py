"""Expansions compute what the operator computes, with operators that have bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import graph
from verify.expansions import EXPANSIONS
from verify.relaxations import RULES

LINEAR = {"add", "sub", "neg", "mul", "reduce_sum", "convert_element_type", "copy"}
LINEAR |= {"reshape", "transpose", "broadcast_in_dim", "squeeze", "slice"}
LINEAR |= {"concatenate"}


def _windows(reducer, start, window, strides, padding, dilation=(1, 1)):
    def fn(x):
        return lax.reduce_window(
            x,
            start,
            reducer,
            (1, *window, 1),
            (1, *strides, 1),
            padding,
            window_dilation=(1, *dilation, 1),
        )

    return fn


def _max_pool(*args, **kwargs):
    return _windows(lax.max, -np.inf, *args, **kwargs)


def softmax(x):
    return jax.nn.softmax(x, axis=-1)


def _slopes(shape):
    return jnp.linspace(-0.5, 0.9, shape[1], dtype=jnp.float32).reshape(1, -1, 1)


MATRIX, IMAGE, CUBE = (3, 5), (2, 9, 7, 3), (2, 4, 3)

CASES = {  # name: (operator that must be gone, function, shapes of its arguments)
    "max": ("max", jnp.maximum, (MATRIX, MATRIX)),
    "max_constant": ("max", lambda x: jnp.maximum(x, 0.5), (MATRIX,)),
    "min": ("min", jnp.minimum, (MATRIX, MATRIX)),
    "abs": ("abs", jnp.abs, (MATRIX,)),
    "clamp": ("clamp", lambda x: lax.clamp(-0.5, x, 0.7), (MATRIX,)),
    "clip": ("min", lambda x: jnp.clip(x, -0.5, 0.7), (MATRIX,)),
    "relu6": ("min", jax.nn.relu6, (MATRIX,)),
    "hard_tanh": ("hard_tanh", jax.nn.hard_tanh, (MATRIX,)),
    "hard_sigmoid": ("min", jax.nn.hard_sigmoid, (MATRIX,)),
    "hard_swish": ("min", jax.nn.hard_swish, (MATRIX,)),
    "leaky_relu": ("leaky_relu", jax.nn.leaky_relu, (MATRIX,)),
    "leaky_relu_slope": (
        "leaky_relu",
        lambda x: jax.nn.leaky_relu(x, 0.3),
        (MATRIX,),
    ),
    "prelu": (
        "leaky_relu",
        lambda x: jnp.where(x >= 0, x, jnp.broadcast_to(_slopes(x.shape), x.shape) * x),
        (CUBE,),
    ),
    "elu": ("elu", jax.nn.elu, (MATRIX,)),
    "celu": ("min", jax.nn.celu, (MATRIX,)),
    "silu": ("", jax.nn.silu, (MATRIX,)),
    "gelu": ("", jax.nn.gelu, (MATRIX,)),
    "gelu_exact": ("erfc", lambda x: jax.nn.gelu(x, approximate=False), (MATRIX,)),
    "soft_sign": ("div", jax.nn.soft_sign, (MATRIX,)),
    "log_sigmoid": ("", jax.nn.log_sigmoid, (MATRIX,)),
    "mish": ("", jax.nn.mish, (MATRIX,)),
    "logaddexp": ("ne", jnp.logaddexp, (MATRIX, MATRIX)),
    "same": ("eq", lambda x: jnp.where(x == x, 2.0 * x, 1.0), (MATRIX,)),
    "reduce_max": ("reduce_max", lambda x: jnp.max(x, axis=1), (MATRIX,)),
    "reduce_max_axes": ("reduce_max", lambda x: jnp.max(x, axis=(0, 2)), (CUBE,)),
    "reduce_max_all": ("reduce_max", jnp.max, (MATRIX,)),
    "reduce_min": ("reduce_min", lambda x: jnp.min(x, axis=0), (MATRIX,)),
    "reduce_prod": ("reduce_prod", lambda x: jnp.prod(x, axis=-1), (MATRIX,)),
    "square": ("mul", lambda x: x * x, (MATRIX,)),
    "div": ("div", lambda x, y: x / (2.0 + jnp.tanh(y)), (MATRIX, MATRIX)),
    "exp2": ("exp2", jnp.exp2, (MATRIX,)),
    "sinh": ("sinh", jnp.sinh, (MATRIX,)),
    "cosh": ("cosh", jnp.cosh, (MATRIX,)),
    "erfc": ("erfc", jax.scipy.special.erfc, (MATRIX,)),
    "softmax": ("softmax", softmax, (CUBE,)),
    "log_softmax": ("log_softmax", jax.nn.log_softmax, (CUBE,)),
    "softmax_first": ("softmax", lambda x: jax.nn.softmax(x, axis=0), (MATRIX,)),
    "log_softmax_middle": ("log_softmax", lambda x: jax.nn.log_softmax(x, 1), (CUBE,)),
    "logsumexp": ("logsumexp", lambda x: jax.nn.logsumexp(x, 1), (CUBE,)),
    "logsumexp_kept": (
        "logsumexp",
        lambda x: jax.nn.logsumexp(x, 1, keepdims=True),
        (CUBE,),
    ),
    "where_finite": (
        "is_finite",
        lambda x: jnp.where(jnp.isfinite(x), jnp.sin(x), 0.0),
        (MATRIX,),
    ),
    "pool_2": ("reduce_window_max", _max_pool((2, 2), (2, 2), "VALID"), (IMAGE,)),
    "pool_3_2": ("reduce_window_max", _max_pool((3, 3), (2, 2), "VALID"), (IMAGE,)),
    "pool_same": ("reduce_window_max", _max_pool((3, 3), (2, 2), "SAME"), (IMAGE,)),
    "pool_same_2": ("reduce_window_max", _max_pool((2, 3), (1, 1), "SAME"), (IMAGE,)),
    "pool_padded": (
        "reduce_window_max",
        _max_pool((3, 2), (2, 3), ((0, 0), (1, 1), (1, 0), (0, 0))),
        (IMAGE,),
    ),
    "pool_wide": (
        "reduce_window_max",
        _max_pool((5, 7), (3, 1), ((0, 0), (3, 4), (5, 6), (0, 0))),
        (IMAGE,),
    ),
    "pool_dilated": (
        "reduce_window_max",
        _max_pool((3, 2), (2, 1), ((0, 0), (2, 1), (0, 2), (0, 0)), dilation=(2, 3)),
        (IMAGE,),
    ),
    "pool_cropped": (
        "reduce_window_max",
        _max_pool((2, 2), (2, 2), ((0, 0), (-1, 0), (0, -2), (0, 0))),
        (IMAGE,),
    ),
    "min_pool": (
        "reduce_window_min",
        _windows(lax.min, np.inf, (3, 3), (2, 2), "SAME"),
        (IMAGE,),
    ),
}


def expanded(fn, *args):
    return graph.expand(graph.recognise(graph.trace(fn, *args)), EXPANSIONS)


def is_choice_known(found, node):
    return node.op == "select_n" and node.inputs[0] in found.constants


def test_every_expansion_has_a_case():
    assert {operator for operator, *_ in CASES.values() if operator} <= set(EXPANSIONS)
    assert set(EXPANSIONS) - {operator for operator, *_ in CASES.values()} == set()


@pytest.mark.parametrize("name", CASES)
def test_expansion_computes_the_same_with_operators_that_have_bounds(name, key):
    operator, fn, shapes = CASES[name]
    args = [
        2.0 * jax.random.normal(k, shape)
        for k, shape in zip(jax.random.split(key, len(shapes)), shapes, strict=True)
    ]
    found = expanded(fn, *args)
    names = {node.op for node in found.nodes if not is_choice_known(found, node)}
    assert names <= LINEAR | set(RULES)
    assert operator == "mul" or operator not in names
    fast = jax.jit(lambda *a: graph.evaluate(found, *a))
    np.testing.assert_allclose(fast(*args), fn(*args), rtol=2e-6, atol=2e-6)


def test_a_number_times_itself_is_a_square_and_a_product_stays():
    x = jnp.ones(3)
    assert {n.op for n in expanded(lambda x: x * x, x).nodes} == {"square"}
    assert {n.op for n in expanded(lambda x, y: x * y, x, x).nodes} == {"mul"}


def test_infinite_padding_never_enters_a_pooled_graph():
    fn = _max_pool((3, 3), (2, 2), "SAME")
    found = expanded(fn, jnp.ones(IMAGE))
    assert all(np.all(np.isfinite(array)) for array in found.constants.values())


@pytest.mark.parametrize("padding", [((0, 0), (4, 0), (0, 0), (0, 0))])
def test_windows_of_padding_alone_are_left_alone(padding):
    found = expanded(_max_pool((3, 2), (1, 1), padding), jnp.ones(IMAGE))
    assert {node.op for node in found.nodes} == {"reduce_window_max"}


def test_base_dilation_is_left_alone():
    def fn(x):
        return lax.reduce_window(
            x, -jnp.inf, lax.max, (2,), (1,), "VALID", base_dilation=(2,)
        )

    assert {n.op for n in expanded(fn, jnp.ones(5)).nodes} == {"reduce_window_max"}


def test_softmax_of_far_apart_entries_is_finite():
    x = jnp.array([[[0.0, 200.0, -300.0]]])
    for fn in (softmax, jax.nn.log_softmax):
        found = graph.evaluate(expanded(fn, x), x)
        np.testing.assert_allclose(found, fn(x), rtol=1e-6, atol=1e-6)


def test_a_composite_along_several_axes_is_left_alone():
    @graph.composite
    def softmax(x):
        return jax.nn.softmax(x, axis=(0, 1))

    found = expanded(softmax, jnp.ones(MATRIX))
    assert {node.op for node in found.nodes} == {"softmax"}
