"""Sparsity patterns: which sets of weights may be pruned together.

A pattern turns a score per weight into a mask that keeps an exact number of its units,
the best ones. A unit is what a density counts in: `density = count / units`. Patterns
are frozen dataclasses of Python scalars, so they can be static arguments under `jit`;
their methods are pure, and a count may be traced.

| pattern | what is kept | a unit |
|---------|--------------|--------|
| `Unstructured()` | any weights | a weight |
| `NM(m, axis)` | `count` of every `m` weights along an axis | one of the `m` |
| `DBB(block, axis)` | the same, stored with position masks | one of the block |
| `BankBalanced(bank)` | `count` in each bank of an output's inputs | one of a bank |
| `Block(inputs, outputs)` | rectangles of the GEMM view | a block |
| `BCR(inputs, outputs, ...)` | in each block, inputs x outputs | a weight of it |
| `Filter()` | output features | a filter |
| `Channel()` | input features | a channel |
| `Shape()` | rows of the GEMM view | a row |
| `KernelPattern(library)` | kernels, each by a pattern of a library | a kernel |

Groups are scored by `ranking.group_scores`, the sum of `s |s|`. `Target` says how much
of a leaf is kept, in which pattern; it is what rules hold. A pattern of your own needs
the four methods of `Pattern`. `docs/patterns.md` helps to choose.
"""

from gap.patterns.base import Pattern, Storage
from gap.patterns.bcr import BCR
from gap.patterns.coarse import Block, Channel, Filter, Shape
from gap.patterns.fine import DBB, NM, BankBalanced, Unstructured
from gap.patterns.kernels import KernelPattern, learn_library
from gap.patterns.target import Target, as_target

__all__ = [
    "BCR",
    "DBB",
    "NM",
    "PATTERNS",
    "BankBalanced",
    "Block",
    "Channel",
    "Filter",
    "KernelPattern",
    "Pattern",
    "Shape",
    "Storage",
    "Target",
    "Unstructured",
    "as_target",
    "learn_library",
]

PATTERNS = {
    "unstructured": Unstructured,
    "nm": NM,
    "dbb": DBB,
    "bank_balanced": BankBalanced,
    "block": Block,
    "bcr": BCR,
    "filter": Filter,
    "channel": Channel,
    "shape": Shape,
    "kernel": KernelPattern,
}
"""Every pattern by name; one contract test walks it."""
