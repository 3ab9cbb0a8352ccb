"""Experiments on constraint sets: their parts by hand, one small run, their claims."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import admm
from admm import factors
from core import trees
from core.errors import DataUnavailableError, InputError
from experiments import (
    data,
    ernn,
    memristor,
    models,
    progressive_admm,
    structured_admm,
)
from experiments import trained_rank_pruning as trp_experiment
from experiments.constrained import (
    progressive,
    progressive_rows,
    rank,
    recurrent,
    recurrent_rows,
    speech,
    structured,
)
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


@pytest.mark.parametrize("name", sorted(progressive.NETWORKS))
def test_no_layer_gets_more_at_a_higher_rate(name):
    targets = progressive.NETWORKS[name].targets
    rates = sorted(targets)
    for low, high in itertools.pairwise(rates):
        for layer, count in targets[high].items():
            assert count <= targets[low][layer], (low, high, layer)


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
        level_epochs=(1, 1, 1, 1),
        iterations=2,
        batch_size=32,
    )
    run = Run(tmp_path, experiment="progressive_admm", config=config, mode="quick")
    # optax's own arithmetic mixes types.
    with run, jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        protocol = progressive.Protocol(run, config)
        retrained, supports = protocol._retrained, []

        def recorded(seed, name, state, params, masks, *rest):
            supports.append(masks)
            return retrained(seed, name, state, params, masks, *rest)

        protocol._retrained = recorded
        found = protocol.progressive(0)
        nested = jax.tree.map(lambda a, b: bool((a | ~b).all()), *supports)
        assert jax.tree.leaves(nested) == [True] * 3
        assert all(found[rate]["residual"] > 0 for rate in config.rates)
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


class Phases:
    """Stands in for training: every phase returns its start, and is remembered."""

    def __init__(self, trainer, monkeypatch):
        self.seen = {}

        def phase(stage, state, optimizer, epochs, *, params=None, **options):
            del optimizer
            self.seen[stage] = {"epochs": epochs, **options}
            if params is not None:
                state = state._replace(params=params)
            result = {"accuracy": 90.0, "residual": 0.5, "left": 1, "size": 2}
            return state, result

        monkeypatch.setattr(trainer, "phase", phase)

    def of(self, part):
        return [options for stage, options in self.seen.items() if part in stage]


@pytest.fixture
def steps(tiny, tmp_path, monkeypatch):
    """A protocol of two rates and two widths that trains nothing."""
    config = progressive_admm.Config(
        rates=(22.9, 80.0),
        rival_rates=(80.0,),
        retrain_rate=1e-2,
        rival_retrain_rate=3e-3,
        bits=(4, 1),
        examples=48,
        validation=8,
        batch_size=16,
    )
    run = Run(tmp_path, experiment="progressive_admm", config=config, mode="quick")
    with run, jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        protocol = progressive.Protocol(run, config)
        yield protocol, Phases(protocol.trainer, monkeypatch)


def test_arms_train_for_as_long_at_equal_dropout(steps):
    protocol, phases = steps
    first, second = protocol.config.stage_epochs
    protocol.control(0)
    protocol.progressive(0)
    protocol.progressive(0, "stepped")
    rivals = [m for m in progressive_admm.METHODS if m != "stepped"]
    for method in rivals:
        protocol.rival(0, method, 80.0)
    (dense,) = phases.of("s0-dense")
    assert dense.get("dropout", True)
    arms = ("control", "progressive-", "stepped-", *(f"{m}-80x" for m in rivals))
    for arm in arms:
        mine = phases.of(f"s0-{arm}")
        assert sum(part["epochs"] for part in mine) == 2 * (first + second)
        assert [part["dropout"] for part in mine] == [False] * len(mine)
        # Each at the rate that was chosen for it, the control at that of training.
        rates = {"control": 1e-3, "progressive-": 1e-2, "stepped-": 1e-2}
        rate = rates.get(arm, 3e-3)
        tags = [part["tag"] for part in mine if "retrain" in part["tag"]]
        assert tags
        assert all(tag.endswith(f"-{rate:g}") for tag in tags)


def test_options_are_chosen_on_images_that_no_arm_sees(steps):
    protocol, _ = steps
    assert len(protocol.trainer.test.labels) == 8
    assert len(protocol.trainer.train.labels) == 48
    assert protocol.network.title == "LeNet-300-100 on 48 images"


def test_structured_options_are_chosen_on_images_held_out(tiny, tmp_path):
    config = structured_admm.Config(examples=48, validation=8, batch_size=16)
    run = Run(tmp_path, experiment="structured_admm", config=config, mode="quick")
    with run:
        protocol = structured.Protocol(run, config)
    assert len(protocol.test.labels) == len(protocol.trainer.test.labels) == 8
    assert len(protocol.trainer.train.labels) == 48


def test_rounding_starts_from_the_network_that_was_trained_as_long(steps, monkeypatch):
    protocol, _ = steps
    state = protocol.dense(0)
    longer = jax.tree.map(lambda w: 2 * w + 1, state.params)
    trained = (state._replace(params=longer), {"accuracy": 90.0})
    monkeypatch.setattr(protocol, "control", lambda _: trained)
    asked = []
    monkeypatch.setattr(
        protocol.trainer, "accuracy", lambda params, _: asked.append(params) or 1.0
    )
    protocol.rounded(0, 1)
    wanted = admm.project(longer, progressive._levels(1))
    jax.tree.map(np.testing.assert_array_equal, asked[0], wanted)


def test_levels_take_as_long_as_straight_through_training(steps, monkeypatch):
    protocol, phases = steps
    later = dataclasses.replace(protocol.config, level_epochs=(4, 1, 2, 3))
    monkeypatch.setattr(protocol, "config", later)
    monkeypatch.setattr(protocol.trainer, "pixels", lambda x: jnp.asarray(x) / 255)
    protocol.levels(0, "arm", protocol.dense(0), 1, 2)
    lengths = [2 * e for e in (4, 1, 1, 1, 2, 2, 3)]
    assert [part["epochs"] for part in phases.of("s0-arm-1")] == lengths
    protocol.straight(0, 1, 2)
    (straight,) = phases.of("s0-straight-1")
    assert straight["epochs"] == sum(lengths)


def test_the_first_width_is_no_arm_of_its_own(steps, monkeypatch):
    protocol, _ = steps
    asked = []

    def levels(seed, name, start, bits, times):
        asked.append((name, bits, times))
        return start, {"accuracy": 90.0}

    monkeypatch.setattr(protocol, "levels", levels)
    monkeypatch.setattr(protocol, "straight", lambda *_: {"accuracy": 90.0})
    monkeypatch.setattr(protocol, "rounded", lambda *_: {"accuracy": 90.0})
    found = protocol.quantized(0)
    assert list(found["progressive ADMM"]) == [4, 1]
    assert list(found["one-shot ADMM"]) == [1]
    # Else it would be the same training under another name.
    assert [name for name, bits, times in asked if times == 1] == [
        "progressive-levels",
        "progressive-levels",
    ]


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


@pytest.mark.parametrize(("macs", "judged"), [(2.0, True), (1.2, None)])
def test_claims_of_low_rank_are_paired_with_the_dense_network(macs, judged):
    at = "ranks of TRP"

    def after(accuracy):
        return {"accuracy": accuracy, "macs": macs, "weights": 2.0}

    found = {
        "dense": [
            {
                "trained": 92.0 + s,
                "after": {
                    at: after(80.0 + s),
                    rank.trained_on(at, 2): {"accuracy": 91.5 + s},
                },
            }
            for s in range(3)
        ],
        "trp": [
            {"trained": 91.0 + s, "after": {at: after(90.9 + s)}} for s in range(3)
        ],
    }
    rows = {r.metric: r for r in rank.rows("net", found, True, 2)}
    change = rows["change of accuracy by decomposing (at least -0.5)"]
    assert change.measured == pytest.approx(-0.1)
    # Ranks that are nearly full lose nothing, and nothing is claimed of them.
    assert change.holds is judged
    assert f"{macs:g}x" in change.setting
    lead = rows["loss by decomposing, dense above TRP (better)"]
    assert lead.measured == pytest.approx(11.9)
    assert lead.holds is judged
    tuned = rows["accuracy, TRP above dense trained on for 2 epochs (at least equal)"]
    assert tuned.measured == pytest.approx(-0.6)
    assert tuned.holds is (False if judged else None)


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


def test_phase_two_takes_what_lost_least_where_nothing_fits(monkeypatch, tmp_path):
    config = ernn.Config(units=8, blocks=(4,), budget=1.0, widths=(12, 8))
    run = Run(tmp_path, experiment="ernn", config=config, mode="quick")
    monkeypatch.setattr(data, "load", lambda *_, **__: made_up.dataset(20, 10, side=28))
    protocol = recurrent.Protocol(run, config, "rows")
    monkeypatch.setattr(protocol, "control", lambda *_: {"accuracy": 90.0})
    monkeypatch.setattr(
        protocol, "arm", lambda _, s, __: (s, {"accuracy": 80.0 - s.hidden})
    )
    asked = []
    monkeypatch.setattr(
        protocol, "fixed", lambda shape, *_: asked.append(shape.hidden) or 70.0
    )
    found = protocol.explored(0)
    tried = [int(t["name"].rpartition("k")[2]) for t in found["trials"]]
    assert len(tried) > 1
    assert set(asked) == {min(tried)}
    rows = list(recurrent_rows.phase_rows("rows", found, 1.0, True))
    held = {r.metric: r.holds for r in rows}
    assert held["phase I, designs within the budget"] is False
    assert all("lost least" in r.setting for r in rows if "phase II," in r.metric)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_states_in_float64_are_those_of_the_cell(cell):
    model = models.create(cell, hidden=(8,))
    xs = jax.random.normal(jax.random.key(0), (3, 5, 4))
    with jax.numpy_rank_promotion("allow"):
        params = model.init(jax.random.key(1), xs)["params"]
    noise = lambda w: w + 0.3 * jax.random.normal(jax.random.key(2), w.shape)  # noqa: E731
    params = jax.tree.map(noise, params)
    states = recurrent.in_float64(cell, params[f"{cell}1"], xs)
    assert states.dtype == np.float64
    layer = admm.recurrent.pack(params[f"{cell}1"], 1)
    np.testing.assert_allclose(admm.recurrent.run(layer, xs)[1], states, atol=1e-6)
    # And flax's own: the logits read the last state.
    linear = jax.tree.map(np.asarray, params["linear"])
    logits = states[:, -1] @ linear["kernel"] + linear["bias"]
    with jax.numpy_rank_promotion("allow"):
        found = model.apply({"params": params}, xs)
    np.testing.assert_allclose(found, logits, atol=1e-5)


def test_the_kernels_that_are_reported_are_measured(tiny, tmp_path, monkeypatch):
    config = ernn.Config(units=8, blocks=(4,), batch_size=16)
    run = Run(tmp_path, experiment="ernn", config=config, mode="quick")
    with run, jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        protocol = recurrent.Protocol(run, config, "rows")
        Phases(protocol.trainer("gru"), monkeypatch)
        monkeypatch.setattr(protocol.trainer("gru"), "accuracy", lambda *_: 50.0)
        shape = recurrent.Shape("gru", 4, 4)
        kernels, result = protocol.arm(0, shape, "admm")
        assert result["violation"] == 0
        # Kernels that training has taken out of the set.
        off = jax.tree.map(lambda w: w.at[0].add(0.5), kernels)
        monkeypatch.setattr(protocol, "kernels", lambda _: lambda _: off)
        assert protocol.arm(0, shape, "admm")[1]["violation"] > 0.1


def test_the_residual_of_admm_is_judged_before_its_projection():
    shape = recurrent.Shape("gru", 8, 8)
    result = {"accuracy": 90.0, "residual": 0.4, "violation": 0.0, "projected": 80.0,
              "executed": {"accuracy": 90.0, "exact": 1e-6, "dense": 2e-6}}  # fmt: skip
    found = {(shape.name, "admm"): [result]}
    rows = recurrent_rows.rows(
        "rows", 16, 8, [shape], found, {"gru": [91.0]}, judged=True
    )
    held = {r.metric: r.holds for r in rows}
    assert held["violation of the constraint by the trained kernels"] is True
    assert held["largest relative residual of ADMM before its projection"] is False


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
    full, gpu = (
        dataclasses.replace(
            progressive_admm.Config(), **progressive_admm.EXPERIMENT.modes[m].overrides
        )
        for m in ("full", "gpu")
    )
    judged = progressive_admm.is_judged
    assert judged(full, 60_000)
    assert judged(gpu, 60_000)
    assert not judged(progressive_admm.Config(), 5_000)
    for less in ({"examples": 8_000}, {"validation": 1}, {"epoch_examples": 7_999}):
        assert not judged(dataclasses.replace(full, **less), 60_000)
