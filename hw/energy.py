"""Energy of operations and of moving bytes.

Constants are those of 45 nm by Horowitz (ISSCC 2014, "Computing's energy problem"), as
arXiv 2106.09166's specification lists them: operations alone, never a whole chip's. A
target scales them by its node and by what its control costs.
"""

import jax.numpy as jnp

from core.types import Array, ArrayLike

MULTIPLY_8 = 0.2e-12
"""Joules of an 8-bit integer multiplication; it grows with the product of widths (32
bits: 3.2 by that rule, 3.1 measured)."""
ADD_32 = 0.1e-12
"""Joules of a 32-bit integer addition; it grows with the width."""
FLOAT = 1.4
"""What a float32 multiply-accumulate (4.6 pJ) takes over an integer one."""


def mac_energy(weight_bits: Array, input_bits: Array) -> Array:
    """Returns joules of a multiply-accumulate at 45 nm; smooth in the widths.

    Args:
      weight_bits: of one factor, [rows].
      input_bits: of the other, [rows].
    """
    product = MULTIPLY_8 * weight_bits * input_bits / 64.0
    total = product + ADD_32 * jnp.maximum(weight_bits + input_bits, 16.0) / 32.0
    wide = jnp.minimum(weight_bits, input_bits) / 32.0
    return total * (1.0 + (FLOAT - 1.0) * wide)


def sparse_time(density: Array, kept: ArrayLike) -> Array:
    """Returns the share of a dense product's time that a pruned one takes.

    d / (e + (1 - e) d): 1 at density 1, d / e for small densities, where e is the share
    of the ideal gain that is kept. It rises with d and falls with e; e = 0 gains
    nothing at all.

    Args:
      density: kept share of the weights, [rows].
      kept: share of the ideal gain at small densities, in [0, 1].
    """
    kept = jnp.maximum(jnp.asarray(kept, density.dtype), 1e-6)
    return density / (kept + (1.0 - kept) * density)
