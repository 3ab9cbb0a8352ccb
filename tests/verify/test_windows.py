"""Rows that go back as windows are those that go back whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from verify import crown, intervals, network, relaxing, windows
from verify.backward import backward
from verify.regions import box

FLAX, TORCH = ("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")


def conv(numbers, x, kernel, strides=(1, 1), pads="VALID", dilation=(1, 1), groups=1):
    if numbers == TORCH:
        kernel = kernel.transpose(3, 2, 0, 1)
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        pads,
        rhs_dilation=dilation,
        dimension_numbers=numbers,
        feature_group_count=groups,
        precision=lax.Precision.HIGHEST,
    )


def along(numbers, vector):
    """A vector along the channels."""
    shape = (1, 1, 1, -1) if numbers == FLAX else (1, -1, 1, 1)
    return vector.reshape(shape)


def deep(numbers, p, x):
    """Three convolutions, and what stands between them in practice."""
    x = conv(numbers, x, p["a"], (2, 1), ((1, 2), (0, 1))) + along(numbers, p["s"])
    x = jax.nn.sigmoid(x) * along(numbers, p["s"]) - 0.1
    x = conv(numbers, jax.nn.relu(x), p["b"], (1, 1), "SAME", (1, 2))
    x = jax.nn.relu(x - along(numbers, p["s"]))
    x = conv(numbers, x, p["c"], (2, 2), ((2, 1), (1, 0)))
    return jnp.tanh(x).reshape(-1)


def branches(numbers, p, x):
    """A sum of two branches, and a convolution behind it."""
    x = jax.nn.relu(conv(numbers, x, p["a"], (1, 1), "SAME"))
    x = jax.nn.relu(x + conv(numbers, x, p["b"], (1, 1), "SAME"))
    return jax.nn.relu(conv(numbers, x, p["c"])).reshape(-1)


def grouped(numbers, p, x):
    x = jax.nn.relu(conv(numbers, x, p["a"]))
    kernel = p["b"][:, :, :2]
    return jax.nn.relu(conv(numbers, x, kernel, groups=2)).reshape(-1)


def straight(numbers, p, x):
    """Padded convolutions with nothing between that would drop the padding."""
    x = jax.nn.relu(conv(numbers, x, p["a"], (1, 1), "SAME"))
    x = conv(numbers, x, p["b"], (1, 1), "SAME") + along(numbers, p["s"])
    return jax.nn.relu(conv(numbers, x, p["c"], (2, 1), ((2, 1), (1, 1)))).reshape(-1)


CASES = {"straight": straight, "deep": deep, "branches": branches, "grouped": grouped}


@functools.cache
def made(name, numbers):
    """A network in float64, its weights, lines within a box, and that box."""
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 3, 2, 4), "b": (3, 3, 4, 4), "c": (2, 3, 4, 4), "s": (4,)}
    params = {k: jnp.asarray(rng.normal(size=s)) for k, s in shapes.items()}
    size = (1, 17, 15, 2) if numbers == FLAX else (1, 2, 17, 15)
    x = rng.normal(size=size)
    net = network(functools.partial(CASES[name], numbers), params, x)
    weights = net.prepare(params)
    region = jax.tree.map(jnp.asarray, box(x - 0.1, x + 0.1))
    return net, weights, region


@pytest.mark.parametrize("numbers", [FLAX, TORCH], ids=["flax", "torch"])
@pytest.mark.parametrize("name", CASES)
def test_rows_of_windows_are_those_of_images(name, numbers):
    with jax.enable_x64(True):
        net, weights, region = made(name, numbers)

        @functools.partial(jax.jit, static_argnums=0)
        def both(position, neurons):
            value = net.hidden[position]
            before = net.before(value)
            table = net.table(weights)
            found = intervals.start(net, region.lower, region.upper)
            intervals.advance(net, table, before, found)
            lines = {
                node: relaxing.lines_of(net, table, found, node)
                for node in net.nonlinear
                if node in before
            }
            relax = relaxing.relaxation(net, table, found, lines=lines)
            how = windows.plan(net, value, before)
            if how is None:
                return None
            rows, *own = windows.pulled(net, table, lines, how, neurons)
            left, *more = backward(
                net, table, {how.end: rows}, relax, net.before(how.end)
            )
            unit = jax.nn.one_hot(neurons, np.prod(value.shape), dtype=value.dtype)
            unit = unit.reshape(-1, *value.shape)
            whole = {value: jnp.concatenate([unit, -unit])}
            wanted, *constants = backward(net, table, whole, relax, before)
            sums = [a + b for a, b in zip(own, more, strict=True)]
            return (left[net.input], *sums), (wanted[net.input], *constants)

        tried = 0
        for position, value in enumerate(net.hidden):
            every = jnp.arange(int(np.prod(value.shape)))
            result = both(position, every)
            if result is not None:
                tried += 1
                for found, wanted in zip(*result, strict=True):
                    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-12)
        assert tried >= 1


@pytest.mark.parametrize("lazy", [True, False])
def test_hidden_bounds_are_those_of_images(lazy, monkeypatch):
    if lazy:  # which of the stable neurons are bounded depends on the chunks
        monkeypatch.setattr(crown, "EASE", 1)
    with jax.enable_x64(True):
        net, weights, _ = made("deep", FLAX)
        rng = np.random.default_rng(1)
        x = jnp.asarray(rng.normal(size=(2, 1, 17, 15, 2)))
        config = crown.CrownConfig(intersect=lazy, chunk=20, margin=True)

        def bounds(x):
            region = box(x - 0.1, x + 0.1)
            return crown.hidden_bounds(net, weights, region, config)

        found = jax.jit(jax.vmap(bounds))(x)
        monkeypatch.setattr(windows, "plan", lambda *_: None)
        wanted = jax.jit(jax.vmap(lambda x: bounds(x)))(x)  # traced anew
        for own, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(own.lower, other.lower, rtol=1e-9, atol=1e-10)
            np.testing.assert_allclose(own.upper, other.upper, rtol=1e-9, atol=1e-10)


def ends(name, numbers=FLAX):
    with jax.enable_x64(True):
        net, *_ = made(name, numbers)
        plans = [windows.plan(net, v, net.before(v)) for v in net.hidden]
        return net, plans


def test_windows_go_as_far_as_they_are_small_and_alone(monkeypatch):
    net, plans = ends("deep")
    assert all(plan.end is net.input for plan in plans)
    # Taps of 3 x 3, then 3 x 5 of them dilated at steps of (2, 1), then 2 x 3.
    assert [p.window for p in plans] == [(3, 3), (3, 3), (7, 7), (9, 9)]
    assert plans[0].saved == pytest.approx(17 * 15 / 9)
    monkeypatch.setattr(windows, "LARGEST", 0.3)
    net, plans = ends("deep")
    assert plans[3].end is not net.input  # 81 of 255 pixels are too many
    assert plans[3].window == (4, 7)
    assert plans[2].end is net.input


def test_a_sum_of_branches_and_groups_end_windows():
    net, plans = ends("branches")
    assert plans[0].end is net.input
    assert plans[1] is None  # begins with the sum
    assert plans[2].end.shape == (1, 17, 15, 4)
    assert plans[2].end is not net.input
    net, plans = ends("grouped")
    assert plans[1] is None
