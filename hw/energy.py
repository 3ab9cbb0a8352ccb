"""Energy of operations and of moving bytes.

Constants are those of 45 nm by Horowitz (ISSCC 2014, "Computing's energy problem"), as
arXiv 2106.09166's specification lists them: operations alone, never a whole chip's. A
target scales them by its node and by what its control costs.
"""

import jax.numpy as jnp

from core.types import Array

MULTIPLY_8 = 0.2e-12
"""Joules of an 8-bit integer multiplication; it grows with the product of widths (32
bits: 3.2 by that rule, 3.1 measured)."""
ADD_32 = 0.1e-12
"""Joules of a 32-bit integer addition; it grows with the width."""
FLOAT = 1.4
"""What a float32 multiply-accumulate (4.6 pJ) takes over an integer one."""
FUNCTION_ADDS = 10.0
"""Additions that a function such as exp counts for: our choice."""


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
