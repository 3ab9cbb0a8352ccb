"""Scales: published constants, brute force, edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.errors import InputError
from quant import calibration
from quant.formats import (
    ElasticSignificantBits,
    Flint,
    PowerOfTwo,
    SumOfPowers,
    Uniform,
)

# arXiv 2109.03513, the authors' code: (b, k) -> alpha and, recomputed, its error.
PUBLISHED = {
    **{(2, 0): (1.2240, 0.1902), (3, 0): (0.5181, 0.04756), (3, 1): (1.3015, 0.04686)},
    **{(4, 0): (0.0381, 0.03841), (4, 1): (0.4871, 0.01269), (4, 2): (1.4136, 0.01289)},
    **{(5, 1): (0.0391, 0.01065), (5, 2): (0.4828, 0.003256)},
    **{(5, 3): (1.5460, 0.003693), (6, 2): (0.0406, 0.002766)},
    **{(6, 3): (0.4997, 0.000829), (6, 4): (1.6878, 0.001069)},
    **{(7, 3): (0.0409, 0.000699), (7, 4): (0.5247, 0.000212)},
    **{(7, 5): (1.8324, 0.000309), (8, 4): (0.0412, 0.000175)},
    **{(8, 5): (0.5527, 0.000054), (8, 6): (1.9757, 0.000088)},
}
EVERY = [
    calibration.MaxAbs(),
    calibration.Percentile(99.0),
    calibration.LeastError(steps=16),
    calibration.LeastSquares(),
    calibration.Aligned(),
    calibration.LeastDivergence(bins=256, steps=16),
]


@pytest.mark.parametrize("pair", PUBLISHED, ids=str)
def test_alignment_has_the_published_constants(pair):
    fmt = ElasticSignificantBits(*pair)
    alpha, error = PUBLISHED[pair]
    found = calibration.normal_scale(fmt)
    assert found == pytest.approx(alpha, abs=6e-5)
    assert calibration.normal_error(fmt, found) == pytest.approx(error, rel=6e-3)


@pytest.mark.parametrize("fmt", [Flint(4), SumOfPowers(4), Flint(4, False)], ids=str)
def test_the_error_on_a_normal_is_its_integral(fmt):
    x = np.linspace(0 if not fmt.signed else -12, 12, 2_000_001)
    density = np.exp(-x * x / 2) / np.sqrt(2 * np.pi) * (1 if fmt.signed else 2)
    scale = calibration.normal_scale(fmt)
    levels = fmt.levels * scale
    near = levels[np.searchsorted((levels[:-1] + levels[1:]) / 2, x)]
    integral = np.trapezoid((x - near) ** 2 * density, x)
    assert calibration.normal_error(fmt, scale) == pytest.approx(integral, rel=1e-5)
    others = scale * np.array([0.97, 0.99, 1.01, 1.03])
    least = calibration.normal_error(fmt, scale)
    assert all(calibration.normal_error(fmt, other) >= least for other in others)


@pytest.mark.parametrize(("low", "high"), [(0.08, 0.15), (0.17, 0.3)])
def test_sums_of_powers_win_for_narrow_rows_at_a_shared_scale(low, high):
    """arXiv 2012.04240 as recomputed: SP2 at 4 bits up to sigma = 0.16 of the top."""
    fixed, sums = Uniform(4, symmetric=True), SumOfPowers(4)
    for sigma in (low, high):
        errors = [
            calibration.normal_error(f, 1 / (sigma * f.max)) for f in (sums, fixed)
        ]
        assert (errors[0] < errors[1]) == (sigma <= 0.16)


def test_shared_scale_errors_are_the_recomputed_ones():
    table = {0.10: (0.170, 0.131), 0.15: (0.0756, 0.0688), 0.20: (0.0425, 0.0497)}
    for sigma, wanted in table.items():
        found = [
            calibration.normal_error(fmt, 1 / (sigma * fmt.max))
            for fmt in (Uniform(4, symmetric=True), SumOfPowers(4))
        ]
        np.testing.assert_allclose(found, wanted, rtol=5e-3)


def test_types_are_chosen_by_the_tails():
    """ANT's type map: normal tensors choose integers, heavy tails choose flint.

    With room to clip: from 0.75 of the maximum on, flint wins for 20,000 normals too.
    """
    draws = jax.random.normal, jax.random.laplace
    chosen = []
    for draw in draws:
        x = draw(jax.random.key(0), (1, 20_000))
        search = calibration.LeastError(low=0.2, steps=130).search
        errors = [search(x, f)[1][0] for f in (Uniform(4), Flint(4), PowerOfTwo(4))]
        chosen.append(int(np.argmin(errors)))
    assert chosen == [0, 1]


def test_the_search_finds_the_least_of_its_grid():
    x = jax.random.normal(jax.random.key(1), (3, 500))
    method = calibration.LeastError(low=0.3, high=1.2, steps=31)
    scaling, error = method.search(x, Flint(4))
    grid = np.linspace(0.3, 1.2, 31)
    levels = Flint(4).levels
    for row, scale, found in zip(np.asarray(x), scaling.scale, error, strict=True):
        scales = np.abs(row).max() / 16 * grid
        each = [np.abs(row[:, None] / s - levels).min(1) ** 2 * s * s for s in scales]
        errors = np.mean(each, axis=1)
        assert found == pytest.approx(errors.min(), rel=1e-4)
        assert float(scale) == pytest.approx(scales[errors.argmin()], rel=1e-5)


def test_least_squares_is_a_fixed_point_below_the_start():
    x = jax.random.normal(jax.random.key(2), (2, 400))
    fmt = SumOfPowers(4)
    found = calibration.LeastSquares(50)(x, fmt).scale
    v = fmt.round(x / found[:, None])
    np.testing.assert_allclose((x * v).sum(-1) / (v * v).sum(-1), found, rtol=1e-5)
    first = calibration.MaxAbs()(x, fmt).scale
    errors = [calibration.squared_error(x, fmt, scale) for scale in (found, first)]
    assert (errors[0] < errors[1]).all()


def test_divergence_clips_outliers_and_keeps_uniform_numbers():
    key = jax.random.key(3)
    spread = jax.random.uniform(key, (1, 4096), minval=-1.0)
    tailed = jnp.concatenate([0.1 * spread, jnp.full((1, 1), 1.0)], axis=1)
    method = calibration.LeastDivergence(bins=512, steps=64)
    fmt = Uniform(4)
    kept = method(spread, fmt).scale * fmt.max
    clipped = method(tailed, fmt).scale * fmt.max
    assert 0.9 < float(kept[0]) <= 1.0
    assert float(clipped[0]) < 0.6


@pytest.mark.parametrize("method", EVERY, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("fmt", [Uniform(4), Flint(4, signed=False)], ids=str)
def test_scales_are_positive_and_finite_under_jit_for_any_row(method, fmt):
    rows = jnp.stack(
        [
            jnp.zeros(64),
            jnp.full(64, 0.3),
            jnp.full(64, -0.3),
            jnp.full(64, 1e-38),
            jnp.linspace(-1e30, 1e30, 64),
            jax.random.normal(jax.random.key(4), (64,)),
        ]
    )
    found = jax.jit(lambda x: method(x, fmt))(rows)
    assert found.scale.shape == found.zero.shape == (6,)
    assert (found.scale > 0).all()
    assert np.isfinite(found.scale).all()
    assert (found.zero == 0).all()


def test_ranges_put_zero_on_the_grid():
    x = jnp.array([[0.5, 2.0, 1.0], [-1.0, 3.0, 0.1], [0.0, 0.0, 0.0]])
    for fmt in (Uniform(4), Uniform(4, signed=False)):
        scale, zero = calibration.MinMax()(x, fmt)
        np.testing.assert_array_equal(zero, jnp.round(zero))
        np.testing.assert_allclose(scale, [2 / 15, 4 / 15, 1.0], rtol=1e-6)
        assert ((zero >= fmt.lowest) & (zero <= fmt.highest)).all()
    with pytest.raises(InputError, match="Uniform"):
        calibration.MinMax()(x, Flint(4))


def test_settings_out_of_range_are_named():
    for make, word in [
        (lambda: calibration.MaxAbs(0.0), "ratio"),
        (lambda: calibration.Percentile(101.0), "percent"),
        (lambda: calibration.LeastError(low=0.9, high=0.5), "high"),
        (lambda: calibration.LeastSquares(-1), "iterations"),
        (lambda: calibration.LeastDivergence(bins=16, steps=8), "steps"),
    ]:
        with pytest.raises(InputError, match=word):
            make()


def test_rows_without_a_range_and_mostly_of_zeros():
    x = jnp.zeros((2, 1000)).at[1, 3].set(7.0)
    fmt = Uniform(4, symmetric=True)
    np.testing.assert_array_equal(
        calibration.Percentile(50.0)(x, fmt).scale, [1.0, 1.0]
    )
    assert calibration.LeastError()(x, fmt).scale[0] == 1.0
