"""Block-circulant kernels: expansion, projection, products, costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graph
from admm import BlockCirculant, circulant
from core.errors import InputError, ShapeError
from tests.strategies import seeds

SIZES = [(8, 12, 4), (7, 10, 4), (6, 3, 4), (5, 5, 1), (9, 6, 3), (2, 3, 8)]
each_size = pytest.mark.parametrize(("n_in", "n_out", "block"), SIZES)


def drawn(n_in, n_out, block, seed=0):
    q, p = circulant.blocks(n_in, block), circulant.blocks(n_out, block)
    rng = np.random.default_rng(seed)
    return rng.normal(size=(q, p, block)).astype(np.float32)


def by_loops(g, n_in, n_out):
    block = g.shape[-1]
    kernel = np.zeros((n_in, n_out), g.dtype)
    for i in range(n_in):
        for o in range(n_out):
            kernel[i, o] = g[i // block, o // block, (o % block - i % block) % block]
    return kernel


@each_size
def test_expansion_is_that_of_the_definition(n_in, n_out, block):
    g = drawn(n_in, n_out, block)
    found = circulant.expand(g, n_in, n_out)
    np.testing.assert_array_equal(found, by_loops(g, n_in, n_out))


@each_size
def test_projection_is_least_squares(n_in, n_out, block):
    """Against a least-squares fit of all generators at once."""
    w = np.random.default_rng(1).normal(size=(n_in, n_out))
    shape = drawn(n_in, n_out, block).shape
    basis = np.stack(
        [by_loops(row.reshape(shape), n_in, n_out) for row in np.eye(np.prod(shape))]
    ).reshape(-1, w.size)
    exists = basis.any(1)
    fit = np.linalg.lstsq(basis.T, w.ravel(), rcond=None)[0].reshape(shape)
    found = circulant.generators(jnp.asarray(w, jnp.float32), block)
    np.testing.assert_allclose(found, fit, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(found).ravel()[~exists], 0.0)


@each_size
@given(seed=seeds)
def test_generators_of_an_expansion_are_these(n_in, n_out, block, seed):
    kernel = by_loops(drawn(n_in, n_out, block, seed), n_in, n_out)
    found = circulant.generators(kernel, block)
    np.testing.assert_array_equal(circulant.expand(found, n_in, n_out), kernel)


@each_size
def test_products_by_fft_are_those_of_the_kernel(n_in, n_out, block, key):
    g = drawn(n_in, n_out, block)
    x = jax.random.normal(key, (2, 3, n_in))
    wanted = x @ by_loops(g, n_in, n_out)

    @jax.jit
    def ways(x, g):
        kept = circulant.spectra(g)
        assert kept.shape == (block // 2 + 1, *g.shape[:2])
        one = circulant.spectral_matmul(x[0, 0], kept, block, n_out)
        many = jax.vmap(circulant.matmul, (0, None, None))(x, g, n_out)
        return circulant.matmul(x, g, n_out), many, one

    for found, same in zip(ways(x, g), (wanted, wanted, wanted[0, 0]), strict=True):
        np.testing.assert_allclose(found, same, rtol=1e-4, atol=1e-5)


def test_the_gradient_of_a_generator_is_the_sum_over_its_diagonal(key):
    n_in, n_out, block = 7, 10, 4
    g = drawn(n_in, n_out, block)
    x = jax.random.normal(key, (5, n_in))

    @jax.jit
    def slopes(g):
        by_fft = jax.grad(lambda g: (circulant.matmul(x, g, n_out) ** 2).sum())(g)
        dense = jax.grad(lambda w: ((x @ w) ** 2).sum())
        return by_fft, dense(circulant.expand(g, n_in, n_out))

    found, kernel = slopes(g)
    for index in np.ndindex(*g.shape):
        one = np.zeros_like(g)
        one[index] = 1
        total = (by_loops(one, n_in, n_out) * np.asarray(kernel)).sum()
        np.testing.assert_allclose(found[index], total, rtol=1e-3, atol=1e-3)


def test_half_precision_is_computed_in_single():
    g = jnp.asarray(drawn(8, 12, 4), jnp.bfloat16)
    x = jax.random.normal(jax.random.key(0), (3, 8), jnp.bfloat16)
    found = circulant.matmul(x, g, 12)
    assert found.dtype == jnp.bfloat16
    wide = circulant.matmul(x.astype(jnp.float32), g.astype(jnp.float32), 12)
    np.testing.assert_array_equal(found, wide.astype(jnp.bfloat16))


def test_one_transform_each_way():
    g, x = drawn(16, 24, 8), np.zeros((3, 16), np.float32)

    def product(s, x):
        return circulant.spectral_matmul(x, s, 8, 24)

    nodes = graph.trace(product, circulant.spectra(g), x).nodes
    kinds = [n.params["fft_type"].name for n in nodes if n.op == "fft"]
    assert kinds == ["RFFT", "IRFFT"]
    nodes = graph.trace(lambda g, x: circulant.matmul(x, g, 24), g, x).nodes
    assert sum(n.op == "fft" for n in nodes) == 3  # that of the generators


def test_windows_and_gates_are_apart(key):
    w = jax.random.normal(key, (3, 3, 8, 12))
    whole = BlockCirculant(4).project(w)
    for i, j in np.ndindex(3, 3):
        np.testing.assert_allclose(whole[i, j], BlockCirculant(4).project(w[i, j]))
    fused = w[0, 0]
    found = BlockCirculant(4, gates=2).project(fused)
    g = circulant.generators(fused, 4, 2)
    assert g.shape == (2, 4, 4)
    x = jax.random.normal(key, (5, 8))
    by_fft = circulant.matmul(x, g, 12, 2)
    np.testing.assert_allclose(by_fft, x @ found, rtol=1e-4, atol=1e-5)
    for k in (0, 6):  # gates of 6: a block of 4 would reach across
        wanted = BlockCirculant(4).project(fused[:, k : k + 6])
        np.testing.assert_allclose(found[:, k : k + 6], wanted)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9))
def test_costs(n_in, n_out, block):
    found = circulant.cost(n_in, n_out, block)
    assert found.weights == drawn(n_in, n_out, block).size
    assert found.dense == n_in * n_out
    if block == 1:
        assert found.multiplications == found.dense


def test_the_saving_levels_off():
    """1024 x 1024, arXiv 1812.07106: k = 8 needs 5 of 16 products a block pair."""
    eight = circulant.cost(1024, 1024, 8)
    assert eight.multiplications == 4 * 5 * 128**2 + 256 * 8 * 3
    gains = [circulant.cost(1024, 1024, 2**k).multiplications for k in range(3, 10)]
    assert gains[0] / gains[1] > 1.7
    assert gains[-2] / gains[-1] < 1.2


def test_bad_input_is_named():
    with pytest.raises(InputError, match="block"):
        BlockCirculant(0)
    with pytest.raises(InputError, match="gates"):
        BlockCirculant(4, gates=0)
    with pytest.raises(ShapeError, match="2 gates"):
        BlockCirculant(4, gates=2).project(jnp.ones((4, 5)))
    with pytest.raises(ShapeError, match="n_in, n_out"):
        circulant.generators(jnp.ones(4), 2)
    g = jnp.ones((2, 3, 4))
    with pytest.raises(ShapeError, match="12 inputs"):
        circulant.expand(g, 12, 12)
    with pytest.raises(ShapeError, match="9 inputs"):
        circulant.matmul(jnp.ones(9), g, 12)
    with pytest.raises(ShapeError, match="8 inputs"):
        circulant.spectral_matmul(jnp.ones(8), circulant.spectra(g), 2, 12)
    with pytest.raises(ShapeError, match="8 inputs"):
        circulant.spectral_matmul(jnp.ones(8), circulant.spectra(g)[None], 4, 12)
