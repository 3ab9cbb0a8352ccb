"""Estimates made of others: with a control variate (SVRG), and their signs."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.types import Array, ArrayLike, PyTree, Scalar
from zo.base import (
    Estimator,
    Info,
    Measure,
    Seen,
    State,
    checked_values,
    counted,
    flat_of,
    info_of,
    seen,
)
from zo.base import known as are_known
from zo.differences import chunk_of


class Anchor(NamedTuple):
    """A snapshot, with a good estimate of the gradient there.

    Attributes:
      x: the snapshot, like x.
      gradient: of f there, like x.
      known: whether there is one, all of whose queries worked, bool [].
      inner: state of the estimator of differences.
    """

    x: PyTree
    gradient: PyTree
    known: Array
    inner: State


class AnchoredPlan(NamedTuple):
    """Plan of the differences, taken at 0, and the point."""

    x: PyTree
    inner: Any


@dataclasses.dataclass(frozen=True)
class ControlVariate(Estimator):
    """SVRG's form: the same probes at x and at a snapshot, whose gradient is known.

        ghat(x) - ghat(snapshot) + G,   one draw of directions for both

    which is one estimate of the difference v -> f(x + v) - f(snapshot + v) at v = 0. So
    it has the bias of G and of `estimator`, and its variance is that of `estimator`
    with the difference of gradients in place of g: it vanishes as x nears the snapshot.
    The function should be the same at both: f(x) of one mini-batch.

    `init` has no snapshot: call `anchored` before the first estimate, and again now
    and then. `optimizers.zo_svrg` does it every so many steps. Without a snapshot, or
    with one of which a query failed, the estimate is the plain ghat(x), which costs as
    much here.

    Attributes:
      estimator: of differences; it takes twice its queries.
    """

    estimator: Estimator

    @property
    def least(self) -> int:
        """The function values of one difference, here and at the snapshot."""
        return 2 * self.estimator.least

    def init(self, x: PyTree, mu: Scalar | None = None) -> State:
        """Returns a state without a snapshot."""
        zero = jax.tree.map(jnp.zeros_like, x)
        inner = self.estimator.init(x, mu)
        anchor = Anchor(x, zero, jnp.zeros((), jnp.bool_), inner)
        return State(inner.queries, inner.failures, anchor)

    def anchored(self, state: State, x: PyTree, gradient: PyTree, info: Info) -> State:
        """Returns the state with a new snapshot.

        Args:
          state: of this estimator.
          x: the snapshot.
          gradient: estimated there.
          info: of that estimate, whose queries count.
        """
        known = jnp.asarray(info.failures == 0)
        memory = state.memory._replace(x=x, gradient=gradient, known=known)
        return counted(state, info, memory)

    def queries(self, d: int) -> int:
        """Returns twice the queries of the estimator."""
        return 2 * self.estimator.queries(d)

    def ask(
        self, key: Array, x: PyTree, state: State, mu: Scalar | None = None
    ) -> tuple[PyTree, AnchoredPlan]:
        """Returns the points around x, then those around the snapshot."""
        anchor: Anchor = state.memory
        zero = jax.tree.map(jnp.zeros_like, x)
        away, inner = self.estimator.ask(key, zero, anchor.inner, mu)
        points = jax.tree.map(
            lambda a, b: jnp.concatenate([a, b]), _near(x, away), _near(anchor.x, away)
        )
        return points, AnchoredPlan(x, inner)

    def tell(
        self, plan: AnchoredPlan, values: ArrayLike, state: State
    ) -> tuple[PyTree, State, Info]:
        """Returns the estimate; see `Estimator.tell`."""
        flat, _ = flat_of(plan.x)
        values = checked_values(values, self.queries(flat.size))
        anchor: Anchor = state.memory
        change, count = _change(values, anchor.known)
        found = self.estimator.tell(plan.inner, change, anchor.inner)
        return self._done(
            found, count._replace(total=count.total.astype(flat.dtype)), state
        )

    def measured(
        self,
        key: Array,
        measure: Measure,
        x: PyTree,
        state: State,
        mu: Scalar | None = None,
        chunk: int | None = None,
    ) -> tuple[PyTree, State, Info]:
        """Returns the estimate; see `Estimator.measured`."""
        anchor: Anchor = state.memory
        zero = jax.tree.map(jnp.zeros_like, x)
        chunk_of(chunk, self.queries(flat_of(x)[0].size), self.least)

        def both(away: PyTree) -> tuple[Array, Seen]:
            points = jax.tree.map(
                lambda a, b: jnp.concatenate([a, b]),
                _near(x, away),
                _near(anchor.x, away),
            )
            values, _ = measure(points)
            return _change(values, anchor.known)

        found = self.estimator.measured(
            key, both, zero, anchor.inner, mu, None if chunk is None else chunk // 2
        )
        return self._done(found, None, state)

    def _done(
        self, found: tuple[PyTree, State, Info], count: Seen | None, state: State
    ) -> tuple[PyTree, State, Info]:
        gradient, inner, info = found
        if count is not None:
            info = info_of(count, info.worked)
        anchor: Anchor = state.memory
        gradient = jax.tree.map(
            lambda g, G: jnp.where(anchor.known, g + G, g), gradient, anchor.gradient
        )
        return gradient, counted(state, info, anchor._replace(inner=inner)), info


def _near(x: PyTree, away: PyTree) -> PyTree:
    """Points x + v for v [m, ...]."""
    return jax.tree.map(lambda x, v: x[None] + v, x, away)


def _change(values: Any, known: Array) -> tuple[Any, Seen]:
    """Values [here, there] to here - there, and what was seen: both, valued here."""
    here, there = values[: len(values) // 2], values[len(values) // 2 :]
    host = isinstance(values, np.ndarray) and are_known(known)
    xp: Any = np if host else jnp
    with np.errstate(invalid="ignore", over="ignore"):
        change = here - xp.where(known, there, xp.zeros_like(there))
    whole = seen(values)
    return change, seen(here)._replace(failed=whole.failed, asked=whole.asked)


@dataclasses.dataclass(frozen=True)
class Sign(Estimator):
    """The sign of each entry of another estimate (ZO-signSGD, Liu et al. 2019).

    Biased: not g, but a direction in which every entry has length 1. For one random
    direction of a gaussian or on the sphere, and f linear,

        E sign(ghat_i) = (2 / pi) arcsin(g_i / ||g||),

    with variance 1 less its square; with more directions entries near +-1 wherever
    |g_i| is above the noise of `estimator`. An entry of 0, as of a coordinate that was
    not measured, stays 0.

    Attributes:
      estimator: whose signs are taken, after its average.
    """

    estimator: Estimator

    @property
    def least(self) -> int:
        """The function values of one difference."""
        return self.estimator.least

    def init(self, x: PyTree, mu: Scalar | None = None) -> State:
        """Returns the state of the estimator."""
        return self.estimator.init(x, mu)

    def queries(self, d: int) -> int:
        """Returns the queries of the estimator."""
        return self.estimator.queries(d)

    def ask(
        self, key: Array, x: PyTree, state: State, mu: Scalar | None = None
    ) -> tuple[PyTree, Any]:
        """Returns the points of the estimator."""
        return self.estimator.ask(key, x, state, mu)

    def tell(
        self, plan: Any, values: ArrayLike, state: State
    ) -> tuple[PyTree, State, Info]:
        """Returns the signs of the estimate; see `Estimator.tell`."""
        return _signs(self.estimator.tell(plan, values, state))

    def measured(
        self,
        key: Array,
        measure: Measure,
        x: PyTree,
        state: State,
        mu: Scalar | None = None,
        chunk: int | None = None,
    ) -> tuple[PyTree, State, Info]:
        """Returns the signs of the estimate; see `Estimator.measured`."""
        return _signs(self.estimator.measured(key, measure, x, state, mu, chunk))


def _signs(found: tuple[PyTree, State, Info]) -> tuple[PyTree, State, Info]:
    estimate, state, info = found
    return jax.tree.map(jnp.sign, estimate), state, info
