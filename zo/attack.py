"""Black-box attacks: images that a network gets wrong, from its answers alone.

What is visible is logits (`logit_attack`), or the class alone (`decision_attack`). A
query is one image through the network, and the test whether an image is wrong yet is a
query too. Steps are counted before they are taken, so no budget is ever exceeded.

    found = zo.attack.logit_attack(
        key, logits, images, labels, zo.hge_adam(0.02), budget=5000
    )

`logits(images [m, h, w, c]) -> [m, classes]` is vmapped over the points of an estimate.
Images are in a box; the change of them is what is optimised. One image is attacked
alone; several given together get one change for all, which is the universal form: then
each value of the loss is as many queries.

References: Chen et al., arXiv 1708.03999 (loss); Cheng et al., arXiv 1807.04457
(decisions); the objective over several images as in arXiv 1910.06513.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from core.errors import InputError, ShapeError, check_range, describe
from core.types import Array, ArrayLike
from zo.base import steps_within
from zo.optimizers import SVRG, Optimizer, OptimizerState

Logits = Callable[[Array], Array]
"""Images [m, h, w, c] to logits, or log-probabilities, [m, classes]."""
Decide = Callable[[Array], Array]
"""Images [m, h, w, c] to classes, int [m]."""


class AttackResult(NamedTuple):
    """What an attack found.

    Attributes:
      images: the attacked images, like the given ones: the first that succeeded, or the
        last that were tried; of a decision attack the nearest.
      success: whether every one of them is wrong (or of the target), bool [].
      fraction: share of the images for which that is so, [].
      queries: images shown to the network, int32 []; at most the budget.
      first: queries up to and with the one that showed success; -1 without it.
      l2: distance of each image from the given one, [b].
      linf: the largest change of a pixel, [b].
    """

    images: Array
    success: Array
    fraction: Array
    queries: Array
    first: Array
    l2: Array
    linf: Array


@dataclasses.dataclass(frozen=True)
class Threat:
    """What an attack may do and wants.

    Attributes:
      targeted: whether the labels given are wanted, rather than to be left.
      low: least value of a pixel.
      high: its largest.
      radius: most change of a pixel; None for any within the box.
      kappa: margin by which an image is to be wrong, in logits.
      distance: weight of the squared l2 distance in the loss.

    Raises:
      InputError: out of range.
    """

    targeted: bool = False
    low: float = 0.0
    high: float = 1.0
    radius: float | None = None
    kappa: float = 0.0
    distance: float = 0.0

    def __post_init__(self):
        check_range("high", self.high, self.low, low_open=True)
        check_range("kappa", self.kappa, 0.0)
        check_range("distance", self.distance, 0.0)
        if self.radius is not None:
            check_range("radius", self.radius, 0.0, low_open=True)

    def margin(self, logits: Array, labels: Array) -> Array:
        """Returns the loss of logits [..., classes], [...]: max(margin, -kappa).

        The margin is the label's logit over the largest of the others, or the reverse
        if the label is wanted; below 0 the attack has succeeded.
        """
        own = jnp.take_along_axis(logits, labels[..., None], -1)[..., 0]
        is_own = jax.nn.one_hot(labels, logits.shape[-1], dtype=jnp.bool_)
        other = jnp.where(is_own, -jnp.inf, logits).max(-1)
        lead = other - own if self.targeted else own - other
        return jnp.maximum(lead, -self.kappa)

    def wrong(self, classes: Array, labels: Array) -> Array:
        """Returns whether classes are what the attack wants, bool."""
        return (classes == labels) if self.targeted else (classes != labels)

    def placed(self, images: Array, change: Array) -> Array:
        """Returns images with a change, within the box and the radius."""
        if self.radius is not None:
            change = jnp.clip(change, -self.radius, self.radius)
        return jnp.clip(images + change, self.low, self.high)


UNTARGETED = Threat()
"""Any wrong class, any change within [0, 1]."""


def logit_attack(
    key: Array,
    logits: Logits,
    images: ArrayLike,
    labels: ArrayLike,
    optimizer: Optimizer,
    *,
    budget: int,
    threat: Threat = UNTARGETED,
) -> AttackResult:
    """Searches a change of images that makes the network wrong, from its logits.

    Minimises over one change of all b images

        mean_i max(margin(x_i + change), -kappa) + distance ||change||^2

    from change 0 until all are wrong or the next step would pass the budget. Images
    are clipped into the box before they are shown. Under `jit`, logits, optimizer,
    budget and threat are static.

    Args:
      key: a random key.
      logits: of the network.
      images: [h, w, c] for one, [b, h, w, c] for a universal change.
      labels: int [] or [b]: the true classes, or the wanted ones.
      optimizer: of `zo.optimizers`; its estimator asks, see the module.
      budget: most images shown to the network.
      threat: see `Threat`.

    Raises:
      InputError: a budget below one step and its checks.
      ShapeError: images or labels of other shapes.
    """
    images, labels, single = _batch(images, labels)
    b = len(images)
    d = images[0].size
    steps = _steps(optimizer, d, budget, b)
    # Beyond these no image changes any more, and no slope would lead back.
    low, high = (threat.low - images).min(0), (threat.high - images).max(0)
    if threat.radius is not None:
        low, high = jnp.maximum(low, -threat.radius), jnp.minimum(high, threat.radius)

    def shown(change: Array) -> Array:
        return threat.placed(images, change[None])

    def loss(change: Array) -> Array:
        margins = threat.margin(logits(shown(change)), labels)
        return margins.mean() + threat.distance * jnp.square(change).sum()

    def check(change: Array) -> Array:
        return threat.wrong(logits(shown(change)).argmax(-1), labels)

    def body(state: "_Search") -> "_Search":
        key = jax.random.fold_in(state.key, state.step)
        change, inner, info = optimizer.step(key, loss, state.change, state.inner)
        change = jnp.clip(change, low, high)
        queries = state.queries + (info.queries + 1) * b
        return _Search(state.key, state.step + 1, change, inner, check(change), queries)

    def go_on(state: "_Search") -> Array:
        return ~state.wrong.all() & (state.step < steps)

    zero = jnp.zeros(images.shape[1:], images.dtype)
    count = jnp.zeros((), jnp.int32)
    start = _Search(key, count, zero, optimizer.init(zero), check(zero), count + b)
    end = lax.while_loop(go_on, body, start)
    found = shown(end.change)
    return _result(images, found, end.wrong, end.queries, single)


class _Search(NamedTuple):
    key: Array
    step: Array
    change: Array
    inner: OptimizerState
    wrong: Array
    queries: Array


def _steps(optimizer: Optimizer, d: int, budget: int, images: int) -> int:
    """Steps that a budget holds, with a check after each and one before."""
    if isinstance(optimizer, SVRG):
        once = optimizer.snapshot.queries(d) * images
        each = (optimizer.estimator.queries(d) + 1) * images
        steps_within(budget, each, start=once + images)
        period = optimizer.period
        rounds, left = divmod(budget - images, once + period * each)
        return rounds * period + max(left - once, 0) // each
    return steps_within(budget, (optimizer.queries(d) + 1) * images, start=images)


@dataclasses.dataclass(frozen=True)
class Boundary:
    """How a decision attack finds the boundary along a direction.

    Attributes:
      starts: directions that are tried at first, the best of which is the start.
      reach: the farthest change along a direction, in l2.
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

    The objective of a direction is the distance to the boundary along it, relative to
    that of the last one around which an interval is halved to find it: a function value
    is so many decisions. It makes an attack of every optimizer here.

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
      within: l2 distance at which the attack is a success, and ends; None to go on to
        the end of the budget, with success at any distance.

    Raises:
      InputError: a budget below the start and one step.
      ShapeError: an image or label of another shape.
    """
    images, labels, _ = _batch(image, label)
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
            return jnp.asarray(towards, x.dtype) - x[None]
        shape = (boundary.starts, *x.shape)
        return jax.random.normal(begin, shape, x.dtype)

    first = rays()
    tries = len(first)
    start_cost = tries * cost
    steps = steps_within(
        budget, optimizer.queries(d) * cost + cost, start=start_cost + 1
    )

    def wrong(points: Array) -> Array:
        return threat.wrong(decide(points), jnp.broadcast_to(y, (len(points),)))

    def along(unit: Array, length: Array) -> Array:
        return threat.placed(x[None], length * unit[None])

    def unit_of(ray: Array) -> Array:
        return ray / jnp.maximum(jnp.sqrt(jnp.square(ray).sum()), 1e-12)

    def distance(ray: Array, low: Array, high: Array) -> Array:
        """The distance to the boundary; NaN where the end of the interval is right."""
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

    zero = jnp.zeros((), x.dtype)
    reach = jnp.asarray(boundary.reach, x.dtype)
    lengths = jax.vmap(lambda ray: distance(ray, zero, reach))(first)
    clean = wrong(x[None])[0]  # the network may be wrong without any change
    best = jnp.where(jnp.isnan(lengths), jnp.inf, lengths)
    at = best.argmin()
    ray, length = unit_of(first[at]), jnp.where(clean, zero, best[at])

    def body(state: "_Rays") -> "_Rays":
        key = jax.random.fold_in(state.key, state.step)
        low, high = state.length / boundary.widen**2, state.length * boundary.widen

        def f(ray: Array) -> Array:
            # Relative to the last one: rates then do not depend on its unit.
            return distance(ray, low, high) / state.length

        ray, inner, info = optimizer.step(key, f, state.ray, state.inner)
        # The new direction is kept only if it is no farther.
        new = distance(ray, low, state.length)
        nearer = new <= state.length
        ray = unit_of(jnp.where(nearer, ray, state.ray))
        length = jnp.where(nearer, new, state.length)
        queries = state.queries + info.queries * cost + cost
        return _Rays(state.key, state.step + 1, ray, length, inner, queries)

    def go_on(state: "_Rays") -> Array:
        some = jnp.isfinite(state.length)  # without any wrong image nothing can move
        return some & (state.length > (within or 0.0)) & (state.step < steps)

    count = jnp.zeros((), jnp.int32)
    start = _Rays(key, count, ray, length, optimizer.init(ray), count + start_cost + 1)
    end = lax.while_loop(go_on, body, start)
    some = jnp.isfinite(end.length)
    safe = jnp.where(some, end.length, 0)
    found = jnp.where(clean, x[None], along(end.ray, safe))
    done = some if within is None else some & (end.length <= within)
    return _result(images, found, done[None], end.queries, True)


class _Rays(NamedTuple):
    key: Array
    step: Array
    ray: Array
    length: Array
    inner: OptimizerState
    queries: Array


def _batch(images: ArrayLike, labels: ArrayLike) -> tuple[Array, Array, bool]:
    """Images [b, h, w, c] and labels [b], and whether one was given.

    Raises:
      ShapeError: other shapes.
    """
    images, labels = jnp.asarray(images), jnp.asarray(labels)
    single = images.ndim == 3
    if single:
        images, labels = images[None], labels[None]
    if images.ndim != 4 or labels.shape != images.shape[:1] or not images.size:
        given = f"images of {images.shape} and labels of {labels.shape}"
        raise ShapeError(describe(given, "[h, w, c] and [], or [b, h, w, c] and [b]"))
    return images, labels, single


def _result(
    images: Array,
    found: Array,
    wrong: Array,
    queries: Array,
    single: bool,
) -> AttackResult:
    change = (found - images).reshape(len(images), -1)
    success = wrong.all()
    return AttackResult(
        images=found[0] if single else found,
        success=success,
        fraction=wrong.astype(images.dtype).mean(),
        queries=queries,
        first=jnp.where(success, queries, -1),
        l2=jnp.sqrt(jnp.square(change).sum(1)),
        linf=jnp.abs(change).max(1),
    )
