"""One training step: gradient of the loss, the optimizer's update, metrics."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from core.errors import InputError, check_range, describe
from core.types import Array, PyTree
from experiments.data import normalize
from experiments.training.devices import constrain
from experiments.training.state import TrainState


class Model(Protocol):
    """A linen module, or anything that is called as one."""

    @property
    def apply(self) -> Callable[..., Any]:
        """Called as `apply(variables, images, train=...)`."""
        ...


Loss = Callable[[Array, Array], Array]
"""(logits float32 [n, classes], labels int32 [n]) -> loss of each example [n]."""
Augment = Callable[[Array, Array], Array]
"""(key, images uint8 [n, h, w, c]) -> images of the same shape and type."""
Metrics = dict[str, Array]
Step = Callable[[TrainState, Array, Array, Array], tuple[TrainState, Metrics]]


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Returns -log softmax(logits)[label] of each example, float32 [n]."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def l2_penalty(params: PyTree) -> Array:
    """Returns sum ||W||^2 / 2 over the leaves with two axes or more, float32 [].

    Those are the kernels; biases, scales and offsets of norms have one axis.
    """
    kernels = [leaf for leaf in jax.tree.leaves(params) if leaf.ndim >= 2]
    total = jnp.zeros((), jnp.float32)
    for kernel in kernels:
        total += jnp.vdot(kernel, kernel).astype(jnp.float32)
    return total / 2


def make_train_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    mean: float | Sequence[float],
    std: float | Sequence[float],
    loss: Loss = cross_entropy,
    weight_decay: float = 0.0,
    dropout: bool = True,
    augment: Augment | None = None,
    compute_dtype: Any = None,
    mesh: Mesh | None = None,
) -> Step:
    """Returns step(state, images, labels, key) -> (state, metrics), not jitted.

    The step descends on mean(loss) + weight_decay * sum ||W||^2 / 2. Its metrics,
    float32 [], are `loss` (without the penalty) and `accuracy`, of the batch before
    the update.

    Args:
      model: a linen module called as `model.apply(variables, images, train=True)`.
      optimizer: any optax transformation; it gets the parameters, and a mask or an
        ADMM penalty is one.
      mean: of the data's pixels, per channel, in [0, 1].
      std: likewise.
      loss: loss of each example.
      weight_decay: factor of the L2 penalty on kernels, inside the loss.
      dropout: False sets the model's attribute `dropout_rate` to 0, as in ADMM's
        W-step (a model without that attribute is left as it is); batch norm goes on to
        use the batch's statistics.
      augment: applied to the uint8 images.
      compute_dtype: type to compute in, such as jnp.bfloat16; parameters stay float32.
        None is the model's own.
      mesh: from `data_mesh`; the batch is divided over its devices.

    Raises:
      InputError: a negative weight decay.
    """
    check_range("weight_decay", weight_decay, 0)
    model = configure(model, dropout=dropout, compute_dtype=compute_dtype)

    def objective(params, model_state, images, labels, key):
        logits, updated = model.apply(
            {"params": params, **model_state},
            images,
            train=True,
            rngs={"dropout": key},
            mutable=list(model_state),
        )
        data_loss = loss(logits, labels).mean()
        total = data_loss
        if weight_decay:
            total += weight_decay * l2_penalty(params).astype(total.dtype)
        accuracy = (logits.argmax(-1) == labels).mean(dtype=jnp.float32)
        metrics = {"loss": data_loss.astype(jnp.float32), "accuracy": accuracy}
        return total, (updated, metrics)

    def step(state: TrainState, images: Array, labels: Array, key: Array):
        augment_key, dropout_key = jax.random.split(key)
        if augment is not None:
            images = augment(augment_key, images)
        images = constrain(normalize(images, mean, std), mesh, "data")
        labels = constrain(labels, mesh, "data")
        grads, (model_state, metrics) = jax.grad(objective, has_aux=True)(
            state.params, state.model_state, images, labels, dropout_key
        )
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = TrainState(state.step + 1, params, model_state, opt_state)
        return constrain(new, mesh), metrics

    return step


def configure(
    model: Model, *, dropout: bool = True, compute_dtype: Any = None
) -> Model:
    """Returns the model with another compute type, or without dropout."""
    changes: dict[str, Any] = {}
    clone: Any = getattr(model, "clone", None)  # a linen module's
    if not dropout and hasattr(model, "dropout_rate"):
        changes["dropout_rate"] = 0.0
    if compute_dtype is not None and not hasattr(model, "dtype"):
        raise InputError(
            "compute_dtype: "
            + describe(type(model).__name__, "a model with an attribute dtype")
        )
    if compute_dtype is not None:
        changes["dtype"] = compute_dtype
    return clone(**changes) if changes else model
