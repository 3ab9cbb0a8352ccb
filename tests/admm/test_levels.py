"""Levels as sets: scales by brute force, pruned weights, staged mapping."""

import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings

import admm
import quant
from admm.levels import FittedScale, WithoutZero
from admm.mapping import _share_of
from core.errors import InputError, ShapeError
from tests.quant.formats import EVERY, nearest
from tests.strategies import seeds

FEW = [
    quant.Binary(),
    quant.Ternary(),
    quant.Uniform(2, symmetric=True),
    quant.Uniform(4),
    quant.Uniform(8),
    quant.Uniform(4, signed=False),
    quant.PowerOfTwo(4),
    quant.SumOfPowers(4),
    quant.Flint(4),
    quant.Levels((-2.0, -1.0, 1.0, 2.0)),
]


def error(fmt, x, scale):
    return np.sum((nearest(fmt, x / scale) * scale - x) ** 2)


def dense_scan(fmt, x):
    """The least error over scales so near one another that none is missed."""
    top = np.abs(x).max() / fmt.max
    return min(error(fmt, x, s) for s in top * np.geomspace(0.02, 4, 1500))


@pytest.mark.parametrize("fmt", FEW, ids=str)
def test_the_scale_is_near_the_best_of_a_dense_scan(fmt):
    x = np.random.default_rng(2).normal(size=(1, 60)).astype(np.float32)
    scaling, found = jax.jit(FittedScale().search, static_argnums=1)(x, fmt)
    wide = x[0].astype(np.float64)
    mine = error(fmt, wide, float(scaling.scale[0]))
    np.testing.assert_allclose(found[0] * x.size, mine, rtol=1e-3)
    # With 8 bits there are hundreds of minima.
    assert mine <= (1.07 if fmt.bits == 8 else 1.01) * dense_scan(fmt, wide)
    assert mine <= error(fmt, wide, np.abs(wide).max() / fmt.max)


@pytest.mark.parametrize("fmt", EVERY[::7], ids=str)
def test_every_kind_of_format_is_a_set(fmt):
    w = jax.random.normal(jax.random.key(2), (6, 5))
    z = np.asarray(admm.Quantized(fmt).project(w))
    scaling = admm.Quantized(fmt).quantizer.fit(w)
    levels = np.float32(np.float32(fmt.levels) * np.asarray(scaling.scale).ravel())
    assert np.isin(z, levels).all()


@settings(max_examples=10)
@given(seed=seeds)
def test_binary_and_ternary_are_the_best_of_all_signs_and_supports(seed):
    w = np.random.default_rng(seed).normal(size=(2, 4)).astype(np.float32)
    for fmt, alphabet in ((quant.Binary(), (-1, 1)), (quant.Ternary(), (-1, 0, 1))):
        z = np.asarray(admm.Quantized(fmt).project(jnp.asarray(w)))
        best = np.inf
        for code in itertools.product(alphabet, repeat=8):
            v = np.asarray(code, np.float64)
            if v.any():
                a = max(v @ w.ravel() / (v @ v), 0)
                best = min(best, np.sum((a * v - w.ravel()) ** 2))
        assert np.sum((z - w) ** 2) <= best * (1 + 1e-5)


def test_a_scale_for_each_output_channel():
    w = jnp.asarray([[1.0, 10.0], [-3.0, 20.0]])
    z = admm.Quantized(quant.Binary(), quant.CHANNEL).project(w)
    np.testing.assert_allclose(z, [[2.0, 15.0], [-2.0, 15.0]])


@settings(max_examples=10)
@given(seed=seeds)
def test_sparse_then_binary_is_the_best_of_all_supports(seed):
    # Keeping w gains 2 a |w| - a^2, which rises with |w|: the largest are kept.
    w = np.random.default_rng(seed).normal(size=7).astype(np.float32)
    both = (admm.Sparse(count=3), admm.Quantized(quant.Binary(), pruned=True))
    z = np.asarray(admm.Intersection(both).project(jnp.asarray(w)))
    best = np.inf
    for kept in itertools.combinations(range(7), 3):
        part = w[list(kept)]
        away = np.sum(w**2) - np.sum(part**2)
        best = min(best, away + np.sum((np.abs(part) - np.abs(part).mean()) ** 2))
    assert np.count_nonzero(z) == 3
    assert np.sum((z - w) ** 2) <= best * (1 + 1e-5)


def test_pruned_weights_stay_zero_and_do_not_count():
    # Levels without 0: the zeros would draw the scale of the others down.
    w = jnp.asarray([0.0, 2.0, -4.0, 0.0, 0.0, 4.0, 2.0, 0.0])
    fmt = quant.Levels((-2.0, -1.0, 1.0, 2.0))
    np.testing.assert_allclose(admm.Quantized(fmt, pruned=True).project(w), w)
    assert np.all(np.asarray(admm.Quantized(fmt).project(w)) != 0)


@pytest.mark.parametrize("density", [0.1, 0.6])
@pytest.mark.parametrize("fmt", FEW, ids=str)
def test_no_weight_that_survived_becomes_zero(fmt, density):
    w = np.random.default_rng(0).normal(size=400).astype(np.float32)
    w = np.where(np.arange(400) < 400 * density, w, np.float32(0))
    if not fmt.signed:
        w = np.abs(w)
    w[:5] *= 1e-6  # nearer to 0 than to any level
    z = np.asarray(admm.Quantized(fmt, pruned=True).project(jnp.asarray(w)))
    np.testing.assert_array_equal(z != 0, w != 0)
    levels = quant.Levels(tuple(v for v in fmt.levels if v))
    left = w[w != 0].astype(np.float64)
    away = np.sum((z[w != 0] - left) ** 2)
    assert away <= 1.1 * dense_scan(levels, left)


def test_levels_without_zero_are_a_format():
    fmt = WithoutZero(quant.Uniform(3))
    x = jnp.asarray([-9.0, -0.6, -0.1, 0.0, 0.2, 1.4, 9.0, jnp.nan])
    wanted = [-4.0, -1.0, -1.0, 1.0, 1.0, 1.0, 3.0, jnp.nan]
    np.testing.assert_array_equal(fmt.round(x), wanted)
    np.testing.assert_array_equal(fmt.decode(fmt.encode(x[:-1])), wanted[:-1])
    assert 0 not in fmt.levels


def test_a_union_is_the_nearest_of_its_sets():
    formats = (quant.Uniform(4), quant.PowerOfTwo(4))
    best = admm.Union(tuple(map(admm.Quantized, formats)))
    for seed in range(6):
        power = 3.0 if seed % 2 else 0.5
        w = np.random.default_rng(seed).normal(size=200)
        w = jnp.asarray(np.sign(w) * np.abs(w) ** power, jnp.float32)
        away = [float(jnp.sum(jnp.square(each.project(w) - w))) for each in best.sets]
        assert int(best.choose(w)) == int(np.argmin(away))
        found = float(jnp.sum(jnp.square(best.project(w) - w)))
        np.testing.assert_allclose(found, min(away), rtol=1e-5)


# ---- the final mapping

NESTED = {
    "intersection": admm.Intersection(
        (admm.Sparse(count=12), admm.Quantized(quant.Uniform(3), pruned=True))
    ),
    "union": admm.Union(
        tuple(map(admm.Quantized, (quant.Uniform(3), quant.PowerOfTwo(3))))
    ),
    "several": (
        admm.Sparse(count=12),
        admm.Quantized(quant.Uniform(3, symmetric=True)),
    ),
    "shorthand": (0.4, quant.Binary()),
    "quantizer": quant.Quantizer(quant.Uniform(3)),
}


@pytest.mark.parametrize("name", NESTED)
def test_sets_within_sets_stay_where_they_are(name):
    w = jax.random.normal(jax.random.key(4), (30,))
    params, rules = {"w": w}, [("w", NESTED[name])]
    fixed = admm.at_scales(params, rules)
    levels = np.unique(admm.project(params, fixed)["w"])
    now, held = admm.settle(params, fixed, 0.5)
    # What is free trains far away, so that scales and supports fitted anew would move.
    now = {"w": jnp.where(held["w"], now["w"], 3 * now["w"])}
    now, held = admm.settle(now, fixed, 1.0, held)
    assert bool(held["w"].all())
    assert np.isin(np.abs(now["w"]), np.abs(levels)).all() or name == "quantizer"
    if name in ("intersection", "several", "shorthand"):
        count = int(jnp.count_nonzero(now["w"]))
        assert count <= 12
        assert name == "several" or count == 12
    assert float(admm.violation(now, fixed)) == 0


def test_settling_takes_the_nearest_first_and_holds_what_is_there():
    w = jnp.asarray([0.9, -1.4, 1.05, -0.2])
    params = {"w": w, "b": jnp.ones(2)}
    rules = admm.at_scales(params, [("w", quant.Binary())])
    level = float(jnp.mean(jnp.abs(w)))
    moved, held = admm.settle(params, rules, 0.5)
    np.testing.assert_array_equal(held["w"], [True, False, True, False])
    np.testing.assert_allclose(moved["w"], [level, -1.4, level, -0.2])
    assert held["b"] is None
    # The free ones move on; the held ones and the scale stay.
    later = {**moved, "w": moved["w"] + jnp.asarray([0.0, 0.7, 0.0, 0.6])}
    last, held = admm.settle(later, rules, 1.0, held)
    assert bool(held["w"].all())
    np.testing.assert_allclose(last["w"], level * np.asarray([1, -1, 1, 1]))
    np.testing.assert_array_equal(last["w"], admm.project(last, rules)["w"])


@pytest.mark.parametrize("count", [0, 7, 4097, 2**24 + 1, 2**25 + 3, 2**31 - 1])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.98, 1.0])
def test_shares_are_counted_one_by_one(count, share):
    # float32 has no odd numbers above 2^24.
    found = int(jax.jit(_share_of, static_argnums=1)(jnp.int32(count), share))
    assert abs(found - Fraction(share) * count) <= 0.55
    assert share < 1 or found == count


def test_held_weights_do_not_move_by_decay_or_momentum():
    params = {"w": jnp.arange(1.0, 5.0), "b": jnp.ones(2)}
    held = {"w": jnp.asarray([True, False, True, False]), "b": None}
    inner = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9))
    tx = admm.hold(inner, held)
    state = tx.init(params)
    now = params
    for _ in range(3):
        updates, state = tx.update(jax.tree.map(jnp.ones_like, now), state, now)
        now = optax.apply_updates(now, updates)
    np.testing.assert_array_equal(now["w"][::2], params["w"][::2])
    assert np.all(np.asarray(now["w"][1::2]) < params["w"][1::2])
    assert np.all(np.asarray(now["b"]) < 1)


def test_holding_leaves_the_duals_of_admm_alone():
    params = {"w": jnp.asarray([0.9, -1.4, 1.05, -0.2])}
    fixed = admm.at_scales(params, [("w", quant.Binary())])
    params, held = admm.settle(params, fixed, 0.5)
    slow = optax.sgd(0.1, momentum=0.9)
    inner = admm.admm(slow, fixed, interval=2, rho=0.5)
    tx = admm.hold(inner, held)
    state = tx.init(params)
    z = state.inner.z["w"]
    assert bool((z != 0).all())
    for _ in range(5):
        updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(jnp.abs(state.inner.z["w"]), jnp.abs(z))
    assert bool((state.inner.u["w"][~np.asarray(held["w"])] != 0).all())
    # Moments of held weights are gone all the same.
    assert not np.any(state.inner.inner[0].trace["w"][held["w"]])


def test_biases_keep_the_means_of_layers():
    def apply(p, x):
        x = jax.nn.relu(x @ p["b"]["kernel"] + p["b"]["bias"][None])
        x = x @ p["c"]["kernel"]  # without a bias
        return x @ p["a"]["kernel"] + p["a"]["bias"][None]

    keys = jax.random.split(jax.random.key(0), 4)
    shapes = {"b": (6, 8), "c": (8, 5), "a": (5, 3)}
    params = {
        name: {"kernel": jax.random.normal(key, shape), "bias": jnp.ones(shape[1])}
        for (name, shape), key in zip(shapes.items(), keys[:3], strict=True)
    }
    del params["c"]["bias"]
    x = jax.random.normal(keys[3], (50, 6))
    rounded = admm.project(params, [(".*/kernel", quant.Binary())])
    found = admm.keep_means(apply, params, rounded, x)
    wanted = apply(params, x).mean(0)
    assert float(jnp.abs(apply(rounded, x).mean(0) - wanted).max()) > 0.1
    np.testing.assert_allclose(apply(found, x).mean(0), wanted, atol=1e-4)
    for name in shapes:
        np.testing.assert_array_equal(found[name]["kernel"], rounded[name]["kernel"])


def test_bad_arguments_of_levels_are_named():
    with pytest.raises(InputError, match="turns: got -1"):
        FittedScale(turns=-1)
    with pytest.raises(InputError, match=r"quant\.Format"):
        admm.Quantized(0.5)
    with pytest.raises(InputError, match="at_scales"):
        admm.settle({"w": jnp.ones(2)}, [("w", quant.Binary())], 0.5)
    with pytest.raises(InputError, match="weight by weight"):
        admm.at_scales({"w": jnp.ones((2, 2))}, [("w", admm.LowRank(rank=1))])
    with pytest.raises(InputError, match="at least one"):
        admm.Union(())
    with pytest.raises(InputError, match="method project"):
        admm.Intersection((quant.Binary(),))
    with pytest.raises(InputError, match="share: got 2"):
        admm.settle({"w": jnp.ones(2)}, [("w", 0.5)], 2.0)
    with pytest.raises(ShapeError, match="for w"):
        admm.hold(optax.sgd(0.1), {"w": jnp.ones(3, bool)}).init({"w": jnp.ones(2)})
