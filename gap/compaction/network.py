"""A network without its pruned filters and channels: the public function."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core import trees
from core.numerics import check_finite
from core.types import PartialTree, PyTree
from gap.compaction.classes import Classes
from gap.compaction.folding import fold
from gap.compaction.known import Known, analyse
from gap.compaction.plan import Plan, plan
from gap.compaction.program import Place, Program, Sizes, places
from gap.masks import check_mask
from graph import Graph, Node, Value, trace


@dataclasses.dataclass(frozen=True)
class Stayed:
    """Slices of a parameter that hold only zeros and could not leave.

    Attributes:
      path: of the parameter.
      axis: of the parameter.
      indices: along the axis, in the original network.
      reason: what keeps them, in words.
    """

    path: str
    axis: int
    indices: tuple[int, ...]
    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class Compact:
    """A smaller network with the outputs of the masked one.

    Attributes:
      fn: `fn(params, *args)`, with the results of the original function; jittable,
        differentiable, for any batch size (the first axis of the arguments, where
        nothing slides over it) and otherwise for the shapes of the example.
      params: its parameters, in the structure of the original's.
      widths: for each parameter's path the kept indices of each of its axes:
        `w[numpy.ix_(*widths[path])]` is the smaller parameter, but for constants that
        were added to a bias (or taken from a running mean).
      removed: for each path the number of weights that went.
      offsets: constants that no bias could take, which `fn` adds by itself, by the
        path of the weight that made them. If there are none, `params` are all there
        is, and a narrower module of the user's gives the same outputs with them.
      kept_because: slices of zeros that stayed, with the reason.
      shapes: for each path the parameter's shape in the original network.
    """

    fn: Callable[..., Any]
    params: PyTree
    widths: Mapping[str, tuple[np.ndarray, ...]]
    removed: Mapping[str, int]
    offsets: Mapping[str, np.ndarray]
    kept_because: tuple[Stayed, ...]
    shapes: Mapping[str, tuple[int, ...]]

    def report(self) -> str:
        """Returns a line for each parameter that is smaller, and for what stayed."""
        lines = [
            f"{path}: {list(shape)} -> {[len(each) for each in self.widths[path]]}"
            for path, shape in self.shapes.items()
            if self.removed[path]
        ]
        left = trees.size(self.params)
        lines.append(f"parameters: {left + sum(self.removed.values())} -> {left}")
        lines += [
            f"stayed: {len(each.indices)} of {each.path}, axis {each.axis}, "
            f"because {each.reason}"
            for each in self.kept_because
        ]
        return "\n".join(lines)


def compact(
    fn: Callable[..., Any],
    params: PyTree,
    masks: PartialTree,
    *example_args: Any,
    maps: bool = True,
) -> Compact:
    """Returns the network without the filters and channels that masks have emptied.

    The outputs are those of `fn(apply_masks(params, masks), ...)` in real arithmetic,
    for finite inputs. A channel that cannot leave, because an operator that is not
    understood touches it, or because one of the channels it is added to stays, is kept
    with all that is tied to it: the result is never a guess.

    A channel that is constant, because its filter is zero, leaves what its readers
    make of it. That goes into the bias that follows them if there is one (or into the
    running mean of batch norm, if that is in `params`); else `Compact.fn` adds it.

    Args:
      fn: `fn(params, *args) -> pytree`, of operators that `graph.trace` can follow,
        such as a flax `Module.apply` at evaluation. Arrays that it closes over are
        constants: pass statistics in `params` if they shall be counted.
      params: a pytree of finite arrays, the weights to prune among them.
      masks: booleans of the shapes of `params`, None for a leaf that is dense; or
        None for parameters that are masked already.
      *example_args: further arguments, or their `jax.ShapeDtypeStruct`s; a small
        batch will do, since the analysis holds an array for each value.
      maps: whether a constant may differ between positions, as it does where zero
        padding meets a constant that is not zero. It is then an array over positions.
        Otherwise such channels stay.

    Returns:
      The smaller network. It keeps at least one index of every axis.

    Raises:
      ShapeError: a mask that has not the shape of its weight.
      NonFiniteError: NaN or infinity in `params`.
      GraphError: a function that has no operator graph.

    Example:
      >>> import jax.numpy as jnp
      >>> def fn(p, x):
      ...     return jnp.maximum(x @ p["a"] + p["bias"], 0.0) @ p["b"]
      >>> params = {"a": jnp.ones((2, 3)), "bias": jnp.ones(3), "b": jnp.ones((3, 2))}
      >>> masks = {"a": jnp.array([[True, False, True]] * 2), "bias": None, "b": None}
      >>> small = compact(fn, params, masks, jnp.ones((1, 2)))
      >>> small.params["a"].shape, small.fn(small.params, jnp.ones((5, 2)))[0].tolist()
      ((2, 2), [7.0, 7.0])
    """
    params = _masked(params, masks)
    graph = trace(fn, params, *example_args)
    names, leaves, tree = trees.flatten(params)
    given = dict(zip(graph.argument(0), leaves, strict=True))
    classes = Classes(graph)
    known = analyse(graph, given)
    found = plan(classes, known, maps=maps)
    widths = {
        value.path: tuple(
            found.keep.get((value, i), np.arange(n)) for i, n in enumerate(value.shape)
        )
        for value in given
    }
    smaller = {
        value: _smaller(leaf, widths[value.path]) for value, leaf in given.items()
    }
    smaller, offsets = fold(graph, found.keep, found.offsets, smaller)
    kept = {
        value.path: {i: found.keep[value, i] for i in axes}
        for value in given
        if (axes := [i for i in range(len(value.shape)) if (value, i) in found.keep])
    }
    where = places(graph)
    program = Program(
        fn,
        jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), x.dtype), params),
        kept,
        {where[node]: array for node, array in offsets.items()},
        _allowed(graph, classes, known),
    )
    return Compact(
        program,
        jax.tree.unflatten(tree, [jnp.asarray(smaller[value]) for value in given]),
        widths,
        {v.path: int(np.size(given[v])) - int(np.size(smaller[v])) for v in given},
        {_name(node, where[node]): array for node, array in offsets.items()},
        _stayed(classes, found, given),
        dict(zip(names, (value.shape for value in given), strict=True)),
    )


def _allowed(
    graph: Graph, classes: Classes, known: Mapping[Value, Known]
) -> tuple[Sizes, ...]:
    """The sizes that inputs may have: None is any."""
    found = []
    for value in graph.inputs:
        if value.argument != 0:
            free = classes.any_size(value, known)
            sizes: Sizes = (None, *value.shape[1:]) if free else value.shape
            found.append(sizes)
    return tuple(found)


def _name(node: Node, place: Place) -> str:
    """A sum by the parameter that it reads, else by its number and its line."""
    paths = [value.path for value in node.inputs if value.path]
    return paths[0] if paths else f"{place[0]} {place[1]} at {node.source}"


def _masked(params: PyTree, masks: PartialTree) -> PyTree:
    """The masked parameters on the host, where nothing is compiled for each shape."""

    def host(leaf: Any) -> Any:
        is_key = jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.extended)
        return leaf if is_key else np.asarray(leaf)

    def apply(mask: Any, leaf: Any) -> np.ndarray:
        check_mask(mask, leaf)
        return np.where(np.asarray(mask), leaf, np.zeros((), leaf.dtype))

    params = jax.tree.map(host, params)
    if masks is not None:
        params = trees.map_partial(apply, masks, params, absent=trees.keep_rest)
    for leaf in jax.tree.leaves(params):
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(leaf).all():
            check_finite(params, "params")
    return params


def _smaller(leaf: Any, indices: tuple[np.ndarray, ...]) -> Any:
    for i, kept in enumerate(indices):
        if len(kept) < leaf.shape[i]:
            leaf = np.take(leaf, kept, axis=i)
    return leaf


def _stayed(
    classes: Classes, found: Plan, given: Mapping[Any, Any]
) -> tuple[Stayed, ...]:
    """Zero slices of weights that are still there, by the reason of their class."""
    why, rows = classes.why(), []
    for value, leaf in given.items():
        if leaf.ndim < 2 or not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        for axis in range(leaf.ndim):
            rest = tuple(i for i in range(leaf.ndim) if i != axis)
            mine = classes.classes((value, axis))
            zero = ~(leaf != 0).any(axis=rest) & ~found.removed[mine]
            for reason in sorted(set(why[mine[zero]])):
                at = np.flatnonzero(zero & (why[mine] == reason))
                text = classes.reasons[reason]
                rows.append(Stayed(value.path, axis, tuple(map(int, at)), text))
    return tuple(rows)
