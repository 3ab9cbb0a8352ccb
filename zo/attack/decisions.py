"""Attacks from decisions: the nearest wrong image, from classes alone."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from core.errors import InputError, ShapeError, check_range, describe
from core.types import Array, ArrayLike
from zo.attack.threat import UNTARGETED, AttackResult, Threat, l2_between, result
from zo.optimizers import SVRG, Optimizer, OptimizerState

Decide = Callable[[Array], Array]
"""Images [m, h, w, c] to classes, int [m]."""


@dataclasses.dataclass(frozen=True)
class Boundary:
    """How a decision attack finds the boundary along a direction.

    Attributes:
      starts: directions that are tried at first, the best of which is the start.
      reach: the farthest change along a random direction, in l2. Towards an image it is
        the way to that image.
      halvings: queries that narrow an interval down.
      widen: factor by which the interval around the last distance is widened.

    Raises:
      InputError: out of range.
    """

    starts: int = 32
    reach: float = 20.0
    halvings: int = 8
    widen: float = 1.05

    def __post_init__(self):
        check_range("starts", self.starts, 1)
        check_range("reach", self.reach, 0.0, low_open=True)
        check_range("halvings", self.halvings, 1)
        check_range("widen", self.widen, 1.0, low_open=True)


HALVING = Boundary()
"""32 directions first, and intervals halved eight times."""


def decision_attack(
    key: Array,
    decide: Decide,
    image: ArrayLike,
    label: ArrayLike,
    optimizer: Optimizer,
    *,
    budget: int,
    threat: Threat = UNTARGETED,
    boundary: Boundary = HALVING,
    towards: ArrayLike | None = None,
    within: float | None = None,
) -> AttackResult:
    """Searches the nearest wrong image from the network's decisions alone.

    The objective of a direction is the l2 distance, within the box, of the image at
    the boundary along it, relative to that of the last one. An interval of lengths
    around the last one is halved to find it: a function value is so many decisions. It
    makes an attack of every optimizer here. Directions have
    length 1, entries of about 1 / sqrt(d), and mu should be small beside those. For
    many attacks take `lax.map`: under `vmap` those that have ended are shown on.

    Args:
      key: a random key.
      decide: the network's class.
      image: [h, w, c].
      label: int []: the true class, or the wanted one.
      optimizer: moves the direction; steps should be small beside its length, 1.
      budget: most images shown to the network.
      threat: see `Threat`; kappa and distance have no meaning here.
      boundary: see `Boundary`.
      towards: images [s, h, w, c] to start in the direction of, needed for a target: of
        the wanted class. Random directions if None.
      within: l2 distance of the image, clipped into the box, at which the attack is a
        success, and ends; None to go on to the end of the budget, with success at any
        distance.

    Returns:
      See `AttackResult`. `first` counts up to the first wrong image; with `within`, to
      the end of the step after which the distance was known. A class is always an
      answer, so there are no failures.

    Raises:
      InputError: a budget below the start and one step; a known label that is
        negative, a known image outside of the box.
      ShapeError: an image or label of another shape.
    """
    images, labels = threat.batch(image, label)
    if len(images) != 1:
        raise ShapeError(describe(f"{len(images)} images", "one image, [h, w, c]"))
    x, y = images[0], labels[0]
    d = x.size
    if isinstance(optimizer, SVRG):
        given = describe("an optimizer with snapshots", "one of steps of equal cost")
        raise InputError(f"decision_attack: {given}. Take zo_sgd or hge_sgd.")
    begin, key = jax.random.split(key)
    cost = boundary.halvings + 2  # of a value: both ends, and halvings

    def rays() -> Array:
        if towards is not None:
            threat.check_images(jnp.asarray(towards))
            return jnp.asarray(towards, x.dtype) - x[None]
        shape = (boundary.starts, *x.shape)
        return jax.random.normal(begin, shape, x.dtype)

    first = rays()
    tries = len(first)
    start_cost = tries * cost
    steps = optimizer.steps(d, budget, cost=cost, each=cost, start=start_cost + 1)

    def wrong(points: Array) -> Array:
        return threat.wrong(decide(points), jnp.broadcast_to(y, (len(points),)))

    def along(unit: Array, length: Array) -> Array:
        return threat.placed(x[None], length * unit[None])

    def far(unit: Array, length: Array) -> Array:
        """The l2 distance of an image, less than the length where the box clips it."""
        return l2_between(along(unit, length), x[None])[0]

    def unit_of(ray: Array) -> Array:
        return ray / jnp.maximum(jnp.sqrt(jnp.square(ray).sum()), 1e-12)

    def boundary_at(ray: Array, low: Array, high: Array) -> Array:
        """The length up to the boundary; NaN where the end of the interval is right."""
        unit = unit_of(ray)
        ends = jnp.stack([along(unit, low)[0], along(unit, high)[0]])
        bad = wrong(ends)
        low = jnp.where(bad[0], jnp.zeros_like(low), low)

        def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = (low + high) / 2
            is_wrong = wrong(along(unit, middle))[0]
            return (
                jnp.where(is_wrong, low, middle),
                jnp.where(is_wrong, middle, high),
            )

        low, high = lax.fori_loop(0, boundary.halvings, halve, (low, high))
        return jnp.where(bad[1], high, jnp.nan)

    least = 0.0 if within is None else within
    zero = jnp.zeros((), x.dtype)
    reach = jnp.full((tries,), boundary.reach, x.dtype)
    if towards is not None:
        reach = jnp.sqrt(jnp.square(first).reshape(tries, -1).sum(1))
    lengths = jax.vmap(lambda ray, end: boundary_at(ray, zero, end))(first, reach)
    clean = wrong(x[None])[0]  # the network may be wrong without any change
    reached = ~jnp.isnan(lengths)
    # In this order: the image, then of each ray its near end, its far end, the middles.
    shown = jnp.where(clean, 1, 1 + cost * reached.argmax() + 2).astype(jnp.int32)
    fars = jax.vmap(lambda ray, length: far(unit_of(ray), length))(first, lengths)
    at = jnp.where(reached, fars, jnp.inf).argmin()
    ray = unit_of(first[at])
    length = jnp.where(clean, zero, jnp.where(reached[at], lengths[at], jnp.inf))
    l2 = jnp.where(clean, zero, jnp.where(reached[at], fars[at], jnp.inf))

    def body(state: "_Rays") -> "_Rays":
        key = jax.random.fold_in(state.key, state.step)
        low, high = state.length / boundary.widen**2, state.length * boundary.widen

        def f(ray: Array) -> Array:
            # Relative to the last one: rates then do not depend on its unit.
            return far(unit_of(ray), boundary_at(ray, low, high)) / state.l2

        ray, inner, info = optimizer.step(key, f, state.ray, state.inner)
        # The new direction is kept only if it is no farther.
        unit, new = unit_of(ray), boundary_at(ray, low, state.length)
        l2 = far(unit, new)
        nearer = l2 <= state.l2
        ray = unit_of(jnp.where(nearer, unit, state.ray))
        length = jnp.where(nearer, new, state.length)
        l2 = jnp.where(nearer, l2, state.l2)
        queries = state.queries + info.queries * cost + cost
        return _Rays(state.key, state.step + 1, ray, length, l2, inner, queries)

    def go_on(state: "_Rays") -> Array:
        some = jnp.isfinite(state.l2)  # without any wrong image nothing can move
        return some & (state.l2 > least) & (state.step < steps)

    count = jnp.zeros((), jnp.int32)
    asked = count + start_cost + 1
    start = _Rays(key, count, ray, length, l2, optimizer.init(ray), asked)
    end = lax.while_loop(go_on, body, start)
    some = jnp.isfinite(end.l2)
    safe = jnp.where(some, end.length, 0)
    found = jnp.where(clean, x[None], along(end.ray, safe))
    done = some if within is None else some & (end.l2 <= within)
    return result(
        images,
        found,
        done[None],
        queries=end.queries,
        first=shown if within is None else end.queries,
        failures=jnp.zeros((), jnp.int32),
        single=True,
    )


class _Rays(NamedTuple):
    key: Array
    step: Array
    ray: Array
    length: Array
    l2: Array
    inner: OptimizerState
    queries: Array
