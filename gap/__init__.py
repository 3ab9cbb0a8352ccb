"""Sparsity: patterns, masks, schedules and sparse training as optax transforms.

Densities are the share that is kept. Rules are `(path regex, density or Target)`, the
first match wins; a leaf without a rule stays dense, and its mask is `None`.

| what to keep | |
|------|------|
| `Target(density= or count=, pattern=)` | how much of a leaf is kept, and how |
| `Unstructured`, `NM`, `DBB`, `BankBalanced` | patterns of single weights |
| `Block`, `BCR`, `Filter`, `Channel`, `Shape` | patterns of the GEMM view |
| `KernelPattern`, `learn_library` | 3x3 kernels by a few learnt patterns |
| `targets`, `as_target` | what rules say of each leaf, as `Target`s |
| `uniform`, `erdos_renyi`, `global_density` | rules that share out a density |
| `sensitivity` -> `Curves`, `allocate` | loss against density by layer; rules from it |

| masks of given weights | |
|------|------|
| `magnitude_masks`, `global_magnitude_masks` | by magnitude, per leaf or over all |
| `scores` (a module), `SCORES`, `score_masks` | SNIP, GraSP, Wanda and others |
| `random_masks` | drawn at random, in exact numbers |
| `apply_masks` | parameters with pruned entries exactly 0.0 |
| `summary` | what is left of each leaf, counted from the weights |

| optax transforms: `gap.NAME(inner, ...)` | |
|------|------|
| `masked(masks)` | train with fixed masks |
| `prune(rules, schedule)` | prune while training: one-shot, iterative, gradual |
| `static_random`, `at_init`, `snip` | sparse from the start, or from first gradients |
| `rewire`, `rigl`, `set_` | drop and grow weights at a constant density |
| `cyclic(rules, key, partition)`, `partition` | cyclic grow-and-prune (C-GaP) |
| `track_explored(...)` | around any of these: weights ever active, and how long |
| `add_l1(strength, rules)` | L1 sub-gradient |
| `OneShot`, `Staged`, `Cubic`, `Cosine`, `Piecewise`, `Constant` | density schedules |

| sparse training outside of the optimizer | |
|------|------|
| `grow_copies`, `combine_copies`, `prune_back`, `parallel_round` | parallel GaP |
| `init_thresholds`, `thresholded`, `soft_threshold`, `threshold_masks` | STR |
| `explored`, `mean_densities`, `training_cost` | what was explored, what it cost |
| `lottery` (a module) | tickets, their controls, the strict definition |

| what runs faster | |
|------|------|
| `compact(fn, params, masks, x)` -> `Compact` | the network without pruned channels |
| `packed`, `bcr` (modules) | layers that run from packed weights |
| `profile` -> `Profile`, `measure`, `compare` | parameters, MACs, bytes, milliseconds |

| types and registries | |
|------|------|
| `Pattern`, `Storage`, `DensitySchedule`, `Partition`, `LeafSummary` | values |
| `MaskedState`, `DynamicState`, `TrackedState` | states of transforms |
| `zero_moments`, `cosine_fraction`, `connection_sensitivity` | parts of transforms |
| `PATTERNS`, `SCHEDULES`, `TRANSFORMS` | registries |

Example, gradual magnitude pruning of every kernel to 10 %:

    tx = gap.prune(optax.adam(1e-3), [(".*/kernel", 0.1)], gap.Cubic(0, 5000, 100))
    state = tx.init(params)
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    gap.summary(params, [(".*/kernel", True)])

A transform that holds masks is the last of an `optax.chain` (see `masked`).

References: Han et al., arXiv 1506.02626; Zhu and Gupta, arXiv 1710.01878; GaP, arXiv
2106.09857; RigL, arXiv 1911.11134; SET, arXiv 1707.04780; SNIP, arXiv 1810.02340; STR,
arXiv 2002.03231; BCR, arXiv 2108.11033; tickets, arXiv 2107.00166.
"""

from gap import bcr, lottery, packed, scores
from gap.allocation import erdos_renyi, global_density, uniform
from gap.compaction import Compact, compact
from gap.curves import Curves, allocate, sensitivity
from gap.grow_and_prune import cyclic
from gap.initial import (
    at_init,
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
from gap.scores import SCORES, connection_sensitivity, score_masks
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
