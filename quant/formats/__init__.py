"""Number formats: fixed point, powers of two and their sums, flint, small floats."""

from quant.formats.base import Cost, Format
from quant.formats.integers import Binary, Levels, Ternary, Uniform
from quant.formats.powers import (
    AdditivePowers,
    ElasticSignificantBits,
    Flint,
    PowerOfTwo,
    SmallFloat,
    SumOfPowers,
)

__all__ = [
    "AdditivePowers",
    "Binary",
    "Cost",
    "ElasticSignificantBits",
    "Flint",
    "Format",
    "Levels",
    "PowerOfTwo",
    "SmallFloat",
    "SumOfPowers",
    "Ternary",
    "Uniform",
]
