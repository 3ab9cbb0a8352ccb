"""Many trainings in one program: learning rates times seeds, members of a batch."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from core.errors import ShapeError, check_range, describe
from core.types import Array, ArrayLike, PyTree


def population(
    train: Callable[..., Any], *, shared: int = 0, size: int | None = None
) -> Callable[..., Any]:
    """Returns `train` over a leading axis of members, compiled once.

    Args:
      train: a pure training run of one member, such as
        train(params, masks, key, rate, data) -> (params, metrics).
      shared: how many of its last arguments all members share (the data). They are
        arguments, not closed over: XLA folds constants for minutes.
      size: members at a time. None takes all at once (`vmap`), the fastest for
        matrix products; 1 takes one after the other, the fastest for convolutions on
        a CPU, which vmap turns into grouped ones.

    Returns:
      A jitted function; all arguments but the shared ones have the leading axis, and
      so has the result.

    Raises:
      InputError: `size` below 1.

    Example:
      >>> import jax.numpy as jnp
      >>> step = lambda w, rate, goal: w - rate * (w - goal)
      >>> together = population(step, shared=1)
      >>> together(jnp.zeros(2), jnp.array([0.5, 1.0]), jnp.float32(2.0)).tolist()
      [1.0, 2.0]
    """
    if size is not None:
        check_range("size", size, 1)

    @functools.wraps(train)
    def together(*args: Any) -> Any:
        own, common = args[: len(args) - shared], args[len(args) - shared :]
        if size is None:
            axes = (0,) * len(own) + (None,) * len(common)
            return jax.vmap(train, in_axes=axes)(*own, *common)
        one = lambda member: train(*member, *common)  # noqa: E731
        if size == 1:
            return jax.lax.map(one, own)
        return jax.lax.map(one, own, batch_size=size)

    return jax.jit(together)


def cross(rates: ArrayLike | Sequence[float], keys: Array) -> tuple[Array, Array]:
    """Returns every pair of a learning rate and a seed, seeds running fastest.

    Args:
      rates: float [r].
      keys: random keys [s]; each seed meets every rate with the same key.

    Returns:
      Rates [r * s] and keys [r * s].
    """
    rates = jnp.asarray(rates)
    n = keys.shape[0]
    return jnp.repeat(rates, n), jnp.tile(keys, rates.shape[0])


def uncross(tree: PyTree, rates: int) -> PyTree:
    """Returns arrays [r * s, ...] as [r, s, ...], the inverse of `cross`.

    Args:
      tree: a pytree of arrays with the leading axis of members.
      rates: r.

    Raises:
      ShapeError: a leading axis that `rates` does not divide.
    """

    def split(x: Array) -> Array:
        if x.ndim == 0 or x.shape[0] % rates:
            raise ShapeError(
                describe(f"shape {x.shape}", f"a leading axis that {rates} divides")
            )
        return x.reshape(rates, x.shape[0] // rates, *x.shape[1:])

    return jax.tree.map(split, tree)
