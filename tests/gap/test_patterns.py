"""The contract of patterns, walked over the registry."""

import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

import gap
from core.errors import InputError, ShapeError
from gap import patterns
from tests.strategies import seeds

SHAPE = (3, 3, 6, 10)
# Each tiles SHAPE and its GEMM view (54, 10) only in part, but for the last two.
PATTERNS = {
    "unstructured": gap.Unstructured(),
    "nm": gap.NM(m=4),
    "nm_outputs": gap.NM(m=3, axis=-1),
    "dbb": gap.DBB(block=4),
    "bank_balanced": gap.BankBalanced(bank=16),
    "block": gap.Block(inputs=9, outputs=4),
    "block_tiled": gap.Block(inputs=9, outputs=5),
    "bcr": gap.BCR(inputs=12, outputs=4, split=0.5),
    "bcr_inputs": gap.BCR(inputs=16, outputs=16),
    "bcr_shared": gap.BCR(12, 5, split=0.7, refine=1, share_outputs=True),
    "filter": gap.Filter(),
    "channel": gap.Channel(),
    "shape": gap.Shape(),
    "kernel": gap.KernelPattern(),
}
INEXACT = {"block"}  # border blocks differ in size: `weights` is an upper bound
# Their masks are made of two choices; their ties have tests of their own.
COMPOSED = {"bcr", "bcr_inputs", "bcr_shared", "kernel"}
mask_of = jax.jit(lambda p, s, c: p.mask(s, c), static_argnums=0)


def test_every_registered_pattern_has_a_row():
    assert {type(p) for p in PATTERNS.values()} == set(gap.PATTERNS.values())


def test_every_pattern_has_defaults_and_is_a_value():
    for cls in gap.PATTERNS.values():
        pattern = cls()
        assert isinstance(pattern, gap.Pattern)
        assert pattern == cls()
        assert hash(pattern) == hash(cls())


@pytest.fixture(params=sorted(PATTERNS))
def name(request):
    return request.param


def counts(pattern, shape=SHAPE):
    units = pattern.units(shape)
    return sorted({0, 1, units // 3, units // 2, units - 1, units})


def check_count(name, scores, count):
    pattern = PATTERNS[name]
    mask = mask_of(pattern, scores, jnp.int32(count))
    assert mask.dtype == bool
    assert mask.shape == scores.shape
    kept, expected = int(mask.sum()), pattern.weights(scores.shape, count)
    assert kept <= expected if name in INEXACT else kept == expected
    return np.asarray(mask)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int32])
def test_counts_are_exact_from_none_to_all(name, dtype, key):
    scores = (10 * jnp.abs(jax.random.normal(key, SHAPE))).astype(dtype)
    for count in counts(PATTERNS[name]):
        check_count(name, scores, count)
    assert PATTERNS[name].weights(SHAPE, 0) == 0
    if name != "kernel":
        full = PATTERNS[name].weights(SHAPE, PATTERNS[name].units(SHAPE))
        assert full == scores.size


@pytest.mark.parametrize("value", [0.0, -1.0, np.inf, -np.inf, np.nan])
def test_counts_are_exact_where_all_scores_tie(name, value):
    scores = jnp.full(SHAPE, value, jnp.float32)
    for count in counts(PATTERNS[name]):
        check_count(name, scores, count)


@settings(max_examples=15)
@given(seed=seeds)
@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_counts_are_exact_whatever_the_scores(name, seed):
    rng = np.random.default_rng(seed)
    odd = [0.0, -0.0, 1.0, -1.0, 1e-42, 3e38, -3e38, np.inf, -np.inf, np.nan]
    scores = rng.choice(np.array(odd, np.float32), SHAPE)
    units = PATTERNS[name].units(SHAPE)
    check_count(name, jnp.asarray(scores), int(rng.integers(units + 1)))


@pytest.mark.parametrize("name", sorted(set(PATTERNS) - COMPOSED))
def test_ties_go_to_the_first_in_c_order(name):
    pattern, shape = PATTERNS[name], SHAPE
    one = np.asarray(pattern.mask(jnp.ones(shape), 1))
    rest = np.asarray(pattern.mask(jnp.asarray(~one).astype(jnp.float32), 1))
    # Whatever unit comes next begins after the first one did.
    assert one.ravel()[0]
    assert np.flatnonzero(rest)[0] > 0


def test_a_traced_count_and_a_python_count_agree_in_one_trace(name, key):
    pattern = PATTERNS[name]
    scores = jax.random.normal(key, SHAPE)
    traces = []

    @jax.jit
    def traced(scores, count):
        traces.append(1)
        return pattern.mask(scores, count)

    for count in counts(pattern)[1:4]:
        np.testing.assert_array_equal(
            traced(scores, jnp.int32(count)), pattern.mask(scores, count)
        )
    assert len(traces) == 1


def test_a_traced_count_is_clipped(name, key):
    scores = jax.random.normal(key, SHAPE)
    pattern = PATTERNS[name]
    units = pattern.units(SHAPE)
    for given_count, count in ((-3, 0), (units + 5, units)):
        np.testing.assert_array_equal(
            mask_of(pattern, scores, jnp.int32(given_count)),
            mask_of(pattern, scores, jnp.int32(count)),
        )


def test_a_python_count_is_checked(name):
    pattern = PATTERNS[name]
    units = pattern.units(SHAPE)
    for count in (-1, units + 1):
        for f in (
            lambda c=count: pattern.mask(jnp.ones(SHAPE), c),
            lambda c=count: pattern.weights(SHAPE, c),
            lambda c=count: pattern.storage(SHAPE, c),
        ):
            with pytest.raises(InputError):
                f()


def test_vmap_over_layers_and_counts(name, key):
    pattern = PATTERNS[name]
    scores = jax.random.normal(key, (3, *SHAPE))
    wanted = jnp.asarray(counts(pattern)[1:4], jnp.int32)
    together = jax.jit(jax.vmap(pattern.mask))(scores, wanted)
    for i in range(3):
        alone = mask_of(pattern, scores[i], wanted[i])
        np.testing.assert_array_equal(together[i], alone)


def test_pruned_and_nan_units_come_last(name, key):
    """With enough units left, nothing that is -inf or NaN is chosen."""
    pattern = PATTERNS[name]
    scores = jax.random.normal(key, SHAPE)
    some = pattern.units(SHAPE) // 2
    live = mask_of(pattern, scores, jnp.int32(some))
    for bad in (-jnp.inf, jnp.nan):
        again = mask_of(pattern, jnp.where(live, scores, bad), jnp.int32(some))
        np.testing.assert_array_equal(again, live)
        if "bcr" in name:
            return  # a NaN takes its row with it, and every row has one
    if name != "kernel":  # a NaN is no worse there than a -inf
        nan_below = jnp.where(live, -jnp.inf, jnp.nan)
        again = mask_of(pattern, nan_below, jnp.int32(some))
        np.testing.assert_array_equal(again, live)


@settings(max_examples=15)
@given(seed=seeds)
@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_gradual_pruning_brings_no_weight_back(name, seed):
    pattern, rng = PATTERNS[name], np.random.default_rng(seed)
    mask = jnp.ones(SHAPE, bool)
    units = pattern.units(SHAPE)
    for count in sorted(rng.integers(0, units + 1, 4), reverse=True):
        # Few values: many ties, zeros among them.
        scores = jnp.asarray(rng.integers(0, 3, SHAPE), jnp.float32)
        new = mask_of(pattern, jnp.where(mask, scores, -jnp.inf), jnp.int32(count))
        assert not np.any(new & ~mask)
        mask = new


@settings(max_examples=15)
@given(seed=seeds)
@pytest.mark.parametrize("name", sorted(PATTERNS))
def test_drop_and_grow_keeps_what_it_kept(name, seed):
    """The step of SET and RigL, for every pattern: keep some, fill up by a score."""
    pattern, rng = PATTERNS[name], np.random.default_rng(seed)
    units = pattern.units(SHAPE)
    count = int(rng.integers(1, units + 1))
    w, grow = (jnp.asarray(rng.integers(0, 4, SHAPE), jnp.float32) for _ in "ab")
    mask = mask_of(pattern, w, jnp.int32(count))
    left = jnp.int32(rng.integers(0, count + 1))
    keep = mask_of(pattern, jnp.where(mask, w, -jnp.inf), left)
    assert not np.any(keep & ~mask)
    new = check_count(name, jnp.where(keep, jnp.inf, grow), count)
    assert not np.any(keep & ~new)


def test_leaves_without_inputs_and_outputs_are_refused(name):
    if name in ("unstructured", "nm_outputs"):
        assert int(PATTERNS[name].mask(jnp.arange(6.0), 1).sum()) in (1, 2)
        return
    for f in (
        lambda: PATTERNS[name].units((6,)),
        lambda: PATTERNS[name].mask(jnp.ones(6), 1),
        lambda: PATTERNS[name].weights((6,), 1),
        lambda: PATTERNS[name].storage((6,), 1),
    ):
        with pytest.raises(ShapeError):
            f()


def test_storage_holds_every_value(name):
    pattern, size = PATTERNS[name], np.prod(SHAPE)
    for count in counts(pattern):
        packed = pattern.storage(SHAPE, count)
        assert all(isinstance(x, int) and x >= 0 for x in packed)
        assert packed.bits == packed.value_bits + packed.index_bits
        assert packed.value_bits >= 32 * pattern.weights(SHAPE, count)
        assert pattern.storage(SHAPE, count, 8).value_bits * 4 == packed.value_bits
        assert pattern.storage(SHAPE, count, 8).index_bits == packed.index_bits
        if pattern.weights(SHAPE, count) == size:
            assert packed == (32 * size, 0)
    assert pattern.storage(SHAPE, 0).value_bits == 0


def test_targets_count_weights(name):
    target = gap.Target(density=0.5, pattern=PATTERNS[name])
    kept = target.kept(SHAPE)
    assert kept == (PATTERNS[name].units(SHAPE) + 1) // 2
    assert target.weights(SHAPE) == PATTERNS[name].weights(SHAPE, kept)


@pytest.mark.parametrize("name", ["unstructured", "nm", "block_tiled", "bcr"])
def test_float64_scores_are_told_apart(name):
    with jax.enable_x64(True):
        fine = 1.0 + 2.0**-40 * np.arange(np.prod(SHAPE)).reshape(SHAPE)
        mask = np.asarray(PATTERNS[name].mask(jnp.asarray(fine), 1))
        other = np.asarray(PATTERNS[name].mask(jnp.asarray(-fine), 1))
    assert mask.dtype == bool
    assert np.any(mask != other)


@pytest.mark.parametrize(
    "make",
    [
        lambda: gap.NM(0),
        lambda: gap.DBB(2.5),
        lambda: gap.BankBalanced(True),
        lambda: gap.Block(0, 4),
        lambda: gap.BCR(4, 0),
        lambda: gap.BCR(split=1.5),
        lambda: gap.BCR(split="half"),
        lambda: gap.BCR(refine=-1),
        lambda: gap.KernelPattern(()),
        lambda: gap.KernelPattern(3),
        lambda: gap.KernelPattern(((True, False), (True, True))),
        lambda: gap.KernelPattern(((False, False),)),
        lambda: gap.KernelPattern(((True, False), (True, False))),
    ],
)
def test_bad_patterns_are_refused(make):
    with pytest.raises(InputError):
        make()


def test_examples_of_the_package_run():
    found = pkgutil.iter_modules(patterns.__path__, patterns.__name__ + ".")
    results = [doctest.testmod(importlib.import_module(m.name)) for m in found]
    assert not any(r.failed for r in results)
    assert any(r.attempted for r in results)
