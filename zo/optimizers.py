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
from zo.base import Estimator, Function, Info, State, flat_of, steps_within
from zo.control import ControlVariate, Sign
from zo.coordinates import Coordinate
from zo.directions import Law, Random
from zo.hybrid import Hybrid
from zo.sets import Projection
from zo.transforms import Rate, adamm, projected


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
    """x <- x + update(ghat).

    A step whose queries all failed leaves x and the transform's state as they are.

    Attributes:
      estimator: of the gradient.
      transform: of optax, from estimates to updates.
      smoothing: mu by the step, or None for the estimator's own.
      chunk: most function values at once; see `Estimator.estimate`.
    """

    estimator: Estimator
    transform: optax.GradientTransformation
    smoothing: Schedule | None = None
    chunk: int | None = None

    def init(self, x: PyTree) -> OptimizerState:
        """Returns the state before the first step.

        Raises:
          ShapeError: x without a number.
          InputError: x of several dtypes, or of integers.
        """
        zero = jnp.zeros((), jnp.int32)
        return OptimizerState(zero, self.estimator.init(x), self.transform.init(x))

    def queries(self, d: int, steps: int = 1) -> int:
        """Returns the function values of the first steps in d dimensions."""
        return steps * self.estimator.queries(d)

    def steps(self, d: int, budget: int) -> int:
        """Returns how many steps a budget of queries holds.

        Raises:
          InputError: not even one.
        """
        return steps_within(budget, self.queries(d))

    def ask(self, key: Array, x: PyTree, state: OptimizerState) -> tuple[PyTree, Any]:
        """Returns points to measure, stacked [queries, ...], and a plan for `tell`."""
        return self.estimator.ask(key, x, state.estimate, self._mu(state))

    def tell(
        self, plan: Any, values: ArrayLike, x: PyTree, state: OptimizerState
    ) -> tuple[PyTree, OptimizerState, Info]:
        """Returns the next point and state from the values of `ask`'s points.

        Args:
          plan: of `ask`.
          values: [queries]; NaN for a query that failed.
          x: the point of `ask`.
          state: the state of `ask`.

        Raises:
          ShapeError: another number of values.
        """
        found, estimate, info = self.estimator.tell(plan, values, state.estimate)
        return (*self._moved(x, found, estimate, info, state), info)

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
        return (*self._moved(x, found, estimate, info, state), info)

    def _mu(self, state: OptimizerState) -> Array | None:
        return None if self.smoothing is None else self.smoothing(state.step)

    def _moved(
        self, x: PyTree, found: PyTree, estimate: State, info: Info, old: OptimizerState
    ) -> tuple[PyTree, OptimizerState]:
        updates, inner = self.transform.update(found, old.inner, x)
        alive = info.failures < info.queries
        moved = optax.apply_updates(x, updates), inner
        x, inner = jax.tree.map(
            lambda new, old: jnp.where(alive, new, old), moved, (x, old.inner)
        )
        return x, OptimizerState(old.step + 1, estimate, inner)


@dataclasses.dataclass(frozen=True, eq=False)
class SVRG(Optimizer):
    """ZO-SVRG: a control variate whose snapshot is taken anew every `period` steps.

    `step` takes it by itself, in a `lax.cond`. Around `ask` and `tell` the caller does:
    wherever `due(state)`, measure the gradient at x with `snapshot` and put it into the
    state by `anchored`.

    Attributes:
      snapshot: estimator of the snapshot's gradient, such as all coordinates.
      period: steps between snapshots.
    """

    snapshot: Estimator = dataclasses.field(default_factory=Coordinate)
    period: int = 50

    def __post_init__(self):
        check_range("period", self.period, 1)
        if not isinstance(self.estimator, ControlVariate):
            given = type(self.estimator).__name__
            raise InputError(describe(f"estimator={given}", "a ControlVariate"))

    def queries(self, d: int, steps: int = 1) -> int:
        """Returns the function values of the first steps, snapshots included."""
        count = -(-steps // self.period)
        return super().queries(d, steps) + count * self.snapshot.queries(d)

    def steps(self, d: int, budget: int) -> int:
        """Returns how many steps a budget of queries holds, snapshots included.

        Raises:
          InputError: not even one.
        """
        once, each = self.snapshot.queries(d), self.estimator.queries(d)
        steps_within(budget, each, start=once)
        rounds, left = divmod(budget, once + self.period * each)
        return rounds * self.period + max(left - once, 0) // each

    def due(self, state: OptimizerState) -> Array:
        """Returns whether the next step begins with a snapshot, bool []."""
        return state.step % self.period == 0

    def anchored(
        self, state: OptimizerState, x: PyTree, gradient: PyTree, info: Info
    ) -> OptimizerState:
        """Returns the state with a snapshot; see `ControlVariate.anchored`."""
        assert isinstance(self.estimator, ControlVariate)
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
            data; f if None.
        """
        here, there = jax.random.split(key)

        def renew(state: OptimizerState) -> OptimizerState:
            found, _, info = self.snapshot.estimate(
                there,
                f if full is None else full,
                x,
                self.snapshot.init(x),
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


def zo_sgd(
    rate: Rate,
    *,
    samples: int = 20,
    law: Law = "sphere",
    mu: float = 1e-3,
    central: bool = True,
    projection: Projection | None = None,
) -> Optimizer:
    """ZO-SGD (Ghadimi and Lan, arXiv 1309.5549): random directions, gradient steps."""
    estimator = Random(samples, law, mu=mu, central=central)
    return Optimizer(estimator, _sgd(rate, projection))


def zo_scd(
    rate: Rate,
    *,
    count: int = 20,
    mu: float = 1e-3,
    central: bool = True,
    projection: Projection | None = None,
) -> Optimizer:
    """ZO-SCD (arXiv 1606.00498): uniform coordinates, gradient steps."""
    return Optimizer(Coordinate(count, mu=mu, central=central), _sgd(rate, projection))


def zo_sign_sgd(
    rate: Rate,
    *,
    samples: int = 20,
    mu: float = 1e-3,
    central: bool = True,
    projection: Projection | None = None,
) -> Optimizer:
    """ZO-signSGD (Liu et al. 2019): the sign of the mean over random directions."""
    estimator = Sign(Random(samples, mu=mu, central=central))
    return Optimizer(estimator, _sgd(rate, projection))


def zo_svrg(
    rate: Rate,
    *,
    samples: int = 10,
    period: int = 50,
    snapshot: Estimator | None = None,
    mu: float = 1e-3,
    central: bool = True,
    projection: Projection | None = None,
) -> SVRG:
    """ZO-SVRG (Liu et al., arXiv 1805.10367): random directions less a snapshot's."""
    estimator = ControlVariate(Random(samples, mu=mu, central=central))
    return SVRG(
        estimator,
        _sgd(rate, projection),
        snapshot=snapshot or Coordinate(mu=mu, central=central),
        period=period,
    )


def zo_adamm(
    rate: Rate,
    *,
    samples: int = 20,
    mu: float = 1e-3,
    central: bool = True,
    projection: Projection | None = None,
) -> Optimizer:
    """ZO-AdaMM (Chen et al., arXiv 1910.06513): random directions, `adamm`."""
    estimator = Random(samples, mu=mu, central=central)
    return Optimizer(estimator, adamm(rate, projection=projection))


def hge_sgd(
    rate: Rate,
    *,
    estimator: Hybrid | None = None,
    projection: Projection | None = None,
    smoothing: Schedule | None = None,
) -> Optimizer:
    """ZO-HGD (Sharma et al., arXiv 2012.11518): `Hybrid`, gradient steps.

    The rates of the paper have `inverse_sqrt` and `inverse` for steps, and
    `smoothing(d, horizon)` for mu.
    """
    return Optimizer(estimator or Hybrid(), _sgd(rate, projection), smoothing)


def hge_adam(
    rate: Rate,
    *,
    estimator: Hybrid | None = None,
    projection: Projection | None = None,
    smoothing: Schedule | None = None,
) -> Optimizer:
    """`Hybrid` with Adam's steps."""
    adam = optax.adam(rate)
    if projection is not None:
        adam = projected(adam, projection)
    return Optimizer(estimator or Hybrid(), adam, smoothing)


def _sgd(rate: Rate, projection: Projection | None) -> optax.GradientTransformation:
    descent = optax.sgd(rate)
    return descent if projection is None else projected(descent, projection)


OPTIMIZERS = {
    "zo_sgd": zo_sgd,
    "zo_scd": zo_scd,
    "zo_sign_sgd": zo_sign_sgd,
    "zo_svrg": zo_svrg,
    "zo_adamm": zo_adamm,
    "hge_sgd": hge_sgd,
    "hge_adam": hge_adam,
}
"""Every optimizer by name; one contract test walks it."""


class Trace(NamedTuple):
    """What `minimize` saw: an entry for each step.

    Attributes:
      value: about f at the step's point; see `Info`.
      queries: all so far, after the step, int32.
    """

    value: Array
    queries: Array


def minimize(
    key: Array, optimizer: Optimizer, f: Function, x: PyTree, budget: int
) -> tuple[PyTree, OptimizerState, Trace]:
    """Takes the steps that a budget of queries holds, as one `lax.scan`.

    Args:
      key: a random key.
      optimizer: any of this module.
      f: from a point to a scalar.
      x: the first point.
      budget: most queries.

    Returns:
      The last point, the state and what was seen. `state.estimate.queries` is at most
      `budget`, by the count of steps.

    Raises:
      InputError: a budget below one step.
    """
    count = optimizer.steps(flat_of(x)[0].size, budget)

    def body(carry: tuple[PyTree, OptimizerState], key: Array):
        x, state, info = optimizer.step(key, f, *carry)
        return (x, state), Trace(info.value, state.estimate.queries)

    start = x, optimizer.init(x)
    (x, state), trace = jax.lax.scan(body, start, jax.random.split(key, count))
    return x, state, trace
