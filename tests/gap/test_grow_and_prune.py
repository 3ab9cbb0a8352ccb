import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gap
from core import trees
from core.errors import InputError, RuleError
from tests.gap.training_cases import (
    INNERS,
    adam,
    assert_resumes_exactly,
    assert_zero_where_pruned,
    counts,
    history,
    problem,
)

RULES = [("fc.*/kernel", 0.25)]
NAMES = [f"fc{i}/kernel" for i in (1, 2, 3)]
SPARSE = {"fc1/kernel": 12, "fc2/kernel": 16, "fc3/kernel": 8}
DENSE = {"fc1/kernel": 48, "fc2/kernel": 64, "fc3/kernel": 32}


def groups(key, kappa=3):
    return gap.partition(problem(key)[0], RULES, kappa)


@functools.cache
def trained(steps=26, inner="adam", kappa=3, **options):
    """(parameters, loss, history) of a run; tests that ask for one share it."""
    key = jax.random.key(0)
    params, loss = problem(key)
    options = {"interval": 4, "rounds": 2} | options
    inner = optax.sgd(0.0) if inner == "still" else INNERS[inner]
    tx = gap.cyclic(inner, RULES, key, groups(key, kappa), **options)
    return params, loss, history(tx, params, loss, steps)


def kernel(tree, name):
    return np.asarray(trees.by_path(tree)[name])


def test_stages_follow_each_other_with_exact_counts():
    _, _, found = trained()
    for step, (params, state) in enumerate(found):
        stage = step // 4
        expected = dict(SPARSE)
        if stage < 6:
            expected[NAMES[stage % 3]] = DENSE[NAMES[stage % 3]]
        assert counts(state.masks) == expected, step
        assert_zero_where_pruned(params, state)


def test_the_first_group_is_dense_from_initialisation_and_others_random(key):
    params, _ = problem(key)
    tx = gap.cyclic(adam(), RULES, key, groups(key), interval=4, rounds=1)
    masks = tx.init(params).masks
    assert counts(masks) == SPARSE | {"fc1/kernel": 48}
    random = gap.random_masks(key, params, RULES)
    np.testing.assert_array_equal(masks["fc2"]["kernel"], random["fc2"]["kernel"])


def test_a_boundary_prunes_by_magnitude_and_grows_from_zeros():
    # A learning rate of 0: what changes is done by the boundary alone.
    params, _, found = trained(steps=9, inner="still")
    for step, dense, grown in ((4, 0, 1), (8, 1, 2)):
        (before, old), (after, new) = found[step - 1 : step + 1]
        w = kernel(before, NAMES[dense])
        expected = gap.Unstructured().mask(jnp.abs(w), SPARSE[NAMES[dense]])
        np.testing.assert_array_equal(kernel(new.masks, NAMES[dense]), expected)
        np.testing.assert_array_equal(
            kernel(after, NAMES[dense]), np.where(expected, w, 0)
        )
        was = kernel(old.masks, NAMES[grown])
        now = kernel(after, NAMES[grown])
        np.testing.assert_array_equal(now[was], kernel(params, NAMES[grown])[was])
        assert np.all(now[~was] == 0.0)


def test_after_one_round_every_weight_was_active(key):
    params, loss = problem(key)
    tx = gap.cyclic(adam(), RULES, key, groups(key), interval=2, rounds=1)
    tx = gap.track_explored(tx)
    found = history(tx, params, loss, 7)
    assert gap.explored(found[3][1])["fc3/kernel"] < 1.0
    assert set(gap.explored(found[-1][1]).values()) == {1.0}


def test_masks_stay_after_the_last_stage():
    _, _, found = trained()
    for _, state in found[24:]:
        jax.tree.map(np.testing.assert_array_equal, state.masks, found[24][1].masks)
    assert counts(found[24][1].masks) == SPARSE


@pytest.mark.parametrize("restart", [True, False])
def test_the_optimizer_and_its_schedule_restart_with_a_stage(restart):
    _, _, found = trained() if restart else trained(steps=14, restart=False)
    steps = [int(state.inner[0].count) for _, state in found]
    expected = [1, 2, 3, 4] * 6 + [1, 2] if restart else list(range(1, 15))
    assert steps == expected


@pytest.mark.parametrize("inner", ["adam", "momentum"])
def test_a_restart_equals_a_new_training_from_the_pruned_weights(inner):
    _, loss, found = trained() if inner == "adam" else trained(steps=5, inner=inner)
    before, (after, state) = found[3][0], found[4]
    prune = lambda p: gap.apply_masks(p, gap.magnitude_masks(p, [(NAMES[0], 0.25)]))  # noqa: E731
    pruned = jax.jit(prune)(before)
    fresh = gap.masked(INNERS[inner], state.masks)
    # The gradient of the step is that of the weights it was given.
    grads = jax.jit(jax.grad(loss))(before)

    @jax.jit
    def step(grads, params):
        updates, _ = fresh.update(grads, fresh.init(params), params)
        return optax.apply_updates(params, updates)

    expected = step(grads, pruned)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_one_group_is_pruned_before_it_grows_again():
    _, _, found = trained(steps=10, kappa=1, inner="still")
    assert [sum(counts(s.masks).values()) for _, s in found] == [144] * 8 + [36] * 2
    for name, count in SPARSE.items():
        assert np.count_nonzero(kernel(found[3][0], name)) == DENSE[name]
        assert np.count_nonzero(kernel(found[4][0], name)) == count


def test_growing_to_a_density_adds_at_random_to_what_is_there():
    _, _, found = trained(grow_to=0.5)
    for step, (_, state) in enumerate(found):
        stage, expected = step // 4, dict(SPARSE)
        if stage < 6:
            expected[NAMES[stage % 3]] = DENSE[NAMES[stage % 3]] // 2
        assert counts(state.masks) == expected
    before, after = (kernel(found[i][1].masks, NAMES[1]) for i in (3, 4))
    assert np.all(after[before])
    rounds = [kernel(found[i][1].masks, NAMES[1]) for i in (4, 16)]
    assert np.any(rounds[0] != rounds[1])


def test_the_global_scope_ends_with_the_joint_count_of_the_largest():
    _, _, found = trained(steps=14, rounds=1, scope="global")
    (before, old), (_, new) = found[11], found[12]
    assert sum(counts(new.masks).values()) == 36
    assert counts(new.masks) != SPARSE
    active = np.concatenate([
        np.abs(kernel(before, n)[kernel(old.masks, n)]) for n in NAMES
    ])  # fmt: skip
    limit = np.sort(active)[-36]
    for name in NAMES:
        large = np.abs(kernel(before, name)) >= limit
        np.testing.assert_array_equal(kernel(new.masks, name), large)


@pytest.mark.parametrize("grow_to", [1.0, 0.5])
def test_a_stored_state_resumes_exactly(grow_to, key):
    params, loss = problem(key)
    tx = gap.cyclic(
        adam(), RULES, key, groups(key), interval=2, rounds=2, grow_to=grow_to
    )
    assert_resumes_exactly(tx, params, loss, steps=14, cut=5)


def test_a_pattern_holds_in_every_sparse_group(key):
    params, loss = problem(key)
    rules = [("fc.*/kernel", gap.Target(0.25, None, gap.NM(4, axis=1)))]
    tx = gap.cyclic(adam(), rules, key, groups(key), interval=2, rounds=1)
    for step, (_, state) in enumerate(history(tx, params, loss, 8)):
        for i, name in enumerate(NAMES):
            in_groups = kernel(state.masks, name).reshape(-1, 4).sum(axis=1)
            dense = i == step // 2
            assert set(in_groups.tolist()) == ({4} if dense else {1})


def test_a_partition_of_other_leaves_is_refused(key):
    params, _ = problem(key)
    partition = gap.Partition((NAMES[:1], NAMES[1:2]))
    tx = gap.cyclic(adam(), RULES, key, partition, interval=1, rounds=1)
    with pytest.raises(RuleError, match="fc3/kernel"):
        tx.init(params)
    for bad in ({"interval": 0}, {"rounds": 0}, {"grow_to": 0.0}, {"scope": "all"}):
        with pytest.raises(InputError, match=next(iter(bad))):
            gap.cyclic(
                adam(), RULES, key, partition, **({"interval": 1, "rounds": 1} | bad)
            )
