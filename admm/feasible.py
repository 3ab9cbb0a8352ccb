"""Into the sets at the end of training, and how far weights are from them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer

from admm.combined import Intersection, Union, fixed_at
from admm.low_rank import wide
from admm.sets import constraints, in_turn, support
from core import trees
from core.errors import InputError, describe
from core.numerics import check_finite
from core.rules import Rules
from core.types import Array, PartialTree, PyTree


def violation(params: PyTree, rules: Rules) -> Array:
    """Returns the largest distance of a weight from its set, float32 [].

    Exactly 0 in the sets. Sets that return their points bit for bit (`exact`: `Sparse`,
    `BlockCirculant`, what `at_scales` returns) show every difference from the
    projection. Of the others (`LowRank`, levels whose scale is sought again, sets of
    your own) differences that rounding explains do not count, up to 66 eps of the
    leaf's largest weight (2 eps in half precision, whose projections are computed in
    float32). Of several sets the farthest counts, of a `Union` the nearest.

    Args:
      params: the weights.
      rules: as in `admm`.

    Raises:
      RuleError, InputError: bad rules.
    """
    each = trees.map_partial(_away, constraints(params, rules), params)
    return functools.reduce(jnp.maximum, jax.tree.leaves(each), jnp.float32(0))


def _away(spec: Any, w: Array) -> Array:
    """The largest distance of a leaf's weight from its set, or sets, float32 []."""
    if isinstance(spec, tuple | Intersection | Union):
        sets = spec if isinstance(spec, tuple) else spec.sets
        pick = jnp.minimum if isinstance(spec, Union) else jnp.maximum
        return functools.reduce(pick, [_away(each, w) for each in sets])
    z = spec.project(w)
    far = jnp.abs(wide(w) - wide(z))
    if getattr(spec, "exact", False):
        # Bits: compilers may leave out a rounding, but not that of what these are of.
        far = jnp.where((_bits(w) == _bits(z)) & jnp.isfinite(w), 0.0, far)
        return far.max().astype(jnp.float32)
    give = 64 * jnp.finfo(wide(w).dtype).eps + 2 * jnp.finfo(w.dtype).eps
    give = float(give) * jnp.abs(wide(w)).max()
    far = far.max()
    return jnp.where(far <= give, 0.0, far.astype(jnp.float32))


def _bits(x: Array) -> Array:
    return lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * x.dtype.itemsize}"))


def finish(params: PyTree, rules: Rules) -> tuple[PyTree, PartialTree]:
    """Projects the weights onto their sets and returns masks for retraining.

    The guarantee that the result is feasible: it is in the sets, whatever the residuals
    were. Several sets of a leaf are projected on in turn, so each has to keep what
    those before it gave: zeros stay under levels that are `pruned=True`, but not in a
    matrix of low rank. Sets that do not are an error. Under `jit`, where nothing can be
    raised, the result is then in the last set alone: look at `violation`.

    Args:
      params: the weights W after the last ADMM step.
      rules: as in `admm`.

    Returns:
      The projected parameters and a mask tree. Train on with
      `gap.masked(optimizer, masks)`. A leaf that is free nowhere in its set (levels,
      also of a pruned layer; circulant; low rank) has `None` there, and leaves its set
      when it trains on (`violation` tells): hold it still with what `settle` at a share
      of 1 returns, or train its generators or factors instead.

    Raises:
      NonFiniteError: NaN or infinity in a constrained leaf.
      InputError: no constrained leaf, or a leaf whose later sets leave an earlier one.
    """
    sets = constraints(params, rules)
    check_finite(trees.select(sets, params), "params")
    names, leaves, treedef = trees.flatten(params)
    specs = treedef.flatten_up_to(sets)
    if all(spec is None for spec in specs):
        raise InputError(describe(f"rules {rules!r}", "at least one constrained leaf"))
    masks = trees.map_partial(support, sets, params)
    projected = [
        w if spec is None else _placed(name, in_turn(spec), w)
        for name, spec, w in zip(names, specs, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, projected), masks


def _placed(name: str, spec: Any, w: Array) -> Array:
    """The projection of a leaf; raises where one set of several has been left."""
    if isinstance(w, Tracer):
        return spec.project(w)
    if isinstance(spec, Union):
        return _placed(name, spec.sets[int(spec.choose(w))], w)
    if not isinstance(spec, Intersection):
        return spec.project(w)
    before, z = [], w
    for each in spec.sets:
        before.append(z)
        z = _placed(name, each, z)
    for each, given in zip(spec.sets[:-1], before, strict=False):
        away = _left(each, given, z)
        if away > 0:
            raise InputError(
                describe(
                    f"{name} in {each!r} and then, by the sets after it, {away:.2g} "
                    "away from it",
                    "sets of which each keeps what those before it gave",
                    "Put the set that keeps the others last, give levels after a set "
                    "that prunes pruned=True, or take fewer sets.",
                )
            )
    return z


def _left(spec: Any, before: Array, after: Array) -> float:
    """How far `after` is from a set that `before` was projected onto."""
    away = float(_away(spec, after))
    if not away:
        return away
    try:
        fixed = fixed_at(spec, before)
    except InputError:
        return away
    # In the set at the scale, or the support, that it had: sought again it may differ.
    return min(away, float(_away(fixed, after)))
