"""Training, accuracies of every rounding, bounds, errors of layers, times."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax

from core.types import Array, PyTree
from experiments import data, models
from experiments.pruning.fit import fit, stage_key
from experiments.rounding import layers
from experiments.rounding.networks import NETWORKS, PAIRS, Network
from experiments.training import TrainState, init_state, make_epoch, make_evaluate, put
from experiments.workdir import Run
from gap.packed import time_in_turns
from quant import normalization, squant
from quant.aware import aware

MODES = get_args(squant.Mode)
BATCH = 250
"""Images in a call."""
TIMED = ("e", "ekc")
TIMED_BITS = 4


class Trial(NamedTuple):
    """A network with its weights; the seed is 0 where they are a file."""

    network: str
    seed: int

    @property
    def stage(self) -> str:
        """The prefix of the stages of this trial."""
        return f"{self.network}-s{self.seed}"


class Protocol:
    """Measures trials of one network in a run's work folder."""

    def __init__(self, run: Run, config: Any, network: str):
        self.run = run
        self.config = config
        self.network: Network = NETWORKS[network]
        self.model = self.network.build()
        name = "cifar10" if self.network.pretrained else config.dataset
        self.dataset = data.load(name, data_dir=run.data_dir)
        self.mean, self.std = self.dataset.mean, self.dataset.std
        if self.network.pretrained:
            self.mean, self.std = models.PRETRAINED_MEAN, models.PRETRAINED_STD
        self.train = self.dataset.train
        if config.examples and not self.network.pretrained:
            self.train = data.subset(self.train, config.examples, 0)
        self.test = self.dataset.test
        if config.images:
            self.test = data.subset(self.test, config.images, 0)
        # One program for all widths and roundings: the weights are an argument.
        self._predict = jax.jit(lambda v, images: self.apply(v, images).argmax(-1))
        self._quantized = functools.lru_cache(maxsize=None)(self._make_quantized)

    def trials(self) -> list[Trial]:
        """Returns one trial for each seed, or one alone for weights of a file."""
        seeds = (0,) if self.network.pretrained else self.run.seeds
        return [Trial(self.network.name, seed) for seed in seeds]

    def run_trial(self, trial: Trial) -> dict[str, Any]:
        """Returns all that is measured: see the methods called here.

        Accuracies stand as a string of which images were right, see `unpack`.
        """
        whole = self.weights(trial)
        inputs = self.network.inputs(whole["params"])
        start = whole
        if self.config.fold:
            start = normalization.fold_batch_norm(whole, PAIRS)
        stage = functools.partial(self._stage, trial)
        found: dict[str, Any] = stage("float", lambda: self.float_of(whole))
        found["rounded"] = {
            bits: stage(f"b{bits}", functools.partial(self._round, start, inputs, bits))
            for bits in self.config.bits
        }
        found["inputs"] = {
            bits: stage(f"a{bits}", functools.partial(self._both, start, inputs, bits))
            for bits in self.config.input_bits
        }
        found["bounds"] = stage("bounds", lambda: self._bounds(start))
        found["layers"] = stage("layers", lambda: self._layers(start))
        found["ms"] = stage("time", lambda: self._time(start))
        return found

    def _stage(
        self, trial: Trial, name: str, fn: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        return self.run.stage(f"{trial.stage}-{name}", fn)

    def apply(self, variables: PyTree, images: Array) -> Array:
        """Returns the logits of images as they are stored, uint8."""
        x = data.normalize(images, self.mean, self.std)
        return self.model.apply(variables, x)  # type: ignore[return-value]

    def float_of(self, variables: PyTree) -> dict[str, Any]:
        """Returns which test images are right with weights as they are."""
        return {"float": self.right(variables)}

    def right(self, variables: PyTree, predict: Any = None) -> str:
        """Returns which test images are right, packed.

        Args:
          variables: of the network.
          predict: classes of `(variables, images)`; the float network's if left out.
        """
        predict = predict or self._predict
        images, found = self.test.images, []
        for first in range(0, len(images), BATCH):
            part = images[first : first + BATCH]
            full = np.resize(part, (min(BATCH, len(images)), *part.shape[1:]))
            found.append(np.asarray(predict(variables, full))[: len(part)])
        return pack(np.concatenate(found) == self.test.labels)

    def _round(self, start: PyTree, inputs: Any, bits: int) -> dict[str, Any]:
        """Accuracies with all kernels rounded in every way, inputs as they are."""
        found = {}
        for mode in MODES:
            quantized = layers.rounded(start, bits, mode)
            found[mode] = self.right(quantized)
            if mode == "e" and bits <= self.config.corrected_to:
                changed = layers.corrected(start, quantized, inputs)
                found["bias"] = self.right(changed)
        return found

    def _make_quantized(self, bits: int) -> Any:
        """The network with inputs of layers quantized, as one program."""
        inputs = self.network.inputs(self._like())
        rules, _ = layers.input_rules(inputs, bits)

        @jax.jit
        def predict(variables: PyTree, scales: Any, images: Array) -> Array:
            network = aware(self.apply, rules, scales)
            return network(variables, images).argmax(-1)

        return predict

    def _like(self) -> PyTree:
        """Parameters of the network's shapes."""
        x = jnp.zeros((1, *self.test.images.shape[1:]))
        shapes = jax.eval_shape(self.model.init, jax.random.key(0), x)
        return jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), shapes)["params"]

    def _both(self, start: PyTree, inputs: Any, bits: int) -> dict[str, Any]:
        """Accuracies with weights and inputs quantized, and with inputs alone."""
        scales = layers.input_rules(inputs, bits)[1]
        program = self._quantized(bits)

        def predict(variables: PyTree, images: Any) -> Array:
            return program(variables, scales, images)

        found = {"float": self.right(start, predict)}
        for mode in ("e", "ekc"):
            found[mode] = self.right(layers.rounded(start, bits, mode), predict)
        return found

    def _bounds(self, start: PyTree) -> dict[str, Any]:
        """The largest sums of errors by width, rounding and layer."""
        return {
            str(bits): {mode: layers.bounds(start, bits, mode) for mode in MODES}
            for bits in self.config.bits
        }

    def _layers(self, start: PyTree) -> dict[str, Any]:
        """Output errors of layers on training images, and how SQuant's sum fits."""
        images = jnp.asarray(self.train.images[: self.config.layer_images])
        seen = layers.moments(self.apply, self.network, start, images)
        fitted = jax.jit(normalization.fit_moment)
        fits = {}
        for name, (mean, moment) in seen.items():
            rest = moment - mean[:, :, None, None] * mean[None, None]
            pair = fitted(moment), fitted(rest)
            fits[name] = [float(x) for f in pair for x in (f.cosine, f.pairs)]
        errors = {
            str(bits): {
                mode: layers.output_errors(
                    seen, start, layers.rounded(start, bits, mode)
                )
                for mode in MODES
            }
            for bits in self.config.bits
        }
        return {"fits": fits, "errors": errors}

    def _time(self, start: PyTree) -> dict[str, Any]:
        """Milliseconds of a call that quantizes all kernels, compiled before."""
        calls = [
            functools.partial(layers.rounded_at_once, start, TIMED_BITS, mode)
            for mode in TIMED
        ]
        seconds = time_in_turns(calls, self.config.turns)
        return {mode: 1e3 * s for mode, s in zip(TIMED, seconds, strict=True)}

    def weights(self, trial: Trial) -> PyTree:
        """Returns the variables of a file, or those that a seed trains."""
        if self.network.pretrained:
            return models.load_pretrained(trial.network)
        config, split = self.config, put(self.train)
        steps = config.epochs * (len(self.train.labels) // config.batch_size)
        rate = optax.cosine_decay_schedule(config.learning_rate, steps)
        optimizer = optax.adam(rate)
        epoch = make_epoch(
            self.model,
            optimizer,
            batch_size=config.batch_size,
            mean=self.mean,
            std=self.std,
        )
        evaluate = make_evaluate(
            self.model, batch_size=BATCH, mean=self.mean, std=self.std
        )
        test = put(self.test)

        def watch(state: TrainState) -> dict[str, Array]:
            found = evaluate(state.params, state.model_state, test)
            return {"accuracy": 100 * found["accuracy"], "loss": found["loss"]}

        stage = f"{trial.stage}-train"
        first = stage_key(trial.seed, f"{trial.network}-init")
        shape = self.train.images.shape[1:]
        state, _ = fit(
            self.run,
            stage,
            init_state(self.model, optimizer, first, shape),
            epoch,
            split,
            config.epochs,
            key=stage_key(trial.seed, stage),
            watch=watch,
        )
        return {"params": state.params, **state.model_state}


def pack(right: np.ndarray) -> str:
    """Returns truth values as text, a hexadecimal digit for four of them."""
    return f"{len(right)}:{np.packbits(right).tobytes().hex()}"


def unpack(text: str) -> np.ndarray:
    """Returns what `pack` was given, bool."""
    count, digits = text.split(":")
    bits = np.frombuffer(bytes.fromhex(digits), np.uint8)
    return np.unpackbits(bits, count=int(count)).astype(bool)
