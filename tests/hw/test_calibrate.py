"""Calibration finds the constants of a processor that is simulated."""

import numpy as np
import pytest

import hw
from core.errors import InputError
from experiments.hardware import host
from hw import calibration
from hw.micro import micros, repeated, seconds_of


def test_a_simulated_machine_is_found_again():
    chosen = [m for i, m in enumerate(micros()) if i % 4 == 0]
    tables = calibration.tables_of(chosen)
    truth = hw.replace(
        hw.get("host"), matmul=0.6, conv=0.35, near=2e10, elements=2e9, overhead=5e-6
    )
    times = [float(hw.cost(t, truth).latency_s) for t in tables]
    names = [m.name for m in chosen]
    found = calibration.fit(tables, times, names, launch=2e-5)
    assert np.median(found.errors) < 0.05
    # The constants are the machine's, not others that explain its times as well.
    for name in ("matmul", "conv", "depthwise"):
        rate = getattr(found.target, name) * found.target.peak
        assert rate == pytest.approx(getattr(truth, name) * truth.peak, rel=0.1), name
    for name in ("elements", "functions", "windows", "far"):
        value = getattr(found.target, name)
        assert value == pytest.approx(getattr(truth, name), rel=0.1), name
    # Others that were not measured are predicted.
    held = calibration.tables_of([m for i, m in enumerate(micros()) if i % 4 == 2])
    machine = hw.replace(truth, launch=2e-5)
    mine, true = (
        np.array([float(hw.cost(t, target).latency_s) for t in held])
        for target in (found.target, machine)
    )
    off = np.abs(mine / true - 1)
    assert np.median(off) < 0.05
    assert np.mean(off < 0.1) > 0.8
    assert found.names == tuple(names)
    assert len(str(found).splitlines()) == len(names) + 1
    assert "measured on this machine" in hw.constants_table(found.target)
    assert not hw.explain(tables[0], found.target).simulated


def test_microbenchmarks_are_no_layers_of_the_networks_that_are_predicted():
    def layers(table):
        fields = (table.groups, table.m, table.k, table.n, table.window)
        rows = zip(table.kinds, *(np.asarray(f) for f in fields), strict=True)
        return {row for row, p in zip(rows, table.is_product, strict=True) if p}

    unseen = set().union(*(layers(host.table_of(*case)) for case in host.UNSEEN))
    known = set().union(*(layers(t) for t in calibration.tables_of(micros())))
    assert len(unseen) > 100
    assert not known & unseen


def test_times_are_medians_of_turns():
    turns = []
    times = {"a": iter([1.0, 9.0, 2.0]), "b": iter([5.0, 4.0, 60.0])}

    def timer(name):
        turns.append(name)
        return next(times[name])

    found = repeated([lambda: timer("a"), lambda: timer("b")])
    assert found == [2.0, 5.0]
    assert turns == ["a", "b"] * 3
    with pytest.raises(InputError, match="repeats"):
        repeated([], repeats=2)


def test_bad_measurements_are_refused():
    with pytest.raises(InputError, match="at least one"):
        hw.calibrate([])
    with pytest.raises(InputError, match="positive"):
        calibration.fit(calibration.tables_of([next(micros())]), [0.0], ["x"], 0.0)


def test_microbenchmarks_have_no_unknown_work_and_a_timer_counts():
    names = [m.name for m in micros()]
    assert len(set(names)) == len(names)
    calls = []
    seconds = seconds_of(lambda: calls.append(1), budget=0.0, least=3)
    assert seconds >= 0
    assert len(calls) == 4
    with pytest.raises(InputError, match="least"):
        seconds_of(lambda: None, least=0)
