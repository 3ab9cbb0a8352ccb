"""Widths as real numbers: levels, gradients, trees, training within a budget."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from core.errors import InputError, NonFiniteError, RuleError, ShapeError
from core.trees import by_path
from quant import bitwidth
from quant.bitwidth import (
    Categorical,
    Interpolation,
    RealStep,
    encode,
    interpolated,
    mixed,
    quantize,
    stepped,
)
from quant.formats import Uniform
from quant.quantizers import CHANNEL, TENSOR, Per, Quantizer

PAIRS = Per(group=2, group_axis=-1)
PERS = {"tensor": (TENSOR, 1), "pairs": (PAIRS, 3), "channel": (CHANNEL, 6)}
KERNEL = (
    jax.random.normal(jax.random.key(0), (3, 3, 4, 6))
    * jnp.linspace(0.1, 2.0, 6)[None, None, None]
)
PARAMS = {
    "conv": {"kernel": KERNEL, "bias": jnp.ones(6)},
    "head": {"kernel": KERNEL[0, 0, :, :5], "bias": jnp.zeros(5)},
    "last": KERNEL[1, 1],
}
RULES = [("head/.*", None), (".*/kernel", PAIRS), ("last", TENSOR)]
RELAXATIONS = [Interpolation(), RealStep(), Categorical()]


@pytest.mark.parametrize(("per", "groups"), PERS.values(), ids=PERS)
def test_integer_widths_are_those_of_symmetric_fixed_point(per, groups):
    others = [Quantizer(Uniform(b, symmetric=True), per) for b in range(2, 9)]

    @jax.jit
    def all_widths(w):
        scales = [other.fit(w) for other in others]
        words = [q.encode(w, s) for q, s in zip(others, scales, strict=True)]
        return [
            (q.format.integers(x), s.scale.reshape(-1), q.decode(x, s))
            for q, x, s in zip(others, words, scales, strict=True)
        ]

    for bits, (integers, scales, weights) in enumerate(all_widths(KERNEL), 2):
        codes, scale = encode(KERNEL, jnp.full(groups, bits), per)
        np.testing.assert_array_equal(codes, integers)
        # XLA divides by constants, as the other's levels are, with their inverse.
        np.testing.assert_allclose(scale, scales, rtol=2e-7)
        found = quantize(KERNEL, jnp.full(groups, bits), per)
        np.testing.assert_allclose(found, weights, rtol=2e-7)


def test_one_bit_is_a_sign_and_the_mean_magnitude():
    found = quantize(KERNEL, jnp.ones(6, jnp.int32), CHANNEL)
    flat = np.asarray(KERNEL).reshape(-1, 6)
    np.testing.assert_allclose(
        np.asarray(found).reshape(-1, 6),
        np.sign(flat) * np.abs(flat).mean(0),
        rtol=1e-5,
    )
    codes, scale = encode(jnp.array([0.0, -1.0, 3.0]), jnp.array([1]))
    np.testing.assert_array_equal(codes, [1, -1, 1])
    np.testing.assert_allclose(scale, [4 / 3], rtol=1e-6)
    middle = interpolated(KERNEL, jnp.full(6, 1.25), CHANNEL)
    two = quantize(KERNEL, jnp.full(6, 2), CHANNEL)
    np.testing.assert_allclose(middle, 0.75 * found + 0.25 * two, rtol=1e-5)


def test_every_group_has_its_own_width():
    bits = jnp.array([1, 4, 8])
    found = quantize(KERNEL, bits, PAIRS)
    for g in range(3):
        part = KERNEL[..., 2 * g : 2 * g + 2]
        alone = quantize(part, bits[g : g + 1])
        np.testing.assert_allclose(found[..., 2 * g : 2 * g + 2], alone, rtol=1e-6)
    populations = jax.vmap(lambda b: quantize(KERNEL, b, PAIRS))(
        jnp.stack([bits, bits[::-1]])
    )
    np.testing.assert_allclose(populations[0], found, rtol=1e-6)


@pytest.mark.parametrize(("per", "groups"), PERS.values(), ids=PERS)
def test_the_slope_in_beta_is_the_difference_quotient_of_its_segment(per, groups):
    weight = jax.random.normal(jax.random.key(1), KERNEL.shape)

    @jax.jit
    @jax.value_and_grad
    def slope(beta):
        return (weight * interpolated(KERNEL, beta, per)).sum()

    for start in (1.3, 2.5, 4.4, 7.4):
        beta = start + jnp.linspace(0.0, 0.2, groups)
        for g in range(groups):
            ends = [slope(beta.at[g].add(by))[0] for by in (-0.25, 0.25)]
            quotient = (ends[1] - ends[0]) / 0.5
            found = slope(beta)[1][g]
            np.testing.assert_allclose(found, quotient, rtol=1e-3, atol=1e-4)


def test_the_slope_is_exact_in_float64():
    with jax.enable_x64(True):
        w = jnp.asarray(np.asarray(KERNEL), jnp.float64)

        @jax.jit
        @jax.value_and_grad
        def loss(beta):
            return jnp.square(interpolated(w, beta, CHANNEL) - 0.3).sum()

        beta = np.array([1.2, 2.7, 3.5, 4.1, 6.6, 7.9])
        for g, by in enumerate(1e-5 * np.eye(6)):
            quotient = (loss(beta + by)[0] - loss(beta - by)[0]) / 2e-5
            np.testing.assert_allclose(loss(beta)[1][g], quotient, rtol=1e-4)


@pytest.mark.parametrize("fn", [interpolated, stepped])
def test_integers_are_what_hardware_computes(fn):
    run = jax.jit(fn, static_argnums=2)
    for bits in range(1, 9):
        exact = quantize(KERNEL, jnp.full(6, bits), CHANNEL)
        np.testing.assert_array_equal(
            run(KERNEL, jnp.full(6, float(bits)), CHANNEL), exact
        )


def test_interpolation_is_continuous_and_its_segments_are_named():
    one = jnp.ones(6)
    levels = [quantize(KERNEL, jnp.full(6, b), CHANNEL) for b in range(1, 9)]
    run = jax.jit(lambda beta: interpolated(KERNEL, beta, CHANNEL))
    slope = jax.jit(lambda beta: jax.jvp(run, (beta,), (one,))[1])
    for bits in range(1, 9):
        here = levels[bits - 1]
        for by in (-1e-4, 1e-4):
            if 1 <= bits + by <= 8:
                np.testing.assert_allclose(run((bits + by) * one), here, atol=2e-3)
        at = min(bits, 7)  # the right segment; at the largest width the left one
        wanted = levels[at] - levels[at - 1]
        np.testing.assert_allclose(slope(bits * one), wanted, atol=1e-6)


def test_the_slope_of_a_real_step_is_its_formula():
    w = KERNEL[..., 0]
    for beta in (2.3, 3.0, 4.7):
        slope = jax.jvp(lambda b: stepped(w, b), (jnp.array([beta]),), (jnp.ones(1),))
        top = 2 ** (beta - 1) - 1
        s = float(jnp.abs(w).max())
        d = s / top
        moved = -s * math.log(2) * 2 ** (beta - 1) / top**2
        level = np.round(np.asarray(w) / d)
        np.testing.assert_allclose(slope[0], d * level, rtol=1e-5)
        wanted = moved * (level - np.asarray(w) / d)
        np.testing.assert_allclose(slope[1], wanted, rtol=1e-3, atol=1e-5)
    theta = jnp.zeros(1)  # 5 bits
    alone = RealStep(low=2).fake(w, theta)
    np.testing.assert_array_equal(alone, RealStep(low=1, high=9).fake(w, theta))


def test_a_mixture_has_the_slopes_of_its_parts():
    widths = (2, 3, 8)
    shares = jnp.array([[0.2, 0.3, 0.5]])
    levels = [quantize(KERNEL, jnp.array([b])) for b in widths]
    found, vjp = jax.vjp(lambda s: mixed(KERNEL, s, widths), shares)
    wanted = sum(s * level for s, level in zip(shares[0], levels, strict=True))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    (slope,) = vjp(jnp.ones_like(KERNEL))
    np.testing.assert_allclose(slope[0], [x.sum() for x in levels], rtol=1e-4)


@pytest.mark.parametrize("relaxation", RELAXATIONS, ids=str)
def test_weights_have_the_slope_of_the_identity(relaxation):
    """With a scale that is not a constant the largest weight has another."""
    theta = relaxation.init(6) + 0.1

    def total(w, theta):
        return (3 * relaxation.fake(w, theta, CHANNEL)).sum()

    by_w, by_theta = jax.jit(jax.grad(total, (0, 1)))(KERNEL, theta)
    np.testing.assert_array_equal(by_w, jnp.full_like(KERNEL, 3.0))
    assert by_theta.shape == theta.shape
    assert np.abs(by_theta).min() > 0
    by_frozen = jax.grad(lambda w: quantize(w, jnp.array([3])).sum())(KERNEL)
    np.testing.assert_array_equal(by_frozen, jnp.ones_like(KERNEL))


@pytest.mark.parametrize("relaxation", RELAXATIONS, ids=str)
def test_trees_have_widths_where_rules_say_so(relaxation):
    theta = bitwidth.init(PARAMS, RULES, relaxation)
    beta = bitwidth.beta(theta, relaxation)
    shapes = {path: part.shape for path, part in by_path(beta).items()}
    assert shapes == {"conv/kernel": (3,), "last": (1,)}
    low, high = relaxation.widths[0], relaxation.widths[-1]
    assert all(low < b < high for part in by_path(beta).values() for b in part)

    @jax.jit
    def relaxed(params, theta, temperature):
        def one(theta):
            return bitwidth.relaxed(params, theta, RULES, relaxation, temperature)

        return jax.vmap(one)(theta)

    two = jax.tree.map(lambda x: np.stack([x, x + 1]), theta)
    found = relaxed(PARAMS, two, 0.7)
    for at in (0, 1):
        wanted = relaxation.fake(KERNEL, two["conv"]["kernel"][at], PAIRS, 0.7)
        conv = found["conv"]["kernel"][at]
        np.testing.assert_allclose(conv, wanted, rtol=1e-5, atol=1e-6)
    for path in ("conv/bias", "head/kernel", "head/bias"):
        np.testing.assert_array_equal(by_path(found)[path][1], by_path(PARAMS)[path])


def test_the_start_is_below_the_end_and_mixtures_decide_when_cold():
    assert Interpolation().beta(jnp.array([2.6]))[0] == pytest.approx(7.516, abs=1e-3)
    mix = Categorical((8, 2, 4))
    assert mix.widths == (2, 4, 8)
    theta = jnp.array([[1.0, 2.0, 1.5]])
    assert mix.beta(theta, 1e3)[0] == pytest.approx(14 / 3, abs=0.01)
    assert mix.beta(theta, 0.01)[0] == pytest.approx(4.0, abs=0.01)


@pytest.mark.parametrize("relaxation", RELAXATIONS, ids=str)
def test_a_budget_is_met_within_200_steps(relaxation):
    theta = bitwidth.init(PARAMS, RULES, relaxation)
    tx = optax.adam(0.02)

    def loss(theta):
        found = bitwidth.relaxed(PARAMS, theta, RULES, relaxation)
        error = jnp.square(found["conv"]["kernel"] - KERNEL).mean()
        bits = bitwidth.average_bits(PARAMS, bitwidth.beta(theta, relaxation))
        return error + bitwidth.budget_penalty(bits, 4.0, 100.0), bits

    def step(carry, _):
        theta, state = carry
        grads, bits = jax.grad(loss, has_aux=True)(theta)
        with jax.numpy_dtype_promotion("standard"):  # Adam raises floats to integers
            updates, state = tx.update(grads, state)
        return (optax.apply_updates(theta, updates), state), bits

    start = theta, tx.init(theta)
    (theta, _), bits = jax.jit(lambda c: jax.lax.scan(step, c, length=200))(start)
    assert bits[0] > 4.2
    assert bits.min() < 4.0
    assert bits[-1] == pytest.approx(4.0, abs=0.2)


def test_frozen_and_real_widths_of_a_tree():
    widths = bitwidth.uniform(PARAMS, RULES, 3)
    found = jax.jit(lambda p, w: bitwidth.with_widths(p, w, RULES))(PARAMS, widths)
    exact = quantize(KERNEL, widths["conv"]["kernel"], PAIRS)
    np.testing.assert_array_equal(found["conv"]["kernel"], exact)
    real = jax.tree.map(lambda b: jnp.asarray(b, jnp.float32), widths)

    def loss(beta):
        return jnp.square(bitwidth.with_widths(PARAMS, beta, RULES)["last"]).sum()

    slopes = jax.jit(jax.grad(loss))(real)
    rise = quantize(KERNEL[1, 1], jnp.array([4])) - quantize(
        KERNEL[1, 1], jnp.array([3])
    )
    low = quantize(KERNEL[1, 1], jnp.array([3]))
    np.testing.assert_allclose(slopes["last"], [(2 * low * rise).sum()], rtol=1e-4)
    np.testing.assert_array_equal(slopes["conv"]["kernel"], jnp.zeros(3))
    rounded = bitwidth.round_to_budget(PARAMS, real, slopes, 2.9)
    assert bitwidth.size(PARAMS, rounded).average_bits <= 2.9


@pytest.mark.parametrize("relaxation", RELAXATIONS, ids=str)
def test_single_weights_and_zeros_have_finite_slopes(relaxation):
    @jax.jit
    def all_of(w, theta):
        found, vjp = jax.vjp(lambda *x: relaxation.fake(*x, CHANNEL), w, theta)
        return found, *vjp(jnp.ones_like(w))

    for w in (jnp.zeros((1, 3)), jnp.array([[0.0, -0.7, 3e37]])):
        found, *slopes = all_of(w, relaxation.init(3))
        assert all(np.isfinite(part).all() for part in (found, *slopes))
        assert found[0, 0] == 0
        assert not slopes[1][0].any()


def test_zero_constant_and_huge_weights_stay_what_they_are():
    """The sum of the huge ones is infinite."""
    w = jnp.broadcast_to(jnp.array([[0.0, -0.7, 1e37]]), (64, 3))
    for bits in (1, 2, 8):
        found = quantize(w, jnp.full(3, bits), CHANNEL)
        np.testing.assert_allclose(found, w, rtol=1e-6)


def test_types_are_kept():
    half = jax.ShapeDtypeStruct(KERNEL.shape, jnp.bfloat16)
    for relaxation in RELAXATIONS:
        found = jax.eval_shape(relaxation.fake, half, relaxation.init(1))
        assert found.dtype == jnp.bfloat16
    found = jax.eval_shape(quantize, half, jnp.array([4]))
    assert (found.dtype, found.shape) == (jnp.bfloat16, KERNEL.shape)


def test_bad_input_is_named():
    with pytest.raises(InputError, match="bits"):
        quantize(KERNEL, jnp.array([0]))
    with pytest.raises(InputError, match="float32"):
        quantize(KERNEL, jnp.array([3.0]))
    with pytest.raises(InputError, match="int32"):
        quantize(jnp.arange(3), jnp.array([3]))
    with pytest.raises(ShapeError, match=r"widths of shape \(2,\)"):
        quantize(KERNEL, jnp.array([3, 4]))
    with pytest.raises(ShapeError, match="groups of 4"):
        bitwidth.init(PARAMS, [("last", Per(group=4, group_axis=-1))], Interpolation())
    with pytest.raises(NonFiniteError):
        quantize(KERNEL.at[0].set(jnp.nan), jnp.array([3]))
    with pytest.raises(InputError, match="low=0"):
        Interpolation(low=0)
    with pytest.raises(InputError, match="high=3"):
        RealStep(low=3, high=3)
    with pytest.raises(InputError, match="choices"):
        Categorical((4, 4))
    with pytest.raises(RuleError, match="kernels"):
        bitwidth.init(PARAMS, [("kernels", TENSOR)], Interpolation())
    with pytest.raises(InputError, match="16 for 'last'"):
        bitwidth.init(PARAMS, [("last", 16)], Interpolation())


def test_trees_that_do_not_fit_are_named():
    theta = bitwidth.init(PARAMS, RULES, Interpolation())
    relaxation = Interpolation()
    finer = [("conv/kernel", CHANNEL), ("last", TENSOR)]
    with pytest.raises(ShapeError, match="conv/kernel: got widths"):
        bitwidth.relaxed(PARAMS, theta, finer, relaxation)
    with pytest.raises(ShapeError, match="no widths for head/kernel"):
        bitwidth.relaxed(PARAMS, theta, RULES[1:], relaxation)
    with pytest.raises(ShapeError, match="widths for last, which no rule"):
        bitwidth.relaxed(PARAMS, theta, RULES[:2], relaxation)
    beta = bitwidth.beta(theta, relaxation)
    with pytest.raises(ShapeError, match="slopes"):
        bitwidth.round_to_budget(PARAMS, beta, {"last": jnp.ones(1)}, 3.0)
    spoilt = jax.tree.map(lambda b: b * jnp.nan, beta)
    with pytest.raises(NonFiniteError, match="slopes"):
        bitwidth.round_to_budget(PARAMS, beta, spoilt, 3.0)
    with pytest.raises(InputError, match="target"):
        bitwidth.budget_penalty(3.0, 0.0, 1.0)
    with pytest.raises(InputError, match="no leaf"):
        bitwidth.average_bits(PARAMS, {})
    with pytest.raises(ShapeError, match="for last"):
        bitwidth.average_bits({"last": jnp.ones(5)}, {"last": jnp.ones(2)})
