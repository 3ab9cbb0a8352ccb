"""Functions in float64: their parameters as they are, the rest in real numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import verify
from tests.verify.network_cases import CASES
from verify import box_bounds, falsify
from verify.double import in_float64
from verify.network import network

CONFIG = verify.Config(timeout_s=60, batch=8, restarts=0)
KERNEL = jnp.full((1, 1, 2), 0.5, jnp.float32)
SHIFT = jnp.full(1, 0.25, jnp.float32)
EXACT = ("dense", "conv", "pools")


def convolved(params, x):
    """x0 + x1 - 0.25, of float32 arrays that are closed over."""
    mean = lax.conv_general_dilated(x.reshape(1, 1, 2), KERNEL, (1,), "VALID")
    return lax.sub(params["w"] * mean.reshape(1), SHIFT)


@pytest.mark.parametrize("least", [0.0, 0.3])
def test_float32_arrays_that_are_closed_over_are_cast(least):
    params = {"w": np.full(1, 2, np.float32)}
    point = np.array([0.1, 1e-12])
    found = falsify.evaluate(convolved, params, point)
    np.testing.assert_allclose(found, [point.sum() - 0.25], rtol=1e-14)
    region = verify.box([least, least], [1.0, 1.0])
    asked = verify.Problem(convolved, params, verify.linear(region, [[1.0]], [0.0]))
    assert verify.verify(asked, CONFIG).status == ("sat" if least == 0 else "unsat")
    exact = box_bounds.DoubleBounds(convolved, (2,))
    specs = [verify.Spec(np.ones((1, 1)), np.zeros(1))]
    low = exact(params, np.full((1, 2), least), np.ones((1, 2)), specs)
    np.testing.assert_allclose(low, [2 * least - 0.25], atol=1e-12)


def on_grid(params, x):
    return x * jnp.round(params["w"] / params["scale"]) * 0.1


def test_weights_are_rounded_in_their_own_type():
    """Halves of a grid of 0.1, that float32 and float64 round to other sides."""
    scale = np.float32(0.1)
    w = ((np.arange(64) + 0.5) * np.float64(scale)).astype(np.float32)
    own = np.round(w / scale)
    assert (own != np.round(w.astype(np.float64) / np.float64(scale))).any()
    params, x = {"w": w, "scale": scale}, np.ones(64)
    wanted = own * np.float64(np.float32(0.1))
    found = falsify.evaluate(on_grid, params, x)
    np.testing.assert_allclose(found, wanted, rtol=1e-14)
    exact = box_bounds.DoubleBounds(on_grid, (64,))
    specs = [verify.Spec(sign * np.ones((1, 64)), np.zeros(1)) for sign in (1, -1)]
    for spec, sign in zip(specs, (1, -1), strict=True):
        least = exact(params, x[None], x[None], [spec])
        np.testing.assert_allclose(least, [sign * wanted.sum()], rtol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_what_the_input_reaches_is_the_function_in_float64(name):
    case = CASES[name]
    params = case.params(np.random.default_rng(0))
    x = np.random.default_rng(1).normal(size=case.input_shape)
    found = falsify.evaluate(case.fn, params, x)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: a.astype(np.float64), params)
        wanted = np.asarray(jax.jit(case.fn)(wide, x)).ravel()
    # Constants, such as sqrt(2 / pi) of a gelu, are of float32.
    tolerance = 1e-13 if name in EXACT else 1e-6
    np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", CASES)
def test_operators_stay_those_of_the_network(name):
    case = CASES[name]
    params = case.params(np.random.default_rng(0))
    own = network(case.fn, params, np.zeros(case.input_shape, np.float32))
    wide = in_float64(case.fn, params, case.input_shape)
    with jax.enable_x64(True):
        found = network(wide, params, np.zeros(case.input_shape))
    assert [n.op for n in found.nodes] == [n.op for n in own.nodes]
    assert {v.dtype for n in found.nonlinear for v in n.inputs} == {np.dtype("float64")}


def test_casts_to_narrower_types_stay():
    def fn(params, x):
        return params["w"] * x.astype(jnp.bfloat16).astype(jnp.float32)

    params = {"w": np.ones(1, np.float32)}
    assert falsify.evaluate(fn, params, [1.001]) == 1.0
    same = falsify.evaluate(lambda p, x: p["w"] * x.astype(jnp.float32), params, [0.1])
    assert same == 0.1


def test_parameters_of_float64_stay_exact():
    params = {"w": np.full(1, 0.1)}
    found = falsify.evaluate(lambda p, x: jnp.tanh(p["w"]) * x, params, [1.0])
    np.testing.assert_allclose(found, np.tanh(0.1), rtol=1e-15)
