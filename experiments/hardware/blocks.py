"""A network of digits with density-bound weights and inputs (arXiv 2107.07983)."""

import functools
import re
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
from experiments.pruning.trainer import Trainer, Wrapped, cosine
from experiments.results import Row, mean_row
from experiments.rounding.networks import DigitsNet
from experiments.training import TrainState
from experiments.workdir import Run

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


def with_bound(model: Any, kept: int) -> Any:
    """Returns a module whose inner convolutions see inputs with `kept` of every 8."""
    if kept == BLOCK:
        return model
    prune = functools.partial(bounded, kept=kept)

    def change(run: Any) -> Any:
        limited = graph.intercept(run, INNER, lambda _, x: (prune(x), None))
        return lambda *args: limited(*args)[0]

    return Wrapped(model, change)


def accuracies(run: Run, config: Any, seed: int) -> dict[str, float]:
    """Returns accuracies in % by arm: dense, bounded weights, inputs, both.

    Every phase is a stage of the run.
    """
    dataset = data.load(config.dataset, data_dir=run.data_dir)
    train = dataset.train
    if config.examples < len(train.labels):
        train = data.subset(train, config.examples, seed)
    model = DigitsNet(features=FEATURES)
    trainer = Trainer(
        run,
        model,
        train,
        dataset.test,
        mean=dataset.mean,
        std=dataset.std,
        batch_size=BATCH,
    )
    bound = functools.cache(functools.partial(with_bound, model))
    found: dict[str, float] = {}

    def trained(
        arm: str,
        state: TrainState,
        *,
        kept: int = BLOCK,
        masks: PyTree = None,
        epochs: int = config.tuning,
        rate: float = 1e-3,
    ) -> TrainState:
        optimizer = optax.adam(cosine(rate, epochs * trainer.steps))
        if masks is not None:
            optimizer = gap.masked(optimizer, masks)
        state, result = trainer.phase(
            f"s{seed}-{re.sub('[^a-z0-9]+', '-', arm)}",
            state,
            optimizer,
            epochs,
            seed=seed,
            tag=f"{seed} {rate} {kept} {masks is not None}",
            model=bound(kept),
        )
        found[arm] = result["accuracy"]
        return state

    start = trainer.start(seed, "digits")
    dense = trained("dense", start, epochs=config.epochs, rate=5e-3)
    trained("dense, trained on", dense)
    for kept in config.weight_bounds:
        for name, pattern in (
            ("weights", gap.DBB()),
            ("unstructured weights", gap.Unstructured()),
        ):
            target = gap.Target(kept / BLOCK, pattern=pattern)
            rules = [(r, s and target) for r, s in RULES]
            masks = gap.magnitude_masks(dense.params, rules)
            state = trained(f"{name} {kept}/8", dense, masks=masks)
            if name == "weights" and kept == 4:
                trained("weights 4/8, inputs 4/8", state, kept=4, masks=masks)
    for kept in config.input_bounds:
        found[f"inputs {kept}/8, not trained"] = trainer.accuracy(
            dense.params, dense.model_state, bound(kept)
        )
        trained(f"inputs {kept}/8", dense, kept=kept)
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
