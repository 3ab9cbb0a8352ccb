"""Three ways to make widths real numbers that are trained."""

import abc
import dataclasses

import jax
import jax.numpy as jnp

from core.errors import InputError, check_range, describe
from core.types import Array, ArrayLike, Scalar
from quant.bitwidth.levels import WIDTHS, interpolated, mixed, stepped
from quant.formats.base import MAX_BITS, check_bits
from quant.quantizers import TENSOR, Per


class Relaxation(abc.ABC):
    """A way to make widths real; subclasses are frozen dataclasses."""

    @property
    @abc.abstractmethod
    def widths(self) -> tuple[int, ...]:
        """The integer widths that a group may have in the end, rising."""

    @abc.abstractmethod
    def init(self, groups: int) -> Array:
        """Returns the parameters of some groups, float32 [groups, ...]."""

    @abc.abstractmethod
    def beta(self, theta: Array, temperature: Scalar = 1.0) -> Array:
        """Returns the width of every group, [groups]."""

    @abc.abstractmethod
    def fake(
        self, w: ArrayLike, theta: Array, per: Per = TENSOR, temperature: Scalar = 1.0
    ) -> Array:
        """Returns weights at the widths of theta; the derivative in w is 1."""


@dataclasses.dataclass(frozen=True)
class Interpolation(Relaxation):
    """Between the levels of two integer widths; see `interpolated`.

    beta = low + (high - low) * sigmoid(theta). A start at the very end would have
    no slope: theta = 2.6 is 7.5 bits of 8.

    Attributes:
      low, high: the least and the largest width, 1 to 16.
      start: theta of every group at first.
    """

    low: int = WIDTHS[0]
    high: int = WIDTHS[-1]
    start: float = 2.6

    def __post_init__(self):
        check_bits("low", self.low, 1, MAX_BITS - 1)
        check_bits("high", self.high, self.low + 1, MAX_BITS)
        check_range("start", self.start, -20.0, 20.0)

    @property
    def widths(self) -> tuple[int, ...]:
        """The integer widths; see `Relaxation`."""
        return tuple(range(self.low, self.high + 1))

    def init(self, groups: int) -> Array:
        """Returns theta, float32 [groups]."""
        return jnp.full((groups,), self.start, jnp.float32)

    def beta(self, theta: Array, temperature: Scalar = 1.0) -> Array:
        """Returns the width of every group; the temperature does nothing."""
        del temperature
        return self.low + (self.high - self.low) * jax.nn.sigmoid(theta)

    def fake(
        self, w: ArrayLike, theta: Array, per: Per = TENSOR, temperature: Scalar = 1.0
    ) -> Array:
        """Returns weights at the widths of theta; see `Relaxation`."""
        return interpolated(w, self.beta(theta, temperature), per, self.high)


@dataclasses.dataclass(frozen=True)
class RealStep(Interpolation):
    """A step for every real width; see `stepped`.

    One rounding instead of two where `low` is at least 2; with 1 three.

    Attributes:
      low, high: the least and the largest width, 1 to 16.
      start: theta of every group at first.
    """

    def fake(
        self, w: ArrayLike, theta: Array, per: Per = TENSOR, temperature: Scalar = 1.0
    ) -> Array:
        """Returns weights at the widths of theta; see `Relaxation`."""
        return stepped(w, self.beta(theta, temperature), per, self.low)


@dataclasses.dataclass(frozen=True)
class Categorical(Relaxation):
    """A mixture of the levels of several widths; see `mixed`.

    Shares are softmax(theta / temperature), equal at first; beta is the mean width. A
    temperature from 5 down to 0.5 makes them decide.

    Attributes:
      choices: two or more different widths, 1 to 16.
    """

    choices: tuple[int, ...] = (2, 3, 4, 5, 6, 8)

    def __post_init__(self):
        for width in self.choices:
            check_bits("choices", width, 1, MAX_BITS)
        rising = tuple(sorted(set(self.choices)))
        if len(rising) < 2 or len(rising) < len(self.choices):
            raise InputError(
                describe(f"choices={self.choices}", "two or more different widths")
            )
        object.__setattr__(self, "choices", rising)

    @property
    def widths(self) -> tuple[int, ...]:
        """The integer widths; see `Relaxation`."""
        return self.choices

    def init(self, groups: int) -> Array:
        """Returns theta, float32 [groups, choices]."""
        return jnp.zeros((groups, len(self.choices)), jnp.float32)

    def shares(self, theta: Array, temperature: Scalar = 1.0) -> Array:
        """Returns the share of each width, [groups, choices]."""
        return jax.nn.softmax(theta / temperature)

    def beta(self, theta: Array, temperature: Scalar = 1.0) -> Array:
        """Returns the mean width of every group, [groups]."""
        widths = jnp.asarray(self.choices, theta.dtype)
        return self.shares(theta, temperature) @ widths

    def fake(
        self, w: ArrayLike, theta: Array, per: Per = TENSOR, temperature: Scalar = 1.0
    ) -> Array:
        """Returns weights as mixtures; see `Relaxation`."""
        return mixed(w, self.shares(theta, temperature), self.choices, per)
