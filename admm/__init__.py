"""ADMM: training towards constraint sets.

| name | what |
|------|------|
| `Sparse(density= or count=, pattern=)` | set: so many units of a pattern left |
| `ConstraintSet` | protocol: anything with `project(w)` is a set |
| `project(params, rules)` | project every matched leaf onto its set |
| `project_cardinality(w, count)` | the projection of one array |
| `admm(inner, rules, interval=, rho=)` | the optax transform |
| `geometric_rho` | a penalty that grows per iteration |
| `finish(params, rules)` | hard pruning: weights and masks for retraining |
| `residuals`, `augmented_lagrangian` | what to watch |
| `init_duals`, `penalty_gradient`, `iterate` | the parts, for loops of your own |
| `constraints` | what rules say of each leaf, as sets |
| `SupportSet`, `ADMMState`, `Residuals`, `Rho` | types |
| `SETS`, `TRANSFORMS` | registries |

Example, prune every kernel to 5 % and retrain what is left:

    rules = [(".*/kernel", 0.05)]
    tx = admm.admm(optax.adam(1e-3), rules, interval=1000, rho=1e-3)
    ...                                     # train params with tx as usual
    params, masks = admm.finish(params, rules)
    tx = gap.masked(optax.adam(1e-3), masks)
    ...                                     # and retrain with this one

Reference: Zhang et al., arXiv 1804.03294.
"""

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
    TRANSFORMS,
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

__all__ = [
    "SETS",
    "TRANSFORMS",
    "ADMMState",
    "ConstraintSet",
    "Residuals",
    "Rho",
    "Sparse",
    "SupportSet",
    "admm",
    "augmented_lagrangian",
    "constraints",
    "finish",
    "geometric_rho",
    "init_duals",
    "iterate",
    "penalty_gradient",
    "project",
    "project_cardinality",
    "residuals",
]
