"""The formats that are compared, and kernels quantized by them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import quant
from core import trees
from core.types import Array, PyTree

CHOSEN = "chosen"
"""ANT: in every tensor the candidate of least error."""
CANDIDATES = ("fixed", "powers", "flint")
"""What is chosen from: "IPF" of arXiv 2208.14286."""


class Kind(NamedTuple):
    """A family of formats: its title, its least width, the format of a width."""

    title: str
    least: int
    build: Callable[[int], quant.Format]


def _float(bits: int) -> quant.Format:
    exponent = 2 if bits == 3 else 3
    return quant.SmallFloat(exponent, bits - 1 - exponent)


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "fixed": Kind("fixed point", 2, lambda b: quant.Uniform(b, symmetric=True)),
        "powers": Kind("powers of two", 2, quant.PowerOfTwo),
        "sp2": Kind("SP2", 3, quant.SumOfPowers),
        "esb2": Kind(
            "ESB, 2 significant bits", 4, lambda b: quant.ElasticSignificantBits(b, 2)
        ),
        "flint": Kind("flint", 3, quant.Flint),
        "float": Kind("floats", 3, _float),
    }
)
"""Every family by its name on the command line."""


def of_width(names: tuple[str, ...], bits: int) -> dict[str, quant.Format]:
    """Returns the formats of a width, without those that have none so narrow."""
    kinds = {name: KINDS[name] for name in names}
    return {n: kind.build(bits) for n, kind in kinds.items() if bits >= kind.least}


class Coded(NamedTuple):
    """Kernels in one format, or each in its own.

    Attributes:
      variables: with the kernels' numbers.
      formats: of each kernel, by path.
      errors: the squared error of each kernel, float.
      signals: the sum of squares of each kernel, float.
    """

    variables: PyTree
    formats: dict[str, quant.Format]
    errors: dict[str, float]
    signals: dict[str, float]


@functools.partial(jax.jit, static_argnums=0)
def _coded(quantizer: quant.Quantizer, w: Array) -> tuple[Array, Array, Array]:
    near = quantizer.fake(w)
    return near, jnp.square(near - w).sum(), jnp.square(w).sum()


def coded(variables: PyTree, formats: Mapping[str, quant.Format], search: Any) -> Coded:
    """Returns variables with kernels quantized, a scale for each output channel.

    Args:
      variables: a pytree of arrays.
      formats: of the kernels that are quantized, by path.
      search: the calibration.
    """
    names, leaves, treedef = trees.flatten(variables)
    found = dict(zip(names, leaves, strict=True))
    errors, signals = {}, {}
    for path, fmt in formats.items():
        quantizer = quant.Quantizer(fmt, quant.CHANNEL, search)
        found[path], errors[path], signals[path] = _coded(quantizer, found[path])
    errors, signals = jax.device_get((errors, signals))
    return Coded(
        jax.tree.unflatten(treedef, [found[name] for name in names]),
        dict(formats),
        {path: float(value) for path, value in errors.items()},
        {path: float(value) for path, value in signals.items()},
    )


def chosen(variables: PyTree, candidates: Sequence[quant.Format], search: Any) -> Coded:
    """Returns variables with each kernel in the candidate of least error.

    Args:
      variables: a pytree of arrays.
      candidates: of equals the first is taken.
      search: the calibration.
    """
    formats = {
        path: quant.choose(leaf, candidates, quant.CHANNEL, search).quantizer.format
        for path, leaf in trees.by_path(variables).items()
        if path.endswith("/kernel")
    }
    return coded(variables, formats, search)
