"""Float training once for each seed, and every arm from there at equal lengths.

All arms of a seed start from the same float network and see the images in the same
order.
"""

import functools
from collections.abc import Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import admm
import quant
from core import trees
from core.types import Array, PyTree
from experiments import data
from experiments.data import Split
from experiments.pruning.fit import fit, stage_key
from experiments.trained.arms import Arm
from experiments.trained.networks import NETWORKS, Layers, Quantized
from experiments.trained.sets import Rows, Sets, drawn_to, with_rows
from experiments.training import (
    TrainState,
    init_state,
    make_epoch,
    make_evaluate,
    put,
    restart,
)
from experiments.training.epoch import Epoch, Evaluate
from experiments.workdir import Run
from quant.aware import NO_SCALES

BATCH = 500
"""Images in a call that evaluates."""
WATCHED = 500
"""Test images on which the progress of training is shown; all count at the end."""
SETTLING = 1_000
"""Training images over which norms have their moments in evaluation."""


class Protocol:
    """Trains arms of one network in a run's work folder."""

    def __init__(self, run: Run, config: Any, network: str):
        self.run = run
        self.config = config
        self.network = NETWORKS[network]
        self.model = self.network.build()
        name = "cifar10" if network == "cifar" else config.dataset
        self.dataset = data.load(name, data_dir=run.data_dir)
        train, test = self.dataset.train, self.dataset.test
        count = config.cifar_examples if network == "cifar" else config.examples
        if count:
            train = data.subset(train, count, 0)
        if self.network.halved:
            train, test = halved(train), halved(test)
        self.train, self.test = put(train), put(test)
        self.watched = put(data.subset(test, min(WATCHED, len(test.labels)), 0))
        self.steps = len(train.labels) // config.batch_size
        self._start = functools.lru_cache(maxsize=None)(self._make_start)
        self._parts = functools.lru_cache(maxsize=None)(self._make_parts)
        self._evaluate = functools.lru_cache(maxsize=None)(self._make_evaluate)
        self._settle = functools.lru_cache(maxsize=None)(self._make_settle)
        self._fitted = functools.lru_cache(maxsize=None)(self._make_fitted)

    def stage(self, seed: int, name: str) -> str:
        """Returns the name of a stage."""
        return f"{self.network.name}-s{seed}-{name}"

    def start(self, seed: int) -> TrainState:
        """Returns the trained float network of a seed; `opt_state` is of no use."""
        return self._start(seed)

    def accuracy(self, params: PyTree, model_state: PyTree) -> float:
        """Returns the accuracy on test images in %, of a network in floats."""
        collections = {**model_state, "scales": NO_SCALES}
        found = self._evaluate((), False)(params, collections, self.test)
        return 100 * float(found["accuracy"])

    def start_accuracy(self, seed: int) -> float:
        """Returns the accuracy on test images in % of the float network of a seed.

        What is quantized after training has it for a baseline; `FLOAT` trains on.
        """

        def measure() -> dict[str, float]:
            state = self.start(seed)
            return {"accuracy": self.accuracy(state.params, state.model_state)}

        name = self.stage(seed, "start-accuracy")
        return self.run.stage(name, measure)["accuracy"]

    def images(self, count: int) -> Array:
        """Returns the first training images, normalized."""
        images = jnp.asarray(self.train.images[:count])
        return data.normalize(images, self.dataset.mean, self.dataset.std)

    def inputs(self, seed: int) -> dict[str, Array]:
        """Returns the inputs of the float network's layers, by path."""
        state = self.start(seed)
        variables = {"params": state.params, **state.model_state}
        seen = self._seen(variables, self.images(self.config.calibration_images))
        return {path: each.inputs for path, each in seen.items()}

    @functools.cached_property
    def _seen(self) -> Any:
        rules = [(path, quant.Layer()) for path in self.network.paths]
        record = quant.record(self._apply, rules)
        return jax.jit(lambda variables, x: record(variables, x)[1])

    def _apply(self, variables: PyTree, x: Array) -> Any:
        return self.model.apply(variables, x, train=False)

    def scales(self, seed: int, arm: Arm) -> quant.Scales:
        """Returns the scales of kernels and inputs of the float network in an arm."""
        leaves = trees.by_path({"params": self.start(seed).params})
        kernels = {path: leaves[path] for path in self.network.paths}
        return self._fitted(arm.layers)(kernels, self.inputs(seed))

    def _make_fitted(self, layers: Layers) -> Any:
        """One program that fits all scales."""
        specs = dict(layers)

        @jax.jit
        def fitted(kernels: Mapping[str, Array], inputs: Mapping[str, Array]):
            found = quant.Scales({}, {})
            for path, spec in specs.items():
                if spec.weights is not None:
                    found.weights[path] = spec.weights.fit(kernels[path])
                if spec.inputs is not None:
                    found.inputs[path] = spec.inputs.fit(inputs[path])
            return found

        return fitted

    def run_arm(self, seed: int, arm: Arm) -> dict[str, Any]:
        """Returns what training an arm leads to: "accuracy" in %, "loss", and others.

        "accuracy" and "loss" are of norms that are settled (see `Quantized.settled`),
        "unsettled" is the accuracy with the moments of training. "residual" of ADMM is
        ||W - Z|| / ||W|| before the kernels take their levels.
        """
        if arm.training == "admm":
            return self._run_admm(seed, arm)
        if arm.training == "none":
            name = self.stage(seed, arm.name)
            return self.run.stage(name, lambda: self._as_it_is(seed, arm))
        state, found = self.start(seed), self.scales(seed, arm)
        params: PyTree = state.params
        collections = state.model_state
        if arm.learned:
            params = {"network": params, "scales": found}
        else:
            scales = quant.Scales({}, found.inputs)
            collections = {**collections, "scales": scales}
        held = getattr(self.config, "admm_epochs", 0)
        return self._tune(seed, arm, params, collections, held)

    def _as_it_is(self, seed: int, arm: Arm) -> dict[str, float]:
        """Measures a network quantized after training."""
        state = self.start(seed)
        collections = {**state.model_state, "scales": self.scales(seed, arm)}
        evaluate = self._evaluate(arm.layers, False)
        found = evaluate(state.params, collections, self.test)
        return {"accuracy": 100 * float(found["accuracy"])}

    def _run_admm(self, seed: int, arm: Arm) -> dict[str, Any]:
        """Kernels drawn to their levels, put there, and trained straight-through."""
        sets = tuple((p.removeprefix("params/"), s.weights) for p, s in arm.layers)
        first = quant.Scales({}, self.scales(seed, arm).inputs)
        optimizer, epoch = self._parts(arm.inputs_only, False, sets)
        start = self.start(seed)
        start = start._replace(model_state={**start.model_state, "scales": first})
        residuals = jax.jit(admm.residuals)

        def watch(state: TrainState) -> dict[str, Array]:
            left = residuals(state.params, state.opt_state.admm)
            shown = self._watch(arm.inputs_only, False, state)
            return {**shown, "residual": left.relative}

        state, drawn = fit(
            self.run,
            self.stage(seed, f"{arm.name}-admm"),
            restart(start, optimizer),
            epoch,
            self.train,
            self.config.admm_epochs,
            key=stage_key(seed, "admm"),
            watch=watch,
        )
        params, weights = _put(sets, state.params, state.opt_state.rows)
        scales = quant.Scales(weights, state.model_state["scales"].inputs)
        collections = {**state.model_state, "scales": scales}
        result = self._tune(seed, arm, params, collections)
        return {**result, "residual": drawn["residual"]}

    def _tune(
        self, seed: int, arm: Arm, params: PyTree, collections: PyTree, held: int = 0
    ) -> dict[str, Any]:
        """Trains with quantized layers and straight-through gradients.

        For `held` epochs at a constant rate before, as ADMM has it.
        """
        optimizer, epoch = self._parts(arm.layers, arm.learned, (), held)
        state = self.start(seed)._replace(model_state=collections)
        return fit(
            self.run,
            self.stage(seed, arm.name),
            restart(state, optimizer, params),
            epoch,
            self.train,
            held + self.config.tuning,
            key=stage_key(seed, "tune"),
            watch=functools.partial(self._watch, arm.layers, arm.learned),
            finish=functools.partial(self._finish, arm.layers, arm.learned),
        )[1]

    def _watch(
        self, layers: Layers, learned: bool, state: TrainState
    ) -> dict[str, Array]:
        """What is shown after each epoch."""
        settled = self._settled(layers, learned, state)
        return _watched(self._evaluate(layers, learned), settled, self.watched)

    def _finish(
        self, layers: Layers, learned: bool, state: TrainState
    ) -> dict[str, float]:
        """Accuracy and loss on all test images; see `run_arm`."""
        evaluate = self._evaluate(layers, learned)
        settled = self._settled(layers, learned, state)
        found = evaluate(settled.params, settled.model_state, self.test)
        left = evaluate(state.params, state.model_state, self.test)
        return {
            "accuracy": 100 * float(found["accuracy"]),
            "loss": float(found["loss"]),
            "unsettled": 100 * float(left["accuracy"]),
        }

    def _settled(self, layers: Layers, learned: bool, state: TrainState) -> TrainState:
        """The state with the moments of norms that evaluation has."""
        images = self.images(SETTLING)
        stats = self._settle(layers, learned)(state.params, state.model_state, images)
        return state._replace(model_state={**state.model_state, "batch_stats": stats})

    def _make_start(self, seed: int) -> TrainState:
        """Trains the float network."""
        config, stage = self.config, self.stage(seed, "start")
        optimizer = decayed(config.learning_rate, config.epochs * self.steps)
        epoch = make_epoch(self.model, optimizer, **self._pixels(config.batch_size))
        evaluate = make_evaluate(self.model, **self._pixels(BATCH))
        state, _ = fit(
            self.run,
            stage,
            init_state(
                self.model,
                optimizer,
                stage_key(seed, f"{self.network.name}-init"),
                self.train.images.shape[1:],
            ),
            epoch,
            self.train,
            config.epochs,
            key=stage_key(seed, stage),
            watch=lambda state: _watched(evaluate, state, self.watched),
        )
        return state

    def _make_parts(
        self, layers: Layers, learned: bool, sets: Sets, held: int = 0
    ) -> tuple[optax.GradientTransformation, Epoch]:
        """The optimizer and the compiled epoch: towards sets, or of `_tune`."""
        config = self.config
        spans = config.tuning * self.steps, held * self.steps
        optimizer: Any = decayed(config.tuning_rate, *spans)
        if learned:
            scales = relative(decayed(config.tuning_rate, *spans))
            each: dict[Hashable, Any] = {"network": optimizer, "scales": scales}
            optimizer = optax.partition(each, {name: name for name in each})
        if sets:
            updates = config.admm_updates
            steps = config.admm_epochs * self.steps
            optimizer = drawn_to(
                optax.adam(config.tuning_rate),
                sets,
                interval=max(steps // (updates + 1), 1),
                rho=admm.rising_rho(config.rho, config.rho_end, updates - 1),
                fixed_from=updates - updates // 3,
            )
        model = Quantized(self.model, layers, learned)
        return optimizer, make_epoch(
            model, optimizer, **self._pixels(config.batch_size)
        )

    def _make_settle(self, layers: Layers, learned: bool) -> Any:
        model = Quantized(self.model, layers, learned)

        @jax.jit
        def settle(params: PyTree, model_state: PyTree, images: Array) -> PyTree:
            return model.settled({"params": params, **model_state}, images)

        return settle

    def _make_evaluate(self, layers: Layers, learned: bool) -> Evaluate:
        model = Quantized(self.model, layers, learned)
        return make_evaluate(model, **self._pixels(BATCH))

    def _pixels(self, batch_size: int) -> dict[str, Any]:
        mean, std = self.dataset.mean, self.dataset.std
        return {"batch_size": batch_size, "mean": mean, "std": std}


def _watched(evaluate: Evaluate, state: TrainState, split: Split) -> dict[str, Array]:
    found = evaluate(state.params, state.model_state, split)
    accuracy = 100 * found["accuracy"]
    return {"watched_accuracy": accuracy, "watched_loss": found["loss"]}


@functools.partial(jax.jit, static_argnums=0)
def _put(sets: Sets, params: PyTree, rows: Mapping[str, Array]) -> Any:
    """Parameters on the levels of sets with given rows, and the scales of kernels."""
    kernels = trees.by_path(params)
    weights = {
        f"params/{path}": spec.fit(kernels[path], rows[path])
        if isinstance(spec, Rows)
        else spec.fit(kernels[path])
        for path, spec in sets
    }
    return admm.project(params, with_rows(sets, rows)), weights


def decayed(rate: float, steps: int, held: int = 0) -> optax.GradientTransformation:
    """Returns Adam whose rate stays for some steps, and falls to 0 along a cosine."""
    falling = optax.cosine_decay_schedule(rate, steps)
    constant = optax.constant_schedule(rate)
    return optax.adam(optax.join_schedules([constant, falling], [held]))


def relative(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns a transform whose updates are shares of the parameters.

    So positive scales stay so, whatever their unit.
    """

    def share(update: Any, p: Any) -> Array:
        return update * jnp.abs(p)

    return optax.chain(inner, optax.stateless_with_tree_map(share))


def halved(split: Split) -> Split:
    """Returns images at half their size, the means of 2 x 2 pixels, uint8."""
    n, h, w, c = split.images.shape
    blocks = split.images.reshape(n, h // 2, 2, w // 2, 2, c).astype(np.uint16)
    return Split(((blocks.sum((2, 4)) + 2) // 4).astype(np.uint8), split.labels)
