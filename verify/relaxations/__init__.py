"""Relaxations: intervals and lines between which an elementwise operator lies.

| name | what |
|------|------|
| `RULES` | every relaxation by the name of its operator |
| `Relaxation` | interval, lines, and the free parameters of the lines |

`RULES[op].interval(*bounds, **params)` are bounds of h = f(z_1, .., z_m) and
`RULES[op].lines(*bounds, alpha=None, **params)` linear bounds, both inside of the
`Bounds` of each operand. `alpha`, of shape [k, *h.shape] in [0, 1], chooses among
sound lines and may be optimised.

    z = Bounds(jnp.array([-1.0]), jnp.array([3.0]))
    (slope,), intercept, *_ = RULES["relu"].lines(z)

A new operator is one more `Relaxation` in `RULES`; the contract test walks them all.
Operators that other operators can express exactly, such as max and leaky_relu, belong
into `verify.expansions` instead.

References: Zhang et al., arXiv 1811.00866 (CROWN); Xu et al., arXiv 2011.13824
(alpha-CROWN); Singh et al., POPL 2019 (S-shaped functions); McCormick 1976 (products).
"""

from verify.relaxations import piecewise, powers, products, smooth, steps, waves
from verify.relaxations.base import Relaxation
from verify.relaxations.curves import relaxation

RULES: dict[str, Relaxation] = {
    rule.name: rule
    for rule in (
        piecewise.RELU,
        piecewise.ABS,
        products.MUL,
        powers.INTEGER_POW,
        powers.RECIPROCAL,
        powers.POW,
        steps.FLOOR,
        steps.CEIL,
        steps.ROUND,
        steps.SIGN,
        waves.SIN,
        waves.COS,
        relaxation("logistic", smooth.LOGISTIC),
        relaxation("tanh", smooth.TANH),
        relaxation("erf", smooth.ERF),
        relaxation("atan", smooth.ATAN),
        relaxation("exp", smooth.EXP),
        relaxation("expm1", smooth.EXPM1),
        relaxation("softplus", smooth.SOFTPLUS),
        relaxation("square", smooth.SQUARE),
        relaxation("log", smooth.LOG),
        relaxation("log1p", smooth.LOG1P),
        relaxation("sqrt", smooth.SQRT),
        relaxation("rsqrt", smooth.RSQRT),
    )
}
"""Every relaxation by the name of its operator; one contract test walks it."""

__all__ = ["RULES", "Relaxation"]
