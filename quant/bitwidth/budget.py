"""Budgets of widths: average bits in the loss, bytes with everything counted."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from core import trees
from core.errors import InputError, ShapeError, check_range, describe
from core.types import Array, PartialTree, PyTree, Scalar

FLOAT_BITS = 32
"""Of a number that is not quantized, and of a scale."""
WIDTH_BITS = 8
"""Of a group's width in its header."""
HEADER_BITS = WIDTH_BITS + FLOAT_BITS
"""Of a group: its width and its scale."""


class Leaf(NamedTuple):
    """A leaf that has widths.

    Invariant: `count * each` is the number of its weights.

    Attributes:
      count: groups.
      each: weights of a group.
    """

    count: int
    each: int


def leaves(params: PyTree, widths: PartialTree) -> dict[str, Leaf]:
    """Returns what widths are for, by path.

    Args:
      params: a pytree of arrays, or of their shapes.
      widths: a partial tree of arrays [groups, ...].

    Raises:
      InputError: no widths at all.
      ShapeError: widths for leaves that are not there or cannot be split so.
    """
    sizes = {path: math.prod(np.shape(w)) for path, w in trees.by_path(params).items()}
    found = {}
    for path, part in trees.by_path(widths).items():
        count = np.shape(part)[0] if np.ndim(part) else 0
        if path not in sizes or not count or sizes[path] % count:
            raise ShapeError(
                describe(
                    f"widths of shape {np.shape(part)} for {path}",
                    "[groups] for a leaf whose weights are split evenly",
                    "Use the parameters that the widths were made for.",
                )
            )
        found[path] = Leaf(count, sizes[path] // count)
    if not found:
        raise InputError(
            describe("no leaf with a width", "at least one", "Add a rule with a Per.")
        )
    return found


def bit_costs(
    params: PyTree, widths: PartialTree, costs: PartialTree | None = None
) -> np.ndarray:
    """Returns what a bit of each group costs, int64 [all groups].

    Args:
      params: a pytree of arrays, or of their shapes.
      widths: a partial tree of arrays [groups, ...].
      costs: a partial tree of whole numbers [groups], for a budget of hardware: say,
        multiply-accumulates of a group, where a device's cycles grow with the width. If
        left out, the number of a group's weights: a budget of size.

    Raises:
      InputError: no widths, or costs that are not whole numbers from 1.
      ShapeError: widths that are not of these parameters, or costs not of these widths.
    """
    split = leaves(params, widths)
    if costs is None:
        return np.concatenate([np.full(n, each) for n, each in split.values()])
    given = {path: np.asarray(part) for path, part in trees.by_path(costs).items()}
    shapes = {path: part.shape for path, part in given.items()}
    wanted = {path: (leaf.count,) for path, leaf in split.items()}
    if shapes != wanted:
        raise ShapeError(
            describe(f"costs of shapes {shapes}", f"those of the widths, {wanted}")
        )
    each = np.concatenate([given[path] for path in split])
    if not (each >= 1).all() or (each != np.round(each)).any():
        raise InputError(
            describe(
                f"costs from {each.min():g} to {each.max():g} a bit",
                "whole numbers from 1",
                "Scale and round them: budgets are kept exactly.",
            )
        )
    return each.astype(np.int64)


def average_bits(
    params: PyTree, beta: PartialTree, costs: PartialTree | None = None
) -> Array:
    """Returns sum_g n_g beta_g / sum_g n_g, of the leaves with widths, float32 [].

    Args:
      params: a pytree of arrays, or of their shapes.
      beta: widths, a partial tree of arrays [groups]; real or integer.
      costs: n_g, see `bit_costs`; the weights of each group if left out.

    Raises:
      InputError, ShapeError: no widths, or not of these parameters; see `bit_costs`.
    """
    return _average(params, beta, costs)


def integrality_penalty(params: PyTree, beta: PartialTree) -> Array:
    """Returns sum_g n_g r_g (1 - r_g) / sum_g n_g, r the part after the point.

    Weighed by 0 in the first half of a training and by up to 0.05 at its end, it draws
    widths to integers. It is no use to `Categorical`, which its temperature decides.

    Args:
      params: see `average_bits`.
      beta: see `average_bits`; real.
    """

    def one(widths: Array) -> Array:
        r = widths - jnp.floor(widths)
        return r * (1 - r)

    return _average(params, trees.map_partial(one, beta))


def budget_penalty(
    bits: Scalar, target: float, multiplier: Scalar, linear: float = 1.0
) -> Array:
    """Returns multiplier * (10 * over**2 + linear * over).

    Here over = relu(bits / target - 1). The slope of the square alone vanishes at the
    target, which averages then come near from above; with the other term a multiplier
    above the slope of the rest of the loss brings them below it.

    Args:
      bits: `average_bits`.
      target: what it may be.
      multiplier: see `update_multiplier`.
      linear: from 0.
    """
    check_range("target", target, 0.0, low_open=True)
    check_range("linear", linear, 0.0)
    over = jnp.maximum(jnp.asarray(bits) / target - 1, 0)
    return multiplier * (10 * jnp.square(over) + linear * over)


def update_multiplier(multiplier: Scalar, bits: Scalar, target: float) -> Array:
    """Returns clip(multiplier * exp(2 * (bits / target - 1)), 0.1, 100), once an epoch.

    Args:
      multiplier: 1 at first.
      bits: `average_bits`.
      target: what it may be.
    """
    check_range("target", target, 0.0, low_open=True)
    grown = multiplier * jnp.exp(2 * (jnp.asarray(bits) / target - 1))
    return jnp.clip(grown, 0.1, 100)


class Size(NamedTuple):
    """What a network takes, in bits.

    Attributes:
      weights: of the weights that have widths.
      headers: of their groups: 8 of the width and 32 of the scale.
      rest: of all other numbers, 32 each.
      quantized: how many weights have widths.
      numbers: how many numbers the network has.
    """

    weights: int
    headers: int
    rest: int
    quantized: int
    numbers: int

    @property
    def bytes(self) -> int:
        """All of it, the last byte filled up."""
        return -(-(self.weights + self.headers + self.rest) // 8)

    @property
    def average_bits(self) -> float:
        """Bits a weight, without headers, of the weights that have widths."""
        return self.weights / self.quantized

    @property
    def compression_rate(self) -> float:
        """The size with 32 bits for each number over this one."""
        return FLOAT_BITS * self.numbers / (self.weights + self.headers + self.rest)


def size(params: PyTree, widths: PartialTree) -> Size:
    """Returns what a network takes at integer widths, exactly.

    Args:
      params: a pytree of arrays, or of their shapes.
      widths: a partial tree of integers [groups].

    Raises:
      InputError: no widths, or some that are not whole numbers.
      ShapeError: widths that are not of these parameters.
    """
    split = leaves(params, widths)
    weights = 0
    for path, part in trees.by_path(widths).items():
        bits = np.asarray(part, np.float64)
        if (bits != np.round(bits)).any() or bits.min() < 1:
            raise InputError(
                describe(
                    f"widths {bits.min():g} to {bits.max():g} of {path}",
                    "whole numbers from 1",
                    "Round them with round_to_budget.",
                )
            )
        weights += split[path].each * int(bits.sum())
    quantized, groups = _totals(split)
    numbers = trees.size(params)
    rest = FLOAT_BITS * (numbers - quantized)
    return Size(weights, HEADER_BITS * groups, rest, quantized, numbers)


def bits_within(params: PyTree, widths: PartialTree, limit: int) -> float:
    """Returns the average bits that leave a network within some bytes.

    For widths of different granularity at equal size: headers are counted.

    Args:
      params: a pytree of arrays, or of their shapes.
      widths: a partial tree of arrays [groups, ...]; only its shapes are read.
      limit: in bytes.

    Raises:
      InputError: headers and unquantized numbers alone take more.
    """
    quantized, groups = _totals(leaves(params, widths))
    fixed = HEADER_BITS * groups + FLOAT_BITS * (trees.size(params) - quantized)
    if 8 * limit <= fixed:
        raise InputError(
            describe(
                f"limit={limit} bytes",
                f"more than the {-(-fixed // 8)} of headers and unquantized numbers",
                "Let more weights share a width.",
            )
        )
    return (8 * limit - fixed) / quantized


def _totals(split: dict[str, Leaf]) -> tuple[int, int]:
    """Weights and groups."""
    weights = sum(leaf.count * leaf.each for leaf in split.values())
    return weights, sum(leaf.count for leaf in split.values())


def _average(
    params: PyTree, values: PartialTree, costs: PartialTree | None = None
) -> Array:
    each = bit_costs(params, values, costs)
    shares = jnp.asarray(each / each.sum(), jnp.float32)
    parts = [jnp.asarray(part) for part in trees.by_path(values).values()]
    found = jnp.concatenate([part.astype(jnp.float32) for part in parts])
    return (shares * found).sum()
