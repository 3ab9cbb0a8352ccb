"""As many steps of an optimizer as a budget of queries holds, in one program."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import InputError, NonFiniteError, ShapeError, describe
from core.types import Array, PyTree
from zo.base import Function, flat_of, known
from zo.optimizers import SVRG, Optimizer, OptimizerState


class Trace(NamedTuple):
    """What `minimize` saw: an entry for each step.

    Attributes:
      value: about f at the step's point; see `Info`.
      queries: all so far, after the step, int32.
      worked: slopes that the step moved by, int32.
    """

    value: Array
    queries: Array
    worked: Array


def minimize(
    key: Array,
    optimizer: Optimizer,
    f: Callable[..., Array],
    x: PyTree,
    budget: int,
    *,
    batches: PyTree | None = None,
    full: Function | None = None,
    chunk: int | None = None,
) -> tuple[PyTree, OptimizerState, Trace]:
    """Takes the steps that a budget of queries holds, as one `lax.scan`.

    It compiles once for an optimizer, a function and shapes: give the same objects
    again, and other keys, points and batches cost no compilation.

    Args:
      key: a random key.
      optimizer: any of this room.
      f: from a point to a scalar; with `batches`, from a point and a batch.
      x: the first point.
      budget: most queries.
      batches: arrays stacked [steps, ...], of which step t has the t-th for all of its
        queries; at least as many as there are steps, `optimizer.steps(d, budget)`.
      full: of an `SVRG`, the function whose gradient its snapshots have, such as the
        mean over all data; needed with `batches`. A value of it counts for the
        optimizer's `full_cost` queries.
      chunk: most function values at once; the optimizer's own if None.

    Returns:
      The last point, the state and what was seen. `state.estimate.queries` is at most
      `budget`, by the count of steps.

    Raises:
      InputError: a budget below one step; an SVRG with batches and without `full`, or
        `full` for another optimizer.
      ShapeError: fewer batches than steps.
      NonFiniteError: no slope of the whole run worked. (Under a `jit` of the caller's
        nothing is raised: look at `trace.worked`.)
    """
    if isinstance(optimizer, SVRG):
        if batches is not None and full is None:
            given = describe("an SVRG with batches", "the function of snapshots, full=")
            remedy = "Of one mini-batch they would steer all steps by that batch."
            raise InputError(f"minimize: {given}. {remedy}")
    elif full is not None:
        given = describe("full= without snapshots", "an SVRG")
        raise InputError(f"minimize: {given}.")
    if chunk is not None:
        optimizer = _chunked(optimizer, chunk)
    count = optimizer.steps(flat_of(x)[0].size, budget)
    lengths = {np.shape(leaf)[0] for leaf in jax.tree.leaves(batches)}
    if lengths and min(lengths) < count:
        given = f"{min(lengths)} batches for {count} steps"
        raise ShapeError(describe(given, "a batch for each step"))
    batches = jax.tree.map(lambda leaf: leaf[:count], batches)
    args = key, x, batches
    if not known(*args):
        return _run(optimizer, f, full, count, *args)
    optimizer.init(x)  # for its checks, which need numbers
    x, state, trace = _compiled(optimizer, f, full, count, *args)
    if not np.any(trace.worked):
        failed, asked = int(state.estimate.failures), int(state.estimate.queries)
        given = f"{failed} values of {asked} that are not finite, and no difference"
        remedy = "Look at f at the first point, and at what `external` catches."
        raise NonFiniteError(describe(given, "a run with values to go by", remedy))
    return x, state, trace


@functools.lru_cache(maxsize=64)
def _chunked(optimizer: Optimizer, chunk: int) -> Optimizer:
    """The same object for the same arguments, so that nothing compiles again."""
    return dataclasses.replace(optimizer, chunk=chunk)


def _run(
    optimizer: Optimizer,
    f: Callable[..., Array],
    full: Function | None,
    count: int,
    key: Array,
    x: PyTree,
    batches: PyTree | None,
) -> tuple[PyTree, OptimizerState, Trace]:
    def body(carry: tuple[PyTree, OptimizerState], each: tuple[Array, Any]):
        key, batch = each
        g = f if batches is None else lambda x: f(x, batch)
        if isinstance(optimizer, SVRG):
            x, state, info = optimizer.step(key, g, *carry, full)
        else:
            x, state, info = optimizer.step(key, g, *carry)
        return (x, state), Trace(info.value, state.estimate.queries, info.worked)

    start = jax.tree.map(jnp.asarray, x), optimizer.init(x)
    keys = jax.random.split(key, count)
    (x, state), trace = jax.lax.scan(body, start, (keys, batches))
    return x, state, trace


_compiled = jax.jit(_run, static_argnums=(0, 1, 2, 3))
