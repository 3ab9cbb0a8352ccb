"""Patterns against brute force and independent numpy implementations."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gap
from core.errors import InputError, ShapeError
from gap.patterns import ranking
from tests.strategies import seeds


def integers(rng, shape, top=50):
    """Whole numbers, so that sums of squares are exact in any order."""
    return rng.integers(-top, top + 1, shape).astype(np.float32)


def first_best(scores, count):
    """Mask of the `count` largest of a line, ties to the first."""
    mask = np.zeros(len(scores), bool)
    mask[np.argsort(-np.asarray(scores, np.float64), kind="stable")[:count]] = True
    return mask


def matrix(w):
    return w.reshape(-1, w.shape[-1])


# ---- N:M, density-bound blocks, banks


@settings(max_examples=15)
@given(seed=seeds, axis=st.sampled_from([0, 1, 2, -1, -2]), m=st.sampled_from([2, 4]))
def test_nm_is_the_best_of_each_group_along_any_axis(seed, axis, m):
    rng = np.random.default_rng(seed)
    w = integers(rng, (3, 8, 5), top=3)
    count = int(rng.integers(m + 1))
    got = np.asarray(gap.NM(m, axis).mask(jnp.asarray(w), jnp.int32(count)))
    lines, got = np.moveaxis(w, axis, -1), np.moveaxis(got, axis, -1)
    for index in np.ndindex(lines.shape[:-1]):
        for start in range(0, w.shape[axis], m):
            group = (*index, slice(start, start + m))
            np.testing.assert_array_equal(got[group], first_best(lines[group], count))


def test_two_of_four_is_the_euclidean_projection():
    rng = np.random.default_rng(0)
    w = integers(rng, (8, 6))
    target = gap.Target(density=0.5, pattern=gap.NM(4))
    mask = np.asarray(gap.NM(4).mask(jnp.abs(w), target.kept(w.shape)))
    for group, kept in zip(w.reshape(2, 4, 6), mask.reshape(2, 4, 6), strict=True):
        for column in range(6):
            energies = [
                sum(group[i, column] ** 2 for i in pair)
                for pair in itertools.combinations(range(4), 2)
            ]
            assert np.sum(group[kept[:, column], column] ** 2) == max(energies)


def test_nm_runs_along_input_features_of_a_convolution():
    w = np.zeros((1, 1, 4, 2), np.float32)
    w[0, 0, :, 0] = [4, 3, 2, 1]
    w[0, 0, :, 1] = [1, 2, 3, 4]
    mask = np.asarray(gap.NM(4).mask(jnp.asarray(w), 2))[0, 0]
    np.testing.assert_array_equal(
        mask, [[True, False], [True, False], [False, True], [False, True]]
    )


def test_density_bound_blocks_are_nm_with_another_storage():
    rng = np.random.default_rng(1)
    w = jnp.asarray(integers(rng, (3, 3, 16, 4)))
    for count in range(9):
        np.testing.assert_array_equal(
            gap.DBB().mask(w, count), gap.NM(8).mask(w, count)
        )
    blocks = 3 * 3 * 2 * 4
    for count, block_bytes in ((4, 5), (2, 3), (7, 8)):  # arXiv 2107.07983
        assert (
            gap.DBB().storage(w.shape, count, bits=8).bits == 8 * blocks * block_bytes
        )
    assert gap.DBB().storage(w.shape, 8, bits=8) == (8 * w.size, 0)
    assert gap.NM(4).storage(w.shape, 2, bits=8) == (4 * w.size, w.size)  # 2 bits each


def test_a_block_within_its_bound_is_kept_and_zeros_never_beat_values():
    rng = np.random.default_rng(2)
    w = integers(rng, (16, 5)) * (rng.random((16, 5)) < 0.3)
    for count in range(9):
        mask = np.asarray(gap.DBB().mask(jnp.abs(w), count))
        once = np.where(mask, w, 0)
        again = np.where(np.asarray(gap.DBB().mask(jnp.abs(once), count)), once, 0)
        np.testing.assert_array_equal(once, again)
        nonzero = np.count_nonzero(w.reshape(2, 8, 5), axis=1)
        within = np.broadcast_to((nonzero <= count)[:, None], (2, 8, 5)).reshape(16, 5)
        np.testing.assert_array_equal(once[within], w[within])


@pytest.mark.parametrize("shape", [(20, 3), (2, 3, 5, 4)])
def test_every_bank_of_an_output_keeps_the_same(shape):
    rng = np.random.default_rng(3)
    w = integers(rng, shape, top=9)
    view = matrix(w)
    mask = matrix(np.asarray(gap.BankBalanced(8).mask(jnp.asarray(w), 3)))
    for column in range(view.shape[1]):
        for start in range(0, len(view), 8):
            bank = slice(start, start + 8)
            np.testing.assert_array_equal(
                mask[bank, column], first_best(view[bank, column], 3)
            )


def test_a_short_column_is_one_bank():
    assert gap.BankBalanced(64).units((10, 3)) == 10
    assert gap.Target(density=0.3, pattern=gap.BankBalanced(64)).weights((10, 3)) == 9


# ---- groups of the GEMM view


GROUPS = {
    "filter": (
        gap.Filter(),
        lambda w: np.broadcast_to(np.arange(w.shape[-1]), w.shape),
    ),
    "channel": (
        gap.Channel(),
        lambda w: np.broadcast_to(np.arange(w.shape[-2])[:, None], w.shape),
    ),
    "shape": (
        gap.Shape(),
        lambda w: np.broadcast_to(
            np.arange(w.size // w.shape[-1]).reshape(*w.shape[:-1], 1), w.shape
        ),
    ),
    "block": (
        gap.Block(4, 3),
        lambda w: (
            np.arange(w.size // w.shape[-1])[:, None] // 4 * -(-w.shape[-1] // 3)
            + np.arange(w.shape[-1])[None] // 3
        ).reshape(w.shape),
    ),
}


@settings(max_examples=10)
@given(seed=seeds, shape=st.sampled_from([(10, 7), (2, 3, 3, 4)]))
@pytest.mark.parametrize("name", sorted(GROUPS))
def test_groups_of_largest_energy_are_kept_whole(name, shape, seed):
    pattern, label = GROUPS[name]
    rng = np.random.default_rng(seed)
    w = integers(rng, shape, top=4)
    labels = label(w)
    energy = np.bincount(labels.ravel(), weights=(w * np.abs(w)).ravel())
    assert pattern.units(shape) == len(energy)
    count = int(rng.integers(len(energy) + 1))
    got = np.asarray(pattern.mask(jnp.asarray(w), jnp.int32(count)))
    np.testing.assert_array_equal(got, first_best(energy, count)[labels])
    if name != "block":
        assert pattern.weights(shape, count) == got.sum()


def test_weights_of_uneven_blocks_are_the_most_that_can_be_kept():
    block = gap.Block(4, 3)
    w = jnp.ones((10, 7))  # rows 4, 4, 2; columns 3, 3, 1
    sizes = sorted((r * c for r in (4, 4, 2) for c in (3, 3, 1)), reverse=True)
    for count in range(10):
        assert block.weights(w.shape, count) == sum(sizes[:count])
    assert int(block.mask(w, 4).sum()) == block.weights(w.shape, 4)
    assert block.storage(w.shape, 9) == (32 * 70, 0)
    assert block.storage(w.shape, 4) == (32 * 4 * 12, 9)


def test_group_scores_follow_the_rules():
    inf, nan = np.inf, np.nan
    rows = [[1, 2], [-3, 1], [-inf, 2], [-inf, -inf], [inf, -inf], [inf, 1], [nan, inf]]
    got = np.asarray(ranking.group_scores(jnp.array(rows, jnp.float32), (1,)))
    finite = got[:3] / got[0] * 5
    np.testing.assert_allclose(finite, [5, -8, 4])
    assert got[3] == -inf
    assert (got[4], got[5]) == (inf, inf)
    assert np.isnan(got[6])


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1.0, 1e15, 1e30])
def test_group_scores_neither_overflow_nor_underflow(scale):
    rows = np.array([[3, 4], [5, 1], [0, 5.5]]) * scale
    got = np.asarray(ranking.group_scores(jnp.asarray(rows, jnp.float32), (1,)))
    assert np.all(np.isfinite(got))
    np.testing.assert_array_equal(np.argsort(got), [0, 1, 2])


def test_scaling_makes_no_difference_to_ties():
    rows = np.array([[3, 4], [5, 0], [0, 5], [1, 7], [5, 5]])
    for scale in (1.0, 2.0**-40, 3 * 2.0**50):
        x = jnp.asarray(rows * scale, jnp.float32)
        got = np.asarray(ranking.group_scores(x, (1,)))
        assert got[0] == got[1] == got[2] < got[3] == got[4]


def test_a_hugely_negative_score_saturates_and_leaves_the_rest_apart():
    lowest = np.finfo(np.float32).min  # what gap.prune gives a NaN
    rows = jnp.array([[1, 2], [lowest, 2], [-np.inf, -np.inf], [1, 1]], jnp.float32)
    got = np.asarray(ranking.group_scores(rows, (1,)))
    assert list(np.argsort(got)) == [2, 1, 3, 0]


# ---- ranking


@settings(max_examples=15)
@given(seed=seeds, count=st.integers(0, 9))
def test_both_ways_of_ranking_agree(seed, count):
    rng = np.random.default_rng(seed)
    odd = [0.0, -0.0, 1.0, -1.0, 1e-42, -1e-42, np.inf, -np.inf, np.nan, 2.0]
    x = jnp.asarray(rng.choice(np.array(odd, np.float32), (4, 9)))
    kinder = np.where(np.isnan(x), -np.inf, x)
    expected = [
        np.isin(np.arange(9), np.lexsort((-row, np.isnan(raw)))[:count])
        for row, raw in zip(kinder, np.asarray(x), strict=True)
    ]
    # Denormals are ordered by numpy as well as by their bits.
    for found in all_ways(x, jnp.int32(count)):
        np.testing.assert_array_equal(found, expected)


@jax.jit
def all_ways(x, count):
    rows = jax.vmap(ranking.topk_mask, (0, None))(x, count)
    across = ranking.best(x.T, count, 0).T
    return ranking.best(x, count), across, ranking.best(x, count, computed=True), rows


def test_long_lines_and_padding(key):
    long = ranking._PAIRWISE + 10
    x = jax.random.normal(key, (3, long))
    valid = jnp.broadcast_to(jnp.arange(long) < 120, x.shape)
    for line in (x, jnp.full_like(x, jnp.nan)):
        mask = np.asarray(ranking.best(line, 130, valid=valid))
        np.testing.assert_array_equal(mask, valid)
    for count in (0, 7, 119):
        mask = np.asarray(ranking.best(x, count, valid=valid))
        expected = [first_best(row[:120], count) for row in np.asarray(x)]
        np.testing.assert_array_equal(mask[:, :120], expected)
        assert not mask[:, 120:].any()


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint8", "int32", "uint32", "bfloat16", "float16"]
)
def test_keys_keep_the_order_of_every_dtype(dtype):
    kind = jnp.dtype(dtype)
    if dtype == "bool":
        x = jnp.array([False, True])
    elif jnp.issubdtype(kind, jnp.integer):
        limits = jnp.iinfo(kind)
        x = jnp.array(
            [limits.min, limits.min + 1, 0 + limits.max // 2, limits.max], kind
        )
    else:
        x = jnp.array([-np.inf, -2, -0.5, 0, 1e-7, 0.5, 2, np.inf], kind)
    keys = np.asarray(ranking.order_keys(x)).astype(np.int64)
    assert np.all(np.diff(keys) > 0)


# ---- kernel patterns


@settings(max_examples=10)
@given(seed=seeds)
def test_kernel_patterns_are_the_euclidean_projection(seed):
    """Best pattern for each kernel, then the best kernels: checked over all choices."""
    rng = np.random.default_rng(seed)
    w = integers(rng, (3, 3, 2, 2), top=6)
    library = np.array(gap.KernelPattern().library)
    count = int(rng.integers(5))
    mask = np.asarray(gap.KernelPattern().mask(jnp.abs(w), jnp.int32(count)))
    kernels, kept = w.reshape(9, 4), mask.reshape(9, 4)
    energy = np.einsum("lp,pk->lk", library, kernels**2)  # [library, kernels]
    best = max(
        (sum(energy[:, k].max() for k in some))
        for some in itertools.combinations(range(4), count)
    )
    assert np.sum(kernels[kept] ** 2) == best
    for k in range(4):
        if kept[:, k].any():
            assert any(np.array_equal(kept[:, k], row) for row in library)
    assert mask.sum() == 4 * count


def test_ties_between_patterns_and_kernels_go_to_the_first():
    pattern = gap.KernelPattern()
    mask = np.asarray(pattern.mask(jnp.ones((3, 3, 2, 2)), 2)).reshape(9, 4)
    for k, kept in enumerate((True, True, False, False)):
        expected = pattern.library[0] if kept else [False] * 9
        np.testing.assert_array_equal(mask[:, k], expected)


def test_a_library_is_learnt_from_planted_patterns():
    rng = np.random.default_rng(4)
    planted = gap.KernelPattern().library[2:5]
    often = (12, 7, 5)
    kernels = [
        np.array(row) * (2 + rng.random(9)) + 0.1 * rng.random(9)
        for row, times in zip(planted, often, strict=True)
        for _ in range(times)
    ]
    w = np.stack(kernels, 1).reshape(3, 3, 4, 6)
    assert gap.learn_library(w, size=3).library == planted
    assert gap.learn_library(w, size=2).library == planted[:2]
    assert len(gap.learn_library(w, size=8).library) == 3  # no more are seen
    five = gap.learn_library(jnp.asarray(w, jnp.float32), entries=5, size=4)
    assert five.entries == 5
    assert len(five.library) == 4


def test_the_default_library_has_eight_patterns_around_the_centre():
    library = np.array(gap.KernelPattern().library)
    assert library.shape == (8, 9)
    assert np.all(library.sum(1) == 4)
    assert np.all(library[:, 4])
    assert len(np.unique(library, axis=0)) == 8


def test_windows_of_another_size_are_refused():
    with pytest.raises(ShapeError, match="window"):
        gap.KernelPattern().mask(jnp.ones((5, 5, 1, 2)), 1)
    with pytest.raises(ShapeError):
        gap.KernelPattern().units((9, 4))
    with pytest.raises(ShapeError):
        gap.learn_library(np.ones((4, 4)))
    with pytest.raises(InputError):
        gap.learn_library(np.ones((1, 3, 4, 4)), entries=4)
