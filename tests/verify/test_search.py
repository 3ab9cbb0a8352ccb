"""Complete verdicts are those of the mixed-integer program; searches fail closed."""

import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import verify
from core.errors import NonFiniteError
from tests.devices import xla_flags
from tests.verify.network_cases import CASES
from verify import certificate, crown, exact, network
from verify.beta import BetaConfig, Domains, bound_batch
from verify.kept import EACH, STEP
from verify.programs import Programs, Shape, programs
from verify.proofs import Proof
from verify.properties import Clause, Property
from verify.reduce import Reducer, apply
from verify.regions import Region
from verify.search import _verifier as verifier_of

CONFIG = verify.Config(timeout_s=60, batch=8, restarts=4, attack_steps=20)


PLAIN = dataclasses.replace(CONFIG, branching="relu", restarts=0)


def problem(name, seed, shift=0.0, width=0.4):
    """A random network and two clauses over one box, the second of two rows."""
    rng = np.random.default_rng(seed)
    case = CASES[name]
    params = case.params(rng)
    x = rng.uniform(-1, 1, size=case.input_shape)
    region = verify.box(x - width, x + width)
    n = int(np.prod(jax.eval_shape(case.fn, params, np.float32(x)).shape))
    rows = rng.normal(size=(3, n))
    d = rng.uniform(-0.2, 0.6, size=3) + shift
    clauses = (
        Clause(region, verify.Spec(rows[:1], d[:1])),
        Clause(region, verify.Spec(rows[1:], d[1:])),
    )
    return verify.Problem(case.fn, params, Property(clauses, case.input_shape, n))


@functools.cache
def built(name, dtype):
    """A case as a network, and its hidden bounds, compiled."""
    case = CASES[name]
    params = case.params(np.random.default_rng(0), dtype)
    net = network(case.fn, params, np.zeros(case.input_shape, dtype))
    return net, jax.jit(functools.partial(crown.hidden_bounds, net)), Reducer(net)


def truth(asked):
    """Whether the property holds, by a MILP over every clause's rows."""
    params, prop = asked.params, asked.property
    net, *_ = built("dense", np.float32)
    weights = net.prepare(params)
    least = []
    for clause in prop.clauses[:1]:
        found = exact.milp(net, weights, clause.region, clause.spec)
        least.append(float(found.max()))
    return min(least)


def single(asked):
    """The problem with its first clause alone."""
    prop = dataclasses.replace(asked.property, clauses=asked.property.clauses[:1])
    return dataclasses.replace(asked, property=prop)


@pytest.mark.parametrize("branching", ["relu", "input"])
@pytest.mark.parametrize("heuristic", ["kfsb", "babsr"])
def test_verdicts_equal_the_mixed_integer_programs(branching, heuristic):
    config = dataclasses.replace(CONFIG, branching=branching, heuristic=heuristic)
    seen = set()
    for seed in range(6):
        asked = single(problem("dense", seed))
        least = truth(asked)
        if abs(least) < 1e-3:
            continue
        verdict = verify.verify(asked, config)
        assert verdict.status == ("unsat" if least > 0 else "sat"), (seed, least)
        if verdict.witness is not None:
            x, y = verdict.witness
            clause = asked.property.clauses[0]
            assert clause.region.contains(x)
            assert (clause.spec.C @ y + clause.spec.d <= 0).all()
        seen.add(verdict.status)
    assert seen == {"sat", "unsat"}


def test_both_ways_to_split_agree_and_certify():
    for seed in range(3):
        asked = problem("dense", seed, shift=0.3)
        found = [
            verify.verify(
                asked,
                dataclasses.replace(CONFIG, branching=b, certificate=True, restarts=0),
            )
            for b in ("relu", "input")
        ]
        assert found[0].status == found[1].status
        assert found[0].status in ("sat", "unsat")
        for verdict in found:
            if verdict.status == "unsat":
                checked = certificate.check(asked, verdict.certificate)
                assert checked.ok, checked.why


def test_several_levels_give_the_same_verdict_and_a_whole_tree():
    asked = single(problem("dense", 4, shift=0.6, width=0.8))
    one = verify.verify(asked, PLAIN)
    three = dataclasses.replace(PLAIN, levels=3, certificate=True)
    found = verify.verify(asked, three)
    assert found.status == one.status == "unsat"
    assert found.phase == "branch"
    assert found.certificate is not None
    assert certificate.check(asked, found.certificate).ok


def test_a_certificate_is_kept_in_bounded_memory(monkeypatch):
    asked = single(problem("dense", 4, shift=0.6, width=0.8))
    seen, by_splits = [], Proof.by_splits

    def spy(*given):
        seen.append(given[-1])
        by_splits(*given)

    monkeypatch.setattr(Proof, "by_splits", spy)
    three = dataclasses.replace(PLAIN, levels=3, certificate=True)
    assert verify.verify(asked, three).certificate is not None
    (tree,) = seen
    kept = tree.kept
    arrays = [a for *_, dual in kept.leaves if dual for a in dual]
    assert arrays
    assert all(a.base is None for a in arrays)  # nothing else is held by a leaf
    cuts = sum(len(tree.path(node)) for node, *_ in kept.leaves)
    size = EACH * len(kept.leaves) + STEP * cuts + sum(a.nbytes for a in arrays)
    assert kept.size == size
    for branching in ("relu", "input"):
        config = dataclasses.replace(three, branching=branching)
        monkeypatch.setattr("verify.kept.LIMIT", 2 * EACH)
        found = verify.verify(asked, config)
        assert found.status == "unsat"
        assert found.certificate is None
        assert "no certificate: its leaves need more than" in found.why


def test_the_cuts_of_boxes_count_in_memory_for_every_clause(monkeypatch):
    asked = problem("dense", 4, shift=0.7, width=0.8)
    seen, by_boxes = [], Proof.by_boxes

    def spy(proof, clauses, kept):
        by_boxes(proof, clauses, kept)
        seen.append((proof.size, kept))

    monkeypatch.setattr(Proof, "by_boxes", spy)
    config = dataclasses.replace(PLAIN, branching="input", certificate=True)
    assert verify.verify(asked, config).status == "unsat"
    ((size, kept),) = seen
    cuts = sum(len(leaf.path) for leaf in kept.leaves)
    arrays = sum(part.nbytes for leaf in kept.leaves for part in leaf.slopes)
    assert cuts
    assert kept.size == EACH * len(kept.leaves) + STEP * cuts + arrays
    assert size == 2 * kept.size


def test_a_margin_of_zero_is_not_verified():
    def fn(params, x):
        return params["w"] * jax.nn.relu(x)

    prop = verify.linear(verify.box(-np.ones(1), np.ones(1)), np.ones((1, 1)), [0.0])
    asked = verify.Problem(fn, {"w": np.ones(1, np.float32)}, prop)
    for branching in ("relu", "input"):
        config = dataclasses.replace(CONFIG, branching=branching, timeout_s=5)
        found = verify.verify(asked, config)
        assert found.status == "sat"  # y is 0 for every x below 0
        assert found.witness is not None
        assert found.witness[1][0] == 0
        tolerant = verify.linear(prop.clauses[0].region, np.ones((1, 1)), [1e-3])
        again = verify.verify(dataclasses.replace(asked, property=tolerant), config)
        assert again.status == "unsat"  # y >= -0.001


def test_weights_that_are_not_numbers_prove_nothing():
    asked = problem("dense", 0, shift=100.0)
    params = dict(asked.params, fc1=np.full((8, 8), np.nan, np.float32))
    config = dataclasses.replace(CONFIG, timeout_s=5, branching="relu")
    with pytest.raises(NonFiniteError, match="hidden bounds that are NaN"):
        verify.verify(dataclasses.replace(asked, params=params), config)


@pytest.mark.parametrize("branching", ["relu", "auto"])
@pytest.mark.parametrize("method", ["interval", "crown", "alpha"])
def test_methods_without_branching_say_what_is_open(method, branching):
    asked = single(problem("dense", 3, width=1.5))
    config = dataclasses.replace(PLAIN, method=method, branching=branching)
    verdict = verify.verify(asked, config)
    assert verdict.status == "unknown"
    assert verdict.phase == method
    assert "1 of 1 clauses open" in verdict.why
    assert verify.verify(asked, PLAIN).phase == "branch"  # which decides it


def smooth(params, x):
    return jnp.tanh(x * params["w"]).sum(keepdims=True)


def test_methods_bound_smooth_networks_once():
    region = verify.box([-1.0, -1.0], [1.0, 1.0])  # y is at least -2 tanh(1) = -1.52
    params = {"w": np.ones(2, np.float32)}
    found = {}
    for method in ("interval", "crown", "alpha", "split"):
        for d in (1.6, 1.2):
            asked = verify.Problem(smooth, params, verify.linear(region, [[1.0]], [d]))
            config = dataclasses.replace(
                CONFIG, method=method, restarts=0, certificate=True
            )
            found[method, d] = verify.verify(asked, config)
        assert found[method, 1.6].status == "unsat"
        assert "other nonlinear operators" in found[method, 1.6].why
    assert found["split", 1.2].status == "sat"
    for method in ("interval", "crown", "alpha"):
        assert found[method, 1.2].status == "unknown"
        assert found[method, 1.2].phase == method
        assert found[method, 1.2].domains == 1


@pytest.mark.parametrize("count", [0, 1, 20, 45])
def test_the_root_takes_the_steps_that_are_asked_for(monkeypatch, count):
    asked = single(problem("dense", 3, width=1.5))
    taken, root = [], Programs.root

    def spy(self, *given):
        taken.append(int(given[4][2]))
        return root(self, *given)

    monkeypatch.setattr(Programs, "root", spy)
    monkeypatch.setattr("verify.root._gains", lambda *_: True)  # does not stop early
    config = dataclasses.replace(PLAIN, method="alpha", root_steps=count)
    found = verify.verify(asked, config)
    assert found.status == "unknown"
    assert sum(taken) == count
    assert max(taken) <= 20


def test_an_attack_of_no_steps_is_none():
    asked = single(problem("dense", 3, width=1.5))
    config = dataclasses.replace(PLAIN, restarts=4, attack_steps=0, method="interval")
    assert verify.verify(asked, config).status == "unknown"


def test_a_search_compiles_a_handful_of_programs():
    programs.cache_clear()  # other tests ask for other rounds of the same shapes
    verifier_of.cache_clear()
    shapes = set()
    for seed in range(5):
        asked = single(problem("dense", seed, width=1.0))
        verdict = verify.verify(asked, dataclasses.replace(PLAIN, batch=16))
        for name, count in verdict.info.get("programs", {}).items():
            assert count == 1, name
            shapes.add(name)
    assert 0 < len(shapes) <= 4


def small_reduced(seed, splits_of=2):
    """A reduced 6-8-8-3 network, its region, hidden bounds, and random splits."""
    rng = np.random.default_rng(seed)
    case = CASES["dense"]
    params = case.params(rng, np.float64)
    net, bounds_of, reducer = built("dense", np.float64)
    weights = net.prepare(params)
    x = rng.uniform(-1, 1, 6)
    region = Region(jnp.asarray(x - 0.5), jnp.asarray(x + 0.5))
    reduced = reducer(weights, bounds_of(weights, region), (8, 8))
    splits = []
    for bounds in reduced.hidden:
        sign = np.zeros(len(bounds.lower), np.int8)
        free = np.flatnonzero((bounds.lower < 0) & (bounds.upper > 0))
        chosen = rng.permutation(free)[:splits_of]
        sign[chosen] = rng.choice([-1, 1], len(chosen))
        splits.append(sign)
    return reduced, region, splits, rng.normal(size=3)


def domains(splits, row, alpha, beta):
    one = lambda parts: tuple(jnp.asarray(p)[None] for p in parts)  # noqa: E731
    return Domains(
        jnp.asarray(row)[None, None],
        jnp.zeros((1, 1)),
        jnp.ones((1, 1)),
        one(splits),
        one(alpha),
        one(beta),
    )


@functools.partial(jax.jit, static_argnums=4)
def bounded(params, region, hidden, given, config):
    """The bound of a sub-domain of a reduced network."""
    dense = programs(Shape(6, (8, 8), 3, "float64")).network
    weights = dense.prepare(params)
    return bound_batch(dense, weights, region, hidden, given, config).lower[0]


def test_any_multipliers_bound_the_sub_domain_and_the_best_equal_the_program():
    with jax.enable_x64(True):
        for seed in range(3):
            reduced, region, splits, row = small_reduced(seed)
            rng = np.random.default_rng(seed + 100)
            alpha = [rng.uniform(size=s.shape) for s in splits]
            beta = [rng.exponential(size=s.shape) for s in splits]
            given = domains(splits, row, alpha, beta)
            form = reduced.params, region, reduced.hidden
            least = exact.lp_bound(
                reduced.params, region, row, 0.0, reduced.hidden, splits
            )
            some = float(bounded(*form, given, BetaConfig(0)))
            assert some <= least + 1e-9
            zero = domains(splits, row, alpha, [0 * b for b in beta])
            without = float(bounded(*form, zero, BetaConfig(0)))
            many = BetaConfig(1500, 0.05, 0.05, 0.997)
            best = float(bounded(*form, zero, many))
            assert best >= without
            if np.isfinite(least):
                assert best <= least + 1e-6
                assert best == pytest.approx(least, abs=2e-3)


def test_a_reduced_network_is_the_network_within_its_region():
    with jax.enable_x64(True):
        reduced, region, _, _ = small_reduced(5)
        case = CASES["dense"]
        params = case.params(np.random.default_rng(5), np.float64)
        rng = np.random.default_rng(0)
        points = rng.uniform(region.lower, region.upper, (500, 6))
        dense = jax.jit(jax.vmap(lambda x: apply(reduced.params, x)))(points)
        whole = jax.vmap(lambda x: case.fn(params, x))(points)
        np.testing.assert_allclose(dense, whole, atol=1e-12)


def test_shapes_order_and_cost():
    small, large = Shape(6, (8, 8), 3, "float32"), Shape(6, (16, 8), 3, "float32")
    assert large.holds(small)
    assert not small.holds(large)
    assert small.macs() == 6 * 8 + 14 * 8 + 22 * 3
    assert programs(small) is programs(small)


CHILD = """
from tests.verify.test_search import verdicts
import json
print(json.dumps(verdicts()))
"""


def verdicts():
    """The number of devices, and what two searches find."""
    asked = [single(problem("dense", seed, width=1.0)) for seed in (3, 4)]
    found = [verify.verify(each, PLAIN) for each in asked]
    assert all(v.phase == "branch" and v.domains > 2 for v in found)
    return [jax.device_count(), [[v.status, v.domains] for v in found]]


@pytest.mark.slow
def test_four_devices_give_the_same_verdicts():
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "XLA_FLAGS": xla_flags(4), "PYTHONPATH": str(root)}
    run = subprocess.run(
        [sys.executable, "-c", CHILD],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    one, found = verdicts()
    assert json.loads(run.stdout.splitlines()[-1]) == [4, found]
    assert one == 1
