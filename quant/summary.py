"""What quantization costs and leaves: bits, bytes, noise, shifts and adds."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from core import rules as path_rules
from core import trees
from core.types import Array, ArrayLike, PyTree
from quant.aware import NO_SCALES, Apply, Layer, Scales, layers_of, record
from quant.calibration import Scaling
from quant.quantizers import Quantizer
from quant.rows import RowMix


class LeafSummary(NamedTuple):
    """One quantized leaf, in Python numbers.

    Attributes:
      path: of the leaf.
      shape: of the leaf.
      format: of its words, or of its rows.
      bits: of a word.
      bytes: of its words, packed, and of its scales (float32) and zeros (a word each).
      sqnr: of its numbers against the weights, in decibels.
      shifts: of a product, on average over the rows.
      adds: of a product, likewise; see `Format.cost`.
    """

    path: str
    shape: tuple[int, ...]
    format: str
    bits: int
    bytes: int
    sqnr: float
    shifts: float
    adds: float


def summary(params: PyTree, rules: path_rules.Rules) -> list[LeafSummary]:
    """Returns a row for every leaf whose weights the rules quantize, in tree order.

    It reads the weights and waits for them (one transfer for all).

    Args:
      params: a pytree of arrays.
      rules: `(path regex, Layer)`, as for `aware`.

    Raises:
      RuleError: a rule without a leaf. Otherwise as the quantizers' `fit`.
    """
    leaves = trees.by_path(params)
    chosen = {
        path: layer.weights
        for path, layer in layers_of(rules, params).items()
        if layer.weights is not None
    }
    fitted = {path: q.fit(leaves[path]) for path, q in chosen.items()}
    noise = jax.device_get(
        {
            path: sqnr(leaves[path], q.fake(leaves[path], fitted[path]))  # type: ignore[arg-type]
            for path, q in chosen.items()
        }
    )
    return [
        _row(path, q, leaves[path], fitted[path], float(noise[path]))
        for path, q in chosen.items()
    ]


def _row(
    path: str, quantizer: Quantizer | RowMix, leaf: Any, scaling: Any, noise: float
) -> LeafSummary:
    if isinstance(quantizer, RowMix):
        formats, rows = quantizer.formats, leaf.shape[-1]
        share = round(quantizer.share * rows) / rows
        shares = share, 1 - share
        extra = 4 + math.ceil(rows / 8)  # the scale; which rows are sums of powers
    else:
        formats, shares = (quantizer.format,), (1.0,)
        extra = 4 * scaling.scale.size
    bits = formats[0].bits
    if isinstance(scaling, Scaling) and jax.device_get(jnp.any(scaling.zero != 0)):
        extra += math.ceil(scaling.zero.size * bits / 8)
    costs = [fmt.cost for fmt in formats]
    return LeafSummary(
        path,
        tuple(leaf.shape),
        " + ".join(str(fmt) for fmt in formats),
        bits,
        math.ceil(leaf.size * bits / 8) + extra,
        noise,
        sum(s * cost.shifts for s, cost in zip(shares, costs, strict=True)),
        sum(s * cost.adds for s, cost in zip(shares, costs, strict=True)),
    )


def sqnr(x: ArrayLike, quantized: ArrayLike) -> Array:
    """Returns the signal-to-quantization-noise ratio, 10 log10(E x^2 / E (x - q)^2).

    In decibels, []; infinite where nothing is lost (arXiv 1803.08607, section 3).

    Args:
      x: floating point, any shape.
      quantized: of the shape of x.
    """
    x, quantized = (jnp.asarray(a).astype(jnp.float32) for a in (x, quantized))
    signal, noise = jnp.mean(x * x), jnp.mean((x - quantized) ** 2)
    ratio = 10 * (jnp.log10(signal) - jnp.log10(noise))
    return jnp.where(noise > 0, ratio, jnp.inf)


def layer_sqnr(
    apply: Apply,
    rules: path_rules.Rules,
    params: PyTree,
    *args: Any,
    scales: Scales = NO_SCALES,
) -> dict[str, Array]:
    """Returns the ratio of each layer's products, all errors before it included.

    Args:
      apply: `apply(params, *args)`.
      rules: as for `aware`.
      params: parameters of `apply`.
      *args: its other arguments.
      scales: as for `aware`.

    Returns:
      Decibels [] by site.
    """
    plain = [(rule, spec and Layer()) for rule, spec in rules]
    _, exact = record(apply, plain)(params, *args)
    _, found = record(apply, rules, scales)(params, *args)
    return {s: sqnr(seen.products, found[s].products) for s, seen in exact.items()}
