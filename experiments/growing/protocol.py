"""Both phases of a trial, at equal budgets.

Each seed draws one network. In the first phase a method trains it and chooses weights;
in the second all are fine-tuned with fixed masks by a fresh Adam whose rate decays.
Every method gets the same number of steps in both, on the same order of images.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gap
from core import trees
from core.errors import check_range
from core.types import PyTree
from experiments import data
from experiments.growing import methods
from experiments.growing.methods import Phase
from experiments.growing.networks import Network, kernel_macs
from experiments.images import shrunk
from experiments.pruning.fit import fit, stage_key
from experiments.pruning.methods import decayed_adam
from experiments.training import (
    TrainState,
    init_state,
    make_epoch,
    make_evaluate,
    put,
    restart,
)
from experiments.workdir import Run

WATCHED = 1000
"""Test images on which accuracy is followed; results are of all test images."""


class Trial(NamedTuple):
    """One method at one density with one seed; `density` is 1 for the dense network."""

    seed: int
    method: str
    density: float

    def stage(self, network: Network, part: str) -> str:
        """The name of a stage of this trial, shared by all that train the same."""
        if part == "grow":
            return self.grown()._name(network, part)
        return self._name(network, part)

    def grown(self) -> "Trial":
        """The trial whose first phase this one takes.

        One-shot prunes the dense network's; STR knows no density in it.
        """
        method = {"one_shot": "dense"}.get(self.method, self.method)
        density = 1.0 if method in ("dense", "str") else self.density
        return Trial(self.seed, method, density)

    def _name(self, network: Network, part: str) -> str:
        return f"{network.name}-s{self.seed}-{self.method}-{self.density:g}-{part}"


class Chosen(NamedTuple):
    """What the first phase leaves: a network, its masks, and how it got there.

    Attributes:
      state: the network, pruned, with batch statistics; its optimizer's state is stale.
      masks: of the network; no masks where it is dense.
      explored: share of prunable weights that were active at some step.
      cost: mean step of the phase as a share of the dense step, of all copies.
      reached: density that the method reached by itself, before pruning to the target.
    """

    state: TrainState
    masks: PyTree
    explored: float
    cost: float
    reached: float


class Protocol:
    """Trains the trials of one network in a run's work folder."""

    def __init__(self, run: Run, config: Any, network: Network):
        self.run, self.config, self.network = run, config, network
        found = data.load(config.of(network, "dataset"), data_dir=run.data_dir)
        train, test = found.train, shrunk(found.test, network.shrink)
        if examples := config.of(network, "examples"):
            check_range("--examples", examples, 1, len(train.labels))
            train = data.subset(train, examples, 0)
        train = shrunk(train, network.shrink)
        watched = data.subset(test, min(WATCHED, len(test.labels)), 0)
        self.dataset = found
        self.train, self.test, self.watched = map(put, (train, test, watched))
        self.steps_per_epoch = len(train.labels) // config.batch_size
        self.model = network.build()
        self.shape = train.images.shape[1:]
        self.macs = kernel_macs(self.model, self.shape)
        # Compiled at every call: kept, for `fit` never gives a state away.
        self._initial = functools.cache(self._make_initial)
        self.shapes = self._initial(0).params
        self._epoch = functools.lru_cache(maxsize=None)(self._make_epoch)
        self._evaluate = functools.cache(self._make_evaluate)

    def trials(self) -> Iterator[Trial]:
        """Yields every trial, the dense network of each seed first."""
        config, network = self.config, self.network
        for seed in config.seeds_of(network, tuple(self.run.seeds)):
            yield Trial(seed, "dense", 1.0)
            for density in config.of(network, "densities"):
                for method in config.of(network, "methods"):
                    yield Trial(seed, method, density)
            for method in config.ablation_of(network, seed, self.run.seeds):
                yield Trial(seed, method, config.ablation_density)

    def run_trial(self, trial: Trial) -> dict[str, Any]:
        """Runs both phases; returns the result of the second and account of the first.

        The result holds the test `accuracy` in %, `pruned_accuracy` before fine-tuning,
        `left` (share of prunable weights that are not 0), `explored`, `cost` in dense
        epochs and `reached`.
        """
        found = self._choose(trial)
        _, epochs = self.config.of(self.network, "epochs")
        stage = trial.stage(self.network, "tune")
        tuned = gap.masked(self._tuning(), found.masks)
        evaluate = self._evaluate(False)
        before = evaluate(found.state.params, found.state.model_state, self.test)
        _, result = fit(
            self.run,
            stage,
            restart(found.state, tuned),
            self._epoch("tune", 1.0),
            self.train,
            epochs,
            key=self._order(trial.seed, "tune"),
            watch=functools.partial(self._watch, "tune"),
            finish=functools.partial(self._finish, trial),
        )
        first, _ = self.config.of(self.network, "epochs")
        densities = _densities(found.masks)
        cost = first * found.cost + epochs * gap.training_cost(densities, self.macs)
        return result | {
            "pruned_accuracy": 100 * float(before["accuracy"]),
            "explored": found.explored,
            "cost": cost,
            "reached": found.reached,
        }

    def peak(self, trial: Trial) -> float:
        """Returns the largest share of prunable weights active at once in a cycle."""
        density, key = trial.density, stage_key(trial.seed, "masks")
        groups = methods.groups_of(trial.method, self._phase(density), self.shapes, key)
        wanted = gap.targets(self.shapes, self.network.rules(density))
        shapes = {k: w.shape for k, w in trees.by_path(self.shapes).items()}
        sizes = {k: math.prod(shapes[k]) for k in trees.paths(wanted)}
        kept = {k: t.kept(shapes[k]) for k, t in trees.by_path(wanted).items()}
        active = [
            sum(sizes[k] if k in part else kept[k] for k in sizes)
            for part in groups.parts
        ]
        return max(active) / sum(sizes.values())

    def _choose(self, trial: Trial) -> Chosen:
        """The first phase, and pruning to the target where the method has not yet."""
        rules = self.network.rules(trial.density) if trial.density < 1 else []
        train = self._grow_copies if trial.method == "p_gap" else self._grow
        state = train(trial.grown())
        none = trees.map_partial(lambda _: None, self.shapes)
        if trial.method == "dense":
            return Chosen(state, none, 1.0, 1.0, 1.0)
        if trial.method in ("one_shot", "str"):
            params, reached = state.params, 1.0
            if trial.method == "str":
                both = state.params
                params = gap.thresholded(both["net"], both["thresholds"])
                reached = self._share(gap.threshold_masks(*both.values()))
            params, masks = gap.prune_back(params, rules)
            return Chosen(state._replace(params=params), masks, 1.0, 1.0, reached)
        account, copies = state.opt_state, 1
        if trial.method == "p_gap":
            copies = account.steps.shape[0]
            state = methods.combined(state, rules, self._groups(trial.density))
            account = _merged(account)
        masks = account.masks
        if "gap" in trial.method:  # one group is dense yet
            params, masks = gap.prune_back(state.params, rules)
            state = state._replace(params=params)
        cost = copies * gap.training_cost(gap.mean_densities(account), self.macs)
        return Chosen(state, masks, self._share(account.ever), cost, self._share(masks))

    def _grow(self, trial: Trial) -> TrainState:
        """The first phase of one network."""
        method, seed = trial.method, trial.seed
        stage = trial.stage(self.network, "grow")
        start = self._initial(seed)
        params = start.params
        if method == "str":
            rules = [(self.network.prunable, True)]
            rules += [(regex, True) for regex, _ in self.network.fixed]
            start_at, _ = self.config.of(self.network, "str")
            thresholds = gap.init_thresholds(params, rules, start_at)
            params = {"net": params, "thresholds": thresholds}
        tx = self._optimizer(method, trial.density, seed)
        state = restart(start, tx, params)
        if isinstance(state.opt_state, gap.TrackedState):
            sparse = gap.apply_masks(params, state.opt_state.masks)
            state = restart(start, tx, sparse)
        state, _ = fit(
            self.run,
            stage,
            state,
            # Groups at random are another program for every seed.
            self._epoch(method, trial.density, seed * method.endswith("random")),
            self.train,
            self.config.of(self.network, "epochs")[0],
            key=self._order(seed, "grow"),
            watch=functools.partial(self._watch, method),
        )
        return state

    def _grow_copies(self, trial: Trial) -> TrainState:
        """The first phase of parallel grow-and-prune, all copies in one state."""
        phase, groups = self._phase(trial.density), self._groups(trial.density)
        stage = trial.stage(self.network, "grow")
        start = self._initial(trial.seed)
        masks = gap.random_masks(
            stage_key(trial.seed, "masks"), start.params, phase.rules
        )
        state = methods.copies_of(start, phase, groups, masks)

        def watch(state: TrainState) -> dict[str, jax.Array]:
            return self._watch("p_gap", methods.combined(state, phase.rules, groups))

        state, _ = fit(
            self.run,
            stage,
            state,
            self._epoch("p_gap", trial.density),
            self.train,
            self.config.of(self.network, "epochs")[0],
            key=self._order(trial.seed, "grow"),
            watch=watch,
        )
        return state

    def _make_initial(self, seed: int) -> TrainState:
        key = stage_key(seed, f"{self.network.name}-init")
        return init_state(self.model, optax.sgd(0.0), key, self.shape)

    def _order(self, seed: int, part: str) -> jax.Array:
        """The key of a phase: it orders the images, and knows no method."""
        return stage_key(seed, f"{self.network.name}-{part}")

    def _phase(self, density: float) -> Phase:
        config, network, per_epoch = self.config, self.network, self.steps_per_epoch
        epochs, _ = config.of(network, "epochs")
        return Phase(
            rules=tuple(network.rules(density)) if density < 1 else (),
            steps=epochs * per_epoch,
            learning_rate=config.learning_rate,
            every=config.of(network, "move_every"),
            stage=config.of(network, "stage") * per_epoch,
            round=config.round_epochs * per_epoch,
            kappa=config.kappa,
            decay=config.of(network, "str")[1],
        )

    def _groups(self, density: float) -> gap.Partition:
        return methods.groups_of("p_gap", self._phase(density), self.shapes)

    def _optimizer(
        self, method: str, density: float, seed: int
    ) -> optax.GradientTransformation:
        key = stage_key(seed, "masks")  # of a seed, the same first masks for all
        return methods.optimizer(method, self._phase(density), key, self.shapes)

    def _tuning(self) -> optax.GradientTransformation:
        steps = self.config.of(self.network, "epochs")[1] * self.steps_per_epoch
        return decayed_adam(self.config.learning_rate, steps, 0.01)

    def _make_epoch(self, method: str, density: float, seed: int = 0) -> Any:
        """The compiled epoch; keys and masks are in the state, so seeds share it."""
        if method == "tune":
            tx = gap.masked(self._tuning(), {})
        else:
            tx = self._optimizer(method, density, seed)
        common: dict[str, Any] = {
            "batch_size": self.config.batch_size,
            "mean": self.dataset.mean,
            "std": self.dataset.std,
            "augment": self.network.augment,
        }
        epoch = make_epoch(
            methods.Thresholded(self.model) if method == "str" else self.model,
            tx,
            weight_decay=self.config.weight_decay,
            **common,
        )
        if method != "p_gap":
            return epoch
        parts = epoch, self._phase(density), self._groups(density)
        if not self._initial(0).model_state:
            return methods.epoch_of_copies(*parts)
        measure = methods.make_measure(self.model, **common)
        return methods.epoch_of_copies(*parts, measure)

    def _make_evaluate(self, thresholds: bool) -> Any:
        return make_evaluate(
            methods.Thresholded(self.model) if thresholds else self.model,
            batch_size=500,
            mean=self.dataset.mean,
            std=self.dataset.std,
        )

    def _watch(self, method: str, state: TrainState) -> dict[str, jax.Array]:
        """Accuracy in % on some test images, as the network is in this epoch."""
        evaluate = self._evaluate(method == "str")
        found = evaluate(state.params, state.model_state, self.watched)
        return {"watched_accuracy": 100 * found["accuracy"], "loss": found["loss"]}

    def _finish(self, trial: Trial, state: TrainState) -> dict[str, Any]:
        """Test accuracy in %, and the share of prunable weights that is not 0."""
        found = self._evaluate(False)(state.params, state.model_state, self.test)
        used = jax.tree.map(lambda w: w != 0, state.params)
        wanted = gap.targets(self.shapes, self.network.rules(0.5))
        left = self._share(trees.select(wanted, used))
        return {"accuracy": 100 * float(found["accuracy"]), "left": left}

    def _share(self, masks: PyTree) -> float:
        """The share of True entries in all masks."""
        leaves = [np.asarray(m) for m in jax.tree.leaves(masks)]
        return float(sum(m.sum() for m in leaves) / sum(m.size for m in leaves))


def _densities(masks: PyTree) -> dict[str, float]:
    return {k: float(jnp.mean(m)) for k, m in trees.by_path(masks).items()}


def _merged(account: gap.TrackedState) -> gap.TrackedState:
    """One account of all copies: what any explored, the mean of what each spent."""
    return account._replace(
        steps=account.steps[0],
        ever=jax.tree.map(lambda m: m.any(axis=0), account.ever),
        spent=jax.tree.map(lambda s: s.mean(axis=0), account.spent),
    )
