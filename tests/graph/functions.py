"""Functions of one array of shape [2, 6, 6, 3], of every sort of operator."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name

SHAPE = (2, 6, 6, 3)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def conv(x, *shape, strides=(1, 1), padding="SAME", **options):
    kernel = jnp.asarray(normal(*shape), x.dtype)
    options.setdefault("dimension_numbers", ("NHWC", "HWIO", "NHWC"))
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


def conv_nchw(x):
    kernel = jnp.asarray(normal(4, 3, 2, 3), x.dtype)
    x = x.transpose(0, 3, 1, 2)
    return lax.conv_general_dilated(x, kernel, (2, 1), [(1, 0), (-1, 2)])


def conv_1d(x):
    kernel = jnp.asarray(normal(3, 3, 5), x.dtype)
    layout = ("NWC", "WIO", "NWC")
    return lax.conv_general_dilated(x[0], kernel, (2,), "VALID", None, (2,), layout)


def attention(x):
    x = x.reshape(2, 36, 3)
    w = jnp.asarray(normal(3, 4), x.dtype)
    scores = jnp.einsum("bqd,bkd->bqk", x @ w, x @ w)
    return jax.nn.softmax(scores) @ x


def scanned(x):
    rows = x.reshape(4, 18, 3)
    return lax.scan(lambda c, r: (jnp.tanh(c + r), c * r), rows[0], rows, reverse=True)


def pool(x, init, op, padding="VALID", dilation=None):
    sizes, strides = (1, 3, 2, 1), (1, 2, 1, 1)
    return lax.reduce_window(x, init, op, sizes, strides, padding, None, dilation)


def batch_norm(x):
    scale = jnp.asarray(normal(3), x.dtype)[None, None, None]
    mean = x.mean((0, 1, 2), keepdims=True)
    return (x - mean) * lax.rsqrt(x.var((0, 1, 2), keepdims=True) + 1e-3) * scale


def gather_2d(x):
    rows, columns = np.array([[0, 1], [5, 2]]), np.array([[3, 3], [0, 1]])
    return x[:, rows, columns]


def inverses(x):
    y = jnp.tanh(x) / 2
    whole = jnp.arcsin(y) + jnp.arccos(y) + jnp.arctan(x) + jnp.arctanh(y)
    return whole + jnp.arcsinh(x) + jnp.arccosh(1 + x * x) + jnp.cbrt(x)


def unchanged(x):
    x = lax.optimization_barrier(checkpoint_name(jnp.copy(x), "x"))
    return lax.reduce_precision(x, 11, 52) + lax.stop_gradient(x)


def quantized(x):
    return jnp.clip(jnp.round(x * 4), -8, 7).astype(jnp.int8).astype(x.dtype) / 4


FUNCTIONS = {
    "dense": lambda x: x.reshape(2, -1) @ jnp.asarray(normal(108, 5), x.dtype),
    "einsum": lambda x: jnp.einsum("bhwc,bkwd->bwhckd", x, x),
    "conv": lambda x: conv(x, 3, 3, 3, 4),
    "conv_strided": lambda x: conv(x, 3, 2, 3, 4, strides=(2, 3)),
    "conv_dilated": lambda x: conv(x, 2, 2, 3, 4, rhs_dilation=(2, 3)),
    "conv_grouped": lambda x: conv(x, 3, 3, 1, 6, feature_group_count=3),
    "conv_transposed": lambda x: conv(
        x, 3, 3, 3, 4, padding=[(2, 2), (1, 3)], lhs_dilation=(2, 3)
    ),
    "conv_nchw": conv_nchw,
    "conv_1d": conv_1d,
    "max_pool": lambda x: pool(x, -jnp.inf, lax.max, "SAME"),
    "min_pool": lambda x: pool(x, jnp.inf, lax.min),
    "sum_pool": lambda x: pool(x, 0.0, lax.add, "SAME", (1, 2, 1, 1)),
    "avg_pool": lambda x: nn.avg_pool(x, (2, 2), (2, 2)),
    "batch_norm": batch_norm,
    "relus": lambda x: jax.nn.relu(x) + jax.nn.leaky_relu(x) + jax.nn.relu6(x),
    "smooth": lambda x: jax.nn.gelu(x) + jax.nn.silu(x) + jax.nn.softplus(x),
    "exact_gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "elu": lambda x: jax.nn.elu(x) + jax.nn.selu(x) + jax.nn.celu(x, 2.0),
    "softmax": lambda x: jax.nn.softmax(x, 1),
    "log_softmax": jax.nn.log_softmax,
    "logsumexp": lambda x: jax.nn.logsumexp(x, 2),
    "attention": attention,
    "layer_norm": lambda x: jax.nn.standardize(x, -1, epsilon=1e-3),
    "powers": lambda x: x**3 + (x**2 + 1) ** -2 + jnp.abs(x) ** 1.5 + jnp.sqrt(x * x),
    "waves": lambda x: jnp.sin(x) * jnp.cos(x) + jnp.arctan2(x, x * x + 1),
    "hyperbolas": lambda x: jnp.tan(x / 9) + jnp.sinh(x) + jnp.cosh(x),
    "erf": lambda x: lax.erf(x) - lax.erfc(x),
    "inverses": inverses,
    "unchanged": unchanged,
    "logs": lambda x: jnp.log(jnp.abs(x) + 1) + jnp.log1p(x * x) + jnp.exp2(x),
    "rounding": lambda x: jnp.floor(x) + jnp.ceil(3 * x) + jnp.sign(x) + x % 2,
    "rounds": lambda x: jnp.round(x * 2) + lax.round(x * 4),
    "quantized": quantized,
    "reductions": lambda x: x.max(1) - x.min((1,)) + x.sum(1) / 7 + x.prod(1),
    "arguments": lambda x: jnp.argmax(x, 3) + jnp.argmin(x, 3),
    "logic": lambda x: (
        (x > 0).any(1) & ~(x <= 1).all(1) | (x[:, 0] == x[:, 1]) ^ (x[:, 2] != 0)
    ),
    "clamp": lambda x: lax.clamp(-0.5, x, 0.5),
    "choice": lambda x: lax.select_n(jnp.asarray(2, jnp.int32), x, 2 * x, 3 * x),
    "cumulative": lambda x: jnp.cumsum(x, 1) + lax.cumprod(x, 2, reverse=True),
    "running": lambda x: lax.cummax(x, 1) + lax.cummin(x, 0) + lax.cumlogsumexp(x, 2),
    "pad": lambda x: lax.pad(x, 2.0, [(0, 1, 0), (-2, 3, 1), (1, -4, 2), (0, 0, 0)]),
    "pad_edges": lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 0), (0, 0)), "reflect"),
    "slices": lambda x: x[:, 1:5:2, ::-1] + x[:, -2:, :],
    "dynamic": lambda x: lax.dynamic_slice(x, (1, 4, 0, 2), (1, 3, 2, 1)),
    "update": lambda x: lax.dynamic_update_slice(x, 2 * x[:1, :2], (0, 3, 0, 0)),
    "take": lambda x: jnp.take(x, np.array([2, 0, 7]), 1),
    "gather": lambda x: x[:, np.array([4, 0, 4])],
    "gather_2d": gather_2d,
    "gather_rows": lambda x: jnp.take_along_axis(x, np.full((2, 1, 6, 3), 2), 1),
    "shapes": lambda x: jnp.stack([jnp.squeeze(x[:1], 0), x[1]], 2).transpose(
        3, 0, 2, 1
    ),
    "joined": lambda x: jnp.concatenate([*jnp.split(x, [1, 4], 1)[::-1], x], 1),
    "repeated": lambda x: jnp.tile(jnp.repeat(x, 2, 2), (1, 2, 1, 1)),
    "resized": lambda x: jax.image.resize(x, (2, 12, 9, 3), "nearest"),
    "sorted": lambda x: jnp.sort(x, 1) + lax.top_k(x, 2)[0].sum(-1, keepdims=True),
    "scan": scanned,
    "tree": lambda x: {"a": x, "b": (x + 1, jnp.arange(3), None)},
}
