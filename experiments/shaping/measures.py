"""What a network of digits is worth: certified accuracy, bytes, price."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

import hw
import verify
from core.types import Array, ArrayLike, PyTree
from experiments import models
from experiments.data import Dataset, Split
from experiments.pruning.trainer import jitted_accuracy
from hw.targets.fpga import Fpga, Msq

NAMES = {"unsat": "verified", "sat": "falsified", "timeout": "open", "unknown": "open"}
"""What a verdict means for an image."""

INDEX_BITS = (4, 8)
"""Widths of a weight's distance from the stored one before it."""

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


def rounded(
    fn: Classifier, params: PyTree, split: Split, bits: int, images: int = 512
) -> Classifier:
    """Returns fn with the inputs of its products rounded to whole steps.

    Steps are fixed, layer by layer: the largest input of some training images is the
    top level. Inputs with both signs lose a bit to the sign.

    Args:
      fn: of a batch.
      params: of the network.
      split: the training images.
      bits: of an input.
      images: to find the ranges on, the first ones.
    """
    found: dict[str, tuple[Array, Array]] = {}

    def look(path: str, x: Array, w: Array) -> Array:
        found[path] = x.min(), x.max()
        return x @ w

    def ranges(params: PyTree, x: Array) -> dict[str, tuple[Array, Array]]:
        hw.behaviour.through(fn, look)(params, x)
        return dict(found)

    pixels = np.asarray(split.images[:images], np.float32) / 255
    ends = jax.device_get(jax.jit(ranges)(params, pixels))

    def product(path: str, x: Array, w: Array) -> Array:
        low, high = ends[path]
        top = float(2 ** (bits - (low < 0)) - 1)
        step = float(max(high, -low)) / top
        return step * (jnp.clip(jnp.round(x / step), -top * (low < 0), top) @ w)

    return hw.behaviour.through(fn, product)


def accuracy(fn: Classifier, params: PyTree, split: Split) -> float:
    """Returns the share of images whose class is right, %."""
    images = np.asarray(split.images, np.float32) / 255
    return jitted_accuracy(fn, params, split._replace(images=images))


def stored_bits(kernel: ArrayLike, bits: float) -> float:
    """Returns the bits of a kernel in the smallest of three forms, from which it reads.

    All values; a bit for each place and the values that are left; or those with their
    distances, in C order, as in deep compression (arXiv 1510.00149): `INDEX_BITS` wide,
    from 1 on. Where the next one is farther off than that reaches, 0 is stored between.

    Args:
      kernel: of any shape.
      bits: of a value, 0 among them.
    """
    values = np.asarray(kernel).reshape(-1)
    places = np.flatnonzero(values)
    distances = np.diff(places, prepend=-1)
    forms = [values.size * bits, values.size + places.size * bits]
    for width in INDEX_BITS:
        stored = -(-distances // 2**width)  # itself and the zeros before it
        forms.append(int(stored.sum()) * (bits + width))
    return min(forms)


def price(
    fn: Classifier,
    params: PyTree,
    densities: Mapping[str, float],
    batch: int,
    *,
    formats: tuple[int, int] | None = None,
    share: float = 0.0,
) -> dict[str, dict[str, Any]]:
    """Returns totals of the network's cost on every target, by its name.

    Args:
      fn: of a batch of images.
      params: of the network.
      densities: share of weights that are not 0, by path; they lie anywhere.
      batch: images at once.
      formats: bits of weights and of inputs; None for the widest, up to 32, that each
        target has.
      share: of rows that are sums of two powers. Designs with two cores run them on
        the second; floats have none.
    """
    x = jax.ShapeDtypeStruct((batch, 28, 28, 1), jnp.float32)
    table = hw.workload(fn, params, x, density=dict(densities))
    found = {}
    for name, target in hw.TARGETS.items():
        bits, input_bits = formats or (
            min(32.0, float(np.asarray(most)[1]))
            for most in (target.weight_widths, target.input_widths)
        )
        mixed = target
        if isinstance(target, Msq) or (formats and isinstance(target, Fpga)):
            mixed = hw.replace(target, source="the network's rows", share=share)
        made = hw.design(table, bits=bits, input_bits=input_bits)
        found[name] = hw.summary(hw.cost(made, mixed))
    return found
