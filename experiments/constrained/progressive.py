"""Pruning in steps, and levels down to one bit, at equal lengths of training."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

import admm
import gap
import quant
from core import trees
from core.types import PyTree
from experiments import data, models
from experiments.constrained import checks
from experiments.pruning.methods import TITLES as RIVALS
from experiments.pruning.methods import Phase, pruning_optimizer
from experiments.pruning.networks import LENET5, LENET300, Network
from experiments.pruning.trainer import (
    Trainer,
    Wrapped,
    cosine,
    kernel_counts,
    mapped,
)
from experiments.trained.networks import kernels_of
from experiments.training import TrainState
from experiments.workdir import Run

TITLES = {
    **RIVALS,
    "admm": "one-shot ADMM",
    "progressive": "progressive ADMM",
    "stepped": "magnitude in steps",
}
FORMATS: Mapping[int, quant.Format] = {
    8: quant.Uniform(8, symmetric=True),
    4: quant.Uniform(4, symmetric=True),
    2: quant.Ternary(),
    1: quant.Binary(),
}
"""Levels of each width; two bits are -1, 0 and 1."""
MEASURED = 1_000
"""Training images on which layers' means are measured."""
KERNELS = ".*/kernel"
NETWORKS = {
    "lenet5": dataclasses.replace(
        LENET5,
        targets={
            # 246x as the specification splits it; the others by the same trend. No
            # layer gets more at a higher rate: steps prune inside one another.
            12.0: {"conv1": 250, "conv2": 8_000, "fc1": 26_000, "fc2": 1_625},
            30.0: {"conv1": 150, "conv2": 4_000, "fc1": 9_200, "fc2": 1_000},
            71.2: {"conv1": 100, "conv2": 2_000, "fc1": 3_600, "fc2": 350},
            120.0: {"conv1": 100, "conv2": 1_100, "fc1": 2_037, "fc2": 350},
            180.0: {"conv1": 100, "conv2": 700, "fc1": 1_241, "fc2": 350},
            246.0: {"conv1": 100, "conv2": 500, "fc1": 800, "fc2": 350},
            300.0: {"conv1": 90, "conv2": 410, "fc1": 635, "fc2": 300},
        },
    ),
    "lenet300": dataclasses.replace(
        LENET300,
        targets={
            **LENET300.targets,
            160.0: {"fc1": 1_111, "fc2": 490, "fc3": 62},
            246.0: {"fc1": 652, "fc2": 370, "fc3": 60},
        },
    ),
}


class Protocol:
    """Trains every arm of one network."""

    def __init__(self, run: Run, config: Any):
        self.config = config
        self.dataset = data.load(config.dataset, data_dir=run.data_dir)
        train, test = checks.splits(self.dataset, config.examples, config.validation)
        network = NETWORKS[config.network]
        # A network of few images is a weaker start: every row says how many.
        title = f"{network.title} on {len(train.labels):,} images"
        self.network: Network = dataclasses.replace(network, title=title)
        self.run = run
        self._straight: dict[int, Wrapped] = {}
        self._joint: dict[int, tuple[TrainState, PyTree]] = {}
        self.dense = functools.lru_cache(maxsize=None)(self._dense)
        self.control = functools.lru_cache(maxsize=None)(self._control)
        model = models.create(self.network.model)
        # One function: what compiles for it is compiled once.
        self._fn = lambda p, x: model.apply({"params": p}, x, train=False)
        self.images = functools.lru_cache(maxsize=None)(
            lambda: self.trainer.pixels(train.images[:MEASURED])
        )
        self.trainer = Trainer(
            run,
            model,
            train,
            test,
            mean=self.dataset.mean,
            std=self.dataset.std,
            batch_size=config.batch_size,
            weight_decay=config.weight_decay,
            every=False,
            examples=config.epoch_examples,
        )

    def _stage(self, seed: int, name: str) -> str:
        return f"{self.network.name}-s{seed}-{name}"

    def _dense(self, seed: int) -> TrainState:
        stage = self._stage(seed, "dense")
        return self.trainer.phase(
            stage,
            self.trainer.start(seed, self.network.name),
            optax.adam(self.config.learning_rate),
            self.config.epochs,
            seed=seed,
            tag="dense",
        )[0]

    def _retrained(
        self,
        seed: int,
        name: str,
        state: TrainState,
        params: PyTree,
        masks: PyTree,
        epochs: int,
        rate: float,
    ) -> tuple[TrainState, dict[str, Any]]:
        """Retrains under masks, with a rate that falls along a cosine."""
        inner = optax.adam(cosine(rate, epochs * self.trainer.steps))
        return self.trainer.phase(
            self._stage(seed, f"{name}-retrain"),
            state,
            gap.masked(inner, masks),
            epochs,
            seed=seed,
            tag=f"retrain-{epochs}-{rate:g}",
            params=params,
            dropout=False,
            finish=lambda s: kernel_counts(s.params),
        )

    def _phase(self, rate: float, epochs: int, stages: int) -> Phase:
        config = self.config
        return Phase(
            rules=self.network.rules(rate),
            steps=epochs * self.trainer.steps,
            learning_rate=config.learning_rate,
            interval=self.trainer.interval(config.iterations),
            rho=config.rho,
            rho_end=config.rho_end,
            l1=0.0,
            stages=stages,
        )

    def rival(self, seed: int, method: str, rate: float) -> dict[str, Any]:
        """Prunes once at a rate, for as long as progressive pruning takes to it."""
        stages = self.config.rates.index(rate) + 1
        first, second = (stages * e for e in self.config.stage_epochs)
        name = f"{method}-{rate:g}x"
        state, drawn = self.trainer.phase(
            self._stage(seed, name),
            self.dense(seed),
            pruning_optimizer(method, self._phase(rate, first, stages)),
            first,
            seed=seed,
            tag=name,
            dropout=False,
            watch=checks.residual if method == "admm" else lambda _: {},
        )
        params, masks = admm.finish(state.params, self.network.rules(rate))
        _, result = self._retrained(
            seed, name, state, params, masks, second, self.config.rival_retrain_rate
        )
        return {**drawn, **result}

    def _control(self, seed: int) -> tuple[TrainState, dict[str, Any]]:
        """Trains the dense network on for as long as the longest arm."""
        first, second = (len(self.config.rates) * e for e in self.config.stage_epochs)
        state, _ = self.trainer.phase(
            self._stage(seed, "control"),
            self.dense(seed),
            optax.adam(self.config.learning_rate),
            first,
            seed=seed,
            tag="control",
            dropout=False,
        )
        masks = trees.map_partial(lambda _: None, state.params)
        rate = self.config.learning_rate
        return self._retrained(
            seed, "control", state, state.params, masks, second, rate
        )

    def progressive(
        self, seed: int, method: str = "progressive"
    ) -> dict[float, dict[str, Any]]:
        """Prunes step by step; returns the result of every rate.

        Each step starts from the pruned network of the one before, whose zeros stay:
        ADMM inside the mask, with duals and penalty of its own.

        Args:
          seed: of the network.
          method: "progressive", or "stepped": plain Adam in place of ADMM.
        """
        ours = method == "progressive"
        found, state = {}, self.dense(seed)
        masks = trees.map_partial(lambda _: None, state.params)
        first, second = self.config.stage_epochs
        for rate in self.config.rates:
            phase = self._phase(rate, first, 1)
            inner = pruning_optimizer("admm" if ours else "dense", phase)
            name = f"{method}-{rate:g}x"
            state, drawn = self.trainer.phase(
                self._stage(seed, name),
                state,
                gap.masked(inner, masks),
                first,
                seed=seed,
                tag=f"{name}-{any(m is not None for m in jax.tree.leaves(masks))}",
                dropout=False,
                watch=checks.residual if ours else lambda _: {},
            )
            params, masks = admm.finish(state.params, self.network.rules(rate))
            state, result = self._retrained(
                seed, name, state, params, masks, second, self.config.retrain_rate
            )
            found[rate] = {**drawn, **result}
            if ours and rate == self.config.joint_rate:
                self._joint[seed] = state, masks
        return found

    # ---- levels

    def rounded(self, seed: int, bits: int) -> dict[str, Any]:
        """Rounds the control's kernels, each with its best scale."""

        def measure() -> dict[str, Any]:
            state = self.control(seed)[0]
            params = admm.project(state.params, _levels(bits))
            return {"accuracy": self.trainer.accuracy(params, state.model_state)}

        return self.run.stage(self._stage(seed, f"rounded-{bits}"), measure)

    def joint(self, seed: int) -> dict[str, Any]:
        """Puts what progressive pruning has left at one rate on levels.

        Returns:
          As `levels`, with the bits of the kernels "dense" in float32, as "values" that
          are left and as values "stored" with an index each; `gap.Unstructured` says
          what an index takes.
        """
        state, masks = self._joint[seed]
        bits = self.config.joint_bits
        after, result = self.levels(seed, "joint", state, bits, 1, masks)
        sizes = dict.fromkeys(("dense", "values", "stored"), 0)
        for w in kernels_of(after.params).values():
            count = int(np.count_nonzero(w))
            storage = gap.Unstructured().storage(w.shape, count, bits)
            sizes["dense"] += 32 * w.size
            sizes["values"] += storage.value_bits
            sizes["stored"] += storage.bits
        return {
            **result,
            **sizes,
            "left": kernel_counts(state.params)["left"],
            "nonzeros": kernel_counts(after.params)["left"],
            "before": self.trainer.accuracy(state.params, state.model_state),
        }

    def levels(
        self,
        seed: int,
        name: str,
        start: TrainState,
        bits: int,
        times: int,
        masks: PyTree = None,
    ) -> tuple[TrainState, dict[str, Any]]:
        """ADMM towards levels, then onto them in stages.

        Args:
          seed: of the order of images.
          name: of the arm.
          start: the network to begin with.
          bits: of the levels.
          times: how often the epochs of one step are taken.
          masks: of a pruned network, whose zeros stay and whose others get no level 0.
        """
        config, trainer = self.config, self.trainer
        first, *later = (times * e for e in config.level_epochs)
        rules = _levels(bits, pruned=masks is not None)
        optimizer = trainer.towards(
            optax.adam(config.level_rate),
            rules,
            first,
            interval=trainer.interval(config.iterations),
            rho=config.level_rho,
            rho_end=config.level_rho_end,
            reset_inner=False,
        )
        if masks is not None:
            optimizer = gap.masked(optimizer, masks)

        state, drawn = trainer.phase(
            self._stage(seed, f"{name}-{bits}"),
            start,
            optimizer,
            first,
            seed=seed,
            tag=f"levels-{bits}-{first}-{masks is None}",
            dropout=False,
            watch=checks.residual,
        )
        fixed = admm.at_scales(state.params, rules)
        params, held, result = state.params, None, {}
        for share, each in zip(admm.SHARES, _stages(*later), strict=True):
            before = params
            params, held = admm.settle(params, fixed, share, held)
            params = admm.keep_means(self._fn, before, params, self.images())
            inner = optax.adam(cosine(config.level_rate, each * trainer.steps))
            state, result = trainer.phase(
                self._stage(seed, f"{name}-{bits}-map{share:g}"),
                state,
                admm.hold(inner, held),
                each,
                seed=seed,
                tag=f"hold-{each}",
                params=params,
                dropout=False,
                finish=lambda s: {"levels": _distinct(s.params)},
            )
            params = state.params
        violation = float(admm.violation(params, fixed))
        return state, {
            **result,
            "residual": drawn["residual"],
            "violation": violation,
        }

    def straight(self, seed: int, bits: int, times: int) -> dict[str, Any]:
        """Trains with rounded kernels and straight-through gradients, as long."""
        config = self.config
        first, *later = config.level_epochs
        epochs = times * (first + sum(_stages(*later)))
        quantizer = quant.Quantizer(
            FORMATS[bits], calibration=quant.calibration.LeastSquares()
        )

        def rounded(params: PyTree) -> PyTree:
            def one(w: jax.Array) -> jax.Array:
                if w.ndim < 2:
                    return w
                return w + jax.lax.stop_gradient(quantizer.project(w) - w)

            return jax.tree.map(one, params)

        if bits not in self._straight:
            plain = models.create(self.network.model, dropout_rate=0.0)
            self._straight[bits] = mapped(plain, rounded)
        return self.trainer.phase(
            self._stage(seed, f"straight-{bits}"),
            self.dense(seed),
            optax.adam(cosine(config.level_rate, epochs * self.trainer.steps)),
            epochs,
            seed=seed,
            tag=f"straight-{bits}",
            model=self._straight[bits],
        )[1]

    def quantized(self, seed: int) -> dict[str, dict[int, dict[str, Any]]]:
        """Returns the results of every way to few bits, by arm and width."""
        found: dict[str, dict[int, dict[str, Any]]] = {
            "rounded after training": {},
            "one-shot ADMM": {},
            "progressive ADMM": {},
            "straight-through": {},
        }
        state = self.dense(seed)
        for times, bits in enumerate(self.config.bits, start=1):
            found["rounded after training"][bits] = self.rounded(seed, bits)
            state, result = self.levels(seed, "progressive-levels", state, bits, 1)
            found["progressive ADMM"][bits] = result
            if times > 1:  # the first step is the same from the same start
                found["one-shot ADMM"][bits] = self.levels(
                    seed, f"levels-x{times}", self.dense(seed), bits, times
                )[1]
            found["straight-through"][bits] = self.straight(seed, bits, times)
        return found


def _stages(each: int, late: int, last: int) -> list[int]:
    """The lengths of the mapping's stages: few weights are free in the late ones."""
    return [each] * (len(admm.SHARES) - 3) + [late, late, last]


def _levels(bits: int, pruned: bool = False) -> list[tuple[str, Any]]:
    return [(KERNELS, admm.Quantized(FORMATS[bits], pruned=pruned))]


def _distinct(params: PyTree) -> dict[str, int]:
    """How many different numbers each kernel has."""
    return {name: len(np.unique(w)) for name, w in kernels_of(params).items()}
