"""Type names that every room shares."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import numpy as np

Array: TypeAlias = jax.Array
ArrayLike: TypeAlias = jax.Array | np.ndarray | float | int
PyTree: TypeAlias = Any
"""Nested dicts, lists, tuples or registered classes with array leaves."""
PartialTree: TypeAlias = Any
"""A PyTree of the same shape as another one, `None` where a leaf has no part."""
Scalar: TypeAlias = jax.Array | float
Schedule: TypeAlias = Callable[[Array], Array]
"""A function from a step count, int32 of shape [], to a value of shape []."""
