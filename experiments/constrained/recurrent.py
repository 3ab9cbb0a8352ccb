"""Block-circulant LSTM and GRU: training, execution by FFT, E-RNN's two phases."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import special

import admm
import gap
from admm import activations, circulant, exploration, recurrent
from core import trees
from core.types import Array, PyTree
from experiments import data, models
from experiments.constrained import checks, speech
from experiments.pruning.trainer import Trainer, Wrapped, cosine, mapped
from experiments.training import TrainState
from experiments.workdir import Run

TITLES = {
    "dense": "dense",
    "scratch": "generators from scratch (C-LSTM)",
    "projected": "projected, then generators",
    "admm": "ADMM, then generators",
    "pruned": "magnitude pruning, as many weights (ESE)",
}
TASKS = {"rows": "MNIST rows", "speech": "spoken digits"}
EXACT = 1e-5
"""The largest difference of states by FFT from those of dense circulant kernels."""
SEGMENTS = 22
"""Of the tables of sigmoid and tanh."""
WHOLE_BITS = 4
"""Bits before the point of states and gates, the sign among them: up to 8."""


class Shape(NamedTuple):
    """A recurrent layer to train: cell, units, blocks of its two sides."""

    cell: str
    inputs: int
    hidden: int

    @property
    def name(self) -> str:
        """In the names of stages and rows."""
        blocks = f"{self.inputs}-{self.hidden}"
        return f"{self.cell}-k{self.hidden if self.inputs == self.hidden else blocks}"

    @property
    def blocks(self) -> tuple[int, int]:
        """Of input and hidden kernels."""
        return self.inputs, self.hidden


class Protocol:
    """Trains cells on one task; `held` measures on training images held out."""

    def __init__(self, run: Run, config: Any, task: str, held: bool = False):
        self.run, self.config, self.task = run, config, task
        if task == "speech":
            self.dataset = speech.load()
        else:
            self.dataset = data.load(config.dataset, data_dir=run.data_dir)
        examples = config.examples if task == "rows" else 0
        train, test = checks.splits(self.dataset, examples)
        if held:
            train, test = data.hold_out(train, len(train.labels) // 5, 0)
        self.prefix = f"{task}-held" if held else task
        self.splits = train, test
        # Of few sequences: every row says how many.
        self.title = f"{TASKS[task]}, {len(train.labels):,} for training"
        self.trainer = functools.lru_cache(maxsize=None)(self._make_trainer)
        self.kernels = functools.lru_cache(maxsize=None)(self._make_kernels)
        self.mapped = functools.lru_cache(maxsize=None)(self._make_mapped)
        self.dense = functools.lru_cache(maxsize=None)(self._make_dense)

    def _make_trainer(self, cell: str) -> Trainer:
        train, test = self.splits
        return Trainer(
            self.run,
            models.create(cell, hidden=(self.config.units,)),
            train,
            test,
            mean=self.dataset.mean,
            std=self.dataset.std,
            batch_size=self.config.batch_size,
            every=False,
        )

    def _stage(self, seed: int, name: str) -> str:
        return f"{self.prefix}-s{seed}-{name}"

    def rules(self, shape: Shape) -> list[tuple[str, admm.BlockCirculant]]:
        """Returns ADMM's rules for the layer."""
        return recurrent.rules(f"{shape.cell}1", shape.blocks)

    def _make_mapped(self, shape: Shape) -> Wrapped:
        """The module whose parameters have generators in place of kernels."""
        return mapped(self.trainer(shape.cell).model, self.kernels(shape))

    def _make_kernels(self, shape: Shape) -> Callable[[PyTree], PyTree]:
        """From parameters with generators to those with kernels."""
        start = self.trainer(shape.cell).start(0, shape.cell).params
        sizes = {path: w.shape for path, w in trees.by_path(start).items()}
        sets = sets_of(start, self.rules(shape))

        def kernels(params: PyTree) -> PyTree:
            names, leaves, treedef = trees.flatten(params)
            whole = [
                circulant.expand(w, *sizes[name]) if name in sets else w
                for name, w in zip(names, leaves, strict=True)
            ]
            return jax.tree.unflatten(treedef, whole)

        return kernels

    def _make_dense(self, seed: int, cell: str) -> TrainState:
        trainer = self.trainer(cell)
        return trainer.phase(
            self._stage(seed, f"{cell}-dense"),
            trainer.start(seed, cell),
            optax.adam(self.config.learning_rate),
            self.config.epochs[0],
            seed=seed,
            tag="dense",
        )[0]

    def control(self, seed: int, cell: str) -> dict[str, Any]:
        """Trains the dense layer on for as long as the others."""
        trainer = self.trainer(cell)
        epochs = sum(self.config.epochs[1:])
        return trainer.phase(
            self._stage(seed, f"{cell}-control"),
            self.dense(seed, cell),
            self._falling(trainer, epochs),
            epochs,
            seed=seed,
            tag="control",
        )[1]

    def _falling(self, trainer: Trainer, epochs: int) -> Any:
        rate = cosine(self.config.learning_rate, epochs * trainer.steps)
        return optax.adam(rate)

    def arm(self, seed: int, shape: Shape, arm: str) -> tuple[PyTree, dict[str, Any]]:
        """Returns the kernels of a trained arm, and its result.

        All arms have the same number of epochs, those of dense training among them.
        """
        trainer, (_, first, second) = self.trainer(shape.cell), self.config.epochs
        stage = self._stage(seed, f"{shape.name}-{arm}")
        state, more = self.dense(seed, shape.cell), {}
        if arm == "pruned":
            return self._pruned(seed, shape, stage)
        epochs = first + second
        if arm == "scratch":
            state = trainer.start(seed, shape.cell)
            epochs = sum(self.config.epochs)
        if arm == "admm":
            epochs = second
            state, more = self._towards(seed, shape, stage)
        scale = arm == "scratch"
        params = to_generators(state.params, self.rules(shape), scale)
        model = self.mapped(shape)
        right = trainer.accuracy(params, state.model_state, model)
        state, result = trainer.phase(
            stage,
            state,
            self._falling(trainer, epochs),
            epochs,
            seed=seed,
            tag=f"{shape.name}-{epochs}",
            params=params,
            model=model,
        )
        kernels = self.kernels(shape)(state.params)
        violation = float(admm.violation(kernels, self.rules(shape)))
        return kernels, {**result, "projected": right, "violation": violation, **more}

    def _towards(
        self, seed: int, shape: Shape, stage: str
    ) -> tuple[TrainState, dict[str, Any]]:
        """ADMM from the dense layer."""
        config, trainer = self.config, self.trainer(shape.cell)
        epochs = config.epochs[1]
        state, result = trainer.phase(
            f"{stage}-towards",
            self.dense(seed, shape.cell),
            trainer.towards(
                optax.adam(config.learning_rate),
                self.rules(shape),
                epochs,
                interval=max(config.interval * trainer.steps, 1),
                rho=config.rho,
                rho_end=config.rho_end,
                reset_inner=False,
            ),
            epochs,
            seed=seed,
            tag=f"{shape.name}-towards",
            watch=checks.residual,
        )
        return state, {"residual": result["residual"]}

    def _pruned(
        self, seed: int, shape: Shape, stage: str
    ) -> tuple[PyTree, dict[str, Any]]:
        trainer = self.trainer(shape.cell)
        epochs = sum(self.config.epochs[1:])
        steps = epochs * trainer.steps
        rules = [(path, 1 / s.block) for path, s in self.rules(shape)]
        schedule = gap.Cubic(0, steps // 2, max(steps // 50, 1))
        state, result = trainer.phase(
            stage,
            self.dense(seed, shape.cell),
            gap.prune(self._falling(trainer, epochs), rules, schedule),
            epochs,
            seed=seed,
            tag=f"{shape.name}-pruned",
        )
        return state.params, result

    # ---- execution in the frequency domain

    def executed(self, shape: Shape, stage: str, params: PyTree) -> dict[str, float]:
        """Runs test images by FFT from stored spectra.

        Returns:
          "accuracy" in %; the largest differences of states from those of the dense
          kernels in float64: "exact" of the FFTs, "dense" of the same kernels in
          float32.
        """

        def measure() -> dict[str, float]:
            cell = recurrent.pack(params[f"{shape.cell}1"], shape.blocks)
            whole = recurrent.pack(params[f"{shape.cell}1"], 1)
            run, far, right = jax.jit(recurrent.run), np.zeros(2), 0
            for x, labels in self._batches():
                states = run(cell, x)[1]
                wanted = in_float64(shape.cell, params[f"{shape.cell}1"], x)
                both = (states, run(whole, x)[1])
                here = [np.abs(np.asarray(s) - wanted).max() for s in both]
                far = np.maximum(far, here)
                right += self._right(params, states, labels)
            return {
                "accuracy": 100 * right / len(self.splits[1].labels),
                "exact": float(far[0]),
                "dense": float(far[1]),
            }

        return self.run.stage(f"{stage}-exact", measure)

    def fixed(self, shape: Shape, params: PyTree, bits: int | None) -> float:
        """Returns the accuracy in % with numbers of so many bits and tables.

        Generators, biases, the states c and h, and both functions' arguments and
        results are rounded; sums are floats.

        Args:
          shape: of the layer.
          params: with kernels of circulant blocks.
          bits: of a number; None for floats and exact functions.
        """
        layer, functions, number = params[f"{shape.cell}1"], None, None
        if bits is not None:
            number = activations.FixedPoint(bits, bits - WHOLE_BITS)
            functions = activations.tables(SEGMENTS, number)
            # Rounding all entries of a diagonal alike keeps blocks circulant.
            layer = jax.tree.map(lambda w: activations.fixed_for(w, bits)(w), layer)
        cell = recurrent.pack(layer, shape.blocks)
        run = jax.jit(recurrent.run, static_argnums=3)
        right = 0
        for x, labels in self._batches():
            given = x if number is None else number(x)
            states = run(cell, given, None, functions)[1]
            right += self._right(params, states, labels)
        return 100 * right / len(self.splits[1].labels)

    def _batches(self, size: int = 500) -> Iterable[tuple[Array, Array]]:
        images, labels = self.splits[1]
        for first in range(0, len(labels), size):
            x = jnp.asarray(images[first : first + size])
            x = data.normalize(x, self.dataset.mean, self.dataset.std)
            x = x.reshape(*x.shape[:2], -1)
            yield x, jnp.asarray(labels[first : first + size])

    def _right(self, params: PyTree, states: Array, labels: Array) -> int:
        linear = params["linear"]
        logits = states[:, -1] @ linear["kernel"] + linear["bias"][None]
        return int((logits.argmax(-1) == labels).sum())

    # ---- the two phases

    def explored(self, seed: int) -> dict[str, Any]:
        """Phase I and II on images held out; returns what was tried and chosen."""
        config = self.config
        features = int(self.splits[0].images[0, 0].size)

        def size(k: int) -> recurrent.Size:
            return recurrent.size("lstm", features, config.units, k)

        largest = min(64, config.units & -config.units)
        bounds = exploration.block_bounds(
            lambda k: size(k).weights,
            lambda k: size(k).multiplications,
            memory_bits=config.memory * size(1).weights * 12,
            bits=12,
            largest=largest,
        )
        trained: dict[Any, PyTree] = {}
        # One budget for all designs: what the dense LSTM has, trained as long.
        reference = self.control(seed, "lstm")["accuracy"]

        def train(design: exploration.Design) -> float:
            shape = Shape(*design)
            trained[design], result = self.arm(seed, shape, "admm")
            return reference - result["accuracy"]

        found = exploration.explore(train, bounds, config.budget, largest=largest)
        trials = [
            {"name": Shape(*t.design).name, "loss": t.loss, "fits": t.fits}
            for t in found.trials
        ]
        dense = dict.fromkeys(("lstm", *(t.design.cell for t in found.trials)))
        result: dict[str, Any] = {
            "bounds": list(bounds),
            "trials": trials,
            # The reference's control, and the dense cells that ADMM starts from.
            "dense trainings": 1 + len(dense),
            "grid": 4 * (bounds.high // bounds.low).bit_length(),
            "fits": found.design is not None,
        }
        # Where nothing fits, phase II shows widths of what lost least.
        design = found.design or min(found.trials, key=lambda t: t.loss).design
        shape, params = Shape(*design), trained[design]
        exact = self.fixed(shape, params, None)
        bits, tried = exploration.choose_width(
            lambda b: exact - self.fixed(shape, params, b),
            config.widths,
            config.width_budget,
        )
        chosen = {"name": shape.name, "bits": bits or 0}
        widths = [list(w) for w in tried]
        return {**result, "design": chosen, "widths": widths}


def in_float64(cell: str, layer: PyTree, xs: Array) -> np.ndarray:
    """Returns the states of flax's cell in float64, [batch, steps, units], on the host.

    Recurrence amplifies rounding: float32, dense or by FFT, is no reference.

    Args:
      cell: "lstm" or "gru".
      layer: kernels and biases by gate.
      xs: [batch, steps, features].
    """
    layer = jax.tree.map(lambda w: np.asarray(w, np.float64), layer)

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ layer[name]["kernel"] + layer[name].get("bias", 0.0)

    h = c = np.zeros((xs.shape[0], layer[next(iter(layer))]["kernel"].shape[1]))
    states = []
    for x in np.asarray(xs, np.float64).swapaxes(0, 1):
        if cell == "lstm":
            i, f, g, o = (linear(f"i{n}", x) + linear(f"h{n}", h) for n in "ifgo")
            c = special.expit(f) * c + special.expit(i) * np.tanh(g)
            h = special.expit(o) * np.tanh(c)
        else:
            r, z = (
                special.expit(linear(f"i{n}", x) + linear(f"h{n}", h)) for n in "rz"
            )
            h = (1 - z) * np.tanh(linear("in", x) + r * linear("hn", h)) + z * h
        states.append(h)
    return np.stack(states, 1)


def sets_of(
    params: PyTree, rules: Sequence[tuple[str, Any]]
) -> dict[str, admm.BlockCirculant]:
    """Returns the set of every kernel that a rule matches, by path."""
    return trees.by_path(admm.constraints(params, rules))


def to_generators(
    params: PyTree, rules: Sequence[tuple[str, Any]], scale: bool = False
) -> PyTree:
    """Returns parameters with generators in place of kernels.

    Args:
      params: with kernels.
      rules: of `BlockCirculant` sets.
      scale: whether generators are multiplied by sqrt(k), so that those of random
        kernels, means of k numbers, have the deviation of the kernels.
    """
    sets = sets_of(params, rules)

    def one(name: str, w: Array) -> Array:
        if name not in sets:
            return w
        g = circulant.generators(w, sets[name].block)
        return g * sets[name].block ** 0.5 if scale else g

    names, leaves, treedef = trees.flatten(params)
    pairs = zip(names, leaves, strict=True)
    return jax.tree.unflatten(treedef, [one(*pair) for pair in pairs])
