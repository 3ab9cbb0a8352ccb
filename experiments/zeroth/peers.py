"""A natural evolution strategy of evosax as a rival; it is imported when it is used."""

from typing import Any

import jax
import jax.numpy as jnp

from core.types import Array
from zo.attack import AttackResult, Logits, Threat
from zo.base import steps_within


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
      images: [h, w, c].
      labels: int [].
      deviation: of the first population, of a pixel.
      probes: half of the population.
      budget: most images shown to the network.
      threat: see `Threat`.

    Raises:
      ImportError: evosax is not installed.
    """
    from evosax.algorithms import SNES  # type: ignore[import-not-found]

    size = 2 * probes
    steps = steps_within(budget, size + 1, start=1)
    zero = jnp.zeros_like(images)
    strategy = SNES(population_size=size, solution=zero)
    params = strategy.default_params.replace(std_init=deviation)

    def shown(change: Array) -> Array:
        return threat.placed(images[None], change[None])

    def loss(change: Array) -> Array:
        margin = threat.margin(logits(shown(change)), labels[None])[0]
        return margin + threat.distance * jnp.square(change).sum()

    def check(change: Array) -> Array:
        return threat.wrong(logits(shown(change)).argmax(-1), labels[None])

    def body(carry: Any) -> Any:
        step, state, _, count = carry
        ask, tell = jax.random.split(jax.random.fold_in(key, step))
        population, state = strategy.ask(ask, state, params)
        values = jax.vmap(loss)(population)
        state, _ = strategy.tell(tell, population, values, state, params)
        wrong = check(strategy.get_mean(state))
        return step + 1, state, wrong, count + size + 1

    start = strategy.init(key, zero, params)
    one = jnp.ones((), jnp.int32)
    _, state, wrong, queries = jax.lax.while_loop(
        lambda carry: ~carry[2].all() & (carry[0] < steps),
        body,
        (one - 1, start, check(zero), one),
    )
    found = shown(strategy.get_mean(state))[0]
    change = found - images
    return AttackResult(
        images=found,
        success=wrong.all(),
        fraction=wrong.astype(images.dtype).mean(),
        queries=queries,
        first=jnp.where(wrong.all(), queries, -1),
        l2=jnp.sqrt(jnp.square(change).sum())[None],
        linf=jnp.abs(change).max()[None],
    )
