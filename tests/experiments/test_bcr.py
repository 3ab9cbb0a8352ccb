"""The block-pruning experiment: packed networks are the trained ones, honest claims."""

import jax
import numpy as np
import pytest

import gap
from core import trees
from core.errors import InputError, UnknownNameError
from experiments import models
from experiments.bcr import EXPERIMENT, Config, is_judged
from experiments.block_pruning import claims, methods, networks
from experiments.block_pruning.protocol import Trial, trials
from experiments.options import build


@pytest.mark.parametrize("name", sorted(networks.NETWORKS))
def test_packed_networks_are_the_pruned_ones(name, key):
    network = networks.NETWORKS[name]
    model = models.create(network.model)
    shape = models.MODELS[network.model].input_shape
    x = jax.random.normal(key, (3, *shape))
    sizes = jax.eval_shape(model.init, key, x)["params"]
    rules = network.rules(8.0, gap.Unstructured(), sizes)

    @jax.jit
    def prune(key):
        params = model.init(key, x)["params"]
        masks = gap.magnitude_masks(params, rules)
        pruned = gap.apply_masks(params, masks)
        return params, masks, pruned, model.apply({"params": pruned}, x)

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        params, masks, pruned, expected = prune(key)
    kept, full = networks.pruned_size(params, masks)
    assert full / kept == pytest.approx(8.0, rel=0.01)
    none = trees.map_partial(lambda _: None, params)
    whole = sum(w.size for w in jax.tree.leaves(params))
    assert networks.pruned_size(params, none) == (whole, whole)
    run = jax.jit(network.run)
    for method, tree in (("unstructured", params), ("bcr", params), ("dense", pruned)):
        # Any mask packs into blocks; the dense form takes what is pruned already.
        pack = methods.packer(method, 16)
        form = network.pack(tree, masks if method != "dense" else none, pack)
        y = run(form, x.reshape(3, -1).T)
        np.testing.assert_allclose(y.T, expected, rtol=1e-4, atol=1e-4)
    form = networks.in_numpy(network.pack(params, masks, methods.pack_scipy))
    y = network.run_scipy(form, np.asarray(x).reshape(3, -1).T)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.T, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(networks.NETWORKS))
@pytest.mark.parametrize("method", ["bcr", "filter"])
def test_patterns_keep_as_many_weights_whatever_the_block(name, method):
    """Blocks at the border keep all they have: a density of units kept a third more."""
    network = networks.NETWORKS[name]
    shape = (1, *models.MODELS[network.model].input_shape)
    model = models.create(network.model)
    params = jax.eval_shape(model.init, jax.random.key(0), np.ones(shape))["params"]
    leaves = trees.by_path(params)
    for block in (16, 32, 64, 128):
        rules = network.rules(8.0, methods.pattern_of(method, block), params)
        targets = trees.by_path(gap.targets(params, rules))
        size = sum(leaves[path].size for path in targets)
        kept = sum(t.weights(leaves[path].shape) for path, t in targets.items())
        assert size / kept == pytest.approx(8.0, rel=0.06)


def test_every_block_has_a_counted_rate():
    config, values = found(96.0, 95.0)
    values[Trial("lenet300", 0, "bcr", 8.0, 64)] = {
        "accuracy": 95.5,
        "kept": 10,
        "size": 70,
    }
    rows = {(r.metric, r.setting): r for r in claims.accuracy_rows(values, config)}
    setting = "LeNet-300-100, 8x, BCR 64x64"
    assert rows["rate, counted from masks", setting].measured == 7.0


def test_trials_are_listed_once_and_start_with_the_control():
    config = Config(rates=(4.0, 8.0), block=32, blocks=(16, 32), curve_rate=8.0)
    listed = list(trials(config, "gru", (0,)))
    assert listed[0] == Trial("gru", 0, "dense", 1.0)
    assert len(listed) == len(set(listed)) == 1 + 2 * 4 + 1
    assert Trial("gru", 0, "bcr", 8.0, 16) in listed
    assert len({t.stage for t in listed}) == len(listed)


def found(bcr, filters, seeds=(0, 1, 2)):
    """Accuracies of BCR are half a point apart, all others are the same."""
    config = Config()
    values = {"unstructured": 97.0, "bcr": bcr, "bcr_inputs": 90.0, "filter": filters}
    out = {}
    for seed in seeds:
        out[Trial("lenet300", seed, "dense", 1.0)] = {"accuracy": 98.0}
        for method, accuracy in values.items():
            block = methods.block_of(method, config.block)
            trial = Trial("lenet300", seed, method, 8.0, block)
            accuracy += 0.5 * (seed - 1) * (method == "bcr")
            out[trial] = {"accuracy": accuracy, "kept": 10, "size": 80}
    return config, out


@pytest.mark.parametrize(("bcr", "holds"), [(96.0, True), (95.5, False), (94, False)])
def test_accuracy_claims_need_two_standard_errors(bcr, holds):
    config, values = found(bcr, 95.0)
    rows = {(r.metric, r.setting): r for r in claims.accuracy_rows(values, config)}
    lead = next(r for (m, _), r in rows.items() if m.endswith("filter (better)"))
    assert lead.holds is holds  # the standard error is 0.29
    assert lead.measured == pytest.approx(bcr - 95)
    assert "3 seeds, s.e. 0.29" in lead.setting
    row = rows["accuracy", "LeNet-300-100, 8x, BCR 16x16"]
    assert row.baseline == pytest.approx(98.0)
    setting = "LeNet-300-100, 8x, BCR 16x16"
    assert rows["rate, counted from masks", setting].measured == 8.0
    assert [r.holds for r in rows.values()].count(None) == len(rows) - 1


def test_few_seeds_or_short_trainings_are_not_judged():
    config, values = found(96.0, 95.0, seeds=(0, 1))
    assert all(r.holds is None for r in claims.accuracy_rows(values, config))
    config, values = found(96.0, 95.0)
    assert all(r.holds is None for r in claims.accuracy_rows(values, config, False))
    full = build(Config, EXPERIMENT.modes["full"].overrides)
    assert is_judged(full, 20_000)
    assert not is_judged(full, 19_999)
    assert not is_judged(Config(), 60_000)


@pytest.mark.parametrize(
    ("bcr", "unstructured", "scipy", "holds"),
    [
        (1.0, 3.0, 3.0, True),
        (2.5, 3.0, 3.0, False),
        (1.0, 0.5, 3.0, False),
        (1.0, 3.0, 0.5, False),
        (1.96, 3.0, 3.0, None),
        (2.04, 3.0, 3.0, None),
    ],
)
def test_time_claims_need_every_rival(bcr, unstructured, scipy, holds):
    times = {
        "d": {"16": 2.0},
        "u": {"16": unstructured},
        "s": {"16": scipy},
        "b": {"16": bcr},
    }
    titles = methods.TITLES
    labels = {"d": "dense, 1x", "b": "BCR, 8x"}
    labels |= {
        k: f"{titles[m]}, 8x" for k, m in (("u", "unstructured"), ("s", "scipy"))
    }
    rows = list(claims.time_rows("net", times, labels, "d"))
    assert [r.holds for r in rows if "BCR" in r.setting] == [holds]
    assert all(r.holds is None for r in rows if "BCR" not in r.setting)
    assert all(r.baseline == 2.0 for r in rows)


def test_bad_options_are_named():
    with pytest.raises(UnknownNameError, match="method"):
        methods.pattern_of("magic", 8)
    with pytest.raises(InputError, match="--rates"):
        Config(rates=())
    with pytest.raises(InputError, match="two numbers"):
        Config(epochs=(1, 2, 3))


def test_figures_have_every_block():
    config, values = found(96.0, 95.0)
    values[Trial("lenet300", 0, "bcr", 8.0, 64)] = {"accuracy": 95.5}
    choice = {"block": 16, "ms": {"16": 1.0, "64": 0.9}}
    layer = {"dense-1": {str(b): 1.0 for b in config.batches}}
    made = claims.figures(values, choice, layer, config)
    curve = next(f for f in made if "accuracy by block" in f.title)
    assert list(curve.series[0].x) == [16, 64]
    assert list(curve.series[0].y) == [96.0, 95.5]
    assert made[-1].series[0].y == [1.0]
