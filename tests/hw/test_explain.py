"""Explanations against what the costs themselves say."""

import numpy as np
import pytest

import hw
from hw.explain import elasticities
from tests.hw.networks import model
from tests.hw.test_targets import product


@pytest.fixture(scope="module")
def table():
    return hw.design(model("lenet5"), bits=8.0, input_bits=8.0)


def test_shares_bounds_and_order(table):
    target = hw.get("fpga_zcu102")
    found, priced = hw.explain(table, target), hw.cost(table, target)
    assert sum(row.share for row in found.rows) == pytest.approx(1, rel=1e-5)
    seconds = [row.seconds for row in found.rows]
    assert seconds == sorted(seconds, reverse=True)
    assert sum(seconds) == pytest.approx(float(priced.latency_s), rel=1e-5)
    by_name = {row.name: row for row in found.rows}
    dense = by_name["fc1/kernel"]  # 400,000 weights for 400,000 products
    assert dense.bound == "memory"
    assert dense.next == "dsp"
    parts = {
        k: float(v[table.names.index("fc1/kernel")]) for k, v in priced.seconds.items()
    }
    assert dense.gain == pytest.approx(parts["memory"] / parts["dsp"], rel=1e-4)
    assert dense.elasticities["weight bits"] == pytest.approx(1, abs=0.02)
    assert "weight bits" in dense.remedy
    assert found.simulated


def test_elasticities_of_constants_are_derivatives(table):
    target = hw.get("fpga_zcu102")
    slopes = dict(hw.explain(table, target).constants)
    base = float(hw.cost(table, target).latency_s)
    for name in ("bandwidth", "clock"):
        step = 1e-2
        more = hw.replace(target, **{name: getattr(target, name) * (1 + step)})
        saved = (base - float(hw.cost(table, more).latency_s)) / base / step
        assert slopes[name] == pytest.approx(saved, abs=0.02)


def test_overhead_and_indices_are_named(table):
    slow = hw.replace(hw.get("mobile_cpu"), overhead=1.0)
    assert hw.explain(table, slow).rows[0].bound == "overhead"
    sparse = hw.design(table, density=0.01, bits=1.0)
    sparse = sparse.take([table.names.index("fc1/kernel")])
    row = hw.explain(sparse, hw.get("fpga_zcu102")).rows[0]
    assert row.bound == "indices"
    assert "blocks" in row.remedy
    text = str(hw.explain(table, hw.get("mobile_cpu")))
    assert "what would have to change" in text
    assert "for a percent of a constant" in text


@pytest.mark.parametrize("name", sorted(hw.TARGETS))
def test_roofline_lies_below_its_roof(table, name):
    target = hw.get(name)
    roof = hw.roofline(hw.design(table, density=0.3), target)
    assert len(roof.names) == 4
    limit = np.minimum(roof.peak, roof.reuse * roof.bandwidth)
    assert np.all(roof.rate <= limit * (1 + 1e-5))
    given = [getattr(target, n, None) for n in ("bandwidth", "far")]
    for value in given:
        assert value is None or roof.bandwidth == pytest.approx(value)


def test_products_lie_on_the_roof_where_nothing_else_holds_them_up():
    target = hw.get("fpga_zcu102")
    table = hw.design(product(512, 512, 512), bits=8.0, input_bits=8.0)
    free = hw.roofline(table, hw.replace(target, bandwidth=1e15))
    peak = 2520 * 0.8 * 2 * 0.8 * 250e6  # two products a slice, pipelines that fill
    assert free.peak == pytest.approx(peak, rel=1e-5)
    assert free.rate[0] == pytest.approx(peak, rel=1e-5)
    slow = hw.roofline(table, hw.replace(target, bandwidth=1e7))
    # A tile of 512 x 512 outputs fits: each factor comes once.
    assert slow.reuse[0] == pytest.approx(512**3 / (3 * 512**2), rel=1e-5)
    assert slow.rate[0] == pytest.approx(slow.reuse[0] * 1e7, rel=1e-5)


@pytest.mark.parametrize("name", sorted(hw.TARGETS))
def test_nothing_is_gained_below_the_least_width(name):
    target = hw.TARGETS[name]
    table = product(16, 128, 64)
    bits, data = float(target.weight_widths[0]), float(target.input_widths[0])
    (found,), _ = elasticities(hw.design(table, bits=bits, input_bits=data), target)
    for each in ("weight bits", "data bits", "weight and data bits"):
        assert found[each] == pytest.approx(0, abs=1e-5), each


def test_remedies_are_steps_that_exist():
    """Of products that memories do not hold up."""
    table = hw.design(product(512, 512, 512), bits=8.0, input_bits=8.0)
    phone = hw.replace(hw.get("mobile_cpu"), near=1e15, far=1e15)
    (found,), (pattern,) = elasticities(table, phone)
    assert found["weight bits"] == found["data bits"] == 0  # 8 bits are the narrowest
    assert found["density"] == pytest.approx(0.95, abs=0.1)  # half of the weights
    assert pattern == "filter"
    # A float32 product gets faster only if both of its factors get narrower.
    full = hw.design(table, bits=32.0, input_bits=32.0)
    (found,), _ = elasticities(full, phone)
    assert found["weight bits"] == 0
    assert found["weight and data bits"] == pytest.approx(1, abs=0.01)
    assert "weight and data bits" in hw.explain(full, phone).rows[0].remedy
    # Seven bits take ANT as many passes as eight; four take a quarter of them.
    (found,), _ = elasticities(table, hw.get("ant"))
    assert found["weight and data bits"] == pytest.approx(1.5, abs=0.01)
    assert "density (filter)" in hw.explain(table, hw.get("ant")).rows[0].remedy
