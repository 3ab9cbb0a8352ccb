"""Trainings of the sparse experiments: interrupted, resumed, of a seed in one order."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from core import trees
from experiments import bcr, data, models
from experiments import gap as experiment
from experiments.block_pruning import networks as blocks
from experiments.block_pruning import protocol as block_protocol
from experiments.block_pruning.methods import pack_whole
from experiments.growing import methods as growing
from experiments.growing import networks, protocol
from experiments.models.norm import BatchNorm
from experiments.training import TrainState
from experiments.workdir import Run
from tests.experiments import made_up


class Tiny(nn.Module):
    """Three kernels and a batch norm."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = x.reshape(len(x), -1)
        x = nn.relu(BatchNorm(name="bn")(nn.Dense(8, name="fc1")(x), train))
        x = nn.relu(nn.Dense(6, name="fc2")(x))
        return nn.Dense(10, name="fc3")(x)


NETWORK = networks.Network(
    name="lenet300",
    title="Tiny",
    build=Tiny,
    fixed=(("fc3/kernel", 0.5),),
    prunable="fc[12]/kernel",
    options="lenet300",
    images=64,
)


class StoppedError(Exception):
    """Somebody pulled the plug."""


@pytest.fixture
def tiny(monkeypatch):
    """The protocols' data are a few images of two classes."""
    dataset = made_up.dataset(64, 32, side=8)
    monkeypatch.setattr(data, "load", lambda *_, **__: dataset)


@pytest.fixture
def keys(monkeypatch):
    """The keys that order the images, by what of the stage's name is the phase."""
    seen = {}

    def recorded(module, phase):
        fit = module.fit

        def recording(run, stage, *args, key, **options):
            found = tuple(np.asarray(jax.random.key_data(key)).tolist())
            seen.setdefault(phase(stage), set()).add(found)
            return fit(run, stage, *args, key=key, **options)

        monkeypatch.setattr(module, "fit", recording)

    recorded(protocol, lambda stage: stage.rsplit("-", 1)[1])
    recorded(block_protocol, lambda stage: stage.endswith("-pretrain"))
    return seen


def test_statistics_are_those_of_the_weights_as_they_are(tiny):
    """Of one image again and again, in batches of two: 0.9^48 of the old are left."""
    split = data.load("mnist").train
    images = np.repeat(split.images[1:2], 96, axis=0)
    split = split._replace(images=images, labels=np.repeat(split.labels[1:2], 96))
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(64, 8)).astype(np.float32)
    shapes = jax.eval_shape(Tiny().init, jax.random.key(0), np.ones((1, 8, 8, 1)))
    variables = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes)
    variables["params"]["fc1"]["kernel"] = kernel
    params = variables.pop("params")
    state = TrainState(np.int32(0), params, variables, ())
    measure = growing.make_measure(Tiny(), batch_size=2, mean=0.3, std=0.3)
    dtype, rank = mixed()
    with dtype, rank:
        found = jax.jit(measure)(state, split, jax.random.key(1))
    assert found.params is not None
    expected = ((split.images[0].reshape(-1) / np.float32(255) - 0.3) / 0.3) @ kernel
    mean = found.model_state["batch_stats"]["bn"]["mean"]
    np.testing.assert_allclose(mean, expected, rtol=0.01)


def mixed():
    """optax's own arithmetic mixes types."""
    return jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")


METHODS = ("one_shot", "str", "c_gap", "p_gap")


def test_grown_networks_resume_and_share_the_order_of_images(tiny, keys, tmp_path):
    config = experiment.Config(
        lenet300_methods=METHODS,
        lenet300_densities=(0.25,),
        lenet300_epochs=(3, 1),
        lenet300_stage=1,
        batch_size=32,
    )

    def about(name):
        return Run(
            tmp_path / name,
            experiment="gap",
            config=config,
            mode="quick",
            checkpoint_secs=0.0,
        )

    dtype, rank = mixed()
    with dtype, rank:
        with about("whole") as run:
            made = protocol.Protocol(run, config, NETWORK)
            trials = list(made.trials())
            whole = {t: made.run_trial(t) for t in trials}
        with about("parts") as run:
            made.run, log = run, run.log

            def pulled(stage, step, **values):
                if "p_gap" in stage and step == 2:
                    raise StoppedError
                log(stage, step, **values)

            run.log = pulled
            for trial in trials[:-1]:
                made.run_trial(trial)
            with pytest.raises(StoppedError):
                made.run_trial(trials[-1])
        with about("parts") as run:
            made.run = run
            again = {t: made.run_trial(t) for t in trials}
            assert run.fresh == [trials[-1].stage(NETWORK, p) for p in ("grow", "tune")]
    assert [t.method for t in trials] == ["dense", *METHODS]
    for trial, result in whole.items():
        assert again[trial] == pytest.approx(result)
    # 25 % of 64 * 8 + 8 * 6 weights, half of 6 * 10.
    kept = (140 + 30) / 620
    assert all(
        r["left"] <= kept + 1e-6 for t, r in whole.items() if t.method != "dense"
    )
    assert whole[trials[-1]]["explored"] == 1.0
    assert {part: len(found) for part, found in keys.items()} == {"grow": 1, "tune": 1}


def test_pruned_blocks_resume_and_share_the_order_of_images(
    tiny, keys, tmp_path, monkeypatch
):
    small = models.LeNet300(hidden=(16, 8))
    monkeypatch.setattr(models, "create", lambda *_: small)
    config = bcr.Config(
        methods=("unstructured", "bcr", "filter"),
        rates=(4.0,),
        blocks=(8,),
        block=8,
        curve_rate=4.0,
        epochs=(1, 2),
        batch_size=32,
        batches=(2,),
        turns=1,
    )
    listed = list(block_protocol.trials(config, "lenet300", (0,)))
    dtype, rank = mixed()
    found = []
    for _ in range(2):
        run = Run(tmp_path, experiment="bcr", config=config, mode="quick")
        with run, dtype, rank:
            made = block_protocol.Protocol(run, config)
            done = {t: made.run_trial(t) for t in listed}
            found.append({t: result for t, (_, result) in done.items()})
    assert run.fresh == []
    assert found[0] == found[1]
    assert {start: len(seen) for start, seen in keys.items()} == {True: 1, False: 1}
    for trial in listed[1:]:
        state, result = done[trial]
        masks = state.opt_state.masks
        assert result["kept"] == sum(int(m.sum()) for m in jax.tree.leaves(masks))
        for path, mask in trees.by_path(masks).items():
            assert not np.any(np.asarray(trees.by_path(state.params)[path])[~mask])
    times = made.time_networks({t: state for t, (state, _) in done.items()})
    more = {f"{listed[1].stage}-scipy", f"{listed[3].stage}-compact"}
    assert set(times) == {t.stage for t in listed} | more
    assert all(ms["2"] > 0 for ms in times.values())
    # The compact network is the pruned one, and smaller.
    state, _ = done[listed[3]]
    network = blocks.NETWORKS["lenet300"]
    form = network.compact(state.params, state.opt_state.masks, pack_whole)
    assert [layer.shape for layer, _ in form] == [(64, 4), (4, 2), (2, 10)]
    with dtype, rank:
        images = np.asarray(made.test.images, np.float32) / 255
        expected = small.apply({"params": state.params}, images)
        logits = network.run(form, images.reshape(32, -1).T)
        np.testing.assert_allclose(logits.T, expected, atol=1e-5)
