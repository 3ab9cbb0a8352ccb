"""Small MobileNets whose depthwise layers may go without norm and activation.

MobileNet-V1 (arXiv 1704.04861) and its V2 twin (1801.04381) for small images, as they
are and friendly to few bits (1803.08607, section 4): depthwise convolutions without
norm and activation, ReLU in place of ReLU6. A norm has its layer's name and `_bn`:
`block1/depthwise`, `block1/depthwise_bn`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from core.errors import InputError, describe
from core.types import Array
from experiments.models.common import as_images, as_logits, he_normal
from experiments.models.convolution import Pair, alone
from experiments.models.layers import Conv, global_avg_pool
from experiments.models.norm import BatchNorm

ACTIVATIONS = {"relu6": nn.relu6, "relu": nn.relu}
WIDTHS = (16, 32, 64, 64, 128, 128)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise_conv(images: Array, kernel: Array, strides: Pair) -> Array:
    """A 3x3 depthwise convolution with padding 1: `conv2d`, faster on CPU.

    XLA's CPU backend runs grouped convolutions as naive loops, 20 to 100 times slower
    than nine shifted products; those of a channel with its weight are written as dot
    products over no axis, which are multiplications once compiled: `graph.intercept`
    finds the call by them.

    Args:
      images: float [n, h, w, c].
      kernel: float [3, 3, 1, c], of the type of `images`.
      strides: steps of the window, rows and columns.

    Returns:
      Float [n, ceil(h / strides[0]), ceil(w / strides[1]), c].
    """
    return _products(strides, images, kernel)


def _products(strides: Pair, images: Array, kernel: Array) -> Array:
    taps = zip(_taps(images, strides), kernel.reshape(9, -1), strict=True)
    return functools.reduce(jnp.add, [_scaled(x, w) for x, w in taps])


def _scaled(x: Array, w: Array) -> Array:
    """Returns x * w along the last axis, as a dot product over no axis."""
    return jnp.moveaxis(lax.dot_general(x, w, (((), ()), ((3,), (0,)))), 0, -1)


def _taps(images: Array, strides: Pair) -> list[Array]:
    """What each of nine weights sees, [n, h', w', c]."""
    n, h, w, c = images.shape
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [
        lax.slice(padded, (0, i, j, 0), (n, i + h, j + w, c), (1, *strides, 1))
        for i in range(3)
        for j in range(3)
    ]


def _forward(images: Array, kernel: Array, strides: Pair):
    return depthwise_conv(images, kernel, strides), (images, kernel)


def _backward(strides: Pair, saved: tuple[Array, Array], out: Array):
    images, kernel = saved

    def along(images: Array, kernel: Array, out: Array) -> Array:
        products = functools.partial(_products, strides, kernel=kernel)
        return jax.vjp(products, images)[1](out)[0]

    # Fused, it would compute its argument for each tap.
    by_images = alone(along, images, kernel, out)

    # Image by image: XLA's sums over all of them at once are several times slower.
    def one(sums: Array, pair: tuple[Array, Array]):
        image, grad = pair
        rows = [(x[0] * grad).sum(0) for x in _taps(image[None], strides)]
        return sums + jnp.stack(rows), None

    start = jnp.zeros((9, *out.shape[2:]), out.dtype)
    sums, _ = lax.scan(one, start, (images, out))
    return by_images, sums.sum(1).reshape(kernel.shape)


depthwise_conv.defvjp(_forward, _backward)


class Depthwise(nn.Module):
    """A 3x3 depthwise convolution with padding 1, without bias.

    Attributes:
      stride: of the window.
      kernel_init: initialiser of the kernel [3, 3, 1, c], nine inputs each.
      dtype: type of the computation; parameters are float32.
    """

    stride: int = 1
    kernel_init: Callable[..., Array] = he_normal
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [n, ceil(h / stride), ceil(w / stride), c] of [n, h, w, c]."""
        shape = (3, 3, 1, x.shape[-1])
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        strides = (self.stride, self.stride)
        return depthwise_conv(x.astype(self.dtype), kernel.astype(self.dtype), strides)


class _Layers(nn.Module):
    """What the blocks share.

    Attributes:
      features: channels of the block's result.
      stride: of the depthwise convolution.
      depthwise_norm: whether that has a norm and an activation behind it.
      activation: key of `ACTIVATIONS`.
      inner: channels of the depthwise convolution; V1 takes those it is given.
      epsilon: of the norms.
      dtype: type of the computation.
    """

    features: int
    stride: int
    depthwise_norm: bool
    activation: str
    inner: int
    epsilon: float
    dtype: Any

    def depthwise(self, x: Array, train: bool) -> Array:
        """The depthwise layer."""
        x = Depthwise(self.stride, dtype=self.dtype, name="depthwise")(x)
        if not self.depthwise_norm:
            return x
        return _activation(self)(_norm(self, x, train, "depthwise_bn"))

    def dense(self, x: Array, features: int, train: bool, name: str) -> Array:
        """A 1x1 convolution and its norm."""
        return _norm(self, _conv(self, x, features, 1, name), train, f"{name}_bn")


class _Separable(_Layers):
    """Depthwise 3x3, pointwise 1x1."""

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = self.depthwise(x, train)
        x = self.dense(x, self.features, train, "pointwise")
        return _activation(self)(x)


class _Inverted(_Layers):
    """Expand 1x1, depthwise 3x3, project 1x1; added to what has its shape."""

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        y = _activation(self)(self.dense(x, self.inner, train, "expand"))
        y = self.depthwise(y, train)
        y = self.dense(y, self.features, train, "project")
        return x + y if y.shape == x.shape else y


class SmallMobileNetV1(nn.Module):
    """A 3x3 convolution, separable blocks, mean, linear: 37,162 parameters.

    Every other block, from the second, has stride 2.

    Attributes:
      num_classes: number of classes.
      widths: channels of the first convolution and of each block's result.
      depthwise_norm: whether a norm and an activation are behind depthwise layers.
      activation: "relu6" or "relu".
      extra: more channels in all depthwise layers, and in what is before them.
      epsilon: added to variances; 1e-3 as the authors' networks have it.
      dtype: type of the computation; parameters are float32.
    """

    num_classes: int = 10
    widths: tuple[int, ...] = WIDTHS
    depthwise_norm: bool = True
    activation: str = "relu6"
    extra: int = 0
    epsilon: float = 1e-3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Returns logits, float32 [n, num_classes], of images [n, h, w, c]."""
        first, *rest = self.widths
        x = _stem(self, x, first + self.extra, train)
        for i, width in enumerate(rest, start=1):
            extra = self.extra if i < len(rest) else 0
            x = _block(self, _Separable, width + extra, x.shape[-1], i)(x, train)
        return _logits(self, x)


class SmallMobileNetV2(nn.Module):
    """The twin of `SmallMobileNetV1` with inverted residual blocks: 124,666 parameters.

    Attributes:
      num_classes: number of classes.
      widths: channels of the first convolution and of each block's result.
      depthwise_norm: whether a norm and an activation are behind depthwise layers.
      activation: "relu6" or "relu".
      extra: more channels in all depthwise layers, and in what is before them.
      expansion: channels of a depthwise layer for each input of its block.
      epsilon: added to variances.
      dtype: type of the computation; parameters are float32.
    """

    num_classes: int = 10
    widths: tuple[int, ...] = WIDTHS
    depthwise_norm: bool = True
    activation: str = "relu6"
    extra: int = 0
    expansion: int = 2
    epsilon: float = 1e-3
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Returns logits, float32 [n, num_classes], of images [n, h, w, c]."""
        first, *rest = self.widths
        x = _stem(self, x, first, train)
        for i, width in enumerate(rest, start=1):
            inner = self.expansion * x.shape[-1] + self.extra
            x = _block(self, _Inverted, width, inner, i)(x, train)
        return _logits(self, x)


_Small = SmallMobileNetV1 | SmallMobileNetV2


def _block(net: _Small, kind: type[_Layers], features: int, inner: int, i: int) -> Any:
    return kind(
        features,
        stride=2 - i % 2,
        depthwise_norm=net.depthwise_norm,
        activation=net.activation,
        inner=inner,
        epsilon=net.epsilon,
        dtype=net.dtype,
        name=f"block{i}",
    )


def _stem(net: _Small, x: Array, features: int, train: bool) -> Array:
    x = _conv(net, as_images(x, net.dtype), features, 3, "conv1")
    return _activation(net)(_norm(net, x, train, "conv1_bn"))


def _logits(net: _Small, x: Array) -> Array:
    x = global_avg_pool(x)
    return as_logits(nn.Dense(net.num_classes, dtype=net.dtype, name="linear")(x))


def _conv(part: _Small | _Layers, x: Array, features: int, side: int, name: str):
    return Conv(
        features,
        (side, side),
        padding=side // 2,
        use_bias=False,
        kernel_init=he_normal,
        dtype=part.dtype,
        name=name,
    )(x)


def _norm(part: _Small | _Layers, x: Array, train: bool, name: str) -> Array:
    return BatchNorm(epsilon=part.epsilon, dtype=part.dtype, name=name)(x, train)


def _activation(part: _Small | _Layers) -> Callable[[Array], Array]:
    if part.activation not in ACTIVATIONS:
        given = f"activation={part.activation!r}"
        raise InputError(describe(given, " or ".join(ACTIVATIONS)))
    return ACTIVATIONS[part.activation]
