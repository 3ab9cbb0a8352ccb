"""Estimates made of others: with a control variate (SVRG), and their signs."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from core.types import Array, ArrayLike, PyTree, Scalar
from zo.base import (
    Estimator,
    Function,
    Info,
    State,
    checked_values,
    chunk_of,
    counted,
    flat_of,
    info_of,
    seen,
)


class Anchor(NamedTuple):
    """A snapshot, with a good estimate of the gradient there.

    Attributes:
      x: the snapshot, like x.
      gradient: of f there, like x.
      inner: state of the estimator of differences.
    """

    x: PyTree
    gradient: PyTree
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
    and then. `optimizers.zo_svrg` does it every so many steps.

    Attributes:
      estimator: of differences; it takes twice its queries.
    """

    estimator: Estimator

    def init(self, x: PyTree) -> State:
        """Returns a state whose snapshot is x with gradient 0."""
        zero = jax.tree.map(jnp.zeros_like, x)
        inner = self.estimator.init(x)
        return State(inner.queries, inner.failures, Anchor(x, zero, inner))

    def anchored(self, state: State, x: PyTree, gradient: PyTree, info: Info) -> State:
        """Returns the state with a new snapshot.

        Args:
          state: of this estimator.
          x: the snapshot.
          gradient: estimated there.
          info: of that estimate, whose queries count.
        """
        memory = state.memory._replace(x=x, gradient=gradient)
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

        def both(x: Array, old: Array, v: Array) -> Array:
            return jnp.concatenate([x[None] + v, old[None] + v])

        return jax.tree.map(both, x, anchor.x, away), AnchoredPlan(x, inner)

    def tell(
        self, plan: AnchoredPlan, values: ArrayLike, state: State
    ) -> tuple[PyTree, State, Info]:
        """Returns the estimate; see `Estimator.tell`."""
        flat, _ = flat_of(plan.x)
        values = checked_values(values, self.queries(flat.size), flat.dtype)
        here, there = jnp.split(values, 2)
        anchor: Anchor = state.memory
        found, inner, _ = self.estimator.tell(plan.inner, here - there, anchor.inner)
        info = info_of(seen(values))._replace(value=info_of(seen(here)).value)
        found = jax.tree.map(jnp.add, found, anchor.gradient)
        return found, counted(state, info, anchor._replace(inner=inner)), info

    def estimate(
        self,
        key: Array,
        f: Function,
        x: PyTree,
        state: State,
        mu: Scalar | None = None,
        chunk: int | None = None,
    ) -> tuple[PyTree, State, Info]:
        """Returns the estimate of f; see `Estimator.estimate`."""
        size = flat_of(x)[0].size
        if chunk_of(chunk, self.queries(size), 4) is None:
            points, plan = self.ask(key, x, state, mu)
            return self.tell(plan, jax.vmap(f)(points), state)
        assert chunk is not None
        anchor: Anchor = state.memory

        def difference(v: PyTree) -> Array:
            return f(jax.tree.map(jnp.add, x, v)) - f(
                jax.tree.map(jnp.add, anchor.x, v)
            )

        zero = jax.tree.map(jnp.zeros_like, x)
        found, inner, info = self.estimator.estimate(
            key, difference, zero, anchor.inner, mu, chunk // 2
        )
        # The two sides of a difference that failed were not told apart: both count.
        info = Info(
            jnp.full_like(info.value, jnp.nan), 2 * info.queries, 2 * info.failures
        )
        found = jax.tree.map(jnp.add, found, anchor.gradient)
        return found, counted(state, info, anchor._replace(inner=inner)), info


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

    def init(self, x: PyTree) -> State:
        """Returns the state of the estimator."""
        return self.estimator.init(x)

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
        found, state, info = self.estimator.tell(plan, values, state)
        return jax.tree.map(jnp.sign, found), state, info

    def estimate(
        self,
        key: Array,
        f: Function,
        x: PyTree,
        state: State,
        mu: Scalar | None = None,
        chunk: int | None = None,
    ) -> tuple[PyTree, State, Info]:
        """Returns the signs of the estimate; see `Estimator.estimate`."""
        found, state, info = self.estimator.estimate(key, f, x, state, mu, chunk)
        return jax.tree.map(jnp.sign, found), state, info
