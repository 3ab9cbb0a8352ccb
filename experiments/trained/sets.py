"""ADMM towards the levels of formats, with rows of MSQ that are fixed in the end."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

import admm
import quant
from admm import ADMMState, Rho
from core import trees
from core.types import Array, ArrayLike, PyTree
from gap.transforms import need_params

Order = Literal["variance", "reversed", "random", "error"]
ORDERS: tuple[Order, ...] = ("error", "variance", "random", "reversed")


@dataclasses.dataclass(frozen=True)
class Rows(quant.RowMix):
    """`RowMix` whose rows may be ordered otherwise.

    Attributes:
      by: what the first rows, which get sums of powers, have least of: variance, as in
        the paper; the same "reversed"; "random", the same rows in every call; "error",
        of sums of powers less that of fixed point, squared, at one scale.
    """

    by: Order = "variance"

    def assign(self, w: Array) -> Array:
        """Returns which rows of a kernel [..., M] get sums of powers, bool [M]."""
        size = quant.row_variance(w)
        if self.by == "reversed":
            size = -size
        if self.by == "random":
            size = jax.random.uniform(jax.random.key(0), size.shape)
        if self.by == "error":
            scale = super().fit(w).scale
            both = [
                self.project(w, quant.RowScaling(scale, jnp.full(size.shape, sums)))
                for sums in (True, False)
            ]
            errors = [jnp.square(q - w).sum(tuple(range(w.ndim - 1))) for q in both]
            size = errors[0] - errors[1]
        return quant.assign_rows(size, self.share)

    def fit(self, w: ArrayLike, sums: Array | None = None) -> quant.RowScaling:
        """Returns rows and scale; see `RowMix.fit`."""
        w = jnp.asarray(w)
        return super().fit(w, self.assign(w) if sums is None else sums)


@dataclasses.dataclass(frozen=True, eq=False)
class Assigned:
    """The levels of a kernel whose rows are known.

    Attributes:
      mix: the formats.
      sums: rows of sums of powers, bool [M]; may be traced.
    """

    mix: quant.RowMix
    sums: Array

    def project(self, w: Array) -> Array:
        """Returns the nearest levels at the scale that fits them."""
        return self.mix.project(w, self.mix.fit(w, self.sums))


Sets = tuple[tuple[str, quant.Quantizer | Rows], ...]
"""A set of levels for each kernel, by its path."""


class DrawnState(NamedTuple):
    """State of `drawn_to`.

    Invariants: `admm` is that of `admm.admm` with an empty `inner`; `rows` has the rows
    of sums of powers of every kernel that has such, by path.
    """

    admm: ADMMState
    rows: dict[str, Array]
    inner: Any


def drawn_to(
    inner: optax.GradientTransformation,
    sets: Sets,
    *,
    interval: int,
    rho: Rho,
    fixed_from: int,
) -> optax.GradientTransformation:
    """Returns `admm.admm` with rows assigned anew in each iteration, up to one.

    A set that moves is not one that ADMM converges to: so in the end rows stay.

    Args:
      inner: the optimizer of the primal step; it does not start afresh.
      sets: of the kernels, by path.
      interval: steps per iteration.
      rho: the penalty.
      fixed_from: the iteration from which rows stay as they are, from 0.
    """

    @jax.jit  # its many small operations one by one take longer
    def init(params: PyTree) -> DrawnState:
        rows = assigned(sets, params)
        duals = admm.init_duals(params, with_rows(sets, rows), rho)
        return DrawnState(duals, rows, inner.init(params))

    def update(updates, state, params=None):
        params = need_params(params, "drawn_to")

        def turn(state: DrawnState) -> DrawnState:
            stay = state.admm.iteration >= fixed_from
            new = assigned(sets, params)
            rows = {p: jnp.where(stay, state.rows[p], new[p]) for p in new}
            duals = admm.iterate(params, state.admm, with_rows(sets, rows), rho)
            return state._replace(admm=duals, rows=rows)

        step = state.admm.step
        due = (step > 0) & (step % interval == 0)
        state = jax.lax.cond(due, turn, lambda s: s, state)
        updates = admm.penalty_gradient(params, state.admm, updates)
        updates, now = inner.update(updates, state.inner, params)
        duals = state.admm._replace(step=step + 1)
        return updates, state._replace(admm=duals, inner=now)

    return optax.GradientTransformation(init, update)


def assigned(sets: Sets, params: PyTree) -> dict[str, Array]:
    """Returns the rows of sums of powers of each kernel that has such, by path."""
    leaves = trees.by_path(params)
    return {p: s.assign(leaves[p]) for p, s in sets if isinstance(s, Rows)}


def with_rows(sets: Sets, rows: Mapping[str, Array]) -> list[tuple[str, Any]]:
    """Returns rules of ADMM, with rows as given."""
    return [(p, Assigned(s, rows[p]) if isinstance(s, Rows) else s) for p, s in sets]
