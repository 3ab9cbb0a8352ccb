"""Coefficients below what float32 holds: no bound is better for their loss."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import verify
from tests.verify import network_cases
from verify import beta, crown, regions, rounding
from verify.programs import Shape, programs
from verify.relaxations import RULES
from verify.types import Bounds

CONFIG = verify.Config(timeout_s=30, batch=8)
FAR = 1e25


def chain(params, x):
    """Dense layers with ReLUs between them; biases where there are any."""
    *hidden, last = params
    for layer in hidden:
        x = jax.nn.relu(x @ layer["w"] + layer.get("b", jnp.zeros((), x.dtype)))
    return x @ last["w"] + last.get("b", jnp.zeros((), x.dtype))


def affine_then(params, x):
    """y = 1e-30 relu(1e-30 (1e10 x))."""
    a, b, c = params
    return (jax.nn.relu((x @ a) @ b)) @ c


def convolved(params, x):
    """Two convolutions of one image and a dense layer."""
    first, second, last = params
    for kernel in (first, second):
        numbers = ("NCHW", "OIHW", "NCHW")
        x = lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=numbers
        )
        x = jax.nn.relu(x)
    return x.reshape(1, -1) @ last


def ones(*shape):
    return np.ones(shape, np.float32)


def layers(*weights, n=2):
    return [{"w": np.full((n, n), w / n, np.float32)} for w in weights]


CASES = {
    # name: function, parameters, shape of x, what x = 1e25 everywhere becomes
    "one layer": (
        chain,
        [{"w": 1e-20 * ones(1, 1)}, {"w": 1e-30 * ones(1, 1)}],
        (1,),
        1e-25,
    ),
    "one layer of products": (
        affine_then,
        [1e10 * ones(1, 1), 1e-30 * ones(1, 1), 1e-30 * ones(1, 1)],
        (1,),
        1e-25,
    ),
    "two layers": (chain, layers(1e-20, 1e-15, 1e-15), (2,), 1e-25),
    "convolutions": (
        convolved,
        [
            1e-15 / 9 * ones(2, 1, 3, 3),
            1e-15 / 18 * ones(2, 2, 3, 3),
            1e-15 / 50 * ones(50, 1),
        ],
        (1, 1, 5, 5),
        6.05e-21,
    ),
}


def false_property(name, low):
    """y is below 0.9 times what it becomes at an end: not so."""
    fn, params, shape, most = CASES[name]
    top = float(fn(params, np.full(shape, FAR, np.float32)).max())
    assert top > 0.99 * most  # forward, nothing underflows
    n = int(np.size(fn(params, np.zeros(shape, np.float32))))
    region = verify.box(np.full(shape, low), np.full(shape, FAR))
    prop = verify.linear(region, -np.eye(1, n), [0.9 * most])
    return verify.Problem(fn, params, prop)


@pytest.mark.parametrize("branching", ["relu", "input"])
@pytest.mark.parametrize("low", [0.0, -FAR])
@pytest.mark.parametrize("name", CASES)
def test_no_property_holds_since_coefficients_vanish(name, low, branching):
    asked = false_property(name, low)
    config = dataclasses.replace(CONFIG, branching=branching)
    found = verify.verify(asked, config)
    assert found.status == "sat", (found, found.why)
    blind = dataclasses.replace(config, restarts=0, timeout_s=5)
    assert verify.verify(asked, blind).status != "unsat"


def dense(*pairs):
    return [{"w": np.float32([[w]]), "b": np.float32([b])} for w, b in pairs]


@pytest.mark.parametrize("branching", ["relu", "input"])
@pytest.mark.parametrize(
    ("pairs", "low", "high", "most"),
    [
        # The coefficient that underflows is one of a large one's operand.
        ([(1e-20, 0), (1e-30, -5e-26), (1e25, 0)], 0.0, FAR, 0.5),
        ([(1e-20, 0), (1e-30, -5e-26), (1e25, 0)], -FAR, FAR, 0.5),
        # Slopes and intercepts of chords, and the input, underflow too.
        ([(1.0, 0), (1e30, 0)], -1e10, 1e-30, 1.0),
        ([(1e-20, 0), (1e20, 0)], -1.0, 1.0, 1.0),
        ([(1.0, 0), (1e38, 0)], 0.0, 1e-39, 0.1),
        # What overflows has no bounds.
        ([(1e30, 0), (1e-30, 0), (1e-30, 0)], 0.0, FAR, 1e-5),
    ],
)
def test_what_large_weights_make_of_small_numbers(pairs, low, high, most, branching):
    region = verify.box([low], [high])
    prop = verify.linear(region, [[-1.0]], [0.9 * most])
    asked = verify.Problem(chain, dense(*pairs), prop)
    config = dataclasses.replace(CONFIG, branching=branching, restarts=0, timeout_s=5)
    assert verify.verify(asked, config).status != "unsat"


def of_lines(slope, intercept, ends):
    """How far a line is above relu at ends [n, 2], and the size of its terms."""
    slope, intercept = (np.float64(part)[:, None] for part in (slope, intercept))
    terms = np.abs(slope * ends) + np.abs(intercept)
    return slope * ends + intercept - np.maximum(ends, 0), terms


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-37, 1e-30, 1e-20, 1e-9, 1.0, 1e20])
@pytest.mark.parametrize("skew", [1e-50, 1e-20, 1.0])
def test_chords_are_above_relu_at_both_ends(scale, skew, dtype):
    kind = np.finfo(dtype)
    with jax.enable_x64(True):
        small = max(scale * skew, float(kind.tiny))
        ends = np.array([[-scale, small], [-small, scale]], dtype)
        bounds = Bounds(*jnp.asarray(ends.T))
        chord, *_ = beta.chords((bounds,), (jnp.zeros((1, 2), jnp.int8),))
        lines = RULES["relu"].lines(bounds)
    for slope, intercept in (
        (lines.upper_slopes[0], lines.upper_intercept),
        (chord.slope[0], chord.intercept[0]),
    ):
        above, terms = of_lines(slope, intercept, ends.astype(np.float64))
        assert (above >= -4 * kind.eps * terms).all()


def built(case, seed=0):
    params = case.params(np.random.default_rng(seed))
    net = verify.network(case.fn, params, np.zeros(case.input_shape, np.float32))
    return net, net.prepare(params)


@pytest.mark.parametrize("name", ["dense", "conv"])
def test_what_may_underflow_is_nothing_beside_the_bounds_of_usual_networks(name):
    net, weights = built(network_cases.CASES[name])
    x = np.random.default_rng(1).normal(size=net.input.shape).astype(np.float32)
    region = verify.Region(jnp.asarray(x - 0.1), jnp.asarray(x + 0.1))
    spec = verify.Spec(np.eye(1, int(np.prod(net.output.shape))), np.zeros(1))

    @jax.jit
    def bounds(weights, region):
        config = crown.CrownConfig(margin=True)
        hidden = crown.hidden_bounds(net, weights, region, config)
        return crown.spec_terms(net, weights, region, spec, hidden)

    found = bounds(weights, region)
    share = rounding.share(np.float32)
    assert 0 < share * found.lost < 1e-25
    assert share * found.lost < 1e-15 * found.slack[0]


@pytest.mark.parametrize("scale", [1.0, 1e20])
def test_a_reduced_form_counts_what_its_coefficients_lost(scale):
    """By each unit of a coefficient on a neuron, and once for each row."""
    lost, share = np.float32(1e-12), rounding.share(np.float32)
    form = {
        "layers": [{"matrix": np.zeros((1, 1)), "bias": np.zeros(1)}],
        "output": {"matrix": np.array([[0.0], [scale]]), "bias": np.zeros(1)},
        "lost": lost,
    }
    form = jax.tree.map(np.float32, form)
    net = programs(Shape(1, (1,), 1, "float32")).network
    region = verify.Region(np.zeros(1, np.float32), np.ones(1, np.float32))
    hidden = (Bounds(-np.ones(1, np.float32), np.ones(1, np.float32)),)
    one, none = jnp.ones((1, 1)), jnp.zeros((1, 1))
    split = (jnp.ones((1, 1), jnp.int8),)  # so that the row is scale z
    domains = beta.Domains(one[None], none, one, split, (none,), (none,))
    config = beta.BetaConfig(steps=0)
    weights = net.prepare(form)
    found = beta.bound_batch(net, weights, region, hidden, domains, config, lost)
    np.testing.assert_allclose(found.lower, [-share * lost * (2 + scale)], rtol=1e-5)


def test_a_region_has_no_denormal_ends():
    tiny = float(np.finfo(np.float32).tiny)
    low, high = (
        np.array([1e-40, -1e-40, -1.0, 0.0]),
        np.array([2e-39, 1e-39, -1e-39, 0]),
    )
    found = regions.outward32(verify.box(low, high))
    np.testing.assert_array_equal(found.lower, np.float32([0, -tiny, -1, 0]))
    np.testing.assert_array_equal(found.upper, np.float32([tiny, tiny, 0, 0]))
    around = regions.outward32(verify.ball([1e-39, 1.0], 1e-39, "l2"))
    assert around.center[0] == 0
    assert around.radius >= tiny
