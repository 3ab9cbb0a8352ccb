"""Seed replay: whole networks tuned with the memory of inference (MeZO).

A direction is never kept: it is drawn again from its key, leaf by leaf, whenever it is
needed: to go there, to go to the other side, and to move along it. So a step holds the
parameters once more, and no direction, gradient or moment: one loop over both sides of
all directions holds one moved copy, and directions are drawn in blocks. Measured on a
CPU with parameters given away: 1.4 times their memory for 8 layers of 65,536 numbers
and 1.1 for 32, f's own besides. And a whole run is its keys and slopes, from which
`retrace` makes its end.

Reference: Malladi et al., arXiv 2305.17333, algorithm 1.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from core.errors import InputError, check_range, describe
from core.types import Array, PyTree
from zo.base import Function, Info, check_moves, info_of, scalar_of, seen, widened
from zo.directions import LAWS, Law, sample
from zo.transforms import Rate, rate_at

BLOCK = 1 << 15
"""Numbers of a direction that exist at once."""


class ReplayState(NamedTuple):
    """State of `SeedReplay`; counts, int32 []."""

    step: Array
    queries: Array
    failures: Array


class Record(NamedTuple):
    """All that a step did: enough to do it again.

    Attributes:
      key: of the step.
      slopes: along its directions, [samples]; 0 where a query failed.
      worked: slopes that did not, int32 []; without any the step moved nothing.
      step: number of the step, int32 [].
    """

    key: Array
    slopes: Array
    worked: Array
    step: Array


@dataclasses.dataclass(frozen=True, eq=False)
class SeedReplay:
    """ZO-SGD whose directions are never stored, for pytrees of any size.

    The estimate is that of `Random` with central differences: unbiased but for
    O(mu^2), total variance (d + 1) ||g||^2 / q for gaussian directions, (d - 1) ||g||^2
    / q for signs, which take less time to draw. Queries are made one after another:
    each has a network of its own.

    Moves are added in at least float32 and rounded to the dtype of the leaf. One of
    bfloat16 does not move by less than |p| / 256: where mu is below, its part of the
    slope is missing, and where a step is, the step. `init` checks mu; leaves of few
    large numbers, such as the scales of norms, are better float32.

    Attributes:
      rate: step size.
      samples: q, directions of a step, two queries each.
      law: "gaussian", as in the paper, or "rademacher".
      mu: smoothing.
      weight_decay: share of the parameters that a step takes off, times the rate.

    Raises:
      InputError: out of range, or directions on the sphere, whose length needs all
        leaves.
    """

    rate: Rate
    samples: int = 1
    law: Law = "gaussian"
    mu: float = 1e-3
    weight_decay: float = 0.0

    def __post_init__(self):
        check_range("samples", self.samples, 1)
        check_range("mu", self.mu, 0.0, low_open=True)
        check_range("weight_decay", self.weight_decay, 0.0)
        if self.law not in LAWS or self.law == "sphere":
            wanted = "gaussian or rademacher"
            raise InputError(f"law: {describe(repr(self.law), wanted)}")

    def init(self, params: PyTree) -> ReplayState:
        """Returns the state before the first step.

        Raises:
          InputError: parameters that are not floating point, or none; where they are
            known, most of them too large for a step of mu, mu < eps(dtype) |p|.
          NonFiniteError: known, and not finite.
        """
        _floats(params)
        check_moves(self.mu, params, share=0.5)
        zero = jnp.zeros((), jnp.int32)
        return ReplayState(zero, zero, zero)

    def queries(self) -> int:
        """Returns the function values of a step."""
        return 2 * self.samples

    def step(
        self, key: Array, f: Function, params: PyTree, state: ReplayState
    ) -> tuple[PyTree, ReplayState, Info, Record]:
        """Returns the next parameters and state, what was seen, and the record.

        Under `jit` give the parameters away (`donate_argnums`), and their memory is
        that of the next ones.

        Args:
          key: a random key.
          f: from parameters to a scalar, of one mini-batch.
          params: floating-point leaves, of any dtypes.
          state: of this optimizer.
        """

        def probe(_: None, each: tuple[Array, Array]):
            return None, scalar_of(f, self.shifted(params, *each))

        keys = jnp.repeat(jax.random.split(key, self.samples), 2, axis=0)
        lengths = jnp.tile(jnp.asarray([-self.mu, self.mu]), self.samples)
        _, values = jax.lax.scan(probe, None, (keys, lengths))
        slopes = (values[1::2] - values[::2]).astype(jnp.float32) / (2 * self.mu)
        worked = jnp.isfinite(slopes)
        count = worked.sum(dtype=jnp.int32)
        share = (self.samples / jnp.maximum(count, 1)).astype(jnp.float32)
        slopes = jnp.where(worked, slopes, 0) * share
        record = Record(key, slopes, count, state.step)
        info = info_of(seen(values), count)
        new = ReplayState(
            state.step + 1,
            state.queries + info.queries,
            state.failures + info.failures,
        )
        return self.moved(params, record), new, info, record

    def moved(self, params: PyTree, record: Record) -> PyTree:
        """Returns the parameters after a step, from its record alone."""
        rate = jnp.asarray(rate_at(self.rate, record.step), jnp.float32)

        def body(params: PyTree, each: tuple[Array, Array]):
            key, slope = each
            return self.shifted(params, key, -rate * slope / self.samples), None

        keys = jax.random.split(record.key, self.samples)
        if self.weight_decay:
            kept = jnp.where(record.worked > 0, 1 - rate * self.weight_decay, 1)
            params = jax.tree.map(lambda p: p * kept.astype(p.dtype), params)
        return jax.lax.scan(body, params, (keys, record.slopes))[0]

    def retrace(self, params: PyTree, records: Record) -> PyTree:
        """Returns the end of a run from its start and its records, without queries.

        Args:
          params: before the first step.
          records: stacked along a first axis, in order.
        """

        def body(params: PyTree, record: Record):
            return self.moved(params, record), None

        return jax.lax.scan(body, params, records)[0]

    def shifted(self, params: PyTree, key: Array, length: Array | float) -> PyTree:
        """Returns params + length v(key), drawn leaf by leaf."""
        leaves, treedef = jax.tree.flatten(params)
        keys = jax.random.split(key, len(leaves))
        moved = [
            self._moved(leaf, k, length) for k, leaf in zip(keys, leaves, strict=True)
        ]
        return jax.tree.unflatten(treedef, moved)

    def _moved(self, leaf: Array, key: Array, length: Array | float) -> Array:
        """The leaf plus length v, drawn block by block into one copy."""
        flat = leaf.ravel()

        def add(i: Array | int, flat: Array, size: int) -> Array:
            part = widened(jax.lax.dynamic_slice(flat, (i * BLOCK,), (size,)))
            v = sample(jax.random.fold_in(key, i), self.law, (size,), part.dtype)
            part = (part + jnp.asarray(length, part.dtype) * v).astype(flat.dtype)
            return jax.lax.dynamic_update_slice(flat, part, (i * BLOCK,))

        whole, rest = divmod(flat.size, BLOCK)
        if whole:
            flat = jax.lax.fori_loop(0, whole, lambda i, x: add(i, x, BLOCK), flat)
        if rest:
            flat = add(whole, flat, rest)
        return flat.reshape(leaf.shape)


def _floats(params: PyTree) -> None:
    leaves = jax.tree.leaves(params)
    dtypes = {jnp.result_type(leaf) for leaf in leaves}
    if not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
        found = ", ".join(sorted(map(str, dtypes)))
        raise InputError(describe(f"parameters of {found}", "floating point"))
    if not sum(jnp.size(leaf) for leaf in leaves):
        raise InputError(describe("no parameters", "at least one number"))
