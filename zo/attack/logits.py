"""Attacks from logits: one change of one image, or of several."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from core.types import Array, ArrayLike
from zo.attack.threat import UNTARGETED, AttackResult, Threat, check_labels, result
from zo.base import Function
from zo.optimizers import Optimizer, OptimizerState

Logits = Callable[[Array], Array]
"""Images [m, h, w, c] to logits, or log-probabilities, [m, classes]."""


class Move(NamedTuple):
    """What a step of a search did.

    Attributes:
      change: that is tried next, like an image.
      inner: state of the method.
      values: values of the loss that it asked for, int32 [].
      failures: those of them that were not finite, int32 [].
    """

    change: Array
    inner: Any
    values: Array
    failures: Array


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

    from change 0 until all are wrong by kappa or the next step would pass the budget.
    Images are clipped into the box before they are shown. Under `jit`, logits,
    optimizer, budget and threat are static. For many attacks take `lax.map`: under
    `vmap` those that have ended are shown on until all have, and not counted.

    Args:
      key: a random key.
      logits: of the network.
      images: [h, w, c] for one, [b, h, w, c] for a universal change.
      labels: int [] or [b]: the true classes, or the wanted ones.
      optimizer: of `zo.optimizers`; its estimator asks, see the module.
      budget: most images shown to the network.
      threat: see `Threat`.

    Raises:
      InputError: a budget below one step and its checks; known labels that are no
        class, known images outside of the box.
      ShapeError: images or labels of other shapes.
    """
    batch, _ = threat.batch(images, labels)
    b, shape = len(batch), batch.shape[1:]
    steps = optimizer.steps(batch[0].size, budget, cost=b, each=b, start=b)
    low, high = (threat.low - batch).min(0), (threat.high - batch).max(0)
    if threat.radius is not None:
        low, high = jnp.maximum(low, -threat.radius), jnp.minimum(high, threat.radius)

    def move(step: Array, loss: Function, state: tuple[Array, OptimizerState]) -> Move:
        each = jax.random.fold_in(key, step)
        change, inner, info = optimizer.step(each, loss, *state)
        # Beyond these no image changes any more, and no slope would lead back.
        change = jnp.clip(change, low, high)
        return Move(change, (change, inner), info.queries, info.failures)

    zero = jnp.zeros(shape, batch.dtype)
    start = zero, optimizer.init(zero)
    return search(logits, images, labels, move, start, steps=steps, threat=threat)


class _Search(NamedTuple):
    step: Array
    change: Array
    inner: Any
    wrong: Array
    queries: Array
    failures: Array


def search(
    logits: Logits,
    images: ArrayLike,
    labels: ArrayLike,
    move: Callable[[Array, Function, Any], Move],
    start: Any,
    *,
    steps: int,
    threat: Threat = UNTARGETED,
) -> AttackResult:
    """Moves a change of images from 0 until all are wrong, at most so many times.

    The loss is that of `logit_attack`. Before the first move and after each one the
    images are shown, to see whether they are wrong: b queries; a value of the loss is b
    queries as well.

    Args:
      logits: as for `logit_attack`, like images, labels and threat.
      images: see there.
      labels: see there.
      move: from the number of the step, the loss and the state.
      start: the state before the first move.
      steps: most moves; the caller sees to the budget.
      threat: see there.

    Raises:
      As `logit_attack`, but for the budget.
    """
    single, given = np.ndim(images) == 3, labels
    images, labels = threat.batch(images, labels)
    check_labels(given, jax.eval_shape(logits, images).shape[-1])
    b = len(images)

    def shown(change: Array) -> Array:
        return threat.placed(images, change[None])

    def loss(change: Array) -> Array:
        margins = threat.margin(logits(shown(change)), labels)
        return margins.mean() + threat.distance * jnp.square(change).sum()

    def check(change: Array) -> tuple[Array, Array]:
        seen = logits(shown(change))
        failed = ~jnp.isfinite(seen).all(-1)
        return threat.succeeds(seen, labels), failed.sum(dtype=jnp.int32)

    def body(state: _Search) -> _Search:
        made = move(state.step, loss, state.inner)
        wrong, failed = check(made.change)
        return _Search(
            state.step + 1,
            made.change,
            made.inner,
            wrong,
            state.queries + (made.values + 1) * b,
            state.failures + made.failures * b + failed,
        )

    def go_on(state: _Search) -> Array:
        return ~state.wrong.all() & (state.step < steps)

    zero = jnp.zeros(images.shape[1:], images.dtype)
    wrong, failed = check(zero)
    begin = _Search(jnp.int32(0), zero, start, wrong, jnp.int32(b), failed)
    end = lax.while_loop(go_on, body, begin)
    return result(
        images,
        shown(end.change),
        end.wrong,
        queries=end.queries,
        first=end.queries,
        failures=end.failures,
        single=single,
    )
