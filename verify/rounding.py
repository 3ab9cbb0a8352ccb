"""What the arithmetic of a bound may have lost."""

from typing import Any

import jax.numpy as jnp

from core.types import Array
from verify.regions import Region

TOLERANCE = 1e-5
"""Share of the size of a bound's terms that rounding may cost, in float32."""


def rounding(rows: Array, offset: Array, size: Array, region: Region) -> Array:
    """Returns what a bound must be above 0 by to count as positive, [S].

    A share of sum |A| max(|x|) over the region, of |offset|, and of the terms that
    cancelled in it: far above the usual error of the sums in the type of `rows`, though
    no proof, since what rows lose on their way is not counted; a certificate is one.

    Args:
      rows: coefficients on the input, [S, *shape].
      offset: constants, [S].
      size: of the constants' terms, as `backward` gives it, and of the row's own, [S].
      region: of the input.
    """
    scale = jnp.maximum(jnp.abs(region.lower), jnp.abs(region.upper)).reshape(-1)
    given = jnp.abs(rows).reshape(rows.shape[0], -1) @ scale.astype(rows.dtype)
    return share(rows.dtype) * (given + jnp.abs(offset) + size)


def share(dtype: Any) -> float:
    """Returns the share of its terms' size that a sum in a type may be off by."""
    return TOLERANCE if dtype == jnp.float32 else 1e-12
