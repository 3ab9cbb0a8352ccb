"""ANT: the number format of each tensor by its error, and layers that get more bits."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from core.errors import InputError, check_range, describe
from core.types import Array, ArrayLike
from quant.calibration import LeastError, Scaling, Search
from quant.formats import Flint, Format, PowerOfTwo, SmallFloat, Uniform
from quant.quantizers import TENSOR, Per, Quantizer

SEARCH = LeastError()


class Choice(NamedTuple):
    """The format of a tensor.

    Attributes:
      quantizer: with the format of least error.
      scaling: its scales, fitted to the tensor.
      errors: the sum over scales of mean squared errors, by format.
    """

    quantizer: Quantizer
    scaling: Scaling
    errors: dict[Format, float]


def candidates(names: str, bits: int, signed: bool = True) -> tuple[Format, ...]:
    """Returns the formats that letters stand for, as the paper names its lists.

    Args:
      names: of I (integers), P (powers of two), F (flint), E (a small float with 3
        exponent bits, 2 where there are 2 magnitude bits); "IPF" is the default list.
      bits: width of each.
      signed: whether a sign is stored.
    """
    size = bits - int(signed)
    exponent = 2 if size == 2 else 3
    made = {
        "I": lambda: Uniform(bits, signed),
        "P": lambda: PowerOfTwo(bits, signed),
        "F": lambda: Flint(bits, signed),
        "E": lambda: SmallFloat(exponent, size - exponent, signed=signed),
    }
    unknown = sorted(set(names) - set(made))
    if unknown or not names:
        raise InputError(describe(f"{names!r}", f"letters of {', '.join(made)}"))
    return tuple(made[name]() for name in names)


def choose(
    x: ArrayLike,
    formats: Sequence[Format],
    per: Per = TENSOR,
    search: Search = SEARCH,
) -> Choice:
    """Chooses one format for a tensor by the sum of its scales' least errors.

    Every scale is the best of its own group; the format is one for the whole tensor, as
    the hardware needs. Reads the errors on the host: not for use under `jit`.

    Args:
      x: floating point, any shape.
      formats: the first of equals is taken.
      per: what shares a scale; output channels for weights in the paper.
      search: of scales; above 6 bits the paper starts at 0.95.

    Raises:
      InputError: no formats. Otherwise as `Quantizer.fit`.
    """
    if not formats:
        raise InputError(describe("no formats", "at least one"))
    fitted: list[tuple[Quantizer, Scaling]] = []
    errors: list[Array] = []
    for fmt in formats:
        quantizer = Quantizer(fmt, per, search)
        scaling, error = quantizer.searched(x)
        fitted.append((quantizer, scaling))
        errors.append(error.sum())
    found = jax.device_get(jnp.stack(errors))
    best = int(found.argmin())
    by_format = dict(zip(formats, map(float, found), strict=True))
    return Choice(*fitted[best], by_format)


def promote_until(
    errors: Mapping[str, float],
    evaluate: Callable[[tuple[str, ...]], float],
    target: float,
    costs: Mapping[str, float] | None = None,
    budget: float = math.inf,
) -> tuple[str, ...]:
    """Promotes layers by error until the network is good enough (ANT4-8's stop rule).

    Args:
      errors: see `promote`.
      evaluate: the accuracy of the network with these layers promoted; called with one
        more each time, with none at first.
      target: accuracy at which to stop, 1 % of loss in accuracy below float, say.
      costs: of promoting each layer, by path; nothing if left out.
      budget: what these may add up to: the first layer beyond it ends the promotion.

    Raises:
      InputError: a layer without a cost.
    """
    order = promote(errors, len(errors))
    if costs is not None and set(costs) != set(errors):
        raise InputError(
            describe(f"costs of {sorted(costs)}", f"one of each of {sorted(errors)}")
        )
    spent = 0.0
    for count, path in enumerate(order):
        spent += costs[path] if costs is not None else 0.0
        if spent > budget or evaluate(order[:count]) >= target:
            return order[:count]
    return order


def promote(errors: Mapping[str, float], count: int) -> tuple[str, ...]:
    """Returns the layers that get more bits: the `count` of largest error.

    Args:
      errors: of each layer at few bits, by path; weights and activations added up.
      count: from 0 to the number of layers.
    """
    check_range("count", count, 0, len(errors))
    return tuple(sorted(errors, key=lambda path: (-errors[path], path))[:count])
