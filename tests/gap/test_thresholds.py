import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gap
from core.errors import InputError
from tests.gap.training_cases import adam, problem

RULES = [("fc.*/kernel", True)]


def test_the_soft_threshold_is_the_proximal_map_of_the_l1_norm():
    # prox_t(w) = argmin_x (x - w)^2 / 2 + t |x|, found on a fine grid.
    a = jnp.float32(0.3)
    t = 1 / (1 + np.exp(-0.3))
    grid = np.linspace(-3, 3, 60001)
    for w in (-2.5, -0.6, -0.1, 0.0, 0.2, 0.57, 0.58, 1.7):
        nearest = grid[np.argmin((grid - w) ** 2 / 2 + t * np.abs(grid))]
        got = float(gap.soft_threshold(jnp.float32(w), a))
        assert abs(got - nearest) < 2e-4


def test_gradients_equal_finite_differences(key):
    with jax.enable_x64(True):
        w = jax.random.normal(key, (20,), jnp.float64)
        a = jnp.float64(-0.4)
        f = lambda w, a: jnp.sum(jnp.sin(gap.soft_threshold(w, a)))  # noqa: E731
        dw, da = jax.grad(f, argnums=(0, 1))(w, a)
        h = 1e-6
        assert abs(float((f(w, a + h) - f(w, a - h)) / (2 * h) - da)) < 1e-6
        for i in range(w.size):
            e = jnp.zeros_like(w).at[i].set(h)
            assert abs(float((f(w + e, a) - f(w - e, a)) / (2 * h) - dw[i])) < 1e-6


def test_masks_are_the_weights_that_the_network_uses(key):
    params, _ = problem(key)
    thresholds = gap.init_thresholds(params, RULES, value=0.0)
    used = gap.thresholded(params, thresholds)
    masks = gap.threshold_masks(params, thresholds)
    for name in params:
        on = np.asarray(masks[name]["kernel"])
        assert 0 < on.mean() < 1
        np.testing.assert_array_equal(np.asarray(used[name]["kernel"]) != 0, on)
        np.testing.assert_array_equal(used[name]["bias"], params[name]["bias"])
        assert masks[name]["bias"] is None


def test_a_very_low_start_leaves_the_network_as_it_is(key):
    params, _ = problem(key)
    thresholds = gap.init_thresholds(params, RULES, value=-3200.0)
    used = gap.thresholded(params, thresholds)
    jax.tree.map(np.testing.assert_array_equal, used, params)


def test_decay_of_the_thresholds_makes_the_network_sparse(key):
    params, loss = problem(key)
    tx = adam(0.02)

    def density(strength):
        def objective(both):
            decay = sum(jnp.square(a) for a in jax.tree.leaves(both[1]))
            return loss(gap.thresholded(*both)) + strength * decay

        @jax.jit
        def step(both, state):
            updates, state = tx.update(jax.grad(objective)(both), state)
            return optax.apply_updates(both, updates), state

        both = params, gap.init_thresholds(params, RULES, value=-6.0)
        state = tx.init(both)
        for _ in range(200):
            both, state = step(both, state)
        masks = jax.tree.leaves(gap.threshold_masks(*both))
        return sum(int(m.sum()) for m in masks) / sum(m.size for m in masks)

    assert density(0.0) > density(5.0)


def test_rules_say_true_or_none(key):
    params, _ = problem(key)
    thresholds = gap.init_thresholds(params, [("fc1/.*", None), *RULES])
    assert thresholds["fc1"]["kernel"] is None
    assert thresholds["fc2"]["kernel"].shape == ()
    with pytest.raises(InputError, match="True or None"):
        gap.init_thresholds(params, [("fc1/kernel", 0.1)])
