"""Sparsity: patterns, masks, schedules and pruning as optax transforms.

| name | what |
|------|------|
| `Target(density= or count=, pattern=)` | how much of a leaf is kept, and how |
| `Unstructured` | pattern: any set of weights |
| `magnitude_masks`, `global_magnitude_masks` | masks by score, per leaf or over all |
| `apply_masks` | parameters with pruned entries exactly 0.0 |
| `summary` | what is left of each leaf, counted from the weights |
| `masked(inner, masks)` | optax transform: train with fixed masks |
| `prune(inner, rules, schedule)` | optax transform: prune while training |
| `OneShot`, `Staged`, `Cubic` | density schedules |
| `add_l1(strength, rules)` | optax transform: L1 sub-gradient |
| `targets`, `as_target` | what rules say of each leaf, as `Target`s |
| `zero_moments` | an optimizer state with the moments of pruned weights at 0 |
| `Pattern`, `DensitySchedule`, `MaskedState`, `LeafSummary` | types |
| `PATTERNS`, `SCHEDULES`, `TRANSFORMS` | registries |

Example, gradual magnitude pruning of every kernel to 10 %:

    tx = gap.prune(optax.adam(1e-3), [(".*/kernel", 0.1)], gap.Cubic(0, 5000, 100))
    state = tx.init(params)
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    gap.summary(params, [(".*/kernel", True)])

References: Han et al., arXiv 1506.02626; Zhu and Gupta, arXiv 1710.01878.
"""

from gap.masks import (
    LeafSummary,
    apply_masks,
    global_magnitude_masks,
    magnitude_masks,
    summary,
    targets,
)
from gap.patterns import PATTERNS, Pattern, Target, Unstructured, as_target
from gap.schedules import SCHEDULES, Cubic, DensitySchedule, OneShot, Staged
from gap.transforms import (
    TRANSFORMS,
    MaskedState,
    add_l1,
    masked,
    prune,
    zero_moments,
)

__all__ = [
    "PATTERNS",
    "SCHEDULES",
    "TRANSFORMS",
    "Cubic",
    "DensitySchedule",
    "LeafSummary",
    "MaskedState",
    "OneShot",
    "Pattern",
    "Staged",
    "Target",
    "Unstructured",
    "add_l1",
    "apply_masks",
    "as_target",
    "global_magnitude_masks",
    "magnitude_masks",
    "masked",
    "prune",
    "summary",
    "targets",
    "zero_moments",
]
