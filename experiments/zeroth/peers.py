"""A natural evolution strategy of evosax as a rival; it is imported when it is used."""

from typing import Any

import jax
import jax.numpy as jnp

from core.types import Array
from zo.attack import AttackResult, Logits, Move, Threat, search
from zo.base import Function, steps_within


def snes_attack(
    key: Array,
    logits: Logits,
    images: Array,
    labels: Array,
    deviation: Array,
    probes: int,
    *,
    budget: int,
    threat: Threat,
) -> AttackResult:
    """Attacks by separable natural evolution; as `zo.attack.logit_attack` otherwise.

    Args:
      key: a random key.
      logits: of the network.
      images: [h, w, c] for one, [b, h, w, c] for a universal change.
      labels: int [] or [b].
      deviation: of the first population, of a pixel.
      probes: half of the population.
      budget: most images shown to the network.
      threat: see `Threat`.

    Raises:
      ImportError: evosax is not installed.
    """
    from evosax.algorithms import SNES  # type: ignore[import-not-found]

    size, b = 2 * probes, 1 if images.ndim == 3 else len(images)
    steps = steps_within(budget, (size + 1) * b, start=b)
    zero = jnp.zeros(images.shape[-3:], images.dtype)
    strategy = SNES(population_size=size, solution=zero)
    params = strategy.default_params.replace(std_init=deviation)
    begin, key = jax.random.split(key)

    def move(step: Array, loss: Function, state: Any) -> Move:
        ask, tell = jax.random.split(jax.random.fold_in(key, step))
        population, state = strategy.ask(ask, state, params)
        values = jax.vmap(loss)(population)
        state, _ = strategy.tell(tell, population, values, state, params)
        failed = (~jnp.isfinite(values)).sum(dtype=jnp.int32)
        return Move(strategy.get_mean(state), state, jnp.int32(size), failed)

    start = strategy.init(begin, zero, params)
    return search(logits, images, labels, move, start, steps=steps, threat=threat)
