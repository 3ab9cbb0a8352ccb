"""A network of few bits as a black box: its scales in, a loss out.

Weights and inputs of all layers are integers times scales, and rounding has no
derivative: what is tuned is the logarithm of every scale, relative to the one of least
error, from values of the loss alone. So it goes with a device that only runs.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import quant
from core.types import Array, PyTree
from experiments import data, models
from experiments.data import Split
from experiments.pruning.fit import stage_key
from experiments.pruning.trainer import Trainer, cosine, jitted_accuracy
from experiments.workdir import Run
from experiments.zeroth.arms import ARMS
from quant.calibration import BestScale, MaxAbs

MU = 0.02
"""A scale changes by 2 % of itself in a query, on average over a direction's length."""
GRADIENT = "straight-through gradient"


class Tuned(NamedTuple):
    """Logarithms of scales over those of least error, like the scales."""

    weights: dict[str, Array]
    inputs: dict[str, Array]


class Bench:
    """One network and seed: floats, scales, and the loss of a choice of scales."""

    def __init__(self, run: Run, config: Any):
        self.run, self.config = run, config
        self.dataset = data.load(config.dataset, data_dir=run.data_dir)
        train = self.dataset.train
        if config.examples:
            train = data.subset(train, config.examples, 0)
        self.pixels: dict[str, Any] = {
            "mean": self.dataset.mean,
            "std": self.dataset.std,
        }
        self.model: nn.Module = models.create("lenet_300_100")
        self.trainer = Trainer(
            run,
            self.model,
            train,
            self.dataset.test,
            batch_size=config.batch_size,
            **self.pixels,
        )
        self.train, self.test = self.trainer.train, self.trainer.test
        self._program = functools.cache(self._make_program)

    def weights(self, seed: int) -> PyTree:
        """Returns the parameters that a seed trains, in floats."""
        epochs = self.config.epochs
        return self.trainer.phase(
            f"s{seed}-train",
            self.trainer.start(seed, "float"),
            optax.adam(cosine(1e-3, epochs * self.trainer.steps, left=0.0)),
            epochs,
            seed=seed,
            tag="train",
        )[0].params

    def rules(self, calibration: Any) -> list[tuple[str, quant.Layer]]:
        """Returns the formats: a scale for each output and each layer's inputs."""
        config = self.config
        weights = quant.Quantizer(
            quant.Uniform(config.bits, symmetric=True), quant.CHANNEL, calibration
        )

        def layer(signed: bool) -> quant.Layer:
            bits = 8 if signed else config.input_bits
            fmt = quant.Uniform(bits, signed=signed)
            return quant.Layer(weights, quant.Quantizer(fmt, calibration=calibration))

        return [("fc1/kernel", layer(True)), (".*/kernel", layer(False))]

    def apply(self, params: PyTree, images: Array) -> Array:
        """Returns logits of uint8 images."""
        x = data.normalize(images, **self.pixels)
        return self.model.apply({"params": params}, x, train=False)  # type: ignore[return-value]

    def calibrated(self, params: PyTree, largest: bool) -> quant.Scales:
        """Returns scales of the largest magnitudes, or of least error."""
        rules = self.rules(MaxAbs() if largest else BestScale())
        images = self.train.images[: self.config.calibration_images]
        return quant.calibrate(self.apply, rules, params, [(jnp.asarray(images),)])

    def loss(
        self, params: PyTree, scales: quant.Scales, split: Split
    ) -> Callable[[Tuned], Array]:
        """Returns the cross-entropy of the quantized network by its tuned scales."""
        rules = self.rules(MaxAbs())

        def f(tuned: Tuned) -> Array:
            network = quant.aware(self.apply, rules, scaled(scales, tuned))
            logits = network(params, split.images)
            losses = optax.softmax_cross_entropy_with_integer_labels
            return losses(logits, split.labels).mean()

        return f

    def accuracy(
        self, params: PyTree, scales: quant.Scales | None, tuned: Tuned | None = None
    ) -> float:
        """Returns that on the test images, in %; of floats if there are no scales."""
        if scales is not None and tuned is not None:
            scales = scaled(scales, tuned)
        return jitted_accuracy(self._logits, (params, scales), self.test)

    @functools.cached_property
    def _logits(self) -> Any:
        """One function, so that it compiles once."""

        def logits(given: tuple[PyTree, quant.Scales | None], images: Array) -> Array:
            params, scales = given
            network = self.apply
            if scales is not None:
                network = quant.aware(self.apply, self.rules(MaxAbs()), scales)
            return network(params, images)

        return logits

    def tune(
        self, seed: int, arm: str, rate: float, params: PyTree, scales: quant.Scales
    ) -> dict[str, Any]:
        """Returns what a method makes of the scales.

        Args:
          seed: of mini-batches and directions.
          arm: a name of `ARMS`, or `GRADIENT`.
          rate: of Adam's or of the method's own steps.
          params: weights in floats.
          scales: of least error, where tuning starts.

        Returns:
          "accuracy" in %, on the test images; "loss" on the images held for choosing
          rates; "queries".
        """
        steps, held = self._program(arm)
        tuned, queries = steps(
            stage_key(seed, f"tune-{arm}"), jnp.float32(rate), params, scales
        )
        return {
            "accuracy": self.accuracy(params, scales, tuned),
            "loss": float(held(params, scales, tuned)),
            "queries": int(queries),
        }

    def _make_program(self, arm: str) -> tuple[Any, Any]:
        config = self.config
        images, labels = jnp.asarray(self.train.images), jnp.asarray(self.train.labels)
        count = len(labels) - config.held_images

        def draw(key: Array) -> Split:
            chosen = jax.random.randint(key, (config.query_images,), 0, count)
            return Split(images[chosen], labels[chosen])  # type: ignore[arg-type]

        def run(key: Array, rate: Array, params: PyTree, scales: quant.Scales):
            zero = untuned(scales)
            optimizer = _optimizer(arm, rate, config)
            size = sum(leaf.size for leaf in jax.tree.leaves(zero))
            each = 2 * config.probes
            steps = config.budget // each
            if arm != GRADIENT:
                steps = optimizer.steps(size, config.budget)

            def body(carry: Any, key: Array) -> tuple[Any, None]:
                tuned, state = carry
                batch, probe = jax.random.split(key)
                f = self.loss(params, scales, draw(batch))
                if arm == GRADIENT:
                    grads = jax.grad(f)(tuned)
                    updates, state = optimizer.update(grads, state, tuned)
                    return (optax.apply_updates(tuned, updates), state), None
                tuned, state, _ = optimizer.step(probe, f, tuned, state)
                return (tuned, state), None

            keys = jax.random.split(key, steps)
            (tuned, state), _ = jax.lax.scan(body, (zero, optimizer.init(zero)), keys)
            used = jnp.int32(0) if arm == GRADIENT else state.estimate.queries
            return tuned, used

        split = Split(images[count:], labels[count:])  # type: ignore[arg-type]

        def held(params: PyTree, scales: quant.Scales, tuned: Tuned) -> Array:
            return self.loss(params, scales, split)(tuned)

        return jax.jit(run), jax.jit(held)


def _optimizer(arm: str, rate: Array, config: Any) -> Any:
    if arm == GRADIENT:
        return optax.adam(rate)
    return ARMS[arm].make(rate, config.probes, MU)


def untuned(scales: quant.Scales) -> Tuned:
    """Returns zeros: the scales as they are."""
    zero = {path: jnp.zeros_like(s.scale) for path, s in scales.weights.items()}
    inputs = {site: jnp.zeros_like(s.scale) for site, s in scales.inputs.items()}
    return Tuned(zero, inputs)


def scaled(scales: quant.Scales, tuned: Tuned) -> quant.Scales:
    """Returns scales times exp(tuned): positive, whatever is added."""

    def times(old: dict[str, Any], logs: dict[str, Array]) -> dict[str, Any]:
        return {
            name: s._replace(scale=s.scale * jnp.exp(logs[name]))
            for name, s in old.items()
        }

    return quant.Scales(
        times(scales.weights, tuned.weights), times(scales.inputs, tuned.inputs)
    )


def count(scales: quant.Scales) -> int:
    """Returns how many numbers are tuned."""
    return sum(np.size(leaf) for leaf in jax.tree.leaves(untuned(scales)))


def title(arm: str) -> str:
    """Returns a method's title."""
    return arm if arm == GRADIENT else ARMS[arm].title
