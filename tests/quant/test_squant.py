"""SQuant: a loop by the specification, its invariants, edges, whole trees."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.errors import InputError, NonFiniteError, RuleError, ShapeError
from quant import squant

SHAPES = [(9, 16, 8), (1, 64, 10), (9, 1, 12), (25, 3, 6)]
"""A convolution, a dense layer, a depthwise layer, a large window."""
MODES = ("e", "ec", "ek", "ekc")


def flip(r, delta, order, count, priority, step):
    """Flips the first `count` of an order that are candidates; views are changed."""
    flipped = [i for i in order[:count] if priority[i] > 0]
    for i in flipped:
        r[i] += step
        delta[i] += step
    return len(flipped) == count


def by_loops(x, bits, mode):
    """The algorithm as released, one kernel after another, on [K, N, M]."""
    x = x.transpose(2, 1, 0)  # [M, N, K], the order of the released code
    top = 2 ** (bits - 1) - 1
    r = np.round(x)
    delta = r - x
    up = np.where((delta < 0) & (x < top), -delta, 0)
    down = np.where((delta > 0) & (x > -top - 1), delta, 0)
    if "k" in mode and x.shape[2] > 1:
        later = {1: np.zeros_like(up), -1: np.zeros_like(up)}
        for m, n in np.ndindex(x.shape[:2]):
            error = delta[m, n].sum(dtype=x.dtype)
            step = 1 if error < 0 else -1
            priority = (up if error < 0 else down)[m, n]
            count = int(np.round(abs(error)))
            order = np.argsort(-priority, kind="stable")
            whole = flip(r[m, n], delta[m, n], order, count, priority, step)
            if 1 <= count >= abs(error) and whole:
                last = order[count - 1]
                later[-step][m, n, last] = abs(delta[m, n, last])
            elif count < abs(error) and priority[order[count]] > 0:
                following = order[count]
                later[step][m, n, following] = abs(delta[m, n, following])
        up, down = later[1], later[-1]
    if "c" in mode:
        for m in range(x.shape[0]):
            error = delta[m].sum(dtype=x.dtype)
            step = 1 if error < 0 else -1
            priority = (up if error < 0 else down)[m].reshape(-1)
            order = np.argsort(-priority, kind="stable")
            flat = r[m].reshape(-1), delta[m].reshape(-1)
            flip(*flat, order, int(np.round(abs(error))), priority, step)
            r[m], delta[m] = (part.reshape(r[m].shape) for part in flat)
    return np.clip(r, -top - 1, top).transpose(2, 1, 0)


round_on_grid = jax.jit(squant.round_on_grid, static_argnums=(1, 2))


@functools.partial(jax.jit, static_argnums=1)
def by_modes(x, bits):
    """Codes of every mode, from one program."""
    return {mode: squant.round_on_grid(x, bits, mode) for mode in MODES}


objective = jax.jit(squant.case_objective)


@functools.partial(jax.jit, static_argnums=1)
def _on_grid(w, bits):
    return squant.on_grid(w, squant.affine_grid(w, bits))


def on_grid(shape, bits, seed=0):
    w = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return _on_grid(w, bits)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_codes_are_those_of_the_loop(shape, bits):
    # Multiples of 1/64: sums are exact in any order.
    x = np.round(np.asarray(on_grid(shape, bits)) * 64) / 64
    for mode, found in by_modes(jnp.asarray(x), bits).items():
        np.testing.assert_array_equal(found, by_loops(x, bits, mode), err_msg=mode)


@pytest.mark.parametrize("shape", [*SHAPES, (9, 32, 16)], ids=str)
@pytest.mark.parametrize("bits", [3, 4])
def test_sums_of_errors_are_bounded(shape, bits):
    x = 0.8 * jnp.asarray(on_grid(shape, bits, seed=1))  # away from the ends
    K = shape[0]
    for mode, codes in by_modes(x, bits).items():
        found = objective(codes - x)
        slack = 1e-3
        assert found.element <= (0.5 if mode == "e" else 1.0)
        if mode == "ek" and K > 1:
            assert found.kernel <= 0.5 + slack
        if mode == "ekc" and K > 1:
            assert found.kernel <= 1.0 + slack
        if "c" in mode:
            assert found.channel <= 0.5 + slack


@jax.jit
def kernels_of(x):
    return squant.kernels(squant.elements(x, 4))


def test_a_kernel_at_both_ends_of_its_channel_keeps_its_sum():
    """The largest and the least weight cannot be flipped outwards."""
    x = jnp.array([7.3, -8.4, 0.4, 0.4, 0.4, 1.4, 2.4, 3.4, -1.6]).reshape(9, 1, 1)
    found = round_on_grid(x, 4, "ekc")
    assert (found.min(), found.max()) == (-8, 7)
    assert abs((found - jnp.clip(x, -8, 7)).sum()) <= 0.5 + 1e-5


def test_flipped_twice_is_rounded_to_nearest():
    """What channels undo has the code it had before kernels flipped it."""
    x = jnp.array([0.4, 0.4, 0.4, 0.45]).reshape(4, 1, 1)  # sum of errors -1.65
    state = kernels_of(x)
    assert state.r.sum() == 2
    assert (state.down > 0).sum() == 1
    assert (state.up > 0).sum() == 0
    where = state.down > 0
    np.testing.assert_allclose(state.down[where], 0.6, rtol=1e-6)
    more = jnp.where(where, 0.5, 0.0)  # the error is 0.85: one goes back
    undone = state._replace(delta=state.delta + more)
    found = jax.jit(squant.channels)(undone)
    assert found.r[where] == jnp.round(x[where])


def test_no_error_leaves_no_candidate():
    x = jnp.array([0.25, -0.25, 1.0, 2.0]).reshape(4, 1, 1)
    state = kernels_of(x)
    assert not state.up.any()
    assert not state.down.any()


def test_kernels_of_flax_are_read_by_output_channel():
    w = jax.random.normal(jax.random.key(0), (3, 3, 4, 6))
    whole = squant.quantize(w, 4)
    assert whole.codes.dtype == jnp.int8
    assert whole.codes.shape == w.shape
    assert whole.scale.shape == (6,)
    for m in range(6):
        alone = squant.quantize(w[..., m : m + 1], 4)
        np.testing.assert_array_equal(alone.codes[..., 0], whole.codes[..., m])
    x = _on_grid(w, 4).reshape(9, 4, 6)
    np.testing.assert_array_equal(
        whole.codes.reshape(9, 4, 6), round_on_grid(x, 4, "ekc")
    )
    atol = 1.01 * float(whole.scale.max())
    np.testing.assert_allclose(whole.weights(), w, atol=atol)


def test_output_errors_fall_where_inputs_have_a_mean():
    """Element errors rise, output errors fall: the point of the method."""
    key = jax.random.key(1)
    w = jax.random.normal(key, (256, 32)) * 0.1
    x = jax.nn.relu(jax.random.normal(jax.random.fold_in(key, 1), (512, 256)) + 0.5)
    weights = {mode: squant.quantize(w, 3, mode).weights() for mode in ("e", "ec")}
    element = {mode: jnp.mean((q - w) ** 2) for mode, q in weights.items()}
    output = {mode: jnp.mean((x @ (q - w)) ** 2) for mode, q in weights.items()}
    assert element["ec"] > element["e"]
    assert output["ec"] < 0.7 * output["e"]


def test_zeros_keep_their_code_and_masks_are_kept():
    key = jax.random.key(2)
    w = jax.random.normal(key, (3, 3, 8, 4))
    kept = jax.random.bernoulli(jax.random.fold_in(key, 1), 0.3, w.shape)
    w = jnp.where(kept, w, 0.0)
    found = squant.quantize(w, 3)
    assert (found.weights()[~kept] == 0).all()
    frozen = squant.quantize(w, 3, mask=jnp.zeros(w.shape, bool))
    np.testing.assert_array_equal(frozen.codes, squant.quantize(w, 3, "e").codes)


@pytest.mark.parametrize("bits", [2, 8, 16])
@pytest.mark.parametrize(
    "w",
    [
        *(np.zeros((3, 3, 2, 4)), np.full((5, 4), 0.3), np.ones((1, 1))),
        *(-np.ones((1, 3)), np.full((5, 4), 1e30), np.full((1, 3), -3e38)),
    ],
    ids=["zeros", "constant", "one", "negative", "huge", "largest"],
)
def test_tensors_without_a_range(w, bits):
    found = squant.quantize(jnp.asarray(w, jnp.float32), bits)
    assert np.isfinite(found.scale).all()
    assert np.isfinite(found.zero).all()
    np.testing.assert_allclose(found.weights(), w, rtol=1e-5, atol=1e-7)


def test_channels_that_are_not_finite_spoil_no_scale_under_jit():
    w = jnp.linspace(-1.0, 1.0, 12).reshape(4, 3)
    w = w.at[1, 0].set(jnp.nan).at[1, 1].set(jnp.inf)
    found = jax.jit(lambda w: squant.quantize(w, 4))(w)
    assert np.isfinite(found.scale).all()
    assert np.isfinite(found.zero).all()
    alone = squant.quantize(w[:, 2:], 4)
    np.testing.assert_array_equal(found.codes[:, 2:], alone.codes)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_grid_is_an_affine_one_between_the_ends_of_each_channel(bits):
    """Its definition: code -2**(b - 1) at the least weight, to half a step."""
    w = np.random.default_rng(4).normal(size=(3, 3, 4, 5)) * np.arange(1, 6) / 9 + 0.1
    w = w.astype(np.float32)
    found = squant.quantize(jnp.asarray(w), bits, "e")
    for m in range(5):
        channel = w[..., m].astype(np.float64)
        step = (channel.max() - channel.min()) / (2**bits - 1)
        assert float(found.scale[m]) == pytest.approx(step, rel=1e-6)
        lowest = round(channel.min() / step)  # of the grid, in steps: 0 is on it
        codes = np.clip(np.round(channel / step) - lowest, 0, 2**bits - 1)
        wanted = (codes + lowest) * step
        np.testing.assert_allclose(found.weights()[..., m], wanted, atol=1e-5)
        np.testing.assert_array_equal(found.codes[..., m], codes - 2 ** (bits - 1))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_codes_of_a_tree_are_those_of_the_specification_from_the_weights(bits):
    """In float32, each operation rounded: a fused multiply-add flips ties of them."""
    rng, f32 = np.random.default_rng(1), np.float32
    fine, coarse = rng.normal(size=(3, 3, 8, 16)), rng.normal(size=(3, 3, 8, 16))
    params = {
        "fine": f32(fine),
        "coarse": f32(np.round(coarse * 16) / 16) * f32(0.3),
        "dense": f32(rng.normal(size=(64, 10))),
        "bias": np.ones(3, f32),
    }
    found = squant.encode_tree(params, [("bias", None), (".*", bits)])
    assert found.pop("bias") is None
    for name, part in found.items():
        w = params[name].reshape(-1, *params[name].shape[-2:])
        low, high = w.min((0, 1)), w.max((0, 1))
        slope = f32(2**bits - 1) / np.maximum(high - low, f32(1e-8))
        zero = np.round(slope * low) + f32(2 ** (bits - 1))
        wanted = by_loops(slope * w - zero, bits, "ekc").reshape(part.codes.shape)
        np.testing.assert_array_equal(part.codes, wanted, err_msg=name)
        np.testing.assert_array_equal(part.zero, zero)
        numbers = (wanted + zero) / slope
        np.testing.assert_allclose(part.weights(), numbers, rtol=1e-6)


def test_trees_are_quantized_by_rules_in_one_program():
    key = jax.random.key(3)
    params = {
        "conv": {"kernel": jax.random.normal(key, (3, 3, 2, 4)), "bias": jnp.ones(4)},
        "dense": {"kernel": jax.random.normal(key, (8, 5), jnp.bfloat16)},
    }
    rules = [("conv/kernel", 3), ("dense/kernel", 4)]
    found = squant.quantize_tree(params, rules)
    jitted = jax.jit(lambda p: squant.quantize_tree(p, rules))(params)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(jitted), strict=True):
        np.testing.assert_allclose(np.float32(a), np.float32(b), rtol=1e-5)
    np.testing.assert_array_equal(found["conv"]["bias"], params["conv"]["bias"])
    assert found["dense"]["kernel"].dtype == jnp.bfloat16
    levels = [len(np.unique(found["conv"]["kernel"][..., m])) for m in range(4)]
    assert max(levels) <= 8
    with pytest.raises(RuleError, match="kernal"):
        squant.quantize_tree(params, [("conv/kernal", 3)])


def test_bad_kernels_are_named():
    w = jnp.ones((2, 2))
    with pytest.raises(InputError, match="bits=1"):
        squant.quantize(w, 1)
    with pytest.raises(InputError, match="mode='kc'"):
        squant.quantize(w, 4, "kc")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="int32"):
        squant.quantize(jnp.ones((2, 2), jnp.int32), 4)
    with pytest.raises(ShapeError, match="shape"):
        squant.quantize(jnp.ones(3), 4)
    with pytest.raises(ShapeError, match="shape"):
        squant.quantize(jnp.ones((0, 3)), 4)
    with pytest.raises(NonFiniteError, match="kernel"):
        squant.quantize(jnp.array([[1.0, jnp.nan]]), 4)
