"""The contract of every target: finite, differentiable, monotone, vmapped."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hw
from core.errors import InputError, ShapeError, UnknownNameError
from hw.constants import Given, Origin, make
from hw.targets.processor import Processor
from tests.hw.networks import model, published

NAMES = sorted(hw.TARGETS)


def table():
    return hw.distinct(model("lenet5"))


def totals(point, pattern, target):
    """Latency and energy of a design of bits, density, input bits."""
    bits, density, input_bits = point
    made = hw.design(
        table(), bits=bits, density=density, input_bits=input_bits, pattern=pattern
    )
    found = hw.cost(made, target)
    return jnp.stack([found.latency_s, found.energy_j])


_values = jax.jit(jax.vmap(totals, (0, 0, None)))
_slopes = jax.jit(jax.vmap(jax.jacrev(totals), (0, None, None)))
DENSE, GROUP, FILTER = (hw.PATTERNS.index(p) for p in ("dense", "group", "filter"))
MORE = np.array([[4, 0.2, 4], [8, 0.2, 4], [8, 0.6, 4], [8, 0.6, 8]], np.float32)


def values(points, patterns, target):
    """Latency and energy [designs, 2]."""
    codes = np.broadcast_to(np.asarray(patterns, np.int32), len(points))
    return np.asarray(_values(np.asarray(points, np.float32), codes, target))


@pytest.mark.parametrize("name", NAMES)
def test_contract(name):
    target = hw.TARGETS[name]
    assert isinstance(target, hw.Target)
    assert target.name == name
    for pattern in range(len(hw.PATTERNS)):
        found = values(MORE, pattern, target)
        assert np.all(np.isfinite(found))
        assert np.all(found > 0)
        # Fewer bits and fewer weights never cost more: a list that is longer than all
        # weights is not stored.
        assert np.all(np.diff(found, axis=0) >= -1e-6 * found[0])


@pytest.mark.parametrize("name", NAMES)
def test_slopes_add_up_to_what_half_as_much_of_a_format_changes(name):
    """f(x) - f(x / 2) is the integral of the slope: none is lost in a step."""
    target = hw.TARGETS[name]
    base = np.array([8.0, 1.0, 8.0], np.float32)
    steps = 96
    shares = 0.5 + (np.arange(steps) + 0.5) / (2 * steps)
    changed = 0
    for axis in range(3):
        ends = np.stack([base, base])
        ends[1, axis] /= 2
        points = np.repeat(base[None], steps, 0)
        points[:, axis] *= shares
        for pattern in (GROUP, FILTER) if axis == 1 else (GROUP,):
            high, low = values(ends, pattern, target)
            slopes = np.asarray(_slopes(points, np.int32(pattern), target))
            assert np.all(np.isfinite(slopes))
            found = slopes[:, :, axis].mean(0) * base[axis] / 2
            rough = 0.04 * np.abs(high - low) + 2e-4 * high
            assert np.all(np.abs(found - (high - low)) <= rough), (axis, pattern)
            changed += int(np.any(np.abs(high - low) > 1e-3 * high))
    assert changed  # every target gains from something


@pytest.mark.parametrize("name", NAMES)
def test_zeros_pay_where_a_target_skips_their_pattern_and_nowhere_else(name):
    """Of one product that fits, at a fifth of the weights."""
    target = hw.TARGETS[name]
    points = np.array([[4.0, 1.0, 4.0], [4.0, 0.2, 4.0]], np.float32)
    dense = values(points, DENSE, target)
    listed = values(points, hw.PATTERNS.index("unstructured"), target)
    np.testing.assert_array_equal(dense[1], listed[1])  # a list, or it is not dense
    for code, pattern in enumerate(hw.PATTERNS[1:], 1):
        full, some = dense[0], values(points[1:], code, target)[0]
        time, energy, storage = (
            float(np.asarray(getattr(target, f"skip_{part}"))[code])
            for part in ("time", "energy", "storage")
        )
        if not (time or energy or storage):
            np.testing.assert_allclose(some, full, rtol=1e-5, err_msg=pattern)
        if not (time or storage):
            np.testing.assert_allclose(some[0], full[0], rtol=1e-5, err_msg=pattern)
        assert some[0] >= 0.19 * full[0]  # never above the ideal
    structured = values(points[1:], FILTER, target)[0]
    assert structured[1] < dense[0, 1]
    assert [float(np.asarray(target.skip_time)[0])] == [0.0]


@pytest.mark.parametrize("name", NAMES)
def test_the_first_zero_changes_nothing_much(name):
    """Costs are continuous at density 1, where a dense row gets a list of weights."""
    points = np.array([[8, 1, 8], [8, 1 - 1e-4, 8]], np.float32)
    for pattern in (DENSE, *range(1, len(hw.PATTERNS))):
        full, nearly = values(points, pattern, hw.TARGETS[name])
        np.testing.assert_allclose(nearly, full, rtol=2e-3)


@pytest.mark.parametrize("name", NAMES)
def test_formats_that_hardware_lacks_are_flagged_or_padded(name):
    target = hw.TARGETS[name]
    (least_w, most_w), (least_a, most_a) = (
        np.asarray(x, float) for x in (target.weight_widths, target.input_widths)
    )
    small = table().take(table().is_product).take([0])

    def priced(bits, input_bits):
        return hw.cost(hw.design(small, bits=bits, input_bits=input_bits), target)

    assert bool(priced(most_w, most_a).feasible)
    if most_w < 64:
        assert not bool(priced(most_w + 1, most_a).feasible)
        assert not bool(priced(most_w, most_a + 1).feasible)
    least, narrow = priced(least_w, least_a), priced(least_w / 2, least_a / 2)
    for field in ("latency_s", "energy_j"):
        np.testing.assert_allclose(
            getattr(least, field), getattr(narrow, field), rtol=1e-6
        )


@pytest.mark.parametrize("name", NAMES)
def test_every_constant_has_a_unit_and_a_source(name):
    target = hw.TARGETS[name]
    rows = hw.constants(target)
    leaves = jax.tree.leaves(target)
    assert len(rows) == len(leaves)  # a pytree of its constants and nothing else
    for row in rows:
        assert row.unit
        assert row.meaning
        assert row.origin in get_args(Origin)
        assert len(row.source) > 3
    lines = hw.constants_table(target).splitlines()
    assert len(lines) == len(rows) + 2
    good = target.provenance.validated
    wanted = f"compared with {good}" if good else "not validated"
    assert lines[-1].startswith(wanted)


def test_cost_adds_up_and_names_bounds():
    found = hw.cost(published("mobilenet_v1"), hw.get("mobile_cpu"))
    np.testing.assert_allclose(found.latency_s, found.latencies_s.sum(), rtol=1e-6)
    np.testing.assert_allclose(found.energy_j, found.energies_j.sum(), rtol=1e-6)
    np.testing.assert_allclose(sum(found.joules.values()), found.energies_j, rtol=1e-5)
    assert found.bounds == ("compute", "cache", "memory", "overhead")
    assert not found.left_out
    slowest = np.max([np.asarray(v) for v in found.seconds.values()], axis=0)
    assert np.all(np.asarray(found.latencies_s) >= slowest)
    assert float(found.power_w) == pytest.approx(
        float(found.energy_j) / float(found.latency_s)
    )
    with pytest.raises(ShapeError, match="rows"):
        hw.cost(table().take([]), hw.get("host"))


def test_a_mixed_network_is_slower_than_the_larger_of_its_totals():
    found = hw.cost(published("mobilenet_v2"), hw.get("mobile_gpu"))
    totals = [float(v.sum()) for v in found.seconds.values()]
    assert float(found.latency_s) > max(totals)


def test_designs_that_do_not_fit_are_flagged():
    products = model("lenet5").take(model("lenet5").is_product)
    target = hw.get("capram")
    small = hw.cost(hw.design(products, bits=2.0, input_bits=3.0), target)
    assert not bool(small.feasible)
    assert float(small.resources["cells"]) == 430_500 * 2
    tight = hw.design(
        products, bits=2.0, density=0.07, pattern="filter", input_bits=3.0
    )
    assert bool(hw.cost(tight, target).feasible)
    scattered = hw.design(tight, pattern="unstructured")
    assert not bool(hw.cost(scattered, target).feasible)
    four = hw.design(table(), bits=4.0, input_bits=4.0)
    msq = hw.get("msq_xc7z020")
    assert bool(hw.cost(four, msq).feasible)
    for wrong in ({"sp2": 64.0}, {"sp2": 0.0}, {"fixed": 0.0}):
        found = hw.cost(four, hw.replace(msq, **wrong))
        assert not bool(found.feasible), wrong
        assert float(found.latency_s) > 0
    for right in ({"sp2": 0.0, "share": 0.0}, {"fixed": 0.0, "share": 1.0}):
        assert bool(hw.cost(four, hw.replace(msq, **right)).feasible), right
    bits = [2.0, 32.0]
    fits = jax.vmap(lambda b: hw.cost(hw.design(tight, bits=b), target).feasible)(
        jnp.asarray(bits)
    )
    assert fits.tolist() == [True, False]
    # What takes for ever is no design.
    stopped = hw.replace(hw.get("mobile_cpu"), peak=0.0)
    assert not bool(hw.cost(table(), stopped).feasible)


@pytest.mark.parametrize("name", ["alexnet", "vgg16", "mobilenet_v1", "resnet50"])
def test_s2ta_runs_the_networks_of_its_paper(name):
    eight = hw.design(published(name), bits=8.0, input_bits=8.0)
    assert bool(hw.cost(eight, hw.get("s2ta_aw")).feasible)


def test_what_a_target_has_no_unit_for_is_counted_and_named():
    block = hw.design(published("transformer"), bits=8.0, input_bits=8.0)
    found = hw.cost(block, hw.get("memristor"))
    scores = [
        n for n, k in zip(block.names, block.kinds, strict=True) if k == "attention"
    ]
    assert set(scores) < set(found.left_out)
    macs = np.asarray(block.macs)
    share = macs[block.mask("attention")].sum() / macs.sum()
    assert float(found.unpriced["macs"]) == pytest.approx(share, rel=1e-5)
    assert 0 < float(found.unpriced["bytes"]) < 1
    assert float(found.unpriced["operations"]) == pytest.approx(1)
    assert hw.summary(found)["unpriced_macs"] == pytest.approx(share, rel=1e-5)
    text = str(hw.explain(block, hw.get("memristor")))
    assert "not priced" in text
    assert scores[0] in text or ", ..." in text
    for name in NAMES:
        found = hw.cost(table(), hw.TARGETS[name])
        zero = np.asarray(found.latencies_s) <= 0
        idle = {n for n, z in zip(table().names, zero, strict=True) if z}
        assert idle <= set(found.left_out)  # nothing is free and silent


def test_vmap_equals_single_designs_and_targets_stack():
    names = ("mobile_cpu", "mobile_gpu", "server_gpu", "tpu_v1", "host")
    targets = [hw.get(name) for name in names]
    stacked = jax.tree.map(lambda *x: jnp.stack([jnp.asarray(v) for v in x]), *targets)
    traces = []

    @jax.jit
    def latency(target):
        traces.append(1)
        return hw.cost(table(), target).latency_s

    together = jax.vmap(latency)(stacked)
    alone = [float(latency(t)) for t in targets]
    assert len(traces) == 1  # names and sources are no part of what is compiled
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_one_compilation_for_all_designs():
    traces = []

    @jax.jit
    def run(bits, target):
        traces.append(1)
        return hw.cost(hw.design(table(), bits=bits), target).energy_j

    for bits in (2.0, 4.0):
        for far in (1e9, 2e9):
            run(jnp.float32(bits), hw.replace(hw.get("host"), far=far, source="x"))
    assert len(traces) == 1


def test_static_energy_falls_with_latency():
    slow = hw.replace(hw.get("fpga_zcu102"), clock=50e6, name="slow")
    assert slow.name == "slow"
    fast = hw.replace(hw.get("fpga_zcu102"), clock=250e6)
    a, b = hw.cost(table(), slow), hw.cost(table(), fast)
    assert float(b.energy_j) < float(a.energy_j)
    np.testing.assert_allclose(
        a.joules["compute"].sum(), b.joules["compute"].sum(), rtol=1e-6
    )


def test_other_constants_are_not_validated():
    target = hw.get("tpu_v1")
    assert target.provenance.validated
    assert not hw.replace(target, peak=1e12).provenance.validated
    assert hw.replace(target, name="mine").provenance.validated


def test_replace_and_make_name_what_is_wrong():
    with pytest.raises(UnknownNameError, match="clock"):
        hw.replace(hw.get("capram"), clok=1.0)
    with pytest.raises(UnknownNameError, match="mobile_cpu"):
        hw.get("mobile_cpus")
    with pytest.raises(InputError, match="peak"):
        make(Processor, "mine", {"near": Given(1.0, "chosen", "x")})
    mine = hw.replace(hw.get("host"), "fitted", "measured", peak=2e10)
    row = next(c for c in hw.constants(mine) if c.name == "peak")
    assert row[1:6] == (2e10, "MAC/s", row.meaning, "fitted", "measured")


@given(st.integers(0, 2**31 - 1))
def test_pareto_is_brute_force(seed):
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 5, (12, 2)).astype(np.float32)
    allowed = rng.random(12) < 0.8
    found = np.asarray(hw.pareto(points, allowed))
    for i in range(12):
        beats = [
            allowed[j]
            and np.all(points[j] <= points[i])
            and np.any(points[j] < points[i])
            for j in range(12)
        ]
        assert found[i] == (allowed[i] and not any(beats))


def test_pareto_refuses_what_it_cannot_order():
    with pytest.raises(InputError, match="NaN"):
        hw.pareto(np.array([[1.0, np.nan]]))
    with pytest.raises(ShapeError, match="objectives"):
        hw.pareto(np.ones(3))


def test_summary_is_plain():
    found = hw.summary(hw.cost(table(), hw.get("memristor")))
    assert all(type(v) in (float, bool) for v in found.values())
    assert {"latency_s", "energy_j", "feasible", "area_mm2"} <= set(found)
