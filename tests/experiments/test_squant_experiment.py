"""The experiment of rounding without data: exact layers, computed claims, one run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core import trees
from core.errors import InputError
from experiments import data, models
from experiments.data import Dataset, Split
from experiments.models import PRETRAINED
from experiments.options import build
from experiments.rounding import claims, layers, networks, protocol
from experiments.squant import EXPERIMENT, Config, is_judged
from experiments.workdir import Run
from quant import normalization

SMALL = networks.DigitsNet(features=(2, 3))


def filled(model, shape, seed=0):
    """Variables without an initialiser to compile."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))
    return jax.tree.map(
        lambda s: jnp.asarray(0.2 + np.abs(rng.normal(size=s.shape)) / 3, s.dtype),
        shapes,
    )


@pytest.mark.parametrize(("stride", "side"), [(1, 6), (2, 6), (2, 7)])
def test_windows_are_what_convolutions_multiply(stride, side, key):
    first, second = jax.random.split(key)
    x = jax.random.normal(first, (2, side, side, 3))
    w = jax.random.normal(second, (3, 3, 3, 5))

    @jax.jit
    def both(x, w):
        seen = layers.windows(x, w.shape, stride)
        found = jnp.tensordot(seen, w.reshape(9, 3, 5), ((1, 2), (0, 1)))
        return found, models.layers.conv2d(x, w, (stride, stride), ((1, 1), (1, 1)))

    found, conv = both(x, w)
    np.testing.assert_allclose(found, conv.reshape(-1, 5), rtol=1e-4, atol=1e-5)
    assert layers.windows(x.reshape(2, -1), (side * side * 3, 4), 1).shape[:2] == (2, 1)


def test_output_errors_are_those_of_the_layer(key):
    x = jax.nn.relu(jax.random.normal(key, (200, 4, 3)) + 1)
    w = jax.random.normal(key, (2, 2, 3, 5))
    old = {"params": {"conv1": {"kernel": w}}}
    new = {"params": {"conv1": {"kernel": jnp.round(w)}}}
    name = "params/conv1/kernel"
    seen = {name: (x.mean(0), normalization.second_moment(x))}
    whole, rest, signs = layers.output_errors(seen, old, new)[name]
    error = (jnp.round(w) - w).reshape(4, 3, 5)
    out = jnp.tensordot(x, error, 2)
    assert whole == pytest.approx(float((out**2).mean()), rel=1e-4)
    assert rest == pytest.approx(float(out.var(0).mean()), rel=1e-3)
    drawn = jax.random.rademacher(key, (400, *x.shape), x.dtype) * x[None]
    random = (jnp.tensordot(drawn, error, 2) ** 2).mean()
    assert signs == pytest.approx(float(random), rel=0.02)


def test_bounds_of_every_layer():
    variables = filled(SMALL, (8, 8, 1))
    kept = {name: variables["params"][name] for name in ("conv2", "linear")}
    found = layers.bounds({"params": kept}, 3, "ekc")
    assert set(found) == {"params/conv2/kernel", "params/linear/kernel"}
    assert all(channel <= 0.5 + 1e-3 for _, channel, _ in found.values())
    kernel, _, loose = found["params/conv2/kernel"]
    assert kernel <= 1 + 1e-3
    assert loose == 0


def test_kernels_at_an_end_of_the_grid_have_nothing_left_to_move():
    """One kernel of weights just beyond the last step; the other spans the range."""
    far = np.linspace(-1.7, 1.2, 9)  # the slope of the grid is 1, its zero 0
    w = np.stack([np.full(9, 1.3), far], 1).reshape(3, 3, 2, 1).astype(np.float32)
    tree = {"params": {"conv1": {"kernel": jnp.asarray(w)}}}
    kernel, _, loose = layers.bounds(tree, 2, "ekc")["params/conv1/kernel"]
    assert kernel == pytest.approx(9 * 0.3, rel=1e-4)
    assert loose == 0


@pytest.mark.parametrize("fold", [True, False])
def test_corrected_biases_keep_mean_outputs(fold):
    """Channels before a ReLU have the means that the float network's have."""
    variables = filled(SMALL, (8, 8, 1))
    inputs = networks.NETWORKS["digits"].inputs(variables["params"])
    start = variables
    if fold:
        start = normalization.fold_batch_norm(variables, networks.PAIRS)
    moved = jax.tree.map(jnp.array, start)
    for layer in inputs:
        moved["params"][layer]["kernel"] += 0.1
    fixed = layers.corrected(start, moved, inputs)
    for layer, normal in inputs.items():
        mean = normalization.rectified(*normal).mean

        def output(tree, layer=layer, mean=mean):
            kernel = tree["params"][layer]["kernel"]
            out = mean @ kernel.reshape(-1, *kernel.shape[-2:]).sum(0)
            if layer == "linear":
                return out + tree["params"][layer]["bias"]
            return out - tree["batch_stats"][layer.replace("conv", "bn")]["mean"]

        np.testing.assert_allclose(output(fixed), output(start), rtol=1e-4)
        assert np.all(np.abs(output(moved) - output(start)) > 1e-2)


@pytest.fixture(scope="module")
def resnet20():
    return filled(models.create("resnet20"), (32, 32, 3))["params"]


@pytest.mark.parametrize("name", ["digits", "resnet20"])
def test_every_layer_but_the_first_has_an_input_and_a_norm(name, resnet20):
    params = resnet20 if name == "resnet20" else filled(SMALL, (8, 8, 1))["params"]
    inputs = networks.NETWORKS[name].inputs(params)
    flat = trees.by_path(params)
    kernels = {n.removesuffix("/kernel") for n in flat if n.endswith("kernel")}
    assert set(inputs) == kernels - {"conv1"}
    for layer, (mean, deviation) in inputs.items():
        assert mean.shape == deviation.shape == flat[f"{layer}/kernel"].shape[-2:-1]
    assert set(normalization.norms_of(params, networks.PAIRS)) == kernels - {"linear"}


def test_networks_of_files_are_the_pretrained_ones():
    files = {n for n, network in networks.NETWORKS.items() if network.pretrained}
    assert files == set(PRETRAINED)


def test_inputs_of_a_block_add_up(resnet20):
    params = resnet20
    inputs = networks.NETWORKS["resnet20"].inputs(params)
    first = normalization.rectified(params["bn1"]["bias"], params["bn1"]["scale"])
    second = params["layer1_0"]["bn2"]
    mean, deviation = inputs["layer1_1/conv1"]
    np.testing.assert_allclose(mean, first.mean + second["bias"], rtol=1e-6)
    np.testing.assert_allclose(
        deviation**2, first.var + second["scale"] ** 2, rtol=1e-5
    )
    wide = inputs["layer2_1/conv1"][0] - params["layer2_0"]["bn2"]["bias"]
    assert not np.any(wide[:8])  # the shortcut of option A has zeros on both sides
    assert np.all(np.abs(wide[8:24]) > 1e-3)
    assert list(inputs).index("layer1_2/conv1") < list(inputs).index("layer2_0/conv1")


def test_truth_values_are_kept_as_text():
    right = np.random.default_rng(0).random(1003) < 0.3
    np.testing.assert_array_equal(protocol.unpack(protocol.pack(right)), right)


def texts(*accuracies, n=1000):
    return [protocol.pack(np.arange(n) < round(n * a)) for a in accuracies]


def test_leads_are_over_images_or_seeds():
    found, text = claims.lead(texts(0.9), texts(0.8))
    assert found.mean == pytest.approx(10)
    # 100 of 1,000 images differ: 100 * sqrt(0.1 * 0.9 / 1,000).
    assert found.error == pytest.approx(0.949, rel=1e-2)
    assert text == "1,000 images, s.e. 0.95"
    assert found.better() is True
    found, text = claims.lead(texts(0.9, 0.9, 0.8), texts(0.8, 0.8, 0.8))
    assert (found.seeds, text[:7]) == (3, "3 seeds")
    assert found.better() is False
    assert found.better(judged=False) is None


def result(order=(0.5, 0.6, 0.7, 0.8), kernel=0.9, whole=0.5, rest=0.8, ms=5.0):
    e, ec, ek, ekc = (texts(a)[0] for a in order)
    names = ["params/conv1/kernel", "params/conv2/kernel"]
    roundings = {"e": 1.0, "ec": 1.0, "ek": 1.0, "ekc": None}
    errors = {
        mode: {n: [1.0, 1.0, 1.0] if x else [whole, rest, 1.2] for n in names}
        for mode, x in roundings.items()
    }
    sums = {m: {n: [min(kernel, 0.5), 0.4, 0.0] for n in names} for m in roundings}
    sums["ekc"] = {n: [kernel, 0.4, 0.0] for n in names}
    return {
        "float": texts(0.9)[0],
        "rounded": {2: {"e": e, "bias": e, "ec": ec, "ek": ek, "ekc": ekc}},
        "inputs": {4: {"float": e, "e": e, "ekc": ekc}},
        "bounds": {"2": sums},
        "layers": {"errors": {"2": errors}, "fits": {n: [0.9] * 4 for n in names}},
        "ms": {"e": 1.0, "ekc": ms},
    }


def held(rows, word):
    return [r.holds for r in rows if word in r.metric]


def test_claims_follow_the_numbers():
    trial = protocol.Trial("resnet20", 0)
    rows = list(claims.rows({trial: result()}, True))
    assert held(rows, "(better)") == [True] * 4
    assert held(rows, "at most") == [True] * 3
    assert held(rows, "(below 1)") == [True]
    assert held(rows, "(not below 1)") == [False]
    assert held(rows, "time to quantize") == [None] * 2
    assert len({(r.metric, r.setting) for r in rows}) == len(rows)
    assert len(claims.figures({trial: result()})) == 2
    worse = result((0.5, 0.7, 0.6, 0.8), 1.2, 1.3, 1.0, 2e3)
    rows = list(claims.rows({trial: worse}, True))
    assert held(rows, "(better)") == [True, False, True, True]
    assert held(rows, "at most") == [True, False, True]
    assert held(rows, "(below 1)") == [False]
    assert held(rows, "(not below 1)") == [True]
    rows = list(claims.rows({trial: result()}, False))
    assert held(rows, "(better)") == [None] * 4
    seeds = {protocol.Trial("digits", s): result() for s in (0, 1)}
    rows = list(claims.rows(seeds, True))
    assert held(rows, "(better)") == [None] * 4  # two seeds
    assert rows[0].std == 0


def test_full_runs_are_judged():
    full = build(Config, EXPERIMENT.modes["full"].overrides)
    assert is_judged(full, "digits", 8_000, 10_000)
    assert not is_judged(full, "digits", 4_000, 10_000)
    assert not is_judged(Config(), "digits", 8_000, 10_000)
    assert is_judged(Config(), "resnet20", 0, 10_000)
    assert not is_judged(full, "resnet20", 0, 500)
    with pytest.raises(InputError, match="--bits"):
        Config(bits=())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run on made-up digits with a network of few channels, and its repetition."""
    rng = np.random.default_rng(0)

    def split(n):
        labels = (np.arange(n) % 10).astype(np.int32)
        images = rng.integers(0, 100, (n, 8, 8, 1))
        images[np.arange(n), labels % 8, labels // 8 * 5] += 150
        return Split(images.astype(np.uint8), labels)

    dataset = Dataset("mnist", "made up", split(64), split(30), 10, (0.3,), (0.3,))
    network = networks.NETWORKS["digits"]
    small = networks.Network(
        "digits", "Small", lambda: SMALL, False, network.inputs, network.stride
    )
    config = Config(bits=(2,), epochs=1, batch_size=16, turns=1, layer_images=8)
    folder = tmp_path_factory.mktemp("squant")
    about = {"experiment": "squant", "mode": "quick", "config": config}
    patch = pytest.MonkeyPatch()
    patch.setattr(data, "load", lambda name, data_dir: dataset)
    patch.setitem(networks.NETWORKS, "digits", small)
    outcomes = []
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for _ in range(2):
            with Run(folder, **about) as run:
                outcomes.append((EXPERIMENT.run(run, config), list(run.fresh)))
    patch.undo()
    return outcomes


def test_a_run_measures_everything_once(finished):
    (outcome, fresh), (again, none) = finished
    stages = ("train", "float", "b2", "a4", "bounds", "layers", "time")
    assert fresh == [f"digits-s0-{stage}" for stage in stages]
    assert none == []
    assert again.rows == outcome.rows
    settings = functools.reduce(lambda text, row: text + row.setting, outcome.rows, "")
    for title in claims.TITLES.values():
        assert title in settings
    assert held(outcome.rows, "at most") == [True] * 3
    assert held(outcome.rows, "(better)") == [None] * 4
    assert all(np.isfinite(row.measured) for row in outcome.rows)
    assert outcome.data == ("made up",)
