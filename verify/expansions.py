"""Operators written with simpler ones, so that few need a relaxation of their own.

| operator | becomes |
|------|------|
| max, min, abs, clamp, leaky_relu, elu, hard_tanh | relu |
| reduce_max, reduce_min, reduce_window_max, reduce_window_min | a tournament of max |
| div, reduce_prod, x * x | a reciprocal, products, a square |
| softmax, log_softmax, logsumexp | logistic and softplus of differences |
| erfc, exp2, sinh, cosh | erf, exp |
| is_finite, x == x, x != x | constants |

`EXPANSIONS[op](node)` is a JAX function of the node's operands with the same result,
or None where the node is best left as it is. Each is exact in real arithmetic, so a
bound of what it becomes bounds the operator, and relu is the only piecewise-linear
operator that is left: max(a, b) = b + relu(a - b). Floating point rounds, integers wrap
and infinities become NaN, so operators of parameters alone are not expanded. What
several operators spell out, such as a softmax, `graph.recognise` finds beforehand.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import graph
from core.types import Array
from graph import Node
from verify import affine, pooling

Function = Callable[..., Array]
Expansion = Callable[[Node], Function | None]


@graph.composite
def reciprocal(z: Array) -> Array:
    """Returns 1 / z; one node of a graph, which has a relaxation."""
    return 1.0 / z


for _fn in (jax.nn.elu, jax.nn.hard_tanh):  # a trace would take them apart for good
    graph.COMPOSITES.setdefault(_fn.__name__, _fn)


def larger(a: Array, b: Array) -> Array:
    """Returns max(a, b) = b + relu(a - b)."""
    return b + jax.nn.relu(a - b)


def smaller(a: Array, b: Array) -> Array:
    """Returns min(a, b) = b - relu(b - a)."""
    return b - jax.nn.relu(b - a)


def _clamp(low: Array, x: Array, high: Array) -> Array:
    return smaller(larger(x, low), high)


def _abs(x: Array) -> Array:
    return 2.0 * jax.nn.relu(x) - x


def _leaky_relu(x: Array, slope: Any = 0.01) -> Array:
    """Also prelu: relu(x) - slope relu(-x), with one relu."""
    slope = jnp.broadcast_to(jnp.asarray(slope, x.dtype), x.shape)
    return slope * x + (1.0 - slope) * jax.nn.relu(x)


def _elu(x: Array, alpha: Any = 1.0) -> Array:
    alpha = jnp.broadcast_to(jnp.asarray(alpha, x.dtype), x.shape)
    return jax.nn.relu(x) + alpha * jnp.expm1(-jax.nn.relu(-x))


def _hard_tanh(x: Array) -> Array:
    one = jnp.ones((), x.dtype)
    return _clamp(-one, x, one)


def _div(a: Array, b: Array) -> Array:
    return a * reciprocal(b)


def _logaddexp(a: Array, b: Array) -> Array:
    return b + jax.nn.softplus(a - b)


def _erfc(x: Array) -> Array:
    return 1.0 - lax.erf(x)


def _exp2(x: Array) -> Array:
    return jnp.exp(x * float(np.log(2.0)))


def _sinh(x: Array) -> Array:
    return 0.5 * (jnp.exp(x) - jnp.exp(-x))


def _cosh(x: Array) -> Array:
    return 0.5 * (jnp.exp(x) + jnp.exp(-x))


def _always(fn: Function) -> Expansion:
    return lambda node: fn


def _mul(node: Node) -> Function | None:
    """A number times itself is a square, which has closer lines than a product."""
    same = node.inputs[0] is node.inputs[1]
    return (lambda a, b: jnp.square(a)) if same else None


def _same(answer: bool) -> Expansion:
    """A number compared with itself, which asks for NaN; bounds are of finite ones."""

    def expansion(node: Node) -> Function | None:
        a, b = node.inputs
        return (lambda a, b: jnp.full(a.shape, answer)) if a is b else None

    return expansion


def _reduction(pair: Function) -> Expansion:
    def expansion(node: Node) -> Function:
        axes = tuple(node.params["axes"])
        return lambda x: _reduce(pair, x, axes)

    return expansion


def _reduce(pair: Function, x: Array, axes: tuple[int, ...]) -> Array:
    kept = [a for a in range(x.ndim) if a not in axes]
    shape = [x.shape[a] for a in kept]
    flat = jnp.transpose(x, (*axes, *kept)).reshape(-1, *shape)
    return pooling.tournament(pair, flat)


def _windows(pair: Function) -> Expansion:
    def expansion(node: Node) -> Function | None:
        plan = pooling.plan(node.inputs[0].shape, node.params)
        return None if plan is None else functools.partial(pooling.pool, pair, plan)

    return expansion


def _axes(node: Node) -> tuple[int, ...] | None:
    """The axes that a composite such as softmax works along: those of its maximum."""
    if "axis" in node.params:
        axis = node.params["axis"]
        return tuple(axis) if isinstance(axis, tuple | list) else (axis,)
    if node.body is None:
        return None
    reductions = [n for n in node.body.nodes if n.op == "reduce_max"]
    return tuple(reductions[0].params["axes"]) if len(reductions) == 1 else None


def _along_axis(fn: Callable[[Array, int], Array]) -> Expansion:
    """An operator along one axis, given as a function of an array and that axis."""

    def expansion(node: Node) -> Function | None:
        axes = _axes(node)
        if axes is None or len(axes) != 1:
            return None
        shape = node.outputs[0].shape
        return lambda x: fn(x, axes[0]).reshape(shape)

    return expansion


def _softmax(x: Array, axis: int) -> Array:
    """logistic(x_i - logsumexp of the others), finite for any entries.

    CROWN bounds it closer than 1 / sum_j exp(x_j - x_i), which overflows.
    """
    first = jnp.moveaxis(x, axis, 0)
    if len(first) == 1:
        return jnp.ones_like(x)
    rest = pooling.tournament(_logaddexp, _others(first))
    return jnp.moveaxis(jax.nn.sigmoid(first - rest), 0, axis)


def _others(x: Array) -> Array:
    """For each of n entries [n, ..] the n - 1 others, [n - 1, n, ..].

    They are what a square matrix has off its diagonal: of its entries in one line,
    the first of every n + 1 is on the diagonal.
    """
    n, *rest = x.shape
    line = jnp.broadcast_to(x[None], (n, n, *rest)).reshape(n * n, *rest)
    apart = line[1:].reshape(n - 1, n + 1, *rest)[:, :-1]
    return jnp.moveaxis(apart.reshape(n, n - 1, *rest), 1, 0)


def _logsumexp(x: Array, axis: int) -> Array:
    """A tournament of logaddexp, whose softplus stays finite for any entries."""
    return pooling.tournament(_logaddexp, jnp.moveaxis(x, axis, 0))


def _log_softmax(x: Array, axis: int) -> Array:
    total = jnp.expand_dims(_logsumexp(x, axis), axis)
    return x - jnp.broadcast_to(total, x.shape)


EXPANSIONS: dict[str, Expansion] = {
    "max": _always(larger),
    "min": _always(smaller),
    "abs": _always(_abs),
    "clamp": _always(_clamp),
    "leaky_relu": _always(_leaky_relu),
    "elu": _always(_elu),
    "hard_tanh": _always(_hard_tanh),
    "reduce_max": _reduction(larger),
    "reduce_min": _reduction(smaller),
    "reduce_prod": _reduction(jnp.multiply),
    "reduce_window_max": _windows(larger),
    "reduce_window_min": _windows(smaller),
    "mul": _mul,
    "div": _always(_div),
    "softmax": _along_axis(_softmax),
    "log_softmax": _along_axis(_log_softmax),
    "logsumexp": _along_axis(_logsumexp),
    "ne": _same(False),
    "eq": _same(True),
    "is_finite": _always(lambda x: jnp.ones(x.shape, bool)),
    "erfc": _always(_erfc),
    "exp2": _always(_exp2),
    "sinh": _always(_sinh),
    "cosh": _always(_cosh),
}
"""What operators become, by name; one contract test walks it."""


def _dot_general(node: Node) -> Function | None:
    """A product of two branches as elementwise products, then a sum.

    None where its result is rounded to a narrower type, which no bound counts.
    """
    if affine.narrows(node, node.inputs):
        return None
    (a_sum, b_sum), (a_batch, b_batch) = node.params["dimension_numbers"]

    def product(a: Array, b: Array) -> Array:
        a, b = (x.astype(node.outputs[0].dtype) for x in (a, b))  # of a wider result
        a_free = [i for i in range(a.ndim) if i not in (*a_sum, *a_batch)]
        b_free = [i for i in range(b.ndim) if i not in (*b_sum, *b_batch)]
        a = a.transpose(*a_batch, *a_free, *a_sum)
        b = b.transpose(*b_batch, *b_free, *b_sum)
        batch, summed = len(a_batch), len(a_sum)
        split_a, split_b = a.ndim - summed, batch
        a = lax.expand_dims(a, range(split_a, split_a + len(b_free)))
        b = lax.expand_dims(b, range(split_b, split_b + len(a_free)))
        shape = np.broadcast_shapes(a.shape, b.shape)
        a, b = jnp.broadcast_to(a, shape), jnp.broadcast_to(b, shape)
        return (a * b).sum(tuple(range(a.ndim - summed, a.ndim)))

    return product


JOINT_EXPANSIONS: dict[str, Expansion] = {"dot_general": _dot_general}
"""Expansions of operators of which two operands depend on the input: attention."""
