"""Small networks of fixed shapes and random weights, with all that the engine bounds.

Shapes are fixed so that each case compiles once, whatever the weights and regions.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

HIGHEST = lax.Precision.HIGHEST


class Case(NamedTuple):
    """A function, the shapes of its weights, and of its input."""

    fn: Callable[[Any, Any], Any]
    shapes: dict[str, tuple[int, ...]]
    input_shape: tuple[int, ...]

    def params(self, rng: np.random.Generator, dtype: Any = np.float32):
        """Random weights, of the variance that keeps sizes."""
        return {
            name: (
                rng.normal(size=shape) / max(np.prod(shape[:-1]), 1) ** 0.5
                if len(shape) > 1
                else 0.3 * rng.normal(size=shape)
            ).astype(dtype)
            for name, shape in self.shapes.items()
        }


def dense(p, name, x):
    """An affine layer of a vector."""
    return jnp.matmul(x, p[name], precision=HIGHEST) + p[f"{name}_bias"]


def layers(*sizes: int) -> dict[str, tuple[int, ...]]:
    """Shapes of dense layers fc0, fc1, .."""
    found = {}
    for k, (a, b) in enumerate(itertools.pairwise(sizes)):
        found |= {f"fc{k}": (a, b), f"fc{k}_bias": (b,)}
    return found


def mlp(p, x):
    """Dense layers with ReLUs between."""
    count = len(p) // 2
    for k in range(count - 1):
        x = jax.nn.relu(dense(p, f"fc{k}", x))
    return dense(p, f"fc{count - 1}", x)


def _conv(x, kernel, strides=(1, 1), padding: Any = "SAME", groups=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=HIGHEST,
    )


def _pool(x, reducer, start, window, strides, padding="VALID"):
    return lax.reduce_window(
        x, start, reducer, (1, *window, 1), (1, strides, strides, 1), padding
    )


def conv(p, x):
    """Convolutions, one with asymmetric pads, then dense."""
    x = _conv(x, p["conv0"], (2, 2), ((1, 2), (0, 1))) + p["bias0"].reshape(1, 1, 1, -1)
    x = jax.nn.relu(x)
    x = jax.nn.relu(_conv(x, p["conv1"], groups=2))
    return dense(p, "fc", x.reshape(-1))


def residual(p, x):
    """Two residual blocks that share values, and a normalisation."""
    h = jax.nn.relu(dense(p, "fc0", x))
    for k in (1, 2):
        scale = (1.0 + 0.1 * p["scale"]) / jnp.sqrt(1.0 + p["scale"] ** 2)
        h = jax.nn.relu(h * scale + dense(p, f"fc{k}", jax.nn.relu(h - 0.1)) + h)
    return dense(p, "fc3", h) - 0.5 * h[:3]


def pools(p, x):
    """Max pools of overlapping windows, and mean pools."""
    x = jax.nn.relu(_conv(x, p["conv0"]))
    x = _pool(x, lax.max, -jnp.inf, (3, 1), 2, "SAME")
    x = _conv(x, p["conv1"])
    x = _pool(x, lax.add, 0.0, (2, 2), 1) / 4.0
    x = jnp.max(x, axis=(0, 1, 2)) - jnp.mean(jnp.abs(x), axis=(0, 1, 2))
    return dense(p, "fc", x)


def attention(p, x):
    """Softmax attention over five tokens, with a residual."""
    q, k, v = (jnp.matmul(x, p[n], precision=HIGHEST) for n in "qkv")
    scores = jnp.matmul(q, k.T, precision=HIGHEST) / 2.0
    mixed = jnp.matmul(jax.nn.softmax(scores, axis=-1), v, precision=HIGHEST)
    return (x + mixed).sum(0)


def branches(p, x):
    """Everything that moves, cuts, joins and multiplies values."""
    a, b = jnp.split(dense(p, "fc0", x), 2)
    c = jnp.concatenate([jnp.maximum(a, b), jnp.pad(b[1:], (1, 0)), a[::-1]])
    d = c.reshape(3, 4).transpose(1, 0)[jnp.array([3, 0, 1])]
    e = jnp.cumsum(d, axis=0) * jnp.tanh(d)
    f = jnp.where(p["mask"].reshape(3, 3) > 0, e, jnp.clip(e, -1.5, 0.3))
    g = jnp.stack([f.sum(0), f[:, 1], jnp.repeat(a[:1], 3)])
    return g.reshape(-1) - x[:1]


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "prelu": lambda z: jnp.where(z > 0, z, 0.2 * z),
    "elu": jax.nn.elu,
    "abs": jnp.abs,
    "clip": lambda z: jnp.clip(z, -0.4, 0.5),
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "mish": jax.nn.mish,
    "erf": lax.erf,
    "atan": jnp.arctan,
    "exp": jnp.exp,
    "expm1": jnp.expm1,
    "square": jnp.square,
    "cube": lambda z: z**3,
    "log": lambda z: jnp.log(1.5 + jnp.tanh(z)),
    "log1p": lambda z: jnp.log1p(jnp.exp(z)),
    "sqrt": lambda z: jnp.sqrt(jax.nn.softplus(z)),
    "rsqrt": lambda z: lax.rsqrt(1.0 + jnp.square(z)),
    "reciprocal": lambda z: 1.0 / (1.2 + jnp.tanh(z)),
    "pow": lambda z: jax.nn.sigmoid(z) ** 1.7,
    "sin": jnp.sin,
    "cos": jnp.cos,
    "floor": jnp.floor,
    "ceil": jnp.ceil,
    "round": jnp.round,
    "sign": jnp.sign,
    "log_softmax": jax.nn.log_softmax,
    "logsumexp": lambda z: jax.nn.logsumexp(z)[None] * jnp.ones(2, z.dtype),
}


def activations(p, x):
    """Every activation, of two neurons each."""
    parts = dense(p, "fc0", x).reshape(len(ACTIVATIONS), 2)
    found = [fn(part) for fn, part in zip(ACTIVATIONS.values(), parts, strict=True)]
    return jnp.concatenate(found)


_CONV = {"conv0": (3, 3, 2, 4), "bias0": (4,), "conv1": (3, 3, 2, 4)}
CASES = {
    "dense": Case(mlp, layers(6, 8, 8, 3), (6,)),
    "conv": Case(conv, _CONV | {"fc": (36, 3), "fc_bias": (3,)}, (1, 5, 6, 2)),
    "residual": Case(residual, layers(5, 6, 6, 6, 3) | {"scale": (6,)}, (5,)),
    "pools": Case(
        pools,
        {"conv0": (3, 3, 1, 3), "conv1": (2, 2, 3, 3), "fc": (3, 2), "fc_bias": (2,)},
        (1, 7, 4, 1),
    ),
    "attention": Case(attention, dict.fromkeys("qkv", (4, 4)), (5, 4)),
    "branches": Case(branches, layers(5, 8) | {"mask": (9,)}, (5,)),
    "activations": Case(activations, layers(4, 2 * len(ACTIVATIONS)), (4,)),
}
PIECEWISE_LINEAR = ("dense", "conv", "residual", "pools")
