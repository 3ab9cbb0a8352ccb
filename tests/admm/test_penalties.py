"""Several sets with a dual each, balanced penalties, early stop, nested supports."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import admm
import gap
from core.errors import InputError
from core.selection import keep_largest
from tests.admm.test_transform import AtLeast, quadratic, train
from tests.devices import xla_flags


class AtMost:
    """The convex set {w : w <= high}."""

    def __init__(self, high):
        self.high = high

    def project(self, w):
        return jnp.minimum(w, jnp.asarray(self.high, w.dtype))


def test_two_sets_at_once_converge_to_the_minimum_in_both():
    # min 1/2 sum a (w - c)^2, 0 <= w <= 1: c clipped; a multiplier for each side.
    tx = admm.admm(
        optax.sgd(0.1), [("w", (AtLeast(0.0), AtMost(1.0)))], interval=60, rho=1.0
    )
    params, state = train(tx, {"w": jnp.zeros((2, 2))}, quadratic, 60 * 60)[-1]
    centre = jnp.array([[-2.0, 0.5], [3.0, -0.25]])
    np.testing.assert_allclose(params["w"], jnp.clip(centre, 0, 1), atol=1e-3)
    low, high = state.u["w"]
    scale = jnp.array([[1.0, 2.0], [0.5, 4.0]])
    np.testing.assert_allclose(-low, scale * jnp.maximum(-centre, 0), atol=1e-2)
    np.testing.assert_allclose(high, scale * jnp.maximum(centre - 1, 0), atol=1e-2)
    assert float(admm.residuals(params, state).relative) < 1e-2


def test_the_penalty_of_several_sets_is_the_sum_over_them(key):
    params = {"w": jax.random.normal(key, (3, 4))}
    state = admm.init_duals(params, [("w", (0.5, 0.25))], 0.7)
    first, second = state.z["w"]
    np.testing.assert_array_equal(first, keep_largest(params["w"], 6))
    zero = {"w": jnp.zeros((3, 4))}
    found = admm.penalty_gradient(params, state, zero)["w"]
    np.testing.assert_allclose(
        found, 0.7 * (2 * params["w"] - first - second), rtol=1e-5
    )
    auto = jax.grad(lambda p: admm.augmented_lagrangian(0.0, p, state))(params)["w"]
    np.testing.assert_allclose(found, auto, rtol=1e-5)


def test_steps_of_rho_and_their_duals():
    rho = admm.stepped_rho((0.1, 1.0), iterations=2)
    params = {"w": jnp.array([1.0, 2.0, 3.0])}
    rules = [("w", admm.Sparse(count=1))]
    state = admm.init_duals(params, rules, rho)
    for wanted in (0.1, 1.0, 1.0):
        before = state
        state = admm.iterate(params, state, rules, rho)
        np.testing.assert_allclose(state.rho, wanted)
        dual = before.rho * (before.u["w"] + params["w"] - state.z["w"])
        np.testing.assert_allclose(state.rho * state.u["w"], dual, rtol=1e-6)


def test_a_leaf_that_is_far_from_its_set_is_drawn_harder():
    # Both leaves want a constant away from their sets; "far" by so much more.
    params = {"far": jnp.full(4, 2.0), "near": jnp.array([5.0, 1e-4, 0.0, 0.0])}
    rules = [("far", admm.Sparse(count=1)), ("near", admm.Sparse(count=1))]
    balance = admm.Balance(ratio=5.0, factor=2.0, limit=8.0)
    state = admm.init_duals(params, rules, 0.1)
    for _ in range(5):
        before = state
        state = admm.iterate(params, state, rules, 0.1, balance)
        for name in params:
            dual = before.factor[name] * (before.u[name] + params[name] - state.z[name])
            new = state.factor[name] * state.u[name]
            np.testing.assert_allclose(new, dual, rtol=1e-5)
    assert float(state.factor["far"]) > float(before.factor["far"]) / 2 >= 1.0
    step = balance(jnp.float32(8.0), jnp.float32(1.0), jnp.float32(0.01))
    assert float(step) == 8.0
    step = balance(jnp.float32(8.0), jnp.float32(0.01), jnp.float32(1.0))
    assert float(step) == 4.0
    step = balance(jnp.float32(8.0), jnp.float32(1.0), jnp.float32(1.0))
    assert float(step) == 8.0


def test_the_dual_residual_is_over_the_dual_of_the_same_iteration():
    # U was 0 before it: over that, any move of Z would be out of balance.
    rules = [("w", admm.Sparse(count=1))]
    state = admm.init_duals({"w": jnp.array([1.0, 2.0, 3.0])}, rules, 0.1)
    moved = {"w": jnp.array([1.0, 2.0, 3.001])}
    state = admm.iterate(moved, state, rules, 0.1, admm.Balance())
    # ||W - Z|| / ||W|| is 0.6, ||Z - Z_previous|| / ||U|| is 0.001 / sqrt(5).
    assert float(state.factor["w"]) == 2.0


def test_a_set_that_is_named_often_has_the_residuals_of_the_set(key):
    params = {"w": jax.random.normal(key, (6, 5)), "b": jnp.ones(5)}
    moved = {**params, "w": params["w"][::-1]}
    seen = []
    for spec in (0.25, (0.25,) * 4):
        state = admm.init_duals(params, [("w", spec)], 0.1)
        state = admm.iterate(moved, state, [("w", spec)], 0.1)
        seen.append(float(admm.residuals(moved, state).relative))
        found = admm.residuals(moved, state)
        still = float(found.dual / jnp.linalg.norm(moved["w"])) / len(seen)
        bound = max(seen[0], still)
        assert bool(admm.converged(moved, state, 1.001 * bound))
        assert not bool(admm.converged(moved, state, 0.999 * bound))
    np.testing.assert_allclose(seen[1], seen[0], rtol=1e-6)


def test_it_stops_when_residuals_are_small():
    rules = [("w", admm.Sparse(count=2))]
    tx = admm.admm(optax.sgd(0.05), rules, interval=20, rho=1.0, tolerance=0.05)
    history = train(tx, {"w": jnp.ones((2, 2))}, quadratic, 20 * 25)
    iterations = [int(state.iteration) for _, state in history]
    assert 0 < iterations[-1] < 24
    assert bool(admm.converged(*history[-1], 0.05))
    assert not bool(admm.converged(*history[0], 0.05))
    still = history[-40:]
    np.testing.assert_array_equal(still[0][1].u["w"], still[-1][1].u["w"])


def test_progressive_steps_shrink_supports_and_stay_in_them(key):
    # ADMM under the mask of the step before: zeros stay zero, supports are nested.
    centre = jax.random.normal(key, (6, 6))
    loss = lambda p: 0.5 * jnp.sum((p["w"] - centre) ** 2)  # noqa: E731
    params, masks = {"w": centre}, {"w": jnp.ones((6, 6), bool)}
    for count in (18, 9, 3):
        rules = [("w", admm.Sparse(count=count))]
        inner = admm.admm(optax.sgd(0.1), rules, interval=5, rho=0.5)
        tx = gap.masked(inner, masks)
        history = train(tx, params, loss, 20)
        outside = ~np.asarray(masks["w"])
        assert not np.any(np.asarray(history[-1][0]["w"])[outside])
        assert not np.any(np.asarray(history[-1][1].inner.u["w"])[outside])
        before = masks
        params, masks = admm.finish(history[-1][0], rules)
        assert int(masks["w"].sum()) == count
        assert not np.any(np.asarray(masks["w"]) & outside)
    assert bool((before["w"] | ~masks["w"]).all())


SHARDED = """
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import admm, quant

mesh = Mesh(np.asarray(jax.devices()), ("data",))
assert mesh.size == 4
rows = NamedSharding(mesh, PartitionSpec("data"))
everywhere = NamedSharding(mesh, PartitionSpec())
w = jax.random.normal(jax.random.key(0), (8, 12))
rules = {
    "w": (0.5, admm.Sparse(0.25)),
    "low": admm.LowRank(3),
    "blocks": admm.BlockCirculant(2),
    "levels": admm.Quantized(quant.Ternary()),
}
rules = list(rules.items())
tx = admm.admm(
    optax.sgd(0.1, momentum=0.9), rules, interval=2, rho=0.5, balance=admm.Balance()
)
traces = []

def step(params, state):
    traces.append(None)
    grads = jax.tree.map(lambda w: w - 1.0, params)
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

def trained(place, compiled):
    params = {name: jax.device_put(w, place) for name, _ in rules}
    params["b"] = jax.device_put(w[0], everywhere)
    state = tx.init(params)
    alone = admm.iterate(params, state, rules, 0.5)
    for _ in range(7):
        for name, _ in rules:
            duals = [(s.z[name], s.u[name]) for s in (state, alone)]
            for part in jax.tree.leaves((duals, state.inner[0].trace[name])):
                assert part.sharding.is_equivalent_to(place, 2), (name, part.sharding)
        params, state = compiled(params, state)
    return params, state

columns = NamedSharding(mesh, PartitionSpec(None, "data"))
for place in (columns, rows):
    compiled = jax.jit(lambda *given: step(*given))
    params, state = trained(place, compiled)
    assert compiled._cache_size() == 1, compiled._cache_size()
assert {len(x.sharding.device_set) for x in jax.tree.leaves(state)} == {4}
whole, same = trained(everywhere, jax.jit(step))
for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(same), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
print("duals agree")
"""


def test_duals_lie_where_the_parameters_do_on_four_devices():
    """One compilation: a fresh state lies where a step puts it."""
    result = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env=os.environ | {"XLA_FLAGS": xla_flags(4), "JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
    )
    assert "duals agree" in result.stdout, result.stderr


def test_small_changes_of_half_precision_add_up_in_the_dual():
    # In bfloat16 2 + 0.001 is 2: the dual would stand still.
    w = {"w": jnp.asarray([2.0, 0.001], jnp.bfloat16)}
    rules = [("w", admm.Sparse(count=1))]
    state = admm.init_duals(w, rules, 0.1)
    state = state._replace(u={"w": jnp.asarray([0.0, 1.0], jnp.float32)})
    for _ in range(3):
        state = admm.iterate(w, state, rules, 0.1)
    assert state.z["w"].dtype == state.u["w"].dtype == jnp.float32
    np.testing.assert_allclose(state.u["w"], [0.0, 1 + 3 * float(w["w"][1])], rtol=1e-6)
    grads = admm.penalty_gradient(w, state, jax.tree.map(jnp.zeros_like, w))
    assert grads["w"].dtype == jnp.bfloat16


def test_bad_penalties_are_named():
    for bad in ({"ratio": 0.5}, {"factor": 1.0}, {"limit": 0.1}):
        with pytest.raises(InputError):
            admm.Balance(**bad)
    with pytest.raises(InputError, match="no values"):
        admm.stepped_rho((), 1)
    with pytest.raises(InputError, match="tolerance"):
        admm.admm(optax.sgd(0.1), [("w", 0.5)], interval=1, tolerance=-1.0)
