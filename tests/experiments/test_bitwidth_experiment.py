"""Widths that learn: the joint epoch, equal sizes, computed claims, one small run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from core import trees
from core.errors import InputError
from experiments import data
from experiments.bitwidth import EXPERIMENT, Config, is_judged
from experiments.data import Split
from experiments.options import build
from experiments.rounding.networks import DigitsNet
from experiments.widths import claims, networks, protocol
from experiments.widths.joint import Joint
from experiments.workdir import Run
from quant import bitwidth
from quant.sensitivity import Sensitivity
from tests.experiments import made_up


class Tiny(nn.Module):
    """A normed dense layer and a linear one: what compiles in no time."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Dense(16, use_bias=False, name="conv1")(x.reshape(len(x), -1))
        mean = self.variable("batch_stats", "mean", jnp.zeros, (16,), jnp.float32)
        if train:
            mean.value = 0.9 * mean.value + 0.1 * x.mean(0)
        x = nn.relu(x - mean.value.reshape(1, -1))
        return nn.Dense(self.num_classes, name="linear")(x)


CONFIG = Config(
    bits=(2.5,),
    groups=("tensor",),
    relaxations=("interpolation",),
    compared_bits=2.5,
    epochs=(2, 3, 1),
    batch_size=8,
    width_rate=0.3,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with a tiny network, its repetition, and what its trials found."""
    dataset = made_up.dataset(80, 20, side=4)
    small = dataclasses.replace(networks.NETWORKS["digits"], build=Tiny)
    patch = pytest.MonkeyPatch()
    patch.setattr(data, "load", lambda name, data_dir: dataset)
    patch.setitem(networks.NETWORKS, "digits", small)
    folder = tmp_path_factory.mktemp("bitwidth")
    about = {"experiment": "bitwidth", "mode": "quick", "config": CONFIG}
    found = []
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        with Run(folder, **about) as run:
            found.append((EXPERIMENT.run(run, CONFIG), list(run.fresh)))
        with Run(folder, **about) as run:
            found.append((EXPERIMENT.run(run, CONFIG), list(run.fresh)))
            made = protocol.Protocol(run, CONFIG, "digits")
            listed = protocol.trials(CONFIG, "digits", (0,))
            results = {trial: made.run_trial(trial) for trial in listed}
    patch.undo()
    return found, results


def test_a_run_measures_everything_once(finished):
    ((outcome, fresh), (again, none)), results = finished
    assert none == []
    assert again.rows == outcome.rows
    assert len(fresh) == len(set(fresh))
    assert "digits-s0-sensitivity" in fresh
    assert len([n for n in fresh if n.endswith("-joint")]) == 1
    assert len([n for n in fresh if n.endswith("-tune")]) == len(results)
    assert all(np.isfinite(row.measured) for row in outcome.rows)
    assert all(row.holds is None for row in outcome.rows)
    assert len({(r.metric, r.setting) for r in outcome.rows}) == len(outcome.rows)
    assert {figure.kind for figure in outcome.figures} == {"errorbar", "bar"}


def test_no_allocation_is_above_its_budget(finished):
    _, results = finished
    assert {trial.method for trial in results} == set(protocol.METHODS)
    for trial, result in results.items():
        assert result["bits"] <= trial.target
        assert result["accuracy"] >= 50
        assert set(result["widths"]) == {"conv1/kernel", "linear/kernel"}
        whole = result["bits"] * (256 + 160) + 2 * 40 + 10 * 32
        assert result["bytes"] == np.ceil(whole / 8)


def test_finer_groups_pay_for_their_headers():
    model = DigitsNet(features=(16, 32))
    x = jnp.zeros((1, 8, 8, 1))
    params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    made = protocol.Protocol.__new__(protocol.Protocol)
    made._start = lambda seed: (protocol.TrainState(0, params, {}, {}), {})
    at = protocol.Trial("digits", 0, "learned", 3.0)
    limit = None
    for group in ("tensor", "16", "channel"):
        target = made.target_of(at._replace(group=group))
        ones = bitwidth.uniform(params, networks.GROUPS[group], 1)
        size = bitwidth.size(params, ones)
        bytes_of = size._replace(weights=int(target * size.quantized)).bytes
        limit = limit or bytes_of
        assert limit - 1 <= bytes_of <= limit
        assert (target < 3) == (group != "tensor")


@pytest.mark.parametrize(
    ("relaxation", "single"), [("interpolation", False), ("categorical", True)]
)
def test_joint_epochs_reach_the_budget(relaxation, single):
    """Of one level, examples that are held out do nothing."""
    joint = Joint(
        model=Tiny(),
        rules=networks.GROUPS["tensor"],
        relaxation=networks.RELAXATIONS[relaxation],
        optimizer=optax.adam(1e-3),
        widths=optax.adam(0.2),
        steps=64,
        batch_size=8,
        mean=(0.3,),
        std=(0.3,),
        single_level=single,
    )
    images = made_up.two_classes(64, 4)
    others = Split(images.images[:16], 1 - images.labels[:16])
    found = []
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        variables = Tiny().init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
        params, stats = variables["params"], variables["batch_stats"]
        epoch = joint.make_epoch()
        for held in (made_up.two_classes(16, 4), others):
            state = joint.start(params, stats, 3.0)
            first = float(bitwidth.average_bits(params, joint.beta(state)))
            for e in range(8):
                state, _ = epoch(state, (images, held), jax.random.key(e))
            found.append(state)
        bits = float(bitwidth.average_bits(params, joint.beta(found[0])))
    assert bits < 3.1 < first
    assert int(found[0].step) == 64
    same = jax.tree.map(
        lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()),
        *(state.params for state in found),
    )
    assert all(jax.tree.leaves(same)) == single


def test_trials_are_listed_once():
    config = Config(
        networks=("digits", "cifar"),
        bits=(2.0, 2.5),
        groups=("channel",),
        epochs=(1,) * 3,
    )
    listed = list(protocol.trials(config, "digits", (0, 1)))
    assert len(listed) == len(set(listed)) == 2 * (2 * 3 + 2)
    assert len({t.stage for t in listed}) == len(listed)
    last = list(protocol.trials(config, "cifar", (0, 1)))
    assert [t.group for t in last if t.group != "tensor"] == ["channel"]


def found(learned, uniform, widths=(8, 2), target=2.0):
    paths = ("a/kernel", "b/kernel")
    out = {}
    near = sorted({np.floor(target), np.ceil(target)})
    for seed in range(3):
        for method in protocol.METHODS:
            goals = near if method == "uniform" else [target]
            for goal in goals:
                accuracy = learned if method == "learned" else uniform
                trial = protocol.Trial("digits", seed, method, float(goal))
                out[trial] = {
                    "accuracy": accuracy + 0.1 * seed * (method == "learned"),
                    "bytes": 10,
                    "bits": 2.0,
                    "rate": 16.0,
                    "widths": {p: [w] for p, w in zip(paths, widths, strict=True)},
                }
    return out


@pytest.mark.parametrize(("learned", "holds"), [(95.0, True), (90.0, False)])
def test_claims_follow_the_numbers(learned, holds):
    rows = list(claims.rows(found(learned, 94.0), (96.0,) * 3, True))
    held = [row.holds for row in rows if row.metric.startswith("accuracy of")]
    assert held == [holds] * 3
    rows = list(claims.rows(found(learned, 94.0, target=2.5), (96.0,) * 3, True))
    chord = [row for row in rows if "chord" in row.metric]
    assert [row.holds for row in chord] == [holds]
    assert chord[0].measured == pytest.approx(learned + 0.1 - 94)
    rows = claims.rows(found(learned, 94.0), (96.0,) * 3, False)
    assert all(row.holds is None for row in rows)


@pytest.mark.parametrize(("widths", "holds"), [((8, 2), True), ((2, 8), False)])
def test_widths_are_compared_with_sensitivity(widths, holds):
    losses = {"a": {"kernel": np.full((1, 8), 3.0)}, "b": {"kernel": np.ones((1, 8))}}
    known = [Sensitivity(0.5, losses, tuple(range(1, 9)))] * 3
    sizes = {"a/kernel": 10, "b/kernel": 10}
    rows = list(claims.width_rows(found(95.0, 94.0, widths), known, sizes, True))
    assert [row.holds for row in rows] == [holds] * 2
    assert [row.measured for row in rows] == [pytest.approx(1 if holds else -1)] * 2
    assert claims.ranks([3.0, 1.0, 1.0]).tolist() == [2.0, 0.5, 0.5]
    assert claims.rank_correlation([1, 1], [1, 2]) == 0


def test_full_runs_are_judged():
    full = build(Config, EXPERIMENT.modes["full"].overrides)
    assert is_judged(full, "digits", full.examples)
    assert is_judged(full, "cifar", full.examples)
    assert not is_judged(full, "cifar", full.examples - 1)
    assert not is_judged(Config(), "digits", 60_000)
    with pytest.raises(InputError, match="three numbers"):
        Config(epochs=(1, 2))
    with pytest.raises(InputError, match="--bits"):
        Config(bits=())
    for rules in networks.GROUPS.values():
        for name in networks.NETWORKS:
            model = networks.NETWORKS[name].build()
            shape = (1, 32, 32, 3)
            params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
            counts = bitwidth.uniform(params["params"], rules, 1)
            assert len(trees.by_path(counts)) == len(model.features) + 1
