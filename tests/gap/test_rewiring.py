from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gap
from core.errors import InputError, NonFiniteError
from gap.rewiring import moved_mask
from tests.gap.training_cases import (
    INNERS,
    adam,
    assert_resumes_exactly,
    assert_zero_where_pruned,
    counts,
    history,
    problem,
)
from tests.strategies import seeds

RULES = [("fc[12]/kernel", 0.25), ("fc3/kernel", gap.Target(count=10))]
mask_of = jax.jit(lambda p, s, c: p.mask(s, c), static_argnums=(0, 2))
FINE = (gap.Unstructured(), gap.NM(4), gap.DBB(8), gap.BankBalanced(4))


def numpy_move(w, mask, growth, count, fraction):
    """The specification, word by word, for single weights."""
    drop = int(np.floor(np.float32(fraction) * np.float32(count)))
    drop = max(drop, int(fraction > 0))
    w, mask, growth = (np.asarray(x).ravel() for x in (w, mask, growth))
    active = np.flatnonzero(mask)
    active = active[np.argsort(-np.abs(w[active]), kind="stable")]
    keep = set(active[: count - drop].tolist())
    others = [i for i in np.argsort(-growth, kind="stable").tolist() if i not in keep]
    new = np.zeros(w.size, bool)
    new[list(keep) + others[: count - len(keep)]] = True
    return new


@given(seeds, st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0]), st.booleans())
@settings(max_examples=15)
def test_one_move_equals_the_specification_ties_included(seed, fraction, coarse):
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(6, 8)).astype(np.float32)
    growth = np.abs(rng.normal(size=(6, 8))).astype(np.float32)
    if coarse:  # many ties
        w, growth = np.round(w), np.round(growth)
    mask = gap.Unstructured().mask(jnp.asarray(rng.random((6, 8), np.float32)), 17)
    w = np.where(mask, w, 0)
    got = moved_mask(
        gap.Target(count=17), jnp.asarray(w), mask, jnp.asarray(growth), fraction
    )
    expected = numpy_move(w, mask, growth, 17, fraction)
    np.testing.assert_array_equal(np.asarray(got).ravel(), expected)


SMALL = {
    "block": (gap.Block(4, 4), (32, 16)),
    "kernel": (gap.PATTERNS["kernel"](), (3, 3, 8, 8)),
}
"""Patterns whose defaults are too coarse for the shape below, or do not fit it."""


def test_patterns_that_need_a_special_case_exist():
    assert set(SMALL) <= set(gap.PATTERNS)


@pytest.mark.parametrize("name", sorted(gap.PATTERNS))
def test_every_pattern_keeps_its_form_and_its_count(name, key):
    pattern, shape = SMALL.get(name) or (gap.PATTERNS[name](), (32, 16))
    target = gap.Target(count=pattern.units(shape) // 2, pattern=pattern)
    tx = gap.rewire(optax.sgd(0.0), [("w", target)], key, fraction=0.5, every=1)
    params = {"w": jax.random.normal(key, shape)}
    state = tx.init(params)
    params = gap.apply_masks(params, state.masks)
    update, masks = jax.jit(tx.update), []
    for k in jax.random.split(key, 5):
        _, state = update({"w": jax.random.normal(k, shape)}, state, params)
        masks.append(np.asarray(state.masks["w"]))
        # A mask of the pattern is its own best approximation.
        again = mask_of(pattern, jnp.where(state.masks["w"], 1.0, 0.0), target.count)
        np.testing.assert_array_equal(masks[-1], again)
    assert {m.sum() for m in masks} == {pattern.weights(shape, target.count)}
    assert any(np.any(a != b) for a, b in pairwise(masks)), "nothing ever moved"


COARSE = {
    "bcr": gap.Target(1 / 8, pattern=gap.BCR(16, 16)),
    "bcr, both sides": gap.Target(1 / 8, pattern=gap.BCR(16, 16, split=0.5)),
    "shape": gap.Target(count=4, pattern=gap.Shape()),
    "filter": gap.Target(count=2, pattern=gap.Filter()),
}


@pytest.mark.parametrize("name", sorted(COARSE))
@pytest.mark.parametrize("fraction", [0.0, 0.02, 0.1])
def test_a_small_fraction_still_moves_coarse_patterns(name, fraction, key):
    """One unit at least, out of few; all that is moved is of least magnitude."""
    target, shape = COARSE[name], (32, 32)
    pattern, count = target.pattern, target.kept(shape)
    mask = mask_of(pattern, jax.random.uniform(key, shape), count)
    w = jnp.where(mask, 1 + jax.random.uniform(jax.random.key(1), shape), 0)
    growth = jnp.where(mask, 0.0, 1 + jax.random.uniform(jax.random.key(2), shape))
    new = jax.jit(moved_mask, static_argnums=(0, 4))(target, w, mask, growth, fraction)
    assert int(new.sum()) == int(mask.sum()) == pattern.weights(shape, count)
    stayed = int((new & mask).sum())
    if not fraction:
        assert stayed == int(mask.sum())
        return
    assert 0 < stayed < int(mask.sum())
    if name == "bcr, both sides":  # of 5 x 6 or so in each block, 4 x 5 stay
        for i, j in ((0, 0), (0, 16), (16, 0), (16, 16)):
            a, b = (np.asarray(m[i : i + 16, j : j + 16]) for m in (mask, new))
            assert np.any(a.any(1) & ~b.any(1))
            assert np.any(a.any(0) & ~b.any(0))


@pytest.mark.parametrize("pattern", FINE, ids=str)
def test_in_patterns_of_single_weights_the_smallest_ones_go(pattern, key):
    w = jax.random.normal(key, (8, 8))
    target = gap.Target(0.5, None, pattern)
    mask = pattern.mask(
        jax.random.uniform(jax.random.key(1), w.shape), target.kept(w.shape)
    )
    new = moved_mask(target, w, mask, jnp.ones_like(w), jnp.float32(0.25))
    active = np.sort(np.abs(np.asarray(w))[np.asarray(mask)])
    stayed = np.abs(np.asarray(w))[np.asarray(mask & new)]
    assert np.all(np.isin(active[8:], stayed))


@pytest.mark.parametrize("inner", sorted(INNERS))
def test_pruned_weights_and_moments_stay_exactly_zero_for_50_steps(inner, key):
    params, loss = problem(key)
    tx = gap.rigl(INNERS[inner], RULES, key, until=40, every=3, alpha=0.6)
    found = history(tx, params, loss, 50)
    for after, state in found:
        assert_zero_where_pruned(after, state)
    sizes = {"fc1/kernel": 12, "fc2/kernel": 16, "fc3/kernel": 10}
    assert all(counts(state.masks) == sizes for _, state in found)
    assert float(loss(found[-1][0])) < float(loss(found[0][0]))


def test_masks_move_at_their_steps_alone_and_never_from_until_on(key):
    params, loss = problem(key)
    tx = gap.set_(optax.sgd(0.1), RULES, key, every=4, until=12)
    masks = [
        np.asarray(s.masks["fc1"]["kernel"]) for _, s in history(tx, params, loss, 20)
    ]
    first = np.asarray(tx.init(params).masks["fc1"]["kernel"])
    moved = [i for i, (a, b) in enumerate(pairwise([first, *masks])) if np.any(a != b)]
    assert moved == [4, 8]


def test_rigl_grows_the_planted_weight_from_its_dense_gradient():
    goal = jnp.zeros((4, 5)).at[2, 3].set(9.0)
    active = jnp.zeros((4, 5), bool).at[0].set(True)
    params = {"w": jnp.where(active, jnp.arange(1.0, 6.0), 0.0)}
    tx = gap.rigl(
        optax.sgd(1e-3), [("w", 0.25)], jax.random.key(0), until=9, every=1, alpha=0.5,
        masks={"w": active},
    )  # fmt: skip
    loss = lambda p: jnp.sum((p["w"] - goal) ** 2)  # noqa: E731
    _, (_, state) = history(tx, params, loss, 2)
    mask = np.asarray(state.masks["w"])
    assert mask[2, 3]
    assert not mask[0, 0]
    assert mask.sum() == 5


def test_new_weights_start_at_zero_and_others_keep_value_and_moment(key):
    params, loss = problem(key)
    # The learning rate is 0, so values change by the move alone.
    tx = gap.rewire(adam(0.0), RULES, key, fraction=0.5, every=3)
    found = history(tx, params, loss, 4)
    (before, old), (after, new) = found[2:]
    a, b = old.masks["fc2"]["kernel"], new.masks["fc2"]["kernel"]
    both, fresh = np.asarray(a & b), np.asarray(b & ~a)
    assert fresh.any()
    now, then = (np.asarray(p["fc2"]["kernel"]) for p in (after, before))
    np.testing.assert_array_equal(now[both], then[both])
    assert np.all(now[fresh] == 0.0)
    gradient = np.asarray(jax.jit(jax.grad(loss))(before)["fc2"]["kernel"])
    moment = np.asarray(new.inner[0].mu["fc2"]["kernel"])
    np.testing.assert_allclose(moment[fresh], 0.1 * gradient[fresh], rtol=1e-5)
    kept = 0.9 * np.asarray(old.inner[0].mu["fc2"]["kernel"]) + 0.1 * gradient
    np.testing.assert_allclose(moment[both], kept[both], rtol=1e-5)


def test_a_weight_dropped_and_grown_again_keeps_its_value():
    active = jnp.array([True, True, False, False])
    params = {"w": jnp.array([3.0, 1.0, 0.0, 0.0])}
    tx = gap.rewire(
        optax.sgd(0.0), [("w", 0.5)], jax.random.key(0), fraction=0.5, every=1,
        masks={"w": active},
    )  # fmt: skip
    state = tx.init(params)
    grads = {"w": jnp.array([0.0, 5.0, 1.0, 1.0])}
    for _ in range(2):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert state.masks["w"].tolist() == active.tolist()
    assert params["w"].tolist() == [3.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_gradients_that_are_not_finite_displace_no_kept_weight(bad):
    active = jnp.arange(6) >= 3
    w = jnp.where(active, jnp.arange(6.0), 0.0)
    tx = gap.rewire(
        optax.sgd(0.0), [("w", 0.5)], jax.random.key(0), fraction=0.4, every=1,
        masks={"w": active},
    )  # fmt: skip
    state = tx.init({"w": w})
    for _ in range(2):
        _, state = tx.update({"w": jnp.full(6, bad)}, state, {"w": w})
    mask = np.asarray(state.masks["w"])
    assert mask[4]
    assert mask[5]
    assert mask.sum() == 3


def test_random_growth_visits_all_weights_and_depends_on_the_key(key):
    params, loss = problem(key)

    def ever(key):
        tx = gap.set_(optax.sgd(0.1), RULES, key, every=1, fraction=0.5)
        masks = [
            np.asarray(s.masks["fc1"]["kernel"])
            for _, s in history(tx, params, loss, 40)
        ]
        return masks[0], np.any(masks, axis=0)

    (first, visited), (other, _) = ever(key), ever(jax.random.key(7))
    assert visited.mean() > 0.9
    assert np.any(first != other)


def test_the_share_that_moves_falls_by_a_cosine():
    fraction = gap.cosine_fraction(0.3, 100)
    steps = jnp.array([0, 25, 50, 100, 200], jnp.int32)
    expected = [0.3, 0.15 * (1 + np.sqrt(0.5)), 0.15, 0.0, 0.0]
    np.testing.assert_allclose(jax.vmap(fraction)(steps), expected, atol=1e-6)


@pytest.mark.parametrize("grow", ["gradient", "random"])
def test_a_stored_state_resumes_exactly(grow, key):
    params, loss = problem(key)
    tx = gap.rewire(adam(), RULES, key, fraction=0.5, every=2, grow=grow)
    assert_resumes_exactly(tx, params, loss)


def test_under_vmap_every_replica_moves_as_it_would_alone(key):
    keys = jax.random.split(key, 3)

    def run(key):
        params, loss = problem(key, shapes=((6, 8),))
        tx = gap.rigl(optax.sgd(0.1), [("fc1/kernel", 0.25)], key, until=9, every=2)

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        (_, state), _ = jax.lax.scan(step, (params, tx.init(params)), length=5)
        return state.masks

    together = jax.jit(jax.vmap(run))(keys)
    alone = jax.jit(run)(keys[1])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[1], b), together, alone)


def test_bad_options_and_weights_are_named(key):
    make = lambda **kw: gap.rewire(optax.sgd(0.1), RULES, key, **kw)  # noqa: E731
    for bad in ({"fraction": 1.5}, {"every": 0}, {"until": -1}, {"grow": "magic"}):
        with pytest.raises(InputError, match=next(iter(bad))):
            make(**({"fraction": 0.3, "every": 1} | bad))
    params, _ = problem(key)
    params["fc1"]["kernel"] = params["fc1"]["kernel"].at[0, 0].set(jnp.nan)
    with pytest.raises(NonFiniteError, match="fc1/kernel"):
        make(fraction=0.3, every=1).init(params)


def test_first_masks_must_be_as_the_rules_say(key):
    params, _ = problem(key)
    masks = gap.random_masks(key, params, RULES)

    def init(masks, rules=RULES):
        return gap.rigl(optax.sgd(0.1), rules, key, until=9, masks=masks).init(params)

    init(masks)
    fewer = {**masks, "fc3": {"bias": None, "kernel": jnp.arange(32).reshape(8, 4) < 2}}
    with pytest.raises(InputError, match="fc3/kernel with 2 weights"):
        init(fewer)
    with pytest.raises(InputError, match="fc2/kernel"):
        init({**masks, "fc2": {"bias": None, "kernel": None}})
    with pytest.raises(InputError, match="fc1/bias"):
        init({**masks, "fc1": {**masks["fc1"], "bias": jnp.ones(8, bool)}})
    # The right count in another pattern.
    other = [("fc2/kernel", gap.Target(0.25, pattern=gap.NM(4)))]
    first = {"fc2": {"kernel": jnp.arange(64).reshape(8, 8) < 16, "bias": None}}
    none = {"kernel": None, "bias": None}
    with pytest.raises(InputError, match=r"fc2/kernel with 16 weights.*NM"):
        init({"fc1": none, "fc3": none} | first, other)
    # Traced masks cannot be read.
    jax.jit(init)(masks)
