"""One row for each relaxation: what it bounds, where, and what is special to it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy import special

Far = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Case:
    """A relaxation and the operator it belongs to.

    Attributes:
      op: its name in `RULES`.
      exact: the operator on float64.
      params: of the operator.
      operands: how many.
      domain: the interval that bounds are drawn from.
      rounds: whether the lines hold only up to their own rounding.
      monotone: whether the operator never falls, or never rises.
    """

    op: str
    exact: Callable[..., np.ndarray]
    params: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    operands: int = 1
    domain: Far = (-1e6, 1e6)
    rounds: bool = False
    monotone: bool = True


def _softplus(z):
    return np.maximum(z, 0.0) + np.log1p(np.exp(-np.abs(z)))


def _power(y: int, domain: Far) -> Case:
    return Case(
        "integer_pow",
        lambda z: z ** float(y),
        {"y": y},
        domain=domain,
        monotone=y % 2 == 1,
    )


CASES = [
    Case("relu", lambda z: np.maximum(z, 0.0), rounds=True),
    Case("abs", np.abs, rounds=True, monotone=False),
    Case("mul", np.multiply, operands=2, monotone=False),
    _power(0, (-1e6, 1e6)),
    _power(1, (-1e6, 1e6)),
    _power(2, (-1e6, 1e6)),
    _power(3, (-1e6, 1e6)),
    _power(4, (-1e4, 1e4)),
    _power(5, (-1e4, 1e4)),
    _power(-1, (1e-4, 1e6)),
    _power(-1, (-1e6, -1e-4)),
    _power(-2, (-1e4, -1e-4)),
    _power(-3, (-1e2, -1e-3)),
    Case("reciprocal", lambda z: 1.0 / z, domain=(1e-4, 1e6)),
    Case("pow", lambda z: z**0.5, {"exponent": 0.5}, domain=(1e-4, 1e6)),
    Case("pow", lambda z: z**2.5, {"exponent": 2.5}, domain=(1e-4, 1e4)),
    Case("pow", lambda z: z**-1.5, {"exponent": -1.5}, domain=(1e-3, 1e4)),
    Case("floor", np.floor),
    Case("ceil", np.ceil),
    Case("round", np.round, {"rounding_method": 1}),
    Case("sign", np.sign),
    Case("sin", np.sin, domain=(-1e4, 1e4), monotone=False),
    Case("cos", np.cos, domain=(-1e4, 1e4), monotone=False),
    Case("logistic", special.expit, {"accuracy": None}),
    Case("tanh", np.tanh),
    Case("erf", special.erf),
    Case("atan", np.arctan),
    Case("exp", np.exp, domain=(-1e6, 70.0)),
    Case("expm1", np.expm1, domain=(-1e6, 70.0)),
    Case("softplus", _softplus),
    Case("square", np.square, monotone=False),
    Case("log", np.log, domain=(1e-6, 1e6)),
    Case("log1p", np.log1p, domain=(-0.999, 1e6)),
    Case("sqrt", np.sqrt, domain=(0.0, 1e6)),
    Case("rsqrt", lambda z: z**-0.5, domain=(1e-4, 1e6)),
]
