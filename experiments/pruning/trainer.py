"""Phases of training of one model on one data set, as stages of a run."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import admm
import gap
from core.rules import Rules
from core.types import Array, PyTree
from experiments.data import Split, normalize
from experiments.pruning.fit import fit, stage_key
from experiments.training import (
    TrainState,
    init_state,
    make_epoch,
    make_evaluate,
    put,
    restart,
)
from experiments.workdir import Run

EVALUATED = 500
"""Images in a call that evaluates."""

Applied = Callable[..., Any]
"""A module's `apply` with its options given: of variables and inputs."""


class Wrapped:
    """A module that computes in another way, called as the module.

    Attributes:
      model: a linen module.
      change: from `run(variables, *args)`, the module, to what is called in its place.
    """

    def __init__(self, model: Any, change: Callable[[Applied], Applied]):
        self.model = model
        self.change = change

    def apply(self, variables: PyTree, *args: Any, **rest: Any) -> Any:
        """Returns what the changed module returns."""
        run = functools.partial(self.model.apply, **rest)
        return self.change(run)(variables, *args)


def mapped(model: Any, f: Callable[[PyTree], PyTree]) -> Wrapped:
    """Returns a module that is called with a function of its parameters.

    So generators stand for circulant kernels, or rounded kernels for floats.

    Args:
      model: a linen module.
      f: from what is trained to the module's parameters.
    """

    def change(run: Applied) -> Applied:
        return lambda variables, *args: run(
            {**variables, "params": f(variables["params"])}, *args
        )

    return Wrapped(model, change)


class Trainer:
    """Trains phases of one model; one compiled epoch serves every phase of a tag.

    Args:
      run: the work folder.
      model: a linen module.
      train: training images.
      test: what accuracy is measured on.
      mean: of pixels.
      std: of pixels.
      batch_size: images in a step.
      every: whether to evaluate after each epoch of a phase; the last one alone if not.
      examples: images of an epoch, drawn anew for each; 0 means all.
      **rest: more of `make_epoch`'s arguments, such as `weight_decay`.
    """

    def __init__(
        self,
        run: Run,
        model: Any,
        train: Split,
        test: Split,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int,
        every: bool = True,
        examples: int = 0,
        **rest: Any,
    ):
        self.run = run
        self.every = every
        self.model = model
        self.shape = train.images.shape[1:]
        self.steps = (examples or len(train.labels)) // batch_size
        self.train, self.test = put(train), put(test)
        self._data: dict[str, Any] = {"mean": mean, "std": std}
        self._rest = {"batch_size": batch_size, "examples": examples, **rest}
        self._epochs: dict[str, Any] = {}
        self._evaluates: dict[Any, Any] = {}

    def start(self, seed: int, name: str) -> TrainState:
        """Returns an untrained state."""
        key = stage_key(seed, f"{name}-init")
        return init_state(self.model, optax.identity(), key, self.shape)

    def phase(
        self,
        stage: str,
        state: TrainState,
        optimizer: optax.GradientTransformation,
        epochs: int,
        *,
        seed: int,
        tag: str,
        params: PyTree = None,
        model: Any = None,
        dropout: bool = True,
        watch: Callable[[TrainState], dict[str, Array]] = lambda _: {},
        finish: Callable[[TrainState], dict[str, Any]] = lambda _: {},
    ) -> tuple[TrainState, dict[str, Any]]:
        """Trains from a state with a fresh optimizer; see `pruning.fit`.

        Args:
          stage: name of the stage.
          state: where parameters and model state come from.
          optimizer: of this phase; masks and the like may differ in phases of one tag
            if they are in its state.
          epochs: at least 1.
          seed: of the order of images.
          tag: of the program; the first phase of a tag compiles it.
          params: to start from instead of the state's.
          model: what is trained instead of the trainer's module.
          dropout: whether the module's dropout is on.
          watch: more to log after each epoch than accuracy and loss on test images.
          finish: more results, of the final state.

        Returns:
          The final state, and the stage's result with "accuracy" in %.
        """
        model = self.model if model is None else model
        if tag not in self._epochs:
            self._epochs[tag] = make_epoch(
                model, optimizer, dropout=dropout, **self._data, **self._rest
            )

        def shown(state: TrainState) -> dict[str, Array]:
            found = self.measure(state.params, state.model_state, model)
            return {
                "accuracy": 100 * found["accuracy"],
                "loss": found["loss"],
                **watch(state),
            }

        return fit(
            self.run,
            stage,
            restart(state, optimizer, params),
            self._epochs[tag],
            self.train,
            epochs,
            key=stage_key(seed, stage),
            watch=shown,
            every=self.every,
            finish=finish,
        )

    def interval(self, iterations: int) -> int:
        """Returns the steps of an ADMM iteration, of which an epoch has so many."""
        return max(self.steps // iterations, 1)

    def towards(
        self,
        optimizer: optax.GradientTransformation,
        rules: Rules,
        epochs: int,
        *,
        interval: int,
        rho: float,
        rho_end: float,
        **rest: Any,
    ) -> optax.GradientTransformationExtraArgs:
        """Returns ADMM whose penalty rises to `rho_end` by the phase's last iteration.

        Args:
          optimizer: of the primal step.
          rules: see `admm.admm`.
          epochs: of the phase.
          interval: steps of an iteration.
          rho: the first penalty.
          rho_end: the last one.
          **rest: more of `admm.admm`'s arguments.
        """
        iterations = max((epochs * self.steps - 1) // interval, 1)
        rising = admm.rising_rho(rho, rho_end, iterations)
        return admm.admm(optimizer, rules, interval=interval, rho=rising, **rest)

    def measure(
        self, params: PyTree, model_state: PyTree, model: Any = None
    ) -> dict[str, Array]:
        """Returns accuracy, a share, and loss on the test images."""
        model = self.model if model is None else model
        key = id(model)
        if key not in self._evaluates:
            evaluate = make_evaluate(model, batch_size=EVALUATED, **self._data)
            self._evaluates[key] = (model, evaluate)
        return self._evaluates[key][1](params, model_state, self.test)

    def accuracy(self, params: PyTree, model_state: PyTree, model: Any = None) -> float:
        """Returns the accuracy on test images in %."""
        return 100 * float(self.measure(params, model_state, model)["accuracy"])

    def pixels(self, images: Array | np.ndarray) -> Array:
        """Returns images as the model takes them."""
        return normalize(jnp.asarray(images), **self._data)


def cosine(rate: float, steps: int, left: float = 0.01) -> Any:
    """Returns a learning rate that falls along a cosine to a share of the first."""
    return optax.cosine_decay_schedule(rate, max(steps, 1), alpha=left)


def kernel_counts(params: PyTree) -> dict[str, int]:
    """Returns the "size" of all kernels together, and how many weights are "left"."""
    rows = gap.summary(params, [(".*/kernel", True)])
    return {"size": sum(r.size for r in rows), "left": sum(r.kept for r in rows)}


def classes(
    fn: Callable[..., Array], params: PyTree, images: Any, batch: int = EVALUATED
) -> np.ndarray:
    """Returns the largest logit's class of each image, [n].

    Args:
      fn: `fn(params, images)`, of logits; it is jitted, and the same function compiles
        once.
      params: whatever it takes.
      images: [n, ...].
      batch: images in a call.
    """
    run = jax.jit(fn)
    firsts = range(0, len(images), batch)
    parts = [run(params, images[i : i + batch]).argmax(-1) for i in firsts]
    return np.concatenate([np.asarray(part) for part in parts])


def jitted_accuracy(
    fn: Callable[..., Array], params: PyTree, split: Split, batch: int = EVALUATED
) -> float:
    """Returns the accuracy in % of `fn(params, images)`; see `classes`."""
    right = classes(fn, params, split.images, batch) == np.asarray(split.labels)
    return 100 * float(right.mean())
