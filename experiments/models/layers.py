"""Convolution and pooling with flax's interface and values, fast on CPU.

Arrays are [n, height, width, channels]. See `convolution.py` for what makes the
difference in convolutions; in pooling it is that windows which do not overlap are
reshaped into axes, whose maximum has a cheap gradient.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jax import lax

from core.errors import InputError, ShapeError, describe
from core.types import Array
from experiments.models.convolution import Pair, conv2d

Padding = str | int | Sequence[int | tuple[int, int]]
"""'SAME', 'VALID', zeros on every side, or zeros (before, after) for each axis."""


class Conv(nn.Module):
    """A two-dimensional convolution: `flax.linen.Conv` for [n, h, w, c] images.

    Same arguments, parameters (`kernel` [kh, kw, c / groups, features], `bias`) and
    values. Gradients are fast on CPU for dense and depthwise convolutions; with other
    groups or dilation they are XLA's own (slow in a scan).

    Attributes:
      features: number of output channels.
      kernel_size: size of the window, rows and columns.
      strides: steps of the window.
      padding: see `Padding`.
      kernel_dilation: distance of the kernel's taps.
      feature_group_count: number of groups of channels; c means depthwise.
      use_bias: whether a bias is added.
      dtype: type of the computation; None promotes inputs and parameters.
      param_dtype: type of the parameters.
      kernel_init: initialiser of the kernel.
      bias_init: initialiser of the bias.
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] | None = 1
    padding: Padding = "SAME"
    kernel_dilation: int | Sequence[int] | None = 1
    feature_group_count: int = 1
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Callable[..., Array] = nn.initializers.lecun_normal()
    bias_init: Callable[..., Array] = nn.initializers.zeros_init()

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        """Returns the convolved images, [n, h', w', features].

        Raises:
          ShapeError: the inputs have no four axes, or groups do not divide channels.
        """
        _check_images("Conv", inputs)
        window, groups = (
            _pair("kernel_size", self.kernel_size),
            self.feature_group_count,
        )
        if inputs.shape[-1] % groups or self.features % groups:
            raise ShapeError(
                describe(
                    f"{inputs.shape[-1]} channels, {self.features} features",
                    f"multiples of feature_group_count={groups}",
                )
            )
        shape = (*window, inputs.shape[-1] // groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            shape = (self.features,)
            bias = self.param("bias", self.bias_init, shape, self.param_dtype)
        inputs, kernel, bias = promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        out = self._convolve(inputs, kernel)
        return out if bias is None else out + bias.reshape((1, 1, 1, -1))

    def _convolve(self, inputs: Array, kernel: Array) -> Array:
        strides = _pair("strides", self.strides)
        dilation = _pair("kernel_dilation", self.kernel_dilation)
        spans = [d * (k - 1) + 1 for k, d in zip(kernel.shape, dilation, strict=False)]
        pads = _pads(inputs.shape[1:3], spans, strides, self.padding)
        groups = self.feature_group_count
        depthwise = groups == inputs.shape[-1] == self.features
        if dilation == (1, 1) and (groups == 1 or depthwise):
            return conv2d(inputs, kernel, strides, pads)
        return lax.conv_general_dilated(
            inputs,
            kernel,
            strides,
            pads,
            rhs_dilation=dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )


def max_pool(
    inputs: Array,
    window_shape: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Array:
    """Returns the maximum over windows of images.

    Values are `flax.linen.max_pool`'s. So is the gradient where the maximum of a
    window is unique. Where it is not, windows that do not overlap share it equally
    among the maxima (the mean of the subgradients; they still sum to the incoming
    one), while flax gives it to the first.

    Args:
      inputs: float [n, h, w, c].
      window_shape: size of the window, rows and columns.
      strides: steps of the window; None means windows side by side. (flax's default
        is 1.)
      padding: see `Padding`; padding never wins.

    Returns:
      An array [n, h', w', c].
    """
    window, strides, pads = _window("max_pool", inputs, window_shape, strides, padding)
    if _tiles(window, strides, pads):
        return _tile(inputs, window).max(axis=(2, 4))
    return nn.max_pool(inputs, window, strides, pads)  # pyright: ignore[reportArgumentType]


def avg_pool(
    inputs: Array,
    window_shape: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Array:
    """Returns the mean over windows of images; padded zeros count, as in flax.

    Args:
      inputs: float [n, h, w, c].
      window_shape: size of the window, rows and columns.
      strides: steps of the window; None means windows side by side. (flax's default
        is 1.)
      padding: see `Padding`.

    Returns:
      An array [n, h', w', c].
    """
    window, strides, pads = _window("avg_pool", inputs, window_shape, strides, padding)
    if _tiles(window, strides, pads):
        return _tile(inputs, window).mean(axis=(2, 4))
    # Not flax's own avg_pool, which divides by an integer: an error in strict types.
    total = nn.pool(inputs, 0.0, lax.add, window, strides, pads)
    return total / float(window[0] * window[1])


def global_avg_pool(inputs: Array) -> Array:
    """Returns the mean over the positions of [n, h, w, c] images: [n, c]."""
    _check_images("global_avg_pool", inputs)
    return inputs.mean(axis=(1, 2))


def _tiles(window: Pair, strides: Pair, pads: tuple[Pair, Pair]) -> bool:
    return window == strides and not any(map(any, pads))


def _tile(inputs: Array, window: Pair) -> Array:
    """Returns windows as axes: [n, h', window[0], w', window[1], c]."""
    n, h, w, c = inputs.shape
    rows, columns = h // window[0], w // window[1]
    inputs = inputs[:, : rows * window[0], : columns * window[1]]
    return inputs.reshape(n, rows, window[0], columns, window[1], c)


def _window(
    name: str,
    inputs: Array,
    window_shape: int | Sequence[int],
    strides: int | Sequence[int] | None,
    padding: Padding,
) -> tuple[Pair, Pair, tuple[Pair, Pair]]:
    _check_images(name, inputs)
    window = _pair("window_shape", window_shape)
    steps = window if strides is None else _pair("strides", strides)
    return window, steps, _pads(inputs.shape[1:3], window, steps, padding)


def _check_images(name: str, inputs: Array) -> None:
    if inputs.ndim != 4:
        raise ShapeError(
            f"{name}: {describe(f'shape {inputs.shape}', '[n, height, width, c]')}"
        )


def _pair(name: str, value: int | Sequence[int] | None) -> Pair:
    if value is None:
        return 1, 1
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or min(pair) < 1:
        expected = "a positive integer, or one for rows and one for columns"
        raise InputError(f"{name}: {describe(value, expected)}")
    return pair[0], pair[1]


def _pads(
    size: Sequence[int], window: Sequence[int], strides: Pair, padding: Padding
) -> tuple[Pair, Pair]:
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            raise InputError(f"padding: {describe(repr(padding), 'SAME or VALID')}")
        pads = lax.padtype_to_pads(size, window, strides, padding)
        (a, b), (c, d) = pads
        return (int(a), int(b)), (int(c), int(d))
    each = (padding, padding) if isinstance(padding, int) else tuple(padding)
    rows, columns = ((v, v) if isinstance(v, int) else (v[0], v[1]) for v in each)
    return rows, columns
