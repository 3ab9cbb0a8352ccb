"""A function in float64, of the numbers that it has in the types it is written in."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import graph
from core.types import Array, PyTree
from graph import Node

Function = Callable[[PyTree, Any], Array]
_TYPES = ("new_dtype", "preferred_element_type")
"""Parameters of operators that name the type of a result."""


def in_float64(fn: Function, params: PyTree, shape: tuple[int, ...]) -> Function:
    """Returns `fn` with all that its input reaches computed in float64.

    What depends on parameters and closed-over arrays alone is computed in their own
    types, as `fn` has it, and cast where it meets the input: a weight that is rounded
    to a grid is the one that the network uses. Of what the input reaches, types as
    wide as the input's become float64; casts to narrower ones stay.

    Args:
      fn: `fn(params, x) -> y`.
      params: arrays; x is of the widest of their float types, float32 without any.
      shape: of x.

    Returns:
      A jitted function of the same parameters and a float64 x, to be called with
      `jax.enable_x64(True)`. The same one for the same shapes and types.

    Raises:
      GraphError: a function that has no graph; see `graph.trace`.
    """
    leaves, tree = jax.tree.flatten(params)
    kinds = tuple((np.shape(leaf), _dtype(leaf)) for leaf in leaves)
    has_x64 = getattr(jax.config, "jax_enable_x64")  # noqa: B009 - pyright
    has_x64 = has_x64 or any(dtype == np.float64 for _, dtype in kinds)
    return _in_float64(fn, kinds, tree, tuple(shape), has_x64)


@functools.lru_cache(maxsize=16)
def _in_float64(
    fn: Function, kinds: tuple, tree: Any, shape: tuple[int, ...], has_x64: bool
) -> Function:
    structs = [jax.ShapeDtypeStruct(*kind) for kind in kinds]
    floats = [dtype for _, dtype in kinds if jnp.issubdtype(dtype, jnp.floating)]
    own = max(floats, key=_bits, default=np.dtype(np.float32))
    x = jax.ShapeDtypeStruct(shape, own)
    with (
        jax.enable_x64(has_x64),
        jax.numpy_dtype_promotion("standard"),
        jax.default_matmul_precision("highest"),
    ):
        traced = graph.trace(fn, jax.tree.unflatten(tree, structs), x)
    reached = set(traced.argument(1))
    for node in traced.nodes:
        if not reached.isdisjoint(node.inputs):
            reached.update(node.outputs)

    def is_wide(dtype: Any) -> bool:
        return jnp.issubdtype(dtype, jnp.floating) and _bits(dtype) >= _bits(own)

    def widened(array: Any) -> Any:
        wide = is_wide(jnp.result_type(array))
        return lax.convert_element_type(array, np.float64) if wide else array

    def compute(node: Node, operands: list[Any]) -> list[Any]:
        if node.body is not None:
            return [graph.COMPOSITES[node.op](*operands)]
        params = dict(node.params)
        for name in _TYPES:
            if params.get(name) is not None and is_wide(params[name]):
                params[name] = np.dtype(np.float64)
        if "precision" in params:
            params["precision"] = None
        return dataclasses.replace(node, params=params)(*operands)

    def run(params: PyTree, x: Array) -> Array:
        known = traced.bind(params, x)
        for value in traced.argument(0):
            if jnp.result_type(known[value]) != value.dtype:  # float32 of a number
                known[value] = lax.convert_element_type(known[value], value.dtype)
        for node in traced.nodes:
            operands = [known[value] for value in node.inputs]
            if reached.isdisjoint(node.outputs):
                found = node(*operands)
            else:
                found = compute(node, [widened(each) for each in operands])
            known.update(zip(node.outputs, found, strict=True))
        found = [known[value] for value in traced.outputs]
        return jax.tree.unflatten(traced.out_tree, found)

    return jax.jit(run)


def _dtype(leaf: Any) -> np.dtype:
    return np.dtype(leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf))


def _bits(dtype: Any) -> int:
    return jnp.finfo(dtype).bits
