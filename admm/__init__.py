"""ADMM: training towards constraint sets.

| name | what |
|------|------|
| `Sparse(density= or count=, pattern=)` | set: so many units of a pattern left |
| `BlockCirculant(block, gates=)` | set: kernels of circulant blocks |
| `LowRank(rank= or energy_loss=, scheme=)` | set: kernels of low rank |
| `ConstraintSet` | protocol: anything with `project(w)` is a set |
| `project(params, rules)` | project every matched leaf onto its set |
| `project_cardinality(w, count)` | the projection of one array |
| `admm(inner, rules, interval=, rho=)` | the optax transform |
| `geometric_rho` | a penalty that grows per iteration |
| `trp(inner, rules, period=, nuclear=)` | trained rank pruning, an optax transform |
| `finish(params, rules)` | hard pruning: weights and masks for retraining |
| `residuals`, `augmented_lagrangian` | what to watch |
| `init_duals`, `penalty_gradient`, `iterate` | the parts, for loops of your own |
| `constraints` | what rules say of each leaf, as sets |
| `circulant` (a module) | generators, products by FFT, costs |
| `low_rank` (a module) | matrices of kernels, spectra, truncation |
| `factors` (a module) | a kernel of low rank as two kernels in turn |
| `SupportSet`, `ADMMState`, `Residuals`, `Rho`, `TRPState` | types |
| `SETS`, `TRANSFORMS` | registries |

Example, prune every kernel to 5 % and retrain what is left:

    rules = [(".*/kernel", 0.05)]
    tx = admm.admm(optax.adam(1e-3), rules, interval=1000, rho=1e-3)
    ...                                     # train params with tx as usual
    params, masks = admm.finish(params, rules)
    tx = gap.masked(optax.adam(1e-3), masks)
    ...                                     # and retrain with this one

References: Zhang et al., arXiv 1804.03294; circulant blocks, arXiv 1812.07106; trained
rank pruning, arXiv 1812.02402.
"""

from admm import circulant, factors, low_rank
from admm.circulant import BlockCirculant
from admm.low_rank import LowRank
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
    Rho,
    admm,
    augmented_lagrangian,
    finish,
    geometric_rho,
    init_duals,
    iterate,
    penalty_gradient,
    residuals,
)
from admm.trp import TRPState, trp

TRANSFORMS = {"admm": admm, "trp": trp}
"""Every transform of this room by name; one contract test walks it."""

__all__ = [
    "SETS",
    "TRANSFORMS",
    "ADMMState",
    "BlockCirculant",
    "ConstraintSet",
    "LowRank",
    "Residuals",
    "Rho",
    "Sparse",
    "SupportSet",
    "TRPState",
    "admm",
    "augmented_lagrangian",
    "circulant",
    "constraints",
    "factors",
    "finish",
    "geometric_rho",
    "init_duals",
    "iterate",
    "low_rank",
    "penalty_gradient",
    "project",
    "project_cardinality",
    "residuals",
    "trp",
]
