"""Layers: flax's values, XLA's gradients, every transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from core.errors import InputError, ShapeError
from experiments.models.convolution import conv2d
from experiments.models.layers import Conv, avg_pool, global_avg_pool, max_pool

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def plain(images, kernel, strides, pads):
    return lax.conv_general_dilated(
        images, kernel, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def normal(seed, shape, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def close(got, wanted):
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert g.dtype == w.dtype
        tolerance = TOLERANCE[str(w.dtype)] * max(1.0, float(jnp.abs(w).max()))
        np.testing.assert_allclose(g, w, atol=tolerance, rtol=0)


def ours_and_plain(run):
    """run(conv, ...) of both convolutions, compiled as one program."""
    return jax.jit(lambda *args: (run(conv2d, *args), run(plain, *args)))


# Windows of every code path: 1x1, 3x3, 5x5, uneven; one channel and several.
# The types share the cases: nothing in the code depends on them.
convolutions = st.tuples(
    st.sampled_from(["float32", "float64"]),
    st.sampled_from([(1, 1), (3, 3), (5, 5), (2, 3), (1, 4)]),
    st.sampled_from([(1, 1), (2, 2), (2, 1)]),
    st.sampled_from([((0, 0), (0, 0)), ((1, 1), (1, 1)), ((0, 2), (1, 0))]),
    st.sampled_from([1, 3]),
)


@settings(max_examples=16)
@given(convolutions)
def test_conv2d_and_its_gradients_are_those_of_xla(case):
    dtype, window, strides, pads, channels = case
    with jax.enable_x64(dtype == "float64"):
        images = normal(0, (2, 7, 8, channels), dtype)
        kernel = normal(1, (*window, channels, 4), dtype)

        def run(conv, x, w):
            out, vjp = jax.vjp(lambda x, w: conv(x, w, strides, pads), x, w)
            return out, vjp(jnp.sin(out))

        close(*ours_and_plain(run)(images, kernel))


def test_conv2d_takes_large_batches_in_chunks():
    images, kernel = normal(0, (64, 16, 16, 20)), normal(1, (3, 3, 20, 24))
    for strides in [(1, 1), (2, 2)]:

        def grads(conv, x, w, s=strides):
            pads = ((1, 1), (1, 1))
            out, vjp = jax.vjp(lambda x, w: conv(x, w, s, pads), x, w)
            return [g / 100 for g in vjp(jnp.sin(out))]

        close(*ours_and_plain(grads)(images, kernel))


SHAPE = {"strides": (1, 1), "pads": ((1, 1), (1, 1))}


def test_conv2d_works_in_forward_mode_and_twice(key):
    images, kernel = normal(0, (2, 6, 6, 3)), normal(1, (3, 3, 3, 4))
    tangents = normal(2, images.shape), normal(3, kernel.shape)

    def results(conv, *primals):
        def f(x, w):
            return conv(x, w, *SHAPE.values())

        def curve(x, w):
            return jnp.sum(f(x, w) ** 3)

        primal, tangent = jax.jvp(f, primals, tangents)
        product = jax.jvp(jax.grad(curve, (0, 1)), primals, tangents)[1]
        return primal, tangent, jax.tree.map(lambda x: x / 1e3, product)

    close(*ours_and_plain(results)(images, kernel))


def test_conv2d_maps_over_either_argument():
    images, kernels = normal(0, (3, 2, 6, 6, 3)), normal(1, (3, 3, 3, 3, 4))

    def grads(conv, x, w):
        def objective(x, w):
            return jnp.sum(conv(x, w, *SHAPE.values()) ** 2) / 100

        return jax.grad(objective, (0, 1))(x, w)

    for axes in [(0, 0), (0, None), (None, 0)]:
        x = images if axes[0] == 0 else images[0]
        w = kernels if axes[1] == 0 else kernels[0]

        def mapped(conv, x, w, axes=axes):
            return jax.vmap(lambda x, w: grads(conv, x, w), axes)(x, w)

        close(*ours_and_plain(mapped)(x, w))


def test_gradients_in_a_scan_use_library_convolutions():
    """Inside a loop XLA's own order of the gradients' dimensions has no fast path."""
    images, kernel = normal(0, (4, 8, 8, 20)), normal(1, (3, 3, 20, 24))

    def objective(w, x):
        return jnp.sum(
            conv2d(jnp.sin(conv2d(x, w, *SHAPE.values())), v, *SHAPE.values())
        )

    v = normal(2, (3, 3, 24, 20))

    def descend(w):
        def body(w, _):
            return w - 1e-3 * jax.grad(objective)(w, images), None

        return lax.scan(body, w, None, length=2)[0]

    text = jax.jit(descend).lower(kernel).compile().as_text()
    labels = [
        line.split("dim_labels=")[1]
        for line in text.splitlines()
        if "dim_labels" in line
    ]
    assert labels
    assert all(label.startswith("b01f_01io->b01f") for label in labels), labels


def test_the_images_of_a_first_layer_cost_no_gradient():
    images, kernel = normal(0, (2, 6, 6, 3)), normal(1, (3, 3, 3, 4))
    text = str(
        jax.make_jaxpr(jax.grad(lambda w: conv2d(images, w, *SHAPE.values()).sum()))(
            kernel
        )
    )
    both = str(
        jax.make_jaxpr(
            jax.grad(lambda w, x: conv2d(x, w, *SHAPE.values()).sum(), (0, 1))
        )(kernel, images)
    )
    assert text.count("conv_general_dilated") < both.count("conv_general_dilated")


module_cases = st.fixed_dictionaries(
    {
        "features": st.sampled_from([4, 8]),
        "kernel_size": st.sampled_from([(3, 3), (1, 1), (2, 5)]),
        "strides": st.sampled_from([1, 2, (2, 1), None]),
        "padding": st.sampled_from(["SAME", "VALID", 1, ((2, 1), (0, 1))]),
        "use_bias": st.booleans(),
        "feature_group_count": st.sampled_from([1, 2, 4]),
        "kernel_dilation": st.sampled_from([1, 2]),
    }
)


@settings(max_examples=12)
@given(module_cases)
def test_conv_has_flax_parameters_values_and_gradients(arguments):
    images = normal(0, (2, 9, 9, 4))
    ours, theirs = Conv(**arguments), nn.Conv(**arguments)

    @jax.jit
    def run(key):
        variables = theirs.init(key, images)

        def results(model):
            def f(variables, x):
                out = model.apply(variables, x)
                return jnp.sum(jnp.sin(out)), out

            grads, out = jax.grad(f, (0, 1), has_aux=True)(variables, images)
            return model.init(key, images), out, grads

        return results(ours), results(theirs)

    got, wanted = run(jax.random.key(0, impl="rbg"))
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    close(got, wanted)


def test_conv_computes_in_the_type_asked_for():
    images = normal(0, (2, 6, 6, 3))
    model = Conv(4, (3, 3), dtype=jnp.bfloat16)

    @jax.jit
    def run(key):
        variables = model.init(key, images)
        assert model.apply(variables, images).dtype == jnp.bfloat16

        def f(variables):
            return model.apply(variables, images).astype(jnp.float32).sum()

        exact = jax.grad(lambda v: Conv(4, (3, 3)).apply(v, images).sum())(variables)
        return jax.grad(f)(variables), exact

    grads, exact = run(jax.random.key(0, impl="rbg"))
    assert {g.dtype for g in jax.tree.leaves(grads)} == {jnp.dtype(jnp.float32)}
    for got, wanted in zip(jax.tree.leaves(grads), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0.05, atol=0.5)


pools = st.tuples(
    st.sampled_from([(2, 2), (3, 3), (2, 3)]),
    st.sampled_from([None, (1, 1), (2, 2), (3, 2)]),
    st.sampled_from(["VALID", "SAME", ((1, 0), (0, 1))]),
    st.sampled_from([(6, 6), (7, 8)]),
)


@settings(max_examples=12)
@given(pools)
def test_pools_are_flax_pools(case):
    window, strides, padding, size = case
    images = normal(0, (2, *size, 3))  # no ties
    steps = window if strides is None else strides

    def results(x, steps, *pools):
        found = []
        for pool in pools:
            out, vjp = jax.vjp(lambda x, p=pool: p(x, window, steps, padding), x)
            found += [out, vjp(jnp.sin(out))]
        return found

    @jax.jit
    def run(x):
        ours = results(x, strides, max_pool, avg_pool)
        with jax.numpy_dtype_promotion("standard"):  # flax's avg_pool needs it
            return ours, results(x, steps, nn.max_pool, nn.avg_pool)

    close(*run(images))


def test_tied_maxima_share_the_gradient_and_keep_its_sum():
    images = jnp.zeros((1, 4, 4, 1))
    grad = jax.jit(jax.grad(lambda x: max_pool(x, 2).sum()))(images)
    np.testing.assert_array_equal(grad, jnp.full((1, 4, 4, 1), 0.25))


def test_global_avg_pool_is_the_mean_over_positions():
    images = normal(0, (2, 5, 3, 4))
    np.testing.assert_allclose(
        global_avg_pool(images), np.mean(images, (1, 2)), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda x: max_pool(x[0], 2), ShapeError, "height, width"),
        (lambda x: max_pool(x, (2, 2, 2)), InputError, "window_shape"),
        (lambda x: avg_pool(x, 2, 0), InputError, "strides"),
        (lambda x: max_pool(x, 2, 2, "CAUSAL"), InputError, "SAME or VALID"),
        (
            lambda x: Conv(4, 3, feature_group_count=2).init(jax.random.key(0), x),
            ShapeError,
            "feature_group_count=2",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, match):
    with pytest.raises(error, match=match):
        call(jnp.zeros((1, 4, 4, 3)))
