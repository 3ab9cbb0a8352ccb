"""The contract of constraint sets, walked over the registry."""

import dataclasses
from itertools import combinations, product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import admm
import gap
import quant
from core.errors import InputError, RuleError
from core.selection import keep_largest
from tests import strategies

SETS = {
    "sparse": admm.Sparse(density=0.3),
    "block_circulant": admm.BlockCirculant(2),
    "low_rank": admm.LowRank(rank=2),
    "quantized": admm.Quantized(quant.Ternary()),
    "intersection": admm.Intersection(
        (admm.Sparse(count=9), admm.Quantized(quant.Binary(), pruned=True))
    ),
    "union": admm.Union((admm.Sparse(count=5), admm.Quantized(quant.Binary()))),
}


def feasible(constraint, w):
    """Whether `w` lies in the set, by its definition."""
    if isinstance(constraint, admm.BlockCirculant):
        n = constraint.block
        cells = [w[i : i + n, j : j + n] for i, j in product(*[range(0, 5, n)] * 2)]
        diagonals = [np.diagonal(c) for cell in cells for c in (cell, cell[::-1])]
        return all(np.ptp(d) == 0 for d in diagonals)
    if isinstance(constraint, admm.LowRank):
        return np.linalg.matrix_rank(w, tol=0.02 * np.linalg.norm(w)) <= 2
    if isinstance(constraint, admm.Sparse):
        share = constraint.density
        count = constraint.count if share is None else np.floor(share * w.size + 0.5)
        return np.count_nonzero(w) <= count
    if isinstance(constraint, admm.Quantized):
        sizes = np.unique(np.abs(w[w != 0] if constraint.pruned else w))
        return len(sizes) <= (1 if constraint.pruned else 2)
    if isinstance(constraint, admm.Intersection):
        return all(feasible(each, w) for each in constraint.sets)
    if isinstance(constraint, admm.Union):
        return any(feasible(each, w) for each in constraint.sets)
    raise NotImplementedError(constraint)


def same(constraint, found, wanted):
    """Equal, but for what a decomposition or a fitted scale rounds."""
    give = 16 * float(jnp.finfo(found.dtype).eps)
    exact = isinstance(constraint, admm.Sparse | admm.BlockCirculant)
    atol = 0.0 if exact else give
    found, wanted = (np.asarray(x, np.float32) for x in (found, wanted))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=atol)


def test_every_registered_set_is_in_the_table():
    assert {k: type(v) for k, v in SETS.items()} == admm.SETS


@pytest.fixture(params=sorted(SETS))
def constraint(request):
    return SETS[request.param]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_projection_is_feasible_idempotent_and_keeps_shape(constraint, key, dtype):
    w = jax.random.normal(key, (6, 5), dtype)
    z = constraint.project(w)
    assert (z.shape, z.dtype) == (w.shape, w.dtype)
    assert feasible(constraint, np.asarray(z, np.float32))
    same(constraint, constraint.project(z), z)


def test_projection_in_float64(constraint):
    with jax.enable_x64(True):
        w = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)))
        z = constraint.project(w)
        assert z.dtype == jnp.float64
        assert feasible(constraint, np.asarray(z))


def test_no_random_feasible_point_is_nearer(constraint):
    rng = np.random.default_rng(1)
    project = jax.jit(constraint.project)
    for _ in range(5):
        w = rng.normal(size=(6, 5)).astype(np.float32)
        best = np.sum((w - np.asarray(project(w))) ** 2)
        for _ in range(20):
            y = np.asarray(project(rng.normal(size=(6, 5)).astype(np.float32)))
            # The best scale of a feasible direction of a cone, nearer than y itself.
            y = y * (np.sum(y * w) / np.sum(y * y))
            assert np.sum((w - y) ** 2) >= best


def test_projection_under_jit_vmap_and_unchanged_input(constraint, key):
    w = jax.random.normal(key, (3, 6, 5))
    before = np.array(w)
    expected = np.stack([constraint.project(x) for x in w])
    got = jax.jit(jax.vmap(constraint.project))(w)
    same(constraint, got, expected)
    np.testing.assert_array_equal(w, before)


@pytest.mark.parametrize(
    "constraint", [s for s in SETS.values() if isinstance(s, admm.SupportSet)]
)
def test_support_is_where_the_projection_may_be_nonzero(constraint, key):
    w = jax.random.normal(key, (6, 5))
    np.testing.assert_array_equal(
        constraint.support(w), np.asarray(constraint.project(w)) != 0
    )


def test_sets_are_hashable_values(constraint):
    assert constraint == dataclasses.replace(constraint)
    assert hash(constraint) == hash(dataclasses.replace(constraint))


@given(
    hnp.arrays(np.float32, (7,), elements=strategies.floats(bound=10)),
    st.integers(0, 7),
)
def test_cardinality_projection_beats_every_support(w, count):
    z = np.asarray(keep_largest(jnp.asarray(w), count))
    assert np.count_nonzero(z) <= count
    best = min(
        float(np.sum(np.delete(w, list(s)) ** 2, dtype=np.float64))
        for s in combinations(range(7), count)
    )
    got = float(np.sum((w - z) ** 2, dtype=np.float64))
    assert got <= best * (1 + 1e-6)


def test_published_counts_are_asserted_by_count():
    w = jnp.arange(1.0, 401.0).reshape(20, 20)
    z = admm.Sparse(count=36).project(w)
    assert int(jnp.count_nonzero(z)) == 36
    assert float(jnp.min(jnp.where(z > 0, z, jnp.inf))) == 365.0


def test_rules_pick_sets_and_leave_the_rest():
    params = {"a": jnp.arange(4.0), "b": jnp.arange(4.0)}
    out = admm.project(params, [("a", 0.5)])
    np.testing.assert_array_equal(out["a"], [0.0, 0.0, 2.0, 3.0])
    np.testing.assert_array_equal(out["b"], params["b"])


def test_bad_sets_and_rules_are_named():
    with pytest.raises(InputError, match="one of the two"):
        admm.Sparse()
    with pytest.raises(InputError, match="density: got 2"):
        admm.Sparse(density=2)
    with pytest.raises(InputError, match="method project"):
        admm.project({"a": jnp.ones(2)}, [("a", "sparse")])
    with pytest.raises(RuleError, match="nearest paths are a"):
        admm.project({"a": jnp.ones(2)}, [("b", 0.5)])


# ---- every pattern and every format as a set

PATTERNS = {
    "unstructured": (gap.Unstructured(), (6, 8)),
    "nm": (gap.NM(4), (8, 3)),
    "dbb": (gap.DBB(4), (8, 3)),
    "bank_balanced": (gap.BankBalanced(4), (8, 3)),
    "block": (gap.Block(2, 2), (4, 6)),
    "bcr": (gap.BCR(4, 3, split=0.5), (8, 6)),
    "filter": (gap.Filter(), (3, 3, 2, 6)),
    "channel": (gap.Channel(), (3, 3, 4, 2)),
    "shape": (gap.Shape(), (3, 3, 2, 4)),
    "kernel": (gap.KernelPattern(), (3, 3, 2, 4)),
}


def test_the_table_of_patterns_is_that_of_gap():
    assert PATTERNS.keys() == gap.PATTERNS.keys()


@pytest.mark.parametrize("name", PATTERNS)
def test_every_pattern_is_a_set_whose_projection_keeps_most_energy(name):
    pattern, shape = PATTERNS[name]
    constraint = admm.Sparse(0.5, pattern=pattern)
    rng = np.random.default_rng(0)
    w = jnp.asarray(rng.normal(size=shape), jnp.float32)
    project = jax.jit(constraint.project)
    z = np.asarray(project(w))
    np.testing.assert_array_equal(np.asarray(project(jnp.asarray(z))), z)
    kept = z != 0
    np.testing.assert_array_equal(z[kept], np.asarray(w)[kept])
    if name == "bcr":  # the joint choice of rows and columns is a heuristic
        return
    target = gap.Target(0.5, pattern=pattern)
    count = target.kept(shape)
    for seed in range(20):
        scores = jnp.asarray(np.random.default_rng(seed).random(shape), jnp.float32)
        other = np.asarray(pattern.mask(scores, count))
        assert np.sum(z**2) >= np.sum(np.where(other, w, 0) ** 2) - 1e-5


def test_whole_groups_are_the_best_of_all_subsets():
    w = np.random.default_rng(3).normal(size=(3, 3, 4, 6)).astype(np.float32)
    for pattern, axes in ((gap.Filter(), (0, 1, 2)), (gap.Channel(), (0, 1, 3))):
        energy = np.square(w).sum(axes)
        z = np.asarray(admm.Sparse(count=2, pattern=pattern).project(jnp.asarray(w)))
        best = max(sum(pair) for pair in combinations(energy, 2))
        np.testing.assert_allclose(np.square(z).sum(), best, rtol=1e-5)


def test_rules_take_formats_targets_and_tuples():
    params = {"a": jnp.arange(-3.0, 4.0), "b": jnp.arange(4.0), "c": jnp.ones(2)}
    rules = [
        ("a", quant.Binary()),
        ("b", (gap.Target(count=2), admm.Quantized(quant.Binary(), pruned=True))),
    ]
    sets = admm.constraints(params, rules)
    assert sets["a"] == admm.Quantized(quant.Binary())
    assert sets["b"][0] == admm.Sparse(count=2)
    out = admm.project(params, rules)
    np.testing.assert_allclose(np.abs(out["a"]), 12 / 7)
    np.testing.assert_allclose(out["b"], [0.0, 0.0, 2.5, 2.5])


def test_a_format_after_a_set_that_prunes_is_of_what_is_left(key):
    w = {"w": jax.random.normal(key, (6, 5))}
    for first in (admm.Sparse(count=6), 0.2, gap.Target(count=6)):
        rules = [("w", (first, quant.Binary()))]
        z = admm.project(w, rules)["w"]
        assert int(jnp.count_nonzero(z)) == 6
        assert len(np.unique(np.abs(z))) == 2
    state = admm.init_duals(w, rules, 0.1)  # one set, one dual
    assert int(jnp.count_nonzero(state.z["w"])) == 6


def test_what_is_free_in_its_set_alone_has_a_training_mask(key):
    w = jax.random.normal(key, (6, 5))
    rows = admm.Sparse(count=4, pattern=gap.Shape())
    columns = admm.Sparse(count=3, pattern=gap.Filter())
    params = {"sparse": w, "both": w, "levels": w, "pruned": w}
    rules = [
        ("sparse", 0.5),
        ("both", admm.Intersection((rows, columns))),
        ("levels", quant.Binary()),
        ("pruned", (0.5, quant.Uniform(4))),
    ]
    projected, masks = admm.finish(params, rules)
    assert int(masks["sparse"].sum()) == 15
    assert int(masks["both"].sum()) == 12
    assert masks["levels"] is None
    assert masks["pruned"] is None
    assert float(admm.violation(projected, rules)) == 0
    moved = {**projected, "pruned": 0.1 * w + 0.9 * projected["pruned"]}
    assert float(admm.violation(moved, rules)) > 0.01
    away = float(admm.violation(params, rules[:1]))
    smallest = jnp.sort(jnp.abs(w).ravel())[14]
    assert away == pytest.approx(float(smallest))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_projections_have_no_violation(constraint, key, dtype):
    rules = [("w", constraint)]
    params = {"w": jax.random.normal(key, (40, 30), dtype)}
    assert float(admm.violation(params, rules)) > 0
    measure = jax.jit(lambda p: admm.violation(p, rules))
    assert float(measure(admm.project(params, rules))) == 0
