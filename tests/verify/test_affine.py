"""Affine operators against the Jacobian that JAX finds for them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import graph
import verify
from core.errors import GraphError
from verify import affine, convolution

MATRIX = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
VECTOR = MATRIX[0, :3]
MASK = MATRIX > 0

CASES = {  # name: (function of (weights, x, ..), weights, shapes of the operands)
    "reshape": (lambda w, x: x.reshape(3, 4), (), [(4, 3)]),
    "transpose": (lambda w, x: x.transpose(2, 0, 1), (), [(2, 3, 4)]),
    "broadcast": (lambda w, x: jnp.broadcast_to(x, (4, 2, 3)), (), [(2, 3)]),
    "squeeze": (lambda w, x: jnp.squeeze(x, 1), (), [(3, 1, 2)]),
    "slice": (lambda w, x: x[1:, ::2], (), [(4, 5)]),
    "rev": (lambda w, x: x[::-1, ::-1], (), [(4, 3)]),
    "sum": (lambda w, x: x.sum((0, 2)), (), [(2, 3, 4)]),
    "cumsum": (lambda w, x: jnp.cumsum(x, 1), (), [(2, 4)]),
    "neg": (lambda w, x: -x, (), [(4, 3)]),
    "split": (lambda w, x: jnp.split(x, 2)[1], (), [(4, 3)]),
    "mean_pool": (
        lambda w, x: lax.reduce_window(x, 0.0, lax.add, (2, 3), (2, 1), "SAME"),
        (),
        [(5, 4)],
    ),
    "add": (lambda w, x, y: x + y, (), [(4, 3), (4, 3)]),
    "add_constant": (lambda w, x: w + x, (MATRIX,), [(4, 3)]),
    "sub": (lambda w, x, y: x - y, (), [(4, 3), (4, 3)]),
    "sub_from": (lambda w, x: w - x, (MATRIX,), [(4, 3)]),
    "twice": (lambda w, x: x + x, (), [(4, 3)]),
    "concatenate": (
        lambda w, x, y: jnp.concatenate([x, w, y], 1),
        (MATRIX,),
        [(4, 2), (4, 1)],
    ),
    "pad": (
        lambda w, x: lax.pad(x, jnp.float32(2), ((1, 2, 1), (-1, 0, 0))),
        (),
        [(3, 4)],
    ),
    "mul": (lambda w, x: x * w, (MATRIX,), [(4, 3)]),
    "div": (lambda w, x: lax.div(x, w), (MATRIX,), [(4, 3)]),
    "matmul": (lambda w, x: x @ w, (MATRIX,), [(2, 4)]),
    "matmul_left": (lambda w, x: w @ x, (MATRIX,), [(3, 2)]),
    "matvec": (lambda w, x: w @ x, (MATRIX,), [(3,)]),
    "einsum": (lambda w, x: jnp.einsum("bij,jk->bki", x, w), (MATRIX,), [(2, 3, 4)]),
    "gather": (lambda w, x: x[jnp.array([2, 0, 0]), 1:], (), [(4, 3)]),
    "gather_fill": (
        lambda w, x: jnp.take(x, w, 0, mode="fill", fill_value=5.0),
        (np.array([0, 9, 1]),),
        [(4, 3)],
    ),
    "gather_promised": (
        lambda w, x: jnp.asarray(x)[w],
        (np.array([0, 9, 1]),),
        [(4, 3)],
    ),
    "where": (
        lambda w, x, y: lax.select(w, x, y),
        (MASK,),
        [(4, 3), (4, 3)],
    ),
    "where_constant": (lambda w, x: lax.select(MASK, x, w), (MATRIX,), [(4, 3)]),
}


def traced(fn, weights, shapes):
    """The last node that the operands reach, and what it needs."""
    xs = [jnp.ones(shape) for shape in shapes]
    found = affine.settled(graph.trace(fn, weights, *xs))
    known = dict(found.constants)
    known |= dict(zip(found.argument(0), jax.tree.leaves(weights), strict=True))
    active = {v for k in range(len(xs)) for v in found.argument(1 + k)}
    given = list(active)
    for node in found.nodes:
        if active.intersection(node.inputs):
            assert affine.is_affine(node, active), node.op
            active.update(node.outputs)
        else:
            ends = node(*(known[v] for v in node.inputs))
            known.update(zip(node.outputs, ends, strict=True))
    return found, active, known, given


def jacobians(fn, weights, shapes):
    """Of the output with respect to each operand, [*output, *operand], and fn(0)."""
    xs = [jnp.zeros(shape) for shape in shapes]
    flat = functools.partial(fn, weights)
    return jax.jacfwd(flat, argnums=tuple(range(len(xs))))(*xs), flat(*xs)


@pytest.mark.parametrize("name", CASES)
def test_linear_transposed_and_absolute_are_those_of_the_jacobian(name):
    fn, weights, shapes = CASES[name]
    weights = weights[0] if weights else weights
    found, active, table, _ = traced(fn, weights, shapes)
    rng = np.random.default_rng(1)
    xs = [rng.normal(size=s).astype(np.float32) for s in shapes]
    rows = rng.normal(size=(5, *found.outputs[0].shape)).astype(np.float32)
    run = functools.partial(linear_both_ways, fn, weights, found, active, table)
    around, wide, radius, left, wanted = jax.jit(run)(xs, rows)
    np.testing.assert_allclose(around, fn(weights, *xs), rtol=1e-5, atol=1e-5)
    if name != "twice":  # is |1| + |1|, as each operand of an addition is
        np.testing.assert_allclose(wide, radius, rtol=1e-5, atol=1e-6)
    for own, same in zip(left, wanted, strict=True):
        np.testing.assert_allclose(own, same, rtol=1e-4, atol=1e-5)


def linear_both_ways(fn, weights, found, active, table, xs, rows):
    """A function at xs, its sizes there, rows taken back: by node, by Jacobian."""
    exact, offset = jacobians(fn, weights, [x.shape for x in xs])
    by_value = {v: x for k, x in enumerate(xs) for v in found.argument(1 + k)}
    around, wide = dict(by_value), {v: jnp.abs(x) for v, x in by_value.items()}
    nodes = [n for n in found.nodes if active.intersection(n.inputs)]
    for node in nodes:
        reached = [v for v in node.inputs if v in active]
        parts = affine.linear(node, active, table)(*(around[v] for v in reached))
        added = affine.constant(node, active, table)
        parts = parts if added is None else tuple(p + added for p in parts)
        around.update(zip(node.outputs, parts, strict=True))
        spread = affine.linear(node, active, table, absolute=True)
        parts = spread(*(wide[v] for v in reached))
        wide.update(zip(node.outputs, parts, strict=True))
    axes = [x.ndim for x in xs]
    radius = sum(
        jnp.tensordot(jnp.abs(j), jnp.abs(x), a)
        for j, x, a in zip(exact, xs, axes, strict=True)
    )
    left = {found.outputs[0]: jnp.asarray(rows)}
    for node in reversed(nodes):
        reached = [v for v in node.inputs if v in active]
        empty = [jnp.zeros((5, *v.shape)) for v in node.outputs]
        given = [left.pop(v, e) for v, e in zip(node.outputs, empty, strict=True)]
        parts = affine.transposed(node, active, table)(*given)
        for value, part in zip(reached, parts, strict=True):
            left[value] = left[value] + part if value in left else part
    back = [left[v] for k in range(len(xs)) for v in found.argument(1 + k)]
    wanted = [jnp.tensordot(rows, jacobian, offset.ndim) for jacobian in exact]
    out = found.outputs[0]
    return around[out], wide[out], radius, back, wanted


def test_what_is_not_affine():
    for fn in (lambda w, x, y: x * y, lambda w, x, y: jnp.outer(x, y), max_of):
        found = graph.trace(fn, (), jnp.ones(3), jnp.ones(3))
        active = set(found.inputs)
        is_affine = []
        for node in found.nodes:
            is_affine.append(affine.is_affine(node, active))
            active.update(node.outputs)
        assert not all(is_affine)
    found = graph.trace(lambda x: x.astype(jnp.int32), jnp.ones(3))
    assert not affine.is_affine(found.nodes[0], set(found.inputs))
    found = graph.trace(lambda w, x: w / x, jnp.ones(3), jnp.ones(3))
    assert not affine.is_affine(found.nodes[0], set(found.argument(1)))


@pytest.mark.parametrize("kind", [jnp.float16, jnp.bfloat16])
def test_conversions_are_affine_where_they_round_nothing(kind):
    (node,) = graph.trace(lambda x: x.astype(kind), jnp.ones(3)).nodes
    assert not affine.is_affine(node, set(node.inputs))
    (node,) = graph.trace(lambda x: x.astype(jnp.float32), jnp.ones(3, kind)).nodes
    assert affine.is_affine(node, set(node.inputs))
    given, rows = jnp.arange(3, dtype=kind), jnp.arange(6.0).reshape(2, 3)
    (there,) = affine.linear(node, set(node.inputs), {}, absolute=True)(given)
    (back,) = affine.transposed(node, set(node.inputs), {})(rows)
    np.testing.assert_array_equal(there, [0, 1, 2])
    np.testing.assert_array_equal(back.astype(jnp.float32), rows)
    other = jnp.bfloat16 if kind == jnp.float16 else jnp.float16
    (node,) = graph.trace(lambda x: x.astype(other), jnp.ones(3, kind)).nodes
    assert not affine.is_affine(node, set(node.inputs))


def test_products_in_a_narrower_type_are_not_affine():
    def fn(w, x):
        return lax.dot(x, w, preferred_element_type=jnp.bfloat16)

    (node,) = graph.trace(fn, MATRIX, jnp.ones((2, 4))).nodes
    assert not affine.is_affine(node, {node.inputs[0]})


ALGORITHMS = [
    lax.DotAlgorithmPreset.BF16_BF16_F32,
    lax.DotAlgorithmPreset.TF32_TF32_F32,
    lax.DotAlgorithm(np.float32, np.float32, jnp.bfloat16),
]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_products_by_an_algorithm_that_rounds_are_refused_by_name(algorithm):
    def fn(w, x):
        return lax.dot(x, w, precision=algorithm)

    found = graph.trace(fn, MATRIX, jnp.ones((2, 4)))
    (node,) = found.nodes
    assert not affine.is_affine(node, {node.inputs[1]})
    assert affine.settled(found).nodes[0].params["precision"] == algorithm
    with pytest.raises(GraphError, match=r"test_affine\.py.*a product of precision"):
        verify.network(fn, MATRIX, np.ones((2, 4), np.float32))


def test_products_by_an_algorithm_of_their_own_type_are_affine():
    def fn(w, x):
        return lax.dot(x, w, precision=lax.DotAlgorithmPreset.F32_F32_F32)

    verify.network(fn, MATRIX, np.ones((2, 4), np.float32))
    with jax.enable_x64(True):
        wide = graph.trace(fn, MATRIX.astype(np.float64), jnp.ones((2, 4)))
        assert affine.narrows(wide.nodes[0], wide.inputs)


def test_clipped_indices_promise_nothing():
    def fn(w, x):
        return x.at[w].get(
            mode="promise_in_bounds", unique_indices=True, indices_are_sorted=True
        )

    indices = np.array([2, 3, 9])  # clipped, two are one
    found = affine.settled(graph.trace(fn, indices, jnp.ones(4)))
    node = found.nodes[-1]
    assert node.op == "gather"
    assert not node.params["unique_indices"]
    assert not node.params["indices_are_sorted"]
    known = affine.settled(graph.trace(lambda x: fn(indices[:2], x), jnp.ones(4)))
    assert known.nodes[-1].params["unique_indices"]


def max_of(w, x, y):
    return jnp.maximum(x, y)


CONVOLUTIONS = {  # name: (input shape, kernel shape, layout, keywords)
    "strides": ((1, 7, 6, 2), (3, 2, 2, 3), "NHWC", {"window_strides": (2, 3)}),
    "asymmetric": ((1, 6, 5, 2), (3, 3, 2, 3), "NHWC", {"padding": ((1, 2), (0, 3))}),
    "cropped": ((1, 7, 7, 1), (3, 3, 1, 2), "NHWC", {"padding": ((-1, 0), (1, -2))}),
    "dilated": ((1, 8, 7, 2), (3, 2, 2, 3), "NHWC", {"rhs_dilation": (2, 3)}),
    "all": (
        (2, 9, 8, 2),
        (3, 2, 2, 3),
        "NHWC",
        {
            "window_strides": (2, 1),
            "padding": ((3, 0), (1, 2)),
            "rhs_dilation": (2, 1),
        },
    ),
    "nchw": (
        (1, 2, 7, 6),
        (3, 2, 4, 4),
        "NCHW",
        {"window_strides": (2, 2), "padding": ((1, 1), (1, 1))},
    ),
    "one_axis": ((2, 9, 3), (4, 3, 2), "NWC", {"window_strides": (3,)}),
    "three_axes": ((1, 4, 5, 4, 2), (2, 3, 2, 2, 3), "NDHWC", {}),
    "groups": ((1, 5, 5, 4), (3, 3, 2, 6), "NHWC", {"feature_group_count": 2}),
    "transposed": ((1, 4, 4, 2), (3, 3, 2, 3), "NHWC", {"lhs_dilation": (2, 2)}),
}
KERNELS = {"NHWC": "HWIO", "NCHW": "OIHW", "NWC": "WIO", "NDHWC": "DHWIO"}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_transposed_convolutions_are_the_jacobian(name):
    shape, taps, layout, keywords = CONVOLUTIONS[name]
    axes = len(shape) - 2
    settings = {"window_strides": (1,) * axes, "padding": ((0, 0),) * axes} | keywords
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=taps).astype(np.float32)
    numbers = (layout, KERNELS[layout], layout)

    def fn(kernel, x):
        return lax.conv_general_dilated(
            x, kernel, dimension_numbers=numbers, **settings
        )

    (node,) = graph.trace(fn, kernel, jax.ShapeDtypeStruct(shape, np.float32)).nodes
    by_values = affine.transposed(node, {node.inputs[0]}, {node.inputs[1]: kernel})

    @jax.jit
    def run(rows):
        jacobian = jax.jacrev(functools.partial(fn, kernel))(jnp.zeros(shape))
        found = convolution.transposed(rows, kernel, shape, node.params)
        return found, by_values(rows)[0], jacobian

    rows = rng.normal(size=(4, *node.outputs[0].shape)).astype(np.float32)
    found, same, jacobian = run(rows)
    wanted = np.tensordot(rows, jacobian, len(shape))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(same, wanted, rtol=1e-4, atol=1e-5)
