"""Bit widths learned by gradient descent: real numbers first, then integers.

Each group of weights has a real width, trained with the weights under a budget of
average bits, then rounded within the budget and frozen. The idea is that of arXiv
1810.10351, whose method section was not available: the equations are our own.

| widths as real numbers | |
|------|------|
| `Interpolation`, `RealStep`, `Categorical`, `Relaxation` | from widths to weights |
| `init`, `beta`, `relaxed` | parameters theta, their widths, the weights at them |
| `average_bits`, `budget_penalty`, `update_multiplier` | the budget in the loss |
| `integrality_penalty` | what draws widths to integers |

| integer widths | |
|------|------|
| `round_to_budget`, `uniform`, `random_widths` | widths of every group |
| `with_widths` | weights at widths; real ones too, for slopes of the loss in them |
| `Size`, `size`, `bits_within` | bytes, headers and all; bits that some bytes allow |
| `bit_costs` | of each group: its weights, or what hardware takes |

| one array | |
|------|------|
| `quantize`, `encode` | at traced integer widths |
| `interpolated`, `stepped`, `mixed` | at real ones |

Example, one width a kernel and one for every 16 outputs of the largest:

    rules = [("fc1/kernel", Per(group=16, group_axis=-1)), (".*/kernel", TENSOR)]
    relaxation = Interpolation()
    theta = init(params, rules, relaxation)

    def loss(params, theta, batch, multiplier, mu):
        widths = beta(theta, relaxation)
        bits = average_bits(params, widths)
        data = error(relaxed(params, theta, rules, relaxation), batch)
        penalty = budget_penalty(bits, 2.5, multiplier)
        return data + penalty + mu * integrality_penalty(params, widths)

    # ... train; theta with Adam and no weight decay, on data the weights do not see
    widths = beta(theta, relaxation)
    slopes = jax.grad(lambda b: error(with_widths(params, b, rules), batch))(widths)
    widths = round_to_budget(params, widths, slopes, 2.5)
    params = with_widths(params, widths, rules)  # in each step of the fine-tuning
"""

from quant.bitwidth.allocation import random_widths, round_to_budget
from quant.bitwidth.budget import (
    Size,
    average_bits,
    bit_costs,
    bits_within,
    budget_penalty,
    integrality_penalty,
    size,
    update_multiplier,
)
from quant.bitwidth.levels import encode, interpolated, mixed, quantize, stepped
from quant.bitwidth.parameters import beta, init, relaxed, uniform, with_widths
from quant.bitwidth.relaxations import (
    Categorical,
    Interpolation,
    RealStep,
    Relaxation,
)

__all__ = [
    "Categorical",
    "Interpolation",
    "RealStep",
    "Relaxation",
    "Size",
    "average_bits",
    "beta",
    "bit_costs",
    "bits_within",
    "budget_penalty",
    "encode",
    "init",
    "integrality_penalty",
    "interpolated",
    "mixed",
    "quantize",
    "random_widths",
    "relaxed",
    "round_to_budget",
    "size",
    "stepped",
    "uniform",
    "update_multiplier",
    "with_widths",
]
