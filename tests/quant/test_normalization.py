"""Folding, repair of variances, ranges and fits: exact where there is a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import quant
from core.errors import InputError, NonFiniteError, RuleError, ShapeError
from quant import normalization as norm
from quant.calibration import Scaling

EPS = 1e-3
PAIRS = [(r"(.*)conv(\d)", r"\1bn\2"), ("dense", "bn")]


def variables(seed=0, **changes):
    """A convolution, a depthwise one with a bias, a dense layer, a norm behind each."""
    rng = np.random.default_rng(seed)

    def draw(*shape, low=0.0):
        x = rng.normal(size=shape) if not low else rng.uniform(low, 2, shape)
        return jnp.asarray(x, jnp.float32)

    def affine(n):
        return {"scale": draw(n), "bias": draw(n)}

    def moments(n):
        return {"mean": draw(n), "var": draw(n, low=0.1)}

    params = {
        "a_1": {"conv1": {"kernel": draw(3, 3, 2, 4)}, "bn1": affine(4)},
        "conv2": {"kernel": draw(3, 3, 1, 4), "bias": draw(4)},
        "bn2": affine(4),
        "dense": {"kernel": draw(4, 5), "bias": draw(5)},
        "bn": affine(5),
        "out": {"kernel": draw(5, 3)},
    }
    stats = {"a_1": {"bn1": moments(4)}, "bn2": moments(4), "bn": moments(5)}
    return {"params": params, "batch_stats": stats, **changes}


def convolve(x, kernel, groups=1):
    order = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=order, feature_group_count=groups
    )


def apply(variables, x):
    """The network of `variables`, each norm as flax evaluates it."""
    p, s = variables["params"], variables["batch_stats"]

    def normalize(x, affine, stats):
        rows = {k: v.reshape((1,) * (x.ndim - 1) + (-1,)) for k, v in stats.items()}
        y = (x - rows["mean"]) / jnp.sqrt(rows["var"] + EPS)
        for leaf, op in (("scale", jnp.multiply), ("bias", jnp.add)):
            if leaf in affine:
                y = op(y, affine[leaf].reshape((1,) * (x.ndim - 1) + (-1,)))
        return y

    x = convolve(x, p["a_1"]["conv1"]["kernel"])
    x = jax.nn.relu(normalize(x, p["a_1"]["bn1"], s["a_1"]["bn1"]))
    x = convolve(x, p["conv2"]["kernel"], 4) + p["conv2"]["bias"][None, None, None]
    x = jax.nn.relu(normalize(x, p["bn2"], s["bn2"])).mean((1, 2))
    x = x @ p["dense"]["kernel"] + p["dense"]["bias"][None]
    return normalize(x, p["bn"], s["bn"]) @ p["out"]["kernel"]


def test_folded_networks_compute_the_same(key):
    x = jax.random.normal(key, (3, 6, 6, 2))
    whole = variables()
    folded = norm.fold_batch_norm(whole, PAIRS, EPS)
    jitted = jax.jit(lambda v: norm.fold_batch_norm(v, PAIRS, EPS))(whole)
    assert jax.tree.structure(folded) == jax.tree.structure(whole)
    for a, b in zip(jax.tree.leaves(folded), jax.tree.leaves(jitted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(apply(folded, x), apply(whole, x), rtol=1e-4, atol=1e-4)
    p, s = folded["params"], folded["batch_stats"]
    np.testing.assert_array_equal(p["conv2"]["bias"], 0)
    np.testing.assert_array_equal(p["bn2"]["scale"], 1)
    np.testing.assert_array_equal(s["bn2"]["mean"], 0)
    np.testing.assert_array_equal(p["out"]["kernel"], whole["params"]["out"]["kernel"])
    again = norm.fold_batch_norm(folded, PAIRS, EPS)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(folded), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("eps", [1e-7, 1e-5, 1e-3, 0.3])
def test_what_is_left_of_a_norm_divides_by_one(eps):
    folded = norm.fold_batch_norm(variables(), PAIRS, eps)
    var = folded["batch_stats"]["bn"]["var"]
    np.testing.assert_array_equal(var + eps, 1)
    np.testing.assert_array_equal(jnp.sqrt(var + eps), 1)


def test_norms_without_scale_or_bias(key):
    x = jax.random.normal(key, (2, 6, 6, 2))
    whole = variables()
    whole["params"]["bn2"] = {"scale": whole["params"]["bn2"]["scale"]}
    whole["params"]["bn"] = {"bias": whole["params"]["bn"]["bias"]}
    folded = norm.fold_batch_norm(whole, PAIRS, EPS)
    assert jax.tree.structure(folded) == jax.tree.structure(whole)
    np.testing.assert_allclose(apply(folded, x), apply(whole, x), rtol=1e-4, atol=1e-4)


def test_types_stay():
    whole = jax.tree.map(lambda w: w, variables())
    kernel = whole["params"]["conv2"]["kernel"].astype(jnp.bfloat16)
    whole["params"]["conv2"]["kernel"] = kernel
    folded = norm.fold_batch_norm(whole, PAIRS, EPS)
    types = jax.tree.map(lambda w: w.dtype, whole)
    assert jax.tree.map(lambda w: w.dtype, folded) == types


def test_the_first_pair_wins():
    pairs = [("conv2", "elsewhere"), (r"(.*)conv(\d)", r"\1bn\2")]
    found = norm.norms_of(variables()["params"], pairs)
    assert found == {"conv2": "elsewhere", "a_1/conv1": "a_1/bn1"}


def test_bad_pairs_are_named():
    whole = variables()
    with pytest.raises(RuleError, match=r"conf.*a_1/conv1"):
        norm.fold_batch_norm(whole, [("conf", "bn")])
    with pytest.raises(RuleError, match=r"batch_stats/no/mean.*a_1/bn1, bn, bn2"):
        norm.fold_batch_norm(whole, [("conv2", "no")])
    with pytest.raises(RuleError, match="regular expression"):
        norm.fold_batch_norm(whole, [("(conv2", "bn2")])
    with pytest.raises(RuleError, match="template"):
        norm.fold_batch_norm(whole, [("conv2", r"\1bn2")])
    with pytest.raises(RuleError, match="two layers"):
        norm.fold_batch_norm(whole, [("conv2|a_1/conv1", "bn2")])
    with pytest.raises(ShapeError, match="conv2/kernel"):
        norm.fold_batch_norm(whole, [("conv2", "bn")])
    with pytest.raises(InputError, match="batch_stats"):
        norm.fold_batch_norm({"params": whole["params"]}, PAIRS)
    with pytest.raises(InputError, match="eps"):
        norm.fold_batch_norm(whole, PAIRS, 0.0)
    whole["batch_stats"]["bn"]["var"] = jnp.full(5, jnp.nan)
    with pytest.raises(NonFiniteError, match="bn"):
        norm.fold_batch_norm(whole, PAIRS)


@pytest.mark.data
@pytest.mark.parametrize("name", ["resnet20"])
def test_the_trained_network_stays_what_it_was(name, data_root):
    from experiments import models

    if not (data_root / "pretrained").is_dir():
        pytest.skip("no pretrained networks")
    whole = models.load_pretrained(name, data_root / "pretrained")
    folded = norm.fold_batch_norm(whole, [(r"(.*)conv(\d)", r"\1bn\2")], 1e-5)
    with np.load(data_root / "pretrained" / "cifar10_lossless_200.npz") as clean:
        x = jnp.asarray(clean["image"][:20] / np.float32(255)) - 0.45
    run = jax.jit(models.create(name).apply)
    out = run(whole, x * 4)
    np.testing.assert_allclose(run(folded, x * 4), out, rtol=1e-4, atol=1e-4)


def test_dead_channels_get_the_mean_of_the_others():
    var = jnp.array([1.0, 2.0, 3.0, 0.0, 1e-9, 2.0])
    stats = {"a": {"mean": jnp.arange(6.0), "var": var}, "b": {"var": jnp.ones(3)}}
    found = norm.repair_variance(stats)
    np.testing.assert_array_equal(found["a"]["var"], [1, 2, 3, 2, 2, 2])
    np.testing.assert_array_equal(found["a"]["mean"], stats["a"]["mean"])
    np.testing.assert_array_equal(found["b"]["var"], 1)
    kept = norm.repair_variance(stats, relative=1e-10)
    np.testing.assert_allclose(kept["a"]["var"][4], 1e-9)
    most = jnp.array([0.0, 0, 0, 0, 0, 4.0, 2.0])
    np.testing.assert_array_equal(
        norm.repair_variance({"var": most})["var"], [3, 3, 3, 3, 3, 4, 2]
    )
    np.testing.assert_array_equal(norm.repair_variance({"var": jnp.zeros(3)})["var"], 0)
    np.testing.assert_array_equal(
        jax.jit(norm.repair_variance)({"var": var})["var"][3], 2
    )
    with pytest.raises(InputError, match="relative"):
        norm.repair_variance(stats, -1.0)
    with pytest.raises(NonFiniteError, match="batch_stats"):
        norm.repair_variance({"var": jnp.array([1.0, jnp.inf])})


def test_moments_of_rectified_normals():
    mean = jnp.array([-3.0, -0.5, 0.0, 0.7, 5.0])
    deviation = jnp.array([1.0, -2.0, 1.0, 0.3, 1.0])
    found = norm.rectified(mean, deviation)
    # By the midpoint rule over 10 deviations to both sides.
    step = 20 / 200_000
    z = (np.arange(200_000) + 0.5) * step - 10
    density = np.exp(-z * z / 2) / np.sqrt(2 * np.pi) * step
    x = np.asarray(mean)[:, None] + np.abs(deviation)[:, None] * z
    y = np.maximum(x, 0)
    np.testing.assert_allclose(found.mean, (y * density).sum(1), rtol=1e-4)
    np.testing.assert_allclose(found.square, (y * y * density).sum(1), rtol=1e-3)
    np.testing.assert_allclose(found.share, ((x > 0) * density).sum(1), rtol=1e-3)
    assert (found.var >= 0).all()
    flat = norm.rectified(jnp.array([-1.0, 0.0, 2.0]), jnp.zeros(3))
    np.testing.assert_array_equal(flat.mean, [0, 0, 2])
    np.testing.assert_array_equal(flat.square, [0, 0, 4])
    np.testing.assert_array_equal(flat.share, [0, 0, 1])
    far = norm.rectified(jnp.array([-60.0]), jnp.ones(1))
    assert [float(x[0]) for x in far] == [0, 0, 0]


def test_multipliers_are_the_published_ones_and_rise():
    found = [norm.clip_multiplier(bits) for bits in range(1, 17)]
    assert (found[3], found[5], found[7]) == (12, 14, 25)
    assert found[4] == pytest.approx(np.sqrt(12 * 14))
    assert found[9] == pytest.approx(25 * 25 / 14)
    assert found == sorted(found)
    with pytest.raises(InputError, match="bits"):
        norm.clip_multiplier(0)


def test_clips_are_those_of_samples():
    rng = np.random.default_rng(0)
    mean, deviation = np.float32([0.3, -0.5, 1.0]), np.float32([1.0, 0.5, -0.2])
    x = mean + np.abs(deviation) * rng.normal(size=(400_000, 3)).astype(np.float32)
    y = np.maximum(x, 0)
    for bits, s in ((6, 14), (8, 25)):
        clip = norm.activation_clip(mean, deviation, bits)
        assert clip == pytest.approx(s * y[y > 0].std(), rel=0.01)
        clip = norm.activation_clip(mean, deviation, bits, signed=True)
        assert clip == pytest.approx(s / 1.25 * x.std(), rel=0.01)
    assert norm.activation_clip(mean, deviation, 4) == pytest.approx(0.3 + 4)
    less = norm.activation_clip(mean, deviation, 4, reach=2.0)
    assert less == pytest.approx(0.3 + 2)


def test_scalings_without_data_serve_quantizers():
    mean, deviation = jnp.zeros(3), jnp.ones(3)
    fmt = quant.Uniform(4, signed=False)
    found = jax.jit(lambda m, d: norm.activation_scaling(m, d, fmt))(mean, deviation)
    assert isinstance(found, Scaling)
    assert found.scale == pytest.approx(4 / 15)
    x = jnp.array([[0.0, 1.0, 3.9, 9.0]])
    y = quant.Quantizer(fmt).fake(x, found)
    np.testing.assert_allclose(y, [[0, 4 * 4 / 15, 4, 4]], rtol=1e-6)
    both = norm.activation_scaling(mean, deviation, quant.Uniform(8))
    assert both.scale == pytest.approx(25 / 1.25 / 127, rel=1e-5)
    for dead in (jnp.zeros(3), jnp.full(3, -1.0)):
        assert norm.activation_scaling(dead, jnp.zeros(3), fmt).scale == 1
    with pytest.raises(InputError, match="reach"):
        norm.activation_scaling(mean, deviation, fmt, reach=0.0)
    with pytest.raises(NonFiniteError, match="means"):
        norm.activation_scaling(jnp.array([jnp.nan]), jnp.ones(1), fmt)


def by_least_squares(h, places, channels):
    """The fit by numpy's solver, one column for each coefficient."""
    size = places * channels  # h is in the order (channel, place)
    at = np.arange(size)
    columns = [np.diag(at == i).astype(float) for i in range(size)]
    same = at // places
    if places > 1:
        columns += [np.outer(same == n, same == n) * 1.0 for n in range(channels)]
    if channels > 1:
        columns.append(np.ones((size, size)))
    basis = np.stack([c.ravel() for c in columns], 1)
    solved = np.linalg.lstsq(basis, h.ravel(), rcond=None)[0]
    return (basis @ solved).reshape(size, size), solved


@pytest.mark.parametrize(("places", "channels"), [(4, 3), (1, 5), (4, 1)])
def test_fits_are_least_squares(places, channels):
    x = np.random.default_rng(0).normal(size=(50, places, channels)).astype(np.float32)
    x = np.maximum(x + 0.3, 0)
    found = norm.case_fit(x)
    flat = x.transpose(0, 2, 1).reshape(50, -1).astype(float)
    h = flat.T @ flat / 50
    fitted, solved = by_least_squares(h, places, channels)
    cosine = (h * fitted).sum() / np.linalg.norm(h) / np.linalg.norm(fitted)
    assert found.cosine == pytest.approx(cosine, rel=1e-4)
    size = places * channels
    np.testing.assert_allclose(found.element.T.ravel(), solved[:size], rtol=1e-3)
    if places > 1:
        kernel = solved[size : size + channels]
        np.testing.assert_allclose(found.kernel, kernel, rtol=1e-3, atol=1e-5)
    else:
        np.testing.assert_array_equal(found.kernel, 0)
    assert found.channel == pytest.approx(solved[-1] if channels > 1 else 0, rel=1e-3)


def test_the_fit_is_good_after_a_relu_and_poor_for_inputs_without_a_mean(key):
    first, second = jax.random.split(key)
    shared = jax.random.normal(first, (4000, 1, 6))
    x = 0.7 * shared + 0.7 * jax.random.normal(second, (4000, 9, 6))
    signs = jnp.where(jnp.arange(9).reshape(1, 9, 1) % 2 == 0, 1.0, -1.0)
    good, poor = norm.case_fit(jax.nn.relu(x)), norm.case_fit(x * signs)
    assert good.cosine > 0.99
    assert good.pairs > 0.99
    assert poor.pairs < 0.3
    assert good.channel > 0
    assert (good.kernel > 0).all()
    assert (good.element > 0).all()


def test_rounding_without_data_gains_nothing_where_inputs_have_no_mean(key):
    """The point of the approximation: outputs of SQuant and of rounding to nearest."""
    first, second = jax.random.split(key)
    w = jax.random.normal(first, (3, 3, 16, 8))
    x = jax.random.normal(second, (500, 9, 16))
    error = {
        mode: (quant.squant.quantize(w, 3, mode).weights() - w).reshape(9, 16, 8)
        for mode in ("e", "ekc")
    }

    def ratio(x):
        out = {m: jnp.mean(jnp.tensordot(x, e, 2) ** 2) for m, e in error.items()}
        return float(out["ekc"] / out["e"])

    assert ratio(jax.nn.relu(x)) < 0.85
    assert ratio(x) > 1.02
