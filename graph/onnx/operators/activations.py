"""Activations: one operand, elementwise or along an axis."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from graph.onnx.registry import Apply, Call, Site, is_static, operator


def _plain(fn: Callable[[Any], Any]) -> Callable[[Site], Apply]:
    """An operator without attributes that is `fn` of its operand."""

    def build(_: Site) -> Apply:
        return lambda call, x: fn(_traced(call, x))

    build.__doc__ = f"Elementwise; `{getattr(fn, '__name__', 'a function')}`."
    return build


def _traced(call: Call, x: Any) -> Any:
    return jnp.asarray(x, call.dtype) if is_static(x) else x


_PLAIN: dict[str, Callable[[Any], Any]] = {
    "Relu": jax.nn.relu,
    "Sigmoid": jax.nn.sigmoid,
    "Tanh": jnp.tanh,
    "Softplus": jax.nn.softplus,
    "Softsign": jax.nn.soft_sign,
    "Erf": jax.lax.erf,
    "HardSwish": lambda x: x * _hard_sigmoid(x, 1 / 6, 0.5),
    "Mish": lambda x: x * jnp.tanh(jax.nn.softplus(x)),
}
for _name, _fn in _PLAIN.items():
    operator(_name)(_plain(_fn))


def _hard_sigmoid(x: Any, alpha: float, beta: float) -> Any:
    return jnp.minimum(jnp.maximum(alpha * x + beta, 0.0), 1.0)


@operator("LeakyRelu")
def leaky_relu(site: Site) -> Apply:
    """`x` where it is at least 0, else `alpha x`."""
    alpha = site.real("alpha", 0.01)
    return lambda call, x: jax.nn.leaky_relu(_traced(call, x), alpha)


@operator("PRelu", inputs=(2, 2))
def prelu(site: Site) -> Apply:
    """`x` where it is at least 0, else `slope x`; the slope is broadcast."""
    site.param(1, "slope")

    def apply(call: Call, x: Any, slope: Any) -> Any:
        x, slope = call.align(_traced(call, x), slope)
        return jax.nn.leaky_relu(x, slope)

    return apply


@operator("Elu")
def elu(site: Site) -> Apply:
    """`x` above 0, else `alpha (exp(x) - 1)`."""
    alpha = site.real("alpha", 1.0)
    return lambda call, x: jax.nn.elu(_traced(call, x), alpha)


@operator("Celu")
def celu(site: Site) -> Apply:
    """`max(0, x) + min(0, alpha (exp(x / alpha) - 1))`."""
    alpha = site.real("alpha", 1.0)
    if alpha == 0.0:
        raise site.bad("alpha = 0", "an alpha other than 0")
    return lambda call, x: jax.nn.celu(_traced(call, x), alpha)


@operator("Selu")
def selu(site: Site) -> Apply:
    """`gamma x` above 0, else `gamma alpha (exp(x) - 1)`."""
    alpha = site.real("alpha", 1.67326319217681884765625)
    gamma = site.real("gamma", 1.05070102214813232421875)
    return lambda call, x: gamma * jax.nn.elu(_traced(call, x), alpha)


@operator("HardSigmoid")
def hard_sigmoid(site: Site) -> Apply:
    """`max(0, min(1, alpha x + beta))`."""
    alpha, beta = site.real("alpha", 0.2), site.real("beta", 0.5)
    return lambda call, x: _hard_sigmoid(_traced(call, x), alpha, beta)


@operator("ThresholdedRelu")
def thresholded_relu(site: Site) -> Apply:
    """`x` above alpha, else 0."""
    alpha = site.real("alpha", 1.0)

    def apply(call: Call, x: Any) -> Any:
        x = _traced(call, x)
        return jnp.where(x > alpha, x, 0.0)

    return apply


@operator("Gelu")
def gelu(site: Site) -> Apply:
    """`x Phi(x)`, with the normal distribution's function or its tanh form."""
    tanh = site.text("approximate", "none", ("none", "tanh")) == "tanh"
    return lambda call, x: jax.nn.gelu(_traced(call, x), approximate=tanh)


@operator("Clip", inputs=(1, 3))
def clip(site: Site) -> Apply:
    """`min(max(x, low), high)`; limits are attributes before version 11."""
    low = high = None
    if site.opset < 11:
        low, high = site.real("min", -math.inf), site.real("max", math.inf)

    def apply(call: Call, x: Any, least: Any, most: Any) -> Any:
        x = _traced(call, x)
        bottom = _limit(call, least, low, -math.inf)
        top = _limit(call, most, high, math.inf)
        if bottom == 0.0 and top == math.inf:
            return jax.nn.relu(x)
        x = x if bottom == -math.inf else jnp.maximum(x, bottom)
        return x if top == math.inf else jnp.minimum(x, top)

    return apply


def _limit(call: Call, given: Any, stated: float | None, default: float) -> float:
    if given is None:
        return default if stated is None else stated
    value = call.static(given, "limits")
    if value.size != 1 or value.dtype.kind not in "fiu" or np.isnan(value).any():
        raise call.bad(f"a limit of shape {list(value.shape)}", "one number")
    return float(value.reshape(()))


def _soft(fn: Callable[..., Any]) -> Callable[[Site], Apply]:
    """Softmax or its logarithm, by the rules of the model's version."""

    def build(site: Site) -> Apply:
        axis = site.integer("axis", -1 if site.opset >= 13 else 1)

        def apply(call: Call, x: Any) -> Any:
            x = _traced(call, x)
            if site.opset >= 13:
                axes = (call.axis(axis, x.ndim),)
            else:  # over all axes from this one on, as if they were one
                first = axis + x.ndim if axis < 0 else axis
                if not 0 <= first <= x.ndim:
                    raise call.bad(f"axis {axis} of {x.ndim}", "an axis")
                axes = tuple(range(first, x.ndim))
            call.mix(0 in axes)
            return fn(x, axis=axes)

        return apply

    build.__doc__ = f"`{fn.__name__}` along an axis."
    return build


operator("Softmax")(_soft(jax.nn.softmax))
operator("LogSoftmax")(_soft(jax.nn.log_softmax))
