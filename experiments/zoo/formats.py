"""The formats that are compared, and kernels quantized by them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import quant
from core import trees
from core.types import Array, PyTree

CHOSEN = "chosen"
"""ANT: in every tensor the candidate of least error."""
CANDIDATES = ("fixed", "powers", "flint")
"""What is chosen from: "IPF" of arXiv 2208.14286."""

MOST_EXPONENT_BITS = 4
"""Of ESB: beyond, it keeps more significant bits, and is another of its members."""


class Kind(NamedTuple):
    """A family of formats: its title, its widths, the format of a width."""

    title: str
    least: int
    build: Callable[[int], quant.Format]
    most: int = 8


def _float(bits: int) -> quant.Format:
    exponent = 2 if bits == 3 else 3
    return quant.SmallFloat(exponent, bits - 1 - exponent)


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "fixed": Kind("fixed point", 2, lambda b: quant.Uniform(b, symmetric=True)),
        "powers": Kind("powers of two", 2, quant.PowerOfTwo),
        "sp2": Kind("SP2", 3, quant.SumOfPowers),
        "apot": Kind("APoT", 3, quant.AdditivePowers),
        **{
            f"esb{k}": Kind(
                f"ESB, {k} significant bit" + "s" * (k != 1),
                k + 2,
                functools.partial(quant.ElasticSignificantBits, significant=k),
                k + 1 + MOST_EXPONENT_BITS,
            )
            for k in range(3)
        },
        "esb": Kind(
            "ESB, bits - 3 significant bits",
            4,
            lambda b: quant.ElasticSignificantBits(b, b - 3),
        ),
        "flint": Kind("flint", 3, quant.Flint),
        "float": Kind("floats", 3, _float),
        "binary": Kind("binary", 1, lambda _: quant.Binary(), 1),
        "ternary": Kind("ternary", 2, lambda _: quant.Ternary(), 2),
    }
)
"""Every family by its name on the command line."""


def of_width(names: tuple[str, ...], bits: int) -> dict[str, quant.Format]:
    """Returns the formats of a width, without those that have none of it."""
    kinds = {name: KINDS[name] for name in names}
    return {
        name: kind.build(bits)
        for name, kind in kinds.items()
        if kind.least <= bits <= kind.most
    }


def shape_of(fmt: quant.Format) -> tuple[float, ...]:
    """Returns the levels over the largest: formats that share them differ by words."""
    return tuple(np.round(fmt.levels / fmt.max, 12).tolist())


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


def chosen(candidates: Sequence[Coded]) -> Coded:
    """Returns variables with each kernel in the candidate of least error.

    Within a tensor the channels' mean squared errors differ from its squared error by a
    factor: so it is the choice of `quant.choose`, from kernels that are there already.

    Args:
      candidates: the same variables, all kernels in one format; of equals the first is
        taken.
    """
    first = candidates[0]
    best = {p: min(candidates, key=lambda c, p=p: c.errors[p]) for p in first.errors}
    leaves = {id(c): trees.by_path(c.variables) for c in candidates}
    names, plain, treedef = trees.flatten(first.variables)
    found = [
        leaves[id(best[n])][n] if n in best else leaf
        for n, leaf in zip(names, plain, strict=True)
    ]
    return Coded(
        jax.tree.unflatten(treedef, found),
        {path: coded.formats[path] for path, coded in best.items()},
        {path: coded.errors[path] for path, coded in best.items()},
        first.signals,
    )
