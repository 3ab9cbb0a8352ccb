"""What the main job measures before and after, and what it makes of it."""

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hw
from experiments.data import Split
from experiments.shape_and_prove import Config
from experiments.shaping import measures, outcome
from experiments.shaping.pipeline import Shaped

COST = {"latency_s": 2e-6, "energy_j": 3e-6, "feasible": True, "weight_bits": 8.0}


RUN: Any = types.SimpleNamespace(data_dir=None)
SIZES = {"fc1/kernel": 100, "fc2/kernel": 20}


def shaped(left, stored, accuracy=90.0, verified=3, scale=1.0):
    counts = {"verified": verified, "falsified": 1, "open": 1, "wrong": 8 - verified}
    cost = {name: {**COST, "latency_s": scale * 2e-6} for name in ("host", "chip")}
    left, stored = (dict(zip(SIZES, each, strict=True)) for each in (left, stored))
    return Shaped(accuracy, SIZES, left, stored, counts, cost)


def decoded(kernel, bits, width):
    """Bits of distances and values, and the kernel that a reader makes of them."""
    words, place = [], -1
    for i in np.flatnonzero(kernel):
        while i - place > 2**width:
            words.append((2**width, 0.0))
            place += 2**width
        words.append((i - place, kernel[i]))
        place = i
    found, place = np.zeros_like(kernel), -1
    for distance, value in words:
        assert 1 <= distance <= 2**width
        place += distance
        found[place] = value
    return len(words) * (width + bits), found


@pytest.mark.parametrize("density", [0.0, 0.005, 0.02, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("bits", [4, 32])
def test_bits_are_those_of_the_smallest_form_that_can_be_read(density, bits):
    rng = np.random.default_rng(0)
    kernel = np.where(rng.random(3000) < density, rng.normal(size=3000), 0)
    kernel[-1] = density > 0  # the whole length has to be reached
    forms = [3000 * bits, 3000 + np.count_nonzero(kernel) * bits]
    for width in measures.INDEX_BITS:
        size, found = decoded(kernel, bits, width)
        np.testing.assert_array_equal(found, kernel)
        forms.append(size)
    assert measures.stored_bits(kernel.reshape(50, 60), bits) == min(forms)


def test_a_distance_takes_a_filler_only_beyond_its_width():
    for distance, words in ((16, 1), (17, 2), (32, 2), (33, 3)):
        kernel = np.zeros(400)
        kernel[distance - 1] = 1.0
        # Narrow distances and fillers, or one of 8 bits.
        assert measures.stored_bits(kernel, 4) == min(words * 8, 12)


def test_rows_have_after_beside_before():
    found = {
        seed: {
            "before": shaped((100, 20), (400.0, 80.0), 90.0 + seed, 3),
            "after": shaped((10, 20), (10.0 + 10 * seed, 10.0), 88.0, 2, 0.5 + seed),
        }
        for seed in (0, 1)
    }
    shown = outcome.outcome(RUN, Config(), found)
    rows = {(row.metric, row.setting): row for row in shown.rows}
    after = outcome.SIDES["after"]
    assert rows["accuracy", after].measured == 88.0
    assert rows["accuracy", after].baseline == 90.5
    certified = rows["certified accuracy, eps 0.03", after]
    assert (certified.measured, certified.baseline) == (20.0, 30.0)
    assert all(row.holds is None for row in shown.rows)
    assert rows["bytes of weights", after].measured == 25
    assert rows["reduction of bytes", after].measured == (480 / 20 + 480 / 30) / 2
    latency = rows["latency", "chip (dense: 8 bits)"]
    assert latency.measured == pytest.approx(2.0)
    assert latency.baseline == pytest.approx(2.0)
    assert latency.simulated
    (gain,) = [f for f in shown.figures if "Gain" in f.title]
    assert list(gain.series[0].y) == pytest.approx([4 / 3, 4 / 3])


@pytest.mark.parametrize(
    ("accuracy", "verified", "want"), [(89.0, 3, [True, True]), (88.9, 2, [False] * 2)]
)
def test_a_full_run_judges_accuracy_and_certificates(accuracy, verified, want):
    sides = [
        shaped((100, 20), (400.0, 80.0), 90.0, 3),
        shaped((10, 20), (10.0, 10.0), accuracy, verified),
    ]
    found = {0: dict(zip(outcome.SIDES, sides, strict=True))}
    shown = outcome.outcome(RUN, Config(), found, judged=True)
    assert [row.holds for row in shown.rows if row.holds is not None] == want


def test_images_are_verified_falsified_or_wrong():
    """Of scores x and 1 - x over the mean of an image, a half is what decides."""

    def fn(params, x):
        mean = x.reshape(*x.shape[:-3], -1).mean(-1, keepdims=True)
        return jnp.concatenate([mean, 1 - mean], -1) @ params

    levels = np.array([250, 130, 120, 10], np.uint8)
    images = np.broadcast_to(levels[:, None, None, None], (4, 2, 2, 1))
    split = Split(images, np.array([0, 0, 0, 1], np.int32))
    config = types.SimpleNamespace(images=4, eps=0.1, timeout_s=5.0)
    found = measures.certify(fn, np.eye(2, 10, dtype=np.float32), split, config)
    assert found == {"verified": 2, "falsified": 1, "open": 0, "wrong": 1}


def test_every_target_prices_fewer_bits_no_higher():
    params = {"fc": {"kernel": np.zeros((784, 12), np.float32)}}

    def fn(params, x):
        return x.reshape(len(x), -1) @ params["fc"]["kernel"]

    dense = measures.price(fn, params, {"fc/kernel": 1.0}, 1)
    small = measures.price(fn, params, {"fc/kernel": 0.1}, 1, formats=(4, 4), share=0.6)
    assert dense.keys() == small.keys() == hw.TARGETS.keys()
    for name in dense:
        assert 0 < small[name]["energy_j"] <= dense[name]["energy_j"]
        # Sums of two powers are slow where nothing was built for as many.
        if not name.startswith("fpga"):
            assert small[name]["latency_s"] <= dense[name]["latency_s"]
        assert dense[name]["feasible"]  # each in a format that it has
    assert dense["sa_dense"]["weight_bits"] == 8
    assert dense["mobile_cpu"]["weight_bits"] == 32
    assert small["msq_xc7z020"]["sp2_rows"] == pytest.approx(0.6)


def test_inputs_are_rounded_to_fixed_steps():
    def fn(params, x):
        return jax.nn.relu((x.reshape(len(x), -1) - 0.5) @ params["a"]) @ params["b"]

    rng = np.random.default_rng(0)
    params = {
        "a": jnp.asarray(rng.normal(size=(4, 8)), jnp.float32),
        "b": jnp.asarray(rng.normal(size=(8, 10)), jnp.float32),
    }
    images = rng.integers(0, 256, (64, 2, 2, 1)).astype(np.uint8)
    images[0] = 0  # the ranges are -0.5 to 0.5
    images[1] = 255
    x = images.astype(np.float32) / 255
    labels = np.asarray(fn(params, x).argmax(-1), np.int32)
    split = Split(images, labels)
    assert measures.accuracy(fn, params, split) == 100
    coarse = measures.rounded(fn, params, split, 3)
    # Three bits with a sign: 7 steps of 1/6 to either side of 0.
    step = 0.5 / 3
    first = step * np.clip(np.round((x.reshape(64, 4) - 0.5) / step), -3, 3)
    hidden = np.maximum(first @ params["a"], 0)
    wide = float(np.maximum((x.reshape(64, 4) - 0.5) @ params["a"], 0).max()) / 7
    want = wide * np.clip(np.round(hidden / wide), 0, 7) @ params["b"]
    found = np.asarray(coarse(params, x))
    assert np.mean(np.abs(found - want) < 1e-3) > 0.95  # but for ties of rounding
    fine = measures.rounded(fn, params, split, 8)
    assert measures.accuracy(fine, params, split) > 90
