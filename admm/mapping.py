"""Onto discrete levels in stages: the nearest weights first, the others train on.

Rounding all weights at once loses accuracy at one or two bits. So a share of them, the
nearest to their levels, is put there and held; the rest trains on, and the share grows
until nothing is free (arXiv 1903.09769, the final mapping of quantization):

    rules = admm.at_scales(params, rules)      # scales and zeros stay from here on
    held = None
    for share in admm.SHARES:
        before = params
        params, held = admm.settle(params, rules, share, held)
        params = admm.keep_means(apply, before, params, images)
        tx = admm.hold(optax.adam(1e-4), held)
        ...                                    # train params with tx

Weights that are put on levels of low precision shift the mean of what a layer gives,
all of its outputs in the same direction, and the last stage has no weight left to
absorb it: `keep_means` moves it into the biases.
"""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import quant
from admm.combined import fixed_at, is_fixed, pruned_by
from admm.sets import constraints, in_turn
from admm.transform import ADMMState
from core import trees
from core.errors import InputError, ShapeError, check_range, describe
from core.numerics import check_finite
from core.rules import Rules
from core.selection import topk_mask
from core.types import Array, PartialTree, PyTree
from gap.transforms import need_params, zero_moments

SHARES = (0.5, 0.75, 0.9, 0.95, 0.98, 1.0)
"""Of weights on their levels, in the stages of a final mapping."""


class HeldState(NamedTuple):
    """State of `hold`.

    Invariants: `held` has a boolean mask for every leaf that is held somewhere, and
    `None` elsewhere; moments of held weights in `inner` are 0.
    """

    held: PartialTree
    inner: optax.OptState


def at_scales(params: PyTree, rules: Rules) -> Rules:
    """Returns rules with a leaf each, whose sets keep their scales and their zeros.

    Of intersections and of several sets each is fixed at what those before it leave;
    of a union the set that is nearest.

    Args:
      params: the weights that scales are fitted to; read on the host.
      rules: as in `admm`, of `Quantized`, `Sparse`, `quant.Quantizer`, and of sets made
        of them.

    Raises:
      RuleError: bad rules.
      InputError: a set that does not project weight by weight, such as `LowRank`.
      NonFiniteError: NaN or infinity in a leaf that a rule matches.
    """
    sets = constraints(params, rules)
    check_finite(trees.select(sets, params), "params")
    fixed = trees.map_partial(fixed_at, sets, params)
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
      share: of a leaf's weights that were not pruned, held ones included, in [0, 1];
        pruned ones are held at 0 from the first stage on. 1 is the projection.
      held: what this returned before, in a stage with a smaller share; its weights stay
        as they are.

    Returns:
      The parameters, and a tree of masks of the weights that are to be held.

    Raises:
      InputError: a share out of [0, 1], or sets that move.
      RuleError: a rule that matches no leaf.
      NonFiniteError: NaN or infinity in a leaf that a rule matches.
    """
    check_range("share", share, 0.0, 1.0)
    sets = constraints(params, rules)
    for name, spec in trees.by_path(sets).items():
        if spec is not None and not is_fixed(spec):
            given = f"{spec!r} for {name}, which moves with the weights"
            wanted = "sets that do not"
            raise InputError(describe(given, wanted, "Take admm.at_scales(...)."))
    check_finite(trees.select(sets, params), "params")
    if held is None:
        held = trees.map_partial(lambda _, w: jnp.zeros(w.shape, bool), sets, params)

    def put(spec, w: Array, before: Array) -> tuple[Array, Array]:
        z = in_turn(spec).project(w)
        pruned = pruned_by(spec, w)
        stays = before & ~pruned
        near = jnp.where(stays, jnp.inf, -jnp.abs(w - z))
        near = jnp.where(pruned, -jnp.inf, near)
        left = w.size - jnp.sum(pruned, dtype=jnp.int32)
        kept = topk_mask(near, _share_of(left, share)) | before | pruned
        return jnp.where(kept & ~stays, z, w), kept

    found = trees.map_partial(put, sets, params, held)
    moved = trees.map_partial(
        lambda _, w, pair: pair[0], sets, params, found, absent=trees.keep_rest
    )
    return moved, trees.map_partial(lambda _, w, pair: pair[1], sets, params, found)


def _share_of(count: Array, share: float) -> Array:
    """Returns round(share * count), int32 []; all of it at a share of 1.

    float32 has no odd numbers above 2^24: thousands are counted in integers, and only
    what is left of them in floats.
    """
    unit = 4096
    many, few = count // unit, count % unit
    whole = int(share * unit)
    rest = (share * unit - whole) * many.astype(jnp.float32)
    rest = rest + share * few.astype(jnp.float32)
    return whole * many + jnp.round(rest).astype(jnp.int32)


def keep_means(
    apply: Callable[..., Any], before: PyTree, after: PyTree, *args: Any
) -> PyTree:
    """Returns `after` with biases that give every layer the mean outputs of `before`.

    Layers are taken one after another, so that each is corrected for what is left of
    the shift of those before it. Those of flax: the bias of "layer/kernel" is
    "layer/bias"; a kernel without one keeps its shift.

    Args:
      apply: `apply(params, *args)`, the network.
      before: the parameters whose outputs are wanted.
      after: others of the same structure, in which some kernels differ.
      *args: what the network is given, such as images of training.
    """
    old, new = trees.by_path(before), trees.by_path(after)
    layers = tuple(
        path for path in old if path.endswith("kernel") and _bias_of(path) in old
    )
    names, _, treedef = trees.flatten(after)
    wanted = _mean_products(apply, layers, before, *args)
    order: list[str] = []  # of execution; `jit` sorts what it returns
    jax.eval_shape(lambda p: order.extend(_products(apply, layers, p, *args)), before)
    for path in order:
        now = _mean_products(apply, layers, after, *args)[path]
        bias = _bias_of(path)
        new[bias] = old[bias] + (wanted[path] - now).astype(old[bias].dtype)
        after = jax.tree.unflatten(treedef, [new[name] for name in names])
    return after


def _bias_of(path: str) -> str:
    return path.removesuffix("kernel") + "bias"


def _products(
    apply: Callable[..., Any], layers: tuple[str, ...], params: PyTree, *args: Any
) -> dict[str, Array]:
    """The product of each layer, by its path, where it is called once."""
    rules = [(re.escape(path), quant.Layer()) for path in layers]
    seen = quant.record(apply, rules)(params, *args)[1]
    return {path: each.products for path, each in seen.items() if path in layers}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _mean_products(
    apply: Callable[..., Any], layers: tuple[str, ...], params: PyTree, *args: Any
) -> dict[str, Array]:
    found = _products(apply, layers, params, *args)
    return {path: y.mean(tuple(range(y.ndim - 1))) for path, y in found.items()}


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
        return updates, HeldState(state.held, _without_moments(now, params, masks))

    return optax.GradientTransformationExtraArgs(init, update)


def _without_moments(
    state: optax.OptState, params: PyTree, masks: PartialTree
) -> optax.OptState:
    """`gap.zero_moments`, but for ADMM's Z and U, which are no moments."""

    def kept(new: Any, old: Any) -> Any:
        if isinstance(old, ADMMState):
            return new._replace(z=old.z, u=old.u)
        return new

    return jax.tree.map(
        kept,
        zero_moments(state, params, masks),
        state,
        is_leaf=lambda part: isinstance(part, ADMMState),
    )
