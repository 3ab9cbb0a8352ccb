"""Factors: their composition is the kernel of low rank."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from admm import LowRank, factors, low_rank
from core.errors import InputError, ShapeError

NUMBERS = ("NHWC", "HWIO", "NHWC")


def kernel(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@functools.partial(jax.jit, static_argnums=(1, 2))
def halves(w, rank, scheme):
    """The factors, and the projection that they make up."""
    low = LowRank(rank=rank, scheme=scheme).project(w)
    return factors.factorize(w, rank, scheme), low


@pytest.mark.parametrize("shape", [(6, 5), (5, 9)], ids=str)
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_dense_factors_multiply_to_the_projection(shape, rank):
    w = kernel(shape)
    (first, second), low = halves(w, rank, "channel")
    assert (first.shape, second.shape) == ((shape[0], rank), (rank, shape[1]))
    np.testing.assert_allclose(first @ second, low, rtol=1e-4, atol=1e-5)
    norms = [np.linalg.norm(first, axis=0), np.linalg.norm(second, axis=1)]
    np.testing.assert_allclose(*norms, rtol=1e-3)  # sqrt(s) in both


@pytest.mark.parametrize("scheme", ["channel", "spatial"])
def test_what_the_factors_share(scheme):
    (first, second), _ = halves(kernel((3, 5, 4, 6)), 3, scheme)
    left = np.sqrt(np.square(first).sum((0, 1, 2)))
    right = np.sqrt(np.square(second).sum((0, 1, 3)))
    if scheme == "channel":
        np.testing.assert_allclose(left, right, rtol=1e-3)
    else:
        np.testing.assert_allclose(left, np.ones(3), rtol=1e-3)


CASES = [
    ((1, 1), "SAME"),
    ((2, 2), "SAME"),
    ((2, 1), "VALID"),
    ((1, 2), ((2, 0), (1, 3))),
]


@pytest.mark.parametrize("scheme", low_rank.SCHEMES)
@pytest.mark.parametrize(("strides", "padding"), CASES, ids=str)
def test_convolutions_in_turn_are_those_of_the_projection(
    scheme, strides, padding, key
):
    found, low = halves(kernel((3, 5, 4, 6)), 2, scheme)
    x = jax.random.normal(key, (2, 9, 8, 4))

    @jax.jit
    def both(x, found, low):
        wanted = lax.conv_general_dilated(
            x, low, strides, padding, dimension_numbers=NUMBERS
        )
        return factors.conv(x, found, scheme, strides, padding), wanted

    np.testing.assert_allclose(*both(x, found, low), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scheme", low_rank.SCHEMES)
@pytest.mark.parametrize("shape", [(30, 20), (3, 3, 16, 32), (5, 3, 8, 8)], ids=str)
def test_multiplications_are_the_sizes_of_the_factors(scheme, shape):
    rank = 2
    w = jax.ShapeDtypeStruct(shape, np.float32)
    parts = jax.eval_shape(lambda w: factors.factorize(w, rank, scheme), w)
    count = factors.multiplications(shape, rank, scheme)
    # A decoupled second factor is [kh, kw, N, r]: one product for each number too.
    assert count == sum(part.size for part in parts)
    most = factors.break_even(shape, scheme)
    assert factors.multiplications(shape, most, scheme) < np.prod(shape)
    assert factors.multiplications(shape, most + 1, scheme) >= np.prod(shape)


# Multiplications of a 3x3x16x32 kernel's factors of rank 4 on images of 16 x 16 x 16.
STRIDED = {
    ("channel", (2, 2)): 64 * (9 * 16 * 4 + 4 * 32),
    ("spatial", (2, 2)): 8 * 16 * (3 * 16 * 4) + 64 * (3 * 4 * 32),  # 49,152
    ("spatial", (2, 1)): 8 * 16 * (3 * 16 * 4 + 3 * 4 * 32),
    ("spatial", (1, 2)): 16 * 16 * (3 * 16 * 4) + 16 * 8 * (3 * 4 * 32),
    ("decouple", (2, 2)): 256 * (16 * 32 * 4) + 64 * (9 * 32 * 4),  # 598,016
    ("decouple", (2, 1)): 256 * (16 * 32 * 4) + 128 * (9 * 32 * 4),
}


@pytest.mark.parametrize(("scheme", "strides"), STRIDED, ids=str)
def test_strides_are_those_of_the_factor_with_the_window(scheme, strides):
    shape, positions = (3, 3, 16, 32), 16 * 16 // (strides[0] * strides[1])
    count = positions * factors.multiplications(shape, 4, scheme, strides)
    assert count == STRIDED[scheme, strides]

    def run(x, w):
        pair = factors.factorize(w, 4, scheme)
        return factors.conv(x, pair, scheme, strides)

    program = jax.make_jaxpr(run)(jnp.ones((1, 16, 16, 16)), jnp.ones(shape))
    done = 0
    for eqn in program.jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            window = eqn.invars[1].aval.shape[:3]
            done += math.prod((*eqn.outvars[0].aval.shape, *window))
    assert done == count
    most = factors.break_even(shape, scheme, strides)
    each = factors.multiplications(shape, 1, scheme, strides)
    assert most * each < math.prod(shape) <= (most + 1) * each


def test_kernels_of_lesser_rank_have_finite_factors():
    first, second = factors.factorize(jnp.ones((4, 6)), 3)
    np.testing.assert_allclose(first @ second, jnp.ones((4, 6)), rtol=1e-4)
    first, second = factors.factorize(jnp.zeros((6, 4)), 2)
    np.testing.assert_array_equal(first @ second, jnp.zeros((6, 4)))


def test_bad_input_is_named():
    with pytest.raises(InputError, match="rank"):
        factors.factorize(kernel((6, 5)), 6)
    with pytest.raises(ShapeError, match="convolution"):
        factors.conv(jnp.ones((1, 4, 4, 3)), factors.factorize(kernel((6, 5)), 2))
    with pytest.raises(InputError, match="strides: got 0"):
        factors.multiplications((3, 3, 4, 4), 1, strides=(0, 1))
    with pytest.raises(InputError, match="strides: got 2"):
        factors.break_even((6, 5), strides=(2, 2))
