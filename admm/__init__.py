"""ADMM: training towards constraint sets.

| sets | |
|------|------|
| `Sparse(density= or count=, pattern=)` | so many units of a `gap` pattern left |
| `Quantized(format, per=, pruned=)` | levels of a `quant` format, at the best scale |
| `BlockCirculant(block, gates=)` | kernels of circulant blocks |
| `LowRank(rank, scheme=)` | kernels of low rank |
| `Intersection(sets)`, `Union(sets)` | one after another; whichever is nearest |
| `ConstraintSet` | protocol: anything with `project(w)` is a set |
| `constraints`, `project(params, rules)` | what rules say; every leaf onto its set |

| training | |
|------|------|
| `admm(inner, rules, interval=, rho=)` | the optax transform |
| `geometric_rho`, `rising_rho`, `stepped_rho` | penalties by iteration |
| `Balance` | penalties of single leaves, from their residuals |
| `finish(params, rules)` | hard pruning: weights and masks for retraining |
| `violation(params, rules)` | the largest distance from the sets, 0 in them |
| `at_scales`, `settle`, `hold`, `SHARES` | onto levels in stages, the nearest first |
| `keep_means(apply, before, after, x)` | biases that keep layers' mean outputs |
| `trp(inner, rules, period=, nuclear=)` | trained rank pruning, an optax transform |
| `EnergyLoss(loss, scheme=)`, `truncate` | its operator: a rank by energy |
| `residuals`, `converged`, `augmented_lagrangian` | what to watch |
| `init_duals`, `penalty_gradient`, `iterate` | the parts, for loops of your own |

| kernels in another form | |
|------|------|
| `circulant`, `recurrent` (modules) | generators, products by FFT; LSTM and GRU |
| `low_rank`, `factors` (modules) | spectra, truncation; a kernel as two in turn |
| `activations`, `exploration` (modules) | tables in fixed point; E-RNN's two phases |
| `purify` (a module) | nearly empty groups and unused paths removed |
| `crossbar` (a module) | memristor arrays: how many, and counts that fill them |

`SETS` and `TRANSFORMS` are registries; states are `ADMMState`, `HeldState`, `TRPState`.

Example, prune every kernel to 5 % and retrain what is left:

    rules = [(".*/kernel", 0.05)]
    tx = admm.admm(optax.adam(1e-3), rules, interval=1000, rho=1e-3)
    ...                                     # train params with tx as usual
    params, masks = admm.finish(params, rules)
    tx = gap.masked(optax.adam(1e-3), masks)
    ...                                     # and retrain with this one

A rule may have several sets, such as `(".*", (admm.Sparse(0.1), quant.Uniform(4)))`.

References: Zhang et al., arXiv 1804.03294; structured, 1807.11091; progressive and
levels, 1903.09769; memristors, 1908.10017; circulant blocks, 1812.07106; trained rank
pruning, 1812.02402.
"""

from admm import (
    activations,
    circulant,
    crossbar,
    exploration,
    factors,
    low_rank,
    purify,
    recurrent,
)
from admm.circulant import BlockCirculant
from admm.combined import Intersection, Union
from admm.feasible import finish, violation
from admm.levels import Quantized
from admm.low_rank import EnergyLoss, LowRank
from admm.mapping import SHARES, HeldState, at_scales, hold, keep_means, settle
from admm.penalties import Balance, Rho, geometric_rho, rising_rho, stepped_rho
from admm.sets import (
    SETS,
    ConstraintSet,
    Sparse,
    SupportSet,
    constraints,
    project,
)
from admm.transform import (
    ADMMState,
    Residuals,
    admm,
    augmented_lagrangian,
    converged,
    init_duals,
    iterate,
    penalty_gradient,
    residuals,
)
from admm.trp import TRPState, trp, truncate

TRANSFORMS = {"admm": admm, "hold": hold, "trp": trp}
"""Every transform of this room by name; one contract test walks it."""

__all__ = [
    "SETS",
    "SHARES",
    "TRANSFORMS",
    "ADMMState",
    "Balance",
    "BlockCirculant",
    "ConstraintSet",
    "EnergyLoss",
    "HeldState",
    "Intersection",
    "LowRank",
    "Quantized",
    "Residuals",
    "Rho",
    "Sparse",
    "SupportSet",
    "TRPState",
    "Union",
    "activations",
    "admm",
    "at_scales",
    "augmented_lagrangian",
    "circulant",
    "constraints",
    "converged",
    "crossbar",
    "exploration",
    "factors",
    "finish",
    "geometric_rho",
    "hold",
    "init_duals",
    "iterate",
    "keep_means",
    "low_rank",
    "penalty_gradient",
    "project",
    "purify",
    "recurrent",
    "residuals",
    "rising_rho",
    "settle",
    "stepped_rho",
    "trp",
    "truncate",
    "violation",
]
