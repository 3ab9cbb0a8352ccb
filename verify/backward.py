"""The backward pass: linear bounds of any value in terms of the input.

A row is a linear function of some value of the network. Going back through the nodes in
reverse, its coefficients pass affine operators by their transposes and nonlinear ones
by their relaxations, until only the input is left (CROWN, arXiv 1811.00866).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import jax.numpy as jnp

from core.types import Array
from graph import Node, Value
from verify import affine
from verify.network import Network
from verify.types import Lines

Relax = Callable[[Node, Array], tuple[Sequence[Array], Array]]
"""From a nonlinear node and coefficients on its output [S, *shape] to coefficients on
each of its active operands and the constants [S] that the relaxation adds."""


def backward(
    network: Network,
    table: Mapping[Value, Array],
    rows: Mapping[Value, Array],
    relax: Relax,
    nodes: Iterable[Node] | None = None,
    lost: Array | float = 0.0,
) -> tuple[dict[Value, Array], Array, Array]:
    """Pulls rows back through nodes.

    Args:
      network: the function.
      table: its weights, `network.table(weights)`.
      rows: coefficients by value, each [S, *shape of the value].
      relax: what to do at a nonlinear node.
      nodes: which nodes to pass, in topological order; all that the rows depend on if
        left out. Coefficients on what other nodes define are returned.
      lost: to underflow, by each row and by each unit of a coefficient where constants
        are added; see `rounding.underflow`.

    Returns:
      The coefficients on the values that are left, the input among them if it is
      reached, and the constants [S]: the sum of both over the left values is a lower
      bound of the rows if `relax` gives lower bounds. Then the size [S] of what affine
      operators added to the constants, the sum of its terms' absolute values, which
      says how much was lost where they cancelled, and of what underflowed.
    """
    left = dict(rows)
    first = next(iter(rows.values()))
    offset = jnp.zeros(first.shape[0], first.dtype)
    size = jnp.full(first.shape[0], lost, first.dtype)
    passed = network.nodes if nodes is None else tuple(nodes)
    for node in reversed(passed):
        if not any(out in left for out in node.outputs):
            continue
        given = [_taken(left, out, first) for out in node.outputs]
        reached = [v for v in node.inputs if v in network.active]
        if affine.is_affine(node, network.active):
            added = affine.constant(node, network.active, table)
            if added is not None:
                offset = offset + contract(given[0], added)
                size = size + contract(jnp.abs(given[0]), jnp.abs(added) + lost)
            parts = affine.transposed(node, network.active, table)(*given)
        else:
            parts, constant = relax(node, *given)
            parts = [_summed(p, v) for p, v in zip(parts, reached, strict=True)]
            offset = offset + constant
        for value, part in zip(reached, parts, strict=True):
            left[value] = left[value] + part if value in left else part
    return left, offset, size


def _taken(left: dict[Value, Array], out: Value, like: Array) -> Array:
    """The coefficients on an output, zero where no row reaches it."""
    if out in left:
        return left.pop(out)
    return jnp.zeros((like.shape[0], *out.shape), like.dtype)


def _summed(part: Array, value: Value) -> Array:
    """Coefficients summed over the axes that an operand was broadcast along."""
    extra = part.ndim - 1 - len(value.shape)
    part = part.sum(tuple(range(1, 1 + extra))) if extra else part
    wide = [
        axis
        for axis, n in enumerate(value.shape, start=1)
        if n == 1 and part.shape[axis] != 1
    ]
    return part.sum(tuple(wide), keepdims=True) if wide else part


def contract(rows: Array, value: Array) -> Array:
    """Returns the inner products of rows [S, *shape] with a value [*shape], [S]."""
    flat = rows.reshape(rows.shape[0], -1)
    wide = jnp.broadcast_to(value, rows.shape[1:]).reshape(-1)
    return jnp.matmul(flat, wide, precision="highest")


def lower_of(
    lines: Lines, rows: Array, reached: Sequence[bool], values: Sequence[Array]
) -> tuple[list[Array], Array]:
    """Returns rows passed through lines such that they bound from below.

    A positive coefficient takes the lower line, a negative one the upper line.

    Args:
      lines: arrays [1, *shape] of the node's shape, or of each row, [S, *shape].
      rows: coefficients on the node's output, [S, *shape].
      reached: for each operand, whether the input reaches it.
      values: the operands that are known (ignored where reached).
    """
    above, below = jnp.maximum(rows, 0), jnp.minimum(rows, 0)
    axes = tuple(range(1, rows.ndim))
    total = _times(above, lines.lower_intercept) + _times(below, lines.upper_intercept)
    parts = []
    slopes = zip(lines.lower_slopes, lines.upper_slopes, strict=True)
    for (low, high), is_reached, value in zip(slopes, reached, values, strict=True):
        part = above * low + below * high
        if is_reached:
            parts.append(part)
        else:
            total = total + part * jnp.broadcast_to(value, part.shape[1:])[None]
    return parts, total.sum(axes)


def _times(rows: Array, intercept: Array) -> Array:
    """Products; nothing times an intercept that is infinite, no bound at all, is 0."""
    infinite = jnp.isinf(intercept) & (rows == 0)
    return jnp.where(infinite, 0.0, rows * intercept)
