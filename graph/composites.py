"""Functions whose calls a graph keeps as one node, such as relu."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.extend import core as jax_core

COMPOSITES: dict[str, Callable[..., Any]] = {}
"""Functions whose calls stay one node, by name; see `composite`."""

CALLS = frozenset(
    {"jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call"}
    | {"custom_vjp_call_jaxpr", "custom_lin", "checkpoint", "remat", "remat2"}
)
"""The primitives that do nothing but call a jaxpr."""


def composite(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Returns `fn` jitted, such that a trace keeps each call of it as one node.

    The node's `op` is the name of `fn`. A call of another function of that name is
    not mistaken for it: its jaxpr is compared with that of `fn`.

    Args:
      fn: a function of arrays with one array as its result.
    """
    COMPOSITES[fn.__name__] = fn
    return jax.jit(fn)


for _fn in (jax.nn.relu, jax.nn.softplus):
    COMPOSITES[_fn.__name__] = _fn


def callee(params: Mapping[str, Any]) -> Any:
    """Returns the closed jaxpr that a call calls, None where it has none."""
    names = ("jaxpr", "call_jaxpr", "fun_jaxpr")
    found = next((params[name] for name in names if name in params), None)
    if isinstance(found, jax_core.Jaxpr):
        return jax_core.ClosedJaxpr(found, ())
    return found if isinstance(found, jax_core.ClosedJaxpr) else None


def is_composite(name: str, closed: Any) -> bool:
    """Whether a call of `closed` under `name` is of the registered function.

    Args:
      name: of the function called, as a jit equation has it.
      closed: its closed jaxpr.
    """
    if name not in COMPOSITES:
        return False
    structs = [
        jax.ShapeDtypeStruct(v.shape, v.dtype, weak_type=v.weak_type)
        for v in closed.in_avals
    ]
    try:
        own = jax.make_jaxpr(COMPOSITES[name])(*structs)
    except Exception:  # another function of that name, of other arguments
        return False
    own, other = _unwrapped(own), _unwrapped(closed)
    return str(own) == str(other) and _same_arrays(own.consts, other.consts)


def _unwrapped(closed: Any) -> Any:
    """The innermost jaxpr of calls that pass on all operands and results."""
    jaxpr = closed.jaxpr
    if len(jaxpr.eqns) != 1 or jaxpr.eqns[0].primitive.name not in CALLS:
        return closed
    eqn = jaxpr.eqns[0]
    same = [*eqn.invars] == [*jaxpr.invars] and [*eqn.outvars] == [*jaxpr.outvars]
    inner = callee(eqn.params)
    return _unwrapped(inner) if same and inner is not None else closed


def _same_arrays(ours: Any, theirs: Any) -> bool:
    """Whether closed-over arrays, which a jaxpr's text leaves out, are equal."""
    known = not any(isinstance(a, Tracer) for a in (*ours, *theirs))
    return known and all(
        np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True)
    )
