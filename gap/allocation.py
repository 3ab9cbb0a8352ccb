"""How a density is shared out over layers: each function returns pruning rules.

A rule names one leaf by its path, so the result composes with everything that takes
rules, and with rules of your own in front of it (the first match wins).
"""

import math
import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from core import trees
from core.errors import InputError, check_range, describe
from core.gemm import gemm_shape
from core.rules import Rules
from core.types import Array, PyTree
from gap.masks import chosen, global_magnitude_masks
from gap.patterns import Pattern, Target, Unstructured

_ANY = Unstructured()


def prunable(params: PyTree, rules: Rules | None = None) -> dict[str, Array]:
    """Returns the leaves that take part, by path.

    Args:
      params: a pytree of arrays.
      rules: pairs of a path regex and True or `None`; by default every leaf with two
        or more axes, which leaves out biases and scales.

    Raises:
      RuleError: a rule that matches no leaf.
      InputError: a spec but True or None, or no leaf selected.
    """
    if rules is None:
        leaves = {k: w for k, w in trees.by_path(params).items() if jnp.ndim(w) > 1}
    else:
        leaves = trees.by_path(trees.select(chosen(params, rules), params))
    if not leaves:
        raise InputError(describe("no leaf to prune", "rules that select some"))
    return leaves


def uniform(
    params: PyTree, density: float, rules: Rules | None = None, pattern: Pattern = _ANY
) -> list[tuple[str, Target]]:
    """Returns rules that give every leaf the same density.

    Args:
      params: a pytree of arrays.
      density: the share of units to keep, in [0, 1].
      rules: which leaves take part; see `prunable`.
      pattern: the pattern of all of them.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"w": jnp.ones((4, 5)), "b": jnp.ones(5)}
      >>> [(path, target.density) for path, target in uniform(params, 0.1)]
      [('w', 0.1)]
    """
    target = Target(density=density, pattern=pattern)
    return [(re.escape(path), target) for path in prunable(params, rules)]


def erdos_renyi(
    params: PyTree,
    density: float,
    rules: Rules | None = None,
    pattern: Pattern = _ANY,
    *,
    kernel: bool = True,
) -> list[tuple[str, Target]]:
    """Returns rules of Erdos-Renyi densities, or of their kernel form.

    A leaf's density is proportional to (in + out) / (in out), with `kernel` to the sum
    of all dimensions over their product (arXiv 1911.11134, section 3), under one scale
    that meets the total; a leaf that would exceed 1 is dense and the scale rises. So
    small layers stay denser. Plain ER ignores the window.

    Args:
      params: a pytree of arrays.
      density: the share of all selected weights to keep, in [0, 1].
      rules: which leaves take part; see `prunable`.
      pattern: the pattern of all of them. Unstructured counts meet the total exactly;
        others keep the nearest number of weights that they can, leaf by leaf.
      kernel: whether the window counts (ERK).

    Raises:
      ShapeError: a selected leaf without inputs and outputs.
      RuleError, InputError: as `prunable`, or a density out of range.
    """
    check_range("density", density, 0.0, 1.0)
    leaves = prunable(params, rules)
    raw, sizes = [], []
    for w in leaves.values():
        view = gemm_shape(w.shape)
        dims = w.shape if kernel else (view.in_features, *view.outputs)
        raw.append(sum(dims) / max(math.prod(dims), 1))
        sizes.append(w.size)
    shares = fill(np.array(raw), np.array(sizes, np.float64), density)
    return by_density(leaves, shares, pattern)


def fill(raw: np.ndarray, sizes: np.ndarray, density: float) -> np.ndarray:
    """Returns `min(1, scale * raw)` with the scale that meets a mean density.

    Args:
      raw: positive, [n].
      sizes: weights of each, [n].
      density: the mean over all weights, in [0, 1].
    """
    dense = np.zeros(len(raw), bool)
    while True:
        left = density * sizes.sum() - sizes[dense].sum()
        weight = (raw * sizes)[~dense].sum()
        scale = max(left, 0.0) / weight if weight else 0.0
        over = ~dense & (scale * raw > 1.0)
        if not over.any():
            return np.where(dense, 1.0, scale * raw)
        dense |= over


def by_density(
    leaves: dict[str, Array], densities: Sequence[float] | np.ndarray, pattern: Pattern
) -> list[tuple[str, Target]]:
    """Returns rules for leaves with a density each.

    Unstructured counts are rounded so that their sum is the rounded total: the leaves
    that lose most by rounding down get one more. Other leaves are rounded one by one,
    see `nearest`.
    """
    if not isinstance(pattern, Unstructured):
        return [
            (re.escape(path), nearest(pattern, w.shape, float(d) * w.size))
            for (path, w), d in zip(leaves.items(), densities, strict=True)
        ]
    sizes = np.array([w.size for w in leaves.values()])
    exact = np.minimum(np.asarray(densities, np.float64), 1.0) * sizes
    counts = np.floor(exact + 1e-9).astype(int)
    missing = math.floor(exact.sum() + 0.5) - counts.sum()
    room = np.where(counts < sizes, exact - counts, -1.0)
    counts[np.argsort(-room, kind="stable")[:missing]] += 1
    return [
        (re.escape(path), Target(count=int(count), pattern=pattern))
        for path, count in zip(leaves, counts, strict=True)
    ]


def nearest(pattern: Pattern, shape: tuple[int, ...], weights: float) -> Target:
    """Returns the target of a pattern that keeps about so many *weights* of a leaf.

    A unit need not be a fixed share of the weights (a kept kernel of `KernelPattern`
    has 4 of its 9), so the count is searched for. A leaf that is nearer to dense than
    to the most that the pattern can keep stays dense, unstructured.

    Args:
      pattern: the pattern.
      shape: of the leaf.
      weights: how many to keep; of two counts equally near, the smaller is taken.

    Raises:
      ShapeError: a shape that has no such pattern.

    Example:
      >>> from gap.patterns import NM
      >>> nearest(NM(4), (8, 3), 13.0).weights((8, 3))
      12
    """
    low, high = 0, pattern.units(shape)
    while low < high:  # the first count that keeps so many; weights never fall
        middle = (low + high) // 2
        if pattern.weights(shape, middle) < weights:
            low = middle + 1
        else:
            high = middle
    options = [
        (abs(pattern.weights(shape, count) - weights), count)
        for count in (max(low - 1, 0), low)
    ]
    missed, count = min(options)
    if abs(math.prod(shape) - weights) < missed:
        return Target(density=1.0)
    return Target(count=count, pattern=pattern)


def global_density(
    params: PyTree,
    density: float,
    rules: Rules | None = None,
    pattern: Pattern = _ANY,
    *,
    score: Callable[[Array], Array] = jnp.abs,
) -> list[tuple[str, Target]]:
    """Returns rules with the density that one threshold over all leaves gives each.

    Unstructured masks of these rules are those of `gap.global_magnitude_masks`; another
    pattern gets the same densities.

    Args:
      params: a pytree of concrete arrays.
      density: the share of all selected weights to keep, in [0, 1].
      rules: which leaves take part; see `prunable`.
      pattern: the pattern of all of them.
      score: weight to score, elementwise.

    Raises:
      RuleError, InputError: as `prunable`, or a density out of range.
      NonFiniteError: NaN or infinity in a selected leaf.
    """
    leaves = prunable(params, rules)
    masks = global_magnitude_masks(leaves, density, score=score)
    counts = jax.device_get({k: jnp.sum(m) for k, m in masks.items()})
    if isinstance(pattern, Unstructured):
        return [
            (re.escape(k), Target(count=int(counts[k]), pattern=pattern))
            for k in leaves
        ]
    shares = [int(counts[k]) / max(w.size, 1) for k, w in leaves.items()]
    return by_density(leaves, shares, pattern)
