"""Float training, widths that learn, and baselines with the same number of epochs."""

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from core import trees
from core.types import Array, PyTree
from experiments import data
from experiments.pruning.fit import fit, stage_key
from experiments.training import (
    TrainState,
    copy_state,
    cross_entropy,
    init_state,
    make_epoch,
    make_evaluate,
    put,
)
from experiments.widths.joint import Joint
from experiments.widths.networks import GROUPS, NETWORKS, RELAXATIONS, Frozen
from experiments.workdir import Run
from quant import bitwidth
from quant.bitwidth.levels import WIDTHS
from quant.sensitivity import Sensitivity, greedy, sensitivity

BATCH = 250
"""Images in a call that trains nothing."""
WATCHED = 500
"""Test images on which the progress of training is shown."""
METHODS = ("learned", "uniform", "random", "greedy")
TENTH = 0.1
"""Of the float rate, once weights are quantized; and of the training set, held out."""


class Trial(NamedTuple):
    """A method at a budget of average bits, with a seed."""

    network: str
    seed: int
    method: str
    target: float
    group: str = "tensor"
    relaxation: str = "interpolation"

    @property
    def stage(self) -> str:
        """The prefix of the stages of this trial."""
        name = f"{self.network}-s{self.seed}-{self.method}-b{self.target:g}"
        if self.method != "learned":
            return name
        return f"{name}-{self.group}-{self.relaxation}"


def trials(config: Any, network: str, seeds: Sequence[int]) -> Iterator[Trial]:
    """Yields all trials of a network; what else is compared has the first seed alone.

    Uniform widths are whole numbers; those on both sides of a fractional budget are
    there too.
    """
    wanted = []
    for seed in seeds:
        for target in config.bits:
            near = {np.floor(target), np.ceil(target)}
            wanted += [Trial(network, seed, "uniform", float(b)) for b in sorted(near)]
            others = [m for m in METHODS if m != "uniform"]
            wanted += [Trial(network, seed, method, target) for method in others]
    if network == config.networks[-1]:
        at = Trial(network, seeds[0], "learned", config.compared_bits)
        wanted += [at._replace(group=group) for group in config.groups]
        wanted += [at._replace(relaxation=name) for name in config.relaxations]
    yield from dict.fromkeys(wanted)


class Protocol:
    """Trains the trials of one network in a run's work folder."""

    def __init__(self, run: Run, config: Any, network: str):
        self.run, self.config, self.network = run, config, network
        about = NETWORKS[network]
        self.model = about.build()
        name = about.dataset or config.dataset
        self.dataset = data.load(name, data_dir=run.data_dir)
        self.pixels: dict[str, Any] = {
            "mean": self.dataset.mean,
            "std": self.dataset.std,
        }
        train = self.dataset.train
        if config.examples:
            train = data.subset(train, config.examples, 0)
        self.count = len(train.labels)
        left, held = data.hold_out(train, max(int(TENTH * self.count), 1), 0)
        self.left, self.held = put(left), put(held)
        test = self.dataset.test
        self.test = put(test)
        # In each epoch some test images show how it goes; all of them count at the end.
        count = min(WATCHED, len(test.labels))
        self.watched = put(data.subset(test, count, 0))
        self.steps = len(left.labels) // config.batch_size
        self._tune = functools.lru_cache(maxsize=None)(self._make_tune)
        self._joint = functools.lru_cache(maxsize=None)(self._make_joint)
        self._start = functools.lru_cache(maxsize=None)(self._trained)

    def run_trial(self, trial: Trial) -> dict[str, Any]:
        """Returns `accuracy` in %, `widths` by path, `bytes` and `bits` on average."""
        if trial.method == "learned":
            state, widths = self._learned(trial)
            epochs = self.config.epochs[2]
        else:
            start = self._start(trial.seed)[0]
            widths = self._widths(trial, start)
            optimizer = self._optimizer()
            state = copy_state(start._replace(opt_state=optimizer.init(start.params)))
            epochs = sum(self.config.epochs[1:])
        return self._tuned(trial, state, widths, epochs)

    def float_of(self, seed: int) -> dict[str, Any]:
        """Returns `accuracy` in % of the float network."""
        return self._start(seed)[1]

    def sensitivity(self, seed: int) -> Sensitivity:
        """Returns the losses of the float network with one kernel at each width.

        On examples that are held out; a kernel is a group.
        """
        start = self._start(seed)[0]

        def measure() -> dict[str, Any]:
            images, labels = self._sample()

            def loss(params: PyTree, stats: PyTree, images: Array, labels: Array):
                return self._error(params, stats, images, labels)

            found = sensitivity(
                loss,
                start.params,
                GROUPS["tensor"],
                start.model_state["batch_stats"],
                images,
                labels,
                widths=WIDTHS,
            )
            losses = trees.by_path(found.losses)
            return {"loss": found.loss, "losses": losses}

        name = f"{self.network}-s{seed}-sensitivity"
        stored = self.run.stage(name, lambda: _listed(measure()))
        losses = {k: np.asarray(v) for k, v in stored["losses"].items()}
        tree = _partial(start.params, losses)
        return Sensitivity(stored["loss"], tree, WIDTHS)

    def sizes(self, seed: int) -> dict[str, int]:
        """Returns the weights of each kernel, by path."""
        leaves = trees.by_path(self._start(seed)[0].params)
        return {n: leaf.size for n, leaf in leaves.items() if n.endswith("/kernel")}

    def seconds(self, seed: int) -> dict[str, float]:
        """Returns the seconds of a joint epoch by relaxation, compiled before."""
        start = self._start(seed)[0]

        def measure() -> dict[str, float]:
            found = {}
            for name in self.config.relaxations:
                joint, epoch = self._joint("tensor", name)
                stats = start.model_state["batch_stats"]
                state = joint.start(start.params, stats, self.config.compared_bits)
                for _ in range(2):
                    before = time.perf_counter()
                    given = copy_state(state), (self.left, self.held)
                    jax.block_until_ready(epoch(*given, jax.random.key(0)))
                    found[name] = time.perf_counter() - before
            return found

        return self.run.stage(f"{self.network}-s{seed}-seconds", measure)

    def target_of(self, trial: Trial) -> float:
        """Returns the average bits of a trial: headers included, all sizes are equal.

        The size is that of one width a kernel at the target.
        """
        params = self._start(trial.seed)[0].params
        ones = bitwidth.uniform(params, GROUPS["tensor"], 1)
        size = bitwidth.size(params, ones)
        limit = size._replace(weights=int(trial.target * size.quantized)).bytes
        if trial.group == "tensor":
            return trial.target
        ones = bitwidth.uniform(params, GROUPS[trial.group], 1)
        return bitwidth.bits_within(params, ones, limit)

    def _learned(self, trial: Trial) -> tuple[TrainState, PyTree]:
        """Weights and integer widths after the joint training."""
        start, _ = self._start(trial.seed)
        target = self.target_of(trial)
        joint, epoch = self._joint(trial.group, trial.relaxation)
        stats = start.model_state["batch_stats"]

        def watch(state: TrainState) -> dict[str, Array]:
            bits = bitwidth.average_bits(state.params["net"], joint.beta(state))
            return {"bits": bits, "multiplier": state.opt_state["multiplier"]}

        stage = f"{trial.stage}-joint"
        splits: Any = (self.left, self.held)
        state, _ = fit(
            self.run,
            stage,
            joint.start(start.params, stats, target),
            epoch,
            splits,
            self.config.epochs[1],
            key=stage_key(trial.seed, "joint"),
            watch=watch,
        )
        net, stats = state.params["net"], state.model_state["batch_stats"]

        def allocate() -> dict[str, Any]:
            beta = joint.beta(state)
            slopes = self._slopes(trial.group)(beta, net, stats, *self._sample())
            found = bitwidth.round_to_budget(
                net, beta, slopes, target, RELAXATIONS[trial.relaxation].widths
            )
            return _listed({"widths": trees.by_path(found)})

        stored = self.run.stage(f"{trial.stage}-widths", allocate)
        state = TrainState(
            state.step, net, {"batch_stats": stats}, state.opt_state["net"]
        )
        return state, _partial(net, stored["widths"])

    def _slopes(self, group: str) -> Any:
        rules = GROUPS[group]

        def loss(beta: PyTree, net: PyTree, stats: PyTree, *part: Array) -> Array:
            return self._error(bitwidth.with_widths(net, beta, rules), stats, *part)

        return jax.jit(jax.grad(loss))

    def _sample(self) -> tuple[Array, Array]:
        """Examples that are held out."""
        count = 2 * BATCH
        return jnp.asarray(self.held.images[:count]), jnp.asarray(
            self.held.labels[:count]
        )

    def _error(
        self, params: PyTree, stats: PyTree, images: Array, labels: Array
    ) -> Array:
        x = data.normalize(images, **self.pixels)
        logits: Any = self.model.apply({"params": params, "batch_stats": stats}, x)
        return cross_entropy(logits, labels).mean()

    def _widths(self, trial: Trial, start: TrainState) -> PyTree:
        """Integer widths of a baseline."""
        rules, target = GROUPS[trial.group], trial.target
        if trial.method == "uniform":
            return bitwidth.uniform(start.params, rules, int(target))
        if trial.method == "random":
            key = stage_key(trial.seed, trial.stage)
            return bitwidth.random_widths(key, start.params, rules, target)
        return greedy(self.sensitivity(trial.seed), start.params, target)

    def _tuned(
        self, trial: Trial, state: TrainState, widths: PyTree, epochs: int
    ) -> dict[str, Any]:
        epoch, evaluate = self._tune(trial.group)
        placed = trees.map_partial(lambda w: jnp.asarray(w, jnp.int32), widths)
        model_state = {**state.model_state, "widths": placed}
        state = copy_state(state._replace(model_state=model_state))

        def finish(state: TrainState) -> dict[str, Any]:
            size = bitwidth.size(state.params, widths)
            about = {"bytes": size.bytes, "bits": size.average_bits}
            about |= self._accuracy(evaluate, state)
            listed = _listed({"widths": trees.by_path(widths)})
            return {**about, "rate": size.compression_rate, **listed}

        _, result = fit(
            self.run,
            f"{trial.stage}-tune",
            state,
            epoch,
            self.left,
            epochs,
            key=stage_key(trial.seed, "tune"),
            watch=functools.partial(self._watch, evaluate),
            finish=finish,
        )
        return result

    def _optimizer(self) -> optax.GradientTransformation:
        """Of quantized weights: a rate that stays in the joint epochs, then falls."""
        rate = TENTH * self.config.learning_rate
        joint, tune = (max(n * self.steps, 1) for n in self.config.epochs[1:])
        fall = optax.cosine_decay_schedule(rate, tune)
        return optax.adam(
            optax.join_schedules([optax.constant_schedule(rate), fall], [joint])
        )

    def _make_tune(self, group: str) -> tuple[Any, Any]:
        """The compiled epoch and evaluation at frozen widths."""
        frozen = Frozen(self.model, GROUPS[group])
        size = self.config.batch_size
        epoch = make_epoch(frozen, self._optimizer(), batch_size=size, **self.pixels)
        return epoch, make_evaluate(frozen, batch_size=BATCH, **self.pixels)

    def _make_joint(self, group: str, relaxation: str) -> tuple[Joint, Any]:
        joint = Joint(
            model=self.model,
            rules=GROUPS[group],
            relaxation=RELAXATIONS[relaxation],
            optimizer=self._optimizer(),
            widths=optax.adam(self.config.width_rate),
            steps=self.config.epochs[1] * self.steps,
            batch_size=self.config.batch_size,
            single_level=self.config.single_level,
            **self.pixels,
        )
        return joint, joint.make_epoch()

    def _trained(self, seed: int) -> tuple[TrainState, dict[str, Any]]:
        """The float network, from the images that are not held out."""
        epochs, size = self.config.epochs[0], self.config.batch_size
        rate = self.config.learning_rate
        optimizer = optax.adam(
            optax.cosine_decay_schedule(rate, max(epochs * self.steps, 1))
        )
        epoch = make_epoch(self.model, optimizer, batch_size=size, **self.pixels)
        evaluate = make_evaluate(self.model, batch_size=BATCH, **self.pixels)

        first = stage_key(seed, f"{self.network}-init")
        shape = self.left.images.shape[1:]
        return fit(
            self.run,
            f"{self.network}-s{seed}-train",
            init_state(self.model, optimizer, first, shape),
            epoch,
            self.left,
            epochs,
            key=stage_key(seed, "train"),
            watch=functools.partial(self._watch, evaluate),
            finish=functools.partial(self._accuracy, evaluate),
        )

    def _watch(self, evaluate: Any, state: TrainState) -> dict[str, Array]:
        found = evaluate(state.params, state.model_state, self.watched)
        accuracy = 100 * found["accuracy"]
        return {"watched_accuracy": accuracy, "watched_loss": found["loss"]}

    def _accuracy(self, evaluate: Any, state: TrainState) -> dict[str, Any]:
        """Accuracy in % on all test images."""
        found = evaluate(state.params, state.model_state, self.test)
        return {"accuracy": 100 * float(found["accuracy"])}


def _listed(found: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays as lists, for a stage's result."""
    return jax.tree.map(lambda x: np.asarray(x).tolist(), dict(found))


def _partial(params: PyTree, parts: Mapping[str, Any]) -> PyTree:
    """A partial tree of arrays from a mapping of paths."""
    names, _, treedef = trees.flatten(params)
    found = [np.asarray(parts[name]) if name in parts else None for name in names]
    return jax.tree.unflatten(treedef, found)
