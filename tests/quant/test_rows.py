"""MSQ: exact shares of rows, one scale a layer, nearest levels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.errors import InputError, NonFiniteError, ShapeError
from quant import RowMix, assign_rows, row_variance
from quant.formats import SumOfPowers, Uniform

KERNEL = (
    jax.random.normal(jax.random.key(0), (3, 3, 4, 10))
    * jnp.linspace(0.1, 2.0, 10)[None, None, None]
)


def test_rows_are_output_filters_and_those_of_small_variance_get_powers():
    variance = row_variance(KERNEL)
    assert variance.shape == (10,)
    flat = np.asarray(KERNEL).reshape(-1, 10)
    np.testing.assert_allclose(variance, flat.var(0), rtol=1e-5)
    for share, count in [(0.0, 0), (0.25, 2), (0.6, 6), (2 / 3, 7), (1.0, 10)]:
        mask = assign_rows(variance, share)
        assert mask.sum() == count
        if 0 < count < 10:
            assert variance[mask].max() <= variance[~mask].min()
    equal = assign_rows(jnp.ones(5), 0.4)
    np.testing.assert_array_equal(equal, [True, True, False, False, False])


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
def test_numbers_are_the_nearest_levels_of_their_row(bits):
    mix = RowMix(bits, 0.6)
    scaling = mix.fit(KERNEL)
    found = mix.project(KERNEL, scaling)
    fixed = Uniform(bits, symmetric=True)
    for m in range(10):
        fmt = SumOfPowers(bits) if scaling.sums[m] else fixed
        levels = fmt.levels / fmt.max * float(scaling.scale)
        w = np.asarray(KERNEL[..., m], np.float64)
        gap = np.abs(w[..., None] - levels).min(-1)
        np.testing.assert_allclose(np.abs(found[..., m] - w), gap, atol=2e-6)
    words = mix.encode(KERNEL, scaling)
    assert words.dtype == jnp.uint8
    np.testing.assert_allclose(mix.decode(words, scaling), found, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(mix.project)(KERNEL), found, rtol=1e-5)


def test_the_scale_fits_the_levels_and_is_shared():
    mix = RowMix(4, 0.5, iterations=60)
    scaling = mix.fit(KERNEL)
    assert scaling.scale.shape == ()
    v = mix.project(KERNEL, scaling) / scaling.scale
    fitted = (KERNEL * v).sum() / (v * v).sum()
    np.testing.assert_allclose(fitted, scaling.scale, rtol=1e-4)


def test_variance_assigns_better_than_its_reverse():
    variance = row_variance(KERNEL)
    mix = RowMix(4, 0.6)

    def error(order):
        scaling = mix.fit(KERNEL, assign_rows(order, 0.6))
        return jnp.sum((mix.project(KERNEL, scaling) - KERNEL) ** 2)

    assert error(variance) < error(-variance)


def test_the_gradient_is_that_of_the_identity():
    mix = RowMix()
    slope = jax.jit(jax.grad(lambda w: (mix.fake(w) * 3).sum()))(KERNEL)
    np.testing.assert_array_equal(slope, jnp.full_like(KERNEL, 3.0))
    np.testing.assert_allclose(mix.fake(KERNEL), mix.project(KERNEL), rtol=1e-6)


def test_edges_and_bad_input():
    mix = RowMix()
    zeros = mix.project(jnp.zeros((4, 3)))
    np.testing.assert_array_equal(zeros, jnp.zeros((4, 3)))
    assert mix.fit(jnp.zeros((4, 3))).scale == 1.0
    with pytest.raises(InputError, match="share"):
        RowMix(share=1.5)
    with pytest.raises(InputError, match="bits=2"):
        RowMix(bits=2)
    with pytest.raises(ShapeError, match="shape"):
        mix.fit(jnp.ones(3))
    with pytest.raises(NonFiniteError):
        mix.fit(jnp.array([[jnp.inf, 1.0]]))
