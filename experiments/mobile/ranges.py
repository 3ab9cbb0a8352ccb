"""Fixed ranges of layers' inputs from data, and networks at a width."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

import quant
from core import trees
from core.types import Array, PyTree
from experiments.rounding.networks import KERNELS
from quant.calibration import LeastError, MinMax, Scaling, mean_scaling

RANGES = ("minmax", "mean", "sqnr", "mse")
"""The extremes; their mean over batches; the clip of most signal over noise in the
layer's products, layer by layer; the clip of least squared error of its inputs."""
BATCHES = 8
"""Over which extremes are averaged."""
SEARCH = LeastError(1 / 40, 1.0, 40)
SHARES = (0.55, 0.7, 0.85, 1.0, 1.25)
"""Clips that are tried for products, over that of least squared error."""


def rules(bits: int) -> list[tuple[str, quant.Layer]]:
    """Returns rules for the inputs of all layers: words from 0 with any zero."""
    return [(KERNELS, quant.Layer(inputs=quant.Quantizer(_words(bits))))]


def _words(bits: int) -> quant.Uniform:
    return quant.Uniform(bits, signed=False)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _fitted(rows: Array, fmt: quant.Uniform, search: Any, signed: bool) -> Scaling:
    """The mean range of rows, for words from 0: a signed one's zero is the middle."""
    quantizer = quant.Quantizer(fmt, quant.Per(axes=(0,)), search)
    scale, zero = mean_scaling(quantizer.fit(rows), None)
    middle = 2.0 ** (fmt.bits - 1) if signed else 0.0
    return Scaling(scale, jnp.round(zero + middle))


def fitted(inputs: Mapping[str, Array], bits: int, how: str) -> dict[str, Scaling]:
    """Returns the scaling of every layer's inputs, for the format of `rules`.

    Least errors are sought for ranges that begin at 0, or that are symmetric where
    there are negative numbers.

    Args:
      inputs: of the float network on images, by site, [images, ...].
      bits: of the format.
      how: one of `RANGES` but "sqnr", for which see `by_products`.
    """
    lowest = jax.device_get({site: x.min() for site, x in inputs.items()})
    found = {}
    for site, x in inputs.items():
        if how == "mse":
            signed = bool(lowest[site] < 0)
            fmt = quant.Uniform(bits) if signed else _words(bits)
            found[site] = _fitted(x.reshape(1, -1), fmt, SEARCH, signed)
        else:
            batches = BATCHES if how == "mean" and len(x) % BATCHES == 0 else 1
            rows = x.reshape(batches, -1)
            found[site] = _fitted(rows, _words(bits), MinMax(), False)
    return found


def order_of(model: nn.Module, variables: PyTree, images: Array) -> list[str]:
    """Returns the sites of layers in the order in which the network has them."""
    record = quant.record(model.apply, [(KERNELS, quant.Layer())])
    found: list[str] = []

    def run(variables: PyTree, images: Array) -> None:
        found.extend(record(variables, images)[1])

    jax.eval_shape(run, variables, images)
    return found


def by_products(
    noise: Callable[[Mapping[str, Scaling]], Mapping[str, Any]],
    order: Sequence[str],
    first: Mapping[str, Scaling],
) -> dict[str, Scaling]:
    """Returns scalings of most signal over noise in products, layer by layer.

    Each layer's clip is one of `SHARES` of the first one; the layers before it have
    those that were chosen for them, so their errors count. Of equals the first one.

    Args:
      noise: decibels by site, with scalings by site.
      order: the sites as the network has them.
      first: scalings to begin with, of least squared error.
    """
    found = dict(first)
    for site in order:
        start, tried = first[site], []
        for share in SHARES:
            found[site] = start._replace(scale=share * start.scale)
            tried.append((float(noise(found)[site]), found[site]))
        found[site] = max(tried, key=lambda pair: pair[0])[1]
    return found


def with_kernels(variables: PyTree, bits: int, per: quant.Per) -> PyTree:
    """Returns variables with all kernels at a width, from least to largest weight."""
    quantizer = quant.Quantizer(_words(bits), per, MinMax())
    names, leaves, treedef = trees.flatten(variables)
    found = [
        quantizer.fake(leaf) if name.endswith("/kernel") else leaf
        for name, leaf in zip(names, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, found)


class WithInputs:
    """A network whose layers' inputs are quantized, called as a module is.

    The scales are a collection: {"params", "batch_stats", "scales": {site: Scaling}}.
    """

    def __init__(self, model: nn.Module, bits: int):
        self._model, self._rules = model, rules(bits)

    def apply(self, variables: Any, images: Array, train: bool = False) -> Any:
        """Returns the logits of images."""
        del train
        rest = {name: part for name, part in variables.items() if name != "scales"}
        scales = quant.Scales({}, variables["scales"])
        return quant.aware(self._model.apply, self._rules, scales)(rest, images)


def noise_of(model: nn.Module, bits: int) -> Any:
    """Returns noise(variables, quantized, scales, images) -> {site: decibels}, jitted.

    Of each layer's products, all errors before it included: those of weights and those
    of inputs.
    """
    exact = quant.record(model.apply, [(KERNELS, quant.Layer())])

    def noise(variables: PyTree, quantized: PyTree, scales: Any, images: Array):
        run = quant.record(model.apply, rules(bits), quant.Scales({}, scales))
        seen, found = exact(variables, images)[1], run(quantized, images)[1]
        return {s: quant.sqnr(seen[s].products, found[s].products) for s in seen}

    return jax.jit(noise)


def inputs_of(model: nn.Module) -> Any:
    """Returns inputs(variables, images) -> {site: what the layer is given}, jitted."""
    record = quant.record(model.apply, [(KERNELS, quant.Layer())])

    def inputs(variables: PyTree, images: Array) -> dict[str, Array]:
        return {s: seen.inputs for s, seen in record(variables, images)[1].items()}

    return jax.jit(inputs)
