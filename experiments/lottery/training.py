"""One training run as a pure function, so that many run in one program."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

import gap
from core.errors import InputError, check_range, describe
from core.types import Array, ArrayLike, PartialTree, PyTree
from experiments.data import Dataset, Split, subset
from experiments.images import shrunk
from experiments.training import TrainState, make_evaluate, make_train_step, put


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How every network of one comparison is trained.

    Attributes:
      batch_size: examples in a step.
      weight_decay: factor of the L2 penalty on kernels.
      momentum: of SGD.
      milestones: shares of T after which the learning rate falls to a tenth.
    """

    batch_size: int
    weight_decay: float
    momentum: float = 0.9
    milestones: tuple[float, ...] = (0.5, 0.75)


class Span(NamedTuple):
    """Which epochs are trained, int32 [] each; a new one does not recompile.

    Attributes:
      first: epoch to begin with, 0 or the t of weight rewinding.
      epochs: T, the length that milestones are shares of.
      rewind: t, after which `Trained.early` is taken.
    """

    first: ArrayLike
    epochs: ArrayLike
    rewind: ArrayLike


class Data(NamedTuple):
    """Training and test split on the device."""

    train: Split
    test: Split


class Trained(NamedTuple):
    """What a training run leaves.

    Attributes:
      variables: after the last epoch.
      early: after epoch `Span.rewind`, the start if that is not among those trained.
      accuracy: on the test split after the last epoch, in %, float32 [].
      loss: mean training loss of the last epoch, float32 [].
    """

    variables: PyTree
    early: PyTree
    accuracy: Array
    loss: Array


Train = Callable[[PyTree, PartialTree, Array, Array, Span, Data], Trained]
"""train(variables, masks, key, rate, span, data) -> Trained."""


def make_data(dataset: Dataset, examples: int, pool: int) -> Data:
    """Returns a data set on the device.

    Args:
      dataset: as loaded.
      examples: stratified training images, 0 for all.
      pool: side of the squares whose mean becomes one pixel; 1 leaves images alone.

    Raises:
      InputError: more examples than there are, or a size that `pool` does not divide.
    """
    train = dataset.train
    if examples:
        check_range("examples", examples, 1, len(train.labels))
        train = subset(train, examples, 0)
    return Data(put(shrunk(train, pool)), put(shrunk(dataset.test, pool)))


def make_train(
    model: nn.Module, recipe: Recipe, mean: Any, std: Any, eval_batch: int = 500
) -> Train:
    """Returns a pure training run; jit or vmap it (`gap.lottery.population`).

    The learning rate falls to a tenth after each milestone. Epoch e visits the images
    in an order drawn from `fold_in(key, e)`, so a run that begins at epoch t sees what
    the whole run sees from there; its momentum starts at 0. The result is that of the
    last epoch: none is selected.

    Args:
      model: a linen module of the training loop.
      recipe: batch size and optimizer.
      mean: of the training pixels.
      std: likewise.
      eval_batch: test images at once.
    """
    common = {"mean": mean, "std": std}
    evaluate = make_evaluate(model, batch_size=eval_batch, **common)

    def train(variables, masks, key, rate, span, data):
        images, labels = data.train
        steps = len(labels) // recipe.batch_size
        if not steps:
            raise InputError(
                f"batch size: {describe(recipe.batch_size, f'at most {len(labels)}')}"
            )

        def schedule(count: Any) -> Array:
            epoch = (count // steps + span.first).astype(jnp.float32)
            passed = jnp.zeros((), jnp.float32)
            length = jnp.asarray(span.epochs).astype(jnp.float32)
            for share in recipe.milestones:
                passed += (epoch >= share * length).astype(jnp.float32)
            return rate * 0.1**passed

        tx = gap.masked(optax.sgd(schedule, momentum=recipe.momentum), masks["params"])
        step = make_train_step(model, tx, weight_decay=recipe.weight_decay, **common)

        def epoch(e: Array, carry: tuple[TrainState, PyTree, Array]):
            state, early, _ = carry
            own = jax.random.fold_in(key, e)
            order = jax.random.permutation(own, len(labels))
            batches = order[: steps * recipe.batch_size].reshape(steps, -1)

            def body(state: TrainState, chosen: Array):
                state, shown = step(state, images[chosen], labels[chosen], own)
                return state, shown["loss"]

            state, losses = lax.scan(body, state, batches)
            now = {"params": state.params, **state.model_state}
            at = e + 1 == span.rewind
            early = jax.tree.map(lambda a, b: jnp.where(at, b, a), early, now)
            return state, early, losses.mean()

        rest = {name: part for name, part in variables.items() if name != "params"}
        params = variables["params"]
        zero = jnp.zeros((), jnp.int32)
        state = TrainState(zero, params, rest, tx.init(params))
        start = state, dict(variables), jnp.zeros((), jnp.float32)
        state, early, loss = lax.fori_loop(span.first, span.epochs, epoch, start)
        accuracy = evaluate(state.params, state.model_state, data.test)["accuracy"]
        final = {"params": state.params, **state.model_state}
        return Trained(final, early, 100 * accuracy, loss)

    return train
