"""What the main job measures before and after, and what it makes of it."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

import hw
from experiments.data import Split
from experiments.shape_and_prove import Config
from experiments.shaping import measures, outcome
from experiments.shaping.pipeline import Shaped

COST = {"latency_s": 2e-6, "energy_j": 3e-6, "feasible": True}


def shaped(left, bits, accuracy=90.0, verified=3, scale=1.0):
    sizes = {"fc1/kernel": 100, "fc2/kernel": 20}
    counts = {"verified": verified, "falsified": 1, "open": 1, "wrong": 8 - verified}
    cost = {name: {**COST, "latency_s": scale * 2e-6} for name in ("host", "chip")}
    return Shaped(
        accuracy, sizes, dict(zip(sizes, left, strict=True)), bits, counts, cost
    )


def test_bytes_are_those_of_the_smaller_form():
    # Dense values; or 4 + 4 bits each of those left.
    assert outcome.stored_bytes(shaped((100, 20), 32)) == 480
    assert outcome.stored_bytes(shaped((80, 20), 32)) == 80 * 36 / 8 + 80
    assert outcome.stored_bytes(shaped((10, 20), 4)) == 10 + 10
    assert outcome.stored_bytes(shaped((0, 0), 4)) == 0


def test_rows_have_after_beside_before():
    found = {
        seed: {
            "before": shaped((100, 20), 32, 90.0 + seed, 3),
            "after": shaped((10, 20), 4, 88.0 + seed, 2, scale=0.5),
        }
        for seed in (0, 1)
    }
    shown = outcome.outcome(types.SimpleNamespace(), Config(), found)
    rows = {(row.metric, row.setting): row for row in shown.rows}
    after = outcome.SIDES["after"]
    assert rows["accuracy", after].measured == 88.5
    assert rows["accuracy", after].baseline == 90.5
    certified = rows["certified accuracy, eps 0.03", after]
    assert (certified.measured, certified.baseline) == (20.0, 30.0)
    assert rows["reduction of bytes", after].measured == 480 / 20
    assert rows["latency", "chip"].measured == pytest.approx(1.0)
    assert rows["latency", "chip"].baseline == pytest.approx(2.0)
    assert rows["latency", "chip"].simulated
    (gain,) = [f for f in shown.figures if "Gain" in f.title]
    assert list(gain.series[0].y) == [2.0, 2.0]


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
    params = {"fc": {"kernel": np.zeros((784, 16), np.float32)}}

    def fn(params, x):
        return x.reshape(len(x), -1) @ params["fc"]["kernel"]

    dense = measures.price(fn, params, {"fc/kernel": 1.0}, 32, 1)
    small = measures.price(fn, params, {"fc/kernel": 0.1}, 4, 1)
    assert dense.keys() == small.keys() == hw.TARGETS.keys()
    for name in dense:
        assert 0 < small[name]["energy_j"] <= dense[name]["energy_j"]
