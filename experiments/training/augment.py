"""Augmentations: `augment(key, images uint8 [n, h, w, c]) -> images`, jittable."""

import jax
import jax.numpy as jnp

from core.types import Array


def crop_and_flip(key: Array, images: Array, *, pixels: int = 4) -> Array:
    """Returns images shifted at random and mirrored with probability 1/2.

    The augmentation of CIFAR in He et al. (arXiv 1512.03385, section 4.2): pad every
    side with `pixels` of 0, cut a window of the original size at random, flip it left
    to right with probability 1/2.

    Args:
      key: random key.
      images: [n, h, w, c], any type.
      pixels: the longest shift, in pixels.

    Returns:
      An array like `images`.
    """
    n, h, w, _ = images.shape
    shift_key, flip_key = jax.random.split(key)
    shift = jax.random.randint(shift_key, (2, n, 1), -pixels, pixels + 1)
    flip = jax.random.bernoulli(flip_key, 0.5, (n, 1))
    rows = jnp.arange(h)[None] + shift[0]
    columns = jnp.arange(w)[None]
    columns = jnp.where(flip, w - 1 - columns, columns) + shift[1]
    inside = _inside(rows, h)[:, :, None] & _inside(columns, w)[:, None, :]
    index = jnp.clip(rows, 0, h - 1)[:, :, None] * w
    index = index + jnp.clip(columns, 0, w - 1)[:, None, :]
    flat = images.reshape(n, h * w, -1)
    moved = jax.vmap(lambda image, i: image[i])(flat, index)
    return jnp.where(inside[..., None], moved, jnp.zeros_like(moved))


def _inside(position: Array, size: int) -> Array:
    return (position >= 0) & (position < size)
