"""The contract of packed forms, for every pattern: equal to the masked dense result."""

import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gap
from core.errors import InputError, NonFiniteError, ShapeError
from gap import packed
from gap.packed import moves
from tests.gap.packed_cases import (
    assert_close,
    kernel,
    mask_of,
    matmul,
    matrix,
    rebuilt,
    unpack,
)
from tests.strategies import seeds

PATTERNS = {
    "unstructured": gap.Unstructured(),
    "nm": gap.NM(m=4),
    "nm_outputs": gap.NM(m=3, axis=-1),
    "dbb": gap.DBB(block=8),
    "bank_balanced": gap.BankBalanced(bank=16),
    "block": gap.Block(inputs=9, outputs=8),
    "bcr_inputs": gap.BCR(inputs=16, outputs=8),
    "bcr": gap.BCR(inputs=16, outputs=8, split=0.5),
    "bcr_shared": gap.BCR(16, 8, split=0.6, share_outputs=True),
    "filter": gap.Filter(),
    "channel": gap.Channel(),
    "shape": gap.Shape(),
    "kernel": gap.KernelPattern(),
}


@pytest.fixture(params=sorted(PATTERNS))
def name(request):
    return request.param


def test_every_pattern_has_a_packed_form():
    assert {type(p) for p in PATTERNS.values()} == set(gap.PATTERNS.values())


def test_unpacking_is_the_masked_kernel_to_the_last_bit(name):
    w = kernel()
    mask = mask_of(PATTERNS[name], w)
    form = packed.pack(w, mask, gap.Target(0.3, pattern=PATTERNS[name]))
    assert isinstance(form, packed.Packed)
    np.testing.assert_array_equal(unpack(form), np.where(mask, w, 0))


@pytest.mark.parametrize("batch", [1, 128])
def test_products_are_those_of_the_masked_kernel(name, batch):
    w = kernel(1)
    mask = mask_of(PATTERNS[name], w)
    form, dense = packed.pack(w, mask, PATTERNS[name]), matrix(w, mask)
    x = jnp.asarray(kernel(2, (batch, 54)))
    np.testing.assert_allclose(matmul(x, form), x @ dense, rtol=1e-5, atol=1e-5)
    y = matmul(x.T, form, layout="feature")
    np.testing.assert_allclose(y, (x @ dense).T, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_the_masked_kernel(name):
    w = kernel(3)
    mask = mask_of(PATTERNS[name], w)
    form, dense = packed.pack(w, mask, PATTERNS[name]), matrix(w, mask)
    x, c = jnp.asarray(kernel(4, (7, 54))), jnp.asarray(kernel(5, (7, 20)))

    @jax.jit
    def through_packed(x, form):
        def loss(x, values):
            y = packed.matmul(x, packed.with_values(form, values))
            return jnp.sum(c * jnp.sin(y))

        return jax.grad(loss, (0, 1))(x, form.values)

    @jax.jit
    def through_dense(x, dense):
        return jax.grad(lambda x, w: jnp.sum(c * jnp.sin(x @ w)), (0, 1))(x, dense)

    (d_x, d_values), (e_x, e_dense) = through_packed(x, form), through_dense(x, dense)
    assert_close(d_x, e_x)
    # Unpacked, the gradient has every kept place, and pruned ones nothing.
    got = unpack(packed.with_values(form, d_values)).reshape(dense.shape)
    expected = np.where(mask.reshape(dense.shape), e_dense, 0)
    assert_close(got, expected)


def test_vmap_over_layers_and_over_inputs():
    pattern = gap.BCR(16, 8, split=0.5)
    ws = [kernel(i, (32, 24)) for i in range(3)]
    masks = [mask_of(pattern, w) for w in ws]
    forms = [packed.pack_blocks(w, m, (16, 8)) for w, m in zip(ws, masks, strict=True)]
    sizes = {tuple(map(jnp.shape, jax.tree.leaves(form))) for form in forms}
    assert len(sizes) == 1  # balanced masks pack into one shape
    x = jnp.asarray(kernel(9, (3, 5, 32)))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *forms)
    y = jax.jit(jax.vmap(packed.matmul))(x, stacked)
    expected = jnp.stack(
        [a @ matrix(w, m) for a, w, m in zip(x, ws, masks, strict=True)]
    )
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    y = jax.vmap(packed.matmul, (0, None))(x, forms[0])
    expected = x.reshape(15, 32) @ matrix(ws[0], masks[0])
    np.testing.assert_allclose(y.reshape(15, 24), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["auto", "folded", "separate"])
@given(seed=seeds, share=st.sampled_from([0.0, 0.05, 0.5, 1.0]))
@settings(max_examples=12)
def test_any_mask_packs_into_blocks(form, seed, share):
    w = kernel(seed, (21, 13))
    mask = np.random.default_rng(seed).random(w.shape) < share
    order = np.random.default_rng(seed).permutation(13)
    for given_order in (None, order):
        got = packed.pack_blocks(w, mask, (8, 5), form=form, order=given_order)
        np.testing.assert_array_equal(rebuilt(got), np.where(mask, w, 0))
    assert got.values.size >= mask.sum()


def test_border_blocks_spend_nothing_on_padding():
    # 20 inputs in blocks of 16: balanced masks keep 2 of each 16 and of the last 4.
    pattern = gap.BCR(16, 8)
    w = kernel(0, (20, 12))
    mask = mask_of(pattern, w, 16 / 128)
    form = packed.pack_blocks(w, mask, (16, 8))
    assert form.values.shape == (2, 8, 4)
    assert form.outputs is None
    assert int(mask.sum()) == 4 * 12


def test_what_reads_every_input_copies_none():
    """A copy of x would be charged to filter pruning alone."""
    w = kernel(0, (20, 12))
    mask = mask_of(gap.Filter(), w, 0.25)
    form = packed.pack(w, mask, gap.Filter())
    assert form.inputs is form.readers is None
    np.testing.assert_array_equal(rebuilt(form), np.where(mask, w, 0))
    assert packed.storage_bytes(form) == 4 * (mask.sum() + 12)
    x = kernel(1, (5, 20))
    jaxpr = str(jax.make_jaxpr(lambda x: packed.matmul(x, form))(x))
    assert "20,5] = gather" not in jaxpr
    np.testing.assert_allclose(matmul(x, form), x @ matrix(w, mask), rtol=1e-5)


def test_exact_masks_store_no_zero_and_share_indices():
    pattern = gap.BCR(32, 16)
    w = kernel(0, (64, 48))
    mask = mask_of(pattern, w, 1 / 8)
    form = packed.pack_blocks(w, mask, (32, 16))
    assert form.values.size == mask.sum() == 64 * 48 // 8
    assert form.keep is None
    assert form.outputs is None
    # An index per input of a block, not per weight; values and indices in 4 bytes.
    assert form.inputs.size == mask.sum() // 16
    assert packed.storage_bytes(form) == 4 * (mask.sum() + mask.sum() // 16)
    coordinates = packed.pack_columns(w, mask)
    assert packed.storage_bytes(coordinates) == 8 * coordinates.values.size
    assert packed.storage_bytes({"a": form, "b": jnp.ones(3)}) == (
        packed.storage_bytes(form) + 12
    )


def test_shared_outputs_are_folded_and_own_outputs_are_not():
    w = kernel(0, (64, 48))
    shared = gap.BCR(16, 16, split=0.5, share_outputs=True)
    mask = mask_of(shared, w, 1 / 8)
    folded = packed.pack_blocks(w, mask, (16, 16))
    assert folded.values.shape[0] == 3
    assert folded.writers.shape[0] == 1  # one writer an output: no sum
    own = mask_of(gap.BCR(16, 16, split=0.5), w, 1 / 8)
    separate = packed.pack_blocks(w, own, (16, 16))
    assert separate.values.shape[0] == 12
    assert separate.values.size == own.sum()
    assert separate.writers.shape[0] > 1


def test_contributions_to_one_output_add_up():
    w = np.ones((4, 3), np.float32)
    form = packed.pack_blocks(w, w > 0, (2, 3), form="separate")
    assert packed.matmul(jnp.ones((1, 4)), form).tolist() == [[4.0, 4.0, 4.0]]


def test_density_bound_masks_fill_their_slots():
    pattern = gap.DBB(8)
    w = kernel(0, (20, 6))
    mask = mask_of(pattern, w, 3 / 8)
    form = packed.pack_groups(w, mask, 8, count=3)
    assert form.values.shape == (3, 3, 6)
    assert form.keep is None
    assert form.positions.dtype == jnp.uint8
    assert packed.storage_bytes(form) == 3 * 3 * 6 * 5
    with pytest.raises(InputError, match="at most 2"):
        packed.pack_groups(w, mask, 8, count=2)


def test_unstructured_lists_are_padded_to_the_longest_only():
    mask = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 0]], bool)
    form = packed.pack_columns(np.ones((3, 3), np.float32), mask)
    assert form.values.tolist() == [[1, 1, 0], [1, 0, 0], [1, 0, 0]]
    assert form.keep.tolist() == mask.tolist()


@given(seed=seeds)
@settings(max_examples=12)
def test_reordering_groups_equal_outputs_and_is_undone(seed):
    rng = np.random.default_rng(seed)
    kinds = rng.random((3, 20)) < [[0.2], [0.5], [0.8]]
    which = rng.integers(0, 3, 12)
    mask = kinds[which].T
    found = packed.reorder(mask)
    np.testing.assert_array_equal(found.order[found.inverse], np.arange(12))
    sorted_mask = mask[:, found.order]
    counts = sorted_mask.sum(axis=0)
    assert np.all(np.diff(counts) <= 0)
    assert len(found.starts) == len({tuple(c) for c in mask.T})
    for start, end in zip(found.starts, [*found.starts[1:], 12], strict=True):
        assert np.all(sorted_mask[:, start:end] == sorted_mask[:, [start]])
    w = kernel(seed, (20, 12))
    form = packed.pack_blocks(w, mask, (20, 4), order=found.order)
    x = jnp.asarray(kernel(1, (3, 20)))
    np.testing.assert_array_equal(rebuilt(form), np.where(mask, w, 0))
    if seed % 4 == 0:  # one compilation for some
        expected = x @ matrix(w, mask)
        np.testing.assert_allclose(matmul(x, form), expected, rtol=1e-5, atol=1e-5)


def test_reordering_saves_slots():
    rng = np.random.default_rng(0)
    kinds = rng.random((4, 64)) < 0.25
    mask = kinds[np.tile(np.arange(4), 8)].T  # neighbours differ, every fourth agrees
    w = kernel(0, mask.shape)
    plain = packed.pack_blocks(w, mask, (64, 8))
    sorted_ = packed.pack_blocks(w, mask, (64, 8), order=packed.reorder(mask).order)
    assert sorted_.values.size < plain.values.size / 2


@given(seed=seeds, many=st.booleans())
@settings(max_examples=6)
def test_spread_and_collect_are_transposes(seed, many):
    rng = np.random.default_rng(seed)
    size, s = 9, 400 if many else 20
    index = rng.integers(0, size + 1, s).astype(np.int32)  # `size` names no row
    inverse = moves.invert(index, size)
    assert (inverse is None) == (np.bincount(index[index < size]).max() > moves.MANY)
    z = jnp.asarray(rng.standard_normal((s, 3)), jnp.float32)
    like = jnp.zeros((size,), bool)
    got = jax.jit(moves.collect)(
        z, jnp.asarray(index), None if inverse is None else jnp.asarray(inverse), like
    )
    expected = np.zeros((size + 1, 3))
    np.add.at(expected, index, np.asarray(z))
    np.testing.assert_allclose(got, expected[:size], rtol=1e-5, atol=1e-5)


def test_selection_takes_the_smallest_block_within_the_slack():
    times = {8: 5.0, 16: 1.09, 32: 1.0, 64: 1.05}

    def timer(calls):
        for call in calls:
            assert jax.block_until_ready(call()).shape == (48, 2)
        return list(times.values())

    blocks = [(b, b) for b in times]
    choice = packed.select_block((64, 48), 0.25, 2, blocks, timer=timer)
    assert choice.pattern == gap.BCR(16, 16)
    assert choice.seconds[gap.BCR(8, 8)] == 5.0
    none = packed.select_block((64, 48), 0.25, 2, blocks, slack=0.0, timer=timer)
    assert none.pattern == gap.BCR(32, 32)
    assert len(packed.time_in_turns([lambda: jnp.ones(2)] * 2, turns=1)) == 2


def test_other_values_do_not_retrace():
    traces = []

    @jax.jit
    def apply(x, form):
        traces.append(form)
        return packed.matmul(x, form)

    w = kernel()
    for pattern in (gap.BCR(16, 8, split=0.5), gap.NM(4), gap.Unstructured()):
        form = packed.pack(w, mask_of(pattern, w), pattern)
        x = jnp.ones((2, 54))
        y = apply(x, form)
        again = apply(x, packed.with_values(form, 2 * form.values))
        np.testing.assert_allclose(again, 2 * y, rtol=1e-5, atol=1e-5)
    assert len(traces) == 3


def test_other_dtypes_are_kept():
    w = np.asarray(jnp.asarray(kernel(0, (32, 16))).astype(jnp.bfloat16))
    half, full = jnp.ones((2, 32), jnp.bfloat16), jnp.ones((2, 32))
    for form in (
        packed.pack_blocks(w, mask_of(gap.BCR(8, 8), w), (8, 8)),
        packed.pack_groups(w, mask_of(gap.NM(4), w), 4),
        packed.pack_columns(w, mask_of(gap.Unstructured(), w)),
    ):
        assert form.values.dtype == jnp.bfloat16
        assert jax.eval_shape(packed.unpack, form).dtype == jnp.bfloat16
        assert jax.eval_shape(packed.matmul, half, form).dtype == jnp.bfloat16
        # The activations' type is that of the computation.
        assert jax.eval_shape(packed.matmul, full, form).dtype == jnp.float32


def test_bad_input_is_named():
    w, good = kernel(0, (8, 4)), np.ones((8, 4), bool)
    with pytest.raises(ShapeError, match="its weight's"):
        packed.pack_blocks(w, good.T)
    with pytest.raises(InputError, match="bool"):
        packed.pack_columns(w, good.astype(np.float32))
    with pytest.raises(InputError, match="inputs of a block"):
        packed.pack_blocks(w, good, (0, 4))
    with pytest.raises(InputError, match="'folded'"):
        packed.pack_blocks(w, good, form="tiled")
    with pytest.raises(InputError, match="permutation"):
        packed.pack_blocks(w, good, order=np.zeros(4, int))
    with pytest.raises(InputError, match="m: got 300"):
        packed.pack_groups(w, good, 300)
    with pytest.raises(ShapeError, match="axis 5"):
        packed.pack_groups(w, good, 4, axis=5)
    with pytest.raises(NonFiniteError, match="kept weights"):
        packed.pack_blocks(np.full((8, 4), np.nan, np.float32), good)
    with pytest.raises(InputError, match="pack_blocks"):
        packed.pack(w, good, "bcr")
    form = packed.pack_blocks(w, good, (8, 4))
    with pytest.raises(ShapeError, match="8 features on the last axis"):
        packed.matmul(jnp.ones((8, 2)), form)
    with pytest.raises(InputError, match="layout"):
        packed.matmul(jnp.ones((2, 8)), form, layout="NHWC")
    with pytest.raises(ShapeError, match="packed weight"):
        packed.with_values(form, jnp.ones(3))
    with pytest.raises(InputError, match="no candidates"):
        packed.select_block((8, 4), 0.5, 1, ())


def test_pruned_nan_weights_never_reach_the_packed_form():
    w = kernel(0, (8, 4))
    mask = np.ones((8, 4), bool)
    w[0, 0], mask[0, 0] = np.nan, False
    for form in (
        packed.pack_blocks(w, mask, (8, 4)),
        packed.pack_groups(w, mask, 4),
        packed.pack_columns(w, mask),
    ):
        assert np.isfinite(form.values).all()


def test_examples_in_the_manual_run():
    modules = [m.name for m in pkgutil.iter_modules(packed.__path__, "gap.packed.")]
    results = [
        doctest.testmod(importlib.import_module(m)) for m in [*modules, "gap.packed"]
    ]
    assert sum(r.attempted for r in results) > 8
    assert not any(r.failed for r in results)
