"""Seed replay: steps, records and memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zo
from core.errors import InputError
from zo import replay

D = 12
H = np.linspace(0.2, 1.0, D).astype(np.float32)
X = jnp.asarray(np.random.default_rng(0).normal(size=D), jnp.float32)


def f(x):
    return 0.5 * jnp.vdot(jnp.asarray(H) * x, x)


@pytest.fixture(scope="module")
def replayed():
    """60 steps of seed replay on a tree of two types, with their records."""
    start = {"w": jnp.ones((3, 4)), "b": jnp.ones(5, jnp.bfloat16)}
    # A number of bfloat16 near 1 moves by 1 / 128 at least.
    optimizer = zo.SeedReplay(
        zo.inverse(0.05, 50.0), samples=3, weight_decay=0.01, mu=0.02
    )

    def g(p):
        return jnp.square(p["w"]).sum() + jnp.square(p["b"].astype(jnp.float32)).sum()

    def body(carry, key):
        params, state, _, record = optimizer.step(key, g, *carry)
        return (params, state), record

    @jax.jit
    def go(key):
        keys = jax.random.split(key, 60)
        return jax.lax.scan(body, (start, optimizer.init(start)), keys)

    (end, state), records = go(jax.random.key(0))
    return optimizer, g, start, end, state, records


def test_seed_replay_minimizes_and_counts(replayed):
    optimizer, g, start, end, state, _ = replayed
    assert g(end) < 0.2 * g(start)
    assert end["b"].dtype == jnp.bfloat16
    assert state.queries == 60 * optimizer.queries() == 360
    assert state.failures == 0


def test_a_run_is_its_keys_and_slopes(replayed):
    optimizer, _, start, end, _, records = replayed
    again = jax.jit(optimizer.retrace)(start, records)
    np.testing.assert_allclose(again["w"], end["w"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(again["b"], end["b"])


def test_seed_replay_is_the_random_estimate_of_its_directions():
    optimizer = zo.SeedReplay(0.1, samples=2, mu=0.1)
    start, key = {"x": X}, jax.random.key(5)

    @jax.jit
    def run(key):
        stepped = optimizer.step(key, lambda p: f(p["x"]), start, optimizer.init(start))
        zeros = {"x": jnp.zeros(D)}
        keys = jax.random.split(key, 2)
        return stepped, jax.vmap(lambda k: optimizer.shifted(zeros, k, 1.0)["x"])(keys)

    (end, _, info, record), v = run(key)
    slopes = [float(jnp.vdot(H * X, each)) for each in v]
    np.testing.assert_allclose(record.slopes, slopes, rtol=1e-3)
    expected = X - 0.1 * (slopes[0] * v[0] + slopes[1] * v[1]) / 2
    np.testing.assert_allclose(end["x"], expected, rtol=1e-3, atol=1e-4)
    assert info.queries == 4


def test_a_step_of_seed_replay_holds_the_parameters_once_more():
    params = {str(i): jnp.ones((256, 256)) for i in range(8)}
    optimizer = zo.SeedReplay(0.1, samples=2)
    state, size = optimizer.init(params), 8 * 256 * 256 * 4

    def g(p):
        return sum(leaf[0].sum() for leaf in p.values())

    def step(key, params):
        return optimizer.step(key, g, params, state)[0]

    program = jax.jit(step, donate_argnums=1).lower(jax.random.key(0), params)
    found = program.compile().memory_analysis()
    assert found.temp_size_in_bytes < 1.5 * size
    assert found.alias_size_in_bytes >= size  # what is given away is written over


def test_seed_replay_takes_keys_of_both_kinds():
    optimizer = zo.SeedReplay(0.1, samples=2)
    step = jax.jit(lambda key: optimizer.step(key, f, X, optimizer.init(X))[0])
    np.testing.assert_array_equal(step(jax.random.key(3)), step(jax.random.PRNGKey(3)))


def test_seed_replay_draws_blocks_apart():
    optimizer = zo.SeedReplay(0.1)
    size = 2 * replay.BLOCK + 7
    v = np.asarray(optimizer.shifted(jnp.zeros(size), jax.random.key(0), 1.0))
    assert v.std() == pytest.approx(1, rel=0.02)
    first, second = v[: replay.BLOCK], v[replay.BLOCK : 2 * replay.BLOCK]
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    assert np.count_nonzero(v[-7:]) == 7


def test_seed_replay_in_bfloat16_moves_or_says_why():
    with pytest.raises(InputError, match="wider dtype"):
        zo.SeedReplay(0.1).init({"w": jnp.ones(9, jnp.bfloat16), "b": jnp.zeros(3)})
    zo.SeedReplay(0.1, mu=0.01).init(jnp.ones(9, jnp.bfloat16))


def test_seed_replay_leaves_out_failures():
    optimizer = zo.SeedReplay(0.1, samples=2, law="rademacher", weight_decay=0.1)
    end, state, info, record = optimizer.step(
        jax.random.key(0), lambda x: jnp.nan * x.sum(), X, optimizer.init(X)
    )
    np.testing.assert_array_equal(end, X)
    np.testing.assert_array_equal(optimizer.moved(X, record), X)
    assert info.failures == state.failures == 4
    with pytest.raises(InputError, match="gaussian or rademacher"):
        zo.SeedReplay(0.1, law="sphere")
    with pytest.raises(InputError, match="floating point"):
        optimizer.init({"x": jnp.arange(3)})
    with pytest.raises(InputError, match="at least one number"):
        optimizer.init({})
