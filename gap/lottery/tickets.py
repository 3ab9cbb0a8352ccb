"""Tickets and their controls: rewound, re-initialised, shuffled, small and dense."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from core.errors import InputError, check_range, describe
from core.types import Array, PartialTree, PyTree
from gap.masks import apply_masks


def ticket(theta0: PyTree, masks: PartialTree) -> PyTree:
    """Returns theta_0 * m: the initial weights where kept, exactly 0.0 elsewhere.

    Args:
      theta0: the initial tree; for batch norm its statistics, scales and offsets are
        in it too, so that they are rewound with the weights.
      masks: a mask tree of `theta0`; leaves without a mask are rewound whole.

    Raises:
      ShapeError: masks that do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> ticket({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([True, False])})["w"]
      Array([1., 0.], dtype=float32)
    """
    return apply_masks(theta0, masks)


def reinit(key: Array, init: Callable[[Array], PyTree], masks: PartialTree) -> PyTree:
    """Returns theta_0' * m: the ticket's mask with independent initial weights.

    Args:
      key: random key, another one than theta_0's.
      init: init(key) -> the tree of a fresh network.
      masks: the ticket's masks, unchanged.

    Raises:
      ShapeError: masks that do not fit.
    """
    return apply_masks(init(key), masks)


def shuffle(key: Array, masks: PartialTree) -> PartialTree:
    """Returns masks with the same count in every leaf at random positions.

    The random ticket: it keeps the ticket's densities of layers but not its weights.

    Args:
      key: random key.
      masks: a mask tree.
    """
    flat, treedef = jax.tree.flatten(masks)
    keys = jax.random.split(key, max(len(flat), 1))
    moved = [
        jax.random.permutation(k, mask.ravel()).reshape(mask.shape)
        for k, mask in zip(keys, flat, strict=False)
    ]
    return jax.tree.unflatten(treedef, moved)


def kept(masks: PartialTree) -> Array:
    """Returns the number of weights that masks keep, int32 []."""
    counts = [mask.sum(dtype=jnp.int32) for mask in jax.tree.leaves(masks)]
    if not counts:
        raise InputError(describe("masks without a leaf", "at least one mask"))
    return jnp.stack(counts).sum(dtype=jnp.int32)


def small_dense_width(
    count: Callable[[float], int], target: int, *, high: float = 1.0
) -> float:
    """Returns the width multiplier of the small dense network of a ticket's size.

    Args:
      count: count(width multiplier) -> parameters of the network of that width; it
        never falls as the width grows.
      target: the ticket's non-zero weights.
      high: a width that has at least as many.

    Returns:
      The width whose count is nearest to `target`; of two equally near the smaller.

    Raises:
      InputError: no width up to `high` reaches the target, or even the narrowest
        network is more than twice as large.

    Source: arXiv 2107.00166, section 3.2 (small dense training).

    Example:
      >>> count = lambda w: 10 * max(1, round(8 * w))
      >>> count(small_dense_width(count, 43))
      40
    """
    check_range("target", target, 1)
    low = 0.0
    smallest, largest = count(high / 2**20), count(high)
    if largest < target:
        raise InputError(
            describe(
                f"{largest} parameters at width {high:g}",
                f"at least the target of {target}",
                "Give a larger `high`.",
            )
        )
    if smallest > 2 * target:
        raise InputError(
            describe(
                f"{smallest} parameters in the narrowest network",
                f"about the target of {target}",
                "The ticket is smaller than any dense network of this depth.",
            )
        )
    top = high
    for _ in range(40):
        middle = (low + top) / 2
        if count(middle) > target:
            top = middle
        else:
            low = middle
    sizes = {w: count(w) for w in (low, top) if w > 0}
    return min(sizes, key=lambda w: (abs(sizes[w] - target), w))
