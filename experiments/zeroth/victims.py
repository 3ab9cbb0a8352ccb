"""Networks that are attacked: digits that a run trains, ResNet-20 of CIFAR-10."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from core.types import Array, PyTree
from experiments import data, models
from experiments.pruning.trainer import Trainer, classes, cosine
from experiments.workdir import Run


@dataclasses.dataclass(frozen=True, eq=False)
class Victim:
    """A network, from outside.

    Attributes:
      name: on the command line.
      title: in reports.
      variables: its parameters.
      logits: of variables and images [m, h, w, c] with pixels in [0, 1].
      images: test images that it gets right, [n, h, w, c] in [0, 1].
      labels: their classes, [n].
      accuracy: on all test images, in %.
      trained: images that it was trained on.
      source: of the data.
    """

    name: str
    title: str
    variables: PyTree
    logits: Callable[[PyTree, Array], Array]
    images: np.ndarray
    labels: np.ndarray
    accuracy: float
    trained: int
    source: str


def lenet(run: Run, config: Any) -> Victim:
    """Returns LeNet-5, trained as a stage of the run with the first of its seeds."""
    model = models.create("lenet5")
    dataset = data.load(config.dataset, data_dir=run.data_dir)
    train, seed = dataset.train, run.seeds[0]
    if config.examples:
        train = data.subset(train, config.examples, 0)
    pixels: dict[str, Any] = {"mean": dataset.mean, "std": dataset.std}
    trainer = Trainer(
        run, model, train, dataset.test, batch_size=config.batch_size, **pixels
    )
    state, _ = trainer.phase(
        f"lenet5-s{seed}-train",
        trainer.start(seed, "lenet5"),
        optax.adam(cosine(1e-3, config.epochs * trainer.steps, left=0.0)),
        config.epochs,
        seed=seed,
        tag="train",
    )
    variables = {"params": state.params}
    count = len(train.labels)
    return _victim("lenet5", "LeNet-5", model, variables, dataset, count, pixels)


def resnet(run: Run, config: Any) -> Victim:
    """Returns the pretrained ResNet-20, tuned on the pixels that the data have."""
    del config
    dataset = data.load("cifar10", data_dir=run.data_dir)
    pixels = {"mean": models.PRETRAINED_MEAN, "std": models.PRETRAINED_STD}
    variables = models.load_pretrained("resnet20_jpeg")
    model = models.create("resnet20")
    count = len(dataset.train.labels)
    return _victim("resnet20", "ResNet-20", model, variables, dataset, count, pixels)


def _victim(
    name: str,
    title: str,
    model: Any,
    variables: PyTree,
    dataset: Any,
    trained: int,
    pixels: Any,
) -> Victim:
    def logits(variables: PyTree, images: Array) -> Array:
        # `normalize` takes pixels up to 255, of any type.
        x = data.normalize(255 * images, **pixels)
        return model.apply(variables, x, train=False)

    def right_of(split: Any) -> tuple[np.ndarray, np.ndarray]:
        images = (split.images / 255).astype(np.float32)
        return images, classes(logits, variables, images) == split.labels

    count = 1_000  # of the test images; enough to draw from
    test = data.subset(dataset.test, min(count, len(dataset.test.labels)), 0)
    images, right = right_of(test)
    return Victim(
        name,
        title,
        variables,
        logits,
        images[right],
        test.labels[right],
        100 * float(right_of(dataset.test)[1].mean()),
        trained,
        dataset.source,
    )


VICTIMS: dict[str, Callable[[Run, Any], Victim]] = {"lenet5": lenet, "resnet20": resnet}


def targets(labels: np.ndarray, seed: int, classes: int = 10) -> np.ndarray:
    """Returns another class for each label, drawn evenly."""
    rng = np.random.default_rng(seed)
    return ((labels + rng.integers(1, classes, len(labels))) % classes).astype(np.int32)


def towards(victim: Victim, label: int, count: int, target: bool) -> Any:
    """Returns images [count, h, w, c] to start a decision attack in the direction of.

    Args:
      victim: whose images they are.
      label: the wanted class if `target`, otherwise the one to leave.
      count: how many.
      target: see `label`.
    """
    fits = victim.labels == label if target else victim.labels != label
    return jnp.asarray(victim.images[np.flatnonzero(fits)[-count:]])
