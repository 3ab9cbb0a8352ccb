"""What a network of digits is worth: certified accuracy, bytes, price."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

import hw
import verify
from core.types import Array, PyTree
from experiments import models
from experiments.data import Dataset, Split

NAMES = {"unsat": "verified", "sat": "falsified", "timeout": "open", "unknown": "open"}
"""What a verdict means for an image."""

Classifier = Callable[[PyTree, Array], Array]


@functools.cache
def _classifier(model: str, mean: Any, std: Any) -> Classifier:
    network = models.create(model)

    def fn(params: PyTree, x: Array) -> Array:
        batch = x if x.ndim == 4 else x[None]
        scaled = (batch - jnp.asarray(mean, x.dtype)) / jnp.asarray(std, x.dtype)
        scores = cast(Array, network.apply({"params": params}, scaled, train=False))
        return scores if x.ndim == 4 else scores[0]

    return fn


def classifier(model: str, dataset: Dataset) -> Classifier:
    """Returns fn(params, x) -> scores, of pixels in [0, 1], one image or a batch.

    The same object for the same model and data, so that what is compiled is shared.
    """
    return _classifier(model, _hashable(dataset.mean), _hashable(dataset.std))


def _hashable(value: Any) -> Any:
    return tuple(np.ravel(value).tolist()) if np.ndim(value) else float(value)


def certify(
    fn: Classifier, params: PyTree, split: Split, config: Any
) -> dict[str, int]:
    """Returns how many of the first images are verified, falsified, open or wrong.

    Args:
      fn: of one image.
      params: of the network.
      split: the images.
      config: of the experiment: `images`, `eps`, `timeout_s`.
    """
    images = np.asarray(split.images[: config.images], np.float32) / 255
    labels = np.asarray(split.labels[: config.images])
    scores = np.asarray(jax.jit(fn)(params, images))
    right = scores.argmax(-1) == labels
    problems = [
        verify.Problem(fn, params, verify.robustness(x, int(y), config.eps))
        for x, y in zip(images[right], labels[right], strict=True)
    ]
    counts = {"verified": 0, "falsified": 0, "open": 0, "wrong": int((~right).sum())}
    settings = verify.Config(timeout_s=config.timeout_s)
    for verdict in verify.verify_all(problems, settings):
        counts[NAMES[verdict.status]] += 1
    return counts


def price(
    fn: Classifier,
    params: PyTree,
    densities: Mapping[str, float],
    bits: int,
    batch: int,
) -> dict[str, dict[str, Any]]:
    """Returns totals of the network's cost on every target, by its name.

    Weights of 32 bits are floats; with fewer bits the inputs of products have eight.

    Args:
      fn: of a batch of images.
      params: of the network.
      densities: share of weights that are not 0, by path.
      bits: of a weight.
      batch: images at once.
    """
    x = jax.ShapeDtypeStruct((batch, 28, 28, 1), jnp.float32)
    table = hw.workload(
        fn,
        params,
        x,
        density=dict(densities),
        bits=bits,
        input_bits=32 if bits == 32 else 8,
    )
    return {
        name: hw.summary(hw.cost(table, target)) for name, target in hw.TARGETS.items()
    }
