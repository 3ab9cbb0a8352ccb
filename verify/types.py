"""Types that every part of the verifier shares."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from core.types import Array

Numbers: TypeAlias = Any
"""A `jax.Array`, or on the host's side of a search a `numpy.ndarray`."""


class Bounds(NamedTuple):
    """Elementwise bounds, lower <= value <= upper.

    Both are float arrays of one shape. A bound that is NaN proves nothing.
    """

    lower: Numbers
    upper: Numbers


class Lines(NamedTuple):
    """Linear bounds of h = f(z_1, .., z_m), elementwise.

    sum_i lower_slopes[i] * z_i + lower_intercept <= h and
    h <= sum_i upper_slopes[i] * z_i + upper_intercept
    hold wherever each z_i is inside of the bounds that the lines were made for. Every
    array has the shape of h.
    """

    lower_slopes: tuple[Array, ...]
    lower_intercept: Array
    upper_slopes: tuple[Array, ...]
    upper_intercept: Array


def by_layer(flat: Numbers, sizes: Sequence[int]) -> list[Numbers]:
    """Returns the parts of each layer of arrays [.., n], one of each size."""
    ends = np.cumsum([0, *sizes])
    return [flat[..., a:b] for a, b in itertools.pairwise(ends)]
