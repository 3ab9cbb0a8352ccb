import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax.test_util import check_grads

import admm
import gap
from core import trees
from core.errors import InputError, NonFiniteError, RuleError
from core.selection import keep_largest
from tests.relaxed import relaxed


@dataclasses.dataclass(frozen=True)
class AtLeast:
    """The convex set {w : w >= low}."""

    low: float

    def project(self, w):
        return jnp.maximum(w, jnp.asarray(self.low, w.dtype))


CENTRE = jnp.array([[-2.0, 0.5], [3.0, -0.25]])
SCALE = jnp.array([[1.0, 2.0], [0.5, 4.0]])


def quadratic(params):
    return 0.5 * jnp.sum(SCALE * (params["w"] - CENTRE) ** 2)


def train(tx, params, loss, steps):
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


def test_convex_quadratic_converges_to_the_constrained_minimum():
    # min 1/2 sum a (w - c)^2 subject to w >= 0 is max(c, 0), coordinate by
    # coordinate, with multiplier a * max(-c, 0) on the active ones.
    tx = admm.admm(
        optax.sgd(0.1), [("w", AtLeast(0.0))], interval=60, rho=2.0, reset_inner=False
    )
    params, state = train(tx, {"w": jnp.zeros((2, 2))}, quadratic, 60 * 60)[-1]
    np.testing.assert_allclose(params["w"], jnp.maximum(CENTRE, 0), atol=1e-4)
    np.testing.assert_allclose(params["w"], state.z["w"], atol=1e-4)
    multiplier = -state.rho * state.u["w"]
    np.testing.assert_allclose(multiplier, SCALE * jnp.maximum(-CENTRE, 0), atol=1e-3)
    assert float(admm.residuals(params, state).relative) < 1e-4


def test_the_fixed_point_differs_from_projecting_the_weights_alone():
    # One weight, f = (w - 1)^2 / 2, the set {0}: W + U, not W, is projected, and
    # rho U must settle at the multiplier f'(0) = -1.
    @dataclasses.dataclass(frozen=True)
    class Zero:
        def project(self, w):
            return jnp.zeros_like(w)

    loss = lambda p: 0.5 * jnp.sum((p["w"] - 1.0) ** 2)  # noqa: E731
    tx = admm.admm(optax.sgd(0.2), [("w", Zero())], interval=50, rho=0.5)
    params, state = train(tx, {"w": jnp.ones(1)}, loss, 50 * 40)[-1]
    np.testing.assert_allclose(params["w"], [0.0], atol=1e-4)
    np.testing.assert_allclose(state.rho * state.u["w"], [1.0], atol=1e-3)


def test_the_augmented_lagrangian_falls_in_the_primal_step_and_in_z():
    rules = [("w", admm.Sparse(count=2))]
    tx = admm.admm(optax.sgd(0.05), rules, interval=25, rho=1.0)
    params = {"w": jnp.ones((2, 2))}
    state = tx.init(params)
    value = float(admm.augmented_lagrangian(quadratic(params), params, state))
    for _ in range(10):
        frozen = state
        for _ in range(25):
            grads = admm.penalty_gradient(params, frozen, jax.grad(quadratic)(params))
            params = jax.tree.map(lambda w, g: w - 0.05 * g, params, grads)
            new = float(admm.augmented_lagrangian(quadratic(params), params, frozen))
            assert new <= value + 1e-5
            value = new
        state = admm.iterate(params, frozen, rules, 1.0)
        with_new_z = frozen._replace(z=state.z)
        new = float(admm.augmented_lagrangian(quadratic(params), params, with_new_z))
        assert new <= value + 1e-5
        value = float(admm.augmented_lagrangian(quadratic(params), params, state))


def test_sparse_quadratic_becomes_feasible_and_residuals_fall():
    rules = [("w", admm.Sparse(count=2))]
    tx = admm.admm(optax.sgd(0.05), rules, interval=50, rho=1.0)
    history = train(tx, {"w": jnp.ones((2, 2))}, quadratic, 50 * 20)
    relative = [float(admm.residuals(*h).relative) for h in history[49::50]]
    assert relative[-1] < 1e-3 < relative[0]
    params, state = history[-1]
    assert int(state.iteration) == 19
    hard, masks = admm.finish(params, rules)
    assert int(masks["w"].sum()) == 2
    np.testing.assert_allclose(hard["w"], params["w"], atol=5e-3)


def test_the_gradient_of_the_penalty_matches_finite_differences(key):
    params = {"w": jax.random.normal(key, (3, 4)), "b": jnp.ones(2)}
    state = admm.init_duals(params, [("w", 0.5)], 0.7)
    state = state._replace(u={"w": 0.1 * params["w"], "b": None})

    def lagrangian(p):
        return admm.augmented_lagrangian(0.0, p, state)

    zero = jax.tree.map(jnp.zeros_like, params)
    ours = admm.penalty_gradient(params, state, zero)
    auto = jax.grad(lagrangian)(params)
    np.testing.assert_allclose(ours["w"], auto["w"], rtol=1e-5)
    np.testing.assert_array_equal(ours["b"], [0.0, 0.0])
    check_grads(lagrangian, (params,), 1, rtol=1e-2)


@pytest.mark.parametrize("reset", [False, True])
def test_both_ways_of_treating_adam_converge(reset):
    rules = [("w", admm.Sparse(count=2))]
    tx = admm.admm(
        relaxed(optax.adam(0.02)), rules, interval=100, rho=1.0, reset_inner=reset
    )
    params, state = train(tx, {"w": jnp.ones((2, 2))}, quadratic, 3000)[-1]
    assert float(admm.residuals(params, state).relative) < 2e-2


def test_reset_inner_restarts_the_moments_at_each_iteration():
    rules = [("w", admm.Sparse(count=2))]
    counts = {}
    for reset in (True, False):
        tx = admm.admm(relaxed(optax.adam(0.01)), rules, interval=4, reset_inner=reset)
        history = train(tx, {"w": jnp.ones((2, 2))}, quadratic, 9)
        counts[reset] = [int(trees.by_path(s.inner)["0/count"]) for _, s in history]
    assert counts[True] == [1, 2, 3, 4, 1, 2, 3, 4, 1]
    assert counts[False] == list(range(1, 10))


def test_a_changing_rho_keeps_the_unscaled_dual():
    rules = [("w", admm.Sparse(count=1))]
    rho = admm.geometric_rho(0.1, 2.0, 0.5)
    params = {"w": jnp.array([1.0, 2.0, 3.0])}
    state = admm.init_duals(params, rules, rho)
    seen = []
    for _ in range(5):
        before = state
        state = admm.iterate(params, state, rules, rho)
        dual = before.rho * (before.u["w"] + params["w"] - state.z["w"])
        np.testing.assert_allclose(state.rho * state.u["w"], dual, rtol=1e-6)
        seen.append(float(state.rho))
    np.testing.assert_allclose(seen, [0.2, 0.4, 0.5, 0.5, 0.5], rtol=1e-6)


def test_the_state_starts_as_the_paper_says(key):
    params = {"w": jax.random.normal(key, (4, 5)), "b": jnp.ones(5)}
    state = admm.admm(optax.sgd(0.1), [("w", 0.25)], interval=3).init(params)
    np.testing.assert_array_equal(state.z["w"], keep_largest(params["w"], 5))
    assert not np.any(state.u["w"])
    assert state.z["b"] is None


def test_one_compilation_however_many_iterations():
    tx = admm.admm(optax.sgd(0.1), [("w", 0.5)], interval=3, rho=0.1)
    params, traces = {"w": jnp.ones((2, 2))}, []
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        traces.append(1)
        updates, state = tx.update(jax.grad(quadratic)(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(10):
        params, state = step(params, state)
    assert len(traces) == 1
    assert int(state.iteration) == 3


def test_under_vmap_each_replica_has_its_own_duals(key):
    rules = [("w", 0.5)]
    tx = admm.admm(optax.sgd(0.1), rules, interval=2, rho=0.5)
    stacked = {"w": jax.random.normal(key, (3, 2, 2))}

    def run(params):
        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jax.grad(quadratic)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=7)[0][0]

    together = jax.jit(jax.vmap(run))(stacked)
    for i in range(3):
        alone = run({"w": stacked["w"][i]})
        np.testing.assert_allclose(together["w"][i], alone["w"], rtol=1e-5)


def linen_params(key):
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.relu(linen.Dense(8, name="fc1")(x))
            return linen.Dense(1, name="fc2")(x)

    net = Net()
    params = net.init(key, jnp.ones((1, 3)))["params"]
    return params, lambda p, x: net.apply({"params": p}, x)


def nnx_params(key):
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.fc1 = nnx.Linear(3, 8, rngs=rngs)
            self.fc2 = nnx.Linear(8, 1, rngs=rngs)

        def __call__(self, x):
            return self.fc2(nnx.relu(self.fc1(x)))

    graph, params = nnx.split(Net(nnx.Rngs(0)), nnx.Param)
    return params, lambda p, x: nnx.merge(graph, p)(x)


def dict_params(key):
    a, b = jax.random.normal(key, (2, 8, 8))
    params = {
        "fc1": {"kernel": a[:3], "bias": jnp.zeros(8)},
        "fc2": {"kernel": b[:, :1], "bias": jnp.zeros(1)},
    }

    def apply(p, x):
        x = jax.nn.relu(x @ p["fc1"]["kernel"] + p["fc1"]["bias"][None])
        return x @ p["fc2"]["kernel"] + p["fc2"]["bias"][None]

    return params, apply


@pytest.mark.parametrize("make", [linen_params, nnx_params, dict_params])
def test_prune_and_retrain_any_kind_of_parameters(make, key):
    params, apply = make(key)
    x = jax.random.normal(key, (64, 3))
    y = x[:, :1] - 2 * x[:, 1:2]

    def loss(p):
        return jnp.mean((apply(p, x) - y) ** 2)

    rules = [("fc1/kernel", 0.25), ("fc2/kernel", admm.Sparse(count=4))]
    tx = admm.admm(optax.sgd(0.05), rules, interval=20, rho=0.1)
    trained, _ = train(tx, params, loss, 200)[-1]
    hard, masks = admm.finish(trained, rules)
    tx = gap.masked(optax.sgd(0.02, momentum=0.5), masks)
    final, state = train(tx, hard, loss, 200)[-1]
    for name, mask in trees.by_path(masks).items():
        moments = [
            leaf
            for path, leaf in trees.by_path(state.inner).items()
            if path.endswith(name)
        ]
        assert moments, "momentum of a pruned kernel was not found"
        assert not any(np.any(np.asarray(m)[~np.asarray(mask)]) for m in moments)
    assert [r.kept for r in gap.summary(final, [(".*/kernel", True)])] == [6, 4]
    assert float(loss(final)) < min(0.5, float(loss(params)))
    assert jax.tree.structure(final) == jax.tree.structure(params)


def test_finish_without_a_support_has_no_mask():
    projected, masks = admm.finish({"w": jnp.array([-1.0])}, [("w", AtLeast(0.0))])
    assert masks == {"w": None}
    np.testing.assert_array_equal(projected["w"], [0.0])


def test_bad_arguments_are_named():
    params = {"w": jnp.ones(4)}
    with pytest.raises(InputError, match="interval: got 0"):
        admm.admm(optax.sgd(0.1), [("w", 0.5)], interval=0)
    with pytest.raises(InputError, match="rho: got -1"):
        admm.admm(optax.sgd(0.1), [("w", 0.5)], interval=1, rho=-1.0).init(params)
    with pytest.raises(RuleError):
        admm.admm(optax.sgd(0.1), [("v", 0.5)], interval=1).init(params)
    with pytest.raises(NonFiniteError, match="w"):
        admm.admm(optax.sgd(0.1), [("w", 0.5)], interval=1).init(
            {"w": jnp.array([jnp.nan])}
        )
    with pytest.raises(InputError, match="at least one constrained leaf"):
        admm.finish(params, [("w", None)])
    tx = admm.admm(optax.sgd(0.1), [("w", 0.5)], interval=1)
    with pytest.raises(InputError, match="current parameters"):
        tx.update(params, tx.init(params))
    for rho in (lambda i: 0.0 * i.astype(jnp.float32), float("inf"), float("nan")):
        with pytest.raises(InputError, match="rho"):
            admm.admm(optax.sgd(0.1), [("w", 0.5)], interval=1, rho=rho).init(params)
    for bad in [(0.0, 1.3, 0.1), (0.1, 0.9, 1.0), (0.1, 1.0, 0.05)]:
        with pytest.raises(InputError):
            admm.geometric_rho(*bad)
