"""What a gradient estimate from function values is.

Every estimate here has one form. Directions v_i are drawn, the function is measured at
x + mu v_i and at x - mu v_i (central) or at x (forward), and

    ghat = sum_i w_i s_i v_i,   s_i = (f(x + mu v_i) - f(x - mu v_i)) / (2 mu).

Entries of a direction are about 1 in size, or it is a coordinate axis: mu is the step
of a number of x. Estimators differ in how they draw v_i and w_i alone, so one file
(`zo/differences.py`) measures for all of them.
"""

import abc
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from core.errors import InputError, NonFiniteError, ShapeError, describe
from core.types import Array, ArrayLike, PyTree, Scalar

Function = Callable[[PyTree], Array]
"""`f(x)`: a scalar from one point; NaN or infinity says that the query failed."""


class State(NamedTuple):
    """What an estimator keeps between estimates.

    Invariants: `queries` counts every function value asked for so far, failed ones
    too, and `failures` those that were not finite; both int32 [], so at most 2**31 - 1.
    `memory` is the estimator's own.
    """

    queries: Array
    failures: Array
    memory: Any


class Info(NamedTuple):
    """What a person wants to see of one estimate.

    Attributes:
      value: the mean of the function values that are finite, about f(x); NaN without
        any.
      queries: function values of this estimate, int32 [].
      failures: those of them that were not finite, int32 [].
      worked: slopes that came of them, int32 []; without any the estimate is 0.
    """

    value: Array
    queries: Array
    failures: Array
    worked: Array


class Seen(NamedTuple):
    """Sums over function values.

    Attributes:
      total: of those that are finite, [].
      good: their number, int32 [].
      failed: of values that are not, int32 [].
      asked: of all values, int32 [].
    """

    total: Array
    good: Array
    failed: Array
    asked: Array


Measure = Callable[[PyTree], tuple[Array, Seen]]
"""From points stacked [m, ...] to values [m], and what was seen for them."""


class Estimator(abc.ABC):
    """A gradient estimator; its values are frozen dataclasses, static under `jit`."""

    @property
    @abc.abstractmethod
    def least(self) -> int:
        """The function values of one difference; a chunk holds at least these."""

    @abc.abstractmethod
    def init(self, x: PyTree, mu: Scalar | None = None) -> State:
        """Returns the state before the first estimate at points like x.

        Args:
          x: a pytree of floating-point arrays of one dtype.
          mu: smoothing of the first estimate; the estimator's own if None.

        Raises:
          ShapeError: x without a number.
          InputError: x with numbers that are not floating point; or, where x is known,
            numbers that a step of mu does not move, mu < eps(dtype) |x_i|.
          NonFiniteError: x known, and not finite.
        """

    @abc.abstractmethod
    def queries(self, d: int) -> int:
        """Returns the function values of one estimate in d dimensions."""

    @abc.abstractmethod
    def ask(
        self, key: Array, x: PyTree, state: State, mu: Scalar | None = None
    ) -> tuple[PyTree, Any]:
        """Returns the points to measure, stacked [queries, ...], and a plan.

        Args:
          key: a random key.
          x: as for `init`.
          state: of this estimator.
          mu: smoothing; the estimator's own if None.

        Raises:
          ShapeError: x without a number.
          InputError: x with numbers that are not floating point.
        """

    @abc.abstractmethod
    def tell(
        self, plan: Any, values: ArrayLike, state: State
    ) -> tuple[PyTree, State, Info]:
        """Returns the estimate, like x, the next state, and what was seen.

        Args:
          plan: of `ask`.
          values: [queries], of the points in their order; NaN for a failed query.
            Numbers of the host (a list, a numpy array) are subtracted in float64, so
            small differences of large values stay; under `jit` they would be rounded
            to float32 before.
          state: the same as for `ask`.

        Raises:
          ShapeError: another number of values.
        """

    @abc.abstractmethod
    def measured(
        self,
        key: Array,
        measure: Measure,
        x: PyTree,
        state: State,
        mu: Scalar | None = None,
        chunk: int | None = None,
    ) -> tuple[PyTree, State, Info]:
        """Returns the estimate from a function of many points; see `estimate`."""

    def estimate(
        self,
        key: Array,
        f: Function,
        x: PyTree,
        state: State,
        mu: Scalar | None = None,
        chunk: int | None = None,
    ) -> tuple[PyTree, State, Info]:
        """Returns the estimate of f; `ask`, f's values, and `tell` as one.

        Args:
          key: a random key.
          f: the function, of one point; it is vmapped. Values of less than float32 lose
            small differences.
          x: as for `ask`.
          state: as for `ask`.
          mu: as for `ask`.
          chunk: most function values at once; all if None. With fewer than the
            estimate takes, directions are drawn again for each chunk, so memory is
            that of `chunk` points.

        Raises:
          As `ask`; and ShapeError: f's values are no scalars.
        """
        return self.measured(key, measure_of(f), x, state, mu, chunk)


def measure_of(f: Function) -> Measure:
    """Returns f over many points; its values are at least float32."""

    def measure(points: PyTree) -> tuple[Array, Seen]:
        values = jax.vmap(lambda x: scalar_of(f, x))(points)
        return values, seen(values)

    return measure


def seen(values: Array | np.ndarray) -> Seen:
    """Returns the sums of values [m] that are finite, and the counts."""
    xp = np if isinstance(values, np.ndarray) else jnp
    finite = xp.isfinite(values)
    total = xp.where(finite, values, xp.zeros_like(values)).sum()
    good = finite.sum(dtype=xp.int32)
    asked = jnp.int32(values.size)
    return Seen(jnp.asarray(total), jnp.asarray(good), asked - good, asked)


def info_of(count: Seen, worked: Array) -> Info:
    """Returns the info of an estimate from sums over its values."""
    some = jnp.maximum(count.good, 1).astype(count.total.dtype)
    value = jnp.where(count.good > 0, count.total / some, jnp.nan)
    return Info(value, count.asked, count.failed, worked)


def counted(state: State, info: Info, memory: Any) -> State:
    """Returns the state after an estimate."""
    return State(state.queries + info.queries, state.failures + info.failures, memory)


def flat_of(x: PyTree) -> tuple[Array, Callable[[Array], PyTree]]:
    """Returns a point as one array [d] of at least float32, and the way back.

    Raises:
      ShapeError: no number at all.
      InputError: leaves of several dtypes, or of one that is not floating point.
    """
    dtypes = sorted({str(jnp.result_type(leaf)) for leaf in jax.tree.leaves(x)})
    if sum(jnp.size(leaf) for leaf in jax.tree.leaves(x)) == 0:
        raise ShapeError(describe("a point of no numbers", "at least one dimension"))
    if len(dtypes) > 1 or not jnp.issubdtype(jnp.dtype(dtypes[0]), jnp.floating):
        remedy = "Estimate for the part of the tree that is continuous."
        raise InputError(
            describe(f"x of {', '.join(dtypes)}", "one float type", remedy)
        )
    flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, x))
    dtype = flat.dtype
    return widened(flat), lambda wide: unravel(wide.astype(dtype))


def widened(x: Array) -> Array:
    """Returns x in its dtype if that is float32 or float64, otherwise in float32."""
    wide = jnp.issubdtype(x.dtype, jnp.floating) and jnp.finfo(x.dtype).bits >= 32
    return x if wide else x.astype(jnp.float32)


def known(*trees: Any) -> bool:
    """Returns whether all leaves are numbers, rather than traced."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(trees))


def check_moves(mu: Scalar, x: PyTree, share: float = 0.0) -> None:
    """Checks that a step of mu is a step in the dtype of x, where both are known.

    Args:
      mu: smoothing.
      x: floating-point leaves.
      share: of the numbers that may stay where they are.

    Raises:
      InputError: mu < eps(dtype) |x_i| for more of the numbers.
      NonFiniteError: a number that is not finite.
    """
    if not known(x, mu):
        return
    still, count, largest = 0, 0, 0.0
    leaves = [np.asarray(leaf, jnp.result_type(leaf)) for leaf in jax.tree.leaves(x)]
    for leaf in leaves:
        size = np.abs(leaf.astype(np.float64))
        if not np.isfinite(size).all():
            raise NonFiniteError(describe("x with NaN or infinity", "finite numbers"))
        still += int((size * float(jnp.finfo(leaf.dtype).eps) > float(mu)).sum())
        count, largest = count + size.size, max(largest, float(size.max(initial=0)))
    if still > share * count:
        kinds = ", ".join(sorted({str(leaf.dtype) for leaf in leaves}))
        given = f"mu={float(mu):g} for numbers of {kinds} up to {largest:g}"
        wanted = f"at least eps(dtype) |x_i|, which {still} of {count} exceed"
        remedy = "Raise mu, scale x, or use a wider dtype."
        raise InputError(describe(given, wanted, remedy))


def scalar_of(f: Function, x: PyTree) -> Array:
    """Returns f(x) as a scalar of at least float32.

    Raises:
      ShapeError: f returns something else than a scalar.
    """
    value = jnp.asarray(f(x))
    if value.shape != ():
        raise ShapeError(describe(f"values of shape {value.shape}", "a scalar, []"))
    return widened(value)


def checked_values(values: Any, queries: int) -> Array | np.ndarray:
    """Returns values as an array [queries]: of float64 on the host, or JAX's own.

    Raises:
      ShapeError: another shape.
    """
    if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(values)):
        values = widened(jnp.asarray(values))
    else:
        values = np.asarray(values, np.float64)
    if values.shape != (queries,):
        wanted = f"a scalar for each of the {queries} points"
        raise ShapeError(describe(f"values of shape {values.shape}", wanted))
    return values


def steps_within(budget: int, step: int, *, start: int = 0) -> int:
    """Returns how many steps of equal cost a budget of queries holds.

    Args:
      budget: queries in all.
      step: queries of a step.
      start: queries before the first one.

    Raises:
      InputError: not even one.
    """
    count = math.floor((budget - start) / step)
    if count < 1:
        wanted = f"at least the {start + step} of one step"
        remedy = "Raise the budget, or take fewer samples."
        raise InputError(describe(f"a budget of {budget} queries", wanted, remedy))
    return count
