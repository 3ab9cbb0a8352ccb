"""Onto discrete levels in stages: the nearest weights first, the others train on.

Rounding all weights at once loses accuracy at one or two bits. So a share of them, the
nearest to their levels, is put there and held; the rest trains on, and the share grows
until nothing is free (arXiv 1903.09769, the final mapping of quantization):

    rules = admm.at_scales(params, rules)      # scales stay from here on
    held = None
    for share in (0.5, 0.75, 0.9, 1.0):
        params, held = admm.settle(params, rules, share, held)
        tx = admm.hold(optax.adam(1e-4), held)
        ...                                    # train params with tx
"""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from admm.levels import Quantized
from admm.sets import constraints, in_turn
from core import trees
from core.errors import ShapeError, check_range, describe
from core.numerics import check_finite
from core.rules import Rules
from core.selection import topk_mask
from core.types import Array, PartialTree, PyTree
from gap.transforms import need_params, zero_moments


class HeldState(NamedTuple):
    """State of `hold`.

    Invariants: `held` has a boolean mask for every leaf that is held somewhere, and
    `None` elsewhere; moments of held weights in `inner` are 0.
    """

    held: PartialTree
    inner: optax.OptState


def at_scales(params: PyTree, rules: Rules) -> Rules:
    """Returns rules with a leaf each, whose `Quantized` sets keep their scales.

    Args:
      params: the weights that scales are fitted to.
      rules: as in `admm`; other sets stay as they are.

    Raises:
      RuleError, InputError: bad rules.
      NonFiniteError: NaN or infinity in a leaf that a rule matches.
    """
    sets = constraints(params, rules)
    check_finite(trees.select(sets, params), "params")
    fixed = trees.map_partial(
        lambda s, w: s.at(w) if isinstance(s, Quantized) else s, sets, params
    )
    names, _, treedef = trees.flatten(params)
    pairs = zip(names, treedef.flatten_up_to(fixed), strict=True)
    return [(re.escape(name), spec) for name, spec in pairs if spec is not None]


def settle(
    params: PyTree, rules: Rules, share: float, held: PartialTree = None
) -> tuple[PyTree, PartialTree]:
    """Puts the share of each leaf that is nearest to its projection there.

    Args:
      params: the weights.
      rules: of sets that do not move, as `at_scales` returns them.
      share: of a leaf's weights, held ones included, in [0, 1]; 1 is the projection.
      held: what this returned before, in a stage with a smaller share; its weights stay
        as they are.

    Returns:
      The parameters, and a tree of masks of the weights that are to be held.

    Raises:
      InputError: a share out of [0, 1].
      RuleError: a rule that matches no leaf.
      NonFiniteError: NaN or infinity in a leaf that a rule matches.
    """
    check_range("share", share, 0.0, 1.0)
    sets = constraints(params, rules)
    check_finite(trees.select(sets, params), "params")
    if held is None:
        held = trees.map_partial(lambda _, w: jnp.zeros(w.shape, bool), sets, params)

    def put(spec, w: Array, before: Array) -> tuple[Array, Array]:
        z = in_turn(spec).project(w)
        near = jnp.where(before, jnp.inf, -jnp.abs(w - z))
        kept = topk_mask(near, round(share * w.size)) | before
        return jnp.where(kept & ~before, z, w), kept

    found = trees.map_partial(put, sets, params, held)
    moved = trees.map_partial(
        lambda _, w, pair: pair[0], sets, params, found, absent=trees.keep_rest
    )
    return moved, trees.map_partial(lambda _, w, pair: pair[1], sets, params, found)


def hold(
    inner: optax.GradientTransformation, held: PartialTree
) -> optax.GradientTransformationExtraArgs:
    """Trains the weights that are not held; the others keep their values exactly.

    Args:
      inner: the optimizer of the free weights; no decay or momentum moves held ones.
      held: masks, such as `settle` returns, `None` for a leaf that is free.

    Returns:
      A transform with `HeldState`; `update` needs `params`.

    Raises:
      ShapeError: a mask that has not the shape of its leaf, at `init`.
    """
    inner = optax.with_extra_args_support(inner)

    def free(mask: Array, leaf: Array) -> Array:
        return jnp.where(mask, jnp.zeros_like(leaf), leaf)

    def init(params: PyTree) -> HeldState:
        for name, leaf in trees.by_path(params).items():
            mask = trees.by_path(held).get(name)
            if mask is not None and mask.shape != leaf.shape:
                raise ShapeError(
                    describe(
                        f"a mask of {mask.shape} for {name}", f"one of {leaf.shape}"
                    )
                )
        return HeldState(held, inner.init(params))

    def update(updates, state, params=None, **extra):
        params = need_params(params, "admm.hold")
        updates = trees.map_partial(free, state.held, updates, absent=trees.keep_rest)
        updates, now = inner.update(updates, state.inner, params, **extra)
        updates = trees.map_partial(free, state.held, updates, absent=trees.keep_rest)
        masks = jax.tree.map(jnp.logical_not, state.held)
        return updates, HeldState(state.held, zero_moments(now, params, masks))

    return optax.GradientTransformationExtraArgs(init, update)
