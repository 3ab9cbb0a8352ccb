"""What the checker reads of a network, operator by operator, against JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from core.errors import GraphError
from tests.verify import certificate_cases as cases
from verify import regions
from verify.certificate import balls, passes
from verify.certificate.plan import read
from verify.problem import Problem
from verify.properties import Clause, Property, Spec

W = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
K = np.random.default_rng(1).normal(size=(6, 2, 3, 2)).astype(np.float32)


def conv(x, kernel, **options):
    x = (
        x.reshape(1, 4, 2, 3)
        if options.get("feature_group_count")
        else x.reshape(1, 2, 4, 3)
    )
    return lax.conv_general_dilated(
        x, kernel, (2, 1), ((2, 1), (0, 3)), rhs_dilation=(1, 2), **options
    )


def nhwc(p, x):
    return lax.conv_general_dilated(
        x.reshape(2, 2, 3, 2),
        p.transpose(2, 3, 1, 0),
        (1, 2),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def window_sum(p, x):
    return lax.reduce_window(
        x, np.float32(0), lax.add, (2, 3), (1, 2), ((1, 0), (2, 1)), None, (2, 1)
    )


def take(p, x):
    return x[jnp.array([[3, 0], [1, 1]]), :3] + x[1:3, None, 2:3]


def normalised(p, x):
    flat = p.reshape(-1)
    scale = jnp.exp(flat) / jnp.sqrt(flat * flat + 1.0) + jnp.tanh(flat) * flat**3
    scale = scale + jax.nn.sigmoid(flat) - jnp.abs(flat) + lax.rsqrt(jnp.exp(flat))
    scale = jnp.where(flat > 0.1, scale, jnp.minimum(flat, -flat) + jnp.floor(flat))
    return scale.reshape(p.shape) * x + jax.nn.softplus(flat[0])


def signs(p, dtype):
    return (p > 0).astype(dtype)


def real(integers):
    return integers.astype(jnp.float32)


def product_in(dtype, a, b):
    numbers = (((1,), (1,)), ((), ()))
    y = lax.dot_general(a, b, numbers, preferred_element_type=dtype)
    return jnp.pad(real(y), ((0, 0), (0, 2)))


def quantised(p, x):
    q = jnp.clip(signs(p, jnp.int8) * 100 - 10, -127, 80)
    least = jnp.maximum(signs(p, jnp.uint8), jnp.uint8(3))
    first = x[:, signs(q.max(1), jnp.int32)]
    scale = real(q) * real(least) * jnp.prod(jnp.abs(p), 1, keepdims=True)
    lowest = lax.clamp(jnp.min(p), p[:1], jnp.float32(0))
    return x * jnp.where(jnp.isfinite(p), scale, 1.0) + first[:, :1] * lowest


CASES = {
    "matmul": lambda p, x: p.T @ x,
    "matmul right": lambda p, x: x.T @ p,
    "batched": lambda p, x: jnp.einsum(
        "bik,bkj->bij", x.reshape(2, 4, 3), p.reshape(2, 3, 4)
    ),
    "batched other": lambda p, x: jnp.einsum(
        "kib,jbk->bij", p.reshape(3, 4, 2), x.reshape(4, 2, 3)
    ),
    "outer": lambda p, x: jnp.tensordot(x, p[:2], 0),
    "conv": lambda p, x: conv(x, K),
    "conv groups": lambda p, x: conv(x, K[:, :, :2], feature_group_count=2),
    "conv transposed": lambda p, x: conv(x, K, lhs_dilation=(3, 2)),
    "conv nhwc": lambda p, x: nhwc(K, x),
    "window": window_sum,
    "reductions": lambda p, x: x.sum(0, keepdims=True) * 2.0 - x.mean(1, keepdims=True),
    "structure": lambda p, x: jnp.flip(x.T[::2, 1:3].reshape(3, 1, 2), (0, 2)).squeeze(
        1
    ),
    "concatenate": lambda p, x: jnp.concatenate([x, p, -x[:, :1]], 1),
    "pad": lambda p, x: lax.pad(x, x[0, 0], ((1, -1, 2), (-2, 3, 0))),
    "gather": take,
    "dynamic slice": lambda p, x: lax.dynamic_slice(x, (2, 9), (2, 3)),
    "select": lambda p, x: (
        jnp.where(p > 0, x, 0.5 * p) - jnp.where(W[0] > 0, x, x[::-1])
    ),
    "scalars": lambda p, x: (3.0 - x[0, 0] * p) / p[1, 2] + (x - 1.5) / 3.0,
    "functions of parameters": normalised,
    "integer parameters": quantised,
    "broadcast": lambda p, x: jnp.broadcast_to(x[:, None, :1], (4, 3, 6)) * 1.0,
    "identities": lambda p, x: lax.stop_gradient(jnp.copy(x).astype(jnp.float32)),
    "relu": lambda p, x: jax.nn.relu(x - 0.2) + jnp.maximum(x, p) - jnp.abs(x),
    "max pool": lambda p, x: lax.reduce_window(
        x, -np.inf, lax.max, (2, 2), (1, 2), "VALID"
    ),
}


def problem_of(fn, lower, upper, params=W):
    out = jax.eval_shape(fn, params, jax.ShapeDtypeStruct((4, 6), jnp.float32))
    n = int(np.prod(out.shape))
    spec = Spec(np.ones((1, n)), np.zeros(1))
    clause = Clause(regions.box(lower, upper), spec)
    return Problem(fn, params, Property((clause,), (4, 6), n))


def forward(plan, lower, upper):
    """Bounds of the output over one box [1, n]."""
    box = passes.Domain(lower, upper)
    state = passes.forward(plan, box, lambda *_: None)
    n = int(np.prod(plan.output.shape))

    def choose(layer, rows):
        return state.lines[layer], None

    bounds = []
    for sign in (1.0, -1.0):
        rows = passes.units(plan.output, np.arange(n), np.full(n, sign))
        every = slice(0, n)
        found = passes.pull(plan, state, plan.output, rows, choose, every, plan.steps)
        bounds.append(sign * passes.least(*found, box))
    return bounds


@pytest.mark.parametrize("name", CASES)
def test_bounds_contain_the_outputs_and_meet_in_points(name, key):
    fn = CASES[name]
    rng = np.random.default_rng(2)
    point = rng.normal(size=(4, 6)).astype(np.float32).astype(np.float64)
    plan = read(problem_of(fn, point, point))
    y = np.asarray(fn(W, jnp.asarray(point, jnp.float32)), np.float64).ravel()
    low, high = forward(plan, *(point.reshape(1, -1),) * 2)
    assert (low <= high).all()
    np.testing.assert_allclose(high - low, 0, atol=1e-11)
    np.testing.assert_allclose(low, y, rtol=3e-5, atol=3e-5)
    low, high = forward(plan, point.reshape(1, -1) - 0.3, point.reshape(1, -1) + 0.3)
    near = regions.box(point - 0.3, point + 0.3).sample(key, 300)
    y = np.asarray(jax.vmap(lambda x: fn(W, x).reshape(-1))(near), np.float64)
    assert (y >= low - 3e-5).all()
    assert (y <= high + 3e-5).all()
    if name not in ("relu", "max pool"):  # affine: each bound is reached in a corner
        mean = 0.5 * (low + high)
        middle = np.asarray(fn(W, jnp.asarray(point, jnp.float32))).ravel()
        np.testing.assert_allclose(mean, middle, rtol=3e-5, atol=3e-5)


@pytest.mark.parametrize("name", CASES)
def test_intervals_of_several_boxes_are_those_of_each(name):
    fn = CASES[name]
    rng = np.random.default_rng(3)
    low = rng.normal(size=(3, 24))
    high = low + rng.uniform(size=(3, 24))
    plan = read(
        problem_of(lambda p, x: jax.nn.relu(fn(p, x)), *[low[0].reshape(4, 6)] * 2)
    )
    together = passes.forward(plan, passes.Domain(low, high), lambda *_: None)
    for b in range(3):
        box = passes.Domain(low[b : b + 1], high[b : b + 1])
        alone = passes.forward(plan, box, lambda *_: None)
        for one, all_ in zip(alone[:2], together[:2], strict=True):
            for k in range(len(plan.layers)):
                np.testing.assert_allclose(
                    one[k][0], all_[k][b], rtol=1e-12, atol=1e-12
                )


def test_parameters_are_exact_whatever_their_dtype():
    params = np.full((4, 6), 0.1)
    point = np.ones((4, 6))
    plan = read(problem_of(lambda p, x: (p * x).sum(), point, point, params))
    low, high = forward(plan, *(point.reshape(1, -1),) * 2)
    assert low[0] <= 24 * 0.1 <= high[0]
    assert high[0] - low[0] < 1e-13


def test_a_quotient_by_a_constant_is_exact():
    """Not a product with the float32 nearest to 1/3."""
    point = np.full((4, 6), 3.0)
    plan = read(problem_of(lambda p, x: x / 3.0, point, point))
    low, high = forward(plan, *(point.reshape(1, -1),) * 2)
    np.testing.assert_allclose(low, 1, atol=1e-14)
    np.testing.assert_allclose(high, 1, atol=1e-14)


@pytest.mark.parametrize(
    ("fn", "word"),
    [
        (lambda p, x: jnp.sin(x), "sin"),
        (lambda p, x: x @ x.T, "dot_general"),
        (lambda p, x: p / (x + 9.0), "div"),
        (lambda p, x: x * lax.bessel_i0e(p), "bessel_i0e"),
        (lambda p, x: jnp.sort(x), "sort"),
        (lambda p, x: x.astype(jnp.int32).astype(jnp.float32), "convert_element_type"),
        (lambda p, x: x.astype(jnp.float16).astype(jnp.float32), "rounds"),
        (lambda p, x: x * p.astype(jnp.bfloat16).astype(jnp.float32), "rounds"),
        (lambda p, x: jnp.where(x > 0, x, p), "gt|select_n"),
        (
            lambda p, x: x * p.astype(jnp.int32).astype(jnp.float32),
            "convert_element_type",
        ),
        (
            lambda p, x: x * p.astype(jnp.bool_).astype(jnp.float32),
            "convert_element_type",
        ),
        (lambda p, x: product_in(jnp.bfloat16, x, p), "rounds"),
        (lambda p, x: x * product_in(jnp.bfloat16, p, p), "rounds"),
        (lambda p, x: x * real(signs(p, jnp.uint8) - jnp.uint8(1)), "sub.*uint8"),
        (lambda p, x: x * real(-signs(p, jnp.uint8)), "neg.*uint8"),
        (lambda p, x: x * real(signs(p, jnp.int8) * 100 + jnp.int8(99)), "add.*int8"),
        (lambda p, x: x * real((-signs(p, jnp.int32)).astype(jnp.uint8)), "uint8"),
        (lambda p, x: x * real(2**24 + signs(p, jnp.int32)), "rounds"),
        (lambda p, x: x[:, lax.div((p > 0).astype(jnp.int32), 2)], "div"),
        (
            lambda p, x: lax.dynamic_slice(x, (jnp.int32(p[0, 0]), 0), (2, 3)),
            "convert|slice",
        ),
    ],
)
def test_what_is_not_computed_is_refused_by_name(fn, word):
    point = np.zeros((4, 6))
    with pytest.raises(GraphError, match=word):
        read(problem_of(fn, point, point))


def test_the_root_of_an_exact_zero_is_zero():
    point = np.ones((4, 6))
    params = np.zeros((4, 6), np.float32)
    plan = read(problem_of(lambda p, x: x + jnp.sqrt(p), point, point, params))
    low, high = forward(plan, *(point.reshape(1, -1),) * 2)
    np.testing.assert_allclose([low, high], 1, atol=1e-14)


def test_layers_are_those_of_the_verifier():
    from verify.network import network

    x = np.zeros((1, 1, 5, 4))
    params = cases.residual_params(0)
    plan = read(cases.robust(cases.residual, params, x, 0.1))
    built = network(cases.residual, params, jnp.zeros(x.shape, jnp.float32))
    assert [v.shape for v in plan.layers] == [
        n.inputs[0].shape for n in built.nonlinear
    ]


def test_balls_of_parameters_contain_float64_results():
    rng = np.random.default_rng(0)
    params = {"var": np.abs(rng.normal(size=(4, 6))), "scale": rng.normal(size=(4, 6))}

    def fn(p, x):
        return x * (p["scale"] * lax.rsqrt(p["var"] + np.float32(1e-5)))

    plan = read(problem_of(fn, np.ones((4, 6)), np.ones((4, 6)), params))
    low, high = forward(plan, *(np.ones((1, 24)),) * 2)
    eps = float(np.float32(1e-5))
    wanted = (params["scale"] / np.sqrt(params["var"] + eps)).ravel()
    assert (low <= wanted).all()
    assert (wanted <= high).all()
    assert (high - low < 1e-12).all()
    assert balls.UNIT == 2.0**-53


def test_a_test_for_infinite_parameters_is_answered():
    point = np.ones((4, 6))

    def fn(p, x):
        return x * jnp.where(jnp.isfinite(p), 1.0, 3.0)

    for value, wanted in ((1.0, 1.0), (np.inf, 3.0), (np.nan, 3.0)):
        params = np.full((4, 6), value, np.float32)
        low, high = forward(read(problem_of(fn, point, point, params)),
                            *(point.reshape(1, -1),) * 2)  # fmt: skip
        np.testing.assert_allclose([low, high], wanted)
