"""Verification: bounds of neural networks, and proofs or counterexamples.

| name | what |
|------|------|
| `bound(fn, params, region, spec, method)` | bounds: interval to beta-CROWN |
| `verify(problem, config)` | branch and bound with beta-CROWN: a verdict |
| `verify_all(problems, config)` | several properties of one network in common batches |
| `Problem`, `Config`, `Verdict` | what is asked, how to search, what came out |
| `box`, `ball`, `Region` | input regions |
| `robustness`, `linear`, `Property`, `Clause`, `Spec` | properties from Python |
| `vnnlib.load(path)` | properties in the competition's format |
| `network(fn, params, x)` | a function cut at its nonlinear operators |
| `falsify.falsify`, `falsify.check` | attacks, and the judge of what they find |
| `certificate.check(problem, certificate)` | a proof recomputed in float64 |
| `exact.milp`, `exact.lp_bound` | ground truth for small networks, by HiGHS |
| `RULES`, `EXPANSIONS` | relaxations, and operators that others are written with |

Example, the margin of a classifier in a ball around an image:

    spec = verify.robustness(x, label, eps=0.1).clauses[0].spec
    region = verify.box(x - 0.1, x + 0.1)
    bounds = verify.bound(fn, params, region, spec, method="crown")

and the complete verifier:

    problem = verify.Problem(fn, params, verify.robustness(x, label, eps=0.1))
    verdict = verify.verify(problem, verify.Config(timeout_s=60))

References: CROWN, arXiv 1811.00866; CROWN-IBP, arXiv 1906.06316; alpha-CROWN, arXiv
2011.13824; beta-CROWN, arXiv 2103.06624; filtered smart branching, arXiv 2104.06718.
"""

from verify import certificate, exact, falsify, vnnlib
from verify.alpha import AlphaConfig
from verify.bounds import METHODS, bound
from verify.crown import CrownConfig
from verify.expansions import EXPANSIONS
from verify.network import Network, network
from verify.problem import Config, Problem, Verdict
from verify.properties import Clause, Property, Spec, linear, robustness
from verify.regions import Region, ball, box
from verify.relaxations import RULES
from verify.search import Verifier, verify
from verify.several import verify_all
from verify.types import Bounds, Lines

__all__ = [
    "EXPANSIONS",
    "METHODS",
    "RULES",
    "AlphaConfig",
    "Bounds",
    "Clause",
    "Config",
    "CrownConfig",
    "Lines",
    "Network",
    "Problem",
    "Property",
    "Region",
    "Spec",
    "Verdict",
    "Verifier",
    "ball",
    "bound",
    "box",
    "certificate",
    "exact",
    "falsify",
    "linear",
    "network",
    "robustness",
    "verify",
    "verify_all",
    "vnnlib",
]
