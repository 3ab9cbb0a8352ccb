"""Verdicts where float32, padding or the order of regions could make them wrong."""

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import verify
from core.errors import InputError
from verify import falsify
from verify.box_bounds import bound_boxes
from verify.boxed_neurons import Effort, NeuronSplitter
from verify.clauses import padded, unpadded
from verify.properties import Clause, Property, Spec
from verify.search import verifier_of

bound = jax.jit(verify.bound, static_argnums=0, static_argnames="method")


def problem(fn, params, *clauses):
    """A problem of (lower, upper, C, d) each with a region of its own."""
    found = [
        Clause(verify.box(low, high), Spec(np.atleast_2d(np.float64(C)), np.float64(d)))
        for low, high, C, d in clauses
    ]
    shape, outputs = found[0].region.lower.shape, found[0].spec.C.shape[1]
    params = jax.tree.map(jnp.asarray, params)
    return verify.Problem(fn, params, Property(tuple(found), shape, outputs))


def shifted(params, x):
    return jax.nn.relu(x @ params["a"] + params["b"]) @ params["w"] + params["c"]


@pytest.mark.parametrize("seed", range(3))
def test_biases_that_cancel_count_as_rounding(seed):
    """Affine on the region; float32 is off by more than the margin, which is negative.

    The rows go back to two constants of some ten thousand that cancel.
    """
    rng = np.random.default_rng(seed)
    a, w = np.float32(rng.normal(size=(20, 4))), np.float32(rng.normal(size=(4, 1)))
    b = np.float32(rng.uniform(1e4, 2e4, 4))
    total = np.float64(b) @ np.float64(w)[:, 0]
    c = np.float32([-total])
    slope = np.float64(a) @ np.float64(w)[:, 0]
    low, high = np.full(20, -0.01), np.full(20, 0.01)
    x = np.where(slope > 0, low, high)
    least = slope @ x + total + np.float64(c[0])
    asked = problem(
        shifted, {"a": a, "b": b, "w": w, "c": c}, (low, high, [1.0], [-least - 1e-4])
    )
    assert falsify.check(asked.fn, asked.params, asked.property, x) is not None
    verdict = verify.verify(asked, verify.Config(timeout_s=60, restarts=0))
    assert verdict.status != "unsat"


def test_constants_that_float32_does_not_hold():
    """The row's own constant is rounded up by more than what is missing."""

    def fn(params, x):
        return jax.nn.relu(x @ params["w"]) + params["b"]

    high = np.zeros(20)
    high[0] = 1.0007
    params = {"w": np.ones((20, 1), np.float32), "b": np.float32([1e4])}
    asked = problem(fn, params, (np.zeros(20), high, [-1.0], [10001.0006]))
    assert falsify.check(fn, asked.params, asked.property, high) is not None
    for config in (verify.Config(timeout_s=60), verify.Config(60, "input", restarts=0)):
        assert verify.verify(asked, config).status != "unsat"


def test_float64_bounds_have_float64_rows():
    """The output meets its limit to within what float32 tells apart."""

    def fn(params, x):
        return x @ params["w"]

    tried = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        high = np.float32(rng.uniform(1, 2, 3))
        w = np.float32(rng.uniform(1, 2, (3, 1)))
        most = float(np.float64(high) @ np.float64(w)[:, 0])
        limit = most - most * rng.uniform(0, 2e-8)  # just below what is reached
        if float(np.float32(limit)) <= most or tried == 5:
            continue
        tried += 1
        low = high - np.float32(1e-3)
        asked = problem(fn, {"w": w}, (low, high, [-1.0], [limit]))
        config = verify.Config(60, "input", restarts=0, max_domains=64)
        assert verify.verify(asked, config).status != "unsat"
    assert tried == 5


def test_a_box_in_doubt_starts_from_what_is_proven():
    """A bound within its rounding proves nothing, so its children are not closed."""

    def fn(params, x):
        return jax.nn.relu(x @ params["w"]) @ params["v"]

    params = {"w": jnp.array([[1.0, -1.0], [0.5, 1.0]]), "v": jnp.ones((2, 1))}
    net = verify.network(fn, params, np.zeros(2, np.float32))
    weights = net.prepare(params)
    low, high = np.float32([[-1, -1]]), np.float32([[1, 1]])
    spec = Spec(np.float32([[1]]), np.float32([-0.5]))  # violated at 0
    run = jax.jit(functools.partial(bound_boxes, net))
    found = run(weights, low, high, spec.C[None], spec.d[None])
    found = jax.tree.map(np.asarray, found)
    doubt = found._replace(
        lower=np.full_like(found.lower, 1e-7), slack=np.full_like(found.slack, 1e-5)
    )
    for bounded in (found, doubt):
        tried = NeuronSplitter(net)(
            weights, (low, high), bounded, [spec], verify.Config(heuristic="babsr"),
            time.monotonic() + 60, lambda x: False, Effort(),
        )  # fmt: skip
        assert tried.domains > 0
        assert not tried.closed.any()


def test_rows_are_padded_by_the_last_one():
    rng = np.random.default_rng(0)
    clauses = [Clause(None, Spec(rng.normal(size=(m, 3)), rng.normal(size=m)))
               for m in (1, 3, 2)]  # fmt: skip
    for clause, spec in zip(clauses, padded(clauses, np.float64), strict=True):
        own = len(clause.spec.d)
        assert spec.C.shape == (3, 3)
        np.testing.assert_array_equal(spec.C[:own], clause.spec.C)
        weights = rng.dirichlet(np.ones(3))
        less = unpadded(weights, own)
        np.testing.assert_allclose(less @ clause.spec.C, weights @ spec.C)
        np.testing.assert_allclose(less @ clause.spec.d, weights @ spec.d)


def wide(params, x):
    return jax.nn.relu(jax.nn.relu(x @ params["w"]) @ params["u"]) @ params["v"]


def wide_params(dtype=np.float32, outputs=1):
    rng = np.random.default_rng(0)
    shapes = {"w": (20, 16), "u": (16, 16), "v": (16, outputs)}
    return {k: rng.normal(size=s).astype(dtype) for k, s in shapes.items()}


def test_clauses_of_fewer_rows_start_from_a_row_of_their_own():
    params = wide_params(outputs=2)
    ends = np.full(20, -0.5), np.full(20, 0.5)
    asked = problem(
        wide, params, (*ends, [1.0, 0.0], [4.0]), (*ends, np.eye(2), [4.0, 4.0])
    )
    first, second = asked.property.clauses
    prop = Property((first, second._replace(region=first.region)), (20,), 2)
    asked = verify.Problem(wide, asked.params, prop)
    config = verify.Config(timeout_s=60, restarts=0)
    found = verifier_of(asked).rooted(asked.params, prop, config)
    _, opened = found
    alone = bound(wide, asked.params, first.region, first.spec).lower
    assert opened.rooted.lower[0] >= float(alone[0]) - 1e-3
    assert opened.rooted.lower[0] <= opened.rooted.lower[1] + 1e-3  # one row of two


def test_boxes_whose_bounds_are_infinite_are_halved():
    """log of (1 - x)(1 - y) + 0.05, which intervals find negative at the root."""

    def fn(params, x):
        return jnp.log(x[0] * x[1] - x[0] - x[1] + params["c"])[None]

    asked = problem(
        fn, {"c": np.float32(1.05)}, ([-1.0, -1.0], [1.0, 1.0], [1.0], [10.0])
    )
    verdict = verify.verify(asked, verify.Config(timeout_s=60, restarts=0))
    assert verdict.status == "unsat"
    assert verdict.domains > 1


def test_an_open_region_does_not_hide_the_next_one():
    params = wide_params()
    first = np.full(20, -0.3), np.full(20, 0.3)
    second = np.full(20, 3.0), np.full(20, 3.1)
    y = float(wide(params, jnp.full(20, 3.0, jnp.float32))[0])
    region = verify.box(*first)
    spec = Spec(np.ones((1, 1)), np.zeros(1))
    loose = float(bound(wide, params, region, spec, method="interval").lower[0])
    open_first = (*first, [1.0], [-loose / 2])
    config = verify.Config(timeout_s=60, method="interval")
    asked = problem(wide, params, open_first, (*second, [1.0], [-y - 1.0]))
    verdict = verify.verify(asked, config)
    assert verdict.status == "sat"
    assert falsify.check(wide, asked.params, asked.property, verdict.witness[0])
    # And one that is open makes the whole unknown, in either order.
    holds = (*second, [1.0], [1e4])
    for order in ((open_first, holds), (holds, open_first)):
        verdict = verify.verify(problem(wide, params, *order), config)
        assert verdict.status == "unknown"
        assert "clauses open" in verdict.why


@functools.cache
def tight(dtype=np.float32):
    """A problem that takes splits: more than half of the way to CROWN's bound."""
    ends = np.full(20, -0.3), np.full(20, 0.3)
    spec = Spec(np.ones((1, 1)), np.zeros(1))
    params = jax.tree.map(jnp.asarray, wide_params(dtype))
    least = float(bound(wide, params, verify.box(*ends), spec).lower[0])
    assert least < 0
    return problem(wide, params, (*ends, [1.0], [-0.6 * least]))


def test_networks_of_float64_are_split():
    config = verify.Config(timeout_s=120, restarts=0, batch=8)
    with jax.enable_x64(True):
        found = verify.verify(tight(np.float64), config)
    assert found.status == "unsat"
    assert found.phase == "branch"


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_networks_of_half_precision_are_refused(dtype):
    asked = tight()
    params = jax.tree.map(lambda w: w.astype(dtype), asked.params)
    with pytest.raises(InputError, match="float32 or float64"):
        verify.verify(dataclasses.replace(asked, params=params))


def test_more_levels_than_candidates():
    asked = tight()
    for heuristic in ("kfsb", "babsr"):
        config = verify.Config(timeout_s=120, restarts=0, candidates=1, levels=3,
                               heuristic=heuristic)  # fmt: skip
        assert verify.verify(asked, config).status == "unsat"


def test_nothing_bounded_proves_nothing():
    asked = tight()
    verdict = verify.verify(asked, verify.Config(timeout_s=1e-6))
    assert verdict.status == "timeout"
    assert verdict.lower < 0


def test_several_problems_have_the_verdicts_of_each():
    params = jax.tree.map(jnp.asarray, wide_params(outputs=3))
    rng = np.random.default_rng(1)
    problems = []
    for k in range(6):
        x = rng.uniform(0, 1, 20)
        label = int(np.argmax(wide(params, jnp.asarray(x, jnp.float32))))
        prop = verify.robustness(x, label, eps=[0.01, 0.1, 0.15, 0.2, 0.3, 0.4][k],
                                 classes=3)  # fmt: skip
        problems.append(verify.Problem(wide, params, prop))
    problems.insert(2, verify.Problem(wide, params, Property((), (20,), 3)))
    config = verify.Config(timeout_s=120, batch=32)
    each = [verify.verify(p, config).status for p in problems]
    said = []
    found = verify.verify_all(problems, config, progress=said.append)
    assert [v.status for v in found] == each
    assert set(each) == {"sat", "unsat"}
    assert any("networks open" in text for text in said)  # some were split together
    assert any(v.phase == "branch" for v in found)
    for asked, verdict in zip(problems, found, strict=True):
        if verdict.status == "sat":
            x = verdict.witness[0]
            assert falsify.check(wide, params, asked.property, x) is not None
