"""Estimates by finite differences, and how all of them are measured.

A kind of estimator says how many probes it takes, how their directions are drawn, and
what becomes of the slopes (`sizes`, `draw`, `direction`, `finish`). This file measures:
at once, in chunks of bounded memory whose directions are drawn again, or by whoever
asks for the points and tells their values.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import check_range
from core.types import Array, ArrayLike, PyTree, Scalar
from zo.base import (
    Estimator,
    Info,
    Measure,
    Seen,
    State,
    check_moves,
    checked_values,
    counted,
    flat_of,
    info_of,
    seen,
)

Memory = TypeVar("Memory")


class Probes(NamedTuple):
    """Directions of one kind, each made from a seed.

    Attributes:
      seeds: keys or indices [m]; `Differences.direction` makes [d] of one.
      weights: w_i, [m].
    """

    seeds: Array
    weights: Array


class Part(NamedTuple):
    """What probes of one kind found.

    Attributes:
      gradient: sum w_i s_i v_i, [d].
      slopes: s_i, [m]; 0 where the probe failed.
      worked: whether both values were finite, bool [m].
    """

    gradient: Array
    slopes: Array
    worked: Array


class Plan(NamedTuple):
    """What `tell` needs to know of the points that `ask` gave; a pytree.

    Attributes:
      x: the point of the estimate.
      probes: by kind.
      directions: [m, d] by kind.
      mu: smoothing, a scalar.
    """

    x: PyTree
    probes: tuple[Probes, ...]
    directions: tuple[Array, ...]
    mu: Array


@dataclasses.dataclass(frozen=True)
class Differences(Estimator, Generic[Memory]):
    """Estimators of finite differences; see `zo.base` for their form.

    Attributes:
      mu: smoothing, the step of a number of x along a direction, in units of x.
      central: whether differences are central (2 values a direction, error O(mu**2))
        or forward (1 value, and f(x) once; error O(mu)).

    Raises:
      InputError: mu not positive.
    """

    mu: float = dataclasses.field(default=1e-3, kw_only=True)
    central: bool = dataclasses.field(default=True, kw_only=True)

    def __post_init__(self):
        check_range("mu", self.mu, 0.0, low_open=True)

    # What a kind of estimator says of itself.

    @abc.abstractmethod
    def sizes(self, d: int) -> tuple[int, ...]:
        """Returns how many probes of each kind an estimate takes."""

    @abc.abstractmethod
    def draw(
        self, key: Array, memory: Memory, d: int, dtype: Any
    ) -> tuple[Probes, ...]:
        """Returns seeds and weights of the probes of each kind."""

    @abc.abstractmethod
    def direction(
        self, kind: int, seed: Array, memory: Memory, d: int, dtype: Any
    ) -> Array:
        """Returns the direction [d] of one seed."""

    @abc.abstractmethod
    def variance(self, g: Array) -> Array:
        """Returns E||ghat - E ghat||^2 where f is linear with gradient g [d].

        A state's memory is taken as that of `init`.
        """

    def start(self, d: int, dtype: Any) -> Memory:
        """Returns the memory before the first estimate."""
        del d, dtype
        return ()  # type: ignore[return-value]

    def finish(
        self, parts: tuple[Part, ...], probes: tuple[Probes, ...], memory: Memory
    ) -> tuple[Array, Memory]:
        """Returns the estimate [d] and the next memory from what the kinds found."""
        del probes
        return parts[0].gradient, memory

    def rescales(self, kind: int, d: int) -> bool:
        """Whether the weight of failed probes goes to the others, in d dimensions.

        It keeps an average over random probes unbiased where failures do not depend on
        them; where every coordinate is asked, one that failed is 0 instead.
        """
        del kind, d
        return True

    # How all of them measure.

    @property
    def least(self) -> int:
        """The function values of one difference."""
        return 2 if self.central else 1

    def init(self, x: PyTree, mu: Scalar | None = None) -> State:
        """Returns the state before the first estimate; see `Estimator.init`."""
        flat, _ = flat_of(x)
        check_moves(self.mu if mu is None else mu, x)
        zero = jnp.zeros((), jnp.int32)
        return State(zero, zero, self.start(flat.size, flat.dtype))

    def queries(self, d: int) -> int:
        """Returns the function values of one estimate in d dimensions."""
        count = sum(self.sizes(d))
        return 2 * count if self.central else count + 1

    def ask(
        self, key: Array, x: PyTree, state: State, mu: Scalar | None = None
    ) -> tuple[PyTree, Plan]:
        """Returns points and a plan; see `Estimator.ask`."""
        flat, unravel = flat_of(x)
        step = self._step(mu, flat.dtype)
        probes = self.draw(key, state.memory, flat.size, flat.dtype)
        directions = tuple(
            self._directions(kind, p.seeds, state.memory, flat)
            for kind, p in enumerate(probes)
        )
        points = self._points(flat, step, _joined(directions))
        if not self.central:
            points = jnp.concatenate([flat[None], points])
        return jax.vmap(unravel)(points), Plan(x, probes, directions, step)

    def tell(
        self, plan: Plan, values: ArrayLike, state: State
    ) -> tuple[PyTree, State, Info]:
        """Returns the estimate; see `Estimator.tell`."""
        flat, _ = flat_of(plan.x)
        told = checked_values(values, self.queries(flat.size))
        return self._told(plan, told, seen(told), state)

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
        flat, unravel = flat_of(x)
        each = chunk_of(chunk, self.queries(flat.size), self.least)
        if each is None:
            points, plan = self.ask(key, x, state, mu)
            return self._told(plan, *measure(points), state)
        step = self._step(mu, flat.dtype)
        every = self.draw(key, state.memory, flat.size, flat.dtype)
        here, found = jnp.zeros((0,)), []
        if not self.central:
            here, count = measure(jax.vmap(unravel)(flat[None]))
            found.append(count)
        parts = []
        for kind, probes in enumerate(every):

            def run(probes: Probes, kind: int = kind) -> tuple[Part, Seen]:
                v = self._directions(kind, probes.seeds, state.memory, flat)
                points = self._points(flat, step, v)
                values, count = measure(jax.vmap(unravel)(points))
                if not self.central:
                    values = jnp.concatenate([here, values])
                slopes, worked = self._slopes(values, step)
                return Part((probes.weights * slopes) @ v, slopes, worked), count

            if len(probes.weights):
                part, count = _streamed(run, probes, each)
                found.append(count)
            else:
                none = jnp.zeros((0,), flat.dtype)
                part = Part(jnp.zeros_like(flat), none, none > 0)
            parts.append(self._shared(kind, part))
        count = jax.tree.map(lambda *each: sum(each[1:], each[0]), *found)
        return self._done(tuple(parts), every, state, count, x)

    def _step(self, mu: Scalar | None, dtype: Any) -> Array:
        return jnp.asarray(self.mu if mu is None else mu, dtype)

    def _directions(self, kind: int, seeds: Array, memory: Memory, x: Array) -> Array:
        if not len(seeds):
            return jnp.zeros((0, x.size), x.dtype)
        return jax.vmap(lambda s: self.direction(kind, s, memory, x.size, x.dtype))(
            seeds
        )

    def _points(self, x: Array, step: Array, v: Array) -> Array:
        """All near ends, then all far ones, [2 m, d]; forward the far ones, [m, d]."""
        if not self.central:
            return x[None] + step * v
        signs = jnp.asarray([[[-1.0]], [[1.0]]], x.dtype)
        return (x[None, None] + signs * (step * v)[None]).reshape(-1, x.size)

    def _told(
        self, plan: Plan, values: Array | np.ndarray, count: Seen, state: State
    ) -> tuple[PyTree, State, Info]:
        slopes, worked = self._slopes(values, plan.mu)
        parts, first = [], 0
        for kind, (p, v) in enumerate(zip(plan.probes, plan.directions, strict=True)):
            at = slice(first, first + len(v))
            total = (p.weights * slopes[at]) @ v
            parts.append(self._shared(kind, Part(total, slopes[at], worked[at])))
            first += len(v)
        return self._done(tuple(parts), plan.probes, state, count, plan.x)

    def _slopes(self, values: Array | np.ndarray, mu: Array) -> tuple[Array, Array]:
        """Slopes of values [near, far], or forward of [f(x), far], and which are."""
        first = len(values) // 2 if self.central else 1
        with np.errstate(invalid="ignore", over="ignore"):
            # In the precision of the values: large ones may differ by little.
            change = values[first:] - values[:first]
            change = jnp.asarray(change).astype(mu.dtype)
        slopes = change / (2 * mu if self.central else mu)
        # Values that are finite alone may still differ by more than floats hold.
        worked = jnp.isfinite(slopes)
        return jnp.where(worked, slopes, jnp.zeros_like(slopes)), worked

    def _shared(self, kind: int, part: Part) -> Part:
        """The part with the weight of failed probes given to the others."""
        if not self.rescales(kind, part.gradient.size):
            return part
        count = jnp.maximum(part.worked.sum(dtype=jnp.int32), 1)
        share = len(part.worked) / count.astype(part.gradient.dtype)
        return part._replace(gradient=part.gradient * share)

    def _done(
        self,
        parts: tuple[Part, ...],
        probes: tuple[Probes, ...],
        state: State,
        count: Seen,
        x: PyTree,
    ) -> tuple[PyTree, State, Info]:
        flat, unravel = flat_of(x)
        gradient, memory = self.finish(parts, probes, state.memory)
        worked = sum(part.worked.sum(dtype=jnp.int32) for part in parts)
        count = count._replace(total=count.total.astype(flat.dtype))
        info = info_of(count, jnp.asarray(worked))
        return unravel(gradient), counted(state, info, memory), info


def chunk_of(chunk: int | None, queries: int, each: int) -> int | None:
    """Returns how many probes fit in a chunk; None if all of them do.

    Args:
      chunk: most function values at once.
      queries: of an estimate.
      each: function values of a probe.

    Raises:
      InputError: a chunk that does not hold one probe.
    """
    if chunk is None:
        return None
    check_range("chunk", chunk, each, remedy="A chunk has to hold one difference.")
    return None if chunk >= queries else chunk // each


def _joined(arrays: tuple[Array, ...]) -> Array:
    return arrays[0] if len(arrays) == 1 else jnp.concatenate(arrays)


def _streamed(
    run: Callable[[Probes], tuple[Part, Seen]], probes: Probes, each: int
) -> tuple[Part, Seen]:
    """Runs over chunks of probes and adds up; the last chunk may be smaller."""
    m = len(probes.weights)
    whole = m // each
    found: list[tuple[Part, Seen]] = []
    if whole:
        chunks = jax.tree.map(
            lambda x: x[: whole * each].reshape(whole, each, *x.shape[1:]), probes
        )
        shapes = jax.eval_shape(run, jax.tree.map(lambda x: x[0], chunks))
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

        def body(carry: tuple[Array, Seen], chunk: Probes):
            part, count = run(chunk)
            new = carry[0] + part.gradient, jax.tree.map(jnp.add, carry[1], count)
            return new, (part.slopes, part.worked)

        start = zero[0].gradient, zero[1]
        (gradient, count), (slopes, worked) = jax.lax.scan(body, start, chunks)
        found.append((Part(gradient, slopes.ravel(), worked.ravel()), count))
    if m % each:
        found.append(run(jax.tree.map(lambda x: x[whole * each :], probes)))
    parts = [part for part, _ in found]
    part = Part(
        sum((p.gradient for p in parts[1:]), parts[0].gradient),
        jnp.concatenate([p.slopes for p in parts]),
        jnp.concatenate([p.worked for p in parts]),
    )
    counts = [count for _, count in found]
    return part, jax.tree.map(lambda *each: sum(each[1:], each[0]), *counts)
