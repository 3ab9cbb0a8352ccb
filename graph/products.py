"""The products of a function's parameters with its data, found in its jaxpr."""

import functools
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core as jax_core

from core import trees
from core.errors import GraphError, describe
from core.types import Array, PyTree
from graph.composites import CALLS, callee

PRODUCTS = frozenset({"dot_general", "conv_general_dilated"})
"""Operators that multiply two operands and sum."""
_CUSTOM = frozenset({"custom_jvp_call", "custom_vjp_call"})

Replace = Callable[[str, Array], tuple[Array, PyTree]]
"""From a site and its operand: what to multiply instead, and what to return of it."""


def kernel_of(site: str) -> str:
    """Returns the path of the kernel whose product a site is."""
    return site.split("#")[0]


class Notes(NamedTuple):
    """What is kept of a site: of the operand that met the kernel, of the product."""

    operand: PyTree
    product: PyTree


def intercept(
    fn: Callable[..., Any],
    paths: Collection[str],
    replace: Replace,
    observe: Callable[[str, Array], PyTree] = lambda _, product: None,
) -> Callable[..., tuple[Any, dict[str, Notes]]]:
    """Returns `fn` with the operands that meet certain parameters replaced.

    A site is a matrix product or convolution (or a call with a derivative of its own
    that holds one) of an operand that depends on the arguments with one that depends
    on the parameters only, among them exactly one of `paths`: a kernel as it is,
    transposed, masked, scaled. A call of two such operands is none. It is named by
    the kernel's path, with '#2', '#3' for the kernel's further products.

    `fn` is traced at each call: jit the result. Functions that are jitted,
    checkpointed or scanned within it are looked into; branches and `while` loops are
    not.

    Args:
      fn: `fn(params, *args, **kwargs)`; of the arguments, arrays are traced and all
        other leaves are static.
      paths: of the leaves of the parameters whose products are sought.
      replace: called with the site and the operand, of any floating type; it returns
        one of that shape and type, and what to keep of it. Once within a scan.
      observe: called with the site and the product; returns what to keep of it.

    Returns:
      A function of the same arguments that returns the result of `fn`, and what was
      kept, by site; stacked within a scan.

    Raises:
      GraphError: when called, for a path without any product.
    """

    def call(params: PyTree, *args: Any, **kwargs: Any) -> Any:
        names, leaves, _ = trees.flatten(params)
        flat, tree = jax.tree.flatten((args, kwargs))
        places = [i for i, leaf in enumerate(flat) if hasattr(leaf, "shape")]

        def traced(params: PyTree, arrays: list[Array]) -> Any:
            whole = list(flat)
            for place, array in zip(places, arrays, strict=True):
                whole[place] = array
            args, kwargs = jax.tree.unflatten(tree, whole)
            return fn(params, *args, **kwargs)

        arrays = [flat[i] for i in places]
        closed, shape = jax.make_jaxpr(traced, return_shape=True)(params, arrays)
        operands = [
            _Operand(leaf, path=name if name in paths else None)
            for name, leaf in zip(names, leaves, strict=True)
        ]
        operands += [_Operand(array, data=True) for array in arrays]
        walk = _Walk(replace, observe, {})
        found = walk.run(closed, operands)
        unmet = sorted(set(paths) - {kernel_of(site) for site in walk.notes})
        if unmet:
            raise GraphError(
                describe(
                    f"{', '.join(unmet)} without a product with data",
                    "kernels of matrix products or convolutions",
                    "Leave their inputs as they are.",
                )
            )
        out = jax.tree.unflatten(jax.tree.structure(shape), [v.array for v in found])
        return out, walk.notes

    return call


class _Operand(NamedTuple):
    """An array; whether it depends on data; if not, the kernel it comes from."""

    array: Array
    data: bool = False
    path: str | None = None


class _Walk:
    """Evaluates jaxprs, replacing what meets a kernel."""

    def __init__(self, replace: Replace, observe: Callable, uses: dict[str, int]):
        self.replace, self.observe, self.uses = replace, observe, uses
        self.notes: dict[str, Notes] = {}

    def run(self, closed: Any, operands: Sequence[_Operand]) -> list[_Operand]:
        """Returns the outputs of a closed jaxpr."""
        jaxpr = closed.jaxpr
        env = dict(zip(jaxpr.invars, operands, strict=True))
        for var, const in zip(jaxpr.constvars, closed.consts, strict=True):
            env[var] = _Operand(const)

        def read(atom: Any) -> _Operand:
            literal = isinstance(atom, jax_core.Literal)
            return _Operand(atom.val) if literal else env[atom]

        for eqn in jaxpr.eqns:
            found = self._equation(jaxpr, eqn, [read(atom) for atom in eqn.invars])
            env.update(zip(eqn.outvars, found, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, jaxpr: Any, eqn: Any, given: list[_Operand]) -> list[_Operand]:
        kernels = {v.path for v in given if v.path is not None}
        data = any(v.data for v in given)
        if not (kernels and data):
            path = kernels.pop() if len(kernels) == 1 else None
            arrays = _evaluate(jaxpr, eqn, given)
            return [_Operand(array, data, path) for array in arrays]
        name, params = eqn.primitive.name, eqn.params
        if name in PRODUCTS or (name in _CUSTOM and _multiplies(callee(params))):
            return self._product(jaxpr, eqn, given, kernels)
        if name == "scan":
            return self._scan(params, given)
        if name in ("checkpoint", "remat", "remat2"):
            return self._checkpoint(params, given)
        if name in CALLS - _CUSTOM and callee(params) is not None:
            return self.run(callee(params), given)
        return [_Operand(array, True) for array in _evaluate(jaxpr, eqn, given)]

    def _product(
        self, jaxpr: Any, eqn: Any, given: list[_Operand], kernels: set[str]
    ) -> list[_Operand]:
        """Replaces the operand; with two of them or two kernels, all stay as are."""
        meets = [v.data and jnp.issubdtype(v.array.dtype, jnp.floating) for v in given]
        if len(kernels) > 1 or sum(meets) != 1:
            return [_Operand(array, True) for array in _evaluate(jaxpr, eqn, given)]
        (path,), place = kernels, meets.index(True)
        self.uses[path] = self.uses.get(path, 0) + 1
        site = path if self.uses[path] == 1 else f"{path}#{self.uses[path]}"
        array, note = self.replace(site, given[place].array)
        given[place] = given[place]._replace(array=array)
        found = _evaluate(jaxpr, eqn, given)
        self.notes[site] = Notes(note, self.observe(site, found[0]))
        return [_Operand(array, True) for array in found]

    def _inside(
        self,
        closed: Any,
        before: dict[str, int],
        given: Sequence[_Operand],
        arrays: Sequence[Array],
    ) -> tuple[list[Array], dict[str, Notes]]:
        """Runs a jaxpr on other arrays; returns its outputs and notes.

        JAX may trace it more than once: sites are counted from those `before` it.
        """
        walk = _Walk(self.replace, self.observe, dict(before))
        operands = [v._replace(array=a) for v, a in zip(given, arrays, strict=True)]
        found = [v.array for v in walk.run(closed, operands)]
        self.uses.update(walk.uses)
        return found, walk.notes

    def _checkpoint(self, params: Any, given: list[_Operand]) -> list[_Operand]:
        before = dict(self.uses)
        inside = functools.partial(self._inside, callee(params), before, given)
        body = jax.checkpoint(
            inside, prevent_cse=params["prevent_cse"], policy=params["policy"]
        )
        arrays, notes = body([v.array for v in given])
        self.notes |= notes
        return [_Operand(array, True) for array in arrays]

    def _scan(self, params: Any, given: list[_Operand]) -> list[_Operand]:
        n, carried = params["num_consts"], params["num_carry"]
        consts, init, xs = given[:n], given[n : n + carried], given[n + carried :]
        init = [v._replace(data=True, path=None) for v in init]
        before, closed = dict(self.uses), params["jaxpr"]

        def body(carry: list[Array], rows: list[Array]) -> Any:
            arrays = [*(v.array for v in consts), *carry, *rows]
            given = [*consts, *init, *xs]
            out, notes = self._inside(closed, before, given, arrays)
            return out[:carried], (out[carried:], notes)

        last, (ys, notes) = lax.scan(
            body,
            [v.array for v in init],
            [v.array for v in xs],
            length=params["length"],
            reverse=params["reverse"],
            unroll=params["unroll"],
        )
        self.notes |= notes
        return [_Operand(array, True) for array in [*last, *ys]]


def _multiplies(closed: Any) -> bool:
    """Whether a jaxpr holds a product, its calls included."""
    for eqn in closed.jaxpr.eqns if closed is not None else ():
        if eqn.primitive.name in PRODUCTS:
            return True
        if eqn.primitive.name in CALLS and _multiplies(callee(eqn.params)):
            return True
    return False


def _evaluate(jaxpr: Any, eqn: Any, given: list[_Operand]) -> list[Array]:
    """Returns the results of one equation, with its own derivative if it has one."""
    known = {
        var: v.array
        for var, v in zip(eqn.invars, given, strict=True)
        if not isinstance(var, jax_core.Literal)
    }
    wanted = [v for v in eqn.outvars if not isinstance(v, jax_core.DropVar)]
    alone = jaxpr.replace(constvars=[], invars=[*known], outvars=wanted, eqns=[eqn])
    found = iter(
        jax_core.jaxpr_as_fun(jax_core.ClosedJaxpr(alone, ()))(*known.values())
    )
    dropped = [isinstance(v, jax_core.DropVar) for v in eqn.outvars]
    return [None if drop else next(found) for drop in dropped]  # type: ignore[misc]
