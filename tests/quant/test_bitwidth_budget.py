"""Budgets of widths: averages, penalties, rounding within them, sizes."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hw
from core.errors import InputError, ShapeError
from core.trees import by_path
from quant import bitwidth, sensitivity
from quant.quantizers import CHANNEL, TENSOR, Per
from quant.sensitivity import Sensitivity

PARAMS = {
    "conv": {"kernel": np.zeros((3, 3, 4, 6)), "bias": np.zeros(6)},
    "head": {"kernel": np.zeros((4, 5)), "bias": np.zeros(5)},
    "last": np.zeros((4, 6)),
}
RULES = [
    ("head/.*", None),
    (".*/kernel", Per(group=2, group_axis=-1)),
    ("last", TENSOR),
]


def test_averages_and_penalties_count_weights():
    beta = {
        "conv": {"kernel": jnp.array([2.0, 3.0, 4.5]), "bias": None},
        "head": {"kernel": None, "bias": None},
        "last": jnp.array([7.25]),
    }
    n = np.array([72, 72, 72, 24])
    bits = np.array([2, 3, 4.5, 7.25])
    found = bitwidth.average_bits(PARAMS, beta)
    assert float(found) == pytest.approx((n * bits).sum() / n.sum(), rel=1e-6)
    parts = bits % 1 * (1 - bits % 1)
    penalty = bitwidth.integrality_penalty(PARAMS, beta)
    assert float(penalty) == pytest.approx((n * parts).sum() / n.sum(), rel=1e-6)
    slope = jax.jit(jax.grad(bitwidth.average_bits, 1))(PARAMS, beta)
    np.testing.assert_allclose(slope["last"], [24 / 240], rtol=1e-6)
    assert bitwidth.budget_penalty(3.0, 4.0, 9.0) == 0
    assert bitwidth.budget_penalty(3.0, 2.0, 2.0, 0.0) == pytest.approx(5.0)
    assert bitwidth.budget_penalty(3.0, 2.0, 2.0) == pytest.approx(6.0)
    assert bitwidth.update_multiplier(1.0, 3.0, 2.0) == pytest.approx(math.e)
    assert bitwidth.update_multiplier(1.0, 2.0, 2.0) == 1.0
    assert bitwidth.update_multiplier(90.0, 4.0, 2.0) == 100.0
    assert bitwidth.update_multiplier(0.1, 1.0, 2.0) == pytest.approx(0.1)


@st.composite
def allocations(draw):
    count = draw(st.integers(1, 4))
    real = st.floats(1.0, 8.0)
    beta, slopes, params = {}, {}, {}
    for i in range(count):
        groups = draw(st.integers(1, 3))
        each = draw(st.integers(1, 50))
        beta[f"{i}"] = np.array([draw(real) for _ in range(groups)])
        slopes[f"{i}"] = np.array([draw(st.floats(-9, 9)) for _ in range(groups)])
        params[f"{i}"] = np.zeros((each, groups))
    target = draw(st.floats(1.0, 8.0))
    return params, beta, slopes, target, draw(st.sampled_from([1.0, 2.0, 4.0]))


@given(allocations())
def test_rounded_widths_are_within_the_budget_and_fill_it(case):
    params, beta, slopes, target, growth = case
    found = bitwidth.round_to_budget(params, beta, slopes, target, growth=growth)
    size = bitwidth.size(params, found)
    assert size.average_bits <= target
    left = target * size.quantized - size.weights
    for path, bits in found.items():
        assert bits.dtype == np.int32
        assert ((bits >= 1) & (bits <= 8)).all()
        assert (bits == 8).all() or left < params[path].shape[0] + 1e-6


def test_the_group_that_hurts_least_pays_for_the_budget():
    params = {"a": np.zeros((10, 2)), "b": np.zeros((5, 1))}
    beta = {"a": np.array([3.5, 4.6]), "b": np.array([6.2])}
    slopes = {"a": np.array([-1.0, -0.1]), "b": np.array([-0.3])}

    def rounded(target, **kwargs):
        found = bitwidth.round_to_budget(params, beta, slopes, target, **kwargs)
        return [*found["a"].tolist(), *found["b"].tolist()]

    # Nearest are 3, 5 and 6, the middle going down: 110 bits of 25 weights.
    assert rounded(110 / 25) == [3, 5, 6]
    assert rounded(100 / 25) == [3, 4, 6]
    # An estimate that does not grow takes all from one group.
    assert rounded(85 / 25) == [3, 3, 5]
    assert rounded(85 / 25, growth=1.0) == [3, 2, 7]
    assert rounded(120 / 25) == [4, 5, 6]
    assert rounded(8.0) == [8, 8, 8]
    assert rounded(4.1, widths=(2, 4, 8)) == [4, 2, 8]
    with pytest.raises(InputError, match=r"target=1\.5.*least width"):
        rounded(1.5, widths=(2, 4, 8))


@pytest.mark.parametrize("moves", [-4, -2, -1, 1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_rounding_is_the_best_of_all_when_groups_are_equal(seed, moves):
    """Convex estimates and equal sizes: greedy moves from the nearest are optimal."""
    rng = np.random.default_rng(seed)
    params = {"w": np.zeros((7, 4))}
    beta, slopes = {"w": rng.uniform(2, 4, 4)}, {"w": rng.normal(size=4)}
    near, widths = np.round(beta["w"]), range(1, 6)
    total = near.sum() + moves
    found = bitwidth.round_to_budget(params, beta, slopes, total / 4, (*widths,))["w"]

    def estimate(bits):
        return (np.abs(slopes["w"]) * 4.0 ** (beta["w"] - bits)).sum()

    every = np.array(list(itertools.product(widths, repeat=4)))
    beyond = (every - near) * np.sign(moves)
    fits = every[(every.sum(1) == total) & (beyond >= 0).all(1)]
    assert len(fits) > 3
    assert sum(found) == total
    assert estimate(found) == pytest.approx(min(map(estimate, fits)))


def test_a_budget_of_hardware_counts_what_a_bit_costs_there():
    """Multiply-accumulates by hw's table: few weights of many positions cost most."""

    def network(params, x):
        x = jax.lax.conv_general_dilated(
            *(x, params["conv"], (1, 1), "SAME"),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return x.reshape(1, -1) @ params["dense"]

    shapes = {"conv": (3, 3, 1, 2), "dense": (128, 10)}
    params = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    table = hw.workload(network, params, jnp.zeros((1, 8, 8, 1)))
    macs = dict(zip(table.paths, np.asarray(table.macs), strict=True))
    costs = {name: macs[name][None] for name in shapes}
    assert costs == {"conv": [1152], "dense": [1280]}
    beta = {name: np.array([4.0]) for name in shapes}
    slopes = {"conv": np.array([-3.0]), "dense": np.array([-30.0])}
    by_size = bitwidth.round_to_budget(params, beta, slopes, 3.9)
    by_cycles = bitwidth.round_to_budget(params, beta, slopes, 3.9, costs=costs)
    assert (by_size["conv"], by_size["dense"]) == ([8], [3])
    assert (by_cycles["conv"], by_cycles["dense"]) == ([3], [4])
    found = bitwidth.average_bits(params, by_cycles, costs)
    assert float(found) == pytest.approx((3 * 1152 + 4 * 1280) / 2432)
    assert bitwidth.budget_penalty(found, 3.9, 1.0) == 0
    slope = jax.grad(bitwidth.average_bits, 1)(params, beta, costs)
    np.testing.assert_allclose(slope["conv"], [1152 / 2432], rtol=1e-6)
    losses = {"conv": np.array([[9.0, 1.0]]), "dense": np.array([[2.0, 0.0]])}
    measured = Sensitivity(0.0, losses, (2, 4))
    greedy = sensitivity.greedy(measured, params, 3.0, costs)
    assert (greedy["conv"], greedy["dense"]) == ([4], [2])
    with pytest.raises(InputError, match="whole numbers"):
        bitwidth.average_bits(params, beta, {n: c / 7 for n, c in costs.items()})
    with pytest.raises(ShapeError, match="costs of shapes"):
        bitwidth.average_bits(params, beta, {"conv": costs["conv"]})


def test_sizes_count_headers_and_what_stays_float():
    widths = bitwidth.uniform(PARAMS, RULES, 3)
    found = bitwidth.size(PARAMS, widths)
    assert found.weights == 3 * (216 + 24)
    assert found.headers == 40 * (3 + 1)
    assert found.rest == 32 * (6 + 20 + 5)
    assert (found.quantized, found.numbers) == (240, 271)
    bits = 720 + 160 + 992
    assert found.bytes == bits / 8
    assert found.compression_rate == pytest.approx(32 * 271 / bits)
    assert found.average_bits == 3
    # Finer is not free: at one size there are fewer bits for the weights.
    fine = bitwidth.uniform(PARAMS, [("conv/kernel|last", CHANNEL)], 3)
    assert bitwidth.size(PARAMS, fine).bytes == found.bytes + 8 * 5
    allowed = bitwidth.bits_within(PARAMS, fine, found.bytes)
    assert allowed == pytest.approx(3 - 8 * 40 / 240)
    assert bitwidth.bits_within(PARAMS, widths, found.bytes) == 3
    shapes = jax.eval_shape(lambda: PARAMS)
    assert bitwidth.size(shapes, widths) == found
    with pytest.raises(InputError, match="unquantized"):
        bitwidth.bits_within(PARAMS, fine, 100)
    with pytest.raises(InputError, match="whole numbers"):
        bitwidth.size(PARAMS, jax.tree.map(lambda b: b + 0.5, widths))


def test_random_widths_use_up_the_budget(key):
    rules = [("conv/kernel|last", CHANNEL)]
    seen = set()
    for seed in jax.random.split(key, 5):
        found = bitwidth.random_widths(seed, PARAMS, rules, 3.3)
        size = bitwidth.size(PARAMS, found)
        assert 3.3 - 4 / 240 - 0.1 < size.average_bits <= 3.3
        assert min(map(min, by_path(found).values())) >= 1
        seen.add(tuple(np.concatenate([*by_path(found).values()])))
    assert len(seen) == 5
    again = bitwidth.random_widths(seed, PARAMS, rules, 3.3)
    np.testing.assert_array_equal(again["last"], found["last"])
