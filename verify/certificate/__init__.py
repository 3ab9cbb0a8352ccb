"""Proofs of verdicts, and a checker that shares no bounding code with the verifier.

| name | what |
|------|------|
| `check(problem, certificate)` | decides whether a certificate proves its property |
| `Check` | what it found: `ok`, `why`, `leaves`, `least_margin`, `seconds` |
| `Certificate` | sub-domains that cover the regions, with what refutes each |
| `RootLayer` | backward bounds of hidden neurons over a whole region |
| `Leaf`, `BoxLeaf` | a sub-domain of ReLU signs, or of the input box |
| `digest`, `regions` | what a certificate is of, and the order of its roots |
| `save`, `load` | .npz files |
| `collect` | root layers and leaves from the arrays of a search |

    certificate = verify.verify(problem, Config(certificate=True)).certificate
    save(certificate, "proof.npz")
    check(problem, load("proof.npz")).ok

A search in float32 proposes; float64 with outward rounding decides. For a clause
`{x : C y + d <= 0}` each leaf bounds `w (C y + d)` from below, for weights w >= 0, over
the inputs with the leaf's signs, by one backward pass: at a ReLU a coefficient takes a
line below or above it, and a split neuron with sign s adds the multiple -beta s of its
operand. Any slope in [0, 1] and any beta >= 0 gives a sound bound, so the checker need
not know how they were found. Leaves must form complete binary trees.

Networks: ReLUs and what `verify.expansions` writes with them (max, abs, pooling, ..),
between affine operators. Any other nonlinear operator is refused by name.

What is proven is a statement about the function in real arithmetic. Parameters, the
region and the specification are exact; so are the constants that JAX folded while it
traced the function, in their own precision. Conversions to wider types are identities;
those that may round, and integers that wrap, are refused by name.

References: Wang et al., arXiv 2103.06624 (beta-CROWN); Higham, Accuracy and Stability
of Numerical Algorithms, chapter 3 (rounding errors).
"""

from verify.certificate import collect
from verify.certificate.checking import Check, check
from verify.certificate.files import load, save
from verify.certificate.format import (
    BoxLeaf,
    Certificate,
    Leaf,
    RootLayer,
    digest,
    regions,
)

__all__ = [
    "BoxLeaf",
    "Certificate",
    "Check",
    "Leaf",
    "RootLayer",
    "check",
    "collect",
    "digest",
    "load",
    "regions",
    "save",
]
