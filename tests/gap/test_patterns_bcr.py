"""Block column-row sparsity: its counts, its blocks, and how good the heuristic is."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gap
from core.errors import InputError
from tests.strategies import seeds


def normal(seed, shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def blocks(x, inputs, outputs):
    """Blocks of a matrix, border ones smaller, row by row of blocks."""
    x = np.asarray(x).reshape(-1, x.shape[-1])
    return [
        [x[i : i + inputs, j : j + outputs] for j in range(0, x.shape[1], outputs)]
        for i in range(0, x.shape[0], inputs)
    ]


def energy(w, mask):
    return float(np.sum(np.asarray(w, np.float64)[np.asarray(mask)] ** 2))


@settings(max_examples=15)
@given(
    seed=seeds,
    pattern=st.sampled_from(
        [gap.BCR(8, 6, split=0.5), gap.BCR(8, 6), gap.BCR(8, 6, split=0.6, refine=1)]
    ),
    shape=st.sampled_from([(3, 3, 2, 7)]),
)
def test_every_block_keeps_some_inputs_times_some_outputs(seed, pattern, shape):
    rng = np.random.default_rng(seed)
    w = normal(seed, shape)
    count = int(rng.integers(pattern.units(shape) + 1))
    n_in, n_out = pattern.kept(shape, count)
    mask = pattern.mask(jnp.abs(w), jnp.int32(count))
    for row in blocks(mask, 8, 6):
        for block in row:
            rows, cols = block.any(1), block.any(0)
            np.testing.assert_array_equal(block, np.outer(rows, cols))
            # Border blocks keep all they have rather than padding.
            size = (min(n_in, block.shape[0]), min(n_out, block.shape[1]))
            assert block.sum() == size[0] * size[1]
            assert not block.any() or (rows.sum(), cols.sum()) == size


def test_padding_is_never_chosen_even_over_pruned_weights():
    pattern = gap.BCR(8, 6, split=0.5)
    for value in (-1.0, -np.inf, np.nan):
        w = jnp.full((11, 8), value, jnp.float32)
        for count in (1, 12, 30, 48):
            mask = pattern.mask(w, count)
            assert int(mask.sum()) == pattern.weights(w.shape, count)


def test_the_two_phases_by_hand():
    """Inputs of largest energy in each block, then outputs on those inputs."""
    w = normal(0, (16, 12))
    pattern = gap.BCR(8, 6, split=0.5)
    n_in, n_out = pattern.kept(w.shape, 12)
    for i, j in itertools.product((0, 8), (0, 6)):
        block = w[i : i + 8, j : j + 6]
        rows = np.sort(np.argsort(-(block**2).sum(1))[:n_in])
        cols = np.sort(np.argsort(-(block[rows] ** 2).sum(0))[:n_out])
        expected = np.zeros((8, 6), bool)
        expected[np.ix_(rows, cols)] = True
        got = np.asarray(pattern.mask(jnp.abs(w), 12))[i : i + 8, j : j + 6]
        np.testing.assert_array_equal(got, expected)


def test_near_the_best_choice_of_four_by_four_blocks():
    """Brute force over all pairs of sets; the paper's order of phases, no refining."""
    w = normal(1, (4 * 20, 4 * 5))
    pattern = gap.BCR(4, 4, split=0.5)
    assert pattern.kept(w.shape, 4) == (2, 2)
    masks = {
        refine: np.asarray(gap.BCR(4, 4, split=0.5, refine=refine).mask(jnp.abs(w), 4))
        for refine in (0, 2)
    }
    pairs = list(itertools.combinations(range(4), 2))
    best = sum(
        max((b[np.ix_(r, c)] ** 2).sum() for r in pairs for c in pairs)
        for row in blocks(w, 4, 4)
        for b in row
    )
    kept = {refine: energy(w, mask) for refine, mask in masks.items()}
    assert 0.9 * best <= kept[0] <= kept[2] <= best * (1 + 1e-6)
    rng = np.random.default_rng(2)
    chance = [
        sum(
            (b[np.ix_(pairs[rng.integers(6)], pairs[rng.integers(6)])] ** 2).sum()
            for row in blocks(w, 4, 4)
            for b in row
        )
        for _ in range(5)
    ]
    assert kept[0] > 1.5 * max(chance)


@settings(max_examples=8)
@given(seed=seeds, share=st.booleans())
def test_refining_never_loses_energy(seed, share):
    w = normal(seed, (16, 12))
    kept = [
        energy(w, gap.BCR(8, 6, 0.5, refine, share).mask(jnp.abs(w), 12))
        for refine in (0, 2)
    ]
    assert kept[1] >= kept[0] * (1 - 1e-6)


@settings(max_examples=8)
@given(seed=seeds, refine=st.sampled_from([0, 2]))
def test_projecting_twice_is_projecting_once(seed, refine):
    pattern = gap.BCR(8, 6, split=0.5, refine=refine)
    w = normal(seed, (20, 13))
    once = np.where(pattern.mask(jnp.abs(w), 12), w, 0)
    again = np.where(pattern.mask(jnp.abs(once), 12), once, 0)
    np.testing.assert_array_equal(once, again)


def test_one_block_over_the_matrix_is_coarse_pruning():
    w = jnp.abs(normal(3, (10, 7)))
    inputs = gap.BCR(1000, 1000)
    outputs = gap.BCR(1000, 1000, split=0.0)
    np.testing.assert_array_equal(inputs.mask(w, 28), gap.Shape().mask(w, 4))
    np.testing.assert_array_equal(outputs.mask(w, 30), gap.Filter().mask(w, 3))


def test_one_by_one_blocks_keep_all_or_nothing():
    pattern = gap.BCR(1, 1)
    assert pattern.units((5, 4)) == 1
    assert int(pattern.mask(jnp.ones((5, 4)), 1).sum()) == 20
    assert int(pattern.mask(jnp.ones((5, 4)), 0).sum()) == 0


def test_shared_outputs_are_the_same_down_a_column_of_blocks():
    w = normal(4, (24, 12))
    pattern = gap.BCR(8, 6, split=0.5, share_outputs=True)
    n_in, n_out = pattern.kept(w.shape, 12)
    mask = np.asarray(pattern.mask(jnp.abs(w), 12))
    for j in (0, 6):
        column = mask[:, j : j + 6]
        outputs = column.any(0)
        assert outputs.sum() == n_out
        for i in (0, 8, 16):
            block = column[i : i + 8]
            np.testing.assert_array_equal(block, np.outer(block.any(1), outputs))
            assert block.any(1).sum() == n_in
    packed, free = pattern.storage(w.shape, 12), gap.BCR(8, 6, 0.5).storage(w.shape, 12)
    assert packed.value_bits == free.value_bits == 32 * 6 * n_in * n_out
    assert free.index_bits == 6 * (n_in * 3 + n_out * 3)
    assert packed.index_bits == 6 * n_in * 3 + 2 * n_out * 3


@settings(max_examples=15)
@given(inputs=st.integers(1, 20), outputs=st.integers(1, 20), split=st.floats(0.0, 1.0))
def test_kept_pairs_are_nearest_on_a_rising_staircase(inputs, outputs, split):
    pattern, shape = gap.BCR(inputs, outputs, split=split), (20, 20)
    pairs = [pattern.kept(shape, c) for c in range(inputs * outputs + 1)]
    assert pairs[0] == (0, 0)
    assert pairs[-1] == (inputs, outputs)
    for before, after in itertools.pairwise(pairs):
        assert before[0] <= after[0]
        assert before[1] <= after[1]
    products = sorted({a * b for a, b in pairs})
    for count, (a, b) in enumerate(pairs):
        nearest = min(abs(p - count) for p in products if p or not count)
        assert abs(a * b - count) == nearest


def test_split_says_which_side_pays():
    shape = (128, 128)
    eighth = 128 * 128 // 8
    assert gap.BCR().kept(shape, eighth) == (16, 128)
    assert gap.BCR(split=0.0).kept(shape, eighth) == (128, 16)
    a, b = gap.BCR(split=0.5).kept(shape, eighth)
    assert (a, b) in [(45, 45), (45, 46), (46, 45)]
    a, b = gap.BCR(split=0.75).kept(shape, eighth)
    assert (a, b) == (27, 76)  # 128 / 8**.75 = 26.9, 128 / 8**.25 = 76.1


@pytest.mark.parametrize("split", [0.5, 0.75, 1.0])
def test_density_reached_is_near_the_one_asked_for(split):
    for block in (16, 64, 128):
        pattern = gap.BCR(block, block, split=split)
        for density in (1 / 2, 1 / 4, 1 / 8, 1 / 16):
            target = gap.Target(density=density, pattern=pattern)
            reached = target.weights((256, 512)) / (256 * 512)
            # Half a step of the staircase: half a row, or a column, of the block.
            assert abs(reached - density) <= 0.5 / block + 1e-9


def test_a_count_out_of_range_is_refused():
    with pytest.raises(InputError):
        gap.BCR(4, 4).kept((8, 8), 17)


def test_ties_go_to_the_first_inputs_and_outputs_of_a_block():
    pattern = gap.BCR(8, 6, split=0.5)
    n_in, n_out = pattern.kept((16, 12), 12)
    mask = np.asarray(pattern.mask(jnp.ones((16, 12)), 12))
    expected = np.outer(np.arange(16) % 8 < n_in, np.arange(12) % 6 < n_out)
    np.testing.assert_array_equal(mask, expected)


def test_energies_are_ranked_in_a_loop_and_not_once_for_each_comparison():
    """Unrolled, XLA adds the groups up again for each of them: 24 times the work."""

    def lines(n):
        scores = jnp.ones((2 * n, 2 * n))
        program = jax.make_jaxpr(lambda s, c: gap.BCR(n, n, split=0.5).mask(s, c))
        return len(str(program(scores, jnp.int32(n * n // 8))).splitlines())

    assert abs(lines(96) - lines(16)) < 16


@pytest.mark.parametrize("split", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("count", [1, 9, 32, 255, 256])
def test_a_drop_moves_every_side_that_can_and_is_otherwise_the_nearest(split, count):
    pattern, shape = gap.BCR(16, 16, split=split), (32, 32)
    before = pattern.kept(shape, count)
    drop = jax.jit(lambda f: pattern.after_drop(shape, count, f))
    assert pattern.kept(shape, int(drop(0.0))) == before
    free = [1 < n < 16 for n in before]
    least = pattern.kept(shape, int(drop(1e-3)))
    for now, then, can in zip(least, before, free, strict=True):
        assert (now < then) if can else (now <= then)
        assert now >= 1
    if not any(free):
        assert least == before
    for fraction in (0.5, 0.9):
        wanted = (1 - fraction) * np.prod(before)
        left = np.prod(pattern.kept(shape, int(drop(fraction))))
        nearest = min(
            (np.prod(pattern.kept(shape, c)) for c in range(count + 1)),
            key=lambda n: abs(n - wanted),
        )
        assert left <= np.prod(least)
        missed = pytest.approx(abs(nearest - wanted), abs=1e-3)
        assert abs(left - wanted) == missed or left == np.prod(least)
