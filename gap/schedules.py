"""When to prune, and how far: densities as functions of the step.

A schedule answers two questions about a step, both traceable: is a mask update
`due`, and which `density` holds there on the way from 1 to a leaf's final density.
"""

import dataclasses
from itertools import pairwise
from typing import Protocol, runtime_checkable

import jax.numpy as jnp

from core.errors import InputError, check_range, describe
from core.types import Array, Scalar


@runtime_checkable
class DensitySchedule(Protocol):
    """What `gap.prune` needs to know of a schedule."""

    def due(self, step: Array) -> Array:
        """Returns whether masks are recomputed at `step`; int32 [] to bool []."""
        ...

    def density(self, step: Array, final: Scalar) -> Array:
        """Returns the density at `step`, float32 []; exactly `final` at the end."""
        ...


@dataclasses.dataclass(frozen=True)
class OneShot:
    """All at once at step `at`: magnitude pruning followed by retraining."""

    at: int = 0

    def __post_init__(self):
        check_range("at", self.at, 0)

    def due(self, step: Array) -> Array:
        """Returns whether `step` is the one step."""
        return step == self.at

    def density(self, step: Array, final: Scalar) -> Array:
        """Returns 1 before the step and `final` from it on."""
        return jnp.where(step >= self.at, jnp.float32(final), jnp.float32(1.0))


@dataclasses.dataclass(frozen=True)
class Staged:
    """Prune and retrain in stages (Han et al., arXiv 1506.02626, section 3).

    Stage `i` of `n` begins at step `at[i - 1]` with density `final ** (i / n)`, so
    each stage removes the same share of what is left. (The paper prunes by a threshold
    per layer; equal shares are how its method is commonly run.)
    """

    at: tuple[int, ...]

    def __post_init__(self):
        object.__setattr__(self, "at", tuple(self.at))
        if not self.at or any(b <= a for a, b in pairwise(self.at)) or self.at[0] < 0:
            raise InputError(describe(f"at={self.at}", "increasing steps, at least 1"))

    def due(self, step: Array) -> Array:
        """Returns whether a stage begins at `step`."""
        return jnp.isin(step, jnp.asarray(self.at, jnp.int32))

    def density(self, step: Array, final: Scalar) -> Array:
        """Returns the density of the stage that `step` is in."""
        stage = jnp.sum(step >= jnp.asarray(self.at, jnp.int32))
        last = len(self.at)
        final = jnp.float32(final)
        between = final ** (stage.astype(jnp.float32) / last)
        return jnp.where(stage == last, final, between)


@dataclasses.dataclass(frozen=True)
class Cubic:
    """Gradual magnitude pruning (Zhu and Gupta, arXiv 1710.01878, equation 1).

    `density = final + (1 - final) * (1 - (step - begin) / (end - begin)) ** 3`,
    updated every `every` steps from `begin` to `end` and once at `end`.
    """

    begin: int
    end: int
    every: int = 1

    def __post_init__(self):
        check_range("begin", self.begin, 0)
        check_range("end", self.end, self.begin + 1, remedy="Let end follow begin.")
        check_range("every", self.every, 1)

    def due(self, step: Array) -> Array:
        """Returns whether `step` is one of the update steps."""
        inside = (step >= self.begin) & (step < self.end)
        return (inside & ((step - self.begin) % self.every == 0)) | (step == self.end)

    def density(self, step: Array, final: Scalar) -> Array:
        """Returns the density of the cubic at `step`."""
        passed = (step - self.begin).astype(jnp.float32) / (self.end - self.begin)
        left = 1.0 - jnp.clip(passed, 0.0, 1.0)
        final = jnp.float32(final)
        between = 1.0 - (1.0 - final) * (1.0 - left**3)
        return jnp.where(left > 0.0, jnp.maximum(between, final), final)


@dataclasses.dataclass(frozen=True)
class Cosine:
    """Half a cosine from 1 to the final density.

    `density = final + (1 - final) * (1 + cos(pi (step - begin) / (end - begin))) / 2`,
    updated every `every` steps from `begin` to `end` and once at `end`. It starts and
    ends gently, where `Cubic` prunes most at the start.
    """

    begin: int
    end: int
    every: int = 1

    def __post_init__(self):
        Cubic(self.begin, self.end, self.every)  # the same conditions

    def due(self, step: Array) -> Array:
        """Returns whether `step` is one of the update steps."""
        return Cubic(self.begin, self.end, self.every).due(step)

    def density(self, step: Array, final: Scalar) -> Array:
        """Returns the density of the cosine at `step`."""
        passed = (step - self.begin).astype(jnp.float32) / (self.end - self.begin)
        passed = jnp.clip(passed, 0.0, 1.0)
        final = jnp.float32(final)
        between = 1.0 - (1.0 - final) * (0.5 - 0.5 * jnp.cos(jnp.pi * passed))
        return jnp.where(passed < 1.0, jnp.maximum(between, final), final)


@dataclasses.dataclass(frozen=True)
class Piecewise:
    """Given densities from given steps on, then the final density from the last.

    From step `at[i]` on it is `densities[i]`, or a leaf's final density if that is
    larger; from `at[-1]` on the final one. So `Piecewise((0, 9), (0.5,))` has density
    0.5 from step 0 and the final one from step 9.
    """

    at: tuple[int, ...]
    densities: tuple[float, ...]

    def __post_init__(self):
        Staged(self.at)  # the same conditions on steps
        object.__setattr__(self, "at", tuple(self.at))
        object.__setattr__(self, "densities", tuple(self.densities))
        for density in self.densities:
            check_range("densities", density, 0.0, 1.0)
        falling = all(b <= a for a, b in pairwise(self.densities))
        if len(self.densities) != len(self.at) - 1 or not falling:
            raise InputError(
                describe(
                    f"densities={self.densities} for {len(self.at)} steps",
                    "falling densities, one less than steps",
                    "The last step begins the final density.",
                )
            )

    def due(self, step: Array) -> Array:
        """Returns whether a density begins at `step`."""
        return jnp.isin(step, jnp.asarray(self.at, jnp.int32))

    def density(self, step: Array, final: Scalar) -> Array:
        """Returns the density that holds at `step`."""
        stage = jnp.sum(step >= jnp.asarray(self.at, jnp.int32))
        final = jnp.float32(final)
        given = jnp.asarray((1.0, *self.densities), jnp.float32)
        between = given[jnp.minimum(stage, len(self.densities))]
        return jnp.where(stage == len(self.at), final, jnp.maximum(between, final))


@dataclasses.dataclass(frozen=True)
class Constant:
    """The final density from the first step on.

    Under `gap.prune`, where no weight comes back, masks of one density are made once:
    the default. `every` is for transforms whose masks also gain weights.

    Attributes:
      every: steps between two updates of masks; None for step 0 alone.
    """

    every: int | None = None

    def __post_init__(self):
        if self.every is not None:
            check_range("every", self.every, 1)

    def due(self, step: Array) -> Array:
        """Returns whether `step` is 0 or a multiple of `every`."""
        return step == 0 if self.every is None else step % self.every == 0

    def density(self, step: Array, final: Scalar) -> Array:
        """Returns `final`."""
        return jnp.full(jnp.shape(step), final, jnp.float32)


SCHEDULES = {
    "one_shot": OneShot,
    "staged": Staged,
    "cubic": Cubic,
    "cosine": Cosine,
    "piecewise": Piecewise,
    "constant": Constant,
}
"""Every schedule by name; one contract test walks it."""
