"""What an estimator is: probes along directions, slopes, a weighted sum of both.

Every estimate here has one form. Directions v_i are drawn, the function is measured at
x + mu v_i and at x - mu v_i (central) or at x (forward), and

    ghat = sum_i w_i s_i v_i,   s_i = (f(x + mu v_i) - f(x - mu v_i)) / (2 mu).

Estimators differ in how they draw v_i and w_i alone. So one file measures: at once, in
chunks of bounded memory, or by whoever asks for the points and tells their values.
"""

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from core.errors import InputError, ShapeError, check_range, describe
from core.types import Array, ArrayLike, PyTree, Scalar

Function = Callable[[PyTree], Array]
"""`f(x)`: a scalar from one point; NaN or infinity says that the query failed."""
Memory = TypeVar("Memory")


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
    """

    value: Array
    queries: Array
    failures: Array


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
      mu: smoothing, a scalar of x's dtype.
    """

    x: PyTree
    probes: tuple[Probes, ...]
    directions: tuple[Array, ...]
    mu: Array


class Estimator(abc.ABC):
    """A gradient estimator; its values are frozen dataclasses, static under `jit`."""

    @abc.abstractmethod
    def init(self, x: PyTree) -> State:
        """Returns the state before the first estimate at points like x."""

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
          x: a pytree of floating-point arrays of one dtype.
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
          state: the same as for `ask`.

        Raises:
          ShapeError: another number of values.
        """

    @abc.abstractmethod
    def estimate(
        self,
        key: Array,
        f: Function,
        x: PyTree,
        state: State,
        mu: Scalar | None = None,
        chunk: int | None = None,
    ) -> tuple[PyTree, State, Info]:
        """Returns `tell` of f's values.

        Args:
          key: a random key.
          f: the function, of one point; it is vmapped.
          x: as for `ask`.
          state: as for `ask`.
          mu: as for `ask`.
          chunk: most function values at once; all if None. With fewer than the
            estimate takes, directions are drawn again for each chunk, so memory is
            that of `chunk` points.

        Raises:
          As `ask`; and ShapeError: f's values are no scalars.
        """


@dataclasses.dataclass(frozen=True)
class Differences(Estimator, Generic[Memory]):
    """Estimators of finite differences; see the module for their form.

    Attributes:
      mu: smoothing, the length of a step along a direction, in units of x.
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

    def rescales(self, kind: int) -> bool:
        """Whether the weight of failed probes goes to the others.

        It keeps an average of random directions unbiased where failures do not depend
        on them; a coordinate that failed alone is 0 instead.
        """
        del kind
        return True

    # How all of them measure.

    def init(self, x: PyTree) -> State:
        """Returns the state before the first estimate at points like x."""
        flat, _ = flat_of(x)
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
        d, dtype = flat.size, flat.dtype
        probes = self.draw(key, state.memory, d, dtype)
        directions = tuple(
            self._directions(kind, p.seeds, state.memory, d, dtype)
            for kind, p in enumerate(probes)
        )
        step = jnp.asarray(self.mu if mu is None else mu, dtype)
        away = step * jnp.concatenate(directions)
        first = -away if self.central else jnp.zeros((1, d), dtype)
        points = flat[None] + jnp.concatenate([first, away])
        return jax.vmap(unravel)(points), Plan(x, probes, directions, step)

    def tell(
        self, plan: Plan, values: ArrayLike, state: State
    ) -> tuple[PyTree, State, Info]:
        """Returns the estimate; see `Estimator.tell`."""
        flat, unravel = flat_of(plan.x)
        values = checked_values(values, self.queries(flat.size), flat.dtype)
        slopes, worked = self._slopes(values, plan.mu)
        parts, first = [], 0
        for kind, (probes, v) in enumerate(
            zip(plan.probes, plan.directions, strict=True)
        ):
            span = slice(first, first + len(v))
            parts.append(self._part(kind, probes, v, slopes[span], worked[span]))
            first += len(v)
        return self._done(tuple(parts), plan.probes, state, seen(values), unravel)

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
        flat, unravel = flat_of(x)
        d, dtype = flat.size, flat.dtype
        each = chunk_of(chunk, self.queries(d), 2 if self.central else 1)
        if each is None:
            points, plan = self.ask(key, x, state, mu)
            return self.tell(plan, jax.vmap(f)(points), state)
        measure = jax.vmap(lambda v: scalar_of(f, unravel(v), dtype))
        step = jnp.asarray(self.mu if mu is None else mu, dtype)
        base = jnp.zeros((0,), dtype) if self.central else measure(flat[None])
        all_probes = self.draw(key, state.memory, d, dtype)
        count, parts = seen(base), []
        for kind, probes in enumerate(all_probes):

            def run(probes: Probes, kind: int = kind) -> tuple[Part, "_Seen"]:
                v = self._directions(kind, probes.seeds, state.memory, d, dtype)
                away = flat[None] + step * v
                if self.central:
                    near = measure(flat[None] - step * v)
                else:
                    near = jnp.broadcast_to(base, (len(v),))
                far = measure(away)
                slopes, worked = self._slopes(jnp.concatenate([near, far]), step, True)
                new = jnp.concatenate([near, far]) if self.central else far
                total = (probes.weights * slopes) @ v
                return Part(total, slopes, worked), seen(new)

            part, found = _streamed(run, probes, each)
            parts.append(self._shared(kind, part))
            count = jax.tree.map(jnp.add, count, found)
        return self._done(tuple(parts), all_probes, state, count, unravel)

    def _directions(
        self, kind: int, seeds: Array, memory: Memory, d: int, dtype: Any
    ) -> Array:
        return jax.vmap(lambda s: self.direction(kind, s, memory, d, dtype))(seeds)

    def _slopes(
        self, values: Array, mu: Array, paired: bool = False
    ) -> tuple[Array, Array]:
        """Slopes of values [near, far], or of [f(x), far] if they are not paired."""
        if self.central or paired:
            near, far = jnp.split(values, 2)
        else:
            near, far = jnp.broadcast_to(values[:1], (len(values) - 1,)), values[1:]
        worked = jnp.isfinite(near) & jnp.isfinite(far)
        slopes = (far - near) / (2 * mu if self.central else mu)
        # Values that are finite alone may still differ by more than floats hold.
        worked &= jnp.isfinite(slopes)
        return jnp.where(worked, slopes, jnp.zeros_like(slopes)), worked

    def _part(
        self, kind: int, probes: Probes, v: Array, slopes: Array, worked: Array
    ) -> Part:
        total = (probes.weights * slopes) @ v
        return self._shared(kind, Part(total, slopes, worked))

    def _shared(self, kind: int, part: Part) -> Part:
        """The part with the weight of failed probes given to the others."""
        if not self.rescales(kind):
            return part
        count = jnp.maximum(part.worked.sum(dtype=jnp.int32), 1)
        share = len(part.worked) / count.astype(part.gradient.dtype)
        return part._replace(gradient=part.gradient * share)

    def _done(
        self,
        parts: tuple[Part, ...],
        probes: tuple[Probes, ...],
        state: State,
        count: "_Seen",
        unravel: Callable[[Array], PyTree],
    ) -> tuple[PyTree, State, Info]:
        gradient, memory = self.finish(parts, probes, state.memory)
        info = info_of(count)
        return unravel(gradient), counted(state, info, memory), info


class _Seen(NamedTuple):
    """Sums over function values."""

    total: Array
    finite: Array
    all: Array


def seen(values: Array) -> _Seen:
    """Returns the sums of values [m] that are finite, and the counts."""
    finite = jnp.isfinite(values)
    total = jnp.where(finite, values, jnp.zeros_like(values)).sum()
    whole = jnp.asarray(values.size, jnp.int32)
    return _Seen(total, finite.sum(dtype=jnp.int32), whole)


def info_of(count: _Seen) -> Info:
    """Returns the info of an estimate from sums over its values."""
    some = jnp.maximum(count.finite, 1).astype(count.total.dtype)
    value = jnp.where(count.finite > 0, count.total / some, jnp.nan)
    return Info(value, count.all, count.all - count.finite)


def counted(state: State, info: Info, memory: Any) -> State:
    """Returns the state after an estimate."""
    return State(state.queries + info.queries, state.failures + info.failures, memory)


def flat_of(x: PyTree) -> tuple[Array, Callable[[Array], PyTree]]:
    """Returns a point as one array [d], and the way back.

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
    return ravel_pytree(jax.tree.map(jnp.asarray, x))


def scalar_of(f: Function, x: PyTree, dtype: Any) -> Array:
    """Returns f(x) as a scalar of a dtype.

    Raises:
      ShapeError: f returns something else than a scalar.
    """
    value = jnp.asarray(f(x))
    if value.shape != ():
        raise ShapeError(describe(f"values of shape {value.shape}", "a scalar, []"))
    return value.astype(dtype)


def checked_values(values: ArrayLike, queries: int, dtype: Any) -> Array:
    """Returns values as an array [queries] of a dtype.

    Raises:
      ShapeError: another shape.
    """
    values = jnp.asarray(values)
    if values.shape != (queries,):
        wanted = f"a scalar for each of the {queries} points"
        raise ShapeError(describe(f"values of shape {values.shape}", wanted))
    return values.astype(dtype)


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


def _streamed(
    run: Callable[[Probes], tuple[Part, _Seen]], probes: Probes, each: int
) -> tuple[Part, _Seen]:
    """Runs over chunks of probes and adds up; the last chunk may be smaller."""
    m = len(probes.weights)
    whole = m // each
    found: list[tuple[Part, _Seen]] = []
    if whole:
        chunks = jax.tree.map(
            lambda x: x[: whole * each].reshape(whole, each, *x.shape[1:]), probes
        )
        shapes = jax.eval_shape(run, jax.tree.map(lambda x: x[0], chunks))
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

        def body(carry: tuple[Array, _Seen], chunk: Probes):
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
