"""Experiments on constraint sets: their parts by hand, one small run, their claims."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import admm
from admm import factors
from core import trees
from core.errors import DataUnavailableError, InputError
from experiments import data, ernn, memristor, progressive_admm, structured_admm
from experiments import trained_rank_pruning as trp_experiment
from experiments.constrained import (
    crossbars,
    progressive,
    progressive_rows,
    rank,
    recurrent,
    recurrent_rows,
    speech,
    structured,
)
from experiments.results import Row
from experiments.workdir import Run
from tests.experiments import made_up

# ---- progressive


@pytest.mark.parametrize("name", sorted(progressive.NETWORKS))
def test_counts_of_every_rate_make_the_rate(name):
    network = progressive.NETWORKS[name]
    size = 430_500 if name == "lenet5" else 266_200
    for rate, counts in network.targets.items():
        assert size / sum(counts.values()) == pytest.approx(rate, rel=0.01)
    assert sum(progressive.NETWORKS["lenet5"].targets[246.0].values()) == 1_750


def made(accuracy, **more):
    return [{"accuracy": a, "left": 1_750, "size": 430_500, **more} for a in accuracy]


def test_claims_of_pruning_are_judged_from_full_runs_alone():
    found = {
        "progressive": {246.0: made([99.0, 99.1, 99.2])},
        "admm": {246.0: made([98.0, 98.2, 98.1])},
        "gradual": {246.0: made([99.2, 99.3, 99.4])},
    }
    network = progressive.NETWORKS["lenet5"]
    for judged in (True, False):
        rows = list(
            progressive_rows.pruning_rows(network, found, [99.2, 99.3, 99.3], judged)
        )
        held = {r.metric: r.holds for r in rows}
        assert held["progressive ADMM above one-shot ADMM (better)"] is (judged or None)
        lost = held["progressive ADMM above gradual magnitude (better)"]
        assert lost is (False if judged else None)
        close = next(r for r in rows if r.metric.startswith("progressive ADMM above d"))
        assert close.holds is (judged or None)
    reduction = next(r for r in rows if r.metric == "weight reduction")
    assert reduction.measured == 246.0


def test_too_many_levels_do_not_hold():
    found = {
        "progressive ADMM": {
            1: made([99.0] * 3, levels={"a": 2, "b": 3}, violation=0.1)
        },
        "one-shot ADMM": {1: made([99.0] * 3, levels={"a": 2, "b": 2}, violation=0.0)},
        "straight-through": {1: made([99.9] * 3)},
    }
    rows = list(
        progressive_rows.level_rows(
            progressive.NETWORKS["lenet5"], found, [99.0] * 3, True
        )
    )
    held = [r.holds for r in rows if r.metric == "most levels of a layer"]
    assert held == [False, True]
    held = [r.holds for r in rows if r.metric == "largest distance from the levels"]
    assert held == [False, True]
    # The rival that is better by more than the margin is shown so.
    lost = [r.holds for r in rows if "above straight-through" in r.metric]
    assert lost == [False, False]


@pytest.fixture
def tiny(monkeypatch):
    """The protocols' data are a few images of two classes."""
    dataset = made_up.dataset(64, 32, side=28)
    monkeypatch.setattr(data, "load", lambda *_, **__: dataset)


def test_steps_prune_inside_one_another_and_levels_are_met(tiny, tmp_path):
    config = progressive_admm.Config(
        rates=(22.9, 80.0),
        rival_rates=(),
        epochs=1,
        stage_epochs=(1, 1),
        level_epochs=(1, 1),
        iterations=2,
        batch_size=32,
    )
    run = Run(tmp_path, experiment="progressive_admm", config=config, mode="quick")
    # optax's own arithmetic mixes types.
    with run, jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        protocol = progressive.Protocol(run, config)
        found = protocol.progressive(0)
        assert [found[rate]["left"] for rate in config.rates] == [11_628, 3_327]
        state, result = protocol.levels(0, "levels", protocol.dense(0), 1, 1)
        joint = protocol.joint(0)
    assert result["violation"] == joint["violation"] == 0
    assert joint["left"] == joint["nonzeros"] == 11_628
    assert joint["values"] == 4 * 11_628 < joint["stored"] < joint["dense"] / 40
    rows = list(progressive_rows.joint_rows(protocol.network, 22.9, 4, [joint]))
    assert [r.holds for r in rows][-1] is True
    assert set(result["levels"].values()) == {2}
    assert all(
        len(np.unique(w)) == 2
        for path, w in trees.by_path(state.params).items()
        if path.endswith("kernel")
    )


# ---- trained rank pruning


@pytest.mark.parametrize("shape", [(6, 8), (3, 3, 4, 8)])
@pytest.mark.parametrize("scheme", ["channel", "spatial"])
def test_factors_of_full_rank_make_the_kernel(shape, scheme):
    w = jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)
    full = {2: 6, 4: 8 if scheme == "channel" else 12}[len(shape)]
    pair = factors.factorize(w, full, scheme)
    np.testing.assert_allclose(rank.product(pair), w, atol=1e-4)
    params = {"a": {"kernel": w}, "b": jnp.ones(2)}
    parts = rank.split(params, {"a/kernel": full}, scheme)
    assert isinstance(parts["a"]["kernel"], factors.Factors)
    whole = rank.compose(parts)
    assert trees.paths(whole) == trees.paths(params)


def test_what_is_measured_was_not_truncated_right_before(tiny, tmp_path):
    # 8 steps, truncation every 4: the last of them would be one.
    config = trp_experiment.Config(epochs=1, batch_size=8, period=4, energy_loss=0.3)
    run = Run(tmp_path, experiment="trp", config=config, mode="quick")
    with run, jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        protocol = rank.Protocol(run, config)
        state, result = protocol.train(0, "trp")
        cut = admm.truncate(state.params, protocol.rules())
    for path, w in protocol.kernels(state.params).items():
        low = np.linalg.matrix_rank(trees.by_path(cut)[path], 1e-3)
        assert np.linalg.matrix_rank(w, 1e-3) > low
    assert 0 <= result["truncated"] <= 100


def test_claims_of_low_rank_are_paired_with_the_dense_network():
    at = "ranks of TRP"
    found = {
        "dense": [
            {"trained": 92.0 + s, "after": {at: {"accuracy": 80.0 + s}}}
            for s in range(3)
        ],
        "trp": [
            {"trained": 91.0 + s, "after": {at: {"accuracy": 90.9 + s}}}
            for s in range(3)
        ],
    }
    rows = {r.metric: r for r in rank.rows("net", found, True)}
    change = rows["change of accuracy by decomposing (at least -0.5)"]
    assert change.measured == pytest.approx(-0.1)
    assert change.holds
    lead = rows["loss by decomposing, dense above TRP (better)"]
    assert lead.measured == pytest.approx(11.9)
    assert lead.holds


# ---- recurrent


def test_log_mel_finds_a_tone_and_is_silent_at_the_start():
    rate, tone = 8_000, 1_000
    t = np.arange(4_000) / rate
    frames = speech.log_mel((8_000 * np.sin(2 * np.pi * tone * t)).astype(int), rate)
    assert frames.shape == (30, speech.BANDS)
    filters = speech.mel_filters(speech.BANDS, speech.WINDOW, rate)
    band = filters[tone * speech.WINDOW // rate].argmax()
    assert (frames.argmax(1) == band).all()
    assert frames.max() == 255


def test_a_missing_file_of_speech_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("LATHE_DATA", str(tmp_path))
    with pytest.raises(DataUnavailableError, match="LATHE_DATA"):
        speech.load()


def test_generators_make_the_projected_kernels_and_keep_random_spread():
    w = jax.random.normal(jax.random.key(0), (32, 64))
    params = {"gru1": {"hr": {"kernel": w}, "ir": {"kernel": w, "bias": jnp.ones(64)}}}
    rules = [("gru1/h./kernel", admm.BlockCirculant(8))]
    found = recurrent.to_generators(params, rules)
    g = found["gru1"]["hr"]["kernel"]
    assert g.shape == (4, 8, 8)
    np.testing.assert_array_equal(found["gru1"]["ir"]["kernel"], w)
    spread = recurrent.to_generators(params, rules, scale=True)["gru1"]["hr"]["kernel"]
    assert float(jnp.std(spread)) == pytest.approx(1.0, abs=0.15)


def test_one_dense_network_is_the_reference_of_phase_one(monkeypatch, tmp_path):
    config = ernn.Config(units=8, blocks=(4,), budget=1.0, widths=(8,))
    run = Run(tmp_path, experiment="ernn", config=config, mode="quick")
    monkeypatch.setattr(data, "load", lambda *_, **__: made_up.dataset(20, 10, side=28))
    protocol = recurrent.Protocol(run, config, "rows")
    dense, asked = {"lstm": 90.0, "gru": 70.0}, []

    def control(_, cell):
        asked.append(cell)
        return {"accuracy": dense[cell]}

    monkeypatch.setattr(protocol, "control", control)
    monkeypatch.setattr(
        protocol, "arm", lambda _, shape, __: (shape, {"accuracy": 89.5 - 20.0 * (
            shape.cell == "gru")})
    )  # fmt: skip
    monkeypatch.setattr(protocol, "fixed", lambda *_: 89.5)
    found = protocol.explored(0)
    # A GRU within the budget of a dense GRU is not within that of the LSTM.
    assert asked == ["lstm"]
    assert [t["fits"] for t in found["trials"] if "gru" in t["name"]] == [False]
    assert found["design"]["name"].startswith("lstm")
    rows = {r.metric: r for r in recurrent_rows.phase_rows("rows", found, 1.0, True)}
    trials = len(found["trials"])
    assert rows["phase I, trials"].measured == trials
    assert rows["phase I, trainings with dense ones"].measured == trials + 3
    assert rows["phase I, trials"].holds is None
    assert rows["phase I, designs within the budget"].holds is True


def test_the_residual_of_admm_is_judged_before_its_projection():
    shape = recurrent.Shape("gru", 8, 8)
    result = {"accuracy": 90.0, "residual": 0.4, "violation": 0.0, "projected": 80.0,
              "executed": {"accuracy": 90.0, "difference": 1e-6}}  # fmt: skip
    found = {(shape.name, "admm"): [result]}
    rows = recurrent_rows.rows(
        "rows", 16, 8, [shape], found, {"gru": [91.0]}, judged=True
    )
    held = {r.metric: r.holds for r in rows}
    assert held["violation of the constraint after ADMM's projection"] is True
    assert held["largest relative residual of ADMM before its projection"] is False


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
    exact = crossbars.programmed(jax.random.key(0), w, 4, 0.0)
    np.testing.assert_allclose(exact, w, atol=1e-5)
    noisy = crossbars.programmed(jax.random.key(0), w, 4, 0.2)
    there = np.asarray(noisy).reshape(36, 6) != 0
    # Cells of 0 in the rows and columns that are programmed are noisy too.
    wanted = np.zeros((36, 6), bool)
    wanted[np.ix_([6, 35], [1, 4])] = True
    np.testing.assert_array_equal(there, wanted)


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


def test_the_claims_of_structured_pruning_name_their_rule():
    def results(accuracy):
        one = {"macs": 2.0, "effective": 2.5, "weights": 3.0, "changed": 0}
        return [{"accuracy": a, "ms": {"1": [2.0, 1.5]}, **one} for a in accuracy]

    found = {
        ("admm_filter", 3.0): results([80.0, 81.0, 80.5]),
        ("magnitude_filter", 3.0): results([78.0, 78.5, 78.2]),
    }
    rows = list(structured.rows("net", [82.0, 82.5, 82.2], found, True))
    lead = next(r for r in rows if "above" in r.metric)
    assert lead.metric == "ADMM, filters above magnitude, filters (better)"
    assert lead.holds
    speed = next(r for r in rows if r.metric.startswith("speed-up"))
    assert (speed.measured, speed.baseline) == (pytest.approx(4 / 3), 2.0)
    assert all(isinstance(r, Row) for r in rows)


@pytest.mark.parametrize("kind", structured.PATTERNS)
def test_shapes_and_channels_have_rivals_that_have_to_be_beaten(kind):
    def results(accuracy):
        one = {"macs": 2.0, "effective": 2.5, "weights": 3.0, "changed": 0}
        return [{"accuracy": a, "ms": {}, **one} for a in accuracy]

    found = {
        (f"admm_{kind}", 3.0): results([80.0, 80.1, 79.9]),
        (f"magnitude_{kind}", 3.0): results([80.0, 80.2, 79.9]),
        (f"lasso_{kind}", 3.0): results([70.0, 71.0, 70.5]),
    }
    rows = structured.rows("net", [82.0, 82.5, 82.2], found, True)
    held = {r.metric: r.holds for r in rows if "above" in r.metric}
    assert held == {
        f"ADMM, {kind}s above magnitude, {kind}s (better)": False,
        f"ADMM, {kind}s above group lasso, {kind}s (better)": True,
    }


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


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (functools.partial(progressive_admm.Config, rates=(80.0, 22.9)), "rising"),
        (functools.partial(progressive_admm.Config, stage_epochs=(1,)), "two numbers"),
        (functools.partial(progressive_admm.Config, rival_rates=(3.0,)), "some of"),
        (functools.partial(ernn.Config, epochs=(1, 2)), "three numbers"),
        (functools.partial(ernn.Config, blocks=(7,)), "divisor"),
        (functools.partial(memristor.Config, epochs=(1,)), "four numbers"),
        (functools.partial(structured_admm.Config, epochs=(1,)), "three numbers"),
        (functools.partial(trp_experiment.Config, arms=()), "arms"),
    ],
)
def test_bad_options_are_named(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_full_mode_alone_is_judged():
    experiment, names = progressive_admm.EXPERIMENT, progressive_admm.JUDGED
    full = dataclasses.replace(
        progressive_admm.Config(), **experiment.modes["full"].overrides
    )
    assert experiment.reaches(full, *names, examples=20_000)
    assert not experiment.reaches(full, *names, examples=1_000)
    assert not experiment.reaches(progressive_admm.Config(), *names, examples=20_000)
