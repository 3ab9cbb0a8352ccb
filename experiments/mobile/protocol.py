"""Training of each variant, then its accuracies and noise at every width."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import optax

import quant
from core.errors import NonFiniteError
from core.types import Array, PyTree
from experiments import data
from experiments.mobile import dead, ranges
from experiments.mobile.networks import VARIANTS, Variant, penalized
from experiments.pruning.fit import fit, stage_key
from experiments.training import TrainState, init_state, make_epoch, make_evaluate, put
from experiments.workdir import Run

KINDS = ("tensor", "repaired", "channel")
"""Weights per tensor; the same with variances repaired; a scale for each channel."""
OUTLIER = 10.0
"""Times the median: a folded scale of a channel that sets the range of all."""


class Trial(NamedTuple):
    """A variant with a seed."""

    variant: str
    seed: int

    @property
    def stage(self) -> str:
        """The prefix of the stages of this trial."""
        return f"{self.variant}-s{self.seed}"


class Protocol:
    """Trains and measures variants on one data set in a run's work folder."""

    def __init__(self, run: Run, config: Any):
        self.run = run
        self.config = config
        self.dataset = data.load(config.dataset, data_dir=run.data_dir)
        train, test = self.dataset.train, self.dataset.test
        if config.examples:
            train = data.subset(train, config.examples, 0)
        if config.images:
            test = data.subset(test, config.images, 0)
        self.train, self.test = put(train), put(test)
        count = min(config.range_images, len(train.labels))
        images = data.subset(train, count, 0).images
        self.seen = data.normalize(images, self.dataset.mean, self.dataset.std)
        self._evaluate = functools.lru_cache(maxsize=None)(self._make_evaluate)
        self._parts = functools.lru_cache(maxsize=None)(self._make_parts)
        self._inputs = functools.lru_cache(maxsize=None)(
            lambda variant: ranges.inputs_of(self.model(variant, self.extra))
        )
        self._noise = functools.lru_cache(maxsize=None)(
            lambda variant, bits: ranges.noise_of(self.model(variant, self.extra), bits)
        )

    @property
    def extra(self) -> int:
        """Channels that networks have more when they are measured."""
        return max(self.config.dead, default=0)

    def model(self, variant: Variant, extra: int = 0) -> Any:
        """Returns the module of a variant."""
        return variant.build(self.config.family, self.config.widths, extra)

    def run_trial(self, trial: Trial) -> dict[str, Any]:
        """Returns the accuracy in % of the float network, and by width what is found.

        Of a width: `ranges`, accuracy by way to find ranges; `dead`, by number of dead
        channels and kind of weights; `noise`, decibels by the same and by site. Besides
        `scales`: of each depthwise layer the largest folded scale over the median, and
        how many are outliers. Where training diverged, `diverged` alone: why.
        """
        variant = VARIANTS[trial.variant]
        try:
            state, result = self._trained(trial, variant)
        except NonFiniteError as error:  # of this arm: the others go on
            return {"diverged": str(error)}
        start = {"params": state.params, **state.model_state}
        found: dict[str, Any] = {"float": result["accuracy"]}
        found["scales"] = {
            layer: [float(ratio.max()), int((ratio > OUTLIER).sum())]
            for layer, ratio in dead.scales(start, variant.epsilon).items()
        }
        whole = functools.cache(lambda: self._inputs_of(variant, start, trial.seed))
        stage = self.run.stage
        measure = functools.partial(self._float, trial, variant, start)
        found["dead"] = stage(f"{trial.stage}-dead", measure)
        for bits in self.config.bits:
            measure = functools.partial(self._width, trial, variant, start, whole, bits)
            found[str(bits)] = stage(f"{trial.stage}-b{bits}", measure)
        return found

    def _inputs_of(self, variant: Variant, start: PyTree, seed: int) -> Any:
        folded = self._folded(variant, start, 0, "tensor", seed)
        return self._inputs(_key(variant))(folded, self.seen)

    def _float(self, trial: Trial, variant: Variant, start: PyTree) -> dict[str, Any]:
        """Accuracies of the float network with dead channels, folded, in %."""
        found = {}
        for count in self._counts(trial):
            folded = self._folded(variant, start, count, "tensor", trial.seed)
            found[str(count)] = self._accuracy(_key(variant), None, folded, {})
        return found

    def _counts(self, trial: Trial) -> tuple[int, ...]:
        """Numbers of dead channels that a variant is measured with."""
        is_controlled = trial.variant in self.config.controlled
        return (0, *self.config.dead) if is_controlled else (0,)

    def _width(
        self, trial: Trial, variant: Variant, start: PyTree, whole: Any, bits: int
    ) -> dict[str, Any]:
        key = _key(variant)
        fitted = {
            how: ranges.fitted(whole(), bits, how)
            if how != "sqnr"
            else self._by_products(trial, variant, start, whole, bits)
            for how in self.config.ranges
        }
        scales = fitted[self.config.ranges[-1]]
        found: dict[str, Any] = {"ranges": {}, "dead": {}, "noise": {}}
        counts = self._counts(trial)
        for count in counts:
            # Without a norm there is nothing to repair and no outlier to set apart.
            has_all = len(counts) > 1 and variant.depthwise_norm
            for kind in KINDS if has_all else KINDS[:1]:
                folded = self._folded(variant, start, count, kind, trial.seed)
                per = quant.CHANNEL if kind == "channel" else quant.TENSOR
                words = ranges.with_kernels(folded, bits, per)
                at = f"{count}-{kind}"
                found["dead"][at] = self._accuracy(key, bits, words, scales)
                if count in (0, self.extra) and bits in self.config.noise_bits:
                    images = self.seen[: self.config.noise_images]
                    noise = self._noise(key, bits)(folded, words, scales, images)
                    noise = jax.device_get(noise).items()
                    found["noise"][at] = {_layer(s): float(x) for s, x in noise}
                if at == "0-tensor":
                    found["ranges"] = {
                        how: self._accuracy(key, bits, words, fitted[how])
                        for how in self.config.ranges
                    }
        return found

    def _by_products(
        self, trial: Trial, variant: Variant, start: PyTree, whole: Any, bits: int
    ) -> Any:
        """Ranges by the products of layers, without dead channels."""
        folded = self._folded(variant, start, 0, "tensor", trial.seed)
        words = ranges.with_kernels(folded, bits, quant.TENSOR)
        images = self.seen[: self.config.noise_images]
        order = ranges.order_of(self.model(variant, self.extra), folded, images)
        run = self._noise(_key(variant), bits)
        return ranges.by_products(
            lambda scales: jax.device_get(run(folded, words, scales, images)),
            order,
            ranges.fitted(whole(), bits, "mse"),
        )

    def _folded(
        self, variant: Variant, start: PyTree, count: int, kind: str, seed: int
    ) -> PyTree:
        """The network with dead channels, norms folded, perhaps repaired before."""
        if variant.separable:
            start = dead.append(start, count, self.extra, seed)
        if kind == "repaired":
            stats = quant.repair_variance(start["batch_stats"])
            start = {**start, "batch_stats": stats}
        return quant.fold_batch_norm(start, variant.pairs, variant.epsilon)

    def _accuracy(
        self, key: Variant, bits: int | None, variables: PyTree, scales: Any
    ) -> float:
        state = {"batch_stats": variables["batch_stats"]}
        if bits is not None:
            state["scales"] = scales
        found = self._evaluate(key, bits, self.extra)(
            variables["params"], state, self.test
        )
        return 100 * float(found["accuracy"])

    def _make_evaluate(self, variant: Variant, bits: int | None, extra: int) -> Any:
        model = self.model(variant, extra)
        return make_evaluate(
            model if bits is None else ranges.WithInputs(model, bits),
            batch_size=min(250, len(self.test.labels)),
            mean=self.dataset.mean,
            std=self.dataset.std,
        )

    def _trained(
        self, trial: Trial, variant: Variant
    ) -> tuple[TrainState, dict[str, Any]]:
        optimizer, epoch = self._parts(variant)
        evaluate = self._evaluate(_key(variant), None, 0)

        def watch(state: TrainState) -> dict[str, Array]:
            found = evaluate(state.params, state.model_state, self.test)
            return {"accuracy": 100 * found["accuracy"], "loss": found["loss"]}

        stage = f"{trial.stage}-train"
        first = stage_key(trial.seed, "init")
        shape = self.train.images.shape[1:]
        return fit(
            self.run,
            stage,
            init_state(self.model(variant), optimizer, first, shape),
            epoch,
            self.train,
            self.config.epochs,
            key=stage_key(trial.seed, "train"),  # of a seed, the same order for all
            watch=watch,
        )

    def _make_parts(self, variant: Variant) -> Any:
        """The optimizer and the compiled epoch."""
        config = self.config
        steps = config.epochs * (len(self.train.labels) // config.batch_size)
        rate = optax.cosine_decay_schedule(config.learning_rate, max(steps, 1))
        optimizer = penalized(
            optax.sgd(rate, momentum=0.9),
            config.decay,
            config.depthwise_decay if variant.penalty else 0.0,
        )
        epoch = make_epoch(
            self.model(variant),
            optimizer,
            batch_size=config.batch_size,
            mean=self.dataset.mean,
            std=self.dataset.std,
        )
        return optimizer, epoch


def _key(variant: Variant) -> Variant:
    """What decides a compiled network: variants that differ by training share it."""
    return dataclasses.replace(variant, title="", penalty=False, paper=None)


def _layer(site: str) -> str:
    return site.removeprefix("params/").removesuffix("/kernel")
