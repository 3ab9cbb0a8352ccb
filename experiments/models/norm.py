"""Batch norm with flax's interface and values, for strict types and half precision."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from core.types import Array


class BatchNorm(nn.Module):
    """Normalises each channel over the batch and the positions: arXiv 1502.03167.

    y = (x - mean) / sqrt(var + epsilon) * scale + bias. While training, mean and
    (biased) variance are the batch's, and the running ones move towards them by
    1 - momentum; in evaluation they are the running ones. Everything is computed in
    float32 (or float64) and only y is rounded to `dtype`, where flax's own module
    mixes the types, which strict promotion forbids. Names are flax's: params `scale`,
    `bias`; batch_stats `mean`, `var`. Under a sharded `jit` the batch is the global
    one. (Running variances in torch carry a factor n / (n - 1).)

    Attributes:
      momentum: what is kept of the running statistics at each step.
      epsilon: added to the variance.
      dtype: type of the result.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Returns y, of the shape of x: [..., channels]."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones_init(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), shape, jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        wide = jnp.float64 if jnp.dtype(self.dtype) == jnp.float64 else jnp.float32
        x, scale, bias = x.astype(wide), scale.astype(wide), bias.astype(wide)
        now_mean, now_var = mean.value.astype(wide), var.value.astype(wide)
        if train:
            now_mean, now_var = _moments(x, now_mean)
            if not self.is_initializing():
                mean.value = _blend(mean.value, now_mean, self.momentum)
                var.value = _blend(var.value, now_var, self.momentum)
        factor = scale * lax.rsqrt(now_var + self.epsilon)
        # Not x * factor + offset: that loses digits in channels far from zero.
        y = (x - _per_channel(now_mean, x.ndim)) * _per_channel(factor, x.ndim)
        y = y + _per_channel(bias, x.ndim)
        return y.astype(self.dtype)


def _moments(x: Array, shift: Array) -> tuple[Array, Array]:
    """Returns mean and biased variance of each channel, from one pass over x.

    E[(x - s)^2] - (E[x] - s)^2 loses no digits when s, here the running mean, is near
    the mean; with s = 0 it would for channels far from zero.
    """
    axes = tuple(range(x.ndim - 1))
    centred = x - _per_channel(lax.stop_gradient(shift), x.ndim)
    delta = centred.mean(axes)
    var = jnp.maximum(lax.square(centred).mean(axes) - lax.square(delta), 0)
    return shift + delta, var


def _blend(old: Array, new: Array, momentum: float) -> Array:
    return momentum * old + (1 - momentum) * new.astype(old.dtype)


def _per_channel(vector: Array, ndim: int) -> Array:
    return vector.reshape((1,) * (ndim - 1) + vector.shape)
