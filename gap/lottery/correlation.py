"""How much of the final weights was there at the start: the correlation indicator."""

import re

import jax
import jax.numpy as jnp

from core import trees
from core.errors import InputError, check_range, describe
from core.rules import Rules
from core.selection import topk_mask
from core.types import Array, PartialTree, PyTree
from gap.allocation import prunable
from gap.lottery.masks import dense_masks


def correlation(
    a: PyTree,
    b: PyTree,
    p: float = 0.1,
    *,
    masks: PartialTree | None = None,
    rules: Rules | None = None,
) -> Array:
    """Returns the overlap of the largest weights of two collections.

    R_p(a, b) = sum_l |T_p(a_l) ∩ T_p(b_l)| / sum_l k_l, where T_p(x) are the
    k_l = round(p * N_l) largest magnitudes of layer l and N_l counts its weights, in a
    masked layer the remaining ones. Identical weights give exactly 1, independent ones
    p on average; a network whose weights barely moved stays far above p. (The paper
    divides by p * sum_l N_l, which differs by the rounding of k_l alone.)

    Args:
      a: a pytree of arrays, such as the ticket at its start.
      b: another one of the same structure, such as the ticket after training.
      p: share of each layer that counts as large, in (0, 1].
      masks: of the remaining weights; a leaf without a mask takes no part.
      rules: without masks, pairs of a path regex and True for leaves that take part;
        by default those with two or more axes. Biases that start at 0 are all ties.

    Returns:
      float32 []; NaN where no layer has a large weight. Jittable, vmappable.

    Raises:
      InputError: p out of range, or no leaf takes part.
      ShapeError: trees or masks that do not fit.

    Source: arXiv 2107.00166, section 4 (correlation indicator).

    Example:
      >>> import jax.numpy as jnp
      >>> a, b = {"w": jnp.array([[4.0, 3.0, 2.0, 1.0]])}, {"w": jnp.arange(4.0)[None]}
      >>> float(correlation(a, b, 0.5)), float(correlation(a, a, 0.5))
      (0.0, 1.0)
    """
    check_range("p", p, 0.0, 1.0, low_open=True)
    if masks is None and rules is None:
        rules = [(re.escape(path), True) for path in prunable(a)]
    masks = dense_masks(a, rules or ()) if masks is None else masks

    def layer(mask: Array, x: Array, y: Array) -> tuple[Array, Array]:
        count = jnp.floor(p * mask.sum(dtype=jnp.float32) + 0.5).astype(jnp.int32)
        both = _largest(x, mask, count) & _largest(y, mask, count)
        return both.sum(dtype=jnp.int32), count

    pairs = jax.tree.leaves(
        trees.map_partial(layer, masks, a, b), is_leaf=lambda x: isinstance(x, tuple)
    )
    rows = [pair for pair in pairs if isinstance(pair, tuple)]
    if not rows:
        raise InputError(describe("masks without a leaf", "at least one layer"))
    shared, total = (jnp.stack(column).sum() for column in zip(*rows, strict=True))
    return shared.astype(jnp.float32) / total.astype(jnp.float32)


def _largest(w: Array, mask: Array, count: Array) -> Array:
    return topk_mask(jnp.where(mask, jnp.abs(w), -jnp.inf), count) & mask
