"""The networks of the hardware papers as functions of plain parameters.

Cost models need shapes and no weights: `shapes(name)` costs milliseconds and no memory,
at the sizes that the papers have. Norms are scales and shifts, as inference has them.
Counts of parameters and multiply-accumulates are those that torchvision publishes.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from core.errors import unknown_name
from core.types import Array

Apply = Callable[[dict[str, Any], Array], Array]


class _Scope:
    """Parameters by name: made as they are asked for, or looked up."""

    def __init__(self, params: Mapping[str, Any] | None = None, like: Any = None):
        self.params, self.made, self.like = params, {}, like

    def __call__(self, name: str, *shape: int) -> Array:
        if self.params is not None:
            return self.params[name]
        self.made[name] = jax.ShapeDtypeStruct(shape, jnp.float32)
        # Of the data, so that it is traced and nothing is allocated.
        return jnp.broadcast_to(self.like.ravel()[0], shape)


def _conv(p, name, x, n, window=3, stride=1, groups=1, bias=False, norm=True, pad=None):
    """A convolution, as torch pads it, and its norm or bias."""
    edge = window // 2 if pad is None else pad
    kernel = p(f"{name}/kernel", window, window, x.shape[-1] // groups, n)
    y = lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(edge, edge)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    if bias:
        return y + p(f"{name}/bias", n)[None, None, None]
    if norm:
        scale, shift = p(f"{name}/norm/scale", n), p(f"{name}/norm/bias", n)
        return y * scale[None, None, None] + shift[None, None, None]
    return y


def _dense(p, name, x, n):
    y = x @ p(f"{name}/kernel", x.shape[-1], n)
    return y + p(f"{name}/bias", n).reshape((1,) * (y.ndim - 1) + (n,))


def _pool(x, window, stride, pad=0):
    padding = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    shape, strides = (1, window, window, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, -jnp.inf, lax.max, shape, strides, padding)


def _relu6(x):
    return jnp.clip(x, 0.0, 6.0)


def _resnet(p, x, depths, bottleneck):
    x = jax.nn.relu(_conv(p, "conv1", x, 64, 7, 2))
    x = _pool(x, 3, 2, 1)
    for stage, depth in enumerate(depths):
        width = 64 * 2**stage
        for block in range(depth):
            stride = 2 if stage and not block else 1
            at = f"layer{stage + 1}_{block}"
            if bottleneck:
                y = jax.nn.relu(_conv(p, f"{at}/conv1", x, width, 1))
                y = jax.nn.relu(_conv(p, f"{at}/conv2", y, width, 3, stride))
                y = _conv(p, f"{at}/conv3", y, 4 * width, 1)
            else:
                y = jax.nn.relu(_conv(p, f"{at}/conv1", x, width, 3, stride))
                y = _conv(p, f"{at}/conv2", y, width, 3)
            if x.shape != y.shape:
                x = _conv(p, f"{at}/downsample", x, y.shape[-1], 1, stride)
            x = jax.nn.relu(x + y)
    return _dense(p, "fc", x.mean(axis=(1, 2)), 1000)


def _vgg16(p, x):
    for stage, (width, depth) in enumerate(
        ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)), 1
    ):
        for i in range(1, depth + 1):
            x = jax.nn.relu(_conv(p, f"conv{stage}_{i}", x, width, bias=True))
        x = _pool(x, 2, 2)
    x = x.reshape(x.shape[0], -1)
    for i, width in enumerate((4096, 4096), 6):
        x = jax.nn.relu(_dense(p, f"fc{i}", x, width))
    return _dense(p, "fc8", x, 1000)


def _alexnet(p, x):
    """AlexNet of 2012 with its groups, on 227 x 227, as accelerators measure it."""
    x = jax.nn.relu(_conv(p, "conv1", x, 96, 11, 4, bias=True, pad=0))
    x = _pool(x, 3, 2)
    x = jax.nn.relu(_conv(p, "conv2", x, 256, 5, groups=2, bias=True))
    x = _pool(x, 3, 2)
    x = jax.nn.relu(_conv(p, "conv3", x, 384, 3, bias=True))
    x = jax.nn.relu(_conv(p, "conv4", x, 384, 3, groups=2, bias=True))
    x = jax.nn.relu(_conv(p, "conv5", x, 256, 3, groups=2, bias=True))
    x = _pool(x, 3, 2).reshape(x.shape[0], -1)
    for i in (6, 7):
        x = jax.nn.relu(_dense(p, f"fc{i}", x, 4096))
    return _dense(p, "fc8", x, 1000)


def _mobilenet_v1(p, x):
    x = jax.nn.relu(_conv(p, "conv1", x, 32, 3, 2))
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)]
    plan += [(512, 1)] * 5 + [(1024, 2), (1024, 1)]
    for i, (n, stride) in enumerate(plan, 2):
        c = x.shape[-1]
        x = jax.nn.relu(_conv(p, f"conv{i}/depthwise", x, c, 3, stride, groups=c))
        x = jax.nn.relu(_conv(p, f"conv{i}/pointwise", x, n, 1))
    return _dense(p, "fc", x.mean(axis=(1, 2)), 1000)


def _mobilenet_v2(p, x, width=1.0):
    def channels(n):
        made = max(8, int(n * width + 4) // 8 * 8)
        return made + 8 if made < 0.9 * n * width else made

    x = _relu6(_conv(p, "conv1", x, channels(32), 3, 2))
    plan = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2))
    plan += ((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    block = 0
    for expand, n, repeats, first in plan:
        for i in range(repeats):
            at, c, stride = f"block{block}", x.shape[-1], first if i == 0 else 1
            y = x
            if expand > 1:
                y = _relu6(_conv(p, f"{at}/expand", y, c * expand, 1))
            wide = c * expand
            y = _relu6(_conv(p, f"{at}/depthwise", y, wide, 3, stride, groups=wide))
            y = _conv(p, f"{at}/project", y, channels(n), 1)
            x = x + y if x.shape == y.shape else y
            block += 1
    x = _relu6(_conv(p, "head", x, max(1280, channels(1280)), 1))
    return _dense(p, "fc", x.mean(axis=(1, 2)), 1000)


def _transformer(p, x, heads=12, feed=3072):
    """An encoder block as BERT-base has it: x is [examples, tokens, features]."""
    b, t, d = x.shape

    def norm(name, x):
        mean = x.mean(axis=-1, keepdims=True)
        var = jnp.square(x - mean).mean(axis=-1, keepdims=True)
        scale, shift = p(f"{name}/scale", d), p(f"{name}/bias", d)
        return (x - mean) * lax.rsqrt(var + 1e-6) * scale[None, None] + shift[
            None, None
        ]

    q, k, v = (
        _dense(p, name, x, d).reshape(b, t, heads, d // heads)
        for name in ("query", "key", "value")
    )
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(d // heads)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), v)
    x = norm("norm1", x + _dense(p, "out", mixed.reshape(b, t, d), d))
    y = _dense(p, "feed2", jax.nn.gelu(_dense(p, "feed1", x, feed)), d)
    return norm("norm2", x + y)


def _gru(p, x, hidden=1024):
    """Two GRU layers of RTMobile's size: x is [steps, examples, features]."""
    for layer in range(2):
        size, batch = x.shape[-1], x.shape[1]
        inner = p(f"gru{layer}/input", size, 3 * hidden)
        outer = p(f"gru{layer}/hidden", hidden, 3 * hidden)
        bias = p(f"gru{layer}/bias", 3 * hidden)

        def step(h, row, inner=inner, outer=outer, bias=bias):
            a = row @ inner + bias[None]
            b = h @ outer
            (ra, za, na), (rb, zb, nb) = jnp.split(a, 3, 1), jnp.split(b, 3, 1)
            r, z = jax.nn.sigmoid(ra + rb), jax.nn.sigmoid(za + zb)
            h = (1 - z) * jnp.tanh(na + r * nb) + z * h
            return h, h

        # A first state that depends on data: no step is left out as a constant.
        start = jnp.zeros((batch, hidden)) + 0 * x[0, :, :1]
        _, x = lax.scan(step, start, x)
    return x


@dataclasses.dataclass(frozen=True)
class Network:
    """A network and what is published of it.

    Attributes:
      apply: of parameters by name and of a batch.
      input_shape: of one example.
      macs: published multiply-accumulates of one example, None if none are.
      parameters: published count, None if none is.
      axis: of the batch.
    """

    apply: Callable[[Any, Array], Array]
    input_shape: tuple[int, ...]
    macs: int | None = None
    parameters: int | None = None
    axis: int = 0

    def batch(self, size: int) -> tuple[int, ...]:
        """Returns the shape of a batch."""
        shape = list(self.input_shape)
        shape.insert(self.axis, size)
        return tuple(shape)


_IMAGE = (224, 224, 3)
NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        "alexnet": Network(_alexnet, (227, 227, 3), 724_406_816, 60_965_224),
        "vgg16": Network(_vgg16, _IMAGE, 15_470_264_320, 138_357_544),
        "resnet18": Network(
            functools.partial(_resnet, depths=(2, 2, 2, 2), bottleneck=False),
            _IMAGE,
            1_814_073_344,
            11_689_512,
        ),
        "resnet50": Network(
            functools.partial(_resnet, depths=(3, 4, 6, 3), bottleneck=True),
            _IMAGE,
            4_089_184_256,
            25_557_032,
        ),
        "mobilenet_v1": Network(_mobilenet_v1, _IMAGE, 568_740_352, 4_231_976),
        "mobilenet_v2": Network(_mobilenet_v2, _IMAGE, 300_774_272, 3_504_872),
        "mobilenet_v2_14": Network(
            functools.partial(_mobilenet_v2, width=1.4), _IMAGE, None, 6_108_776
        ),
        "transformer": Network(
            _transformer, (128, 768), 128 * 7_077_888 + 2 * 128 * 128 * 768, 7_087_872
        ),
        "gru": Network(_gru, (30, 152), None, None, axis=1),
    }
)
"""Networks by name."""


def get(name: str) -> Network:
    """Returns a network.

    Raises:
      UnknownNameError: no such network.
    """
    if name not in NETWORKS:
        raise unknown_name("network", name, NETWORKS)
    return NETWORKS[name]


def apply_of(name: str) -> Apply:
    """Returns `fn(params, x)` of a network."""
    network = get(name)
    return lambda params, x: network.apply(_Scope(params), x)


@functools.cache
def shapes(name: str, batch: int = 1) -> tuple[dict[str, Any], jax.ShapeDtypeStruct]:
    """Returns the shapes of a network's parameters and of a batch; nothing is made."""
    network, made = get(name), {}
    x = jax.ShapeDtypeStruct(network.batch(batch), jnp.float32)

    def collect(x: Array) -> Array:
        scope = _Scope(like=x)
        found = network.apply(scope, x)
        made.update(scope.made)
        return found

    jax.eval_shape(collect, x)
    return made, x
