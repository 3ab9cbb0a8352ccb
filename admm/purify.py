"""Network purification and unused path removal (arXiv 1908.10017).

ADMM stops short of the best sparse network: some groups that it kept hold next to
nothing. Purification takes those that are nearly empty and unimportant, both at once,
and no one whose few weights are strong. What is left has paths that lead nowhere: a
channel whose filter is zero, a filter that nobody reads. Those leave by `gap.compact`,
through the operator graph, and the outputs stay those of the purified network; they
leave the groups that touched them emptier, so both are repeated until nothing changes.

Thresholds are ours where the paper's text does not give them (the specification says
which): a weight is near zero below `delta` times the root mean square of its layer's
others.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

import gap
from core import rules as core_rules
from core import trees
from core.errors import InputError, ShapeError, check_range, describe
from core.numerics import check_finite
from core.rules import Rules
from core.types import ArrayLike, PartialTree, PyTree

Group = Literal["filter", "channel", "shape"]
"""Output features; input features; rows of the GEMM view."""


@dataclasses.dataclass(frozen=True)
class Purify:
    """Which groups of a kernel are purified.

    Attributes:
      groups: of what kinds, in this order.
      emptiness: the least share of a group's weights near zero, in [0, 1].
      importance: the mean square of a group's weights, over that of all remaining
        groups of the layer, below which it may go.
      delta: what is near zero, over the root mean square of the layer's non-zeros.
    """

    groups: tuple[Group, ...] = ("shape", "filter")
    emptiness: float = 0.9
    importance: float = 0.05
    delta: float = 0.05

    def __post_init__(self):
        check_range("emptiness", self.emptiness, 0.0, 1.0)
        check_range("importance", self.importance, 0.0)
        check_range("delta", self.delta, 0.0)
        for group in self.groups:
            _check_group(group)


def emptiness(w: ArrayLike, group: Group, delta: float) -> np.ndarray:
    """Returns the share of each group's weights below `delta`, float64 [groups].

    Args:
      w: a kernel in flax layout, [..., n_in, n_out].
      group: of what kind.
      delta: a magnitude.
    """
    return (np.abs(_lines(w, group)) < delta).mean(1)


def importance(w: ArrayLike, group: Group) -> np.ndarray:
    """Returns the mean square of each group's weights, float64 [groups]."""
    return np.square(_lines(w, group)).mean(1)


def _check_group(group: str) -> None:
    if group not in get_args(Group):
        raise InputError(describe(f"group {group!r}", ", ".join(get_args(Group))))


def _lines(w: ArrayLike, group: Group) -> np.ndarray:
    """A kernel as [groups, weights of each]."""
    _check_group(group)
    w = np.asarray(w, np.float64)
    if w.ndim < 2:
        raise ShapeError(describe(f"a weight of {w.shape}", "a kernel of two axes up"))
    if group == "shape":
        return w.reshape(-1, w.shape[-1])
    axis = -1 if group == "filter" else -2
    return np.moveaxis(w, axis, 0).reshape(w.shape[axis], -1)


def _spread(kept: np.ndarray, shape: tuple[int, ...], group: Group) -> np.ndarray:
    """A flag for each group as a mask of the kernel's shape."""
    if group == "filter":
        flags = kept
    elif group == "channel":
        flags = kept[:, None]
    else:
        flags = kept.reshape(*shape[:-1], 1)
    return np.broadcast_to(flags, shape)


def purified(w: ArrayLike, spec: Purify, mask: ArrayLike | None = None) -> np.ndarray:
    """Returns the mask of a kernel without its nearly empty groups, bool.

    It is part of `mask`; applied to its own result it takes no more; one group of each
    kind stays. What the mask leaves out counts as if it were not there: a group is the
    weights that the other kinds of groups have left it.

    Args:
      w: a kernel in flax layout.
      spec: which groups go.
      mask: of the weights that are left; those that are not 0 if left out.
    """
    w = np.asarray(w)
    left = _nonzero(w, mask)
    while True:
        before = left
        for group in spec.groups:
            left = _without(w, left, spec, group)
        if np.array_equal(left, before):
            return left


def _without(w: np.ndarray, left: np.ndarray, spec: Purify, group: Group) -> np.ndarray:
    """The mask without the groups of one kind that are to go."""
    if not left.any():
        return left
    there = _block(left)
    size = np.maximum(_lines(there, group).sum(1), 1)
    small = spec.delta * np.sqrt(np.square(w[left], dtype=np.float64).mean())
    values = np.where(left, w, 0)
    near = (_lines(np.abs(values) < small, group) * _lines(there, group)).sum(1)
    score = np.square(_lines(values, group)).sum(1) / size
    alive = _lines(left, group).any(1)
    goes = alive & (near / size >= spec.emptiness)
    goes &= score < spec.importance * score[alive].mean()
    if (alive & ~goes).sum() == 0:
        goes[np.argmax(score)] = False
    return np.logical_and(left, _spread(~goes, w.shape, group))


def _block(left: np.ndarray) -> np.ndarray:
    """The rows and columns of the GEMM view that have a weight left, as a mask."""
    matrix = left.reshape(-1, left.shape[-1])
    rows, columns = (matrix.any(axis=a, keepdims=True) for a in (1, 0))
    return np.logical_and(rows, columns).reshape(left.shape)


class Purified(NamedTuple):
    """A network after purification and unused path removal.

    Attributes:
      network: the smaller one, with the outputs of the masked one.
      masks: of the original parameters.
      rounds: of both passes, the last one without a change.
    """

    network: gap.Compact
    masks: PartialTree
    rounds: int


def purify_paths(
    fn: Callable[..., Any],
    params: PyTree,
    rules: Rules,
    masks: PartialTree,
    *example: Any,
) -> Purified:
    """Purification and unused path removal in turn, until nothing changes.

    Args:
      fn: `fn(params, *args)`, as `gap.compact` takes it.
      params: a pytree of finite arrays.
      rules: pairs of a path regex and a `Purify`, or `None`.
      masks: what pruning has left, `None` for a leaf that is dense.
      *example: further arguments of `fn`.

    Raises:
      RuleError: a rule that matches no leaf.
      InputError: a spec that is no `Purify`.
      NonFiniteError: NaN or infinity in `params`.
      Otherwise as `gap.compact`, which removes the paths: outputs are those of the
      masked network in real arithmetic, whatever biases and norms do.
    """
    check_finite(params, "params")
    names, leaves, treedef = trees.flatten(params)
    specs = treedef.flatten_up_to(core_rules.match(rules, params, kind=Purify))
    known, rounds = trees.by_path(masks), 0
    left = [known.get(name) for name in names]
    while True:
        rounds += 1
        tree = jax.tree.unflatten(treedef, left)
        network = gap.compact(fn, params, tree, *example)
        reached = reach(network, params)
        after = []
        for name, w, mask, spec in zip(names, leaves, left, specs, strict=True):
            if spec is None:
                after.append(mask)
                continue
            before = _nonzero(w, mask)
            kept = purified(w, spec, before & reached[name])
            # What no path reaches stays: its constants are in the network's biases.
            after.append(jnp.asarray(before & (kept | ~reached[name])))
        rows = zip(leaves, left, after, strict=True)
        gone = [_nonzero(w, a) & ~_nonzero(w, b) for w, a, b in rows]
        if not any(map(np.any, gone)):
            return Purified(network, tree, rounds)
        left = after


def _nonzero(w: ArrayLike, mask: ArrayLike | None) -> np.ndarray:
    flags = np.not_equal(np.asarray(w), 0)
    return flags if mask is None else np.logical_and(flags, mask)


def reach(network: gap.Compact, params: PyTree) -> Mapping[str, np.ndarray]:
    """Returns which weights of the original network a compact one still has."""
    found = {}
    for path, w in trees.by_path(params).items():
        flags = np.zeros(np.shape(w), bool)
        flags[np.ix_(*network.widths[path])] = True
        found[path] = flags
    return found
