"""What a training step needs and returns, and how it starts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from core.errors import NonFiniteError, describe
from core.types import Array, PyTree
from experiments.training.devices import replicate


class TrainState(NamedTuple):
    """What the next step needs.

    Invariants: every leaf is an array with a buffer of its own (so the whole state can
    be donated); shapes and dtypes never change from step to step.

    Attributes:
      step: int32 [], steps taken.
      params: the model's parameters, the "params" collection.
      model_state: its other collections, such as {"batch_stats": ...}; may be empty.
      opt_state: the optimizer's state.
    """

    step: Array
    params: PyTree
    model_state: PyTree
    opt_state: PyTree


def init_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    key: Array,
    input_shape: Sequence[int],
    *,
    mesh: Mesh | None = None,
) -> TrainState:
    """Returns the state before the first step.

    Args:
      model: a linen module called as `model.apply(variables, images, train=...)`.
      optimizer: any optax transformation.
      key: random key of the initial parameters.
      input_shape: shape of one example, without the batch, such as (28, 28, 1).
      mesh: where to replicate the state, from `data_mesh`; None is the default device.
    """
    images = jnp.zeros((1, *input_shape), jnp.float32)

    def init(key: Array) -> TrainState:
        variables = dict(model.init({"params": key}, images, train=False))
        params = variables.pop("params")
        step = jnp.zeros((), jnp.int32)
        return TrainState(step, params, variables, optimizer.init(params))

    return replicate(copy_state(jax.jit(init)(key)), mesh)


def restart(
    state: TrainState, optimizer: optax.GradientTransformation, params: PyTree = None
) -> TrainState:
    """Returns a state at step 0 with a fresh optimizer, as for a next stage.

    Args:
      state: where parameters and model state come from; it stays usable, for all
        leaves of the result are copies.
      optimizer: the next stage's transformation.
      params: parameters to start from instead of `state.params`, such as pruned ones.
    """
    params = state.params if params is None else params
    step = jnp.zeros_like(state.step)
    fresh = TrainState(step, params, state.model_state, optimizer.init(params))
    if len(state.step.devices()) > 1:  # new leaves go where the old ones are
        fresh = jax.device_put(fresh, state.step.sharding)
    return copy_state(fresh)


def copy_state(state: TrainState) -> TrainState:
    """Returns the same state in buffers of its own; an epoch consumes what it gets."""
    return jax.tree.map(jnp.copy, state)


def check_metrics(
    metrics: Mapping[str, Any], *, stage: str, epoch: int
) -> dict[str, float]:
    """Fetches an epoch's metrics and checks them; this is where the host waits.

    Args:
      metrics: scalars on the device.
      stage: the name of the stage, for the message.
      epoch: the number of the epoch, for the message.

    Returns:
      The metrics as Python floats.

    Raises:
      NonFiniteError: one of them is NaN or infinite.
    """
    fetched = {name: float(value) for name, value in jax.device_get(metrics).items()}
    bad = {name: value for name, value in fetched.items() if not math.isfinite(value)}
    if bad:
        raise NonFiniteError(
            f"stage {stage!r}, epoch {epoch}: "
            + describe(
                ", ".join(f"{name} = {value}" for name, value in bad.items()),
                "finite metrics",
                "Lower the learning rate (or rho), or start again from the last "
                "checkpoint: training has diverged.",
            )
        )
    return fetched
