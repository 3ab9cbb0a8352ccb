"""ADMM: training towards constraint sets.

| sets | |
|------|------|
| `Sparse(density= or count=, pattern=)` | so many units of a `gap` pattern left |
| `Quantized(format, per=, pruned=)` | levels of a `quant` format, at the best scale |
| `BlockCirculant(block, gates=)` | kernels of circulant blocks |
| `LowRank(rank= or energy_loss=, scheme=)` | kernels of low rank |
| `Intersection(sets)`, `Union(sets)` | one after another; whichever is nearest |
| `ConstraintSet` | protocol: anything with `project(w)` is a set |
| `constraints`, `project(params, rules)` | what rules say; every leaf onto its set |
| `project_cardinality(w, count)` | the projection of one array |

| training | |
|------|------|
| `admm(inner, rules, interval=, rho=)` | the optax transform |
| `geometric_rho`, `rising_rho`, `stepped_rho` | penalties by iteration |
| `Balance` | penalties of single leaves, from their residuals |
| `finish(params, rules)` | hard pruning: weights and masks for retraining |
| `at_scales`, `settle`, `hold` | onto levels in stages, the nearest weights first |
| `trp(inner, rules, period=, nuclear=)` | trained rank pruning, an optax transform |
| `residuals`, `converged`, `augmented_lagrangian` | what to watch |
| `init_duals`, `penalty_gradient`, `iterate` | the parts, for loops of your own |

| kernels in another form | |
|------|------|
| `circulant`, `recurrent` (modules) | generators, products by FFT; LSTM and GRU |
| `low_rank`, `factors` (modules) | spectra, truncation; a kernel as two in turn |
| `activations`, `exploration` (modules) | tables in fixed point; E-RNN's two phases |
| `purify` (a module) | nearly empty groups and unused paths removed |
| `crossbar` (a module) | memristor arrays: conductances, counts, products |

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
from admm.levels import Quantized
from admm.low_rank import LowRank
from admm.mapping import HeldState, at_scales, hold, settle
from admm.penalties import Balance, Rho, geometric_rho, rising_rho, stepped_rho
from admm.projections import project_cardinality
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
    finish,
    init_duals,
    iterate,
    penalty_gradient,
    residuals,
)
from admm.trp import TRPState, trp

TRANSFORMS = {"admm": admm, "hold": hold, "trp": trp}
"""Every transform of this room by name; one contract test walks it."""

__all__ = [
    "SETS",
    "TRANSFORMS",
    "ADMMState",
    "Balance",
    "BlockCirculant",
    "ConstraintSet",
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
    "low_rank",
    "penalty_gradient",
    "project",
    "project_cardinality",
    "purify",
    "recurrent",
    "residuals",
    "rising_rho",
    "settle",
    "stepped_rho",
    "trp",
]
