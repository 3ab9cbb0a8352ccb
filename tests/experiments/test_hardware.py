"""What the experiments of hardware compute themselves."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hw
from core.errors import UnknownNameError
from experiments.hardware import blocks, edge, entry, host, in_memory, networks, tables
from experiments.hardware.entry import Entry
from hw import capram


def test_factors_count_to_both_sides_and_fitted_rows_prove_nothing():
    entries = [
        Entry("a", "x", "1", 2.0, 1.0, "s"),
        Entry("a", "x", "2", 1.0, 1.25, "s"),
        Entry("a", "x", "3", 9.0, 1.0, "s", "fitted"),
        Entry("b", "x", "1", 3.0, 1.0, "s"),
        Entry("b", "x", "2", 1.0, 1.0, "s", "identity"),
        Entry("c", "x", "1", 3.0, 1.0, "s", least=True),
        Entry("c", "x", "2", 0.9, 1.0, "s", least=True),
    ]
    holds = [row.holds for row in entry.rows(entries)]
    assert holds == [True, True, None, False, None, True, False]
    assert not any(r.setting.startswith("c") for r in entry.summaries(entries))
    found = {(r.setting, r.metric.split()[0]): r for r in entry.summaries(entries)}
    median = found["a, x, 2 rows", "median"]
    assert median.measured == pytest.approx((2 + 1.25) / 2)
    assert median.holds is False
    assert found["a, x, 2 rows", "largest"].holds is True
    assert found["b, x, 1 row", "largest"].holds is False
    assert not entry.within(float("nan"), 2.0)
    assert not entry.within(-1.0, 2.0)


def test_quantities_of_a_table_are_judged_apart():
    near = [Entry("a", "power", str(i), 1.1, 1.0, "W") for i in range(9)]
    far = [Entry("a", "latency", str(i), 1.9, 1.0, "s") for i in range(4)]
    found = {r.setting: r for r in entry.summaries(near + far) if "median" in r.metric}
    assert found["a, power, 9 rows"].holds is True
    assert found["a, latency, 4 rows"].holds is False
    assert found["a, latency, 4 rows"].measured == pytest.approx(1.9)
    words = [Entry("b", f"time of {n}", "1", 1.0, 1.0, "x") for n in ("x", "y")]
    assert {r.setting for r in entry.summaries(words)} == {"b, time, 2 rows"}


def test_layers_whose_sum_decided_a_constant_are_no_predictions():
    kinds = {(e.setting.split()[0], e.what): e.kind for e in tables.eyeriss()}
    assert kinds["alexnet", "latency"] == kinds["alexnet", "power"] == "fitted"
    assert kinds["vgg16", "latency"] == kinds["vgg16", "power"] == "predicted"


def test_times_that_are_far_off_are_named():
    networks = [["near", 1e-3, 1.9e-3], ["slow", 7.75e-3, 46.6e-3]]
    micro = [["fast", 1.233e-3, 0.159e-3]]
    text = host.beyond({"networks": networks, "micro": micro})
    assert "slow (predicted 7.75 ms, measured 46.6 ms)" in text
    assert "fast (predicted 1.23 ms" in text
    assert "near" not in text
    assert "none" in host.beyond({"networks": networks[:1], "micro": []})


def test_rank_correlation():
    assert host.spearman([1, 2, 3, 4], [10, 20, 30, 25]) == pytest.approx(0.8)
    assert host.spearman([3.0, 1.0, 2.0], [-3.0, -1.0, -2.0]) == pytest.approx(-1)


def test_bounded_inputs_keep_the_largest_and_are_idempotent(key):
    x = jax.random.normal(key, (2, 3, 16))
    y = blocks.bounded(x, 3)
    kept = np.asarray(y != 0).reshape(2, 3, 2, 8)
    assert np.all(kept.sum(-1) == 3)
    size = np.abs(np.asarray(x)).reshape(2, 3, 2, 8)
    least = np.where(kept, size, np.inf).min(-1)
    most = np.where(kept, -np.inf, size).max(-1)
    assert np.all(least >= most)
    np.testing.assert_array_equal(blocks.bounded(y, 3), y)
    grad = jax.grad(lambda x: blocks.bounded(x, 3).sum())(x)
    np.testing.assert_array_equal(grad != 0, y != 0)
    ties = blocks.bounded(jnp.zeros((1, 8)).at[0, 5].set(1.0), 1)
    assert float(ties[0, 5]) == 1


def test_ternary_products_are_exact_and_straight_through(key):
    w = jax.random.normal(key, (12, 4))
    digits, scale = in_memory.ternary(w)
    assert set(np.unique(digits)) == {-1.0, 0.0, 1.0}
    kept = np.asarray(digits) != 0
    want = [np.abs(np.asarray(w))[kept[:, j], j].mean() for j in range(4)]
    np.testing.assert_allclose(scale, want, rtol=1e-5)
    product = in_memory.ternary_product({"w": 0.5})
    x = jnp.asarray([[0.0, 0.4, 1.1, 9.0] * 3])
    levels = np.clip(np.round(np.asarray(x) / 0.5), 0, 7)
    np.testing.assert_allclose(
        product("w", x, w), 0.5 * levels @ (digits * scale[None]), rtol=1e-5
    )
    slope = jax.grad(lambda x: product("w", x, w).sum())(x)
    assert float(slope[0, 3]) == 0  # above the top level
    assert float(slope[0, 1]) != 0


def test_sums_that_converters_cut_off_have_no_gradient():
    """An image that saturates an output teaches neither its inputs nor its weights."""
    step, k = 0.5, 64
    signs = np.where(np.arange(k) % 2, -1.0, 1.0)
    w = jnp.asarray(np.stack([np.full(k, 0.25), 0.25 * signs], 1), jnp.float32)
    # Sums of 384 and 0, then of 6 and 6: converters span 44.8 to either side.
    x = np.full((2, k), 0.1 * step, np.float32)  # level 0, where clipping has a slope
    x[0], x[1, 0] = 6 * step, 6 * step
    whole = dataclasses.replace(
        in_memory.macro(capram.ideal(), 0), full_scale={"w": 0.1}
    )
    product = in_memory.ternary_product({"w": step}, whole)
    exact = in_memory.ternary_product({"w": step})
    found, back = jax.vjp(lambda x, w: product("w", x, w), jnp.asarray(x), w)
    held = np.asarray(exact("w", jnp.asarray(x), w))
    assert abs(float(found[0, 0])) < held[0, 0] / 4
    np.testing.assert_allclose(found[1], held[1], atol=step * 0.25)
    d_x, d_w = back(jnp.asarray([[1.0, 0.0], [1.0, 0.0]]))
    np.testing.assert_array_equal(d_x[0], np.zeros(k))
    np.testing.assert_allclose(d_x[1], w[:, 0], rtol=1e-6)
    np.testing.assert_allclose(d_w[:, 0], [6 * step, *[0.0] * (k - 1)], rtol=1e-6)
    # The other output is not cut off: it has the gradients of the exact product.
    ones = jnp.asarray([[0.0, 1.0], [0.0, 1.0]])
    _, exactly = jax.vjp(lambda x, w: exact("w", x, w), jnp.asarray(x), w)
    for mine, its in zip(back(ones), exactly(ones), strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-6)


def test_designs_and_claims_of_the_edge():
    points = edge.grid()
    assert len(points) == len(set(points)) == 5 * 13
    assert edge.Point(4, "block", 0.25, True).title == "4 bits, SP2, block 0.25"
    assert edge.SINGLE["filter, 1/8"] == edge.Point(16, "filter", 0.125)
    assert set(edge.SINGLE.values()) - set(points) == set()


FPGA = "fpga_zcu102"


def agreeing():
    """Speed-ups with which every claim holds, and the shares of memory."""
    fpga = {"8 bits": 2.0, "4 bits": 9.0, "4 bits with SP2": 20.0}
    phone = {"8 bits": 2.0, "4 bits": 2.0, "4 bits with SP2": 2.0}
    for part in edge.PARTS:
        fpga |= {f"{name}, 1/{part}": 0.9 * part for name in edge.PATTERNS}
        phone |= {f"{name}, 1/{part}": 0.8 * part for name in edge.PATTERNS}
        fpga[f"unstructured, 1/{part}"] = phone[f"unstructured, 1/{part}"] = 1.0
    speeds = {t: dict(phone if t in edge.PHONES else fpga) for t in edge.TARGETS}
    for t in edge.TARGETS:  # not in what is sold, but as a claim has it
        speeds[t]["block, 1/4"] = 8.9 if t not in edge.PHONES else 4.0
    speeds[FPGA]["4 bits"] = 9.5
    return speeds, dict.fromkeys(edge.TARGETS, 0.9)


BROKEN = {
    "4 bits beat pruning to a quarter on FPGAs": (FPGA, "kernel, 1/4", 10.0),
    "4 bits beat pruning to any density on FPGAs": (FPGA, "filter, 1/8", 10.0),
    "4 bits with SP2 beat pruning to any density on FPGAs": (FPGA, "block, 1/2", 21.0),
    "structured pruning to a quarter beats every width on phones": (
        *("mobile_cpu", "8 bits", 5.0),
    ),
    "SP2 speeds FPGAs up over 4 bits of fixed point, and no phone": (
        *("mobile_gpu", "4 bits with SP2", 2.1),
    ),
    "block pruning beats 8 bits on the mobile GPU": ("mobile_gpu", "8 bits", 4.1),
    "block pruning beats unstructured pruning everywhere": (
        *("fpga_zu3eg", "unstructured, 1/4", 8.95),
    ),
    "of widths and patterns, blocks alone are in the top two everywhere": (
        *("mobile_cpu", "block, 1/4", 1.0),
    ),
}


def test_claims_of_the_edge_hold_and_fall():
    """A single number turns each claim, and claims that it does not name stay."""
    assert set(BROKEN) == set(edge.CLAIMS)
    speeds, memory = agreeing()
    held = edge.conclusions(speeds, memory)
    assert set(held) == {*edge.CLAIMS, edge.MEMORY}
    assert all(held.values())
    for claim, (target, title, speed) in BROKEN.items():
        speeds, memory = agreeing()
        speeds[target][title] = speed
        found = edge.conclusions(speeds, memory)
        assert not found[claim], claim
        assert found[edge.MEMORY]
    speeds, memory = agreeing()
    speeds[FPGA]["filter, 1/8"] = 10.0  # more than 4 bits, less than SP2
    found = edge.conclusions(speeds, memory)
    assert [c for c, holds in found.items() if not holds] == [edge.CLAIMS[1]]
    assert not edge.conclusions(speeds, memory | {FPGA: 0.4})[edge.MEMORY]
    nothing = edge.conclusions(speeds, dict.fromkeys(edge.TARGETS))
    assert edge.MEMORY not in nothing
    equal = {t: dict.fromkeys(edge.SINGLE, 1.0) for t in edge.TARGETS}
    assert not any(edge.conclusions(equal).values())


@pytest.mark.parametrize("name", edge.TARGETS)
def test_every_constant_is_drawn_and_no_share_piles_up_at_its_end(name):
    target = hw.get(name)
    keys = jax.random.split(jax.random.key(0), 400)
    drawn = jax.vmap(lambda k: edge.perturbed(target, k))(keys)
    for each in hw.constants(target):
        found = np.asarray(getattr(drawn, each.name))
        value = np.asarray(each.value, np.float32)
        if each.name.endswith("_widths"):
            assert np.all(found == value)
            continue
        assert np.all(found <= 1.5 * value * (1 + 1e-6))
        assert np.all(found >= 0.5 * value * (1 - 1e-6))
        assert np.all(found <= each.most)
        free = (value > 0) & (value < each.most)
        assert np.all(np.std(found, axis=0)[free] > 0)
        assert np.all(np.mean(found == each.most, axis=0)[free] == 0)
        assert np.all(np.abs(np.mean(found < value, axis=0)[free] - 0.5) < 0.1)


def test_networks_are_named():
    with pytest.raises(UnknownNameError, match="resnet18"):
        networks.shapes("resnet19")
    params, x = networks.shapes("gru", 2)
    assert x.shape == (30, 2, 152)
    assert params["gru1/hidden"].shape == (1024, 3072)
    assert set(edge.TARGETS) <= set(hw.TARGETS)
