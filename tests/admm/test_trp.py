"""Trained rank pruning: where gradients are taken, what the pull does."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import admm
from admm import EnergyLoss, LowRank
from core.errors import InputError, NonFiniteError, RuleError
from tests.gap.training_cases import adam

RULES = [("w", LowRank(rank=2))]
GOAL = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)


def loss(params):
    return 0.5 * jnp.sum((params["w"] - GOAL) ** 2) + jnp.sum(params["b"] ** 2)


def start():
    w = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    return {"w": jnp.asarray(w), "b": jnp.ones(3)}


def trained(tx, steps, params=None, log=None):
    params = admm.truncate(start(), RULES) if params is None else params
    state = tx.init(params)
    traces = []

    @jax.jit
    def step(params, state):
        traces.append(None)
        grads = jax.grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
        if log is not None:
            log.append(params)
    assert len(traces) == 1
    return params, state


def low(w, rank=2):
    u, s, v = np.linalg.svd(np.asarray(w, np.float64), full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank], u[:, :rank] @ v[:rank]


def low_by_energy(w, loss=0.1):
    s = np.linalg.svd(np.asarray(w, np.float64), compute_uv=False)
    rank = int((np.cumsum(s**2) < (1 - loss) * np.sum(s**2)).sum()) + 1
    return low(w, rank)


@pytest.mark.parametrize("period", [1, 3])
@pytest.mark.parametrize("nuclear", [0.0, 0.01])
@pytest.mark.parametrize("rule", [LowRank(rank=2), EnergyLoss(0.1)], ids=str)
def test_steps_are_those_of_the_paper(period, nuclear, rule):
    """W_low = T(W), W <- W_low - lr (grad f(W_low) + lambda U V^T) at steps z m."""
    log, rules = [], [("w", rule)]
    tx = admm.trp(optax.sgd(0.1), rules, period=period, nuclear=nuclear)
    trained(tx, 7, admm.truncate(start(), rules), log)
    by_hand = low if isinstance(rule, LowRank) else low_by_energy
    w = np.asarray(start()["w"], np.float64)
    for t in range(7):
        slope = 0.0
        if t % period == 0:
            w, polar = by_hand(w)
            slope = nuclear * polar
        w = w - 0.1 * (w - GOAL + slope)
        wanted = by_hand(w)[0] if (t + 1) % period == 0 else w
        np.testing.assert_allclose(log[t]["w"], wanted, atol=1e-4)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_truncations_come_after_the_first_ones_steps(first):
    log = []
    tx = admm.trp(optax.sgd(0.1), RULES, period=3, first=first, nuclear=0.0)
    trained(tx, 8, log=log)
    low_rank = [np.linalg.matrix_rank(p["w"], 1e-4) == 2 for p in log]
    wanted = [(t + 1 - first) % 3 == 0 for t in range(8)]
    assert low_rank == wanted
    assert low_rank[-1] == (first == 2)  # 8 % 3


def test_ranks_and_what_is_left_alone():
    tx = admm.trp(adam(), [("w", EnergyLoss(0.2))], period=4)
    params, state = trained(tx, 8)
    assert state.rank == {"w": np.linalg.matrix_rank(params["w"], 1e-4), "b": None}
    assert state.subgradient["b"] is None
    plain, _ = trained(adam(), 8)
    np.testing.assert_allclose(params["b"], plain["b"], rtol=1e-6)
    _, state = trained(admm.trp(optax.sgd(0.1), RULES, nuclear=0.0), 1)
    assert jax.tree.leaves(state.subgradient) == []


def test_the_nuclear_norm_alone_pulls_without_truncation():
    def spectrum(nuclear):
        tx = admm.trp(optax.sgd(0.1), RULES, period=1, nuclear=nuclear, truncate=False)
        params, _ = trained(tx, 60, start())
        return np.linalg.svd(params["w"], compute_uv=False)

    free, pulled = spectrum(0.0), spectrum(0.5)
    np.testing.assert_allclose(free, np.linalg.svd(GOAL, compute_uv=False), rtol=0.02)
    np.testing.assert_allclose(pulled[:2], free[:2] - 0.5, rtol=0.02)  # the two kept
    np.testing.assert_allclose(pulled[2:], free[2:], rtol=0.05)


def test_bad_input_is_named():
    with pytest.raises(InputError, match="period"):
        admm.trp(optax.sgd(0.1), RULES, period=0)
    with pytest.raises(InputError, match="first"):
        admm.trp(optax.sgd(0.1), RULES, period=2, first=2)
    with pytest.raises(InputError, match="nuclear"):
        admm.trp(optax.sgd(0.1), RULES, nuclear=-1.0)
    with pytest.raises(InputError, match="LowRank"):
        admm.trp(optax.sgd(0.1), [("w", 0.5)]).init(start())
    with pytest.raises(RuleError, match="kernel"):
        admm.trp(optax.sgd(0.1), [("kernel", LowRank(rank=1))]).init(start())
    bad = {"w": jnp.full((6, 5), jnp.nan), "b": jnp.ones(3)}
    with pytest.raises(NonFiniteError):
        admm.trp(optax.sgd(0.1), RULES).init(bad)
    tx = admm.trp(optax.sgd(0.1), RULES)
    with pytest.raises(InputError, match=r"admm\.trp"):
        tx.update(start(), tx.init(start()))
