"""Counts of arrays by hand, and integers as a set."""

import jax
import numpy as np
import pytest

import admm
import quant
from admm import crossbar
from core.errors import InputError

LAYOUT = crossbar.Layout()


def test_arrays_are_counted_whole_layer_by_layer():
    assert LAYOUT.cells(8) == 4
    assert LAYOUT.weights_across(8) == 16
    assert crossbar.arrays([(128, 16)], 8, LAYOUT).count == 1
    assert crossbar.arrays([(129, 16)], 8, LAYOUT).count == 2
    assert crossbar.arrays([(5, 5, 1, 20), (128, 16)], 8, LAYOUT).count == 3
    found = crossbar.arrays([(128, 16), (64, 16)], 8, LAYOUT)
    np.testing.assert_allclose(found.used, 0.75)
    np.testing.assert_allclose(found.power, 0.75 * found.area)
    assert crossbar.arrays([], 8, LAYOUT) == (0, 0.0, 0, 0.0)


def test_counts_that_fill_whole_arrays():
    kept = crossbar.whole_arrays((800, 500), 0.1, 8, LAYOUT)
    assert kept.rows % 128 == 0
    assert kept.filters % 16 == 0
    share = kept.rows * kept.filters / 400_000
    assert 0.05 < share < 0.2
    assert crossbar.whole_arrays((5, 5, 1, 10), 0.1, 8, LAYOUT) == (25, 10)
    assert crossbar.whole_arrays((800, 500), 1.0, 8, LAYOUT) == (800, 500)


def test_levels_are_a_set_of_admm():
    w = jax.random.normal(jax.random.key(0), (6, 5))
    z = admm.Quantized(crossbar.levels(4), pruned=True)
    integers = np.asarray(z.project(w) / z.at(w).scaling.scale)
    np.testing.assert_allclose(integers, np.round(integers), atol=1e-4)
    assert np.abs(integers).max() <= 7
    assert isinstance(crossbar.levels(8), quant.Uniform)


def test_bad_layouts_are_named():
    with pytest.raises(InputError, match="holds a weight"):
        crossbar.Layout(cols=2).weights_across(8)
