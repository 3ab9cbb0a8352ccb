"""Low rank: matrices of kernels, spectra, truncation, the set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from admm import ConstraintSet, EnergyLoss, LowRank, low_rank
from core.errors import InputError, ShapeError, UnknownNameError

SHAPES = [(6, 5), (4, 9), (3, 2, 4, 5)]


truncated = jax.jit(low_rank.Truncation.truncate, static_argnums=0)


def kernel(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def by_svd(matrix, rank):
    u, s, v = np.linalg.svd(np.asarray(matrix, np.float64), full_matrices=False)
    return (u[:, :rank] * s[:rank]) @ v[:rank], u[:, :rank] @ v[:rank], s


@pytest.mark.parametrize("scheme", low_rank.SCHEMES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matrices_are_restored(shape, scheme):
    w = kernel(shape)
    matrix = low_rank.matricize(w, scheme)
    np.testing.assert_array_equal(low_rank.restore(matrix, shape, scheme), w)


def conv(x, w):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers)


def test_rank_one_kernels_are_convolutions_in_turn(key):
    """What the schemes mean: outer products factor into the convolutions named."""
    high, wide, channels, filters = 3, 5, 4, 6
    x = jax.random.normal(key, (2, 7, 8, channels))
    v, h = kernel((high, channels)), kernel((wide, filters), 1)
    matrix = v.reshape(-1, 1) @ h.reshape(1, -1)
    w = low_rank.restore(matrix, (high, wide, channels, filters), "spatial")
    first = conv(x, v.reshape(high, 1, channels, 1))
    found = conv(first, h.reshape(1, wide, 1, filters))
    np.testing.assert_allclose(found, conv(x, w), rtol=1e-3, atol=1e-4)
    a, b = kernel((high, wide, channels, 1)), kernel((1, 1, 1, filters), 1)
    w = low_rank.restore(
        a.reshape(-1, 1) @ b.reshape(1, -1), (high, wide, channels, filters), "channel"
    )
    np.testing.assert_allclose(conv(conv(x, a), b), conv(x, w), rtol=1e-3, atol=1e-4)
    c, d = kernel((channels,)), kernel((high, wide), 1)
    w = low_rank.restore(
        (d.reshape(-1, 1) @ c.reshape(1, -1))[None], (high, wide, channels, 1),
        "decouple",
    )  # fmt: skip
    pointwise = conv(x, c.reshape(1, 1, channels, 1))
    found = conv(pointwise, d.reshape(high, wide, 1, 1))
    np.testing.assert_allclose(found, conv(x, w), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", [(6, 5), (4, 9), (64, 576)], ids=str)
def test_truncation_and_subgradient_are_those_of_the_decomposition(shape):
    a = kernel(shape)

    @jax.jit
    def parts(a, rank):
        found = low_rank.spectrum(a)
        low = low_rank.truncate(a, found, rank)
        return found, low, low_rank.nuclear_subgradient(a, found, rank)

    for rank in (1, 3, min(shape)):
        found, low, slope = parts(a, rank)
        wanted, polar, s = by_svd(a, rank)
        np.testing.assert_allclose(found.values, s, rtol=1e-4, atol=1e-3 * s[0])
        np.testing.assert_allclose(low, wanted, atol=1e-3 * np.abs(a).max())
        np.testing.assert_allclose(slope, polar, atol=2e-3)
    assert parts._cache_size() == 1


def test_energy_is_of_squares():
    s = jnp.array([2.0, 1.0])
    assert low_rank.rank_by_energy(s, 0.2) == 1  # 4 of 5 are left
    assert low_rank.rank_by_energy(s, 0.19) == 2
    assert low_rank.rank_by_energy(s, 0.0) == 2
    assert low_rank.rank_by_energy(s, 1.0) == 1
    assert low_rank.rank_by_energy(jnp.zeros(3), 0.1) == 1


@pytest.mark.parametrize("loss", [0.02, 0.1, 0.5])
def test_no_more_than_the_energy_is_lost_and_no_rank_less_would_do(loss):
    w = kernel((3, 3, 8, 16))
    found = truncated(EnergyLoss(loss), w)
    lost = np.sum((w - np.asarray(found.kernel)) ** 2) / np.sum(w**2)
    assert lost <= loss + 1e-6
    fewer = truncated(LowRank(rank=int(found.rank) - 1), w).kernel
    assert np.sum((w - np.asarray(fewer)) ** 2) / np.sum(w**2) > loss


def test_filters_share_the_largest_rank():
    w = np.zeros((2, 2, 3, 2), np.float32)
    w[..., 0] = 1.0  # of rank 1
    w[..., 1] = kernel((2, 2, 3))
    found = truncated(EnergyLoss(0.01, scheme="decouple"), w)
    assert int(found.rank) > 1
    one = truncated(LowRank(rank=1, scheme="decouple"), w).kernel
    np.testing.assert_allclose(one[..., 0], w[..., 0], rtol=1e-5)
    wanted, _, _ = by_svd(low_rank.matricize(w, "decouple")[1], 1)
    found = low_rank.matricize(np.asarray(one), "decouple")[1]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_slope_of_the_nuclear_norm():
    w = kernel((3, 3, 4, 5))
    way = kernel(w.shape, 1)
    norm = lambda w: by_svd(low_rank.matricize(w, "channel"), 1)[2].sum()  # noqa: E731
    h = 1e-3
    change = (norm(w + h * way) - norm(w - h * way)) / (2 * h)
    slope = truncated(LowRank(rank=5), w).subgradient
    assert float((slope * way).sum()) == pytest.approx(float(change), rel=1e-2)


def test_a_kernel_at_its_energys_rank_is_in_a_set():
    # Truncating by energy again would lose again: it is no projection.
    w = jnp.asarray(kernel((12, 10)))
    spec = EnergyLoss(0.05)
    constraint = spec.at(w)
    z = constraint.project(w)
    np.testing.assert_allclose(constraint.project(z), z, atol=1e-5)
    assert int(truncated(spec, z).rank) < constraint.rank
    np.testing.assert_array_equal(z, truncated(spec, w).kernel)
    assert not isinstance(spec, ConstraintSet)


@pytest.mark.parametrize("w", [np.zeros((4, 6)), np.ones((4, 6))], ids=["zero", "one"])
def test_kernels_of_rank_zero_and_one_are_kept_and_have_finite_slopes(w):
    found = truncated(EnergyLoss(0.05), jnp.asarray(w, jnp.float32))
    assert found.rank == 1
    np.testing.assert_allclose(found.kernel, w, atol=1e-6)
    assert np.isfinite(found.subgradient).all()
    assert np.linalg.norm(found.subgradient, 2) <= 1 + 1e-5
    through = jax.grad(lambda w: LowRank(rank=2).project(w).sum())(jnp.float32(w))
    assert np.isfinite(through).all()


def test_bfloat16_is_computed_in_float32():
    w = jnp.asarray(kernel((6, 5)), jnp.bfloat16)
    found = truncated(LowRank(rank=2), w)
    assert found.kernel.dtype == found.subgradient.dtype == jnp.bfloat16
    wanted, _, _ = by_svd(np.asarray(w, np.float32), 2)
    np.testing.assert_allclose(np.asarray(found.kernel, np.float32), wanted, atol=0.02)


def test_bad_input_is_named():
    with pytest.raises(InputError, match="rank"):
        LowRank(rank=0)
    with pytest.raises(InputError, match=r"loss: got 1\.5"):
        EnergyLoss(1.5)
    with pytest.raises(UnknownNameError, match="spatial"):
        LowRank(rank=1, scheme="spatal")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="channel"):
        low_rank.matricize(kernel((2, 2)), "chanel")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="3, 4, 5"):
        LowRank(rank=1).project(kernel((3, 4, 5)))
