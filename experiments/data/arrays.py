"""Pure functions on the arrays of a data set: normalise, take a subset."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from core.errors import InputError, ShapeError, check_range, describe
from core.types import Array
from experiments.data.info import Split


def normalize(
    images: Array | np.ndarray,
    mean: float | Sequence[float],
    std: float | Sequence[float],
    dtype: DTypeLike = jnp.float32,
) -> Array:
    """Returns `(images / 255 - mean) / std`, channel by channel.

    Works under `jit` and `vmap`. It is computed in float32 (float64 if `dtype` is)
    and rounded once, so bfloat16 loses nothing on the way.

    Args:
      images: [..., C], 0 to 255, uint8 or any other real dtype.
      mean: per channel, of pixels in [0, 1]; a number stands for every channel.
      std: per channel, positive.
      dtype: floating dtype of the result.

    Returns:
      dtype [..., C].

    Raises:
      ShapeError: neither one mean (std) nor one for every channel.
      InputError: a mean that is not finite, a std that is not positive and finite.
    """
    compute = np.float64 if jnp.dtype(dtype) == np.float64 else np.float32
    channels = images.shape[-1]
    offset, scale = (
        _channels(name, value, channels, compute).reshape(
            (1,) * (images.ndim - 1) + (channels,)
        )
        for name, value in (("mean", mean), ("std", std))
    )
    if not (
        np.isfinite(offset).all() and np.isfinite(scale).all() and (scale > 0).all()
    ):
        raise InputError(
            "normalize: "
            + describe(f"mean {mean}, std {std}", "finite numbers, std above 0")
        )
    pixels = jnp.asarray(images).astype(compute) / compute(255)
    return ((pixels - offset) / scale).astype(dtype)


def _channels(
    name: str, value: float | Sequence[float], channels: int, dtype: type[np.floating]
) -> np.ndarray:
    """Returns `value` as [channels]."""
    array = np.atleast_1d(np.asarray(value, dtype))
    if array.shape not in ((1,), (channels,)):
        raise ShapeError(
            f"normalize: {name}: "
            + describe(f"shape {list(array.shape)}", f"1 or {channels} numbers")
        )
    return np.broadcast_to(array, (channels,))


def subset(split: Split, n: int, seed: int | Array = 0) -> Split:
    """Returns `n` of the images, with the classes in their proportions.

    Each class gets its share of `n`, rounded by the largest remainder (ties to the
    lower label); which of its images is decided by `seed` alone, the same on every
    machine. The images keep their order.

    Args:
      split: where to take from, of m images.
      n: how many, 1 to m.
      seed: a non-negative integer or a JAX key.

    Returns:
      A split of n images.

    Raises:
      InputError: `n` or `seed` out of range.
    """
    check_range("subset: n", n, 1, len(split.labels), remedy="Ask for fewer images.")
    chosen = stratified(split.labels, n, seed)
    return Split(split.images[chosen], split.labels[chosen])


def hold_out(split: Split, n: int, seed: int | Array = 0) -> tuple[Split, Split]:
    """Returns the images that are left, and `n` held out as `subset` takes them.

    Options are chosen on the images held out; the test images stay unseen.

    Args:
      split: where to take from, of m images.
      n: how many to hold out, 1 to m - 1.
      seed: a non-negative integer or a JAX key.

    Raises:
      InputError: `n` or `seed` out of range.
    """
    check_range("hold_out: n", n, 1, len(split.labels) - 1)
    chosen = np.zeros(len(split.labels), bool)
    chosen[stratified(split.labels, n, seed)] = True
    kept = Split(split.images[~chosen], split.labels[~chosen])
    return kept, Split(split.images[chosen], split.labels[chosen])


def stratified(labels: np.ndarray, n: int, seed: int | Array) -> np.ndarray:
    """Returns the indices, ascending int64 [n], that `subset` takes.

    Args:
      labels: non-negative integers [m].
      n: how many, 0 to m.
      seed: a non-negative integer or a JAX key.
    """
    counts = np.bincount(labels)
    # Whole numbers: share = count * n / m, floor and remainder without rounding.
    share, remainder = np.divmod(counts.astype(np.int64) * n, max(len(labels), 1))
    extra = np.argsort(-remainder, kind="stable")[: n - int(share.sum())]
    share[extra] += 1
    order = np.lexsort((draws(len(labels), seed), labels))
    start = np.cumsum(counts) - counts
    rank = np.arange(len(labels)) - start[labels[order]]
    return np.sort(order[rank < share[labels[order]]])


def draws(n: int, seed: int | Array) -> np.ndarray:
    """Returns uint64 [n], equally likely; numpy promises this stream for good.

    Args:
      n: how many.
      seed: a non-negative integer or a JAX key, typed or raw.

    Raises:
      InputError: a seed below 0.
    """
    if isinstance(seed, jax.Array | np.ndarray):
        typed = jnp.issubdtype(seed.dtype, jax.dtypes.prng_key)
        words = np.asarray(jax.random.key_data(seed) if typed else seed)
        entropy = [int(word) for word in words.ravel()]
    else:
        check_range("seed", seed, 0)
        entropy = [int(seed)]
    return np.asarray(np.random.PCG64(entropy).random_raw(n), np.uint64)
