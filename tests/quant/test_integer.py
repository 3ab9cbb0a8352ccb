"""Integer-only layers equal the fake-quantized ones to the last code."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InputError, ShapeError
from quant import integer
from quant.calibration import MinMax, Scaling
from quant.formats import (
    ElasticSignificantBits,
    Flint,
    Levels,
    PowerOfTwo,
    SmallFloat,
    SumOfPowers,
    Uniform,
)
from quant.quantizers import CHANNEL, Per, Quantizer

INPUTS = Quantizer(Uniform(8, signed=False), calibration=MinMax())
OUTPUTS = Quantizer(Uniform(8, signed=False), calibration=MinMax())
EVEN = jnp.zeros(8, jnp.int32)
FORMATS = [
    Uniform(8),
    Uniform(4, symmetric=True),
    SumOfPowers(4),
    ElasticSignificantBits(4, 2),
    Flint(4),
    SmallFloat(3, 2),
]


def layer(key, fmt, per=CHANNEL):
    keys = jax.random.split(key, 3)
    weights = Quantizer(fmt, per)
    x = jax.random.normal(keys[0], (4, 7, 6, 3)) + 0.4
    w = jax.random.normal(keys[1], (3, 3, 3, 5)) / 4
    pairs = []
    for quantizer, array in ((INPUTS, x), (weights, w)):
        scaling = quantizer.fit(array)
        pairs.append((quantizer, scaling, quantizer.encode(array, scaling)))
    return pairs, jax.random.normal(keys[2], (5,))


def exact(quantizer, scaling, words):
    """The numbers of words in float64, from the definition."""
    table = quantizer.format.values()
    level = table[np.asarray(words)] - np.float64(scaling.zero)
    return level * np.float64(scaling.scale)


def convolve(x, w):
    """A convolution with zeros around, in numpy and float64."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("nhwcij,ijcf->nhwf", windows, w)


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_a_convolution_from_words_has_the_codes_of_the_fake_quantized_one(fmt, key):
    ((q, s, x), (qw, sw, w)), bias = layer(key, fmt)

    @jax.jit
    def words(x, w, target):
        sums = integer.conv(integer.integers(x, q, s), integer.integers(w, qw, sw))
        sums = integer.add_bias(sums, bias)
        return integer.requantize(sums, OUTPUTS, target), sums

    table, unit = integer.multiples(fmt)
    np.testing.assert_array_equal(table * unit, np.nan_to_num(fmt.values()))
    steps = np.float64(s.scale) * np.float64(sw.scale) * unit
    wanted = convolve(exact(q, s, x), exact(qw, sw, w))
    wanted += steps * np.round(np.float64(bias) / steps)
    target = OUTPUTS.fit(jnp.float32(wanted))
    codes, sums = words(x, w, target)
    np.testing.assert_allclose(sums.numbers(), wanted, rtol=1e-5, atol=1e-5)
    assert int(jnp.abs(sums.values).max()) <= sums.bound + 2**20
    place = wanted / np.float64(target.scale) + np.float64(target.zero)
    np.testing.assert_array_equal(codes, np.clip(np.round(place), 0, 255))
    assert len(np.unique(codes)) > 50


@pytest.mark.parametrize(
    ("strides", "padding", "groups"),
    [((2, 1), "VALID", 1), ((1, 2), ((0, 1), (2, 1)), 3), ((2, 2), "SAME", 2)],
)
def test_strides_paddings_and_groups_sum_the_same_products(strides, padding, groups):
    """Depthwise layers too: sums of integers, one after another, at zero's place."""
    rng = np.random.default_rng(6)
    x = rng.integers(0, 256, (2, 7, 6, 6))
    w = rng.integers(-7, 8, (3, 2, 6 // groups, 6))
    zero = 37
    scaling = Scaling(jnp.full((1,) * 4, 0.1), jnp.full((1,) * 4, float(zero)))
    inputs = integer.integers(np.uint8(x), INPUTS, scaling)
    kernel = integer.Integers(jnp.int32(w), jnp.full((1, 1, 1, 1), 0.5), 7)
    found = integer.conv(inputs, kernel, strides, padding, groups)
    assert found.bound == 255 * 7 * 6 * 6 // groups
    if isinstance(padding, str):
        sides = jax.lax.padtype_to_pads((7, 6), (3, 2), strides, padding)
    else:
        sides = padding
    wide = np.pad(x - zero, ((0, 0), *sides, (0, 0)))
    values = np.asarray(found.values)
    for at in np.ndindex(*values.shape):
        image, i, j, out = at
        first = out // (6 // groups) * (6 // groups)
        rows = slice(i * strides[0], i * strides[0] + 3)
        columns = slice(j * strides[1], j * strides[1] + 2)
        window = wide[image, rows, columns, first : first + 6 // groups]
        assert values[at] == (window * w[..., out]).sum()
    np.testing.assert_allclose(found.numbers(), values * 0.05, rtol=1e-6)


def test_a_dense_layer_of_images_and_of_rows(key):
    ((q, s, x), (qw, sw, w)), _ = layer(key, Uniform(8))
    kernel, scaling = w[0, 0], jax.tree.map(lambda part: part[0, 0], sw)
    inputs = integer.integers(x, q, s)
    found = integer.dense(inputs, integer.integers(kernel, qw, scaling))
    wanted = exact(q, s, x) @ exact(qw, scaling, kernel)
    np.testing.assert_allclose(found.numbers(), wanted, rtol=1e-5, atol=1e-5)
    one = integer.dense(
        integer.integers(x[0, 0], q, jax.tree.map(lambda part: part[0, 0], s)),
        integer.integers(kernel, qw, scaling),
    )
    np.testing.assert_array_equal(one.values, found.values[0, 0])


@given(
    st.lists(st.integers(-(2**31) + 1, 2**31 - 1), min_size=8, max_size=8),
    st.lists(st.integers(2**30, 2**31 - 1), min_size=8, max_size=8),
    st.lists(st.integers(-2, 66), min_size=8, max_size=8),
)
def test_products_are_rounded_once_and_ties_go_to_even(values, mantissa, shift):
    found = integer._times(
        jnp.int32(values), jnp.array(mantissa, jnp.uint32), jnp.int32(shift), EVEN
    )
    for v, m, s, out in zip(values, mantissa, shift, found, strict=True):
        if s > 63:
            wanted = 0
        elif s < 1:
            wanted = (v > 0) * (2**31 - 1) - (v < 0) * (2**31 - 1)
        else:
            whole, rest = divmod(abs(v) * m, 2**s)
            whole += rest > 2 ** (s - 1) or (rest == 2 ** (s - 1) and whole % 2)
            wanted = min(whole, 2**31 - 1) * (1 if v >= 0 else -1)
        assert int(out) == wanted, (v, m, s)


@pytest.mark.parametrize("shift", [1, 5, 31, 32, 33, 55])
def test_ties(shift):
    odd = np.array([1, 3, 5, 2, 7, -3, -5, 1], np.int64)
    mantissa = 2**30
    values = odd * 2 ** max(shift - 31, 0)  # halves wherever the shift allows
    found = integer._times(
        jnp.int32(values), jnp.full(8, mantissa, jnp.uint32), jnp.full(8, shift), EVEN
    )
    exact = [float(v) * mantissa / 2.0**shift for v in values]
    wanted = np.clip(np.round(exact), -(2**31) + 1, 2**31 - 1)
    np.testing.assert_array_equal(np.asarray(found, np.int64), wanted.astype(np.int64))


def test_ties_go_to_the_even_level_whatever_the_zero():
    """The sum 1 of scale 1/2 at zero 1 is the level 1.5, so 2: as aware and encode."""
    sums = jnp.arange(-40, 41)[:, None]
    one = jnp.ones((1, 1))
    for fmt, low in ((Uniform(4), -6.0), (Uniform(4, signed=False), 0.0)):
        outputs, zeros = Quantizer(fmt), jnp.arange(low, 7.0)[None]
        for share in (0.5, 0.25, 0.125):
            found = integer.Integers(sums, share * one, 40)
            wanted = outputs.encode(found.numbers(), Scaling(one, zeros))
            words = integer.requantize(found, outputs, Scaling(one, zeros))
            np.testing.assert_array_equal(words, wanted)


def test_a_bias_never_wraps_around():
    """A folded channel of scale 1e-8 has a bias of 1e11 units."""
    sums = integer.Integers(jnp.full((2, 3), 900), jnp.full((1, 3), 1e-8), 1000)
    bias = np.array([1e3, -1e3, 1e-6], np.float32)
    with pytest.raises(InputError, match=r"1e\+11 units"):
        integer.add_bias(sums, bias)
    found = jax.jit(integer.add_bias)(sums, bias)
    low, high = -(2**31) + 2000, 2**31 - 2000
    assert found.values[0, 0] > high
    assert found.values[0, 1] < low
    assert found.values[0, 2] == 1000
    assert found.bound == 2**31 - 1


def test_what_does_not_fit_is_named(key):
    ((q, s, x), (qw, sw, w)), _ = layer(key, Uniform(8))
    inputs, kernel = integer.integers(x, q, s), integer.integers(w, qw, sw)
    with pytest.raises(InputError, match="sums below"):
        integer.conv(dataclasses.replace(inputs, bound=2**20), kernel)
    for fmt in (PowerOfTwo(8), Levels((0.0, 0.1))):
        with pytest.raises(InputError, match="units"):
            integer.multiples(fmt)
    with pytest.raises(ShapeError, match="one scale along"):
        integer.conv(inputs, dataclasses.replace(kernel, scale=jnp.ones((1, 1, 3, 1))))
    with pytest.raises(ShapeError, match="K"):
        integer.dense(
            inputs,
            integer.integers(
                w[0, :2, 0].T,
                Quantizer(Uniform(8)),
                Scaling(jnp.ones((1, 1)), jnp.zeros((1, 1))),
            ),
        )
    with pytest.raises(InputError, match="scales of axes"):
        integer.integers(x, Quantizer(Uniform(8), Per(group=2)), s)
    with pytest.raises(InputError, match="Flint"):
        integer.requantize(integer.conv(inputs, kernel), Quantizer(Flint(4)), s)
