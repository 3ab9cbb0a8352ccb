import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gap
from core import trees
from core.errors import InputError
from tests.gap.training_cases import adam, assert_resumes_exactly, history, problem

RULES = [("fc.*/kernel", 0.25)]


def test_the_account_equals_one_kept_by_hand(key):
    params, loss = problem(key)
    tx = gap.set_(adam(), RULES, key, every=2, fraction=0.5)
    tracked = history(gap.track_explored(tx), params, loss, 9)
    plain = history(tx, params, loss, 9)
    jax.tree.map(np.testing.assert_array_equal, tracked[-1][0], plain[-1][0])
    state = tracked[-1][1]
    for name, share in gap.explored(state).items():
        masks = [np.asarray(trees.by_path(s.masks)[name]) for _, s in plain]
        assert share == pytest.approx(np.any(masks, axis=0).mean())
        assert gap.mean_densities(state)[name] == pytest.approx(0.25)
    jax.tree.map(np.testing.assert_array_equal, state.masks, plain[-1][1].masks)


def test_gradual_pruning_uses_every_weight_and_its_mean_density_is_that_of_steps(key):
    params, loss = problem(key)
    tx = gap.track_explored(gap.prune(adam(), RULES, gap.OneShot(3)))
    state = history(tx, params, loss, 8)[-1][1]
    assert set(gap.explored(state).values()) == {1.0}
    expected = (3 * 1.0 + 5 * 0.25) / 8
    assert gap.mean_densities(state)["fc1/kernel"] == pytest.approx(expected)


def test_cost_of_a_cycle_is_the_mean_over_its_stages(key):
    params, loss = problem(key)
    groups = gap.partition(params, RULES, 3)
    tx = gap.cyclic(adam(), RULES, key, groups, interval=2, rounds=1)
    state = history(gap.track_explored(tx), params, loss, 6)[-1][1]
    flops = {f"fc{i}/kernel": n for i, n in ((1, 10.0), (2, 20.0), (3, 70.0))}
    stages = [sum(n * (1 if i == j else 0.25) for j, n in enumerate(flops.values()))
              for i in range(3)]  # fmt: skip
    cost = gap.training_cost(gap.mean_densities(state), flops)
    assert cost == pytest.approx(sum(stages) / 3 / 100)


def test_leaves_without_a_density_count_as_dense():
    assert gap.training_cost({"a": 0.5}, {"a": 1.0, "b": 3.0}) == 0.875
    assert gap.training_cost({}, {"a": 1.0}) == 1.0
    with pytest.raises(InputError, match="c"):
        gap.training_cost({"c": 0.5}, {"a": 1.0})
    with pytest.raises(InputError, match="no operations"):
        gap.training_cost({}, {"a": 0.0})


def test_a_stored_account_resumes_exactly(key):
    params, loss = problem(key)
    tx = gap.rewire(adam(), RULES, key, fraction=0.5, every=2, grow="random")
    assert_resumes_exactly(gap.track_explored(tx), params, loss)


def test_a_transform_without_masks_is_refused():
    params = {"w": jnp.ones(3)}
    with pytest.raises(InputError, match="masks"):
        gap.track_explored(optax.sgd(0.1)).init(params)
    state = gap.track_explored(gap.masked(optax.sgd(0.1), {"w": None})).init(params)
    with pytest.raises(InputError, match="first step"):
        gap.mean_densities(state)
