"""Widths of a tree: rules say which leaves have them, and what shares one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core import rules as path_rules
from core import trees
from core.errors import ShapeError, describe
from core.types import Array, PartialTree, PyTree, Scalar
from quant.bitwidth.levels import group_shape, interpolated, quantize
from quant.bitwidth.relaxations import Relaxation
from quant.formats.base import MAX_BITS, check_bits
from quant.quantizers import Per


def init(
    params: PyTree, rules: path_rules.Rules, relaxation: Relaxation
) -> PartialTree:
    """Returns theta, the parameters of the widths.

    Args:
      params: a pytree of arrays, or of their shapes.
      rules: `(path regex, Per)`, what shares a width: `TENSOR`, `CHANNEL`, or
        `Per(group=16, group_axis=-1)` for every 16 output channels. Leaves without a
        rule stay float.
      relaxation: how widths become real.

    Returns:
      A partial tree of arrays [groups, ...] of float32.

    Raises:
      InputError: a spec that is no `Per`; a leaf of integers.
      RuleError: a rule without a leaf.
      ShapeError: groups that do not fill an axis.
    """
    counts = group_counts(params, rules)
    return trees.map_partial(relaxation.init, counts)


def uniform(params: PyTree, rules: path_rules.Rules, bits: int) -> PartialTree:
    """Returns one width for all groups, a partial tree of int32 [groups].

    Args:
      params: a pytree of arrays, or of their shapes.
      rules: see `init`.
      bits: 1 to 16.
    """
    check_bits("bits", bits, 1, MAX_BITS)
    counts = group_counts(params, rules)
    return trees.map_partial(lambda n: np.full(n, bits, np.int32), counts)


def beta(
    theta: PartialTree, relaxation: Relaxation, temperature: Scalar = 1.0
) -> PartialTree:
    """Returns the real width of every group, a partial tree of arrays [groups]."""
    return trees.map_partial(lambda part: relaxation.beta(part, temperature), theta)


def relaxed(
    params: PyTree,
    theta: PartialTree,
    rules: path_rules.Rules,
    relaxation: Relaxation,
    temperature: Scalar = 1.0,
) -> PyTree:
    """Returns parameters with weights at the widths of theta.

    The derivative in the parameters is 1; that in theta is the relaxation's.

    Args:
      params: a pytree of arrays.
      theta: as `init` returns it.
      rules: those that `init` had.
      relaxation: that which `init` had.
      temperature: of `Categorical`; nothing to the others.

    Raises:
      ShapeError: widths that do not fit the groups; the message names the leaf.
    """

    def one(per: Per, w: Array, part: Array) -> Array:
        return relaxation.fake(w, part, per, temperature)

    return _mapped(one, params, theta, rules)


def with_widths(
    params: PyTree, widths: PartialTree, rules: path_rules.Rules, high: int = 8
) -> PyTree:
    """Returns parameters with weights at given widths; the derivative in them is 1.

    Integers are frozen widths, what hardware computes. Real numbers are interpolated,
    whatever they were trained with, so that the loss has slopes for `round_to_budget`.

    Args:
      params: a pytree of arrays.
      widths: a partial tree of arrays [groups].
      rules: see `init`.
      high: the largest real width; see `interpolated`.

    Raises:
      InputError: integer widths out of range that are not traced.
      ShapeError: widths that do not fit the groups; the message names the leaf.
    """

    def one(per: Per, w: Array, part: Array) -> Array:
        if jnp.issubdtype(jnp.result_type(part), jnp.integer):
            return quantize(w, part, per)
        return interpolated(w, part, per, high)

    return _mapped(one, params, widths, rules)


def group_counts(params: PyTree, rules: path_rules.Rules) -> PartialTree:
    """Returns the number of groups of every leaf that has a width, Python ints."""

    def one(per: Per, w: Array) -> int:
        return int(np.prod(group_shape(w, per), dtype=np.int64))

    return trees.map_partial(one, groupings(params, rules), params)


def groupings(params: PyTree, rules: path_rules.Rules) -> PartialTree:
    """Returns what shares a width, a partial tree of `Per`."""
    hint = "Write TENSOR, CHANNEL or Per(group=16, group_axis=-1)."
    return path_rules.match(rules, params, Per, hint)


def _mapped(
    fn: Callable[[Per, Array, Array], Array],
    params: PyTree,
    parts: PartialTree,
    rules: path_rules.Rules,
) -> PyTree:
    """Maps over leaves that rules name; errors of shape name the leaf."""
    names, _, treedef = trees.flatten(params)

    def one(per: Per, w: Array, name: str, part: Any) -> Array:
        if part is None:
            raise ShapeError(
                describe(
                    f"no widths for {name}, which a rule names",
                    "widths for the leaves of the rules",
                    "Use the rules that the widths were made with.",
                )
            )
        try:
            return fn(per, jnp.asarray(w), part)
        except ShapeError as e:
            raise ShapeError(f"{name}: {e}") from e

    def rest(w: Array, name: str, part: Any) -> Array:
        if part is not None:
            raise ShapeError(
                describe(f"widths for {name}, which no rule names", "None there")
            )
        return w

    named = jax.tree.unflatten(treedef, names)
    shared = groupings(params, rules)
    return trees.map_partial(one, shared, params, named, parts, absent=rest)
