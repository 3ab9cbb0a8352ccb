"""Parameters, multiply-accumulates, bytes and milliseconds of any network.

Counts are read off the operator graph, at the shapes of the arguments given: one
example in, the work for one example out.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from core import trees
from core.errors import InputError, ShapeError, check_range, describe
from core.text import columns
from core.types import PartialTree, PyTree
from graph import Graph, Node, Value, trace


class Row(NamedTuple):
    """One parameter and the operators that multiply by it.

    Invariants: `0 <= kept <= parameters == prod(shape)`; `effective_macs <= macs`.

    Attributes:
      path: of the parameter; of a product that has none, its operator and line.
      op: what multiplies by it, '' for what is added or scales.
      shape: of the parameter, () where there is none.
      parameters: its size.
      kept: the weights that its mask keeps.
      macs: multiply-accumulates of the dense operator; of a convolution those of
        padded positions are counted, as everywhere in the field.
      effective_macs: those with a kept weight.
      bytes: of the parameter as an array, without its mask.
    """

    path: str
    op: str
    shape: tuple[int, ...]
    parameters: int
    kept: int
    macs: int
    effective_macs: int
    bytes: int


class Profile(NamedTuple):
    """What a network costs; `str()` is a table.

    Attributes:
      rows: one for each parameter, in tree order, then products without a parameter.
    """

    rows: tuple[Row, ...]

    @property
    def total(self) -> Row:
        """The sums over all rows."""
        columns = zip(*(row[3:] for row in self.rows), strict=True)
        return Row("total", "", (), *map(sum, columns)) if self.rows else _EMPTY

    def __str__(self) -> str:
        """A line for each row, then the totals."""
        head = ("", "shape", "parameters", "kept", "MACs", "effective", "bytes")
        lines = [
            (r.path, "x".join(map(str, r.shape)), *(f"{n:,}" for n in r[3:]))
            for r in (*self.rows, self.total)
        ]
        return columns([head, *lines])


_EMPTY = Row("total", "", (), 0, 0, 0, 0, 0)


def profile(
    fn: Callable[..., Any], params: PyTree, *args: Any, masks: PartialTree = None
) -> Profile:
    """Returns the size and the work of a network, layer by layer.

    Args:
      fn: `fn(params, *args)`, of operators that `graph.trace` can follow.
      params: a pytree of arrays, or of their `jax.ShapeDtypeStruct`s.
      *args: further arguments, or their `jax.ShapeDtypeStruct`s; all counts are for
        them together, so give a batch of one for the cost of one example.
      masks: booleans, None for a leaf that is dense; None if all are. Those of
        weights that hold zeros are `jax.tree.map(lambda w: w != 0, params)`.

    Raises:
      GraphError: a function that has no operator graph.
      ShapeError: a mask that has not the shape of its weight.

    Example:
      >>> import jax.numpy as jnp
      >>> params = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones((1, 3))}
      >>> layer = lambda p, x: x @ p["kernel"] + p["bias"]
      >>> found = profile(layer, params, jnp.ones((1, 4)))
      >>> found.total.parameters, found.total.macs, found.total.bytes
      (15, 12, 60)
    """
    graph = trace(fn, params, *args)
    kept = _kept(params, masks)
    work, others = _work(graph)
    rows = []
    for value in graph.argument(0):
        size, left = math.prod(value.shape), kept[value.path]
        op, macs = work.get(value, ("", 0))
        share = macs * left // size if size else 0
        item = np.dtype(value.dtype).itemsize
        rows.append(
            Row(value.path, op, value.shape, size, left, macs, share, size * item)
        )
    rows += [Row(name, op, (), 0, 0, n, n, 0) for name, op, n in others]
    return Profile(tuple(rows))


def _kept(params: PyTree, masks: PartialTree) -> dict[str, int]:
    """The number of weights of each path that masks keep."""
    found = {path: math.prod(w.shape) for path, w in trees.by_path(params).items()}
    if masks is None:
        return found

    def count(mask: Any, w: Any) -> int:
        if np.shape(mask) != tuple(w.shape):
            given, wanted = f"a mask of shape {np.shape(mask)}", f"{tuple(w.shape)}"
            raise ShapeError(f"profile: {describe(given, wanted)}")
        return int(np.count_nonzero(np.asarray(mask)))

    return found | trees.by_path(trees.map_partial(count, masks, params))


Work = tuple[dict[Value, tuple[str, int]], list[tuple[str, str, int]]]


def _work(graph: Graph) -> Work:
    """MACs by the parameter that they multiply by, and those without one."""
    feeds: dict[Value, frozenset[Value]] = {v: frozenset([v]) for v in graph.inputs}
    by_value: dict[Value, tuple[str, int]] = {}
    others = []
    for node in graph.nodes:
        reach = frozenset[Value]().union(
            *(feeds.get(v, frozenset()) for v in node.inputs)
        )
        feeds.update(dict.fromkeys(node.outputs, reach))
        count = macs(node)
        if not count:
            continue
        owner = _owner(feeds[v] for v in node.inputs if v in feeds)
        if owner is None:
            others.append((f"{node.op} at {node.source}", node.op, count))
        else:
            by_value[owner] = (node.op, by_value.get(owner, ("", 0))[1] + count)
    return by_value, others


def _owner(feeds: Iterable[frozenset[Value]]) -> Value | None:
    """The largest parameter of an operand that depends on parameters alone."""
    leaves = [
        leaf for each in feeds if all(v.argument == 0 for v in each) for leaf in each
    ]
    return max(leaves, key=lambda v: math.prod(v.shape), default=None)


def macs(node: Node) -> int:
    """Returns the multiply-accumulates of a product or a convolution, 0 of others."""
    out = math.prod(node.outputs[0].shape) if node.outputs else 0
    if node.op == "dot_general":
        (summed, _), _ = node.params["dimension_numbers"]
        return out * math.prod(node.inputs[0].shape[i] for i in summed)
    if node.op == "conv_general_dilated":
        kernel = node.inputs[1].shape
        spec = node.params["dimension_numbers"].rhs_spec
        return out * math.prod(kernel[i] for i in spec[1:])
    return 0


class Timing(NamedTuple):
    """Milliseconds of a call.

    Invariants: `least <= median <= most`.
    """

    median: float
    least: float
    most: float


def measure(
    fn: Callable[..., Any], *args: Any, repeats: int = 20, warmup: int = 3
) -> Timing:
    """Times calls of a function, each until its results are there.

    Args:
      fn: the function, jitted by the caller if it shall be. Arrays that it closes over
        are constants to XLA, which may compute with them once: pass weights in `args`.
      *args: what it is called with.
      repeats: calls that are timed, at least 1.
      warmup: calls before, which compile; at least 1.

    Raises:
      InputError: fewer calls than one.
    """
    check_range("repeats", repeats, low=1)
    check_range("warmup", warmup, low=1)
    for _ in range(warmup):
        jax.block_until_ready(fn(*args))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(fn(*args))
        times.append(1e3 * (time.perf_counter() - start))
    return Timing(statistics.median(times), min(times), max(times))


def compare(
    before: Profile,
    after: Profile,
    *,
    milliseconds: Mapping[str, tuple[float, float]] | None = None,
) -> str:
    """Returns a table of two networks: each quantity before, after and their ratio.

    Masked weights count among the parameters and not among the kept ones: masks alone
    do not make a dense network smaller.

    Args:
      before: of the original network.
      after: of the pruned or the compact one.
      milliseconds: measured times before and after, by a name such as 'batch 1'.

    Raises:
      InputError: a time that is not positive.
    """
    a, b = before.total, after.total
    rows: list[tuple[str, float, float]] = [
        ("parameters", a.parameters, b.parameters),
        ("kept weights", a.kept, b.kept),
        ("MACs", a.macs, b.macs),
        ("MACs with kept weights", a.effective_macs, b.effective_macs),
        ("bytes", a.bytes, b.bytes),
    ]
    lines = [("", "before", "after", "ratio")]
    lines += [(name, f"{x:,}", f"{y:,}", _ratio(x, y)) for name, x, y in rows]
    for name, (x, y) in (milliseconds or {}).items():
        if not (x > 0 and y > 0):
            raise InputError(f"milliseconds: {describe((x, y), 'positive times')}")
        lines.append((f"ms, {name}", f"{x:.3g}", f"{y:.3g}", _ratio(x, y)))
    return columns(lines)


def _ratio(before: float, after: float) -> str:
    return f"{before / after:.2f}x" if after else "-"
