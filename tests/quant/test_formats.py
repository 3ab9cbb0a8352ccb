"""Number formats: published sets, words, exact rounding, costs, errors."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from core.errors import InputError
from quant.formats import (
    AdditivePowers,
    Binary,
    Cost,
    ElasticSignificantBits,
    Flint,
    Levels,
    PowerOfTwo,
    SmallFloat,
    SumOfPowers,
    Ternary,
    Uniform,
)
from tests.quant.formats import EVERY, nearest, points

IDS = [str(fmt)[:60] for fmt in EVERY]


def padded(words, size=256):
    return np.resize(np.asarray(words, np.uint8), size)


@pytest.mark.parametrize("fmt", EVERY, ids=IDS)
def test_every_word_is_read_and_written(fmt):
    words = np.arange(2**fmt.bits)
    values = fmt.values()
    found = np.asarray(fmt.decode(padded(words)))[: len(words)]
    np.testing.assert_array_equal(found, values.astype(np.float32))
    known = words[np.isfinite(values)]
    numbers = np.asarray(fmt.decode(padded(known)))
    again = np.asarray(fmt.encode(numbers))
    assert again.dtype == fmt.dtype == np.uint8
    np.testing.assert_array_equal(fmt.decode(again), numbers)
    assert set(again.tolist()) == set(fmt.words.tolist())
    assert (np.diff(fmt.levels) > 0).all()
    assert len(fmt.levels) <= 2**fmt.bits
    assert (fmt.min, fmt.max) == (fmt.levels[0], fmt.levels[-1])


@pytest.mark.parametrize("fmt", EVERY, ids=IDS)
def test_rounding_is_to_the_nearest_level_and_ties_as_stated(fmt):
    x = points(fmt, np.random.default_rng(1))
    np.testing.assert_array_equal(fmt.round(x), np.float32(nearest(fmt, x)))


@pytest.mark.parametrize(
    "fmt",
    [
        Uniform(8),
        SumOfPowers(8),
        Flint(8),
        ElasticSignificantBits(8, 3),
        SmallFloat(4, 3),
        Levels((0.1, 0.5, 3.0)),
    ],
    ids=str,
)
def test_in_other_types_and_under_jit(fmt):
    x = points(fmt, np.random.default_rng(2), 2048)
    want = np.float32(nearest(fmt, x))
    np.testing.assert_array_equal(jax.jit(fmt.round)(x), want)
    np.testing.assert_array_equal(
        jax.jit(jax.vmap(fmt.round))(x.reshape(8, -1)), want.reshape(8, -1)
    )
    half = jnp.asarray(x, jnp.bfloat16)
    found = jax.jit(fmt.round)(half)
    assert found.dtype == jnp.bfloat16
    near = nearest(fmt, np.asarray(half, np.float32))
    np.testing.assert_array_equal(found, near.astype(ml_dtypes.bfloat16))
    with jax.enable_x64(True):
        wide = np.float64(x) * (1 + 1e-12)
        np.testing.assert_array_equal(jax.jit(fmt.round)(wide), nearest(fmt, wide))
    words = [fmt.encode(jnp.float32(number)) for number in (jnp.nan, 0.0)]
    assert words[0] == words[1]
    ends = fmt.round(jnp.array([jnp.nan, jnp.inf, -jnp.inf]))
    np.testing.assert_array_equal(ends, np.float32([np.nan, fmt.max, fmt.min]))


def test_sums_of_powers_are_the_published_ones():
    """arXiv 2012.04240, equation 8: counts for 3 to 8 bits, the set for 4."""
    counts = [len(SumOfPowers(bits).levels) for bits in range(3, 9)]
    assert counts == [5, 13, 15, 47, 59, 187]
    positive = [0, 1 / 8, 1 / 4, 1 / 2, 5 / 8, 3 / 4, 1]
    np.testing.assert_array_equal(SumOfPowers(4).levels[6:], positive)
    assert (SumOfPowers(8).levels >= 0).sum() == 94
    # 1/2 is 1/2 + 0 and 0 + 1/2: the word of the larger q1.
    assert int(SumOfPowers(4).encode(jnp.float32(0.5))) == 0b010


def test_additive_powers_are_the_published_ones():
    """arXiv 1909.13144: the sets of 3 and 4 magnitude bits; no number twice."""
    four = [0, 1 / 2, 1 / 8, 1 / 32]
    sums = np.add.outer(four, np.divide(four, 2)).reshape(-1)
    np.testing.assert_array_equal(AdditivePowers(5).levels[15:], np.sort(sums))
    three = np.add.outer([0, 1 / 2, 1 / 4, 1 / 16], [0, 1 / 8]).reshape(-1)
    np.testing.assert_array_equal(AdditivePowers(4).levels[7:], np.sort(three))
    for bits in range(3, 9):
        assert len(AdditivePowers(bits).levels) == 2**bits - 1
        terms = bits // 2
        assert AdditivePowers(bits).cost == Cost(terms, terms - 1)


def test_flint_is_the_published_one():
    """MICRO 2022: the sets of 3 and 4 magnitude bits; base << shift is the number."""
    wanted = [*range(8), 8, 10, 12, 14, 16, 24, 32, 64]
    np.testing.assert_array_equal(Flint(4, signed=False).levels, wanted)
    small = Flint(4)
    assert len(small.levels) == 15
    assert small.max == 16
    np.testing.assert_array_equal(small.levels[7:], [0, 1, 2, 3, 4, 6, 8, 16])
    words = [0b1101, 0b1011, 0b1001, 0b1000]  # 11mm, 101m, 1001, 1000
    found = Flint(4, signed=False).decode(np.uint8(words))
    np.testing.assert_array_equal(found, [10, 24, 32, 64])
    base, shift = Flint(4, signed=False).base_and_shift()
    assert (base[words].tolist(), shift[words].tolist()) == ([5, 3, 1, 1], [1, 3, 5, 6])


@pytest.mark.parametrize("bits", range(2, 9))
def test_elastic_significant_bits_have_the_published_sizes(bits):
    """arXiv 2109.03513: 2**b - 1 numbers, the largest 2**(N + 1) - 2**(N - k)."""
    for k in range(bits - 1):
        fmt = ElasticSignificantBits(bits, k, max_exponent_bits=6)
        N = 2 ** (bits - 1 - k) - 2 if bits - 1 - k <= 6 else fmt.largest_exponent
        kept = fmt.fraction_bits
        assert kept == max(k, bits - 7)
        assert len(fmt.levels) == 2**bits - 1
        assert fmt.max == 2.0 ** (N + 1) - 2.0 ** (N - kept)
    assert ElasticSignificantBits(8, 0).fraction_bits == 3
    uniform = ElasticSignificantBits(bits, bits - 2)
    np.testing.assert_allclose(np.diff(uniform.levels), 2.0 ** -(bits - 2))


def test_elastic_significant_bits_quantize_the_papers_example():
    """arXiv 2109.03513, figure 4, with b = 5, k = 2 and alpha = 0.625."""
    x = [[2.17, 1.62, 1.24, 0.76, 0.68], [1.91, 2.72, 3.06, 2.81, 2.37]]
    x += [[2.21, 2.67, 1.33, 1.46, 0.59], [4.0, 4.38, 1.67, 2.98, 0.61]]
    wanted = [[2.1875, 1.5625, 1.25, 0.78125, 0.625], [1.875, 2.5, 3.125, 2.5, 2.5]]
    wanted += [[2.1875, 2.5, 1.25, 1.5625, 0.625], [3.75, 4.375, 1.5625, 3.125, 0.625]]
    found = 0.625 * ElasticSignificantBits(5, 2).round(np.float32(x) / 0.625)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_elastic_rounding_is_the_papers_formula():
    rng = np.random.default_rng(3)
    for bits, k in [(4, 0), (5, 1), (6, 2), (8, 4)]:
        fmt = ElasticSignificantBits(bits, k)
        x = points(fmt, rng)
        _, exponent = np.frexp(np.abs(x))
        step = 2.0 ** (np.clip(exponent - 1, 0, fmt.largest_exponent) - k)
        wanted = np.clip(np.round(x / step) * step, fmt.min, fmt.max)
        np.testing.assert_array_equal(fmt.round(x), np.float32(wanted))


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("fmt", "dtype"),
    [
        (SmallFloat(4, 3, specials="one_nan"), ml_dtypes.float8_e4m3fn),
        (SmallFloat(4, 3, specials="ieee"), ml_dtypes.float8_e4m3),
        (SmallFloat(5, 2, specials="ieee"), ml_dtypes.float8_e5m2),
        (SmallFloat(3, 4, specials="ieee"), ml_dtypes.float8_e3m4),
        (SmallFloat(4, 3, specials="fnuz"), ml_dtypes.float8_e4m3fnuz),
        (SmallFloat(5, 2, specials="fnuz"), ml_dtypes.float8_e5m2fnuz),
        (SmallFloat(4, 3, 11, specials="fnuz"), ml_dtypes.float8_e4m3b11fnuz),
        (SmallFloat(2, 3), ml_dtypes.float6_e2m3fn),
        (SmallFloat(3, 2), ml_dtypes.float6_e3m2fn),
        (SmallFloat(2, 1), ml_dtypes.float4_e2m1fn),
    ],
    ids=str,
)
def test_small_floats_are_those_of_ml_dtypes(fmt, dtype):
    words = np.arange(2**fmt.bits, dtype=np.uint8)
    np.testing.assert_array_equal(fmt.values(), words.view(dtype).astype(np.float64))
    x = points(fmt, np.random.default_rng(4))
    inside = np.clip(x, np.float32(fmt.min), np.float32(fmt.max))
    wanted = inside.astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(fmt.round(x), wanted)


def test_costs_count_shifts_and_adds():
    assert Uniform(4).cost == Cost(2, 2)
    assert PowerOfTwo(4).cost == Cost(1, 0)
    assert SumOfPowers(4).cost == Cost(2, 1)
    assert ElasticSignificantBits(6, 3).cost == Cost(4, 3)
    assert ElasticSignificantBits(6, 4).cost == Uniform(6).cost
    assert Flint(4).cost == Cost(2, 1)
    assert Binary().cost == Ternary().cost == Cost(0, 0)
    narrow = [f(2) for f in (PowerOfTwo, lambda b: Uniform(b, symmetric=True))]
    narrow += [ElasticSignificantBits(2, 0), PowerOfTwo(1, False)]
    assert {fmt.cost for fmt in narrow} == {Cost(0, 0)}  # a choice of -1, 0 and 1


@pytest.mark.parametrize(
    "fmt",
    [
        *(Uniform(4, symmetric=True), PowerOfTwo(4), SumOfPowers(4), Ternary()),
        *(PowerOfTwo(2), SmallFloat(1, 0), SmallFloat(1, 2)),
    ],
)
def test_a_set_of_numbers_costs_what_its_numbers_take(fmt):
    """The same set, at any scale that is a power of two, as the format says."""
    for unit in (1.0, 2.0**-5):
        assert Levels(tuple(fmt.levels * unit)).cost == fmt.cost
    assert Levels((-0.3, 0.3)).cost == Cost(0, 0)
    assert sum(Levels((0.1, 0.5, 3.0)).cost) > 10  # 0.1 has many digits
    assert Levels(tuple(range(-15, 16, 2))).cost == Cost(3, 3)
    assert Levels((0.1, 0.5), cost_of_product=Cost(1, 1)).cost == Cost(1, 1)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: Uniform(1), "bits=1"),
        (lambda: Uniform(17), "2 to 16"),
        (lambda: Uniform(True), "bits=True"),
        (lambda: Uniform(4, signed=False, symmetric=True), "signed"),
        (lambda: PowerOfTwo(9), "2 to 8"),
        (lambda: SumOfPowers(2), "3 to 8"),
        (lambda: AdditivePowers(2), "3 to 8"),
        (lambda: Flint(2), "3 to 9"),
        (lambda: ElasticSignificantBits(4, 3), "significant=3"),
        (lambda: SmallFloat(8, 0, bias=0), "bias"),
        (lambda: SmallFloat(4, 3, specials="fn"), "one_nan"),
        (lambda: SmallFloat(4, 3, specials="fnuz", signed=False), "signed=True"),
        (lambda: SmallFloat(8, 0, signed=False), "normal numbers"),
        (lambda: Levels((1.0, 1.0)), "different"),
        (lambda: Levels((0.0, float("nan"))), "finite"),
        (lambda: Levels((-1.0, 0.0)), "above 0"),
        (lambda: Uniform(4).encode(jnp.arange(3)), "int32"),
        (lambda: Flint(4).encode(jnp.arange(3)), "int32"),
    ],
)
def test_what_does_not_exist_is_named(make, word):
    with pytest.raises(InputError, match=word):
        make()
