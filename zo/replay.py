"""Seed replay: whole networks tuned with the memory of inference (MeZO).

A direction is never kept: it is drawn again from its key, leaf by leaf, whenever it is
needed: to go there, to go to the other side, and to move along it. So a step holds the
parameters once more, and no direction, gradient or moment; and a whole run is its keys
and slopes, from which `retrace` makes its end.

Reference: Malladi et al., arXiv 2305.17333, algorithm 1.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from core.errors import InputError, check_range, describe
from core.types import Array, PyTree
from zo.base import Function, Info, info_of, scalar_of, seen
from zo.directions import LAWS, Law, sample
from zo.transforms import Rate, rate_at


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
      step: number of the step, int32 [].
    """

    key: Array
    slopes: Array
    step: Array


@dataclasses.dataclass(frozen=True, eq=False)
class SeedReplay:
    """ZO-SGD whose directions are never stored, for pytrees of any size.

    The estimate is that of `Random` with central differences: unbiased but for
    O(mu^2), total variance (d + 1) ||g||^2 / q for gaussian directions, (d - 1) ||g||^2
    / q for signs, which take less time to draw. Queries are made one after another:
    each has a network of its own.

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
        """Returns the state before the first step."""
        _floats(params)
        zero = jnp.zeros((), jnp.int32)
        return ReplayState(zero, zero, zero)

    def queries(self) -> int:
        """Returns the function values of a step."""
        return 2 * self.samples

    def step(
        self, key: Array, f: Function, params: PyTree, state: ReplayState
    ) -> tuple[PyTree, ReplayState, Info, Record]:
        """Returns the next parameters and state, what was seen, and the record.

        Args:
          key: a random key.
          f: from parameters to a scalar, of one mini-batch.
          params: floating-point leaves, of any dtypes.
          state: of this optimizer.
        """

        def probe(_: None, key: Array):
            near, far = (
                scalar_of(f, self.shifted(params, key, length), jnp.float32)
                for length in (-self.mu, self.mu)
            )
            return None, (near, far)

        keys = jax.random.split(key, self.samples)
        _, (near, far) = jax.lax.scan(probe, None, keys)
        slopes = (far - near) / (2 * self.mu)
        worked = jnp.isfinite(slopes)
        share = self.samples / jnp.maximum(worked.sum(dtype=jnp.int32), 1)
        slopes = jnp.where(worked, slopes, 0) * share.astype(jnp.float32)
        record = Record(key, slopes, state.step)
        info = info_of(seen(jnp.concatenate([near, far])))
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
            kept = 1 - rate * self.weight_decay
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
            leaf
            + jnp.asarray(length, leaf.dtype)
            * sample(k, self.law, leaf.shape, leaf.dtype)
            for k, leaf in zip(keys, leaves, strict=True)
        ]
        return jax.tree.unflatten(treedef, moved)


def _floats(params: PyTree) -> None:
    leaves = jax.tree.leaves(params)
    dtypes = {jnp.result_type(leaf) for leaf in leaves}
    if not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
        found = ", ".join(sorted(map(str, dtypes)))
        raise InputError(describe(f"parameters of {found}", "floating point"))
    if not sum(jnp.size(leaf) for leaf in leaves):
        raise InputError(describe("no parameters", "at least one number"))
