"""The methods that are compared, each made from a rate."""

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

import zo

HGE, SGD, SCD = "HGE (seen)", "ZO-SGD", "ZO-SCD"
HGE_EMA, IMPORTANCE = "HGE (ema)", "importance alone"
ORACLE = "HGE (oracle)"
Unit = Literal["gradient", "sign"]
MU = 1e-3
"""Smoothing where nobody gives another."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """A method.

    Attributes:
      title: in reports.
      make: from the rate, which may be traced, the directions or coordinates of an
        estimate, even, and mu.
      unit: whether a step is as long as an estimate, or has entries near 1.
      knows: whether its hybrid estimator is given |g_i| of the mini-batch before every
        step, which nobody has.
    """

    title: str
    make: Callable[[Any, int, float], zo.Optimizer]
    unit: Unit = "gradient"
    knows: bool = False


def _hybrid(source: str, alpha: float | None = None) -> Callable[..., zo.Optimizer]:
    def make(rate: Any, probes: int, mu: float = MU) -> zo.Optimizer:
        half = probes // 2
        estimator = zo.Hybrid(half, half, alpha, source, mu=mu)  # type: ignore[arg-type]
        return zo.hge_sgd(rate, estimator=estimator)

    return make


def _importance(rate: Any, probes: int, mu: float = MU) -> zo.Optimizer:
    """Coordinates alone, drawn by importance."""
    estimator = zo.Hybrid(0, probes, source="seen", mu=mu)
    return zo.hge_sgd(rate, estimator=estimator)


def _svrg(rate: Any, probes: int, mu: float = MU) -> zo.Optimizer:
    return zo.zo_svrg(rate, samples=probes, period=PERIOD, mu=mu)


def _random(method: Callable[..., zo.Optimizer]) -> Callable[..., zo.Optimizer]:
    def make(rate: Any, probes: int, mu: float = MU) -> zo.Optimizer:
        return method(rate, samples=probes, mu=mu)

    return make


def _coordinates(rate: Any, probes: int, mu: float = MU) -> zo.Optimizer:
    return zo.zo_scd(rate, count=probes, mu=mu)


def _hge_adam(rate: Any, probes: int, mu: float = MU) -> zo.Optimizer:
    half = probes // 2
    return zo.hge_adam(rate, estimator=zo.Hybrid(half, half, mu=mu))


PERIOD = 100
"""Steps of ZO-SVRG between snapshots."""
ARMS: Mapping[str, Arm] = MappingProxyType(
    {
        "sgd": Arm(SGD, _random(zo.zo_sgd)),
        "scd": Arm(SCD, _coordinates),
        "sign": Arm("ZO-signSGD", _random(zo.zo_sign_sgd), "sign"),
        "svrg": Arm("ZO-SVRG", _svrg),
        "adamm": Arm("ZO-AdaMM", _random(zo.zo_adamm), "sign"),
        "hge": Arm(HGE, _hybrid("seen")),
        "hge_adam": Arm("HGE-Adam", _hge_adam, "sign"),
        "hge_ema": Arm(HGE_EMA, _hybrid("ema")),
        "hge_random": Arm("HGE (random)", _hybrid("random")),
        "hge_uniform": Arm("HGE (uniform)", _hybrid("uniform")),
        "hge_oracle": Arm(ORACLE, _hybrid("uniform"), knows=True),
        "importance": Arm(IMPORTANCE, _importance),
        "alpha_25": Arm("HGE (seen), alpha 0.25", _hybrid("seen", 0.25)),
        "alpha_50": Arm("HGE (seen), alpha 0.5", _hybrid("seen", 0.5)),
        "alpha_75": Arm("HGE (seen), alpha 0.75", _hybrid("seen", 0.75)),
    }
)
"""By name. A step takes two queries for each probe; of ZO-SVRG, which asks at its
snapshot too, four, and snapshots besides."""
