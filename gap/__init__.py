"""Sparsity: patterns, masks, schedules and sparse training as optax transforms.

| name | what |
|------|------|
| `Target(density= or count=, pattern=)` | how much of a leaf is kept, and how |
| `Unstructured`, `NM`, `DBB`, `BankBalanced` | patterns of single weights |
| `Block`, `BCR`, `Filter`, `Channel`, `Shape` | patterns of the GEMM view |
| `KernelPattern`, `learn_library` | kernels by a few patterns, learnt from weights |
| `scores`, `SCORES`, `score_masks` | scores of weights (a module), masks by them |
| `uniform`, `erdos_renyi`, `global_density` | rules that share out a density |
| `sensitivity`, `allocate`, `Curves` | loss against density by layer, and its use |
| `magnitude_masks`, `global_magnitude_masks` | masks by score, per leaf or over all |
| `apply_masks` | parameters with pruned entries exactly 0.0 |
| `summary` | what is left of each leaf, counted from the weights |
| `masked(inner, masks)` | optax transform: train with fixed masks |
| `prune(inner, rules, schedule)` | optax transform: prune while training |
| `static_random`, `random_masks` | transform: random masks that stay; such masks |
| `at_init`, `snip`, `connection_sensitivity` | transforms: masks by first gradients |
| `rewire`, `rigl`, `set_`, `cosine_fraction` | transforms: drop and grow weights |
| `cyclic(inner, rules, key, partition)` | optax transform: cyclic grow-and-prune |
| `Partition`, `partition` | groups of leaves that grow together |
| `grow_copies`, `combine_copies`, `prune_back`, `parallel_round` | parallel GaP |
| `soft_threshold`, `thresholded`, `init_thresholds`, `threshold_masks` | STR |
| `track_explored`, `explored`, `mean_densities` | weights ever active, and how long |
| `training_cost` | a sparse step beside the dense one |
| `packed`, `bcr` | layers that run from packed weights (modules) |
| `lottery` | tickets, their controls, the strict definition (a module) |
| `OneShot`, `Staged`, `Cubic` | density schedules |
| `Cosine`, `Piecewise`, `Constant` | more of them |
| `compact(fn, params, masks, x)`, `Compact` | the network without pruned channels |
| `profile`, `measure`, `compare`, `Profile` | parameters, MACs, bytes, milliseconds |
| `add_l1(strength, rules)` | optax transform: L1 sub-gradient |
| `targets`, `as_target` | what rules say of each leaf, as `Target`s |
| `zero_moments` | an optimizer state with the moments of pruned weights at 0 |
| `Pattern`, `Storage`, `DensitySchedule`, `LeafSummary` | types |
| `MaskedState`, `DynamicState`, `TrackedState` | states of transforms |
| `PATTERNS`, `SCHEDULES`, `TRANSFORMS` | registries |

Example, gradual magnitude pruning of every kernel to 10 %:

    tx = gap.prune(optax.adam(1e-3), [(".*/kernel", 0.1)], gap.Cubic(0, 5000, 100))
    state = tx.init(params)
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    gap.summary(params, [(".*/kernel", True)])

References: Han et al., arXiv 1506.02626; Zhu and Gupta, arXiv 1710.01878; GaP, arXiv
2106.09857; RigL, arXiv 1911.11134; SET, arXiv 1707.04780; SNIP, arXiv 1810.02340; STR,
arXiv 2002.03231.
"""

from gap import bcr, lottery, packed, scores
from gap.allocation import erdos_renyi, global_density, uniform
from gap.compaction import Compact, compact
from gap.curves import Curves, allocate, sensitivity
from gap.grow_and_prune import cyclic
from gap.initial import (
    at_init,
    connection_sensitivity,
    random_masks,
    snip,
    static_random,
)
from gap.masks import (
    LeafSummary,
    apply_masks,
    global_magnitude_masks,
    magnitude_masks,
    summary,
    targets,
)
from gap.parallel import combine_copies, grow_copies, parallel_round, prune_back
from gap.partitions import Partition, partition
from gap.patterns import (
    BCR,
    DBB,
    NM,
    PATTERNS,
    BankBalanced,
    Block,
    Channel,
    Filter,
    KernelPattern,
    Pattern,
    Shape,
    Storage,
    Target,
    Unstructured,
    as_target,
    learn_library,
)
from gap.profiles import Profile, compare, measure, profile
from gap.registry import TRANSFORMS
from gap.rewiring import cosine_fraction, rewire, rigl, set_
from gap.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    Cubic,
    DensitySchedule,
    OneShot,
    Piecewise,
    Staged,
)
from gap.scores import SCORES, score_masks
from gap.thresholds import (
    init_thresholds,
    soft_threshold,
    threshold_masks,
    thresholded,
)
from gap.tracking import (
    TrackedState,
    explored,
    mean_densities,
    track_explored,
    training_cost,
)
from gap.transforms import (
    DynamicState,
    MaskedState,
    add_l1,
    masked,
    prune,
    zero_moments,
)

__all__ = [
    "BCR",
    "DBB",
    "NM",
    "PATTERNS",
    "SCHEDULES",
    "SCORES",
    "TRANSFORMS",
    "BankBalanced",
    "Block",
    "Channel",
    "Compact",
    "Constant",
    "Cosine",
    "Cubic",
    "Curves",
    "DensitySchedule",
    "DynamicState",
    "Filter",
    "KernelPattern",
    "LeafSummary",
    "MaskedState",
    "OneShot",
    "Partition",
    "Pattern",
    "Piecewise",
    "Profile",
    "Shape",
    "Staged",
    "Storage",
    "Target",
    "TrackedState",
    "Unstructured",
    "add_l1",
    "allocate",
    "apply_masks",
    "as_target",
    "at_init",
    "bcr",
    "combine_copies",
    "compact",
    "compare",
    "connection_sensitivity",
    "cosine_fraction",
    "cyclic",
    "erdos_renyi",
    "explored",
    "global_density",
    "global_magnitude_masks",
    "grow_copies",
    "init_thresholds",
    "learn_library",
    "lottery",
    "magnitude_masks",
    "masked",
    "mean_densities",
    "measure",
    "packed",
    "parallel_round",
    "partition",
    "profile",
    "prune",
    "prune_back",
    "random_masks",
    "rewire",
    "rigl",
    "score_masks",
    "scores",
    "sensitivity",
    "set_",
    "snip",
    "soft_threshold",
    "static_random",
    "summary",
    "targets",
    "threshold_masks",
    "thresholded",
    "track_explored",
    "training_cost",
    "uniform",
    "zero_moments",
]
