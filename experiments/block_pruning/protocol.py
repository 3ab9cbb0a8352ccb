"""Training and pruning at equal budgets, and the time that packed networks take.

Each seed trains one dense network. Every method and rate prunes it gradually while it
trains on, for the same number of epochs on the same order of images; so does the dense
control. Times are of whole networks on the test images, and of one wide layer with
random weights.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gap
from core import trees
from experiments import data, models
from experiments.block_pruning.methods import (
    block_of,
    pack_scipy,
    pack_whole,
    packer,
    pattern_of,
)
from experiments.block_pruning.networks import (
    NETWORKS,
    Network,
    in_numpy,
    pruned_size,
)
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
from gap import packed


class Trial(NamedTuple):
    """One method at one rate with one seed; `block` is 0 where there are none."""

    network: str
    seed: int
    method: str
    rate: float
    block: int = 0

    @property
    def stage(self) -> str:
        """The prefix of the stages of this trial."""
        block = f"-b{self.block}" if self.block else ""
        return f"{self.network}-s{self.seed}-{self.method}{block}-{self.rate:g}x"


def trials(config: Any, network: str, seeds: Sequence[int]) -> Iterator[Trial]:
    """Yields every trial of a network, the dense control of each seed first."""
    for seed in seeds:
        wanted = [Trial(network, seed, "dense", 1.0)]
        for rate in config.rates:
            for method in config.methods:
                block = block_of(method, config.block)
                wanted.append(Trial(network, seed, method, rate, block))
        if "bcr" in config.methods:
            blocks = sorted({*config.blocks, config.block})
            rate = config.curve_rate
            wanted += [Trial(network, seed, "bcr", rate, block) for block in blocks]
        yield from dict.fromkeys(wanted)


class Protocol:
    """Trains and times trials on one data set in a run's work folder."""

    def __init__(self, run: Run, config: Any):
        self.run = run
        self.config = config
        self.dataset = data.load(config.dataset, data_dir=run.data_dir)
        train = self.dataset.train
        if config.examples:
            train = data.subset(train, config.examples, 0)
        self.train, self.test = put(train), put(self.dataset.test)
        self.steps_per_epoch = len(train.labels) // config.batch_size
        self._evaluate = functools.lru_cache(maxsize=None)(self._make_evaluate)
        self._parts = functools.lru_cache(maxsize=None)(self._make_parts)

    def run_trial(self, trial: Trial) -> tuple[TrainState, dict[str, Any]]:
        """Returns the trained state, and its `accuracy` in %, `kept` and `size`."""
        network = NETWORKS[trial.network]
        start = self._pretrained(network, trial.seed)
        optimizer, epoch = self._parts(network, trial.method, trial.rate, trial.block)

        def finish(state: TrainState) -> dict[str, Any]:
            kept, size = pruned_size(state.params, _masks(state))
            return {"kept": kept, "size": size}

        return fit(
            self.run,
            trial.stage,
            restart(start, optimizer),
            epoch,
            self.train,
            self.config.epochs[1],
            # Of a seed, the same order of images for all.
            key=stage_key(trial.seed, f"{network.name}-prune"),
            watch=functools.partial(self._watch, network),
            finish=finish,
        )

    def time_networks(self, states: Mapping[Trial, TrainState]) -> dict[str, Any]:
        """Returns milliseconds of trained networks by stage name and batch.

        With "-scipy" behind a name, of the same weights in scipy's CSR; with "-compact"
        of the dense network without the pruned filters, where they can leave.
        Networks of one kind are called in turns, so that a slow moment hits all.
        """
        name = next(iter(states)).network
        network = NETWORKS[name]
        pixels = np.asarray(self.test.images[: max(self.config.batches)], np.float32)
        pixels = (pixels / 255 - self.dataset.mean) / self.dataset.std
        x = pixels.reshape(len(pixels), -1).T.astype(np.float32)
        run = jax.jit(network.run)
        found: dict[str, Any] = {}
        for batch in self.config.batches:
            part = jnp.asarray(x[:, :batch].copy())
            calls = {}
            for trial, state in states.items():
                pack = packer(trial.method, trial.block)
                form = network.pack(state.params, _masks(state), pack)
                calls[trial.stage] = functools.partial(run, form, part)
                if trial.method == "filter" and network.compact:
                    form = network.compact(state.params, _masks(state), pack_whole)
                    calls[f"{trial.stage}-compact"] = functools.partial(run, form, part)
                if trial.method == "unstructured":
                    form = network.pack(state.params, _masks(state), pack_scipy)
                    calls[f"{trial.stage}-scipy"] = functools.partial(
                        network.run_scipy, in_numpy(form), np.asarray(part)
                    )
            seconds = packed.time_in_turns(list(calls.values()), self.config.turns)
            for key, value in zip(calls, seconds, strict=True):
                found.setdefault(key, {})[str(batch)] = 1e3 * value
        return found

    def time_layer(self) -> dict[str, Any]:
        """Returns milliseconds of one wide layer by "method-rate" and batch.

        Its weights are random: time depends on shapes and the pattern alone.
        """
        config, width = self.config, self.config.width
        rng = np.random.default_rng(0)
        w = rng.standard_normal((width, width)).astype(np.float32)
        found: dict[str, Any] = {}
        matrices: dict[str, Any] = {}
        forms = {"dense-1": packer("dense", 0)(w, np.ones(w.shape, bool))}
        for rate in config.rates:
            for method in config.methods:
                pattern = pattern_of(method, config.layer_block)
                target = gap.Target(1 / rate, pattern=pattern)
                mask = gap.magnitude_masks({"w": jnp.asarray(w)}, [("w", target)])["w"]
                pack = packer(method, config.layer_block)
                forms[f"{method}-{rate:g}"] = pack(w, mask)
                if method == "unstructured":
                    matrices[f"scipy-{rate:g}"] = pack_scipy(w, mask)
        product = jax.jit(packed.matmul, static_argnames="layout")
        for batch in config.batches:
            x = jnp.asarray(rng.standard_normal((width, batch)), jnp.float32)
            calls: dict[str, Any] = {
                key: functools.partial(product, x, form, layout="feature")
                for key, form in forms.items()
            }
            rows = np.asarray(x)
            for key, matrix in matrices.items():
                calls[key] = functools.partial(matrix.__matmul__, rows)
            seconds = packed.time_in_turns(list(calls.values()), config.turns)
            for key, value in zip(calls, seconds, strict=True):
                found.setdefault(key, {})[str(batch)] = 1e3 * value
        return found

    def choose_block(self) -> dict[str, Any]:
        """Returns the block that timing of random weights selects for the layer."""
        config = self.config
        choice = packed.select_block(
            (config.width, config.width),
            1 / config.curve_rate,
            max(config.batches),
            [gap.BCR(block, block, split=0.5) for block in config.blocks],
            timer=functools.partial(packed.time_in_turns, turns=config.turns),
        )
        times = {str(p.inputs): 1e3 * s for p, s in choice.seconds.items()}
        return {"block": choice.pattern.inputs, "ms": times}

    def _pretrained(self, network: Network, seed: int) -> TrainState:
        stage = f"{network.name}-s{seed}-pretrain"
        optimizer, epoch = self._parts(network, "pretrain", 1.0, 0)
        model = models.create(network.model)
        key = stage_key(seed, f"{network.name}-init")
        shape = self.train.images.shape[1:]
        state, _ = fit(
            self.run,
            stage,
            init_state(model, optimizer, key, shape),
            epoch,
            self.train,
            self.config.epochs[0],
            key=stage_key(seed, stage),
            watch=functools.partial(self._watch, network),
        )
        return state

    def _make_parts(self, network: Network, method: str, rate: float, block: int):
        """The optimizer and the compiled epoch of a method."""
        config = self.config
        steps = config.epochs[1] * self.steps_per_epoch
        optimizer: Any = decayed_adam(config.learning_rate, steps, 0.01)
        if method == "pretrain":
            optimizer = optax.adam(config.learning_rate)
        elif method != "dense":
            end = max(steps // 2, 1)
            schedule = gap.Cubic(0, end, max(end // 20, 1))
            rules = network.rules(
                rate, pattern_of(method, block), self._shapes(network)
            )
            optimizer = gap.prune(optimizer, rules, schedule)
        epoch = make_epoch(
            models.create(network.model),
            optimizer,
            batch_size=config.batch_size,
            mean=self.dataset.mean,
            std=self.dataset.std,
        )
        return optimizer, epoch

    def _shapes(self, network: Network) -> Any:
        model = models.create(network.model)
        images = jnp.zeros((1, *self.train.images.shape[1:]), jnp.float32)
        init = functools.partial(model.init, train=False)
        return jax.eval_shape(init, jax.random.key(0), images)["params"]

    def _watch(self, network: Network, state: TrainState) -> dict[str, jax.Array]:
        test = self._evaluate(network)(state.params, state.model_state, self.test)
        return {"accuracy": 100 * test["accuracy"], "loss": test["loss"]}

    def _make_evaluate(self, network: Network):
        return make_evaluate(
            models.create(network.model),
            batch_size=250,
            mean=self.dataset.mean,
            std=self.dataset.std,
        )


def _masks(state: TrainState) -> Any:
    """The masks of a state, `None` where it is dense."""
    if isinstance(state.opt_state, gap.MaskedState):
        return state.opt_state.masks
    return trees.map_partial(lambda _: None, state.params)
