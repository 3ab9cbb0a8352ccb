"""Slots that pad a packed form, derivatives of higher order, blocks of the facade."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gap
from core.errors import InputError
from gap import bcr, packed
from tests.gap.packed_cases import kernel, mask_of, matmul, matrix, unpack


def padded_forms():
    """Forms of a mask that suits none of them, so that most slots pad."""
    w = kernel(6, (40, 30))
    mask = np.random.default_rng(0).random(w.shape) < 0.2
    return (w, mask), (
        packed.pack_blocks(w, mask, (16, 8)),
        packed.pack_blocks(w, mask, (16, 8), form="separate"),
        packed.pack_columns(w, mask),
        packed.pack_groups(w, mask, 8),
    )


def test_gradients_of_padding_are_exactly_zero():
    (_, mask), forms = padded_forms()
    x = jnp.ones((2, 40))
    for form in forms:
        d = jax.jit(
            lambda form: jax.grad(
                lambda v: packed.matmul(x, packed.with_values(form, v)).sum()
            )(form.values)
        )(form)
        assert form.keep is not None
        assert not np.any(np.asarray(d)[~np.asarray(form.keep)])
        assert np.count_nonzero(form.keep) == mask.sum()
        assert np.all(np.asarray(d)[np.asarray(form.keep)] > 0)


def test_padding_counts_as_zero_whatever_it_holds():
    """Noise on all values, put in by `with_values` or into the tree itself."""
    (w, mask), forms = padded_forms()
    x = jnp.asarray(kernel(1, (3, 40)))
    for form in forms:
        noisy = form.values + 1
        changed = packed.with_values(form, noisy)
        assert not np.any(np.asarray(changed.values)[~np.asarray(form.keep)])
        for other in (changed, dataclasses.replace(form, values=noisy)):
            np.testing.assert_allclose(
                unpack(other), np.where(mask, w + 1, 0), rtol=1e-6
            )
            np.testing.assert_allclose(
                matmul(x, other), x @ matrix(w + 1, mask), rtol=1e-5, atol=1e-4
            )


def test_hessian_vector_products_are_those_of_the_masked_kernel():
    """Forward mode over reverse mode, through every form."""
    (w, mask), forms = padded_forms()
    x, dense = jnp.asarray(kernel(1, (3, 40))), matrix(w, mask)
    v = jnp.asarray(kernel(2, (3, 40)))

    def product(f, x):
        return jax.jvp(jax.grad(lambda x: jnp.sum(jnp.sin(f(x)))), (x,), (v,))[1]

    expected = product(lambda x: x @ dense, x)
    for form in forms:
        got = jax.jit(lambda x, form: product(lambda x: packed.matmul(x, form), x))(
            x, form
        )
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)


def test_the_facade_packs_by_pattern_and_refuses_blocks_that_do_not_suit():
    pattern = gap.BCR(32, 32, split=0.5)
    w = kernel(0, (128, 128))
    mask = mask_of(pattern, w, 1 / 8)
    for block in (pattern, gap.Target(1 / 8, pattern=pattern), (32, 32)):
        form = bcr.pack(w, mask, block)
        assert form.values.size == mask.sum()
    with pytest.raises(InputError, match="pattern that made the mask"):
        bcr.pack(w, mask)
    assert bcr.pack(w, mask, (128, 128)).values.size > 2 * mask.sum()  # as one says
    own = mask_of(gap.BCR(), w, 1 / 8)
    assert bcr.pack(w, own).values.size == own.sum()
    assert not np.any(bcr.pack(w, np.zeros_like(own), pattern).values)
    with pytest.raises(InputError, match=r"gap\.BCR or gap\.Block"):
        bcr.pack(w, mask, gap.Target(0.5))
