"""Quantizers: what shares a scale, codes and numbers, gradients, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.errors import InputError, NonFiniteError, ShapeError
from quant.calibration import Aligned, MinMax, Scaling
from quant.formats import ElasticSignificantBits, Flint, SumOfPowers, Uniform
from quant.quantizers import CHANNEL, TENSOR, Per, Quantizer, straight_through

KERNEL = jax.random.normal(jax.random.key(0), (3, 3, 8, 4))
SHARES = {
    "tensor": (TENSOR, (1, 1, 1, 1)),
    "channel": (CHANNEL, (1, 1, 1, 4)),
    "two axes": (Per(axes=(2, -1)), (1, 1, 8, 4)),
    "groups": (Per(axes=(-1,), group=2, group_axis=2), (1, 1, 4, 4)),
    "groups alone": (Per(group=3, group_axis=0), (1, 1, 1, 1)),
}


@pytest.mark.parametrize(("per", "shape"), SHARES.values(), ids=SHARES)
def test_scales_have_the_shape_of_what_shares_them(per, shape):
    quantizer = Quantizer(SumOfPowers(4), per)
    scaling = quantizer.fit(KERNEL)
    assert scaling.scale.shape == scaling.zero.shape == shape
    words = quantizer.encode(KERNEL, scaling)
    assert (words.shape, words.dtype) == (KERNEL.shape, jnp.uint8)
    found = quantizer.decode(words, scaling)
    np.testing.assert_array_equal(quantizer.encode(found, scaling), words)
    np.testing.assert_array_equal(quantizer.fake(KERNEL), found)
    jitted = jax.jit(quantizer.encode)(KERNEL, scaling)
    np.testing.assert_array_equal(jitted, words)


def test_groups_have_the_scale_of_their_own_maximum():
    quantizer = Quantizer(Uniform(4), Per(axes=(-1,), group=2, group_axis=2))
    found = quantizer.fit(KERNEL).scale
    blocks = np.abs(np.asarray(KERNEL)).reshape(3, 3, 4, 2, 4)
    np.testing.assert_allclose(found[0, 0], blocks.max((0, 1, 3)) / 7, rtol=1e-6)


def test_gradients_are_straight_through_and_the_scales_is_the_learned_steps():
    quantizer = Quantizer(Uniform(3))
    x = jnp.array([-9.0, -1.3, 0.2, 0.7, 2.6, 8.0])
    scaling = quantizer.fit(x)._replace(scale=jnp.array([1.0]))

    def total(x, scale):
        return quantizer.fake(x, scaling._replace(scale=scale)).sum()

    by_x, by_scale = jax.jit(jax.grad(total, (0, 1)))(x, scaling.scale)
    np.testing.assert_array_equal(by_x, [0, 1, 1, 1, 1, 0])
    wanted = -4 + (-1 + 1.3) + (0 - 0.2) + (1 - 0.7) + (3 - 2.6) + 3
    np.testing.assert_allclose(by_scale, [wanted], rtol=1e-5)
    ones = jax.grad(lambda x: Quantizer(Flint(4)).fake(x).sum())(KERNEL)
    np.testing.assert_array_equal(ones, jnp.ones_like(KERNEL))


def test_no_weight_stops_beyond_the_levels_with_the_identity():
    """ESB's and MSQ's estimator: dw_q/dw = 1. Ternary, so half of them are beyond."""
    fmt = ElasticSignificantBits(2, 0)
    by_clip, by_identity = (
        jax.grad(
            lambda w, b=b: Quantizer(fmt, TENSOR, Aligned(), beyond=b).fake(w).sum()
        )
        for b in ("clip", "identity")
    )
    np.testing.assert_array_equal(by_identity(KERNEL), jnp.ones_like(KERNEL))
    assert 0.1 < (by_clip(KERNEL) == 0).mean() < 0.3
    quantizer = Quantizer(fmt, beyond="identity")
    x, scaling = jnp.array([jnp.inf, 5.0]), Scaling(jnp.ones(1), jnp.zeros(1))
    np.testing.assert_array_equal(quantizer.fake(x, scaling), [1.0, 1.0])
    with pytest.raises(InputError, match="beyond='ste'"):
        Quantizer(fmt, beyond="ste")  # type: ignore[arg-type]


def test_a_projection_is_the_nearest_level_and_stays():
    quantizer = Quantizer(SumOfPowers(4))
    scaling = quantizer.fit(KERNEL)
    found = quantizer.project(KERNEL, scaling)
    np.testing.assert_array_equal(found, quantizer.fake(KERNEL, scaling))
    levels = quantizer.format.levels * float(scaling.scale.item())
    gaps = np.abs(np.asarray(KERNEL, np.float64)[..., None] - levels).min(-1)
    np.testing.assert_allclose(np.abs(found - KERNEL), gaps, atol=1e-6)
    np.testing.assert_array_equal(quantizer.project(found), found)
    slope = jax.grad(lambda x: quantizer.project(x, scaling).sum())(KERNEL)
    np.testing.assert_array_equal(slope, jnp.zeros_like(KERNEL))


def test_affine_codes_of_ranges():
    quantizer = Quantizer(Uniform(8, signed=False), calibration=MinMax())
    x = jnp.linspace(0.0, 6.0, 100)
    scaling = quantizer.fit(x)
    words = quantizer.encode(x, scaling)
    assert (int(words.min()), int(words.max())) == (0, 255)
    np.testing.assert_allclose(quantizer.decode(words, scaling), x, atol=6 / 255 / 1.99)
    assert quantizer.decode(jnp.uint8(scaling.zero), scaling) == 0


def test_types_are_kept_and_nan_is_not_hidden():
    quantizer = Quantizer(Flint(4), CHANNEL)
    half = KERNEL.astype(jnp.bfloat16)
    assert quantizer.fake(half).dtype == jnp.bfloat16
    assert quantizer.fit(half).scale.dtype == jnp.float32
    spoilt = KERNEL.at[0, 0, 0, 0].set(jnp.nan)
    for call in (quantizer.fit, lambda x: quantizer.encode(x, quantizer.fit(KERNEL))):
        with pytest.raises(NonFiniteError, match="numbers"):
            call(spoilt)
    scaling = quantizer.fit(KERNEL)
    found = quantizer.fake(spoilt, scaling)
    assert np.isnan(found[0, 0, 0, 0])
    assert np.isfinite(found.reshape(-1)[1:]).all()


def test_arrays_that_cannot_be_quantized_are_named():
    with pytest.raises(ShapeError, match=r"shape \(0,\)"):
        Quantizer(Flint(4)).fit(jnp.zeros(0))
    with pytest.raises(ShapeError, match="axis 5"):
        Quantizer(Flint(4), Per(axes=(5,))).fit(KERNEL)
    with pytest.raises(ShapeError, match="groups of 3"):
        Quantizer(Flint(4), Per(group=3, group_axis=2)).fit(KERNEL)
    with pytest.raises(ShapeError, match="groups of 2"):
        Quantizer(Flint(4), Per(axes=(-1,), group=2, group_axis=3)).fit(KERNEL)
    with pytest.raises(InputError, match="int32"):
        Quantizer(Flint(4)).fit(jnp.arange(3))
    with pytest.raises(InputError, match="group"):
        Per(group=0)


def test_one_number_and_zeros_have_defined_codes():
    for x in (jnp.zeros((4,)), jnp.full((1,), 0.7), jnp.full((3,), -2.0)):
        quantizer = Quantizer(Uniform(4))
        scaling = quantizer.fit(x)
        assert np.isfinite(scaling.scale).all()
        np.testing.assert_allclose(quantizer.fake(x), x, rtol=1e-6)


def test_straight_through_is_the_identity_within_the_range():
    fmt = SumOfPowers(4)
    x = jnp.linspace(-2.0, 2.0, 41)
    np.testing.assert_array_equal(straight_through(fmt, x), fmt.round(x))
    slope = jax.jit(jax.vmap(jax.grad(lambda v: straight_through(fmt, v))))(x)
    inside = np.abs(np.asarray(x)) < 1 - 1e-6
    np.testing.assert_array_equal(np.asarray(slope)[inside], 1.0)
    np.testing.assert_array_equal(np.asarray(slope)[np.abs(x) > 1 + 1e-6], 0.0)


@pytest.mark.parametrize("gradient", ["step", "clip"])
@pytest.mark.parametrize("bits", [4, 6, 8])
def test_the_largest_weight_learns_however_its_scale_is_rounded(bits, gradient):
    """max / (max / 127) may be above 127 in float32."""
    x = np.random.default_rng(0).normal(size=(3, 400)).astype(np.float32)
    quantizer = Quantizer(Uniform(bits, symmetric=True), gradient=gradient)
    scaling = quantizer.fit(x)
    slope = jax.jit(jax.grad(lambda x: quantizer.fake(x, scaling).sum()))(x)
    np.testing.assert_allclose(slope, jnp.ones_like(slope), rtol=1e-6)


def test_fake_is_decode_of_encode_to_the_last_bit():
    """Far beyond the range too, where x + (round(x) - x) has no digits left."""
    quantizer = Quantizer(Uniform(8))
    x = jnp.array([1e9, -1e9, jnp.inf, -jnp.inf, 3e38, 0.3, -127.5, 126.2])
    scaling = Scaling(jnp.ones(1), jnp.zeros(1))
    wanted = [127, -128, 127, -128, 127, 0, -128, 126]
    np.testing.assert_array_equal(quantizer.fake(x, scaling), wanted)
    slope = jax.grad(lambda x: quantizer.fake(x, scaling).sum())(x)
    np.testing.assert_array_equal(slope, [0, 0, 0, 0, 0, 1, 1, 1])
    found = straight_through(Uniform(8), x)
    np.testing.assert_array_equal(found, wanted)


def test_ants_gradients_are_those_of_its_formula():
    """y = s (x / s + stop_gradient(q - x / s)), of numbers beyond the levels too."""
    x = jax.random.normal(jax.random.key(1), (40, 3)) * 4
    scaling = Scaling(jnp.array([[0.3, 1.0, 7.0]]), jnp.zeros((1, 3)))
    weights = jnp.linspace(-1.0, 2.0, 120).reshape(40, 3)
    fmt = Flint(4)
    quantizer = Quantizer(fmt, CHANNEL, gradient="ant", beyond="identity")

    def published(x, scale):
        unit = x / scale
        return scale * (unit + jax.lax.stop_gradient(fmt.round(unit) - unit))

    def ours(x, scale):
        return quantizer.fake(x, scaling._replace(scale=scale))

    for fn in (published, ours):
        np.testing.assert_allclose(
            fn(x, scaling.scale), quantizer.project(x, scaling), rtol=1e-5, atol=1e-5
        )
    assert (jnp.abs(x / scaling.scale) > fmt.max).any()
    found, wanted = (
        jax.jit(jax.grad(lambda *at, f=f: (weights * f(*at)).sum(), (0, 1)))(
            x, scaling.scale
        )
        for f in (ours, published)
    )
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[0], weights, rtol=1e-6)
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-4, atol=1e-4)
    infinite = quantizer.fake(jnp.full((1, 3), jnp.inf), scaling)
    np.testing.assert_allclose(infinite, 16 * scaling.scale)


@pytest.mark.parametrize("batched", [False, True])
def test_lsq_takes_scales_of_lower_rank(batched):
    """A scalar, and one for each channel: as those of x's rank."""
    x = jnp.linspace(-9.0, 9.0, 30).reshape(10, 3)
    quantizer = Quantizer(Uniform(4), gradient="lsq", batched=batched)

    def slope(scale):
        zero = jnp.zeros_like(scale)
        with jax.numpy_rank_promotion("allow"):
            return jax.grad(lambda s: quantizer.fake(x, Scaling(s, zero)).sum())(scale)

    for low, shape in (((), (1, 1)), ((3,), (1, 3))):
        found, wanted = slope(jnp.ones(low)), slope(jnp.ones(shape))
        np.testing.assert_allclose(found, wanted.reshape(low), rtol=1e-6)
    each = slope(jnp.ones((10, 1)))  # scales for each example share no example's
    assert each.shape == (10, 1)


@pytest.mark.parametrize("gradient", ["step", "lsq", "clip", "ant"])
def test_a_scale_that_learning_brought_to_zero_or_below_learns_on(gradient):
    quantizer = Quantizer(Uniform(4, signed=False), CHANNEL, gradient=gradient)
    x = jnp.array([[-1.0] * 4, [0.0] * 4, [0.5] * 4, [5.0] * 4])
    scale = jnp.array([[0.0, -0.5, -1e-30, 1.0]])

    @jax.jit
    @jax.value_and_grad
    def total(scale):
        return quantizer.fake(x, Scaling(scale, jnp.zeros((1, 4)))).sum()

    value, slope = total(scale)
    assert np.isfinite(value)
    assert np.isfinite(slope).all()
    assert (slope[0, :3] > 0).all()  # the clip is to rise again
    words = quantizer.encode(x, Scaling(scale, jnp.zeros((1, 4))))
    np.testing.assert_array_equal(words[:, 0], [0, 0, 15, 15])
