import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gap
from core.errors import InputError
from tests.gap.training_cases import (
    INNERS,
    adam,
    assert_resumes_exactly,
    assert_zero_where_pruned,
    counts,
    history,
    problem,
)

RULES = [("fc[12]/kernel", 0.25), ("fc3/kernel", gap.Target(count=10))]
SIZES = {"fc1/kernel": 12, "fc2/kernel": 16, "fc3/kernel": 10}


def test_random_masks_have_exact_counts_and_each_weight_its_fair_chance(key):
    params, _ = problem(key)
    keys = jax.random.split(key, 400)
    masks = jax.jit(jax.vmap(lambda k: gap.random_masks(k, params, RULES)))(keys)
    assert masks["fc1"]["bias"] is None
    for name, count in (("fc1", 12), ("fc2", 16), ("fc3", 10)):
        many = np.asarray(masks[name]["kernel"])
        assert set(many.sum(axis=(1, 2)).tolist()) == {count}
        share = count / many[0].size
        deviation = np.sqrt(share * (1 - share) / len(keys))
        assert np.abs(many.mean(axis=0) - share).max() < 5 * deviation


def test_static_masks_never_change_and_weights_learn(key):
    params, loss = problem(key)
    tx = gap.static_random(INNERS["adamw"], RULES, key)
    found = history(tx, params, loss, 12)
    expected = gap.random_masks(key, params, RULES)
    for after, state in found:
        jax.tree.map(np.testing.assert_array_equal, state.masks, expected)
        assert_zero_where_pruned(after, state)
    assert float(loss(found[-1][0])) < float(loss(found[0][0]))


def numpy_snip(params, grads, rules_counts, joint):
    """|w g| ranked by numpy; counts of each leaf."""
    scores = {
        name: np.abs(
            np.asarray(params[name]["kernel"]) * np.asarray(grads[name]["kernel"])
        )
        for name in rules_counts
    }
    if joint:
        flat = np.sort(np.concatenate([s.ravel() for s in scores.values()]))
        limit = flat[-sum(rules_counts.values())]
        return {name: s >= limit for name, s in scores.items()}
    return {
        name: s >= np.sort(s.ravel())[-rules_counts[name]] for name, s in scores.items()
    }


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("at", [0, 3])
def test_snip_is_dense_until_its_step_and_takes_the_best_there(scope, at, key):
    params, loss = problem(key)
    tx = gap.snip(adam(), RULES, at=at, scope=scope)
    found = history(tx, params, loss, 6)
    sizes = {"fc1": 12, "fc2": 16, "fc3": 10}
    before = found[at - 1][0] if at else params
    expected = numpy_snip(
        before, jax.jit(jax.grad(loss))(before), sizes, scope == "global"
    )
    for i, (after, state) in enumerate(found):
        for name in sizes:
            mask = np.asarray(state.masks[name]["kernel"])
            np.testing.assert_array_equal(mask, expected[name] if i >= at else True)
        if i >= at:
            assert_zero_where_pruned(after, state)
    assert sum(counts(found[-1][1].masks).values()) == 38


def test_a_score_of_ones_own_with_a_pattern(key):
    params = {"w": jax.random.normal(key, (8, 4))}
    grads = {"w": jax.random.normal(jax.random.key(1), (8, 4))}
    target = gap.Target(0.5, None, gap.NM(4, axis=0))
    tx = gap.at_init(adam(), [("w", target)], score=lambda w, g: -w * g)
    _, state = tx.update(grads, tx.init(params), params)
    groups = np.asarray(-params["w"] * grads["w"]).reshape(2, 4, 4)
    expected = np.argsort(np.argsort(-groups, axis=1), axis=1) < 2
    np.testing.assert_array_equal(state.masks["w"], expected.reshape(8, 4))


def test_a_stored_state_resumes_exactly(key):
    params, loss = problem(key)
    assert_resumes_exactly(gap.snip(adam(), RULES, at=5), params, loss)


def test_a_pattern_has_no_global_ranking(key):
    params = {"w": jnp.ones((8, 4))}
    tx = gap.snip(adam(), [("w", gap.Target(0.5, None, gap.NM(4)))])
    with pytest.raises(InputError, match="scope='layer'"):
        tx.init(params)
    groups = gap.Partition((("w",),))
    tx = gap.cyclic(
        optax.sgd(0.1),
        [("w", gap.Target(0.5, None, gap.NM(4)))],
        jax.random.key(0),
        groups,
        interval=1,
        rounds=1,
        scope="global",
    )
    with pytest.raises(InputError, match="scope='layer'"):
        tx.init(params)
    for scope in ("layer", "global"):
        tx = gap.snip(optax.sgd(0.1), [("w", gap.Target(count=33))], scope=scope)
        with pytest.raises(InputError, match=r"count.*shape \(8, 4\)"):
            tx.init(params)
    with pytest.raises(InputError, match="scope"):
        gap.snip(optax.sgd(0.1), RULES, scope="network")
