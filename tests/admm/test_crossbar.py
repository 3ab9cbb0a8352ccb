"""Conductances and back, products by currents, counts of arrays by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import admm
import quant
from admm import crossbar
from core.errors import InputError

XBAR = crossbar.Crossbar()
program = jax.jit(crossbar.program, static_argnums=(1, 2))
read = jax.jit(crossbar.read, static_argnums=1)
matmul = jax.jit(crossbar.matmul, static_argnums=2)


@pytest.mark.parametrize("bits", [5, 8])
def test_every_integer_goes_to_conductances_and_back(bits):
    top = 2 ** (bits - 1) - 1
    w = jnp.arange(-top, top + 1).reshape(1, -1)
    g = program(w, bits, XBAR)
    np.testing.assert_array_equal(read(g, XBAR), w)
    assert g.shape == (2, XBAR.cells(bits) // 2, 1, 2 * top + 1)
    low, high = XBAR.conductances
    assert float(g.min()) >= low * (1 - 1e-6)
    assert float(g.max()) <= high * (1 + 1e-6)


def test_a_zero_has_the_least_conductance_and_no_current_of_its_pair():
    g = program(jnp.zeros((3, 2), jnp.int32), 8, XBAR)
    np.testing.assert_allclose(g, 1e-7, rtol=1e-6)
    np.testing.assert_array_equal(matmul(jnp.ones(3), g, XBAR), [0.0, 0.0])


def test_currents_give_the_product_of_integers():
    rng = np.random.default_rng(0)
    w = jnp.asarray(rng.integers(-127, 128, (20, 6)), jnp.int32)
    x = jnp.asarray(rng.normal(size=(4, 20)), jnp.float32)
    found = matmul(x, program(w, 8, XBAR), XBAR)
    np.testing.assert_allclose(found, x @ w.astype(jnp.float32), rtol=1e-3, atol=0.02)


def test_the_spread_of_devices_moves_products_by_as_much(key):
    w = jnp.full((1000, 1), 64)
    g = program(w, 8, XBAR)
    np.testing.assert_array_equal(crossbar.spread(g, key, 0.0), g)
    noisy = matmul(jnp.eye(1000)[:100], crossbar.spread(g, key, 0.1), XBAR)
    # 64 = 16 * 4: the high cell is at G_min + 4 steps, its pair and both low cells
    # at G_min, each off by 0.1 of itself.
    low, step = XBAR.conductances[0], XBAR.step
    own = (
        0.1
        * np.sqrt((16 * (low + 4 * step)) ** 2 + (16 * low) ** 2 + 2 * low**2)
        / step
    )
    assert 0.7 * own < float(jnp.std(noisy)) < 1.3 * own


def test_arrays_are_counted_whole_layer_by_layer():
    assert XBAR.cells(8) == 4
    assert XBAR.weights_across(8) == 16
    assert crossbar.arrays([(128, 16)], 8, XBAR).count == 1
    assert crossbar.arrays([(129, 16)], 8, XBAR).count == 2
    assert crossbar.arrays([(5, 5, 1, 20), (128, 16)], 8, XBAR).count == 3
    found = crossbar.arrays([(128, 16), (64, 16)], 8, XBAR)
    np.testing.assert_allclose(found.used, 0.75)
    np.testing.assert_allclose(found.power, 0.75 * found.area)
    assert crossbar.arrays([], 8, XBAR) == (0, 0.0, 0, 0.0)


def test_counts_that_fill_whole_arrays():
    kept = crossbar.whole_arrays((800, 500), 0.1, 8, XBAR)
    assert kept.rows % 128 == 0
    assert kept.filters % 16 == 0
    share = kept.rows * kept.filters / 400_000
    assert 0.05 < share < 0.2
    assert crossbar.whole_arrays((5, 5, 1, 10), 0.1, 8, XBAR) == (25, 10)
    assert crossbar.whole_arrays((800, 500), 1.0, 8, XBAR) == (800, 500)


def test_levels_are_a_set_of_admm():
    w = jax.random.normal(jax.random.key(0), (6, 5))
    z = admm.Quantized(crossbar.levels(4), pruned=True)
    integers = np.asarray(z.project(w) / z.at(w).scaling.scale)
    np.testing.assert_allclose(integers, np.round(integers), atol=1e-4)
    assert np.abs(integers).max() <= 7
    assert isinstance(crossbar.levels(8), quant.Uniform)


def test_bad_crossbars_are_named():
    with pytest.raises(InputError, match="r_on"):
        crossbar.Crossbar(r_on=2e7)
    with pytest.raises(InputError, match="holds a weight"):
        crossbar.Crossbar(cols=2).weights_across(8)
