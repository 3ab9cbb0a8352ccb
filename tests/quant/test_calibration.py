"""Scales: published constants, brute force, edges."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from core.errors import InputError
from quant import alignment, calibration
from quant.formats import (
    ElasticSignificantBits,
    Flint,
    PowerOfTwo,
    SmallFloat,
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
POWERS = [PowerOfTwo(4), SumOfPowers(4), SumOfPowers(8)]
EVERY = [
    calibration.MaxAbs(),
    calibration.Percentile(99.0),
    calibration.LeastError(steps=16),
    calibration.BestScale(steps=12, finer=4),
    calibration.LeastSquares(),
    calibration.Aligned(),
    calibration.MeanMagnitude(),
    calibration.LeastDivergence(bins=256, steps=16),
]


@pytest.mark.parametrize("pair", PUBLISHED, ids=str)
def test_alignment_has_the_published_constants(pair):
    fmt = ElasticSignificantBits(*pair)
    alpha, error = PUBLISHED[pair]
    found = alignment.normal_scale(fmt, alignment.AUTHORS)
    assert found == pytest.approx(alpha, abs=6e-5)
    least = {(4, 0): 0.0656, (5, 1): 0.0766}.get(pair)
    own = alignment.normal_scale(fmt)
    assert own == (found if least is None else pytest.approx(least, abs=1e-4))
    assert alignment.normal_error(fmt, found) == pytest.approx(error, rel=6e-3)


def error_by_table(levels, scales, x, density):
    """Sums of squared distances to the nearest level, over the points x, [scales]."""
    found = []
    for scale in scales:
        at = levels * scale
        near = at[np.searchsorted((at[:-1] + at[1:]) / 2, x)]
        found.append(((x - near) ** 2 * density).sum())
    return np.array(found)


def error_by_sums(levels, scales, x, density):
    """The same of rising points x >= 0, from running sums of x**0, x**1 and x**2."""
    sums = [np.concatenate([[0], np.cumsum(x**p * density)]) for p in range(3)]
    levels = levels[levels >= 0]
    middles = np.concatenate([[-1], (levels[:-1] + levels[1:]) / 2, [np.inf]])
    cuts = np.searchsorted(x, scales[:, None] * middles)
    m0, m1, m2 = (np.diff(each[cuts], axis=1) for each in sums)
    at = scales[:, None] * levels
    return (m2 - 2 * at * m1 + at * at * m0).sum(1)


@pytest.mark.parametrize(
    "fmt",
    [*(ElasticSignificantBits(*pair) for pair in PUBLISHED), *POWERS],
    ids=str,
)
def test_alignment_is_the_brute_force_optimum_of_its_objective(fmt):
    """All scales are scanned in steps of 0.2 %: the scale within 1 % of the least."""
    x = np.linspace(0, 8, 80_001)
    density = np.exp(-x * x / 2)
    found = alignment.normal_scale(fmt)
    low, high = 0.25 / fmt.max, 8 / fmt.levels[fmt.levels > 0].min()
    scales = np.geomspace(low, high, math.ceil(math.log(high / low) / 0.002))
    errors = error_by_sums(fmt.levels, scales, x, density)
    at = error_by_sums(fmt.levels, np.array([found]), x, density)[0]
    assert at <= (1 + 1e-6) * errors.min()
    assert found == pytest.approx(scales[errors.argmin()], rel=0.01)


@pytest.mark.parametrize("fmt", [PowerOfTwo(4, False), PowerOfTwo(8)], ids=str)
def test_of_minima_that_are_equal_the_first_is_taken(fmt):
    """Powers of two of many octaves: the largest level is some deviations."""
    found = alignment.normal_scale(fmt)
    others = [alignment.normal_error(fmt, found * 2.0**i) for i in range(-8, 9)]
    assert others[8] <= (1 + 1e-6) * min(others)
    assert others[8] < (1 - 1e-6) * min(others[:8])


@pytest.mark.parametrize("pair", [(2, 0), (4, 1), (5, 2), (6, 3)], ids=str)
def test_alignment_of_samples_and_of_skewed_weights(pair):
    """Of normal numbers: their own best scale. Of others: that of a normal as wide."""
    fmt, rng = ElasticSignificantBits(*pair), np.random.default_rng(0)
    normal = special.ndtri((np.arange(20_000) + 0.5) / 20_000) * 0.03
    skewed = rng.lognormal(sigma=0.8, size=20_000) * 0.02 - 0.01
    rows = jnp.asarray(np.stack([normal, skewed]), jnp.float32)
    of_normal, of_skewed = np.asarray(calibration.Aligned()(rows, fmt).scale)
    scales = of_normal * np.linspace(0.8, 1.25, 91)
    errors = error_by_table(fmt.levels, scales, normal, 1.0)
    mine = error_by_table(fmt.levels, [of_normal], normal, 1.0)[0]
    assert mine <= 1.01 * errors.min()
    sigma = np.sqrt(np.square(skewed).mean())
    x = np.linspace(-9 * sigma, 9 * sigma, 6_001)
    density = np.exp(-np.square(x / sigma) / 2)
    scales = of_skewed * np.linspace(0.8, 1.25, 226)
    errors = error_by_table(fmt.levels, scales, x, density)
    assert of_skewed == pytest.approx(scales[errors.argmin()], rel=0.01)


@pytest.mark.parametrize("fmt", [Flint(4), SumOfPowers(4), Flint(4, False)], ids=str)
def test_the_error_on_a_normal_is_its_integral(fmt):
    x = np.linspace(0 if not fmt.signed else -12, 12, 2_000_001)
    density = np.exp(-x * x / 2) / np.sqrt(2 * np.pi) * (1 if fmt.signed else 2)
    scale = alignment.normal_scale(fmt)
    levels = fmt.levels * scale
    near = levels[np.searchsorted((levels[:-1] + levels[1:]) / 2, x)]
    integral = np.trapezoid((x - near) ** 2 * density, x)
    assert alignment.normal_error(fmt, scale) == pytest.approx(integral, rel=1e-5)
    others = scale * np.array([0.97, 0.99, 1.01, 1.03])
    least = alignment.normal_error(fmt, scale)
    assert all(alignment.normal_error(fmt, other) >= least for other in others)


@pytest.mark.parametrize(("low", "high"), [(0.08, 0.15), (0.17, 0.3)])
def test_sums_of_powers_win_for_narrow_rows_at_a_shared_scale(low, high):
    """arXiv 2012.04240 as recomputed: SP2 at 4 bits up to sigma = 0.16 of the top."""
    fixed, sums = Uniform(4, symmetric=True), SumOfPowers(4)
    for sigma in (low, high):
        errors = [alignment.normal_error(f, 1 / (sigma * f.max)) for f in (sums, fixed)]
        assert (errors[0] < errors[1]) == (sigma <= 0.16)


def test_shared_scale_errors_are_the_recomputed_ones():
    table = {0.10: (0.170, 0.131), 0.15: (0.0756, 0.0688), 0.20: (0.0425, 0.0497)}
    for sigma, wanted in table.items():
        found = [
            alignment.normal_error(fmt, 1 / (sigma * fmt.max))
            for fmt in (Uniform(4, symmetric=True), SumOfPowers(4))
        ]
        np.testing.assert_allclose(found, wanted, rtol=5e-3)


@pytest.mark.parametrize(
    ("bits", "wins", "loses"),
    [
        (5, (), (0.01, 0.03, 0.1, 0.2)),
        (6, (0.01, 0.02, 0.04), (0.05, 0.1, 0.2)),
        (8, (0.01, 0.02, 0.035), (0.05, 0.1, 0.2)),
    ],
)
def test_sums_of_powers_of_more_bits_win_for_very_narrow_rows_alone(bits, wins, loses):
    """arXiv 2012.04240 as recomputed: never at 5 bits, up to 0.04 at 6 and 8."""
    sums, fixed = SumOfPowers(bits), Uniform(bits, symmetric=True)
    for sigma in (*wins, *loses):
        error, other = (
            alignment.normal_error(f, 1 / (sigma * f.max)) for f in (sums, fixed)
        )
        assert (error < other) == (sigma in wins), sigma


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


@pytest.mark.parametrize(
    "fmt",
    [Uniform(2, symmetric=True), Flint(8), SumOfPowers(8), SmallFloat(3, 4)],
    ids=str,
)
def test_the_best_scale_is_found_wherever_the_format_has_it(fmt):
    """From 0.2 to 40 times the scale of the largest number; ANT's range is less."""
    rng = np.random.default_rng(0)
    draws = rng.normal(size=700), rng.uniform(-1, 1, 700), rng.standard_t(3, 700)
    x = np.stack(draws).astype(np.float32) * 0.02
    found, errors = calibration.BestScale().search(jnp.asarray(x), fmt)
    for row, scale, error in zip(x, found.scale, errors, strict=True):
        scales = np.abs(row).max() / fmt.max * np.geomspace(0.1, 80, 500)
        least = error_by_table(fmt.levels, scales, row, 1 / 700).min()
        mine = error_by_table(fmt.levels, [float(scale)], row, 1 / 700)[0]
        assert mine == pytest.approx(float(error), rel=1e-3)
        assert mine <= 1.12 * least


def test_powers_of_eight_bits_have_scales_in_the_floats():
    """Their largest level is 2**126: no weight may become it."""
    x = np.float32(np.random.default_rng(5).normal(size=(1, 300)) * 0.02)
    fmt = PowerOfTwo(8)
    methods = calibration.MaxAbs(), calibration.BestScale(12, 4)
    for scale in jax.jit(lambda x: [m(x, fmt).scale for m in methods])(x):
        error = error_by_table(fmt.levels, np.asarray(scale), x[0], 1.0)[0]
        assert error < 0.1 * np.square(x).sum()


@pytest.mark.parametrize("bits", [7, 8])
def test_errors_of_many_octaves_are_finite_and_the_least_is_found(bits):
    """Levels up to 2**126, whose squares no float32 holds."""
    x = np.float32(np.random.default_rng(5).normal(size=(1, 300)) * 0.02)
    fmt = PowerOfTwo(bits)
    found, error = calibration.BestScale().search(jnp.asarray(x), fmt)
    own = error_by_table(fmt.levels, np.asarray(found.scale), x[0], 1 / 300)
    np.testing.assert_allclose(error, own, rtol=1e-4)
    top = np.abs(x).max() / fmt.max
    scales = np.maximum(top * np.geomspace(0.05, 20, 600), 2.0**-126)
    grid = error_by_table(fmt.levels, scales, x[0], 1 / 300)
    assert own[0] <= 1.001 * grid.min()
    beyond = calibration.squared_error(
        jnp.float32([[4.0]]), fmt, jnp.full(1, 2.0**-126)
    )
    wanted = (4 - fmt.max * 2.0**-126) ** 2
    np.testing.assert_allclose(beyond, [wanted], rtol=1e-6)


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
    assert 0.09 < float(clipped[0]) < 0.2  # of the clips 8, 16, 24 ... of 512 bins
    outlier = jax.random.normal(key, (1, 4096)).at[0, 0].set(100.0)
    found = calibration.LeastDivergence()(outlier, Uniform(8)).scale * 127
    assert 2 < float(found[0]) <= 10  # 128 bins are 6.25; a quarter would be 25


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
            jnp.linspace(-3e38, 3e38, 64),
            *(jnp.ones(64).at[3].set(bad) for bad in (jnp.nan, jnp.inf, -jnp.inf)),
        ]
    )
    found = jax.jit(lambda x: method(x, fmt))(rows)
    assert found.scale.shape == found.zero.shape == (10,)
    assert (found.scale > 0).all()
    assert np.isfinite(found.scale).all()
    assert (found.zero == 0).all()


def test_ranges_of_any_row_have_finite_scales_and_zeros_under_jit():
    rows = jnp.ones((4, 8)).at[:, 3].set(jnp.array([jnp.nan, jnp.inf, -jnp.inf, -3e38]))
    rows = rows.at[3, 0].set(3e38)
    for fmt in (Uniform(8), Uniform(8, signed=False)):
        found = jax.jit(lambda x, fmt=fmt: calibration.MinMax()(x, fmt))(rows)
        np.testing.assert_array_equal(found.scale[:3], 1)
        assert np.isfinite(found.zero).all()
        assert float(found.scale[3]) == pytest.approx(6e38 / 255, rel=1e-5)


def test_ranges_put_zero_on_the_grid():
    x = jnp.array([[0.5, 2.0, 1.0], [-1.0, 3.0, 0.1], [0.0, 0.0, 0.0]])
    for fmt in (Uniform(4), Uniform(4, signed=False)):
        scale, zero = calibration.MinMax()(x, fmt)
        np.testing.assert_array_equal(zero, jnp.round(zero))
        np.testing.assert_allclose(scale, [2 / 15, 4 / 15, 1.0], rtol=1e-6)
        assert ((zero >= fmt.lowest) & (zero <= fmt.highest)).all()
    with pytest.raises(InputError, match="Uniform"):
        calibration.MinMax()(x, Flint(4))


def test_learned_steps_start_from_the_mean_magnitude():
    x = jax.random.normal(jax.random.key(5), (2, 300)) * jnp.array([[1.0], [3e-3]])
    for fmt, part in ((Uniform(4), abs(x)), (Uniform(4, False), jnp.maximum(x, 0))):
        found = calibration.MeanMagnitude()(x, fmt).scale
        wanted = 2 * part.mean(-1) / np.sqrt(fmt.max)
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_settings_out_of_range_are_named():
    for make, word in [
        (lambda: calibration.MaxAbs(0.0), "ratio"),
        (lambda: calibration.Percentile(101.0), "percent"),
        (lambda: calibration.LeastError(low=0.9, high=0.5), "high"),
        (lambda: calibration.BestScale(steps=1), "steps"),
        (lambda: calibration.LeastSquares(-1), "iterations"),
        (lambda: calibration.Aligned(-0.1), "within"),
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
