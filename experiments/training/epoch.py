"""Epochs and evaluations: one jitted scan each, over data on the device."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh

from core.errors import InputError, check_range, describe
from core.types import Array, PyTree
from experiments.data import Split, normalize
from experiments.training.devices import constrain
from experiments.training.state import TrainState
from experiments.training.step import (
    Augment,
    Loss,
    Metrics,
    Model,
    configure,
    cross_entropy,
    make_train_step,
)

Epoch = Callable[[TrainState, Split, Array], tuple[TrainState, Metrics]]
Evaluate = Callable[[PyTree, PyTree, Split], Metrics]


def make_epoch(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    batch_size: int,
    mean: float | Sequence[float],
    std: float | Sequence[float],
    loss: Loss = cross_entropy,
    weight_decay: float = 0.0,
    dropout: bool = True,
    augment: Augment | None = None,
    compute_dtype: Any = None,
    mesh: Mesh | None = None,
    examples: int = 0,
) -> Epoch:
    """Returns epoch(state, split, key) -> (state, metrics), compiled once.

    An epoch visits the examples in an order drawn from `key`, n // batch_size steps;
    the examples of an incomplete last batch are left out. With `examples` it visits so
    many of them, drawn from `key` too. Metrics are the means of the steps', float32 []
    on the device: give them to `check_metrics`. The same key and state give the same
    result on the same device. The state given is donated: it is gone afterwards
    (`copy_state` keeps one).

    Args:
      model: see `make_train_step`, as for all that is not explained here.
      optimizer: any optax transformation.
      batch_size: examples in a step, on all devices together.
      mean: of the pixels.
      std: of the pixels.
      loss: loss of each example.
      weight_decay: factor of the L2 penalty.
      dropout: whether the model's dropout is on.
      augment: applied to each batch.
      compute_dtype: type to compute in.
      mesh: from `data_mesh`; state and split must lie on it (`init_state`, `put`).
      examples: of an epoch; 0 means all.

    Raises:
      InputError: the batch is larger than the data or the epoch, or cannot be divided
        over the mesh; or an epoch has more examples than there are.
    """
    _check_batch(batch_size, mesh)
    if examples:
        check_range("examples", examples, batch_size)
    step = make_train_step(
        model,
        optimizer,
        mean=mean,
        std=std,
        loss=loss,
        weight_decay=weight_decay,
        dropout=dropout,
        augment=augment,
        compute_dtype=compute_dtype,
        mesh=mesh,
    )

    def epoch(state: TrainState, split: Split, key: Array):
        images, labels = jnp.asarray(split.images), jnp.asarray(split.labels)
        if examples > len(labels):
            text = f"at most the {len(labels)} examples there are"
            raise InputError("examples: " + describe(examples, text))
        steps = (examples or len(labels)) // batch_size
        if not steps:
            raise InputError(
                "batch_size: "
                + describe(
                    batch_size,
                    f"at most the {len(labels)} examples there are",
                    "Take a smaller batch or more examples.",
                )
            )
        order_key, step_key = jax.random.split(key)
        order = jax.random.permutation(order_key, len(labels))
        batches = order[: steps * batch_size].reshape(steps, batch_size)

        def body(state: TrainState, batch: tuple[Array, Array]):
            index, chosen = batch
            chosen = constrain(chosen, mesh, "data")
            key = jax.random.fold_in(step_key, index)
            return step(state, images[chosen], labels[chosen], key)

        state, metrics = lax.scan(body, state, (jnp.arange(steps), batches))
        return state, jax.tree.map(jnp.mean, metrics)

    return jax.jit(epoch, donate_argnums=0)


def make_evaluate(
    model: Model,
    *,
    batch_size: int,
    mean: float | Sequence[float],
    std: float | Sequence[float],
    loss: Loss = cross_entropy,
    compute_dtype: Any = None,
    mesh: Mesh | None = None,
) -> Evaluate:
    """Returns evaluate(params, model_state, split) -> {"accuracy", "loss"}.

    Every example counts once, whether or not batches divide the data. Accuracy is the
    fraction of correct labels, loss the mean; float32 [] on the device.

    Args:
      model: a linen module called as `model.apply(variables, images, train=False)`.
      batch_size: examples at once, on all devices together.
      mean: of the training pixels, per channel, in [0, 1].
      std: likewise.
      loss: loss of each example.
      compute_dtype: type to compute in; None is the model's own.
      mesh: from `data_mesh`; parameters and split must lie on it.

    Raises:
      InputError: the batch cannot be divided over the mesh.
    """
    _check_batch(batch_size, mesh)
    model = configure(model, compute_dtype=compute_dtype)

    def evaluate(params: PyTree, model_state: PyTree, split: Split):
        images, labels = jnp.asarray(split.images), jnp.asarray(split.labels)
        size = len(labels)

        def body(sums: tuple[Array, Array], first: Array):
            index = first + jnp.arange(batch_size)
            chosen = constrain(jnp.minimum(index, size - 1), mesh, "data")
            pixels = normalize(images[chosen], mean, std)
            variables = {"params": params, **model_state}
            logits = cast(Array, model.apply(variables, pixels, train=False))
            target, counts = labels[chosen], constrain(index < size, mesh, "data")
            right = (logits.argmax(-1) == target) & counts
            losses = jnp.where(counts, loss(logits, target), 0).astype(jnp.float32)
            return (sums[0] + right.sum(dtype=jnp.int32), sums[1] + losses.sum()), None

        start = jnp.zeros((), jnp.int32), jnp.zeros((), jnp.float32)
        (right, total), _ = lax.scan(body, start, jnp.arange(0, size, batch_size))
        accuracy = right.astype(jnp.float32) / size
        return {"accuracy": accuracy, "loss": total / size}

    return jax.jit(evaluate)


def _check_batch(batch_size: int, mesh: Mesh | None) -> None:
    check_range("batch_size", batch_size, 1)
    devices = 1 if mesh is None else mesh.size
    if batch_size % devices:
        raise InputError(
            "batch_size: "
            + describe(
                batch_size,
                f"a multiple of the {devices} devices",
                f"Take {-(-batch_size // devices) * devices}.",
            )
        )
