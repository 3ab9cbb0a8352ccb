"""The curves behind the smooth rules: a value, a slope, where it bends."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from core.types import Array
from verify.relaxations.curves import Curve
from verify.types import Bounds

_INF = float("inf")
_POSITIVE = (0.0, _INF)


def _decay(z: Array) -> Array:
    return jnp.exp(-jnp.abs(z))


def _logistic_slope(z: Array) -> Array:
    return _decay(z) / jnp.square(1.0 + _decay(z))


def _tanh_slope(z: Array) -> Array:
    return 4.0 * _logistic_slope(2.0 * z)


def _erf_slope(z: Array) -> Array:
    near = jnp.clip(z, -9.0, 9.0)  # beyond, it is 0.0 in float32 and tiny in float64
    return 1.1283791670955126 * jnp.exp(-jnp.square(near))


def _sqrt(z: Array) -> Array:
    """The root, with the derivative 0.0 at 0.0; NaN below."""
    positive = z > 0.0
    return jnp.where(
        positive, jnp.sqrt(jnp.where(positive, z, 1.0)), jnp.where(z < 0, jnp.nan, 0.0)
    )


def _sqrt_slope(z: Array) -> Array:
    return 0.5 * lax.rsqrt(jnp.maximum(z, float(jnp.finfo(z.dtype).tiny)))


def _beyond_zero(z: Bounds) -> Bounds:
    """The root's slope is infinite at 0.0: keep a millionth of the interval away."""
    return Bounds(jnp.maximum(z.lower, 1e-6 * z.upper), z.upper)


def _constant(value: float) -> Any:
    return lambda distance: jnp.full_like(distance, value)


LOGISTIC = Curve(
    jax.nn.sigmoid, _logistic_slope, 0.0, range=(0.0, 1.0), reach=_constant(20.0)
)
TANH = Curve(jnp.tanh, _tanh_slope, 0.0, range=(-1.0, 1.0), reach=_constant(10.0))
ERF = Curve(lax.erf, _erf_slope, 0.0, range=(-1.0, 1.0), reach=_constant(4.5))
ATAN = Curve(
    jnp.arctan,
    lambda z: 1.0 / (1.0 + jnp.square(z)),
    0.0,
    reach=lambda distance: 2.0 + jnp.sqrt(jnp.maximum(distance, 1.0)),
)
EXP = Curve(jnp.exp, jnp.exp, _INF, range=_POSITIVE)
EXPM1 = Curve(jnp.expm1, jnp.exp, _INF, range=(-1.0, _INF))
SOFTPLUS = Curve(jax.nn.softplus, jax.nn.sigmoid, _INF, range=_POSITIVE)
SQUARE = Curve(jnp.square, lambda z: 2.0 * z, _INF, range=_POSITIVE, turn=0.0)
LOG = Curve(jnp.log, lambda z: 1.0 / z, -_INF, anchor=1.0, above=0.0)
# XLA's float64 log1p is off by 121 ulps near -0.41.
LOG1P = Curve(jnp.log1p, lambda z: 1.0 / (1.0 + z), -_INF, above=-1.0, ulps=256.0)
SQRT = Curve(_sqrt, _sqrt_slope, -_INF, anchor=1.0, range=_POSITIVE, inner=_beyond_zero)
RSQRT = Curve(
    lax.rsqrt,
    lambda z: -0.5 * lax.rsqrt(z) / z,
    _INF,
    anchor=1.0,
    above=0.0,
    range=_POSITIVE,
)
