"""Optimizers: an estimator, and an optax transform of what it finds.

opt = zo.hge_adam(0.01)                              # or any pair of the two
state = opt.init(x)
x, state, info = opt.step(key, f, x, state)          # f is JAX: jit, scan, vmap

points, plan = opt.ask(key, x, state)                # f is anything
values = [simulate(p) for p in ...]                  # NaN where it failed
x, state, info = opt.tell(plan, values, x, state)
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from core.errors import InputError, check_range, describe
from core.types import Array, ArrayLike, PyTree, Schedule
from zo.base import Estimator, Function, Info, State, steps_within
from zo.control import ControlVariate, Sign
from zo.coordinates import Coordinate
from zo.sets import Projection


class OptimizerState(NamedTuple):
    """State of an `Optimizer`.

    Attributes:
      step: steps taken, int32 [].
      estimate: of the estimator; its `queries` and `failures` count all so far.
      inner: of the transform.
    """

    step: Array
    estimate: State
    inner: optax.OptState


@dataclasses.dataclass(frozen=True, eq=False)
class Optimizer:
    """x <- P(x + update(ghat)).

    A step without a slope that worked leaves x and the transform's state as they are,
    and so does one after which any of their numbers were not finite any more, as where
    a transform squares a slope of 1e22: its `info.worked` is 0. Large values that stay
    finite do move x; a clip among the transforms bounds them.

    Attributes:
      estimator: of the gradient.
      transform: of optax, from estimates to updates; it is given `value`, that of
        `Info`, for those that take it.
      smoothing: mu by the step, or None for the estimator's own.
      chunk: most function values at once; see `Estimator.estimate`.
      projection: P, onto the set that holds x; all of space if None. Queries are made
        up to mu outside of it.

    Raises:
      InputError: a chunk that holds no difference; an estimator that needs snapshots,
        which `SVRG` takes.
    """

    estimator: Estimator
    transform: optax.GradientTransformation
    smoothing: Schedule | None = None
    chunk: int | None = None
    projection: Projection | None = None

    def __post_init__(self):
        _check_chunk(self.chunk, self.estimator)
        inner = self.estimator
        while isinstance(inner, Sign):
            inner = inner.estimator
        if isinstance(inner, ControlVariate) and not isinstance(self, SVRG):
            given = "a ControlVariate, which nobody gives snapshots here"
            raise InputError(describe(given, "another estimator", "Take zo.SVRG."))

    def init(self, x: PyTree) -> OptimizerState:
        """Returns the state before the first step.

        Raises:
          As `Estimator.init`.
        """
        zero = jnp.zeros((), jnp.int32)
        mu = None if self.smoothing is None else self.smoothing(zero)
        return OptimizerState(zero, self.estimator.init(x, mu), self.transform.init(x))

    def queries(self, d: int, steps: int = 1) -> int:
        """Returns the function values of the first steps in d dimensions."""
        return steps * self.estimator.queries(d)

    def steps(
        self, d: int, budget: int, *, cost: int = 1, each: int = 0, start: int = 0
    ) -> int:
        """Returns how many steps a budget holds.

        Args:
          d: dimensions.
          budget: in queries of the caller's.
          cost: queries of a function value.
          each: queries that the caller makes besides in a step.
          start: queries before the first step.

        Raises:
          InputError: not even one.
        """
        return steps_within(budget, cost * self.queries(d) + each, start=start)

    def ask(self, key: Array, x: PyTree, state: OptimizerState) -> tuple[PyTree, Any]:
        """Returns points to measure, stacked [queries, ...], and a plan for `tell`."""
        return self.estimator.ask(key, x, state.estimate, self._mu(state))

    def tell(
        self, plan: Any, values: ArrayLike, x: PyTree, state: OptimizerState
    ) -> tuple[PyTree, OptimizerState, Info]:
        """Returns the next point and state from the values of `ask`'s points.

        Args:
          plan: of `ask`.
          values: [queries]; NaN for a query that failed. See `Estimator.tell` for their
            precision.
          x: the point of `ask`.
          state: the state of `ask`.

        Raises:
          ShapeError: another number of values.
        """
        found, estimate, info = self.estimator.tell(plan, values, state.estimate)
        return self._moved(x, found, estimate, info, state)

    def step(
        self, key: Array, f: Function, x: PyTree, state: OptimizerState
    ) -> tuple[PyTree, OptimizerState, Info]:
        """Returns the next point and state for a function that JAX can trace.

        Args:
          key: a random key.
          f: from a point to a scalar; of one mini-batch within a step.
          x: the point.
          state: of this optimizer.
        """
        found, estimate, info = self.estimator.estimate(
            key, f, x, state.estimate, self._mu(state), self.chunk
        )
        return self._moved(x, found, estimate, info, state)

    def _mu(self, state: OptimizerState) -> Array | None:
        return None if self.smoothing is None else self.smoothing(state.step)

    def _moved(
        self, x: PyTree, found: PyTree, estimate: State, info: Info, old: OptimizerState
    ) -> tuple[PyTree, OptimizerState, Info]:
        transform = optax.with_extra_args_support(self.transform)
        updates, inner = transform.update(found, old.inner, x, value=info.value)
        reached = optax.apply_updates(x, updates)
        if self.projection is not None:
            reached = self.projection(reached, None)
        before, after = (x, old.inner), (reached, inner)
        alive = (info.worked > 0) & ~_spoiled(before, after)
        x, inner = jax.tree.map(
            lambda new, old: jnp.where(alive, new, old), after, before
        )
        info = info._replace(worked=jnp.where(alive, info.worked, 0))
        return x, OptimizerState(old.step + 1, estimate, inner), info


@dataclasses.dataclass(frozen=True, eq=False)
class SVRG(Optimizer):
    """ZO-SVRG: a control variate whose snapshot is taken anew every `period` steps.

    `step` takes it by itself, in a `lax.cond`. Around `ask` and `tell` the caller does:
    wherever `due(state)`, measure the gradient at x with `snapshot` and put it into the
    state by `anchored`. After a snapshot with a failed query steps are those of plain
    estimates, until the next one.

    Attributes:
      snapshot: estimator of the snapshot's gradient, such as all coordinates.
      period: steps between snapshots.
      full_cost: queries that a value of the snapshot's function counts for, such as the
        number of mini-batches in the data.

    Raises:
      InputError: no period or cost, or an estimator without a control variate.
    """

    snapshot: Estimator = dataclasses.field(default_factory=Coordinate)
    period: int = 50
    full_cost: int = 1

    def __post_init__(self):
        super().__post_init__()
        _check_chunk(self.chunk, self.snapshot)
        check_range("period", self.period, 1)
        check_range("full_cost", self.full_cost, 1)
        if not isinstance(self.estimator, ControlVariate):
            given = type(self.estimator).__name__
            raise InputError(describe(f"estimator={given}", "a ControlVariate"))

    def queries(self, d: int, steps: int = 1) -> int:
        """Returns the function values of the first steps, snapshots included."""
        count = -(-steps // self.period)
        return super().queries(d, steps) + count * self._once(d)

    def _once(self, d: int) -> int:
        return self.full_cost * self.snapshot.queries(d)

    def steps(
        self, d: int, budget: int, *, cost: int = 1, each: int = 0, start: int = 0
    ) -> int:
        """Returns how many steps a budget holds, snapshots included.

        See `Optimizer.steps`.
        """
        once = cost * self._once(d)
        step = cost * self.estimator.queries(d) + each
        steps_within(budget, step, start=start + once)
        rounds, left = divmod(budget - start, once + self.period * step)
        return rounds * self.period + max(left - once, 0) // step

    def due(self, state: OptimizerState) -> Array:
        """Returns whether the next step begins with a snapshot, bool []."""
        return state.step % self.period == 0

    def anchored(
        self, state: OptimizerState, x: PyTree, gradient: PyTree, info: Info
    ) -> OptimizerState:
        """Returns the state with a snapshot; see `ControlVariate.anchored`.

        Args:
          state: of this optimizer.
          x: the snapshot.
          gradient: estimated there.
          info: of that estimate; each of its values counts for `full_cost` queries.
        """
        assert isinstance(self.estimator, ControlVariate)
        info = info._replace(
            queries=self.full_cost * info.queries,
            failures=self.full_cost * info.failures,
        )
        estimate = self.estimator.anchored(state.estimate, x, gradient, info)
        return state._replace(estimate=estimate)

    def step(
        self,
        key: Array,
        f: Function,
        x: PyTree,
        state: OptimizerState,
        full: Function | None = None,
    ) -> tuple[PyTree, OptimizerState, Info]:
        """Returns the next point and state; see `Optimizer.step`.

        Args:
          key: a random key.
          f: of one mini-batch.
          x: the point.
          state: of this optimizer.
          full: the function whose gradient the snapshot has, such as the mean over all
            data; f if None, which is right only where f is the same in every step.
        """
        here, there = jax.random.split(key)

        def renew(state: OptimizerState) -> OptimizerState:
            found, _, info = self.snapshot.estimate(
                there,
                f if full is None else full,
                x,
                self.snapshot.init(x, self._mu(state)),
                self._mu(state),
                self.chunk,
            )
            return self.anchored(state, x, found, info)

        before = state.estimate
        state = jax.lax.cond(self.due(state), renew, lambda s: s, state)
        x, state, info = super().step(here, f, x, state)
        info = info._replace(
            queries=state.estimate.queries - before.queries,
            failures=state.estimate.failures - before.failures,
        )
        return x, state, info


def _spoiled(before: PyTree, after: PyTree) -> Array:
    """Returns whether a number that was finite is not any more, bool []."""

    def spoiled(old: Array, new: Array) -> Array:
        if not jnp.issubdtype(jnp.result_type(new), jnp.inexact):
            return jnp.zeros((), jnp.bool_)
        return (jnp.isfinite(old) & ~jnp.isfinite(new)).any()

    found = jax.tree.leaves(jax.tree.map(spoiled, before, after))
    return jnp.stack(found).any()


def _check_chunk(chunk: int | None, estimator: Estimator) -> None:
    if chunk is not None:
        remedy = "A chunk has to hold one difference."
        check_range("chunk", chunk, estimator.least, remedy=remedy)
