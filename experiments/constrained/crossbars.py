"""Pruning, purification and levels for memristor arrays (arXiv 1908.10017)."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import admm
import gap
from admm import crossbar, purify
from core import trees
from core.types import Array, PyTree
from experiments import data, models
from experiments.constrained import checks
from experiments.pruning.trainer import Trainer, cosine, jitted_accuracy, kernel_counts
from experiments.training import TrainState
from experiments.workdir import Run
from hw import memristor

LAYOUT = crossbar.Layout()
BITS = 8
"""Of a weight, as arrays are counted for pruned networks."""
WAYS = {
    "aware": "whole arrays",
    "plain": "equal shares of rows and filters",
}
"""How counts are chosen; both keep about as many weights of each kernel."""


class Layer(NamedTuple):
    """A kernel that is pruned.

    Attributes:
      path: of the kernel.
      filters: whether filters go too; those of a classifier are classes.
    """

    path: str
    filters: bool = True


NETWORKS: Mapping[str, tuple[str, str, str, tuple[Layer, ...]]] = {
    # title, model, data set, kernels; the first layer stays dense
    "lenet5": (
        "LeNet-5",
        "lenet5",
        "",
        (
            Layer("conv2/kernel"),
            Layer("fc1/kernel"),
            Layer("fc2/kernel", filters=False),
        ),
    ),
    "convnet": (
        "ConvNet on CIFAR-10",
        "convnet",
        "cifar10",
        (
            Layer("conv2/kernel"),
            Layer("conv3/kernel"),
            Layer("fc1/kernel"),
            Layer("fc2/kernel", filters=False),
        ),
    ),
}


class Protocol:
    """Every step of the framework for one network."""

    def __init__(self, run: Run, config: Any, network: str):
        self.run, self.config, self.name = run, config, network
        self.title, model, dataset, self.layers = NETWORKS[network]
        self.dataset = data.load(dataset or config.dataset, data_dir=run.data_dir)
        train, self.test = checks.splits(
            self.dataset, config.examples, config.validation
        )
        self.model = models.create(model)
        self.trainer = Trainer(
            run,
            self.model,
            train,
            self.test,
            mean=self.dataset.mean,
            std=self.dataset.std,
            batch_size=config.batch_size,
            weight_decay=config.weight_decay,
            every=False,
        )
        # A network of few images is a weaker start: every row says how many.
        self.title += f", {len(train.labels):,} images"
        self._whole = jax.jit(self.fn)
        self.dense = functools.lru_cache(maxsize=None)(self._dense)
        self.removed = functools.lru_cache(maxsize=None)(self._removed)
        self.floats = functools.lru_cache(maxsize=None)(self._floats)

    def fn(self, params: PyTree, images: Array) -> Array:
        """The network at evaluation, of pixels in [0, 1], normalized."""
        logits: Any = self.model.apply({"params": params}, images, train=False)
        return logits

    def example(self) -> Array:
        """Returns two normalized images, for the operator graph."""
        return self.trainer.pixels(jnp.asarray(self.test.images[:2]))

    def _stage(self, seed: int, name: str) -> str:
        return f"{self.name}-s{seed}-{name}"

    def _dense(self, seed: int) -> tuple[TrainState, dict[str, Any]]:
        return self.trainer.phase(
            self._stage(seed, "dense"),
            self.trainer.start(seed, self.name),
            optax.adam(self.config.learning_rate),
            self.config.epochs[0],
            seed=seed,
            tag="dense",
        )

    def control(self, seed: int) -> dict[str, Any]:
        """Trains the dense network on for as long as the pruned ones."""
        epochs = self.config.epochs[1] + self.config.epochs[2]
        steps = epochs * self.trainer.steps
        return self.trainer.phase(
            self._stage(seed, "control"),
            self.dense(seed)[0],
            optax.adam(cosine(self.config.learning_rate, steps)),
            epochs,
            seed=seed,
            tag="control",
            dropout=False,
        )[1]

    def rules(self, way: str, rate: float) -> list[tuple[str, Any]]:
        """Returns rows and filters of each kernel, one set after the other.

        Counts that fill whole arrays meet the rate roughly. Equal shares keep as many
        weights as those, so that the two ways are compared at one size.
        """
        shapes = trees.by_path(self.trainer.start(0, self.name).params)
        rules = []
        for layer in self.layers:
            shape = shapes[layer.path].shape
            rows, filters = math.prod(shape[:-1]), shape[-1]
            if not layer.filters:
                kept = crossbar.Kept(max(round(rows / math.sqrt(rate)), 1), filters)
            else:
                kept = crossbar.whole_arrays(shape, 1 / rate, BITS, LAYOUT)
                if way == "plain":
                    share = math.sqrt(kept.rows * kept.filters / (rows * filters))
                    kept = crossbar.Kept(round(share * rows), round(share * filters))
            both = (
                admm.Sparse(count=kept.rows, pattern=gap.Shape()),
                admm.Sparse(count=kept.filters, pattern=gap.Filter()),
            )
            rules.append((layer.path, admm.Intersection(both)))
        return rules

    def prune(
        self, seed: int, way: str, rate: float
    ) -> tuple[TrainState, PyTree, dict[str, Any]]:
        """ADMM towards rows and filters, hard pruning, masked retraining."""
        config, trainer = self.config, self.trainer
        name = self._stage(seed, f"{way}-{rate:g}x")
        rules = self.rules(way, rate)
        state, drawn = trainer.phase(
            name,
            self.dense(seed)[0],
            trainer.towards(
                optax.adam(config.learning_rate),
                rules,
                config.epochs[1],
                interval=trainer.interval(config.iterations),
                rho=config.rho,
                rho_end=config.rho_end,
            ),
            config.epochs[1],
            seed=seed,
            tag=f"{way}-{rate:g}x",
            dropout=False,
            watch=checks.residual,
        )
        params, masks = admm.finish(state.params, rules)
        steps = config.epochs[2] * trainer.steps
        inner = optax.adam(cosine(config.learning_rate, steps))
        state, result = trainer.phase(
            f"{name}-retrain",
            state,
            gap.masked(inner, masks),
            config.epochs[2],
            seed=seed,
            tag="retrain",
            params=params,
            dropout=False,
        )
        return state, masks, {**drawn, **result}

    def _removed(
        self, seed: int, way: str, rate: float
    ) -> tuple[TrainState, purify.Purified, dict[str, Any]]:
        """Purification and path removal of a pruned network, and what each gave."""
        state, masks, result = self.prune(seed, way, rate)
        params, x = state.params, self.example()
        paths = gap.compact(self.fn, params, masks, x)
        specs = purify.Purify(
            groups=("shape", "filter"),
            emptiness=self.config.emptiness,
            importance=self.config.importance,
            delta=self.config.delta,
        )
        only_rows = dataclasses.replace(specs, groups=("shape",))
        rules = [(x.path, specs if x.filters else only_rows) for x in self.layers]
        found = purify.purify_paths(self.fn, params, rules, masks, x)

        def measure() -> dict[str, Any]:
            masked = gap.apply_masks(params, masks)
            purged = gap.apply_masks(params, found.masks)
            same = [
                self._compared(masked, paths),
                self._compared(purged, found.network),
            ]
            dense = self.dense(seed)[0].params
            steps = (dense, masked, paths.params, found.network.params)
            counts = [counted(step, BITS) for step in steps]
            arrays = [count.arrays for count in counts]
            return {
                "accuracy": result["accuracy"],
                "residual": result["residual"],
                "purified": self.trainer.accuracy(purged, state.model_state),
                "weights": [count.weights for count in counts],
                "arrays": [a.count for a in arrays],
                "area": [a.area for a in arrays],
                "power": [a.power for a in arrays],
                **checks.joined(same)._asdict(),
                "rounds": found.rounds,
            }

        stage = self._stage(seed, f"{way}-{rate:g}x-removed")
        return state, found, self.run.stage(stage, measure)

    def _compared(self, params: PyTree, small: gap.Compact) -> checks.Same:
        """How the smaller network differs from the masked one on the test images."""
        less = jax.jit(small.fn)
        return checks.compared_on(
            self.test.images,
            self.trainer.pixels,
            lambda x: self._whole(params, x),
            lambda x: less(small.params, x),
        )

    def levels(self, seed: int, way: str, rate: float, bits: int) -> dict[str, Any]:
        """ADMM towards the integers of `bits` in what is left; then noise of devices.

        Zeros of the mask stay; the smaller network is that of the same masks.
        """
        state, found, _ = self.removed(seed, way, rate)
        config, trainer = self.config, self.trainer
        name = self._stage(seed, f"{way}-{rate:g}x-b{bits}")
        rules = [(".*/kernel", admm.Quantized(crossbar.levels(bits), pruned=True))]
        inner = trainer.towards(
            optax.adam(cosine(config.level_rate, config.epochs[3] * trainer.steps)),
            rules,
            config.epochs[3],
            interval=trainer.interval(config.iterations),
            rho=config.level_rho,
            rho_end=config.level_rho_end,
            reset_inner=False,
        )
        start = gap.apply_masks(state.params, found.masks)
        after, drawn = trainer.phase(
            name,
            state,
            gap.masked(inner, found.masks),
            config.epochs[3],
            seed=seed,
            tag=f"levels-{bits}",
            params=start,
            dropout=False,
            watch=checks.residual,
        )

        def measure() -> dict[str, Any]:
            direct = admm.project(start, rules)
            params = admm.project(after.params, rules)
            small = gap.compact(self.fn, params, found.masks, self.example())
            sets = trees.by_path(admm.constraints(after.params, rules))
            leaves = trees.by_path(after.params)
            scales = {
                path: spec.at(leaves[path]).scaling.scale.reshape(())
                for path, spec in sets.items()
                if spec is not None
            }
            # One function: what compiles for it is compiled once.
            fn = lambda p, x: small.fn(p, trainer.pixels(x))  # noqa: E731
            program = functools.partial(chip, small.params, scales, bits)
            exact = program(jax.random.key(seed), 0.0)
            right = functools.partial(jitted_accuracy, fn, split=self.test)
            noisy = {
                f"{sigma:g}": right(program(jax.random.key(seed), sigma))
                for sigma in config.noise
            }
            return {
                "rounded": trainer.accuracy(direct, state.model_state),
                "accuracy": trainer.accuracy(params, state.model_state),
                "compact": right(small.params),
                "residual": drawn["residual"],
                "arrays": counted(small.params, bits).arrays.count,
                "rounded to 0": kernel_counts(start)["left"]
                - kernel_counts(params)["left"],
                "programmed": _off(small.params, exact, scales),
                "noise": noisy,
            }

        result = self.run.stage(f"{name}-levels", measure)
        return {**result, "floats": self.floats(seed, way, rate)}

    def _floats(self, seed: int, way: str, rate: float) -> float:
        """Returns the accuracy of what is left, trained on as floats for as long."""
        state, found, _ = self.removed(seed, way, rate)
        trainer, epochs = self.trainer, self.config.epochs[3]
        inner = optax.adam(cosine(self.config.level_rate, epochs * trainer.steps))
        return trainer.phase(
            self._stage(seed, f"{way}-{rate:g}x-floats"),
            state,
            gap.masked(inner, found.masks),
            epochs,
            seed=seed,
            tag="floats",
            params=gap.apply_masks(state.params, found.masks),
            dropout=False,
        )[1]["accuracy"]


Scales = Mapping[str, Array]
"""The step between the levels of each kernel, by path."""


def chip(params: PyTree, scales: Scales, bits: int, key: Array, sigma: float) -> PyTree:
    """Returns a network as arrays have it; see `programmed`.

    Args:
      params: of a network whose kernels are on levels, or of a part of it.
      scales: of those kernels.
      bits: of the levels.
      key: of the noise; every conductance is off by its own.
      sigma: of the logarithms.
    """
    names, leaves, treedef = trees.flatten(params)
    keys = jax.random.split(key, len(leaves))
    read = [
        programmed(k, w, scales[path], bits, sigma) if path in scales else w
        for k, path, w in zip(keys, names, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, read)


def _off(params: PyTree, read: PyTree, scales: Scales) -> float:
    """The largest difference of kernels, in steps between levels."""
    a, b = trees.by_path(params), trees.by_path(read)
    return max(float(jnp.abs(a[p] - b[p]).max() / s) for p, s in scales.items())


def programmed(key: Array, w: Array, scale: Array, bits: int, sigma: float) -> Array:
    """Returns a kernel as arrays have it, conductances times exp(sigma N(0, 1)).

    Only rows and columns that are not all zero are programmed: no array has others.

    Args:
      key: of the noise.
      w: on the levels of `crossbar.levels`, or a part of such a kernel.
      scale: the step between levels, of the whole kernel; a part may not have the
        values from which it could be found again.
      bits: of the levels.
      sigma: of the logarithms.
    """
    matrix = np.asarray(w).reshape(-1, w.shape[-1])
    cells = np.ix_(*_nonempty(matrix))
    held = jnp.asarray(matrix[cells])
    xbar = memristor.Crossbar(cell_bits=LAYOUT.cell_bits, noise=sigma)
    g = memristor.to_conductance(jnp.round(held / scale), xbar, bits)
    read = memristor.from_conductance(memristor.age(g, key, xbar), xbar) * scale
    return jnp.zeros_like(matrix).at[cells].set(read).reshape(w.shape)


class Counted(NamedTuple):
    """What the kernels of a network take.

    Attributes:
      weights: that are not 0.
      arrays: for rows and columns with such a weight.
    """

    weights: int
    arrays: crossbar.Arrays


def counted(params: PyTree, bits: int) -> Counted:
    """Returns what the kernels take, in weights of so many bits."""
    held = crossbar.arrays(nonempty_shapes(params), bits, LAYOUT)
    return Counted(kernel_counts(params)["left"], held)


def nonempty_shapes(params: PyTree) -> list[tuple[int, int]]:
    """Returns the numbers of rows and columns of GEMM views that are not all zero.

    Compaction removes channels; a row of which no weight is left needs no array either.
    """
    found = []
    for path, w in trees.by_path(params).items():
        if path.endswith("kernel"):
            rows, columns = _nonempty(np.asarray(w).reshape(-1, w.shape[-1]))
            found.append((max(len(rows), 1), max(len(columns), 1)))
    return found


def _nonempty(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The indices of rows and columns with a weight."""
    there = matrix != 0
    return np.flatnonzero(there.any(axis=1)), np.flatnonzero(there.any(axis=0))
