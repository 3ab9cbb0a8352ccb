"""A network of digits with density-bound weights and inputs (arXiv 2107.07983)."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

import gap
import graph
from core.types import Array, PyTree
from experiments import data
from experiments.results import Row, mean_row
from experiments.rounding.networks import DigitsNet
from experiments.training import init_state, make_epoch, make_evaluate, put, restart

BLOCK = 8
FEATURES = (16, 32, 32, 64)
INNER = tuple(f"params/conv{i}/kernel" for i in range(2, len(FEATURES) + 1))
RULES = [("conv1/kernel", None), ("conv.*/kernel", 1.0)]
BATCH = 64


def bounded(x: Array, kept: int) -> Array:
    """Returns x with the `kept` largest of every 8 channels, the rest 0 (DAP).

    Channels are the last axis, a multiple of 8. Of equals the first stay. The gradient
    goes to what is kept, with the choice as a constant.
    """
    blocks = x.reshape(*x.shape[:-1], x.shape[-1] // BLOCK, BLOCK)
    size = lax.stop_gradient(jnp.abs(blocks))
    _, places = lax.top_k(size, kept)
    chosen = jax.nn.one_hot(places, BLOCK, dtype=bool).any(axis=-2)
    return jnp.where(chosen, blocks, jnp.zeros_like(blocks)).reshape(x.shape)


@dataclasses.dataclass(frozen=True)
class Bounded:
    """A module whose inner convolutions see bounded inputs, called as the module.

    Attributes:
      model: the module.
      kept: inputs of every 8, or 8 for all.
    """

    model: DigitsNet
    kept: int = BLOCK

    def init(self, *args: Any, **kwargs: Any) -> PyTree:
        """Returns the module's variables."""
        return self.model.init(*args, **kwargs)

    def apply(self, variables: PyTree, x: Array, **kwargs: Any) -> Any:
        """Returns what the module returns."""

        def run(variables: PyTree, x: Array) -> Any:
            return self.model.apply(variables, x, **kwargs)

        if self.kept == BLOCK:
            return run(variables, x)
        prune = functools.partial(bounded, kept=self.kept)
        limited = graph.intercept(run, INNER, lambda _, x: (prune(x), None))
        return limited(variables, x)[0]


def accuracies(run: Any, config: Any, seed: int) -> dict[str, Any]:
    """Returns accuracies in % by arm: dense, bounded weights, inputs, both."""
    dataset = data.load(config.dataset, data_dir=run.data_dir)
    train = dataset.train
    if config.examples < len(train.labels):
        train = data.subset(train, config.examples, seed)
    train, test = put(train), put(dataset.test)
    look: dict[str, Any] = {"mean": dataset.mean, "std": dataset.std}
    plain = Bounded(DigitsNet(features=FEATURES))
    steps = len(train.labels) // BATCH

    @functools.cache
    def parts(kept: int) -> Any:
        model = Bounded(plain.model, kept)
        return model, make_evaluate(model, batch_size=500, **look)

    def accuracy(state: Any, kept: int) -> float:
        _, evaluate = parts(kept)
        found = evaluate(state.params, state.model_state, test)["accuracy"]
        return 100 * float(found)

    def tuned(state: Any, masks: PyTree, kept: int, epochs: int, rate: float) -> Any:
        schedule = optax.cosine_decay_schedule(rate, epochs * steps)
        optimizer = optax.adam(schedule)
        if masks is not None:
            optimizer = gap.masked(optimizer, masks)
        model, _ = parts(kept)
        epoch = make_epoch(model, optimizer, batch_size=BATCH, **look)
        state = restart(state, optimizer)
        for i in range(epochs):
            key = jax.random.fold_in(jax.random.key(seed), i)
            state, _ = epoch(state, train, key)
        return state

    optimizer = optax.adam(5e-3)
    first = init_state(
        plain.model, optimizer, jax.random.key(seed), dataset.train.images.shape[1:]
    )
    dense = tuned(first, None, BLOCK, config.epochs, 5e-3)
    found = {"dense": accuracy(dense, BLOCK)}
    control = tuned(dense, None, BLOCK, config.tuning, 1e-3)
    found["dense, trained on"] = accuracy(control, BLOCK)
    for kept in config.weight_bounds:
        for name, pattern in (
            ("weights", gap.DBB()),
            ("unstructured weights", gap.Unstructured()),
        ):
            target = gap.Target(kept / BLOCK, pattern=pattern)
            rules = [(r, s and target) for r, s in RULES]
            masks = gap.magnitude_masks(dense.params, rules)
            state = tuned(dense, masks, BLOCK, config.tuning, 1e-3)
            found[f"{name} {kept}/8"] = accuracy(state, BLOCK)
            if name == "weights" and kept == 4:
                both = tuned(state, masks, 4, config.tuning, 1e-3)
                found["weights 4/8, inputs 4/8"] = accuracy(both, 4)
    for kept in config.input_bounds:
        found[f"inputs {kept}/8, not trained"] = accuracy(dense, kept)
        state = tuned(dense, None, kept, config.tuning, 1e-3)
        found[f"inputs {kept}/8"] = accuracy(state, kept)
    return found


LIMITS = {"weights 4/8": 0.5, "weights 2/8": 2.0, "inputs 4/8": 0.5, "inputs 2/8": 3.0}
"""Points below dense that an arm may lose (specification of 2107.07983)."""


def rows(found: Sequence[dict[str, float]], judged: bool) -> Iterable[Row]:
    """Yields the accuracy of every arm beside the dense control."""
    control = [each["dense, trained on"] for each in found]
    level = sum(control) / len(control)
    for arm in found[0]:
        values = [each[arm] for each in found]
        lost = level - sum(values) / len(values)
        holds = lost <= LIMITS[arm] if judged and arm in LIMITS else None
        yield mean_row("accuracy", arm, values, baseline=level, unit="%", holds=holds)
