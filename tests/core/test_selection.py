import itertools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from core import selection
from core.errors import InputError
from core.selection import keep_largest, topk_mask
from tests.devices import xla_flags

FLOATS = ["bfloat16", "float16", "float32"]
WIDE = ["float64", "int64", "uint64"]
DTYPES = [*FLOATS, "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32"]
LARGE = selection._SAMPLED_FROM + 77

jitted_mask = jax.jit(topk_mask)
jitted_keep = jax.jit(keep_largest)


def oracle(scores, k):
    """Marks the first k by (NaN last, falling score, rising index)."""
    x = np.asarray(scores).reshape(-1)
    if x.dtype.kind in "biu":
        keys = (np.arange(x.size), ~x)
    else:
        x = x.astype(np.float64)
        keys = (np.arange(x.size), -x, np.isnan(x))
    mask = np.zeros(x.size, bool)
    mask[np.lexsort(keys)[:k]] = True
    return mask.reshape(np.shape(scores))


def kept(w, k):
    return np.where(oracle(np.abs(w), k), w, np.zeros((), w.dtype))


def same_bits(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def sample(dtype, n, seed=0):
    """Half spread over the dtype, half heavily tied, with the special values."""
    rng = np.random.default_rng(seed)
    dtype = jnp.dtype(dtype)
    if dtype.kind in "biu":
        x = rng.integers(0, 256, n * dtype.itemsize, np.uint8).view(
            "u1" if dtype.kind == "b" else dtype
        )
        x = x % 2 == 0 if dtype.kind == "b" else x
        x[n // 2 :] = rng.integers(0, 2, n - n // 2)
        if dtype.kind != "b":
            x[:2] = np.iinfo(dtype).min, np.iinfo(dtype).max
        return x
    x = rng.standard_normal(n) * np.exp(rng.uniform(-20, 3, n))
    x[n // 2 :] = rng.integers(-2, 3, n - n // 2)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan]
    x[: len(special)] = special
    return rng.permutation(x.astype(dtype))


SPECIAL = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1.1754942e-38]
scores32 = st.sampled_from([(1,), (7,), (3, 5), (2, 3, 4)]).flatmap(
    lambda shape: hnp.arrays(
        np.float32,
        shape,
        elements=st.one_of(
            st.sampled_from(SPECIAL).map(lambda v: float(np.float32(v))),
            st.floats(width=32),
        ),
    )
)


@given(scores32, st.floats(0, 1))
def test_mask_is_the_sorted_order_cut_at_k(scores, share):
    k = round(share * scores.size)
    mask = np.asarray(jitted_mask(scores, k))
    assert mask.dtype == bool
    assert mask.sum() == k
    np.testing.assert_array_equal(mask, oracle(scores, k))


@given(scores32, st.floats(0, 1))
def test_kept_entries_are_untouched_and_the_others_plus_zero(w, share):
    k = round(share * w.size)
    before = w.copy()
    x = jnp.asarray(w)
    assert same_bits(jitted_keep(x, k), kept(w, k))
    assert same_bits(x, before)


@pytest.mark.parametrize("n", [11, 1500])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_at_every_kind_of_k(dtype, n):
    x = sample(dtype, n)
    for k in (0, 1, 2, n // 3, n // 2, n - 1, n):
        np.testing.assert_array_equal(jitted_mask(x, k), oracle(x, k), err_msg=str(k))
        if dtype in FLOATS:
            assert same_bits(jitted_keep(x, k), kept(x, k))


@pytest.mark.parametrize("dtype", WIDE)
def test_64_bits(dtype):
    x = sample(dtype, 1500)
    with jax.enable_x64(True):
        for k in (0, 1, 500, 1499, 1500):
            mask = jax.jit(topk_mask)(jnp.asarray(x), k)
            np.testing.assert_array_equal(mask, oracle(x, k), err_msg=str(k))
        if dtype == "float64":
            w = jnp.asarray(x)
            assert same_bits(jax.jit(keep_largest)(w, jnp.int64(700)), kept(x, 700))


@pytest.mark.parametrize("value", [0.0, -0.0, 3.0, -np.inf, np.nan])
def test_a_constant_array_keeps_its_first_entries(value):
    for k in (0, 1, 5, 12):
        mask = jitted_mask(np.full((3, 4), value, np.float32), k)
        np.testing.assert_array_equal(mask.reshape(-1), np.arange(12) < k)


def test_zeros_of_both_signs_tie():
    mask = jitted_mask(np.array([-0.0, 0.0, -0.0, -1.0, 0.0], np.float32), 3)
    np.testing.assert_array_equal(mask, [True, True, True, False, False])


def test_denormals_keep_their_order_and_their_bits():
    w = np.arange(1, 9, dtype=np.uint32).view(np.float32)
    assert same_bits(jitted_keep(w, 3), np.where(np.arange(8) >= 5, w, np.float32(0)))


def spaced_outliers(rng):
    """The sample of a large array meets nothing but its outliers."""
    x = rng.standard_normal(LARGE)
    x[:: (LARGE // selection._SAMPLE) | 1] *= 1e6
    return x


HARD = {
    "normal": lambda rng: rng.standard_normal(LARGE),
    "spaced outliers": spaced_outliers,
    "spaced zeros": lambda rng: 1 / spaced_outliers(rng),
    "all exponents": lambda rng: np.exp(rng.uniform(-87, 88, LARGE)),
    "one of each": lambda rng: rng.permutation(
        np.arange(LARGE, dtype=np.uint32).view(np.float32)
    ),
    "one in a million": lambda rng: np.where(rng.random(LARGE) < 1e-5, 1.0, 1e-30),
    "five levels": lambda rng: rng.integers(-2, 3, LARGE),
    "mostly zero": lambda rng: rng.standard_normal(LARGE) * (rng.random(LARGE) < 0.01),
    "sorted": lambda rng: np.sort(rng.standard_normal(LARGE)),
    "constant": lambda rng: np.ones(LARGE),
}


@pytest.mark.parametrize("name", HARD)
def test_large_arrays_and_misleading_samples(name):
    w = HARD[name](np.random.default_rng(0)).astype(np.float32)
    for k in (0, 1, 1000, LARGE // 3, LARGE - 1, LARGE):
        assert same_bits(jitted_keep(w, k), kept(w, k)), k


def test_one_compilation_serves_every_k_and_static_k_agrees():
    traces = []

    @jax.jit
    def f(x, k):
        traces.append(k)
        return topk_mask(x, k)

    x = sample("float32", 100)
    for k in range(0, 101, 10):
        np.testing.assert_array_equal(f(x, jnp.int32(k)), topk_mask(x, k))
    assert len(traces) == 1
    static = jax.jit(topk_mask, static_argnums=1)
    np.testing.assert_array_equal(static(x, 30), f(x, jnp.int32(30)))


def test_traced_k_is_clipped():
    assert int(jitted_mask(np.ones(5, np.float32), jnp.int32(9)).sum()) == 5
    assert int(jitted_mask(np.ones(5, np.float32), jnp.int32(-2)).sum()) == 0


@pytest.mark.parametrize("n", [13, LARGE])
def test_vmap_over_arrays_and_over_k(n):
    x = np.stack([sample("float32", n, seed) for seed in range(3)])
    ks = np.array([0, n // 3, n], np.int32)
    masks = jax.jit(jax.vmap(topk_mask))(x, ks)
    for row, k, mask in zip(x, ks, masks, strict=True):
        np.testing.assert_array_equal(mask, oracle(row, k))
    masks = jax.jit(jax.vmap(topk_mask, in_axes=(None, 0)))(x[1], ks)
    for k, mask in zip(ks, masks, strict=True):
        np.testing.assert_array_equal(mask, oracle(x[1], k))


def test_inside_scan_and_cond():
    w = sample("float32", 2000)

    @jax.jit
    def shrink(w):
        def step(w, k):
            w = jax.lax.cond(k % 2 == 0, lambda w: keep_largest(w, k), lambda w: w, w)
            return w, jnp.sum(w != 0)

        return jax.lax.scan(step, w, jnp.arange(1990, 0, -199, dtype=jnp.int32))

    expected = w
    for k in range(1990, 0, -199):
        expected = kept(expected, k) if k % 2 == 0 else expected
    assert same_bits(shrink(jnp.asarray(w))[0], expected)


@given(
    hnp.arrays(np.float32, 9, elements=st.floats(-4, 4, width=16)), st.integers(0, 9)
)
def test_no_support_gives_a_nearer_point(w, k):
    square = w.astype(np.float64) ** 2
    distance = square[np.asarray(jitted_keep(w, k)) == 0].sum()
    nearest = min(
        square.sum() - square[list(support)].sum()
        for support in itertools.combinations(range(9), k)
    )
    assert distance == pytest.approx(nearest, abs=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(0, 60))
def test_no_random_feasible_point_is_nearer(seed, k):
    rng = np.random.default_rng(seed)
    w = rng.standard_normal(60).astype(np.float32)
    projected = np.asarray(jitted_keep(w, k), np.float64)
    other = np.zeros(60)
    support = rng.permutation(60)[:k]
    other[support] = w[support] + rng.normal(scale=rng.choice([0, 0.1, 1]), size=k)
    assert np.linalg.norm(projected - w) <= np.linalg.norm(other - w)


@pytest.mark.parametrize("dtype", FLOATS)
def test_projection_is_feasible_and_idempotent(dtype):
    w = jnp.asarray(sample(dtype, 1500))
    for k in (0, 7, 700, 1500):
        once = jitted_keep(w, k)
        assert int(jnp.sum(once != 0)) <= k
        assert same_bits(jitted_keep(once, k), once)


def test_gradient_passes_at_kept_entries_only():
    w = jnp.array([3.0, -1.0, 0.5, -4.0])
    c = jnp.array([1.0, 2.0, 3.0, 4.0])
    grad = jax.jit(jax.grad(lambda w: jnp.vdot(c, keep_largest(w, 2))))(w)
    np.testing.assert_array_equal(grad, [1.0, 0.0, 0.0, 4.0])
    _, tangent = jax.jvp(lambda w: keep_largest(w, 2), (w,), (c,))
    np.testing.assert_array_equal(tangent, [1.0, 0.0, 0.0, 4.0])


@pytest.mark.parametrize("shape", [(0,), (3, 0)])
def test_empty_arrays(shape):
    assert topk_mask(jnp.zeros(shape), 0).shape == shape
    assert keep_largest(jnp.zeros(shape), 0).shape == shape


def test_a_scalar_is_an_array_of_one():
    assert bool(topk_mask(2.0, 1))
    assert not bool(topk_mask(2.0, 0))


@pytest.mark.parametrize("k", [-1, 5, 2.0, np.array([1, 2])])
def test_bad_k_is_named(k):
    with pytest.raises(InputError, match=r"k: got"):
        topk_mask(np.ones(4, np.float32), k)


def test_bad_dtypes_are_named():
    with pytest.raises(InputError, match="complex64"):
        topk_mask(jnp.ones(3, jnp.complex64), 1)
    with pytest.raises(InputError, match="int32"):
        keep_largest(jnp.arange(3), 1)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from core.selection import keep_largest, topk_mask
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
for rows in (64, 1 << 15):
    w = np.random.default_rng(0).integers(-99, 100, (rows, 12)).astype(np.float32)
    x = jax.device_put(w, NamedSharding(mesh, P("data")))
    k = w.size // 7
    first = np.argsort(-np.abs(w).ravel(), kind="stable")[:k]
    wanted = np.zeros_like(w)
    wanted.flat[first] = w.flat[first]
    np.testing.assert_array_equal(jax.jit(keep_largest)(x, jnp.int32(k)), wanted)
    if rows == 64:
        local = jax.shard_map(
            lambda v: topk_mask(v, 5),
            mesh=mesh, in_specs=P("data"), out_specs=P("data"),
        )
        counts = np.asarray(jax.jit(local)(x)).reshape(4, -1).sum(1)
        np.testing.assert_array_equal(counts, 5)
print("sharded arrays agree")
"""


def test_sharded_over_four_devices():
    root = Path(__file__).resolve().parents[2]
    flags = xla_flags(4)
    result = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert "sharded arrays agree" in result.stdout, result.stderr


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32"])
def test_a_narrow_type_of_k_counts_right(dtype):
    k = jnp.asarray(5, dtype)
    assert int(topk_mask(jnp.arange(1000.0), k).sum()) == 5
