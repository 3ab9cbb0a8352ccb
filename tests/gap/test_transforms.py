import functools
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gap
from core import trees
from core.errors import InputError, NonFiniteError, ShapeError
from tests.gap.training_cases import valued_trees
from tests.relaxed import relaxed


def relaxed_adam(*args):
    return relaxed(optax.adam(*args))


INNERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adam": relaxed_adam(0.1),
    "adamw": relaxed(optax.adamw(0.1, weight_decay=0.1)),
    "chain": optax.chain(optax.clip_by_global_norm(1.0), relaxed_adam(0.05)),
    "labels": optax.multi_transform(
        {"a": relaxed_adam(0.1), "b": optax.sgd(0.1, momentum=0.9)},
        {"w": "a", "v": "b"},
    ),
}


def quadratic(key):
    a, b = jax.random.normal(key, (2, 6, 5))
    params = {"w": a, "v": b[0]}
    goal = {"w": b, "v": a[0]}
    loss = lambda p: sum(  # noqa: E731
        jnp.sum((p[k] - goal[k]) ** 2) for k in p
    )
    return params, loss


def run(tx, params, loss, steps):
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    history = []
    for _ in range(steps):
        params, state = step(params, state)
        history.append((params, state))
    return history


def assert_zero_where_pruned(params, state, masks):
    for name, mask in trees.by_path(masks).items():
        off = ~np.asarray(mask)
        assert np.all(np.asarray(trees.by_path(params)[name])[off] == 0.0)
        for path, leaf in trees.by_path(state.inner).items():
            if path.endswith(f"/{name}") and leaf.shape == mask.shape:
                assert np.all(np.asarray(leaf)[off] == 0.0), path


@pytest.mark.parametrize("inner", sorted(INNERS))
def test_pruned_weights_and_moments_are_exactly_zero_after_every_update(inner, key):
    params, loss = quadratic(key)
    masks = gap.magnitude_masks(params, [("w", 0.3)])
    # The first update must also clear what the weights held before.
    for after, state in run(gap.masked(INNERS[inner], masks), params, loss, 5):
        assert_zero_where_pruned(after, state, masks)
        assert np.all(np.asarray(after["v"]) != 0)


def test_the_last_of_a_chain_ends_at_exact_zeros():
    """Behind it a factor would leave half of every pruned weight, which is said."""
    params = {"w": jnp.array([1.0, 2.0, 3.0])}
    masks = {"w": jnp.array([False, True, False])}
    tx = optax.chain(optax.scale(0.5), gap.masked(optax.sgd(0.1), masks))
    updates, _ = tx.update(params, tx.init(params), params)
    after = optax.apply_updates(params, updates)["w"]
    np.testing.assert_allclose(after, [0.0, 1.9, 0.0], rtol=1e-6)
    assert after[0] == after[2] == 0.0
    for name in ("masked", "prune", "at_init", "static_random", "rewire", "cyclic"):
        assert "the last of a chain" in getattr(gap, name).__doc__


def test_kept_weights_learn_as_if_the_others_did_not_exist(key):
    params, loss = quadratic(key)
    masks = gap.magnitude_masks(params, [("w", 0.5)])
    after, _ = run(gap.masked(relaxed_adam(0.1), masks), params, loss, 20)[-1]
    free, _ = run(relaxed_adam(0.1), params, loss, 20)[-1]
    on = np.asarray(masks["w"])
    np.testing.assert_allclose(
        np.asarray(after["w"])[on], np.asarray(free["w"])[on], rtol=1e-5, atol=1e-6
    )


def test_a_nan_gradient_of_a_pruned_weight_does_no_harm():
    params = {"w": jnp.array([1.0, 2.0])}
    tx = gap.masked(relaxed_adam(0.1), {"w": jnp.array([True, False])})
    grads = {"w": jnp.array([1.0, jnp.nan])}
    updates, state = tx.update(grads, tx.init(params), params)
    after = optax.apply_updates(params, updates)
    assert np.all(np.isfinite(after["w"]))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state.inner))


def test_bfloat16_updates_still_reach_exact_zero():
    params = {"w": jnp.array([1.2345678, 3.3333333], jnp.float32)}
    to_bf16 = optax.stateless(
        lambda u, _: jax.tree.map(lambda x: x.astype(jnp.bfloat16), u)
    )
    tx = gap.masked(to_bf16, {"w": jnp.array([False, True])})
    updates, _ = tx.update(params, tx.init(params), params)
    assert float(optax.apply_updates(params, updates)["w"][0]) == 0.0


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("pattern", [gap.NM, gap.DBB])
def test_bounds_of_patterns_hold_after_every_update_of_prune(pattern, axis):
    """No more kept than the schedule allows in any block of 4, and exact at the end."""
    target = gap.Target(count=1, pattern=pattern(4, axis=axis))
    tx = gap.prune(optax.sgd(0.3), [("w", target)], gap.Cubic(1, 9, 2))

    @jax.jit
    def train(key):
        start, noise = jax.random.normal(key, (2, 12, 8))

        def step(carry, i):
            params, state = carry
            grads = {"w": jnp.sin((i + 1) * noise) + params["w"]}
            updates, state = tx.update(grads, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), (params["w"], state.masks["w"])

        params = {"w": start}
        steps = jnp.arange(12, dtype=jnp.float32)
        return jax.lax.scan(step, (params, tx.init(params)), steps)[1]

    for seed in range(10):
        weights, masks = map(np.asarray, train(jax.random.key(seed)))
        blocks = np.moveaxis(masks, axis + 1, -1).reshape(12, -1, 4).sum(axis=-1)
        most, least = blocks.max(axis=1), blocks.min(axis=1)
        np.testing.assert_array_equal(most, least)  # of random weights none is 0
        assert np.all(np.diff(most) <= 0)
        assert most[0] == 4
        assert np.all(most[9:] == 1)
        assert not np.any(weights[~masks])


@pytest.mark.parametrize(
    ("schedule", "last"),
    [(gap.OneShot(2), 2), (gap.Staged((1, 4, 8)), 8), (gap.Cubic(1, 9, 2), 9)],
)
def test_prune_ends_at_the_exact_count_and_never_regrows(schedule, last, key):
    params, loss = quadratic(key)
    tx = gap.prune(relaxed_adam(0.05), [("w", gap.Target(count=7))], schedule)
    history = run(tx, params, loss, last + 3)
    masks = [np.asarray(s.masks["w"]) for _, s in history]
    for before, after in pairwise(masks):
        assert np.all(before[after])
    assert masks[-1].sum() == 7
    for after, state in history:
        assert_zero_where_pruned(after, state, state.masks)


def test_prune_recomputes_masks_without_recompiling(key):
    params, loss = quadratic(key)
    tx = gap.prune(optax.sgd(0.1), [("w", 0.2)], gap.Cubic(0, 8))
    state, traces = tx.init(params), []

    @jax.jit
    def step(params, state):
        traces.append(1)
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(12):
        params, state = step(params, state)
    assert len(traces) == 1
    assert int(state.masks["w"].sum()) == 6


@functools.cache
def one_shot(density):
    tx = gap.prune(optax.sgd(0.0), [(".*/kernel", density)], gap.OneShot())
    return jax.jit(lambda tree: tx.update(tree, tx.init(tree), tree))


@given(valued_trees(), st.sampled_from([0.1, 0.5, 0.9]))
def test_one_shot_equals_magnitude_masks(tree, density):
    tree = jax.tree.map(jnp.asarray, tree)
    updates, state = one_shot(density)(tree)
    expected = gap.magnitude_masks(tree, [(".*/kernel", density)])
    for name, mask in trees.by_path(expected).items():
        np.testing.assert_array_equal(trees.by_path(state.masks)[name], mask)
    pruned = gap.apply_masks(tree, expected)
    jax.tree.map(
        np.testing.assert_array_equal, optax.apply_updates(tree, updates), pruned
    )


def test_add_l1_adds_the_subgradient_and_shrinks_to_zero():
    params = {"w": jnp.array([2.0, -3.0, 0.0]), "b": jnp.ones(1)}
    tx = gap.add_l1(0.5, [("w", 1.0)])
    grads = jax.tree.map(jnp.zeros_like, params)
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_array_equal(updates["w"], [0.5, -0.5, 0.0])
    np.testing.assert_array_equal(updates["b"], [0.0])


def test_missing_params_and_foreign_masks_are_named():
    params = {"w": jnp.ones(3)}
    tx = gap.masked(optax.sgd(0.1), {"w": jnp.ones(3, bool)})
    with pytest.raises(InputError, match="current parameters"):
        tx.update(params, tx.init(params))
    with pytest.raises(ShapeError):
        gap.masked(optax.sgd(0.1), {"v": None}).init(params)
    with pytest.raises(ShapeError, match="mask"):
        gap.masked(optax.sgd(0.1), {"w": jnp.ones(4, bool)}).init(params)


def test_masked_composes_with_scan_vmap_and_donation(key):
    keys = jax.random.split(key, 3)
    params = jax.jit(jax.vmap(lambda k: quadratic(k)[0]))(keys)
    loss = quadratic(key)[1]
    masks = gap.magnitude_masks(quadratic(key)[0], [("w", 0.3)])
    tx = gap.masked(relaxed_adam(0.1), masks)

    def train(params):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(loss)(params), state, params)
            return (optax.apply_updates(params, updates), state), loss(params)

        return jax.lax.scan(step, (params, tx.init(params)), length=10)

    (after, state), losses = jax.jit(jax.vmap(train), donate_argnums=0)(params)
    off = ~np.broadcast_to(np.asarray(masks["w"]), after["w"].shape)
    assert np.all(np.asarray(after["w"])[off] == 0)
    assert np.all(np.asarray(losses[:, -1]) < np.asarray(losses[:, 0]))
    assert state.masks["w"].shape == after["w"].shape


def test_a_field_of_the_state_is_no_key_of_the_parameters(key):
    params = {"w": jnp.ones((3, 3)), "mu": {"w": jnp.ones((3, 3))}}
    masks = {"w": None, "mu": {"w": jnp.eye(3) == 1}}
    tx = gap.masked(relaxed_adam(0.1), masks)
    _, state = tx.update(params, tx.init(params), params)
    moments = state.inner[0].mu
    assert np.all(np.asarray(moments["w"]) > 0)
    np.testing.assert_array_equal(np.asarray(moments["mu"]["w"]) > 0, np.eye(3) == 1)


def test_moments_that_start_as_copies_of_the_weights_are_cleared_at_init():
    params = {"w": jnp.array([1.0, 2.0])}
    inner = optax.GradientTransformation(
        lambda p: {"copy": p}, lambda u, s, p=None: (u, s)
    )
    state = gap.masked(inner, {"w": jnp.array([False, True])}).init(params)
    np.testing.assert_array_equal(state.inner["copy"]["w"], [0.0, 2.0])


def test_a_weight_that_becomes_nan_revives_no_other():
    tx = gap.prune(optax.sgd(0.0), [("w", gap.Target(count=1))], gap.Cubic(0, 2))
    params = {"w": jnp.array([1.0, 2.0, 3.0, 4.0])}
    state = tx.init(params)
    zero = jax.tree.map(jnp.zeros_like, params)
    for _ in range(2):
        _, state = tx.update(zero, state, params)
    before = np.asarray(state.masks["w"])
    _, state = tx.update(zero, state, {"w": params["w"].at[3].set(jnp.nan)})
    assert not np.any(np.asarray(state.masks["w"]) & ~before)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_weights_that_are_not_finite_are_refused_at_the_door(bad):
    params = {"w": jnp.array([1.0, bad])}
    for tx in (
        gap.masked(optax.sgd(0.1), {"w": jnp.ones(2, bool)}),
        gap.prune(optax.sgd(0.1), [("w", 0.5)], gap.OneShot()),
    ):
        with pytest.raises(NonFiniteError, match="w"):
            tx.init(params)
