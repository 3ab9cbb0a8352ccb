"""Zeroth-order optimisation: learning from function values alone.

| estimators | of a gradient, from values |
|------|------|
| `Random(samples, law)` | gaussian, sphere, Rademacher directions |
| `Coordinate(count, choice)` | all coordinates, a block, a uniform sample |
| `Hybrid(samples, count, source)` | HGE: both, coordinates by importance |
| `Guided(samples, rank)` | directions from the span of recent estimates |
| `ControlVariate(estimator)` | SVRG's form, around a snapshot |
| `Sign(estimator)` | signs of another estimate |
| `Estimator`, `Differences`, `State`, `Info` | what all of them are |
| `importance_probs`, `systematic_sample` | probabilities of least variance, a sample |

| optimizers | |
|------|------|
| `Optimizer(estimator, transform)` | init, ask, tell, step |
| `zo_sgd`, `zo_scd`, `zo_sign_sgd`, `zo_svrg`, `zo_adamm` | the field's |
| `hge_sgd`, `hge_adam` | the hybrid estimator's |
| `minimize` | as many steps as a budget of queries holds |
| `SeedReplay` | whole networks, directions drawn again from keys (MeZO) |
| `adamm`, `projected`, `proximal` | optax transforms |
| `box`, `l2_ball`, `l1` | projections and proximal operators |
| `inverse_sqrt`, `inverse`, `horizon_mu` | schedules of steps; mu for a horizon |

| functions and attacks | |
|------|------|
| `external(fn)` | programs and simulators as functions that JAX can call |
| `attack` (a module) | black-box attacks from logits or decisions |

Example, a function of 100 numbers within 2,000 queries:

    x, state, trace = zo.minimize(key, zo.hge_adam(0.02), f, x, budget=2_000)
    state.estimate.queries, state.estimate.failures

References: Sharma et al., arXiv 2012.11518 (HGE); every other method names its own.
"""

from zo import attack
from zo.base import Estimator, Info, State
from zo.control import ControlVariate, Sign
from zo.coordinates import Coordinate, importance_probs, systematic_sample
from zo.differences import Differences
from zo.directions import LAWS, Guided, Random
from zo.external import external
from zo.hybrid import Hybrid
from zo.loop import Trace, minimize
from zo.named import (
    OPTIMIZERS,
    hge_adam,
    hge_sgd,
    zo_adamm,
    zo_scd,
    zo_sgd,
    zo_sign_sgd,
    zo_svrg,
)
from zo.optimizers import SVRG, Optimizer, OptimizerState
from zo.replay import Record, ReplayState, SeedReplay
from zo.sets import Projection, Proximal, box, l1, l2_ball
from zo.transforms import (
    TRANSFORMS,
    AdaMMState,
    adamm,
    horizon_mu,
    inverse,
    inverse_sqrt,
    projected,
    proximal,
)

ESTIMATORS = {
    "random": Random,
    "coordinate": Coordinate,
    "hybrid": Hybrid,
    "guided": Guided,
    "control_variate": ControlVariate,
    "sign": Sign,
}
"""Every estimator by name; one contract test walks it."""

__all__ = [
    "ESTIMATORS",
    "LAWS",
    "OPTIMIZERS",
    "SVRG",
    "TRANSFORMS",
    "AdaMMState",
    "ControlVariate",
    "Coordinate",
    "Differences",
    "Estimator",
    "Guided",
    "Hybrid",
    "Info",
    "Optimizer",
    "OptimizerState",
    "Projection",
    "Proximal",
    "Random",
    "Record",
    "ReplayState",
    "SeedReplay",
    "Sign",
    "State",
    "Trace",
    "adamm",
    "attack",
    "box",
    "external",
    "hge_adam",
    "hge_sgd",
    "horizon_mu",
    "importance_probs",
    "inverse",
    "inverse_sqrt",
    "l1",
    "l2_ball",
    "minimize",
    "projected",
    "proximal",
    "systematic_sample",
    "zo_adamm",
    "zo_scd",
    "zo_sgd",
    "zo_sign_sgd",
    "zo_svrg",
]
