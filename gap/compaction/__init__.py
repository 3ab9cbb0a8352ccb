"""Smaller dense networks: pruned filters and channels physically removed.

| name | what |
|------|------|
| `compact(fn, params, masks, *example_args)` | the smaller network |
| `Compact` | its function, its parameters, what went and why the rest stayed |
| `Stayed` | indices of a parameter that are zero and stayed, with the reason |
| `OPERATORS` | the operators that compaction understands |

A filter whose weights are all zero gives a channel that does not depend on the input,
and a channel that nothing reads need not be computed. `compact` follows both through
the operator graph (`graph.trace`): through biases, batch norm, activations, pools,
residual additions, concatenation, depthwise convolutions and flattening. A channel
leaves only when everything that is tied to it can; what the network would lose by it
is a constant, which moves into the bias that follows.

Example:
    masks = gap.magnitude_masks(params, [(".*/kernel", Target(0.5, pattern=Filter()))])
    small = gap.compact(model.apply, params, masks, images[:2])
    jax.jit(small.fn)(small.params, images)       # as the masked network, and smaller
    small.widths["conv2/kernel"]                  # the kept indices of every axis
    print(small.report())

References: Fang et al., arXiv 2301.12900 (dependency graphs); Li et al., arXiv
1608.08710 (filters); the rest is ours.
"""

from gap.compaction.network import Compact, Stayed, compact
from gap.compaction.operators import OPERATORS

__all__ = ["OPERATORS", "Compact", "Stayed", "compact"]
