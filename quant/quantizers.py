"""Quantizers: a format, what shares a scale, how scales are found."""

import dataclasses
import functools
import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from core.errors import InputError, ShapeError, check_range, describe
from core.numerics import check_finite
from core.types import Array, ArrayLike
from quant.calibration import Calibration, MaxAbs, Scaling, Search
from quant.formats import Format, base


@dataclasses.dataclass(frozen=True)
class Per:
    """What shares a scale.

    Attributes:
      axes: axes whose every index has scales of its own; none for one scale a tensor.
        Output channels of flax kernels are axis -1.
      group: how many neighbours along `group_axis` share a scale; all if None.
      group_axis: see `group`.
    """

    axes: tuple[int, ...] = ()
    group: int | None = None
    group_axis: int = 0

    def __post_init__(self):
        if self.group is not None:
            check_range("group", self.group, 1)


TENSOR = Per()
"""One scale a tensor."""
CHANNEL = Per(axes=(-1,))
"""One scale an output channel."""
Gradient = Literal["step", "lsq", "clip", "ant"]
"""How scales are learned; see `Quantizer`."""
Beyond = Literal["clip", "identity"]
"""The gradient of numbers beyond the levels; see `Quantizer`."""
LARGEST = MaxAbs()
"""The largest magnitude is kept."""
_compiled = functools.partial(jax.jit, static_argnums=0)


@dataclasses.dataclass(frozen=True)
class Quantizer:
    """Numbers to code words and back; hashable, so static under `jit`.

        quantizer = Quantizer(SumOfPowers(4), CHANNEL)
        scaling = quantizer.fit(kernel)
        words = quantizer.encode(kernel, scaling)
        kernel = quantizer.decode(words, scaling)

    Attributes:
      format: the levels.
      per: what shares a scale.
      calibration: how scales are found.
      gradient: of scales given to `fake`: "step", the learned step's; "lsq", that
        divided by sqrt(n * the largest level), n numbers to a scale (arXiv
        1902.08153, section 2.2; see `batched`); "clip", of the clip alone (PACT,
        arXiv 1805.06085); "ant", the level less x / scale beyond the range too, as of
        scale * (x / scale + stop_gradient(level - x / scale)) (arXiv 2208.14286), where
        `beyond` is "identity".
      beyond: the gradient of `fake` in numbers beyond the levels: 0, that of a "clip",
        as most scales need that learn; or 1, "identity", with which no weight stops.
      batched: whether the first axis counts examples, as `aware` sets it for inputs of
        layers: LSQ's n is then of one example.
    """

    format: Format
    per: Per = TENSOR
    calibration: Calibration = LARGEST
    gradient: Gradient = "step"
    beyond: Beyond = "clip"
    batched: bool = False

    def __post_init__(self):
        for name, kinds in (("gradient", Gradient), ("beyond", Beyond)):
            given = getattr(self, name)
            if given not in get_args(kinds):
                wanted = " or ".join(get_args(kinds))
                raise InputError(describe(f"{name}={given!r}", wanted))

    def fit(self, x: ArrayLike) -> Scaling:
        """Returns the scaling of x: arrays of x's rank that broadcast against groups.

        The shape is that of x with 1 for every axis that shares a scale; an axis in
        groups has as many entries as groups.

        Args:
          x: floating point; the statistics are taken in float32 or wider.

        Raises:
          NonFiniteError: NaN or infinity in an array that is not traced.
          ShapeError: an empty array, an axis that is not there, or groups that do not
            fill their axis.
          InputError: integers.
        """
        return self._fitted(numbers(x))

    def searched(self, x: ArrayLike) -> tuple[Scaling, Array]:
        """Returns the scaling and the mean squared error of every scale.

        Both have the shape of `fit`'s scales; the calibration must be a `Search`.

        Raises:
          InputError: another calibration. Otherwise as `fit`.
        """
        if not isinstance(self.calibration, Search):
            wanted = "LeastError(...) or BestScale(...)"
            raise InputError(describe(f"{self.calibration}", wanted))
        return self._searched(numbers(x))

    def encode(self, x: ArrayLike, scaling: Scaling) -> Array:
        """Returns the words of the nearest levels, of x's shape.

        Args:
          x: floating point, as was given to `fit`, or alike.
          scaling: as `fit` returns it.

        Raises:
          NonFiniteError: NaN or infinity in an array that is not traced.
        """
        return self._encoded(numbers(x), scaling)

    def decode(self, words: ArrayLike, scaling: Scaling) -> Array:
        """Returns the numbers of words, in the type of the scale."""
        return self._decoded(jnp.asarray(words), scaling)

    def fake(self, x: ArrayLike, scaling: Scaling | None = None) -> Array:
        """Returns decode(encode(x)) with a straight-through gradient, in the type of x.

        The derivative in x is 1 within the levels' range; 0 beyond it, unless `beyond`
        is "identity". That in the scale is the learned step's (arXiv 1902.08153,
        equation 3): the level less x / scale within the range, the end beyond it; see
        `gradient` for others. The zero has none.

        Args:
          x: floating point; NaN stays NaN.
          scaling: as `fit` returns it; fitted to x, as a constant, if left out.
        """
        return self._faked(jnp.asarray(x), scaling)

    def project(self, x: ArrayLike, scaling: Scaling | None = None) -> Array:
        """Returns the nearest levels, decode(encode(x)), in the type of x.

        So a quantizer is a set that ADMM projects on; with scales that are fitted anew
        the set is all levels at any scale, and the point a near one.

        Args:
          x: floating point.
          scaling: as `fit` returns it; fitted to x if left out.
        """
        return jax.lax.stop_gradient(self.fake(x, scaling))

    # Compiled, so that a call outside of `jit` is one program and not one an operation.

    @_compiled
    def _faked(self, x: Array, scaling: Scaling | None) -> Array:
        if scaling is None:
            fitted = self._fitted(x.astype(base.floating(x)))
            return self._faked(x, jax.lax.stop_gradient(fitted))
        scale, zero = self._spread(scaling, x)
        wide, zero = x.astype(scale.dtype), jax.lax.stop_gradient(zero)
        rest = jax.lax.stop_gradient(scale)
        if self.gradient == "lsq":
            shared = x.size // max(scaling.scale.size, 1)
            shape = scaling.scale.shape
            own = len(shape) == x.ndim and shape[0] != 1  # scales for each example
            if self.batched and x.ndim > 1 and not own:
                shared //= max(x.shape[0], 1)
            scale = rest + (scale - rest) / math.sqrt(max(shared, 1) * self.format.max)
        unit = jax.lax.stop_gradient(wide) / rest
        level = self.format.round(unit + zero) - zero
        inside = _within(self.format, unit + zero)
        # The value is level * scale exactly: the other terms are 0, or left out.
        passes = inside if self.beyond == "clip" else jnp.isfinite(wide)
        found = level * scale + _slope(wide, passes)
        own = level if self.gradient == "clip" else unit
        counts = jnp.isfinite(unit) if self.gradient == "ant" else inside
        found = found - jnp.where(counts, own, 0) * (scale - rest)
        return found.astype(x.dtype)

    @_compiled
    def _encoded(self, x: Array, scaling: Scaling) -> Array:
        scale, zero = self._spread(scaling, x)
        return self.format.encode(x / scale + zero)

    @_compiled
    def _decoded(self, words: Array, scaling: Scaling) -> Array:
        scale, zero = self._spread(scaling, words)
        return (self.format.decode(words, scale.dtype) - zero) * scale

    @_compiled
    def _searched(self, x: Array) -> tuple[Scaling, Array]:
        assert isinstance(self.calibration, Search)
        rows, shape = self._rows(x)
        scaling, error = self.calibration.search(rows, self.format)
        placed = Scaling(*(part.reshape(shape) for part in scaling))
        return placed, error.reshape(shape)

    @_compiled
    def _fitted(self, x: Array) -> Scaling:
        rows, shape = self._rows(x)
        found = self.calibration(rows, self.format)
        return Scaling(*(part.reshape(shape) for part in found))

    def _rows(self, x: Array) -> tuple[Array, tuple[int, ...]]:
        """Returns x as [groups, n], and the shape of its scales."""
        kept = self._kept(x.ndim)
        if not x.size:
            raise ShapeError(describe(f"shape {x.shape}", "at least one number"))
        shape = [size if axis in kept else 1 for axis, size in enumerate(x.shape)]
        split = list(x.shape)
        if self.per.group is not None:
            axis = self._axis(self.per.group_axis, x.ndim)
            count, left = divmod(x.shape[axis], self.per.group)
            if left or axis in kept:
                raise ShapeError(
                    describe(
                        f"groups of {self.per.group} along axis {axis} of {x.shape}",
                        "groups that fill an axis without scales of its own",
                    )
                )
            shape[axis] = count
            split[axis : axis + 1] = [count, self.per.group]
            kept = {k + int(k > axis) for k in kept} | {axis}
        order = sorted(kept) + [a for a in range(len(split)) if a not in kept]
        rows = x.reshape(split).transpose(order)
        groups = 1
        for a in sorted(kept):
            groups *= split[a]
        return rows.reshape(groups, -1), tuple(shape)

    def _kept(self, rank: int) -> set[int]:
        return {self._axis(axis, rank) for axis in self.per.axes}

    @staticmethod
    def _axis(axis: int, rank: int) -> int:
        if not -rank <= axis < rank:
            raise ShapeError(describe(f"axis {axis}", f"an axis of {rank}"))
        return axis % rank

    def _spread(self, scaling: Scaling, x: Array) -> Scaling:
        """Scales that broadcast against x: those of groups are repeated.

        One that learning brought to 0 or below is the least float, and learns on.
        """
        scale = scaling.scale
        least = jnp.maximum(scale, jnp.finfo(scale.dtype).tiny)
        scale = jax.lax.stop_gradient(least) + (scale - jax.lax.stop_gradient(scale))
        scaling = scaling._replace(scale=scale)
        if self.per.group is None:
            return scaling
        axis = self._axis(self.per.group_axis, x.ndim)
        return Scaling(*(jnp.repeat(part, self.per.group, axis) for part in scaling))


def _within(fmt: Format, x: Array) -> Array:
    """Whether numbers are in a format's range, or rounded out of it: x / scale is."""
    give = 4 * float(jnp.finfo(x.dtype).eps)
    low, high = fmt.min - give * abs(fmt.min), fmt.max + give * abs(fmt.max)
    return (x >= low) & (x <= high)


def _slope(x: Array, where: Array) -> Array:
    """Zeros whose derivative in x is 1 in some places and 0 in others."""
    return jnp.where(where, x - jax.lax.stop_gradient(x), 0)


def straight_through(fmt: Format, x: Array) -> Array:
    """Returns the nearest levels; the derivative is 1 within their range, 0 beyond."""
    # Not jnp.clip, whose derivative at the ends is 1/2: the largest number lies there.
    return jax.lax.stop_gradient(fmt.round(x)) + _slope(x, _within(fmt, x))


def numbers(x: ArrayLike, what: str = "numbers to quantize") -> Array:
    """Returns an array as float32 or wider, checked for NaN if it is not traced.

    Raises:
      InputError: an array of integers.
      NonFiniteError: NaN or infinity; the message names `what`.
    """
    x = jnp.asarray(x)
    dtype = base.floating(x)
    check_finite(x, what)
    return x.astype(dtype)


def along_last(array: Array, rank: int) -> Array:
    """Returns an array with axes of size 1 before its own, `rank` in all."""
    return jax.lax.expand_dims(array, tuple(range(rank - array.ndim)))


def kernel(w: ArrayLike) -> Array:
    """Returns a kernel in flax layout, checked as `numbers` does, and for its shape.

    Raises:
      ShapeError: fewer than two axes, or no weights.
    """
    w = numbers(w, "the kernel")
    if w.ndim < 2 or not w.size:
        raise ShapeError(
            describe(
                f"a kernel of shape {w.shape}",
                "at least one weight, and axes of inputs and outputs",
                "Biases are not quantized.",
            )
        )
    return w
