"""Offsets folded into a bias that the network adds right after."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from gap.compaction.operators import Keep
from graph import Graph, Node, Value
from graph.reference import OPERATORS

_CARRIERS = ("reshape", "broadcast_in_dim", "squeeze", "convert_element_type", "copy")


class Bias(NamedTuple):
    """A parameter that is added to a sum's result, or subtracted from it.

    Attributes:
      value: the parameter.
      axis: of the result that it runs along.
      sign: 1 where it is added, -1 where it is subtracted, as a mean is.
    """

    value: Value
    axis: int
    sign: int


def fold(
    graph: Graph,
    keep: Keep,
    offsets: Mapping[Node, np.ndarray],
    leaves: Mapping[Value, Any],
) -> tuple[dict[Value, Any], dict[Node, np.ndarray]]:
    """Returns parameters with offsets folded in, and the offsets that are left.

    Args:
      graph: of the network.
      keep: kept indices of the axes that lose any.
      offsets: what is to be added to results, of their smaller shapes.
      leaves: the smaller parameters.
    """
    leaves, left = dict(leaves), {}
    for node, offset in offsets.items():
        bias = find_bias(graph, node.outputs[0])
        if bias is None or any(
            n > 1 for i, n in enumerate(offset.shape) if i != bias.axis
        ):
            left[node] = offset
            continue
        array = np.asarray(leaves[bias.value])
        flat = np.broadcast_to(offset.ravel(), (array.size,)).reshape(array.shape)
        wide = array.astype(np.float64) + bias.sign * flat
        leaves[bias.value] = wide.astype(array.dtype)
    return leaves, left


def find_bias(graph: Graph, result: Value) -> Bias | None:
    """Returns the parameter that is added to `result` and used for nothing else."""
    readers = _readers(graph)
    users = readers.get(result, [])
    if len(users) != 1 or result in graph.outputs or users[0].op not in ("add", "sub"):
        return None
    (node,) = users
    if node.op == "sub" and node.inputs[0] is not result:
        return None
    other = node.inputs[1] if node.inputs[0] is result else node.inputs[0]
    chain, value = [], other
    makers = {v: each for each in graph.nodes for v in each.outputs}
    while value.argument is None:
        if len(readers.get(value, [])) != 1 or value not in makers:
            return None
        maker = makers[value]
        if maker.op not in _CARRIERS:
            return None
        chain.append(maker)
        value = maker.inputs[0]
    alone = len(readers.get(value, [])) == 1 and value not in graph.outputs
    if (
        value.argument != 0
        or not alone
        or not jnp.issubdtype(value.dtype, jnp.floating)
    ):
        return None
    axis = _axis(value, chain[::-1], node.outputs[0])
    if axis is None:
        return None
    return Bias(value, axis, 1 if node.op == "add" else -1)


def _axis(value: Value, chain: list[Node], out: Value) -> int | None:
    """The axis of the result along which a parameter runs, None for several."""
    size = int(np.prod(value.shape))
    probe = np.arange(size, dtype=np.float64).reshape(value.shape)
    for node in chain:
        probe = np.asarray(OPERATORS[node.op](node.params, probe), np.float64)
    if probe.ndim != len(out.shape):
        return None
    probe = np.broadcast_to(probe, out.shape)
    for axis in reversed(range(probe.ndim)):
        shape = [1] * probe.ndim
        shape[axis] = -1
        if out.shape[axis] == size and np.array_equal(
            probe, np.broadcast_to(np.arange(size).reshape(shape), out.shape)
        ):
            return axis
    return None


def _readers(graph: Graph) -> dict[Value, list[Node]]:
    found: dict[Value, list[Node]] = {}
    for node in graph.nodes:
        for value in node.inputs:
            found.setdefault(value, []).append(node)
    return found
