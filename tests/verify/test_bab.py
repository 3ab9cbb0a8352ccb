"""Branch and bound: conjunctions, unions, time limits, the pool, how a round splits."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import verify
from tests.verify.network_cases import Case, layers, mlp
from verify import beta, exact, rounds
from verify.pool import Batch, Pool
from verify.programs import Shape, programs
from verify.properties import Clause, Property

CONFIG = verify.Config(
    timeout_s=60, batch=8, restarts=4, attack_steps=20, branching="relu"
)
CASE = Case(mlp, layers(4, 8, 8, 3), (4,))
ROWS = np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])


def worst(p, x):
    """The larger of two rows: what a conjunction of both needs to be positive."""
    y = mlp({k: v for k, v in p.items() if k != "d"}, x)
    a = jnp.stack([y[0] - y[1], y[1] - y[2]]) + p["d"]
    return jnp.maximum(a[:1], a[1:])


def asked(seed):
    """A random network and a conjunction of two rows, of a margin near zero."""
    rng = np.random.default_rng(seed)
    params = CASE.params(rng)
    x = rng.normal(size=4)
    d = rng.uniform(-0.1, 0.3, 2).astype(np.float32)
    region = verify.box(x - 0.7, x + 0.7)
    clause = Clause(region, verify.Spec(ROWS, d.astype(np.float64)))
    return params, d, clause


@functools.cache
def built(fn, *names):
    """A network of the weights of `CASE` and those of two numbers that are named."""
    params = CASE.params(np.random.default_rng(0))
    params |= dict.fromkeys(names, np.zeros(2, np.float32))
    return verify.network(fn, params, np.zeros(4, np.float32))


@functools.cache
def truth(seed):
    """The least margin of the conjunction, by a mixed-integer program."""
    params, d, clause = asked(seed)
    params = params | {"d": d}
    net = built(worst, "d")
    spec = verify.Spec(np.ones((1, 1)), np.zeros(1))
    return float(exact.milp(net, net.prepare(params), clause.region, spec)[0])


# Attacks come first and are the same: those on inputs are left to their search.
INPUT = dataclasses.replace(CONFIG, branching="input", heuristic="babsr", restarts=0)
CONFIGS = pytest.mark.parametrize("config", [CONFIG, INPUT], ids=["relu", "input"])


@CONFIGS
def test_conjunctions_are_decided_as_by_the_mixed_integer_program(config):
    seen = set()
    for seed in range(6):
        least = truth(seed)
        if abs(least) < 1e-3:
            continue
        params, _, clause = asked(seed)
        prop = Property((clause,), (4,), 3)
        verdict = verify.verify(verify.Problem(mlp, params, prop), config)
        assert verdict.status == ("unsat" if least > 0 else "sat"), (seed, least)
        if verdict.witness is not None:
            x, y = verdict.witness
            assert clause.region.contains(x)
            assert (clause.spec.C @ y + clause.spec.d <= 0).all()
            np.testing.assert_allclose(y, mlp(params, np.float32(x)), atol=1e-4)
        seen.add(verdict.status)
    assert seen == {"sat", "unsat"}


@CONFIGS
def test_unions_over_several_boxes_need_every_clause_refuted(config):
    seen = set()
    for seed in range(5):
        rng = np.random.default_rng(seed)
        params, net = CASE.params(rng), built(mlp)
        clauses, least = [], []
        for _ in range(2):
            x = rng.normal(size=4)
            region = verify.box(x - 0.3, x + 0.3)
            spec = verify.Spec(rng.normal(size=(2, 3)), rng.uniform(0.2, 0.9, 2))
            least += list(exact.milp(net, net.prepare(params), region, spec))
            for k in range(2):
                row = verify.Spec(spec.C[k : k + 1], spec.d[k : k + 1])
                clauses.append(Clause(region, row))
        if abs(min(least)) < 1e-3:
            continue
        problem = verify.Problem(mlp, params, Property(tuple(clauses), (4,), 3))
        verdict = verify.verify(problem, config)
        assert verdict.status == ("unsat" if min(least) > 0 else "sat"), seed
        seen.add(verdict.status)
    assert "sat" in seen


def test_a_time_limit_is_kept():
    """The property is out of reach: a wide network, its margin nearly zero."""
    case = Case(mlp, layers(20, 64, 64, 2), (20,))
    params = case.params(np.random.default_rng(0))
    region = verify.box(-np.ones(20), np.ones(20))
    points = np.random.default_rng(1).uniform(-1, 1, (20_000, 20)).astype(np.float32)
    least = float(jax.vmap(functools.partial(mlp, params))(points)[:, 0].min())
    prop = verify.linear(region, np.array([[1.0, 0.0]]), [2.0 - least])
    problem = verify.Problem(mlp, params, prop)
    short = dataclasses.replace(CONFIG, timeout_s=1.0, restarts=0)
    first = dataclasses.replace(short, timeout_s=60, max_domains=1)
    assert verify.verify(problem, first).phase == "branch"  # compiles
    verdict = verify.verify(problem, short)
    assert verdict.status in ("timeout", "unknown")
    assert verdict.lower <= 0
    assert verdict.seconds <= 1.0 + 2.0


def test_too_many_sub_domains_are_unknown():
    params, _, clause = asked(0)
    spec = clause.spec._replace(d=np.zeros(2))
    prop = Property((Clause(verify.box([-9] * 4, [9] * 4), spec),), (4,), 3)
    config = dataclasses.replace(CONFIG, max_domains=1, restarts=0)
    verdict = verify.verify(verify.Problem(mlp, params, prop), config)
    assert verdict.status == "unknown"
    assert "over max_domains" in verdict.why


def batch(lower, n=3, m=2):
    count = len(lower)
    return Batch(
        np.float32(lower),
        np.arange(count, dtype=np.int32),
        np.ones((count, n), np.int8),
        np.full((count, n), 0.5, np.float32),
        np.full((count, n), 1e9, np.float32),
        np.ones((count, m), np.float32),
        np.arange(count, dtype=np.int64),
    )


def test_a_pool_gives_the_worst_first_and_loses_nothing():
    rng = np.random.default_rng(0)
    pool, left = Pool(3, 2, 1000), []
    assert pool.lowest == np.inf
    for step in range(60):
        new = rng.normal(size=rng.integers(1, 40))
        pool.add(batch(new))
        left = sorted([*left, *np.float32(new)])
        if step % 2:
            count = int(rng.integers(1, 50))
            taken = pool.take(count)
            np.testing.assert_array_equal(np.sort(taken.lower), left[:count])
            assert np.isfinite(taken.beta).all()  # float16 would overflow
            left = left[count:]
        assert len(pool) == len(left)
        assert pool.full == (len(left) > 1000)
    assert pool.lowest == left[0]


@functools.cache
def hidden_of(shape):
    """Hidden bounds of the networks of a shape, compiled."""
    net = programs(shape).network
    return jax.jit(lambda *given: verify.crown.hidden_bounds(net, *given))


outputs = jax.jit(jax.vmap(verify.reduce.apply, (None, 0)))


def round_of(splits_share, heuristic="kfsb", levels=1, seed=0, parent=-3.0):
    """A round on random sub-domains of a random dense form, and what went in."""
    rng = np.random.default_rng(seed)
    sizes, count = (16, 16), 4
    shape = Shape(4, sizes, 3, "float32")
    before, parts = 4, []
    for n in (*sizes, 3):
        matrix = rng.normal(size=(before, n)) / before**0.5
        parts.append({"matrix": matrix, "bias": rng.normal(size=n) / 3})
        before += n
    params = {"layers": parts[:-1], "output": parts[-1], "lost": np.zeros(())}
    params = jax.tree.map(lambda a: a.astype(np.float32), params)
    region = verify.Region(-np.ones(4, np.float32), np.ones(4, np.float32))
    weights = programs(shape).network.prepare(params)
    hidden = hidden_of(shape)(weights, region)
    splits = tuple(
        (
            rng.choice([-1, 1], (count, n))
            * (rng.uniform(size=(count, n)) < splits_share)
        )
        for n in sizes
    )
    # A neuron that is stable is never split.
    splits = tuple(
        np.where((np.asarray(b.lower) < 0) & (np.asarray(b.upper) > 0), s, 0).astype(
            np.int8
        )
        for b, s in zip(hidden, splits, strict=True)
    )
    zeros = tuple(jnp.zeros((count, n)) for n in sizes)
    C = np.broadcast_to(np.float32(ROWS[:1]), (count, 1, 3))
    one, none = jnp.ones((count, 1)), jnp.zeros((count, 1))
    domains = beta.Domains(jnp.asarray(C), none, one, splits, zeros, zeros)
    lower = jnp.full(count, parent)
    bias = tuple(jnp.asarray(part["bias"]) for part in params["layers"])
    config = rounds.RoundConfig(beta.BetaConfig(3), heuristic, 3, "max", levels)
    found, margins = programs(shape).round(
        params, region, hidden, bias, domains, lower, config
    )
    return found, margins, domains, hidden, params


@pytest.mark.parametrize("heuristic", ["kfsb", "babsr"])
def test_children_split_one_free_neuron_both_ways(heuristic):
    found, margins, domains, hidden, params = round_of(0.3, heuristic)
    flat = np.concatenate(domains.splits, 1)
    free = np.concatenate([np.asarray((b.lower < 0) & (b.upper > 0)) for b in hidden])
    children = np.concatenate([np.asarray(s) for s in found.domains.splits], 1)
    for k, (neuron,) in enumerate(np.asarray(found.neuron)):
        assert neuron >= 0
        assert free[neuron]
        assert flat[k, neuron] == 0
        pair = children[2 * k : 2 * k + 2]
        assert sorted(pair[:, neuron]) == [-1, 1]
        np.testing.assert_array_equal(pair[0, neuron], found.sign[0, 0])
        others = np.delete(pair, neuron, 1)
        np.testing.assert_array_equal(others, np.delete(flat[[k, k]], neuron, 1))
    above = np.asarray(found.lower).max() + 1
    better, *_ = round_of(0.3, heuristic, parent=above)
    assert (better.lower == above).all()  # never below the parent
    y = outputs(params, found.point.reshape(-1, 4))
    np.testing.assert_allclose(margins.reshape(-1), y @ ROWS[0], rtol=1e-4, atol=1e-4)


def test_several_levels_make_every_combination_of_signs():
    found, *_ = round_of(0.1, levels=2)
    children = np.concatenate([np.asarray(s) for s in found.domains.splits], 1)
    for k, pair in enumerate(np.asarray(found.neuron)):
        assert len(set(pair)) == 2
        assert (pair >= 0).all()
        signs = children[4 * k : 4 * k + 4][:, pair]
        np.testing.assert_array_equal(signs, found.sign)
        assert len({tuple(s) for s in signs}) == 4


def test_where_all_is_split_there_is_nothing_to_choose():
    found, *_ = round_of(1.1)
    assert (found.neuron == -1).all()
