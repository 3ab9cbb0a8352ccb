"""Which layers can bear it: the loss against the density of one layer at a time."""

import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core import trees
from core.errors import InputError, check_range, describe
from core.rules import Rules
from core.types import Array, PyTree
from gap.allocation import nearest, prunable
from gap.patterns import Pattern, Target, Unstructured

_DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)


class Curves(NamedTuple):
    """Loss of a network with one leaf pruned, for each leaf and density.

    Invariants: `kept` and `losses` have shape [leaves, densities + 1]; columns go from
    the lowest density to dense, where `kept` is the leaf's size and the loss that of
    the whole network; `kept` never falls along a row.

    Attributes:
      paths: the leaves.
      kept: weights kept, int64.
      losses: what `evaluate` gave, float64.
      pattern: the pattern that they were pruned in.
      shapes: of the leaves; `allocate` needs them for patterns of units.
    """

    paths: tuple[str, ...]
    kept: np.ndarray
    losses: np.ndarray
    pattern: Pattern
    shapes: tuple[tuple[int, ...], ...] = ()

    def __str__(self) -> str:
        rows = zip(self.paths, self.kept, self.losses, strict=True)
        width = max(map(len, self.paths))
        return "\n".join(
            f"{path:{width}}  "
            + "  ".join(
                f"{k / kept[-1]:.2f}: {x:.4g}" for k, x in zip(kept, loss, strict=True)
            )
            for path, kept, loss in rows
        )


def sensitivity(
    evaluate: Callable[[PyTree], Array],
    params: PyTree,
    rules: Rules | None = None,
    densities: Sequence[float] = _DENSITIES,
    pattern: Pattern = Unstructured(),
    *,
    score: Callable[[Array], Array] = jnp.abs,
) -> Curves:
    """Prunes one leaf at a time and evaluates the network, all densities at once.

    Densities are under one `vmap` in which only that leaf differs, so that all other
    layers run as one large batch. `evaluate` compiles once for every leaf.

    Args:
      evaluate: parameters to a loss, a scalar, lower is better; jittable. Let it close
        over few data, or over the arrays of one batch.
      params: a pytree of arrays.
      rules: which leaves; by default those with two or more axes.
      densities: shares of units, in [0, 1]; dense is always added.
      pattern: the pattern to prune in.
      score: weight to score, elementwise.

    Raises:
      RuleError, InputError: bad rules, densities out of range or none.
      ShapeError: a leaf that the pattern does not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"a": jnp.array([[1.0, 2.0]]), "b": jnp.array([[3.0, 4.0]])}
      >>> loss = lambda p: jnp.sum((p["a"] - params["a"]) ** 2)
      >>> sensitivity(loss, params, densities=[0.0, 0.5]).losses.tolist()
      [[5.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    """
    if not len(densities):
        raise InputError(describe("no densities", "at least one"))
    for density in densities:
        check_range("densities", density, 0.0, 1.0)
    leaves = prunable(params, rules)
    names, values, treedef = trees.flatten(params)

    def with_leaf(index: int, w: Array, count: Array, rest: list[Array]) -> Array:
        mask = pattern.mask(score(w), count)
        pruned = jnp.where(mask, w, jnp.zeros_like(w))
        every = [pruned if i == index else x for i, x in enumerate(rest)]
        return evaluate(jax.tree.unflatten(treedef, every))

    dense = float(jax.jit(evaluate)(params))
    kept, losses = [], []
    for path, w in leaves.items():
        counts = [Target(density=d, pattern=pattern).kept(w.shape) for d in densities]
        counts = sorted(counts)
        run = jax.jit(jax.vmap(with_leaf, (None, None, 0, None)), static_argnums=0)
        found = run(names.index(path), w, jnp.asarray(counts, jnp.int32), values)
        kept.append([*(pattern.weights(w.shape, c) for c in counts), w.size])
        losses.append([*np.asarray(found, np.float64), dense])
    return Curves(
        tuple(leaves),
        np.array(kept, np.int64),
        np.array(losses),
        pattern,
        tuple(w.shape for w in leaves.values()),
    )


def allocate(curves: Curves, density: float) -> list[tuple[str, Target]]:
    """Returns rules that share out a total density where it costs least.

    Minimises the sum over leaves of the predicted increase of the loss at a given
    total of kept weights. A leaf's prediction is the lower convex hull of its curve,
    linear between vertices, for which the greedy choice (always the steepest segment
    next) is exact. That increases add up is an assumption; retraining changes them too.

    Args:
      curves: what `sensitivity` returned.
      density: the share of all weights of the curves' leaves to keep.

    Returns:
      A rule for each leaf, in the curves' pattern; unstructured counts meet the total
      exactly, those of other patterns keep the nearest number of weights that they
      can, leaf by leaf. A leaf nearer to dense than to the most that the pattern can
      keep stays dense.

    Raises:
      InputError: a density below what the curves' lowest densities keep, or above 1.

    Example, where one leaf does not matter:
      >>> import jax.numpy as jnp
      >>> params = {"a": jnp.array([[1.0, 2.0]]), "b": jnp.array([[3.0, 4.0]])}
      >>> loss = lambda p: jnp.sum((p["a"] - params["a"]) ** 2)
      >>> curves = sensitivity(loss, params, densities=[0.0, 0.5])
      >>> [(path, target.count) for path, target in allocate(curves, 0.5)]
      [('a', 2), ('b', 0)]
    """
    check_range("density", density, 0.0, 1.0)
    if not np.all(np.isfinite(curves.losses)):
        raise InputError(describe("curves with NaN or infinity", "finite losses"))
    sizes = curves.kept[:, -1]
    total = math.floor(density * int(sizes.sum()) + 0.5)
    hulls = [
        _lower_hull(kept, loss)
        for kept, loss in zip(curves.kept, curves.losses, strict=True)
    ]
    counts = np.array([hull[0][0] for hull in hulls], np.int64)
    if counts.sum() > total:
        raise InputError(
            describe(
                f"density={density}",
                f"at least {counts.sum() / sizes.sum():.4g}, which the lowest "
                "densities of the curves keep",
                "Measure the curves at lower densities.",
            )
        )
    segments = sorted(
        ((y1 - y0) / (x1 - x0), leaf, place, x1 - x0)
        for leaf, hull in enumerate(hulls)
        for place, ((x0, y0), (x1, y1)) in enumerate(itertools.pairwise(hull))
    )
    left = total - int(counts.sum())
    for _, leaf, _, length in segments:  # slopes rise along a hull: its order is kept
        counts[leaf] += min(length, left)
        left -= min(length, left)
    names = [re.escape(path) for path in curves.paths]
    if isinstance(curves.pattern, Unstructured):
        return [
            (name, Target(count=int(count), pattern=curves.pattern))
            for name, count in zip(names, counts, strict=True)
        ]
    return [
        (name, nearest(curves.pattern, shape, float(count)))
        for name, shape, count in zip(names, curves.shapes, counts, strict=True)
    ]


def _lower_hull(kept: np.ndarray, losses: np.ndarray) -> list[tuple[int, float]]:
    """Vertices of the lower convex hull of (kept, loss), from left to right."""
    points: dict[int, float] = {}
    for x, y in zip(kept.tolist(), losses.tolist(), strict=True):
        points[x] = min(y, points.get(x, math.inf))
    hull: list[tuple[int, float]] = []
    for x, y in sorted(points.items()):
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2:]
            if (y1 - y0) * (x - x0) < (y - y0) * (x1 - x0):
                break
            hull.pop()
        hull.append((x, y))
    return hull
