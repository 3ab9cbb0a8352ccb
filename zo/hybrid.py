"""HGE: a random estimate and an importance-sampled coordinate-wise one, mixed.

    ghat = alpha ghat_r + (1 - alpha) ghat_c

with ghat_r of q directions on the sphere (`Random`) and ghat_c = sum_i (I_i / p_i) s_i
e_i over c coordinates; in both a number of x moves by mu or about it. The probabilities
come from earlier estimates, so both parts are unbiased and uncorrelated: the variance
is alpha^2 V_r + (1 - alpha)^2 V_c with

    V_r = (d - 1) ||g||^2 / q,   V_c = sum_i g_i^2 (1 / p_i - 1),

least at alpha = V_c / (V_r + V_c), where it is V_r V_c / (V_r + V_c): never above
either part, as long as alpha is not at an end of its range. With p_i = min(1, |g_i| /
lam) and none saturated V_c = ||g||_1^2 / c - ||g||^2, so ||g||_1^2 / ||g||^2 takes the
place of d in it: it is 0.64 d for normal entries, about s for s entries that matter.

Reference: Sharma et al., arXiv 2012.11518. The source of |g_i| is our choice, see
`Source`.
"""

import dataclasses
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from core.errors import InputError, check_range, describe
from core.types import Array
from zo.coordinates import (
    axis,
    importance_probs,
    relative,
    sampled_variance,
    systematic_sample,
)
from zo.differences import Differences, Part, Probes
from zo.directions import relative_variance, sample

Source = Literal["uniform", "random", "ema", "seen"]
"""What stands for |g_i|, of earlier estimates alone.

"uniform": nothing. "random": the last random part, mostly noise while q << d. "ema": a
running mean of |ghat|. "seen": slopes that the coordinate-wise part measured, exact
when they were; coordinates not seen yet count as those that were, on average.
"""


class Memory(NamedTuple):
    """What is known of the gradient.

    Attributes:
      magnitudes: guesses of |g_i|, [d], finite; -1 where there is none.
    """

    magnitudes: Array


@dataclasses.dataclass(frozen=True)
class Hybrid(Differences[Memory]):
    """The hybrid gradient estimator, see the module.

    Attributes:
      samples: q, random directions on the sphere; without any the estimate is its
        coordinate-wise part, drawn by importance.
      count: c, coordinates; all of them where there are fewer.
      alpha: weight of the random part in [0, 1]; None for the best one, estimated
        from the magnitudes and kept within [0.05, 0.95]. 0 without samples.
      source: of the magnitudes, which decide the probabilities.
      decay: share of old magnitudes that "ema" keeps in each estimate; "seen" keeps so
        much of the square when it measures a coordinate again.
      floor: share of uniform sampling among the probabilities: weights are at most
        d / (floor c).

    Raises:
      InputError: out of range.
    """

    samples: int = 10
    count: int = 10
    alpha: float | None = None
    source: Source = "seen"
    decay: float = 0.9
    floor: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        check_range("samples", self.samples, 0)
        check_range("count", self.count, 1)
        check_range("decay", self.decay, 0.0, 1.0)
        check_range("floor", self.floor, 0.0, 1.0, low_open=True)
        if self.alpha is not None:
            check_range("alpha", self.alpha, 0.0, 1.0)
        if self.source not in get_args(Source):
            wanted = "one of " + ", ".join(get_args(Source))
            raise InputError(f"source: {describe(repr(self.source), wanted)}")

    def sizes(self, d: int) -> tuple[int, int]:
        """Returns (samples, count)."""
        return self.samples, min(self.count, d)

    def start(self, d: int, dtype: Any) -> Memory:
        """Returns no knowledge."""
        return Memory(jnp.full((d,), -1, dtype))

    def probabilities(self, memory: Memory) -> Array:
        """Returns the inclusion probabilities [d] of the next estimate."""
        (_, count) = self.sizes(memory.magnitudes.size)
        return importance_probs(_filled(memory), count, self.floor)

    def draw(
        self, key: Array, memory: Memory, d: int, dtype: Any
    ) -> tuple[Probes, ...]:
        """Returns keys of directions, and indices of coordinates."""
        samples, count = self.sizes(d)
        random, coordinates = jax.random.split(key)
        keys = jax.random.split(random, samples)
        each = jnp.full((samples,), 1 / max(samples, 1), dtype)
        p = self.probabilities(memory)
        index = systematic_sample(coordinates, p, count)
        return Probes(keys, each), Probes(index, 1 / p[index])

    def direction(
        self, kind: int, seed: Array, memory: Memory, d: int, dtype: Any
    ) -> Array:
        """Returns a direction on the sphere, or a coordinate axis."""
        del memory
        if kind == 0:
            return sample(seed, "sphere", (d,), dtype)
        return axis(seed, d, dtype)

    def finish(
        self, parts: tuple[Part, ...], probes: tuple[Probes, ...], memory: Memory
    ) -> tuple[Array, Memory]:
        """Returns the mixture, and the magnitudes after it."""
        random, coordinates = parts
        alpha = self.weight(memory)
        # A part of which nothing came back has no say.
        none = [~part.worked.any() for part in parts]
        alpha = jnp.where(none[1], 1, jnp.where(none[0], 0, alpha))
        found = alpha * random.gradient + (1 - alpha) * coordinates.gradient
        new = self._learned(memory, found, random, coordinates, probes[1].seeds)
        # A guess that is not finite would stay so, and make NaN of every weight.
        return found, Memory(jnp.where(jnp.isfinite(new), new, memory.magnitudes))

    def rescales(self, kind: int, d: int) -> bool:
        """Whether others can stand for a probe: not where all coordinates are asked."""
        return kind == 0 or self.count < d

    def weight(self, memory: Memory) -> Array:
        """Returns alpha of the next estimate, a scalar."""
        dtype = memory.magnitudes.dtype
        if self.alpha is not None or not self.samples:
            return jnp.asarray(self.alpha if self.samples else 0.0, dtype)
        s = _filled(memory)
        square = jnp.square(s).sum()
        random = relative_variance("sphere", self.samples, s.size) * square
        coordinates = sampled_variance(s, self.probabilities(memory))
        total = random + coordinates
        best = coordinates / jnp.where(total > 0, total, 1)
        return jnp.clip(jnp.where(total > 0, best, 0.5), 0.05, 0.95).astype(dtype)

    def variance(self, g: Array) -> Array:
        """Returns alpha^2 V_r + (1 - alpha)^2 V_c, before anything is known."""
        return self.variance_at(g, self.start(g.size, g.dtype))

    def variance_at(self, g: Array, memory: Memory) -> Array:
        """Returns alpha^2 V_r + (1 - alpha)^2 V_c with what is known."""
        alpha = self.weight(memory)
        random = relative_variance("sphere", max(self.samples, 1), g.size)
        random = random * jnp.square(g).sum()
        coordinates = sampled_variance(g, self.probabilities(memory))
        return alpha**2 * random + (1 - alpha) ** 2 * coordinates

    def _learned(
        self, memory: Memory, found: Array, random: Part, part: Part, index: Array
    ) -> Array:
        old = memory.magnitudes
        if self.source == "uniform":
            return old
        if self.source == "random":
            return jnp.where(random.worked.any(), jnp.abs(random.gradient), old)
        if self.source == "ema":
            kept = self.decay * old + (1 - self.decay) * jnp.abs(found)
            new = jnp.where(old < 0, jnp.abs(found), kept)
            return jnp.where(random.worked.any() | part.worked.any(), new, old)
        before, now = old[index], jnp.abs(part.slopes)
        # Not by squares, which overflow where slopes do not.
        mixed = jnp.hypot(self.decay**0.5 * before, (1 - self.decay) ** 0.5 * now)
        new = jnp.where(before < 0, now, mixed)
        return old.at[index].set(jnp.where(part.worked, new, before))


def _filled(memory: Memory) -> Array:
    """Magnitudes over the largest, with the mean of those known where there is none.

    In [0, 1], [d]; all 1 where nothing is known.
    """
    known = memory.magnitudes >= 0
    s = relative(jnp.where(known, memory.magnitudes, 0))
    count = known.sum(dtype=jnp.int32)
    mean = s.sum() / jnp.maximum(count, 1).astype(s.dtype)
    return jnp.where(known, s, jnp.where(count > 0, mean, 1))
