"""Pretraining, pruning and retraining of one network, at equal budgets.

Each seed trains one network; every method and rate starts from it and gets the same
number of epochs in both phases, and so does the dense control.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import admm
import gap
from core import trees
from core.errors import check_range
from core.rules import Rules
from core.types import PyTree
from experiments import data, models
from experiments.pruning.fit import fit, stage_key
from experiments.pruning.methods import Phase, decayed_adam, pruning_optimizer
from experiments.pruning.networks import Network
from experiments.training import (
    TrainState,
    data_mesh,
    init_state,
    make_epoch,
    make_evaluate,
    put,
    restart,
)
from experiments.training.epoch import Evaluate
from experiments.workdir import Run

EDGES = np.linspace(-0.4, 0.4, 81)
"""Bin edges of the weight histograms; weights beyond them count at the ends."""


class Trial(NamedTuple):
    """One method at one rate with one seed; `rate` is 1 for the dense control."""

    network: Network
    seed: int
    method: str
    rate: float

    @property
    def stage(self) -> str:
        """The prefix of the stages of this trial."""
        return f"{self.network.name}-s{self.seed}-{self.method}-{self.rate:g}x"


class Protocol:
    """Trains trials on one data set in a run's work folder.

    Epoch functions are compiled once for each network, method and rate and shared by
    the seeds; a finished phase is read back from the folder.
    """

    def __init__(self, run: Run, config: Any):
        self.run = run
        self.config = config
        self.dataset = data.load(config.dataset, data_dir=run.data_dir)
        train, test = self.dataset.train, self.dataset.test
        if config.validation:
            check_range("--validation", config.validation, 1, len(train.labels) - 1)
            train, test = data.hold_out(train, config.validation, 0)
        if config.examples:
            check_range("--examples", config.examples, 1, len(train.labels))
            train = data.subset(train, config.examples, 0)
        check_range("--batch_size", config.batch_size, 1, len(train.labels))
        devices = jax.local_devices()
        devices = devices[: math.gcd(len(devices), config.batch_size)]
        self.mesh = data_mesh(devices) if len(devices) > 1 else None
        self.train = put(train, self.mesh)
        self.test = put(test, self.mesh)
        self.steps_per_epoch = len(train.labels) // config.batch_size
        self.shape = train.images.shape[1:]
        self._phase_parts = functools.lru_cache(maxsize=None)(self._make_phase)
        self.evaluate = functools.lru_cache(maxsize=None)(self._make_evaluate)

    def check(self, network: Network) -> None:
        """Raises `InputError` where a phase is too short, before any is trained."""
        rules = network.rules(self.config.rates(network)[0])
        for method in self.config.methods_of(network):
            pruning_optimizer(method, self._phase(network, rules))

    def trials(self, network: Network) -> Iterator[Trial]:
        """Yields every trial of a network, the dense control of each seed first."""
        rates = self.config.rates(network)
        for seed in self.run.seeds:
            yield Trial(network, seed, "dense", 1.0)
            for rate in rates:
                for method in self.config.methods_of(network):
                    yield Trial(network, seed, method, rate)

    def run_trial(self, trial: Trial) -> dict[str, Any]:
        """Runs both phases of a trial; returns the result of `trained`."""
        return self.trained(trial)[1]

    def trained(self, trial: Trial) -> tuple[TrainState, dict[str, Any]]:
        """Runs both phases of a trial; returns the state and result of the second.

        The result holds the test `accuracy` in %, `pruned_accuracy` right after hard
        pruning, `left` (non-zero weights by layer, counted from the weights) and the
        `histogram` of the non-zero weights.
        """
        network, config = trial.network, self.config
        start = self._pretrained(network, trial.seed)
        optimizer, epoch = self._phase_parts(network, trial.method, trial.rate)
        rules = network.rules(trial.rate) if trial.rate > 1 else []
        state, first = fit(
            self.run,
            f"{trial.stage}-prune",
            restart(start, optimizer),
            epoch,
            self.train,
            config.epochs(network)[1],
            key=stage_key(trial.seed, f"{trial.stage}-prune"),
            watch=functools.partial(self._watch, network, rules),
        )
        params = state.params
        masks = trees.map_partial(lambda _: None, params)
        if rules:
            params, masks = admm.finish(params, rules)
        optimizer, epoch = self._phase_parts(network, "retrain", 1.0)
        masked = gap.masked(self._retraining(network), masks)
        state, result = fit(
            self.run,
            f"{trial.stage}-retrain",
            restart(state, masked, params),
            epoch,
            self.train,
            config.epochs(network)[2],
            key=stage_key(trial.seed, f"{trial.stage}-retrain"),
            watch=functools.partial(self._watch, network, []),
            finish=_describe,
        )
        pruned = first.get("projected_accuracy", first["accuracy"])
        return state, result | {"pruned_accuracy": pruned}

    def _initial(self, network: Network, seed: int) -> TrainState:
        attributes: dict[str, Any] = {}
        if self.config.reference_init:
            attributes |= models.REFERENCE_INIT
        model = models.create(network.model, **attributes)
        key = stage_key(seed, f"{network.name}-init")
        optimizer = optax.adam(self.config.learning_rate)
        return init_state(model, optimizer, key, self.shape, mesh=self.mesh)

    def _pretrained(self, network: Network, seed: int) -> TrainState:
        stage = f"{network.name}-s{seed}-pretrain"
        _, epoch = self._phase_parts(network, "pretrain", 1.0)
        state, _ = fit(
            self.run,
            stage,
            self._initial(network, seed),
            epoch,
            self.train,
            self.config.epochs(network)[0],
            key=stage_key(seed, stage),
            watch=functools.partial(self._watch, network, []),
        )
        return state

    def _retraining(self, network: Network) -> optax.GradientTransformation:
        steps = self.config.epochs(network)[2] * self.steps_per_epoch
        rate = self.config.retrain_rate(network)
        return decayed_adam(rate, steps, self.config.retrain_decay)

    def _make_phase(self, network: Network, method: str, rate: float) -> Any:
        """The optimizer and the compiled epoch of a phase."""
        config = self.config
        dropout = True
        if method == "pretrain":
            optimizer = optax.adam(config.learning_rate)
        elif method == "retrain":
            # The masks are in the state: one compiled epoch serves every trial.
            optimizer = gap.masked(self._retraining(network), {})
            dropout = config.retrain_dropout
        else:
            dropout = config.admm_dropout or method != "admm"
            rules = network.rules(rate) if rate > 1 else []
            optimizer = pruning_optimizer(method, self._phase(network, rules))
        epoch = make_epoch(
            models.create(network.model),
            optimizer,
            batch_size=config.batch_size,
            mean=self.dataset.mean,
            std=self.dataset.std,
            weight_decay=config.weight_decay,
            dropout=dropout,
            compute_dtype=jnp.dtype(config.compute_dtype),
            mesh=self.mesh,
        )
        return optimizer, epoch

    def _phase(self, network: Network, rules: Rules) -> Phase:
        config = self.config
        return Phase(
            rules=rules,
            steps=config.epochs(network)[1] * self.steps_per_epoch,
            learning_rate=config.learning_rate,
            interval=config.interval(network) or self.steps_per_epoch,
            rho=config.rho,
            rho_end=config.rho_end(network),
            l1=config.l1,
            stages=config.stages,
        )

    def _watch(
        self, network: Network, rules: Rules, state: TrainState
    ) -> dict[str, jax.Array]:
        """Test accuracy in %, with rules also after projection, and residuals."""
        evaluate = self.evaluate(network)
        test = evaluate(state.params, state.model_state, self.test)
        shown = {"accuracy": 100 * test["accuracy"], "loss": test["loss"]}
        if rules:
            masks = gap.magnitude_masks(state.params, rules)
            hard = gap.apply_masks(state.params, masks)
            pruned = evaluate(hard, state.model_state, self.test)
            shown["projected_accuracy"] = 100 * pruned["accuracy"]
        if isinstance(state.opt_state, admm.ADMMState):
            found = admm.residuals(state.params, state.opt_state)
            shown["residual"] = found.relative
            shown["rho"] = state.opt_state.rho
            z = trees.map_partial(
                lambda z, _: z, state.opt_state.z, state.params, absent=trees.keep_rest
            )
            constrained = evaluate(z, state.model_state, self.test)
            shown["z_accuracy"] = 100 * constrained["accuracy"]
            started = state.opt_state.iteration > 0
            shown["dual_residual"] = jnp.where(started, found.dual, 0.0)
        return shown

    def _make_evaluate(self, network: Network) -> Evaluate:
        return make_evaluate(
            models.create(network.model),
            batch_size=250 * (1 if self.mesh is None else self.mesh.size),
            mean=self.dataset.mean,
            std=self.dataset.std,
            compute_dtype=jnp.dtype(self.config.compute_dtype),
            mesh=self.mesh,
        )


def _describe(state: TrainState) -> dict[str, Any]:
    """What is left of the weights, counted from the weights themselves."""
    rows = gap.summary(state.params, [(".*/kernel", True)])
    values = [np.asarray(layer["kernel"]).ravel() for layer in _layers(state.params)]
    nonzero = np.concatenate(values)
    nonzero = nonzero[nonzero != 0]
    counts, _ = np.histogram(np.clip(nonzero, EDGES[0], EDGES[-1]), EDGES)
    return {
        "left": {row.path.removesuffix("/kernel"): row.kept for row in rows},
        "sizes": {row.path.removesuffix("/kernel"): row.size for row in rows},
        "histogram": counts.tolist(),
    }


def _layers(params: PyTree) -> list[PyTree]:
    return [layer for layer in params.values() if "kernel" in layer]
