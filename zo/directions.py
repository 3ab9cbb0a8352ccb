"""Random directions: averages over all coordinates, and guided ones.

With q directions, f linear of gradient g and central differences (or mu -> 0):

| law | mean | E||ghat - g||^2 |
|---|---|---|
| gaussian | g | (d + 1) ||g||^2 / q |
| sphere | g | (d - 1) ||g||^2 / q |
| rademacher | g | (d - 1) ||g||^2 / q |

All have E v v^T = I: a direction on the sphere has length sqrt(d), as signs have, and
not 1 with slopes times d, which is the same estimate with mu sqrt(d) for mu. So mu is
the step of one number whatever d is. With a fixed length of the whole step that of a
number falls as 1 / sqrt(d), and rounding takes over: of mean_i sin(x_i) and float32
slopes would be noise alone from 100,000 dimensions on.

All laws are symmetric, so a quadratic changes no mean, and central differences are
exact on it. Forward ones add mu^2/4 E[(v^T H v)^2 ||v||^2] / q to the variance. A
function of Lipschitz third derivatives biases the mean by O(mu^2).

References: Nesterov and Spokoiny 2017 (gaussian); Duchi et al., arXiv 1312.2139
(sphere); Spall 1992 (rademacher); Maheswaranathan et al., arXiv 1806.10230 (guided).
"""

import dataclasses
import math
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from core.errors import InputError, check_range, describe
from core.types import Array
from zo.differences import Differences, Part, Probes

Law = Literal["sphere", "gaussian", "rademacher"]
LAWS: tuple[Law, ...] = get_args(Law)


def check_law(law: str) -> None:
    """Raises `InputError` unless the law is one of `LAWS`."""
    if law not in LAWS:
        raise InputError(f"law: {describe(repr(law), 'one of ' + ', '.join(LAWS))}")


def sample(key: Array, law: Law, shape: tuple[int, ...], dtype: Any) -> Array:
    """Returns one direction of a law, of any shape, with E v_i^2 = 1.

    Args:
      key: a random key.
      law: "sphere" has norm sqrt(d) over all entries.
      shape: of the direction.
      dtype: at least float32, or the norm may overflow.
    """
    if law == "rademacher":
        return _signs(key, math.prod(shape)).reshape(shape).astype(dtype)
    v = jax.random.normal(key, shape, dtype)
    if law == "gaussian":
        return v
    return v * (v.size**0.5 / jnp.sqrt(jnp.square(v).sum()))


def _signs(key: Array, count: int) -> Array:
    """Returns signs, float32 [count]; each random word gives the sign bits of 32."""
    words = jax.random.bits(key, (-(-count // 32),), jnp.uint32)
    shifts = jnp.arange(32, dtype=jnp.uint32)[:, None]
    bits = (words[None] << shifts) & jnp.uint32(0x8000_0000)
    ones = jnp.uint32(0x3F80_0000)  # 1.0
    return jax.lax.bitcast_convert_type(bits | ones, jnp.float32).ravel()[:count]


def relative_variance(law: Law, samples: int, d: int) -> float:
    """Returns E||ghat - g||^2 / ||g||^2 of the mean over directions, f linear."""
    return (d + 1 if law == "gaussian" else d - 1) / samples


@dataclasses.dataclass(frozen=True)
class Random(Differences[tuple[()]]):
    """The mean of slopes along random directions, times the direction.

        ghat = (1 / q) sum_j s_j v_j,   E v_j v_j^T = I.

    Unbiased but for O(mu^2); its total variance is that of the module's table, however
    the gradient is spread over coordinates. (Under `vmap` of several estimates give
    each a key.)

    Attributes:
      samples: q, directions.
      law: of the directions.

    Raises:
      InputError: no samples, or an unknown law.
    """

    samples: int = 10
    law: Law = "sphere"

    def __post_init__(self):
        super().__post_init__()
        check_range("samples", self.samples, 1)
        check_law(self.law)

    def sizes(self, d: int) -> tuple[int]:
        """Returns (samples,)."""
        del d
        return (self.samples,)

    def draw(
        self, key: Array, memory: tuple[()], d: int, dtype: Any
    ) -> tuple[Probes, ...]:
        """Returns a key for each direction."""
        del memory, d
        keys = jax.random.split(key, self.samples)
        return (Probes(keys, jnp.full((self.samples,), 1 / self.samples, dtype)),)

    def direction(
        self, kind: int, seed: Array, memory: tuple[()], d: int, dtype: Any
    ) -> Array:
        """Returns the direction of a key."""
        del kind, memory
        return sample(seed, self.law, (d,), dtype)

    def variance(self, g: Array) -> Array:
        """Returns the closed form of the module's table."""
        return relative_variance(self.law, self.samples, g.size) * jnp.square(g).sum()


class Recent(NamedTuple):
    """Recent estimates, or any guesses of the gradient: rows [k, d] that span U."""

    rows: Array
    step: Array


@dataclasses.dataclass(frozen=True)
class Guided(Differences[Recent]):
    """Gaussian directions drawn more often from the span of recent estimates.

        v ~ N(0, d S),   S = a I / d + (1 - a) U U^T / k,
        ghat = (b / (d q)) sum_j s_j v_j,

    with U [d, k] an orthonormal basis of the last k estimates (or of guesses that a
    user puts into `state.memory.rows`). The trace of d S is d, so entries of v are
    about 1 as in every law here, unless the span has few coordinates in it. Biased: E
    ghat = b S g, which is g within the span for the default b = 1 / (a / d + (1 - a) /
    k) and less than g outside of it. Total variance b^2 (g^T S g + g^T S^2 g) / q.
    Before k estimates, what is missing of the basis is
    cosines of low frequency over the coordinates, as even as the rest.

    Attributes:
      samples: q, directions.
      rank: k; d where that is less.
      share: a in (0, 1], of the variance that goes to all of space.

    Raises:
      InputError: out of range.
    """

    samples: int = 10
    rank: int = 3
    share: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        check_range("samples", self.samples, 1)
        check_range("rank", self.rank, 1)
        check_range("share", self.share, 0.0, 1.0, low_open=True)

    def scale(self, d: int) -> float:
        """Returns b, with which the mean is g within the span."""
        return 1 / (self.share / d + (1 - self.share) / self.rows(d))

    def rows(self, d: int) -> int:
        """Returns the rank of the span in d dimensions."""
        return min(self.rank, d)

    def sizes(self, d: int) -> tuple[int]:
        """Returns (samples,)."""
        del d
        return (self.samples,)

    def start(self, d: int, dtype: Any) -> Recent:
        """Returns cosines cos(pi j (i + 1/2) / d), which are orthogonal."""
        row, column = jnp.arange(self.rows(d)), jnp.arange(d)
        angle = row.astype(dtype)[:, None] * (column.astype(dtype)[None] + 0.5)
        rows = jnp.cos(jnp.pi / d * angle)
        return Recent(rows, jnp.zeros((), jnp.int32))

    def draw(
        self, key: Array, memory: Recent, d: int, dtype: Any
    ) -> tuple[Probes, ...]:
        """Returns a key for each direction."""
        del memory
        keys = jax.random.split(key, self.samples)
        each = jnp.full((self.samples,), self.scale(d) / (d * self.samples), dtype)
        return (Probes(keys, each),)

    def direction(
        self, kind: int, seed: Array, memory: Recent, d: int, dtype: Any
    ) -> Array:
        """Returns a direction of covariance d S."""
        del kind
        whole, inner = jax.random.split(seed)
        wide = jax.random.normal(whole, (d,), dtype) * self.share**0.5
        rank = self.rows(d)
        along = jax.random.normal(inner, (rank,), dtype)
        along = along * ((1 - self.share) * d / rank) ** 0.5
        return wide + basis_of(memory.rows) @ along

    def finish(
        self, parts: tuple[Part, ...], probes: tuple[Probes, ...], memory: Recent
    ) -> tuple[Array, Recent]:
        """Returns the estimate, which takes the place of the oldest row."""
        del probes
        found = parts[0].gradient
        # A row of zeros spans nothing, one that is not finite spoils all: keep the old.
        some = jnp.isfinite(found).all() & (found != 0).any()
        slot = memory.step % len(memory.rows)
        row = jnp.where(some, found, memory.rows[slot])
        rows = memory.rows.at[slot].set(row)
        return found, Recent(rows, memory.step + 1)

    def variance(self, g: Array) -> Array:
        """Returns the closed form, with the basis of `start`."""
        return self.variance_in(g, self.start(g.size, g.dtype).rows)

    def variance_in(self, g: Array, rows: Array) -> Array:
        """Returns b^2 (g^T S g + g^T S^2 g) / q for a span of rows [k, d]."""
        sg = self.mean_of(g, rows) / self.scale(g.size)
        total = jnp.vdot(g, sg) + jnp.vdot(sg, sg)
        return self.scale(g.size) ** 2 * total / self.samples

    def mean_of(self, g: Array, rows: Array) -> Array:
        """Returns E ghat = b S g for a span of rows [k, d]."""
        basis = basis_of(rows)
        inside = basis @ (g @ basis)
        sg = self.share / g.size * g + (1 - self.share) / self.rows(g.size) * inside
        return self.scale(g.size) * sg


def basis_of(rows: Array) -> Array:
    """Returns an orthonormal basis [d, k] of the span of rows [k, d]."""
    top = jnp.abs(rows).max(1, keepdims=True)  # squares of large rows overflow
    rows = rows / jnp.where(top > 0, top, jnp.ones_like(top))
    length = jnp.sqrt(jnp.square(rows).sum(1, keepdims=True))
    unit = rows / jnp.where(length > 0, length, jnp.ones_like(length))
    return jnp.linalg.qr(unit.T)[0]
