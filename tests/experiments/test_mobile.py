"""Networks friendly to few bits: depthwise layers, dead channels, one small run."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import quant
from core import trees
from core.errors import InputError, NonFiniteError
from experiments import data, models
from experiments.lpirc_mobilenet import EXPERIMENT, NAMES, WAYS, Config, is_judged
from experiments.mobile import claims, dead, networks, protocol, ranges
from experiments.models.convolution import conv2d
from experiments.models.separable import depthwise_conv
from experiments.options import build
from experiments.workdir import Run
from tests.experiments import made_up

WIDTHS = (3, 4, 5)


def filled(model, shape=(8, 8, 1), seed=0):
    """Variables without an initialiser to compile; depthwise kernels of both signs."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape)))
    names, leaves, treedef = trees.flatten(shapes)
    found = []
    for name, leaf in zip(names, leaves, strict=True):
        x = rng.normal(size=leaf.shape) / 2
        is_size = name.endswith(("scale", "var"))
        found.append(jnp.asarray(0.5 + np.abs(x) if is_size else x, leaf.dtype))
    return jax.tree.unflatten(treedef, found)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_depthwise_convolutions_are_convolutions(strides, key):
    images = jax.random.normal(key, (2, 5, 4, 3))
    kernel = jax.random.normal(key, (3, 3, 1, 3))

    @functools.partial(jax.jit, static_argnums=0)
    def run(conv, images, kernel):
        out, back = jax.vjp(conv, images, kernel)
        return out, back(jnp.sin(out))

    found = run(lambda x, k: depthwise_conv(x, k, strides), images, kernel)
    wanted = run(lambda x, k: conv2d(x, k, strides, ((1, 1), (1, 1))), images, kernel)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def shapes_of(kind, **attributes):
    x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    model = kind(**attributes)
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    logits = jax.eval_shape(model.apply, variables, x)
    return variables, logits


@pytest.mark.parametrize(
    ("kind", "count", "norms"),
    [
        (models.SmallMobileNetV1, 37_162, 16 + 32 + 64 + 64 + 128),
        (models.SmallMobileNetV2, 124_666, 2 * (16 + 32 + 64 + 64 + 128)),
    ],
)
def test_small_mobilenets(kind, count, norms):
    variables, logits = shapes_of(kind, num_classes=10)
    assert trees.size(variables["params"]) == count
    assert (logits.shape, logits.dtype) == ((2, 10), jnp.float32)
    bare, _ = shapes_of(kind, depthwise_norm=False)
    # Depthwise layers have as many norms as channels of what they are given.
    assert trees.size(bare["params"]) < count - norms
    lost = set(trees.paths(variables)) - set(trees.paths(bare))
    assert {name.split("/")[-2] for name in lost} == {"depthwise_bn"}
    with pytest.raises(InputError, match="relu6 or relu"):
        shapes_of(kind, activation="gelu")


def test_depthwise_kernels_start_as_he_has_it(key):
    """The deviation is that of nine inputs, norm or not."""
    x = jnp.zeros((1, 4, 4, 400))
    layer = models.separable.Depthwise()
    kernel = jax.jit(layer.init)(key, x)["params"]["kernel"]
    assert kernel.shape == (3, 3, 1, 400)
    assert float(kernel.std()) == pytest.approx(np.sqrt(2 / 9), rel=0.05)


@pytest.fixture(scope="module")
def base():
    variant = networks.VARIANTS["base"]
    return variant, filled(variant.build("v1", WIDTHS))


@pytest.mark.parametrize(("name", "family"), [("base", "v1"), ("l2", "v2")])
def test_dead_channels_do_not_change_the_function(name, family, key):
    variant = networks.VARIANTS[name]
    variables = filled(variant.build(family, WIDTHS))
    x = jax.random.normal(key, (2, 8, 8, 1))
    wide = jax.jit(variant.build(family, WIDTHS, 3).apply)
    wanted = jax.jit(variant.build(family, WIDTHS).apply)(variables, x)
    for count in (0, 2):
        found = dead.append(variables, count, 3, 0)
        np.testing.assert_allclose(wide(found, x), wanted, rtol=1e-5, atol=1e-6)
        folded = quant.fold_batch_norm(found, variant.pairs, variant.epsilon)
        np.testing.assert_allclose(wide(folded, x), wanted, rtol=1e-4, atol=1e-4)


def test_folded_scales_tell_dead_channels(base):
    variant, variables = base
    assert all(s.max() < 10 for s in dead.scales(variables, variant.epsilon).values())
    found = dead.append(variables, 1, 2, 0)
    scales = dead.scales(found, variant.epsilon)
    assert set(scales) == {"block1/depthwise", "block2/depthwise"}
    for ratios in scales.values():
        assert [ratios.argmax(), (ratios > 10).sum()] == [len(ratios) - 2, 1]
    var = quant.repair_variance(found["batch_stats"])["block1"]["depthwise_bn"]["var"]
    # The dead one gets the mean of the others, as does the one that is 0 throughout.
    np.testing.assert_allclose(var[-2:], var[:-2].mean(), rtol=1e-5)
    bare = filled(networks.VARIANTS["bare"].build("v1", WIDTHS))
    assert dead.scales(bare, variant.epsilon) == {}
    with pytest.raises(InputError, match="dead"):
        dead.append(variables, 3, 2, 0)


def test_the_penalty_is_of_depthwise_kernels_alone(base):
    _, variables = base
    params = variables["params"]
    zero = jax.tree.map(jnp.zeros_like, params)

    def gradients(rest, depthwise):
        optimizer = networks.penalized(optax.identity(), rest, depthwise)
        found = optimizer.update(zero, optimizer.init(params), params)[0]
        return trees.by_path(found)

    given = trees.by_path(params)
    for name, grad in gradients(0.0, 0.5).items():
        factor = 0.5 * name.endswith("depthwise/kernel")
        np.testing.assert_allclose(grad, factor * given[name])
    for name, grad in gradients(0.5, 0.0).items():
        is_other = name.endswith("/kernel") and "depthwise" not in name
        np.testing.assert_allclose(grad, 0.5 * is_other * given[name])


def test_layers_are_named_in_the_order_of_the_network(base):
    variant, variables = base
    model = variant.build("v1", WIDTHS)
    order = ranges.order_of(model, variables, jnp.zeros((1, 8, 8, 1)))
    names = [site.removeprefix("params/").removesuffix("/kernel") for site in order]
    blocks = [f"block{i}/{part}" for i in (1, 2) for part in ("depthwise", "pointwise")]
    assert names == ["conv1", *blocks, "linear"]


def test_ranges_by_products_are_chosen_layer_by_layer():
    """The second layer's best clip depends on what the first one has got."""
    first = {site: quant.Scaling(jnp.float32(2.0), jnp.float32(8.0)) for site in "ba"}

    def noise(scales):
        a, b = (float(scales[site].scale) for site in "ab")
        return {"a": -abs(a - 3.0), "b": -abs(b - a / 1.8)}

    found = ranges.by_products(noise, ["a", "b"], first)
    assert float(found["a"].scale) == pytest.approx(1.25 * 2)
    assert float(found["b"].scale) == pytest.approx(0.7 * 2)
    assert {float(each.zero) for each in found.values()} == {8.0}


def test_mean_ranges_have_the_mean_ends_of_batches():
    x = jnp.tile(jnp.array([[0.0, 1.0], [-1.0, 1.0]]), (4, 1))
    scale, zero = ranges.fitted({"a": x}, 8, "mean")["a"]
    assert zero == 85
    np.testing.assert_allclose(float(scale) * 255, 1.5, rtol=1e-6)


@pytest.mark.parametrize("how", [way for way in WAYS if way != "sqnr"])
def test_ranges_keep_zero_and_signs(how):
    rng = np.random.default_rng(0)
    signed = rng.normal(size=(16, 200)).astype(np.float32)
    signed[0, 0] = 9.0  # clipped where errors count
    inputs = {"a": jnp.asarray(signed), "b": jnp.asarray(np.abs(signed))}
    found = ranges.fitted(inputs, 4, how)
    quantizer = ranges.rules(4)[0][1].inputs
    for site, x in inputs.items():
        scale, zero = (np.asarray(part) for part in found[site])
        assert zero == np.round(zero)
        assert 0 <= zero <= 15
        assert quantizer.fake(jnp.zeros(3), found[site]).tolist() == [0.0] * 3
        near = np.asarray(quantizer.fake(x, found[site]))
        assert ((near < -1e-6).any()) == (site == "a")
        top = (15 - zero) * scale
        assert (top >= 8.0) == (how == "minmax")


def result(tensor, repaired, friendly=None):
    """What a trial finds at 8 bits with one dead channel."""
    at = {"0-tensor": 90.0, "1-tensor": tensor}
    if friendly is None:
        at |= {"0-repaired": 90.0, "1-repaired": repaired}
        at |= {"0-channel": 90.0, "1-channel": 89.0}
    noise = {key: {"conv1": 30.0, "block1/depthwise": 40.0} for key in at}
    noise["1-tensor"] = {"conv1": 30.0, "block1/depthwise": 20.0}
    parts = {"ranges": {"mse": 90.0}, "dead": at, "noise": noise}
    outliers = {} if friendly else {"block1/depthwise": [2.0, 0]}
    accuracy = {"0": 91.0, "1": 91.0}
    return {"float": 91.0, "scales": outliers, "dead": accuracy, "8": parts}


def judgements(tensor, repaired, friendly, judged=True):
    found = {}
    for seed in range(3):
        found[protocol.Trial("base", seed)] = result(tensor, repaired)
        found[protocol.Trial("l2", seed)] = result(friendly, 0.0, friendly)
    rows = list(claims.rows(found, ("mse",), judged))
    assert len({(r.metric, r.setting) for r in rows}) == len(rows)
    assert claims.figures(found, ("mse",))
    return {r.metric: r.holds for r in rows if "(" in r.metric}


def test_claims_follow_the_numbers():
    held = judgements(70.0, 90.0, 90.0)
    natural = [m for m in held if "as trained" in m]
    assert [held.pop(m) for m in natural] == [None] * 2  # no outlier: nothing claimed
    assert set(held.values()) == {True}
    assert len(held) == 8
    held = judgements(90.0, 80.0, 70.0)
    wrong = {m.split(" (")[0] for m, h in held.items() if h is False}
    assert wrong == {
        "accuracy lost by dead channels",
        "accuracy of repaired variances above dead channels",
        "accuracy of repaired variances beside no dead channel",
        "accuracy of weights per channel above per tensor",
        "accuracy of the friendly network with dead channels beside none",
    }
    assert set(judgements(70.0, 90.0, 90.0, judged=False).values()) == {None}


def test_a_variant_that_diverged_has_no_accuracy_and_nothing_is_claimed_of_it():
    found = {}
    for seed in range(3):
        found[protocol.Trial("base", seed)] = result(70.0, 90.0)
        found[protocol.Trial("relu", seed)] = result(90.0, 0.0, 90.0)
        found[protocol.Trial("l2", seed)] = result(90.0, 0.0, 90.0)
    found[protocol.Trial("l2", 1)] = {"diverged": "train_loss = nan"}
    rows = list(claims.rows(found, ("mse",), True))
    of_it = [row for row in rows if networks.VARIANTS["l2"].title in row.setting]
    assert of_it[0].setting == "+ L2, float, diverged with seed 1"
    assert math.isnan(of_it[0].measured)
    (gap,) = of_it[1:]
    assert gap.metric.startswith("largest difference")
    assert "2 variants" in gap.setting
    assert gap.holds is None
    assert not any("friendly network above" in row.metric for row in rows)
    assert any(row.holds for row in rows)  # the others are judged
    names = {s.label for f in claims.figures(found, ("mse",)) for s in f.series}
    assert networks.VARIANTS["l2"].title not in names
    only = {protocol.Trial("l2", 0): {"diverged": "train_loss = nan"}}
    assert len(list(claims.rows(only, ("mse",), True))) == 1
    assert claims.figures(only, ("mse",)) == []


def test_training_that_diverges_ends_its_own_arm_alone(monkeypatch):
    def fail(*_):
        raise NonFiniteError("train_loss = nan")

    made = object.__new__(protocol.Protocol)
    monkeypatch.setattr(made, "_trained", fail, raising=False)
    found = made.run_trial(protocol.Trial("bare", 0))
    assert found == {"diverged": "train_loss = nan"}


def test_full_runs_are_judged():
    full = build(Config, EXPERIMENT.modes["full"].overrides)
    assert set(NAMES) == set(networks.VARIANTS)
    assert set(WAYS) == set(ranges.RANGES)
    assert is_judged(full, full.examples, full.images)
    assert not is_judged(full, full.examples, full.images - 1)
    assert not is_judged(Config(), 50_000, 10_000)
    with pytest.raises(InputError, match="--widths"):
        Config(widths=(8,))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """A run on made-up digits, and its repetition."""
    dataset = made_up.dataset()
    config = Config(
        variants=("base",),
        controlled=("base",),
        widths=WIDTHS[:2],
        bits=(8,),
        ranges=("sqnr", "mse"),
        dead=(2,),
        range_images=16,
        noise_images=8,
        epochs=1,
        batch_size=8,
        images=0,
    )
    folder = tmp_path_factory.mktemp("mobile")
    about = {"experiment": "lpirc_mobilenet", "mode": "quick", "config": config}
    patch = pytest.MonkeyPatch()
    patch.setattr(data, "load", lambda name, data_dir: dataset)
    found = []
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for _ in range(2):
            with Run(folder, **about) as run:
                found.append((EXPERIMENT.run(run, config), list(run.fresh)))
    patch.undo()
    return found


def test_a_run_measures_everything_once(outcomes):
    (outcome, fresh), (again, none) = outcomes
    assert fresh == ["base-s0-train", "base-s0-dead", "base-s0-b8"]
    assert none == []
    assert again.rows == outcome.rows
    assert all(np.isfinite(row.measured) for row in outcome.rows)
    rows = {(row.metric, row.setting): row for row in outcome.rows}
    change = rows["change of accuracy", "base, 2 dead channels, float"]
    assert change.measured == 0
    metric = "signal over noise of depthwise layers, the least"
    at = "base, {} dead channels, 8 bits, {}".format
    assert 0 <= rows["accuracy", "base, 8 bits, ranges by sqnr"].measured <= 100
    clean = rows[metric, at(0, "per tensor")].measured
    assert rows[metric, at(2, "per tensor")].measured < clean - 3
    repaired = rows[metric, at(2, "variances repaired")].measured
    assert repaired == pytest.approx(clean, abs=3)
    assert all(row.holds is None for row in outcome.rows)
