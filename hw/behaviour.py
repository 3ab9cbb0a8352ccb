"""Networks whose products are computed in another way, as a circuit does."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from core.errors import GraphError, describe
from core.types import Array
from graph import Graph, Node, Value, trace
from graph.products import PRODUCTS

Product = Callable[[str, Array, Array], Array]
"""From the path of a kernel, data [m, k] and weights [k, n] to the product [m, n]."""
_NHWC = (0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)


def through(fn: Callable[..., Any], product: Product) -> Callable[..., Any]:
    """Returns `fn` with the products of its kernels computed by `product`.

    A kernel is a parameter, or what is made of parameters alone; it is named by the
    path of the largest. A convolution is the product of its unfolded windows, with
    channels before positions in both matrices. `fn` is traced at each call: jit the
    result.

    Args:
      fn: `fn(params, *args)`, of operators that `graph.trace` can follow.
      product: differentiable if the result shall be.

    Returns:
      A function of the same arguments with the same results.

    Raises:
      GraphError: when called, for a grouped convolution, or a layout that is not NHWC.
    """

    def call(params: Any, *args: Any) -> Any:
        traced = trace(fn, params, *args)
        return _evaluate(traced, product, params, *args)

    return call


def _evaluate(graph: Graph, product: Product, *args: Any) -> Any:
    known = graph.bind(*args)
    owner: dict[Value, Value] = {v: v for v in graph.inputs if v.argument == 0}
    data = {v for v in graph.inputs if v.argument != 0}
    for node in graph.nodes:
        operands = [known[v] for v in node.inputs]
        if not data.intersection(node.inputs):
            leaves = [owner[v] for v in node.inputs if v in owner]
            if leaves:
                largest = max(leaves, key=lambda v: jnp.size(known[v]))
                owner.update(dict.fromkeys(node.outputs, largest))
            found = node(*operands)
        else:
            data.update(node.outputs)
            place = [i for i, v in enumerate(node.inputs) if v in owner]
            mine = node.op in PRODUCTS and len(place) == 1 and len(operands) == 2
            if mine:
                path = owner[node.inputs[place[0]]].path
                found = [_product(node, operands, place[0], path, product)]
            else:
                found = node(*operands)
        known.update(zip(node.outputs, found, strict=True))
    return jax.tree.unflatten(graph.out_tree, [known[v] for v in graph.outputs])


def _product(
    node: Node, operands: list[Any], place: int, path: str, product: Product
) -> Array:
    if node.op == "dot_general":
        return _matrix(node, operands, place, path, product)
    return _convolution(node, operands, path, product)


def _matrix(
    node: Node, operands: list[Any], place: int, path: str, product: Product
) -> Array:
    (left, right), (batch, _) = node.params["dimension_numbers"]
    summed = (left, right)
    if batch:
        raise _refused(path, "a batch of products with a kernel")
    x, w = operands[1 - place], operands[place]
    free = [i for i in range(x.ndim) if i not in summed[1 - place]]
    x = jnp.transpose(x, (*free, *summed[1 - place]))
    shape = x.shape[: len(free)]
    rest = [i for i in range(w.ndim) if i not in summed[place]]
    w = jnp.transpose(w, (*summed[place], *rest))
    outputs = w.shape[len(summed[place]) :]
    k = math.prod(w.shape[: len(summed[place])])
    x, w = x.reshape(math.prod(shape), k), w.reshape(k, math.prod(outputs))
    y = product(path, x, w)
    y = y.reshape(*shape, *outputs)
    if place == 0:  # the free axes of the kernel come first
        order = (*range(len(shape), y.ndim), *range(len(shape)))
        y = jnp.transpose(y, order)
    return y


def _convolution(node: Node, operands: list[Any], path: str, product: Product) -> Array:
    x, kernel = operands
    params = node.params
    numbers = params["dimension_numbers"]
    specs = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    if specs != _NHWC:
        raise _refused(path, f"a convolution of layout {specs}")
    if params["feature_group_count"] != 1 or params["batch_group_count"] != 1:
        raise _refused(path, "a grouped convolution")
    height, width, c, n = kernel.shape
    patches = lax.conv_general_dilated_patches(
        x,
        (height, width),
        params["window_strides"],
        params["padding"],
        lhs_dilation=params["lhs_dilation"],
        rhs_dilation=params["rhs_dilation"],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    matrix = jnp.transpose(kernel, (2, 0, 1, 3)).reshape(c * height * width, n)
    y = product(path, patches.reshape(-1, matrix.shape[0]), matrix)
    return y.reshape(*patches.shape[:-1], n)


def _refused(path: str, given: str) -> GraphError:
    wanted = "a matrix product, or a convolution of one group in NHWC"
    return GraphError(f"{path}: {describe(given, wanted, 'Leave it digital.')}")
