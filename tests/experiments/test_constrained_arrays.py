"""Experiments on crossbars and structured pruning: parts by hand, and their claims."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import admm
from admm import crossbar
from experiments import data, memristor
from experiments.constrained import checks, crossbar_rows, crossbars, structured
from experiments.results import Row
from experiments.workdir import Run
from tests.experiments import made_up

# ---- equal outputs


def test_logits_are_compared_relative_to_the_largest():
    whole = np.array([[40.0, 3.0, 2.0], [1.0, 7.0, 6.9999]], np.float32)
    # 2e-4 of 40 is 5e-6: rounding, and so is what it makes of the near tie.
    less = whole + np.array([[2e-4, 0, 0], [0, -1e-4, 1e-4]], np.float32)
    found = checks.compared(whole, less)
    assert 4e-6 < found.difference < 6e-6
    assert (found.changed, found.differ) == (0, 1)
    # Out of order by more than rounding.
    found = checks.compared(whole, whole[:, ::-1])
    assert found.difference == pytest.approx(38 / 40)
    assert (found.changed, found.differ) == (1, 1)
    assert checks.compared(whole, whole) == (0.0, 0, 0)


def test_batches_are_joined_and_raw_counts_are_shown():
    same = checks.joined([checks.Same(1e-6, 0, 1), checks.Same(3e-6, 0, 2)])
    assert same == (3e-6, 0, 3)
    rows = list(checks.equality_rows("compaction", "net", [same._asdict()] * 3))
    assert [(r.measured, r.holds) for r in rows] == [(3e-6, True), (0, True), (9, None)]
    bad = checks.Same(2e-5, 1, 1)._asdict()
    rows = list(checks.equality_rows("compaction", "net", [same._asdict(), bad]))
    assert [r.holds for r in rows] == [False, False, None]


# ---- crossbars and structured


def test_shapes_that_are_left_are_rows_and_columns_with_a_weight():
    w = jnp.zeros((2, 1, 3, 4)).at[0, 0, 1, 2].set(1.0).at[1, 0, 0, 2].set(1.0)
    assert crossbars.nonempty_shapes({"a": {"kernel": w}}) == [(2, 1)]
    # 300 rows take 3 arrays, those with a weight 1; so with the weights.
    wide = jnp.zeros((300, 16)).at[:100].set(1.0)
    counted = crossbars.counted({"a": {"kernel": wide}}, 8)
    assert (counted.weights, counted.arrays.count) == (1_600, 1)


def test_noise_is_on_what_arrays_hold_alone():
    w = jnp.zeros((3, 3, 4, 6)).at[0, 1, 2, 1].set(3.0).at[2, 2, 3, 4].set(-7.0)
    exact = crossbars.programmed(jax.random.key(0), w, jnp.float32(1), 4, 0.0)
    np.testing.assert_allclose(exact, w, atol=1e-5)
    noisy = crossbars.programmed(jax.random.key(0), w, jnp.float32(1), 4, 0.2)
    there = np.asarray(noisy).reshape(36, 6) != 0
    # Cells of 0 in the rows and columns that are programmed are noisy too.
    wanted = np.zeros((36, 6), bool)
    wanted[np.ix_([6, 35], [1, 4])] = True
    np.testing.assert_array_equal(there, wanted)


def test_a_part_of_a_kernel_is_programmed_at_the_scale_of_the_whole():
    rng = np.random.default_rng(0)
    step = jnp.float32(0.013)
    whole = jnp.asarray(rng.integers(1, 127, (12, 6)) * rng.choice([-1, 1], (12, 6)))
    part = whole[:2, :3].astype(jnp.float32) * step
    # Its own best scale is another one, and rounds the integers that were trained.
    spec = admm.Quantized(crossbar.levels(8), pruned=True)
    fitted = float(spec.at(part).scaling.scale.reshape(()))
    assert abs(fitted / float(step) - 1) > 0.01
    params = {"fc": {"kernel": part, "bias": jnp.ones(3)}}
    scales = {"fc/kernel": step}
    read = crossbars.chip(params, scales, 8, jax.random.key(0), 0.0)
    np.testing.assert_allclose(read["fc"]["kernel"], part, atol=1e-5 * float(step))
    assert crossbars._off(params, read, scales) < crossbar_rows.EXACT
    noisy = crossbars.chip(params, scales, 8, jax.random.key(0), 0.1)
    assert crossbars._off(params, noisy, scales) > crossbar_rows.EXACT
    np.testing.assert_array_equal(noisy["fc"]["bias"], 1.0)


@pytest.mark.parametrize("network", crossbars.NETWORKS)
def test_both_ways_keep_as_many_weights(network, tmp_path, monkeypatch):
    side, channels = (28, 1) if network == "lenet5" else (32, 3)
    images = made_up.dataset(20, 10, side=side)
    train = images.train._replace(
        images=np.repeat(images.train.images, channels, axis=-1)
    )
    images = dataclasses.replace(images, train=train)
    monkeypatch.setattr(data, "load", lambda *_, **__: images)
    config = memristor.Config(batch_size=10)
    run = Run(tmp_path, experiment="memristor", config=config, mode="quick")
    with run, jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        protocol = crossbars.Protocol(run, config, network)
        assert protocol.title.endswith("20 images")
        for rate in (10.0, 60.0):
            sizes = []
            for way in crossbars.WAYS:
                parts = (spec.sets for _, spec in protocol.rules(way, rate))
                sizes.append([math.prod(s.count for s in both) for both in parts])
            np.testing.assert_allclose(*sizes, rtol=0.05)


def sized(weights, accuracy=(98.0, 98.1, 97.9), purified=(97.9, 98.1, 97.9)):
    """Results of a pruned network, over three seeds."""
    arrays = [9, 4, 3, 2]
    one = {"residual": 0.1, "weights": weights, "arrays": arrays, "area": arrays,
           "power": arrays, **checks.Same(1e-7, 0, 0)._asdict()}  # fmt: skip
    pairs = zip(accuracy, purified, strict=True)
    return [{"accuracy": a, "purified": p, **one} for a, p in pairs]


@pytest.mark.parametrize(
    ("left", "gains", "cost"),
    [((120, 100, 80), (True, True), True), ((120, 100, 100), (True, False), None)],
)
def test_passes_that_remove_nothing_are_no_success(left, gains, cost):
    found = {("aware", 10.0): sized([1_700, *left])}
    rows = list(crossbar_rows.rows("net", [98.5] * 3, found, {}, True))
    both, purification = [r for r in rows if r.metric.startswith("compression by")]
    assert (both.holds, purification.holds) == gains
    assert purification.measured == pytest.approx(100 / left[-1])
    change = next(r for r in rows if r.metric.startswith("change of accuracy"))
    assert change.holds is cost
    # The rate that was asked for is not the compression.
    assert change.setting.startswith("net, 14.2x (asked: 10x), whole arrays")


@pytest.mark.parametrize(("lost", "holds"), [(0.1, True), (0.9, False)])
def test_eight_bits_are_judged_beside_floats(lost, holds):
    found = {("aware", 10.0): sized([1_700, 120, 100, 80])}
    part = {"rounded": 90.0, "residual": 0.01, "arrays": 2, "rounded to 0": 0,
            "programmed": 0.4, "noise": {}}  # fmt: skip
    levels = {
        ("aware", 10.0, bits): [
            {"accuracy": 98.0 - lost, "floats": 98.0, **part}
            for _ in found["aware", 10.0]
        ]
        for bits in (8, 4)
    }
    rows = list(crossbar_rows.rows("net", [98.5] * 3, found, levels, True))
    leads = [r for r in rows if r.metric.startswith("levels above floats")]
    assert [r.holds for r in leads] == [holds, None]
    assert leads[0].measured == pytest.approx(-lost)
    # Arrays that hold other numbers than were trained.
    wrong = [r.holds for r in rows if r.metric.startswith("largest error of a prog")]
    assert wrong == [False, False]


def test_a_dead_filters_norm_goes_with_it():
    params = {
        "conv2": {"kernel": jnp.ones((1, 1, 2, 3))},
        "bn2": {"scale": jnp.ones(3), "bias": jnp.ones(3)},
        "linear": {"kernel": jnp.ones((3, 2))},
    }
    masks = {
        "conv2": {"kernel": jnp.ones((1, 1, 2, 3), bool).at[..., 1].set(False)},
        "bn2": {"scale": None, "bias": None},
        "linear": {"kernel": None},
    }
    found = structured.with_norms(params, masks)
    for part in ("scale", "bias"):
        np.testing.assert_array_equal(found["bn2"][part], [True, False, True])
    assert found["linear"]["kernel"] is None


SAME = checks.Same(1e-7, 0, 0)._asdict()


def test_the_claims_of_structured_pruning_name_their_rule():
    def results(accuracy):
        one = {"macs": 2.0, "effective": 2.5, "weights": 3.0, **SAME}
        ms = [[2.0, 1.5], [2.0, 1.6], [2.1, 1.5]]
        pairs = zip(accuracy, ms, strict=True)
        return [{"accuracy": a, "ms": {"1": t}, **one} for a, t in pairs]

    found = {
        ("admm_filter", 3.0): results([80.0, 81.0, 80.5]),
        ("magnitude_filter", 3.0): results([78.0, 78.5, 78.2]),
    }
    rows = list(structured.rows("net", [82.0, 82.5, 82.2], found, True))
    lead = next(r for r in rows if "above" in r.metric)
    assert lead.metric == "ADMM, filters above magnitude, filters (better)"
    assert lead.holds
    speed = next(r for r in rows if r.metric.startswith("speed-up"))
    assert (speed.measured, speed.baseline) == (pytest.approx(1.328, abs=1e-3), 2.0)
    saved = next(r for r in rows if r.metric == "time that compaction saves (better)")
    assert saved.measured == pytest.approx(0.5)
    assert saved.holds
    assert all(isinstance(r, Row) for r in rows)


@pytest.mark.parametrize("kind", structured.PATTERNS)
def test_shapes_and_channels_have_rivals_that_have_to_be_beaten(kind):
    def results(accuracy):
        one = {"macs": 2.0, "effective": 2.5, "weights": 3.0, **SAME}
        return [{"accuracy": a, "ms": {"1": [2.0, 2.0]}, **one} for a in accuracy]

    found = {
        (f"admm_{kind}", 3.0): results([80.0, 80.1, 79.9]),
        (f"magnitude_{kind}", 3.0): results([80.0, 80.2, 79.9]),
        (f"lasso_{kind}", 3.0): results([70.0, 71.0, 70.5]),
    }
    rows = structured.rows("net", [82.0, 82.5, 82.2], found, True)
    held = {r.metric: r.holds for r in rows}
    assert held[f"ADMM, {kind}s above magnitude, {kind}s (better)"] is False
    # A rival whose strength nobody sought is shown, and nothing is claimed.
    assert held[f"ADMM, {kind}s above group lasso, {kind}s"] is None
    # The same time is no gain; shapes are not compacted.
    assert held.get("time that compaction saves (better)") is (
        None if kind == "shape" else False
    )


@pytest.mark.parametrize("kind", structured.PATTERNS)
def test_the_group_lasso_adds_the_slope_of_norms(kind):
    w = jax.random.normal(jax.random.key(0), (3, 3, 2, 4))
    params = {"conv2": {"kernel": w, "bias": jnp.ones(4)}}
    axes = structured.AXES[kind]
    norms = lambda w: jnp.sqrt(jnp.square(w).sum(axes)).sum()  # noqa: E731
    tx = structured.group_lasso("conv2/kernel", kind, 0.5)
    zero = jax.tree.map(jnp.zeros_like, params)
    found, _ = tx.update(zero, tx.init(params), params)
    np.testing.assert_allclose(
        found["conv2"]["kernel"], 0.5 * jax.grad(norms)(w), rtol=1e-5
    )
    np.testing.assert_array_equal(found["conv2"]["bias"], 0.0)


def test_networks_are_compared_on_every_image():
    images = np.arange(7.0, dtype=np.float32)[:, None]
    logits = lambda x: jnp.concatenate([x, -x + 5], -1)  # noqa: E731
    other = lambda x: jnp.where(x == 6, 20.0, logits(x))  # noqa: E731
    identity = lambda x: x  # noqa: E731
    same = checks.compared_on(images, identity, logits, logits, batch=3)
    assert same == checks.Same(0.0, 0, 0)
    # The last image alone, in an incomplete batch: 20 instead of 6 and -1.
    found = checks.compared_on(images, identity, logits, other, batch=3)
    assert found.difference == pytest.approx(21 / 6)
    swapped = lambda x: jnp.where(x == 6, logits(x)[:, ::-1], logits(x))  # noqa: E731
    found = checks.compared_on(images, identity, logits, swapped, batch=3)
    assert (found.changed, found.differ) == (1, 1)
