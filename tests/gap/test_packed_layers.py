"""Packed convolutions and recurrent cells against JAX's and flax's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import gap
from core.errors import InputError, ShapeError
from gap import bcr, packed
from gap.packed import layers
from tests.gap.packed_cases import assert_close


def kernel(seed, shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def packed_and_dense(shape, pattern=gap.BCR(12, 8, split=0.6), seed=0):  # noqa: B008
    w = kernel(seed, shape)
    keep = np.random.default_rng(seed).random(shape) < 0.4
    return packed.pack(w, keep, pattern), jnp.asarray(np.where(keep, w, 0))


@functools.partial(jax.jit, static_argnames=("strides", "padding"))
def lax_conv(x, w, strides, padding):
    dims = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=dims)


conv = jax.jit(packed.conv, static_argnames=("strides", "padding", "layout"))


@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    [
        ((3, 3), (1, 1), "SAME"),
        ((3, 3), (2, 2), "SAME"),
        ((5, 3), (2, 1), "VALID"),
        ((1, 1), (1, 1), "VALID"),
        ((1, 1), (2, 2), "SAME"),
        ((3, 3), (2, 2), ((1, 1), (0, 2))),
    ],
)
def test_convolutions_are_those_of_lax(window, strides, padding):
    check_conv(window, strides, padding, batch=3)


@pytest.mark.parametrize("batch", [1, 128])
def test_convolutions_of_one_image_and_of_many(batch):
    check_conv((3, 3), (1, 1), "SAME", batch)


def check_conv(window, strides, padding, batch):
    form, w = packed_and_dense((*window, 5, 20))
    x = jnp.asarray(kernel(1, (batch, 9, 8, 5)))
    expected = lax_conv(x, w, strides, padding)
    y = conv(x, form, strides=strides, padding=padding)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    y = conv(
        x.transpose(3, 0, 1, 2),
        form,
        strides=strides,
        padding=padding,
        layout="feature",
    )
    np.testing.assert_allclose(y.transpose(1, 2, 3, 0), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pattern", [gap.NM(4), gap.Unstructured()])
def test_convolutions_through_other_forms(pattern):
    w = kernel(0, (3, 3, 4, 6))
    keep = np.asarray(pattern.mask(jnp.abs(w), pattern.units(w.shape) // 2))
    x = jnp.asarray(kernel(1, (2, 6, 6, 4)))
    y = conv(x, packed.pack(w, keep, pattern))
    expected = lax_conv(x, jnp.asarray(np.where(keep, w, 0)), (1, 1), "SAME")
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_images_in_chunks_and_gradients_are_the_same(monkeypatch):
    form, w = packed_and_dense((3, 3, 5, 20))
    x = jnp.asarray(kernel(1, (6, 7, 7, 5)))

    def grads(apply, w):
        return jax.jit(jax.grad(lambda x, w: jnp.sum(jnp.sin(apply(x, w))), (0, 1)))(
            x, w
        )

    def through(x, values):
        return packed.conv(x, packed.with_values(form, values))

    d_x, d_w = grads(lambda x, w: lax_conv(x, w, (1, 1), "SAME"), w)
    for most in (layers._PATCHES, 2 * 49 * 45):  # all at once; two images at a time
        monkeypatch.setattr(layers, "_PATCHES", most)
        # A function of its own, so that the trace is not taken from a cache.
        text = str(jax.make_jaxpr(lambda *args: through(*args))(x, form.values))
        assert ("scan" in text or "while" in text) == (most < 10_000)
        e_x, e_values = grads(through, form.values)
        assert_close(e_x, d_x)
        got = packed.unpack(packed.with_values(form, e_values))
        kept = np.asarray(w) != 0
        assert_close(got, np.where(kept, d_w, 0))


def gru_case(batch=3, features=10, hidden=12):
    cell = nn.GRUCell(hidden)
    h = jnp.asarray(kernel(1, (batch, hidden)))
    x = jnp.asarray(kernel(2, (batch, features)))
    params = cell.init(jax.random.key(0), h, x)["params"]
    params = jax.tree.map(lambda w: jnp.asarray(kernel(w.size, w.shape)), params)
    masks = {
        name: {"kernel": kernel(i, params[name]["kernel"].shape) > 0.3}
        for i, name in enumerate(("ir", "iz", "in", "hr", "hz"))  # hn stays dense
    }
    pruned = {
        name: layer | {"kernel": jnp.where(masks[name]["kernel"], layer["kernel"], 0.0)}
        if name in masks
        else layer
        for name, layer in params.items()
    }
    pack = functools.partial(bcr.pack, block=(8, 12))
    return cell, packed.pack_gru(params, masks, pack), pruned, h, x


@pytest.mark.parametrize("batch", [1, 3, 128])
def test_a_gru_step_is_that_of_flax(batch):
    cell, form, params, h, x = gru_case(batch)
    expected, _ = cell.apply({"params": params}, h, x)
    step = jax.jit(packed.gru_step, static_argnames="layout")
    np.testing.assert_allclose(step(form, h, x), expected, rtol=1e-5, atol=1e-5)
    y = step(form, h.T, x.T, layout="feature")
    np.testing.assert_allclose(y.T, expected, rtol=1e-5, atol=1e-5)


def test_a_gru_over_time_is_its_steps_and_has_gradients():
    _, form, _, h, _ = gru_case()
    xs = jnp.asarray(kernel(3, (4, 3, 10)))

    def by_steps(form):
        states = []
        state = h
        for x in xs:
            state = packed.gru_step(form, state, x)
            states.append(state)
        return jnp.stack(states)

    last, states = jax.jit(packed.gru)(form, h, xs)
    np.testing.assert_allclose(states, jax.jit(by_steps)(form), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(last, states[-1])
    run = jax.jit(packed.gru, static_argnames="layout")
    _, by_feature = run(form, h.T, xs.swapaxes(1, 2), layout="feature")
    np.testing.assert_allclose(by_feature.swapaxes(1, 2), states, rtol=1e-5, atol=1e-5)

    def loss(values, bias, whole):
        cell = packed.PackedGRU(
            form.inputs, packed.with_values(form.hidden, values), bias, form.hidden_bias
        )
        return jnp.sum((packed.gru(cell, h, xs)[1] if whole else by_steps(cell)) ** 2)

    grad = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)
    for a, b in zip(
        grad(form.hidden.values, form.bias, True),
        grad(form.hidden.values, form.bias, False),
        strict=True,
    ):
        assert_close(a, b)


def test_bad_layers_are_named():
    form, _ = packed_and_dense((3, 3, 5, 20))
    x = jnp.ones((1, 6, 6, 5))
    with pytest.raises(ShapeError, match="depthwise"):
        packed.conv(jnp.ones((1, 6, 6, 4)), form)
    with pytest.raises(InputError, match="padding="):
        packed.conv(x, form, padding="CAUSAL")
    with pytest.raises(InputError, match="layout"):
        packed.conv(x, form, layout="NCHW")
    with pytest.raises(InputError, match="iz"):
        packed.pack_gru({"ir": {}}, {}, bcr.pack)
