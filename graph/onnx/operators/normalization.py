"""Normalisation at inference."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from graph.onnx.registry import Apply, Call, Site, operator


def _channels(p: Any, rank: int) -> Any:
    """A vector over channels as an array that fits [N, C, ...]."""
    return jnp.reshape(jnp.asarray(p), (1, -1) + (1,) * (rank - 2))


@operator("BatchNormalization", inputs=(5, 5), rows="first")
def batch_normalization(site: Site) -> Apply:
    """`scale (x - mean) / sqrt(var + eps) + bias`, as one factor and one shift."""
    epsilon = site.real("epsilon", 1e-5)
    site.ignore("momentum")
    training = site.flag("training_mode")
    if site.opset < 7:
        training = training or not site.flag("is_test")
    if training or not site.flag("spatial", True):
        raise site.bad("training mode, or spatial = 0", "statistics per channel")
    for index, leaf in enumerate(("scale", "bias", "mean", "var"), 1):
        site.param(index, leaf)

    def apply(call: Call, x: Any, *stats: Any) -> Any:
        if x.ndim < 2 or any(s.shape != (x.shape[1],) for s in stats):
            raise call.bad("statistics of another shape", "one for each channel")
        x = jnp.asarray(x)
        scale, bias, mean, var = (call.like(s, x) for s in stats)
        factor = scale * jax.lax.rsqrt(var + epsilon)
        shift = bias - mean * factor
        return x * _channels(factor, x.ndim) + _channels(shift, x.ndim)

    return apply


def _standard(x: Any, axes: tuple[int, ...], epsilon: float) -> Any:
    """`(x - mean) / sqrt(var + eps)` over some axes."""
    count = np.prod([x.shape[a] for a in axes])
    share = 1.0 / max(float(count), 1.0)
    centred = x - jnp.sum(x, axis=axes, keepdims=True) * share
    var = jnp.sum(centred * centred, axis=axes, keepdims=True) * share
    return centred * jax.lax.rsqrt(var + epsilon)


@operator("InstanceNormalization", inputs=(3, 3), rows="first")
def instance_normalization(site: Site) -> Apply:
    """Each channel of each example by its own mean and variance."""
    epsilon = site.real("epsilon", 1e-5)
    site.param(1, "scale")
    site.param(2, "bias")

    def apply(call: Call, x: Any, scale: Any, bias: Any) -> Any:
        if x.ndim < 3:
            raise call.bad(f"data of rank {x.ndim}", "[N, C, ...]")
        y = _standard(x, tuple(range(2, x.ndim)), epsilon)
        scale, bias = (_channels(call.like(p, x), x.ndim) for p in (scale, bias))
        return y * scale + bias

    return apply


@operator("LayerNormalization", inputs=(2, 3), rows="first")
def layer_normalization(site: Site) -> Apply:
    """The axes from `axis` on by their own mean and variance."""
    epsilon = site.real("epsilon", 1e-5)
    axis = site.integer("axis", -1)
    if site.integer("stash_type", 1) != 1:
        raise site.bad("another stash_type", "1")
    site.param(1, "scale")
    site.param(2, "bias")

    def apply(call: Call, x: Any, scale: Any, bias: Any) -> Any:
        first = call.axis(axis, x.ndim)
        call.mix(first == 0)
        y = _standard(x, tuple(range(first, x.ndim)), epsilon)
        for p in (scale, bias):
            # Parameters with rows of their own would fit one batch only.
            call.mix(p is not None and p.ndim == x.ndim and p.shape[0] != 1)
        y, scale = call.align(y, scale)
        if bias is None:
            return y * scale
        y, bias = call.align(y * scale, bias)
        return y + bias

    return apply
