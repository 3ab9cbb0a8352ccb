"""The block-pruning experiment: packed networks are the trained ones, honest claims."""

import jax
import numpy as np
import pytest

import gap
from core import trees
from core.errors import InputError, UnknownNameError
from experiments import models
from experiments.bcr import Config
from experiments.block_pruning import claims, methods, networks
from experiments.block_pruning.protocol import Trial, trials


@pytest.mark.parametrize("name", sorted(networks.NETWORKS))
def test_packed_networks_are_the_pruned_ones(name, key):
    network = networks.NETWORKS[name]
    model = models.create(network.model)
    shape = models.MODELS[network.model].input_shape
    x = jax.random.normal(key, (3, *shape))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        params = model.init(key, x)["params"]
        rules = network.rules(8.0, gap.Unstructured())
        masks = gap.magnitude_masks(params, rules)
        pruned = gap.apply_masks(params, masks)
        expected = model.apply({"params": pruned}, x)
    kept, full = networks.pruned_size(params, masks)
    assert full / kept == pytest.approx(8.0, rel=0.01)
    none = trees.map_partial(lambda _: None, params)
    assert networks.pruned_size(params, none)[0] == 0
    run = jax.jit(network.run)
    for method, tree in (("unstructured", params), ("bcr", params), ("dense", pruned)):
        # Any mask packs into blocks; the dense form takes what is pruned already.
        pack = methods.packer(method, 16)
        form = network.pack(tree, masks if method != "dense" else none, pack)
        y = run(form, x.reshape(3, -1).T)
        np.testing.assert_allclose(y.T, expected, rtol=1e-4, atol=1e-4)


def test_trials_are_listed_once_and_start_with_the_control():
    config = Config(rates=(4.0, 8.0), block=32, blocks=(16, 32), curve_rate=8.0)
    listed = list(trials(config, "gru", (0,)))
    assert listed[0] == Trial("gru", 0, "dense", 1.0)
    assert len(listed) == len(set(listed)) == 1 + 2 * 4 + 1
    assert Trial("gru", 0, "bcr", 8.0, 16) in listed
    assert len({t.stage for t in listed}) == len(listed)


def found(bcr, filters):
    config = Config()
    values = {"unstructured": 97.0, "bcr": bcr, "bcr_inputs": 90.0, "filter": filters}
    out = {Trial("lenet300", 0, "dense", 1.0): {"accuracy": 98.0}}
    for method, accuracy in values.items():
        block = methods.block_of(method, config.block)
        trial = Trial("lenet300", 0, method, 8.0, block)
        out[trial] = {"accuracy": accuracy, "kept": 10, "size": 80}
    return config, out


@pytest.mark.parametrize(("bcr", "holds"), [(96.0, True), (94.9, False)])
def test_accuracy_claims_are_computed(bcr, holds):
    config, values = found(bcr, 95.0)
    rows = {r.setting: r for r in claims.accuracy_rows(values, config)}
    row = rows["LeNet-300-100, 8x, BCR 16x16"]
    assert row.holds is holds
    assert row.baseline == pytest.approx(98.0)
    assert rows["LeNet-300-100, 8x, filter"].holds is None
    assert rows["LeNet-300-100, 8x, BCR"].measured == 8.0


@pytest.mark.parametrize(
    ("bcr", "unstructured", "holds"),
    [(1.0, 3.0, True), (2.5, 3.0, False), (1.0, 0.5, False)],
)
def test_time_claims_need_both_rivals(bcr, unstructured, holds):
    times = {"d": {"16": 2.0}, "u": {"16": unstructured}, "b": {"16": bcr}}
    labels = {"d": "dense, 1x", "u": "unstructured, 8x", "b": "BCR, 8x"}
    rows = list(claims.time_rows("net", times, labels, "d"))
    assert [r.holds for r in rows] == [None, None, holds]
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
