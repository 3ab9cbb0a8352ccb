"""Kernels and masks that the tests of packed forms share."""

import jax
import jax.numpy as jnp
import numpy as np

from gap import packed

SHAPE = (3, 3, 6, 20)


def kernel(seed=0, shape=SHAPE, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


_masks = jax.jit(lambda p, w, n: p.mask(jnp.abs(w), n), static_argnums=0)
unpack = jax.jit(packed.unpack)
matmul = jax.jit(packed.matmul, static_argnames="layout")


def mask_of(pattern, w, share=0.3):
    count = max(1, round(share * pattern.units(w.shape)))
    return np.asarray(_masks(pattern, w, count))


def rebuilt(form):
    """The kernel from the documented invariants of `PackedBlocks`, in numpy."""
    matrix = np.zeros((np.prod(form.shape[:-1]), form.shape[-1] + 1), np.float32)
    outputs = form.outputs
    if outputs is None:
        n = form.values.shape[0] * form.values.shape[1]
        outputs = np.minimum(np.arange(n), form.shape[-1]).reshape(
            -1, len(form.values[0])
        )
    inputs = (
        np.arange(form.values.shape[-1])[None] if form.inputs is None else form.inputs
    )
    place = np.asarray(inputs)[:, None, :], np.asarray(outputs)[:, :, None]
    np.add.at(matrix, place, np.asarray(form.values))
    return matrix[:, :-1].reshape(form.shape)


def assert_close(got, expected):
    """To 1e-5 of the largest entry: sums of other orders differ by so much at most."""
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * max(scale, 1e-6))


def matrix(w, mask):
    return jnp.asarray(
        np.where(mask, w, np.zeros((), w.dtype)).reshape(-1, w.shape[-1])
    )
