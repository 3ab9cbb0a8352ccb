"""The contract of every target: finite, differentiable, monotone, vmapped."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hw
from core.errors import InputError, ShapeError, UnknownNameError
from hw.constants import Given, make
from hw.targets.processor import Processor
from tests.hw.networks import model, published

NAMES = sorted(hw.TARGETS)


def table():
    return hw.distinct(model("lenet5"))


@jax.jit
def _costs(points, target):
    def one(point):
        bits, density, input_bits = point
        made = hw.design(table(), bits=bits, density=density, input_bits=input_bits)
        found = hw.cost(made, target)
        return found.latency_s, found.energy_j

    values = jax.vmap(one)(points)
    slopes = jax.vmap(jax.jacrev(one))(points)
    return values, slopes


def costs(points, target):
    """Latency and energy [designs] of points, and their slopes [designs, 3]."""
    return jax.device_get(_costs(jnp.asarray(points, jnp.float32), target))


BASE = [[6.0, 0.45, 7.0], [6.0, 0.4501, 7.0], [6.001, 0.45, 7.0], [6.0, 0.45, 7.001]]
MORE = [[4.0, 0.2, 4.0], [8.0, 0.2, 4.0], [8.0, 0.6, 4.0], [8.0, 0.6, 8.0]]


@pytest.mark.parametrize("name", NAMES)
def test_contract(name):
    target = hw.TARGETS[name]
    assert isinstance(target, hw.Target)
    assert target.name == name
    (latency, energy), slopes = costs(BASE + MORE, target)
    assert np.all(np.isfinite(latency))
    assert np.all(latency > 0)
    assert np.all(np.isfinite(energy))
    assert np.all(energy > 0)
    for value, slope in zip((latency, energy), slopes, strict=True):
        assert np.all(np.isfinite(slope))
        # Central enough: differences of float32 numbers to a percent of the value.
        steps = np.array([0, 1e-4, 1e-3, 1e-3])
        for axis, row in enumerate((2, 1, 3)):
            found = (value[row] - value[0]) / steps[row]
            wanted = slope[0][(0, 1, 2)[axis]]
            rough = 3e-7 * value[0] / steps[row]
            assert abs(found - wanted) <= 0.05 * abs(wanted) + rough
    # Fewer bits and fewer weights never cost more.
    assert np.all(np.diff(latency[4:]) >= -1e-6 * latency[4])
    assert np.all(np.diff(energy[4:]) >= -1e-6 * energy[4])


@pytest.mark.parametrize("name", NAMES)
def test_every_constant_has_a_unit_and_a_source(name):
    target = hw.TARGETS[name]
    rows = hw.constants(target)
    leaves = jax.tree.leaves(target)
    assert len(rows) == len(leaves)  # a pytree of its constants and nothing else
    for row in rows:
        assert row.unit
        assert row.meaning
        assert row.origin in ("published", "derived", "fitted", "chosen", "design")
        assert len(row.source) > 3
    lines = hw.constants_table(target).splitlines()
    assert len(lines) == len(rows) + 1


def test_cost_adds_up_and_names_bounds():
    found = hw.cost(published("mobilenet_v1"), hw.get("mobile_cpu"))
    np.testing.assert_allclose(found.latency_s, found.latencies_s.sum(), rtol=1e-6)
    np.testing.assert_allclose(found.energy_j, found.energies_j.sum(), rtol=1e-6)
    np.testing.assert_allclose(sum(found.joules.values()), found.energies_j, rtol=1e-5)
    assert found.bounds == ("compute", "cache", "memory", "overhead")
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
    small = hw.cost(
        hw.design(model("lenet5"), bits=2.0, input_bits=3.0), hw.get("capram")
    )
    assert not bool(small.feasible)
    assert float(small.resources["cells"]) == 430_500 * 2
    tight = hw.design(model("lenet5"), bits=2.0, density=0.07, input_bits=3.0)
    assert bool(hw.cost(tight, hw.get("capram")).feasible)
    board = hw.replace(hw.get("msq_xc7z020"), sp2=64.0)
    found = hw.cost(table(), board)
    assert not bool(found.feasible)
    assert float(found.latency_s) > 0
    bits = [2.0, 32.0]
    fits = jax.vmap(
        lambda b: hw.cost(hw.design(tight, bits=b), hw.get("capram")).feasible
    )(jnp.asarray(bits))
    assert fits.tolist() == [True, False]


def test_vmap_equals_single_designs_and_targets_stack():
    target = hw.get("mobile_cpu")
    many = hw.replace(target, far=1.0)
    faster = [1e9, 1e10, 1e11]

    def latency(far):
        return hw.cost(table(), dataclasses.replace(many, far=far)).latency_s

    together = jax.jit(jax.vmap(latency))(jnp.asarray(faster))
    alone = [float(latency(jnp.float32(far))) for far in faster]
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert np.all(np.diff(np.asarray(together)) <= 0)


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
    slow = hw.replace(hw.get("fpga_zcu102"), clock=50e6)
    fast = hw.replace(hw.get("fpga_zcu102"), clock=250e6)
    a, b = hw.cost(table(), slow), hw.cost(table(), fast)
    assert float(b.energy_j) < float(a.energy_j)
    np.testing.assert_allclose(
        a.joules["compute"].sum(), b.joules["compute"].sum(), rtol=1e-6
    )


def test_replace_and_make_name_what_is_wrong():
    with pytest.raises(UnknownNameError, match="clock"):
        hw.replace(hw.get("capram"), clok=1.0)
    with pytest.raises(UnknownNameError, match="mobile_cpu"):
        hw.get("mobile_cpus")
    with pytest.raises(InputError, match="peak"):
        make(Processor, "mine", {"near": Given(1.0, "chosen", "x")})
    mine = hw.replace(hw.get("host"), "fitted", "measured", peak=2e10)
    row = next(c for c in hw.constants(mine) if c.name == "peak")
    assert row[1:] == (2e10, "MAC/s", row.meaning, "fitted", "measured")


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
