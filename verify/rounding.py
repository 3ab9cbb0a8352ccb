"""What the arithmetic of a bound may have lost."""

from typing import Any

import jax.numpy as jnp

from core.errors import InputError, describe
from core.types import Array
from verify.regions import Region

SHARE = 1e-5
"""Of the size of a bound's terms, what rounding may cost in float32."""


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
