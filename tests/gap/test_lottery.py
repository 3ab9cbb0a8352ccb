"""Tickets: counts, rewinding, controls; every trap of the specification."""

import doctest
import importlib
import itertools
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gap
from core import trees
from core.errors import InputError, NonFiniteError, RuleError, ShapeError
from gap import lottery

RULES = [("norm.*", None), (".*/kernel", True)]
NOISE = 0.1
STEPS = 5


def init(key):
    """A network with one layer of large weights, one of small, and a batch norm."""
    one, two = jax.random.split(key)
    return {
        "fc1": {"kernel": jax.random.normal(one, (7, 9)), "bias": jnp.zeros(9)},
        "fc2": {"kernel": 0.3 * jax.random.normal(two, (9, 5))},
        "norm": {"scale": jnp.ones(9), "mean": jnp.zeros(9)},
    }


@jax.jit
def train(params, masks, key):
    """A few noisy steps towards larger weights; statistics move as well."""
    tx = gap.masked(optax.sgd(0.1, momentum=0.9), masks)

    def step(carry, key):
        params, state = carry
        leaves, treedef = jax.tree.flatten(params)
        keys = jax.random.split(key, len(leaves))
        grads = jax.tree.unflatten(
            treedef,
            [
                w - NOISE * jax.random.normal(k, w.shape)
                for k, w in zip(keys, leaves, strict=True)
            ],
        )
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(key, STEPS)
    with jax.numpy_dtype_promotion("standard"):
        (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), keys)
    return params, {"norm": jnp.abs(params["fc1"]["kernel"]).sum()}


def counts(masks):
    return {k: int(m.sum()) for k, m in trees.by_path(masks).items()}


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_every_round_prunes_a_share_of_what_remains(key):
    found = lottery.imp(train, init(key), 8, RULES, key)
    total = 7 * 9 + 9 * 5
    for j, at in enumerate(found):
        assert at.round == j
        assert at.density == pytest.approx(0.8**j)
        assert abs(sum(counts(at.masks).values()) - total * 0.8**j) <= 0.5
    # A share of all weights would be gone after five rounds.
    assert sum(counts(found[5].masks).values()) > 0
    for before, after in itertools.pairwise(found):
        inside = jax.tree.map(lambda a, b: bool((a <= b).all()), *pair(after, before))
        assert all(jax.tree.leaves(inside))


def pair(a, b):
    return a.masks, b.masks


def test_each_round_prunes_the_smallest_of_the_trained_survivors(key):
    found = lottery.imp(train, init(key), 2, RULES, key, ratio=0.5)
    alive = np.concatenate([np.ravel(m) for m in jax.tree.leaves(found[1].masks)])
    kernels = [found[1].params[k]["kernel"] for k in ("fc1", "fc2")]
    sizes = np.where(alive, np.abs(np.concatenate([np.ravel(w) for w in kernels])), -1)
    left = int(np.floor(0.25 * len(sizes) + 0.5))
    wanted = np.zeros(len(sizes), bool)
    wanted[np.argsort(-sizes, kind="stable")[:left]] = True
    got = np.concatenate([np.ravel(m) for m in jax.tree.leaves(found[2].masks)])
    np.testing.assert_array_equal(got, wanted)


def test_survivors_return_to_the_same_theta0_bit_for_bit(key):
    theta0 = init(key)
    for at in lottery.imp(train, theta0, 3, RULES, key):
        same(at.start, lottery.ticket(theta0, at.masks))
        kernel, mask = at.start["fc1"]["kernel"], at.masks["fc1"]["kernel"]
        np.testing.assert_array_equal(kernel[mask], theta0["fc1"]["kernel"][mask])
        assert not np.any(kernel[~mask])
        # What has no mask is rewound whole: biases, scales and statistics.
        same(at.start["norm"], theta0["norm"])
        same(at.start["fc1"]["bias"], theta0["fc1"]["bias"])
        # And training keeps what is pruned at zero, in its own rounds' metrics too.
        assert not np.any(at.params["fc1"]["kernel"][~mask])
        assert at.metrics["norm"] == jnp.abs(at.params["fc1"]["kernel"]).sum()
        assert np.any(at.params["norm"]["mean"] != 0)


def test_rewinding_to_step_k_and_of_the_learning_rate(key):
    theta0 = init(key)
    theta_k = jax.tree.map(lambda w: 2 * w + 1, theta0)
    calls = []

    def shorter(params, masks, key):
        calls.append(1)
        return train(params, masks, key)

    found = lottery.imp(train, theta0, 2, RULES, key, rewind=theta_k, retrain=shorter)
    assert len(calls) == 2
    same(found[0].start, theta0)
    for at in found[1:]:
        same(at.start, lottery.ticket(theta_k, at.masks))
    kept = lottery.imp(train, theta0, 2, RULES, key, rewind=lottery.LEARNING_RATE)
    same(kept[0].start, theta0)
    for before, at in itertools.pairwise(kept):
        same(at.start, lottery.ticket(before.params, at.masks))
    with pytest.raises(InputError, match="LEARNING_RATE"):
        lottery.imp(train, theta0, 1, RULES, key, rewind="rate")
    with pytest.raises(InputError, match="rounds"):
        lottery.imp(train, theta0, -1, RULES, key)


def test_a_population_finds_the_tickets_of_its_members(key):
    keys = jax.random.split(key, 2)
    theta0 = jax.vmap(init)(keys)
    together = lottery.population(train)
    found = lottery.imp(together, theta0, 2, RULES, keys, stacked=True)
    for i in range(2):
        own = jax.tree.map(lambda x, i=i: x[i], theta0)
        alone = lottery.imp(train, own, 2, RULES, keys[i])
        for a, b in zip(found, alone, strict=True):
            same(jax.tree.map(lambda x, i=i: x[i], a.masks), b.masks)
            got = jax.tree.map(lambda x, i=i: x[i], a.params)
            jax.tree.map(
                lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
                got,
                b.params,
            )


def test_global_ranking_prunes_the_layer_of_small_weights_more(key):
    params = init(key)
    masks = lottery.omp(params, 0.5, RULES)
    share = {k: n / trees.by_path(params)[k].size for k, n in counts(masks).items()}
    assert share["fc1/kernel"] > 0.6 > 0.2 > share["fc2/kernel"]
    same(masks["fc1"], gap.global_magnitude_masks(params, 0.5, RULES)["fc1"])
    per_layer = counts(lottery.omp(params, 0.5, RULES, scope="layer"))
    assert per_layer == {"fc1/kernel": 32, "fc2/kernel": 23}


@settings(max_examples=10)
@given(st.floats(0, 1), st.floats(0, 1))
def test_counts_are_exact_and_nothing_comes_back(one, two):
    params = {"a": jnp.zeros((4, 3)), "b": jnp.ones((5,))}  # nothing but ties
    first = lottery.omp(params, one, [(".*", True)])
    second = lottery.omp(params, two, [(".*", True)], alive=first)
    n = sum(counts(first).values())
    assert n == gap.Target(density=one).kept((17,))
    wanted = min(n, gap.Target(density=two).kept((17,)))
    assert sum(counts(second).values()) == wanted
    assert not any(np.any(second[k] & ~first[k]) for k in params)


def test_a_diverged_member_keeps_its_count_and_revives_nothing():
    alive = {"w": jnp.array([True, True, True, False])}
    w = jnp.array([jnp.nan, jnp.nan, 1.0, 9.0])

    def prune(w):
        return lottery.omp({"w": w}, 0.5, [("w", True)], alive=alive)["w"]

    np.testing.assert_array_equal(jax.jit(prune)(w), [True, False, True, False])
    with pytest.raises(NonFiniteError, match="w"):
        prune(w)


def test_patterns_other_than_weights_in_each_layer(key):
    @dataclass_pattern
    class Rows:
        def units(self, shape):
            return shape[0]

        def mask(self, scores, count):
            keep = gap.Unstructured().mask(scores.sum(1), count)
            return jnp.broadcast_to(keep[:, None], scores.shape)

        def weights(self, shape, count):
            return count * shape[1]

        def storage(self, shape, count, bits=32):
            raise NotImplementedError

    w = jax.random.normal(key, (8, 3))
    mask = lottery.omp({"w": w}, 0.25, [("w", Rows())], scope="layer")["w"]
    rows = np.argsort(-np.abs(w).sum(1))[:2]
    assert set(np.flatnonzero(mask.all(1))) == set(rows)
    assert int(mask.sum()) == 6
    with pytest.raises(InputError, match="True or None"):
        lottery.omp({"w": w}, 0.25, [("w", Rows())])


def dataclass_pattern(cls):
    import dataclasses

    return dataclasses.dataclass(frozen=True)(cls)


def test_one_compilation_for_every_density(key):
    params = init(key)
    lottery.omp(params, 0.9, RULES)
    from gap.lottery import masks

    before = masks.best._cache_size()
    for j in range(6):
        lottery.omp(params, lottery.imp_density(j), RULES)
    assert masks.best._cache_size() == before


def test_reinit_has_the_mask_the_scale_and_other_weights(key):
    def wide(key):
        return {"w": 0.05 * jax.random.normal(key, (200, 100))}

    theta0 = wide(key)
    masks = lottery.omp(theta0, 0.3, [("w", True)])
    other = lottery.reinit(jax.random.fold_in(key, 1), wide, masks)["w"]
    mask = np.asarray(masks["w"])
    np.testing.assert_array_equal(np.asarray(other) != 0, mask)
    assert np.mean(np.asarray(other)[mask] == np.asarray(theta0["w"])[mask]) < 0.01
    # The ticket kept the large weights; the new ones have the initialiser's variance.
    assert np.std(np.asarray(other)[mask]) == pytest.approx(0.05, rel=0.03)
    assert np.std(np.asarray(theta0["w"])[mask]) > 0.07


def test_a_random_ticket_keeps_the_counts_of_layers_only(key):
    masks = lottery.omp(init(key), 0.4, RULES)
    moved = lottery.shuffle(key, masks)
    assert counts(moved) == counts(masks)
    assert jax.tree.structure(moved) == jax.tree.structure(masks)
    assert np.any(moved["fc1"]["kernel"] != masks["fc1"]["kernel"])
    many = jax.vmap(lambda k: lottery.shuffle(k, masks)["fc1"]["kernel"])
    average = many(jax.random.split(key, 400)).sum(0)
    share = counts(masks)["fc1/kernel"] / 63
    assert np.abs(average / 400 - share).max() < 5 * np.sqrt(share * (1 - share) / 400)
    assert int(lottery.kept(moved)) == sum(counts(masks).values())


@given(st.integers(2, 266_200))
def test_the_small_dense_network_is_the_nearest_in_size(target):
    def hidden(width):
        return max(1, round(300 * width)), max(1, round(100 * width))

    def count(width):
        a, b = hidden(width)
        return 784 * a + a * b + b * 10

    if target < 400:
        with pytest.raises(InputError, match="smaller than any"):
            lottery.small_dense_width(count, target // 2 + 1)
        return
    width = lottery.small_dense_width(count, target)
    every = {count(x) for x in np.linspace(0.001, 1.0, 4000)}
    assert abs(count(width) - target) <= min(abs(n - target) for n in every)


def test_bad_input_is_named(key):
    params = init(key)
    with pytest.raises(InputError, match="larger `high`"):
        lottery.small_dense_width(lambda w: int(100 * w), 200)
    with pytest.raises(RuleError, match="nearest"):
        lottery.omp(params, 0.5, [("conv.*", True)])
    with pytest.raises(InputError, match="some leaf"):
        lottery.omp(params, 0.5, [(".*", None)])
    with pytest.raises(InputError, match="scope"):
        lottery.omp(params, 0.5, RULES, scope="network")
    with pytest.raises(InputError, match="density"):
        lottery.omp(params, 1.5, RULES)
    with pytest.raises(ShapeError, match="mask of shape"):
        lottery.ticket({"w": jnp.ones(3)}, {"w": jnp.ones(4, bool)})
    with pytest.raises(ShapeError, match="mask of shape"):
        lottery.omp(
            {"w": jnp.ones(3)}, 0.5, [("w", True)], alive={"w": jnp.ones(4, bool)}
        )
    with pytest.raises(InputError, match="round"):
        lottery.imp_density(-1)
    with pytest.raises(InputError, match="ratio"):
        lottery.imp_density(1, 0.0)
    with pytest.raises(InputError, match="at least one mask"):
        lottery.kept({"w": None})


def test_names_and_examples():
    assert all(hasattr(lottery, name) for name in lottery.__all__)
    modules = [
        importlib.import_module(f"gap.lottery.{m.name}")
        for m in pkgutil.iter_modules(lottery.__path__)
    ]
    results = [doctest.testmod(module) for module in modules]
    assert not any(r.failed for r in results)
    assert sum(r.attempted for r in results) > 10
