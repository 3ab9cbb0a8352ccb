"""Functions that are not JAX: programs, simulators, devices, as functions that are.

`external(simulate)` is called on the host through `jax.pure_callback`; estimators and
optimizers then take it for any other function, within `jit` and `lax.scan` too. A query
that raises what a query may raise, or whose value is not finite, becomes NaN, which
estimators leave out and count. Where calls should run side by side, or a loop in
Python is wanted, use `ask` and `tell` instead.
"""

import subprocess
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import InputError, ShapeError, describe
from core.types import Array, PyTree
from zo.base import Function

FAILURES = (ArithmeticError, OSError, subprocess.SubprocessError)
"""What a query may raise: numbers, files, and programs that fail or take too long."""


def external(
    fn: Callable[[PyTree], Any],
    *,
    batched: bool = False,
    catch: tuple[type[Exception], ...] = FAILURES,
    offset: float = 0.0,
    dtype: Any = jnp.float32,
) -> Function:
    """Returns a function that JAX can trace from one of the host.

    It must be pure as far as JAX knows: it may be called again, or not at all where
    its value is not used.

    Args:
      fn: from a pytree of numpy arrays to a number. If `batched`, from arrays with the
        points along a first axis, [m, ...], to numbers [m].
      batched: whether fn takes all points of an estimate at once; otherwise it is
        called point by point.
      catch: what fn may raise for a query that failed; with `batched`, all of its
        points have then failed. Anything else, such as a NameError, ends the program
        that called it. Name the exceptions of a simulator here.
      offset: subtracted from values on the host, in float64. Values of 1e5 that differ
        by less than 0.01 are the same in float32, and estimates of them 0: subtract the
        value at the first point.
      dtype: of the values after that.

    Returns:
      f(x), a scalar; it may be vmapped and jitted, but has no derivative.

    Raises:
      InputError: fn cannot be called.
    """
    if not callable(fn):
        raise InputError(describe(f"fn of type {type(fn).__name__}", "a function"))
    kind = np.dtype(jnp.dtype(dtype))

    def called(x: PyTree, shape: tuple[int, ...], wanted: str) -> np.ndarray:
        try:
            value = fn(jax.tree.map(np.asarray, x))
        except catch:
            return np.full(shape, np.nan, kind)
        value = np.asarray(value, np.float64)
        if value.shape != shape:
            given = f"values of shape {value.shape} from an external function"
            raise ShapeError(describe(given, wanted))
        with np.errstate(over="ignore"):
            return np.asarray(value - offset, kind)

    def host(x: PyTree) -> np.ndarray:
        return called(x, (), "a number")

    def hosts(x: PyTree) -> np.ndarray:
        count = len(jax.tree.leaves(x)[0])
        return called(x, (count,), f"one for each of {count} points")

    def call(host: Callable[[PyTree], np.ndarray], shape: tuple[int, ...], x: PyTree):
        out = jax.ShapeDtypeStruct(shape, kind)
        return jax.pure_callback(host, out, x, vmap_method="sequential")

    if not batched:
        return lambda x: call(host, (), x)

    @jax.custom_batching.custom_vmap
    def f(x: PyTree) -> Array:
        return call(hosts, (1,), jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], x))[
            0
        ]

    @f.def_vmap
    def _(size: int, is_batched: list[PyTree], x: PyTree) -> tuple[Array, bool]:
        def spread(is_batched: bool, leaf: Array) -> Array:
            return leaf if is_batched else jnp.broadcast_to(leaf, (size, *leaf.shape))

        return call(hosts, (size,), jax.tree.map(spread, is_batched[0], x)), True

    return f
