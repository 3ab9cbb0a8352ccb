"""What the arithmetic of a bound may have lost."""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from core.errors import InputError, describe
from core.types import Array
from graph import Node, Value
from verify.regions import Region
from verify.types import Bounds

SHARE = 1e-5
"""Of the size of a bound's terms, what rounding may cost in float32."""
ROOM = 1024
"""Times that `underflow` takes each product: for the sums, rows that are combined, and
the products of a reduced form, which are as many for each pair of its layers."""


def rounding(rows: Array, offset: Array, size: Array, region: Region) -> Array:
    """Returns what a bound must be above 0 by to count as positive, [S].

    A share of sum |A| max(|x|) over the region, of |offset|, and of the terms that
    cancelled in it; of a ball with its centre among the x, and what its radius adds.
    That is far above the usual error of the sums in the type of `rows`, though no
    proof, since what rows lose on their way is not counted; a certificate is one.

    Args:
      rows: coefficients on the input, [S, *shape].
      offset: constants, [S].
      size: of the constants' terms, as `backward` gives it, and of the row's own, [S].
      region: of the input.
    """
    scale = jnp.maximum(jnp.abs(region.lower), jnp.abs(region.upper))
    if region.radius is not None:  # its centre can be outside of the box
        scale = jnp.maximum(scale, jnp.abs(region.center))
        size = size + region.radius * region.dual(rows)
    flat = jnp.abs(rows).reshape(rows.shape[0], -1)
    given = flat @ scale.reshape(-1).astype(rows.dtype)
    return share(rows.dtype) * (given + jnp.abs(offset) + size)


def share(dtype: Any) -> float:
    """Returns the share of its terms' size that a sum in a type may be off by.

    Raises:
      InputError: another type than float32 and float64.
    """
    shares = {"float32": SHARE, "float64": 1e-12}
    name = jnp.dtype(dtype).name
    if name not in shares:
        raise InputError(describe(name, "float32 or float64", "Bounds need no less."))
    return shares[name]


def underflow(nodes: Sequence[Node], largest: Array) -> Array:
    """Returns what coefficients that underflow may cost a row on its way back.

    A product or a sum below the least normal number `tiny` is off by no more than that,
    also where it becomes 0. A coefficient on a value v that is off by e and taken as
    exact from there on moves a row by at most e max|v|. So no row loses more than
    `tiny` times max|v| for each product on its way, whatever its coefficients are. For
    most networks that is far below an ulp of a bound.

    Args:
      nodes: that rows pass.
      largest: of their operands, see `largest`.

    Returns:
      The loss as a `size`, of which `share` is lost: what `backward` starts from.
    """
    products = sum(
        math.prod(given.shape) * math.prod(out.shape)
        for node in nodes
        for given in node.inputs
        for out in node.outputs
    )
    tiny = float(jnp.finfo(largest.dtype).tiny)
    return ROOM * (products + 1) * (tiny / share(largest.dtype)) * largest


def largest(values: Iterable[Value], found: Mapping[Value, Bounds]) -> Array:
    """Returns the largest magnitude of values within intervals, 1.0 at least.

    Args:
      values: one or more; those without an interval are known, and do not count.
      found: intervals.
    """
    ends = [jnp.abs(end).max() for value in values for end in found.get(value, ())]
    return functools.reduce(jnp.maximum, ends, jnp.ones((), ends[0].dtype))
