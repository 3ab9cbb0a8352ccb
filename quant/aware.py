"""Quantization-aware functions: weights and inputs of layers, chosen by path rules."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from core import rules as path_rules
from core import trees
from core.errors import InputError, describe
from core.types import Array, PyTree
from graph.products import intercept, kernel_of
from quant.calibration import Scaling, mean_scaling
from quant.quantizers import Quantizer
from quant.rows import RowMix, RowScaling

Apply = Callable[..., Any]
"""`apply(params, *args, **kwargs)`, as flax, optax users and others write it."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """What becomes of a kernel and of what it is multiplied with.

    Attributes:
      weights: the kernel's quantizer; None leaves it as it is.
      inputs: the quantizer of the kernel's inputs; None leaves them as they are.
    """

    weights: Quantizer | RowMix | None = None
    inputs: Quantizer | None = None


class Scales(NamedTuple):
    """Scales that are fixed or learned, a pytree; what is missing is fitted anew.

    Attributes:
      weights: by the path of the kernel.
      inputs: by the site of the product; see `graph.intercept`.
    """

    weights: dict[str, Scaling | RowScaling]
    inputs: dict[str, Scaling]


NO_SCALES = Scales({}, {})
"""Every scale is fitted to the weights and inputs of the call, as a constant."""


def aware(
    apply: Apply, rules: path_rules.Rules, scales: Scales = NO_SCALES
) -> Callable[..., Any]:
    """Returns `apply` with the weights and inputs of layers quantized.

        layer = Layer(Quantizer(Uniform(4)), Quantizer(Uniform(8, signed=False)))
        network = aware(model.apply, [(".*/kernel", layer)])
        loss = lambda params: cross_entropy(network(params, images), labels)

    Gradients are straight-through, as of `Quantizer.fake`; those of the scales are the
    quantizers', which take the first axis of inputs for that of examples. Biases and
    all that no rule names stay as they are. The layers are those of `apply`'s jaxpr,
    whatever library wrote it. Jit the result: it traces `apply` at each call.

    Args:
      apply: `apply(params, *args, **kwargs)`.
      rules: `(path regex, Layer)`, first match wins; see `core.rules`.
      scales: as `calibrate` returns them.

    Raises:
      When called:
      RuleError: a rule without a leaf.
      GraphError: inputs are to be quantized of a leaf that is never multiplied with
        data.
    """

    def call(params: PyTree, *args: Any, **kwargs: Any) -> Any:
        run, params = _quantized(apply, rules, scales, params)
        return run(params, *args, **kwargs)[0]

    return call


class Seen(NamedTuple):
    """What a layer was given, before its inputs were quantized, and its products."""

    inputs: Array
    products: Array


def record(
    apply: Apply, rules: path_rules.Rules, scales: Scales = NO_SCALES
) -> Callable[..., tuple[Any, dict[str, Seen]]]:
    """Returns `aware(apply, rules, scales)` that also returns what its layers saw.

    With `Layer()` for a rule, layers are seen and stay as they are.

    Returns:
      A function that returns (result, {site: Seen}). Sites within a `lax.scan` have
      its steps as first axis.
    """

    def call(params: PyTree, *args: Any, **kwargs: Any) -> Any:
        run, params = _quantized(apply, rules, scales, params, record=True)
        out, notes = run(params, *args, **kwargs)
        return out, {site: Seen(*note) for site, note in notes.items()}

    return call


def calibrate(
    apply: Apply,
    rules: path_rules.Rules,
    params: PyTree,
    batches: Iterable[tuple[Any, ...]],
) -> Scales:
    """Returns fixed scales: of the weights, and of the inputs over batches of data.

    Inputs are those of the network as it is. The ends of a range are the means of what
    the quantizer's calibration finds on each batch; the zero is rounded.

    Args:
      apply: as for `aware`.
      rules: as for `aware`.
      params: parameters to calibrate for.
      batches: the arguments of each call after the parameters, all arrays.

    Raises:
      InputError: inputs are to be quantized, and there is no batch.
    """
    layers = layers_of(rules, params)
    leaves = trees.by_path(params)
    weights = {
        path: layer.weights.fit(leaves[path])
        for path, layer in layers.items()
        if layer.weights is not None
    }
    sought = {path: layer for path, layer in layers.items() if layer.inputs is not None}
    if not sought:
        return Scales(weights, {})
    ranks: dict[str, int] = {}

    def fit(site: str, x: Array) -> tuple[Array, Scaling]:
        quantizer = sought[kernel_of(site)].inputs
        assert quantizer is not None
        ranks[site] = x.ndim
        return x, quantizer.fit(x)

    @jax.jit
    def fitted(params: PyTree, args: tuple[Any, ...]) -> dict[str, Scaling]:
        notes = intercept(apply, sought, fit)(params, *args)[1]
        return {site: _over_steps(ranks[site], n.operand) for site, n in notes.items()}

    found = [fitted(params, args) for args in batches]
    if not found:
        raise InputError(describe("no batch", "at least one to find ranges from"))
    return Scales(weights, {site: _mean([f[site] for f in found]) for site in found[0]})


def _mean(found: list[Scaling]) -> Scaling:
    """The mean range of batches, its zero on the grid."""
    mean = mean_scaling(jax.tree.map(lambda *parts: jnp.stack(parts), *found), 0)
    return mean._replace(zero=jnp.round(mean.zero))


def _over_steps(rank: int, found: Scaling) -> Scaling:
    """The mean over the steps of a scan."""
    return mean_scaling(found, tuple(range(found.scale.ndim - rank)))


def layers_of(rules: path_rules.Rules, params: PyTree) -> dict[str, Layer]:
    """Returns the layer of every leaf that a rule names, by its path.

    Raises:
      RuleError: a rule without a leaf.
      InputError: a spec that is no `Layer`.
    """
    hint = "Write Layer(weights=..., inputs=...)."
    return trees.by_path(path_rules.match(rules, params, Layer, hint))


def _quantized(
    apply: Apply,
    rules: path_rules.Rules,
    scales: Scales,
    params: PyTree,
    record: bool = False,
) -> tuple[Callable[..., tuple[Any, dict[str, Any]]], PyTree]:
    """Returns `apply` with inputs quantized, and parameters that are."""
    layers = layers_of(rules, params)
    names, leaves, treedef = trees.flatten(params)

    def weight(name: str, leaf: Array) -> Array:
        layer = layers.get(name)
        if layer is None or layer.weights is None:
            return leaf
        return layer.weights.fake(leaf, scales.weights.get(name))  # type: ignore[arg-type]

    def operand(site: str, x: Array) -> tuple[Array, Array | None]:
        quantizer, seen = layers[kernel_of(site)].inputs, x if record else None
        if quantizer is None:
            return x, seen
        quantizer = dataclasses.replace(quantizer, batched=True)
        return quantizer.fake(x, scales.inputs.get(site)), seen

    params = jax.tree.unflatten(treedef, map(weight, names, leaves))
    paths = [p for p, layer in layers.items() if record or layer.inputs is not None]
    if not paths:
        return lambda *args, **kwargs: (apply(*args, **kwargs), {}), params
    observe = (lambda _, product: product) if record else (lambda _, product: None)
    return intercept(apply, paths, operand, observe), params
