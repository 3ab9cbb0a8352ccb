"""Which neuron to split: BaBSR scores and filtered smart branching.

Scores are those of the paper's released heuristics (arXiv 1909.06588, 2103.06624): an
estimate of how much a split lifts the bound, from the coefficients of one backward
pass. Filtered smart branching bounds the children of the few best candidates.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax

from core.types import Array
from verify.beta import Chords, Layers

NEVER = -1.0
"""The score of a neuron that can not be split."""


def babsr(
    lines: Sequence[Chords], coefficients: Layers, bias: Layers, reduce_op: str
) -> tuple[Array, Array]:
    """Returns the BaBSR score and the intercept score of every neuron.

    With A the coefficient on h, r the slope of the upper line, -l r its intercept and
    b the bias that enters z: I = min(A, 0) (-l r), and the score is
    |red(b A (r - 1), b A r) + I|.

    Args:
      lines: the relaxations of the batch.
      coefficients: A, [B, n_k] by layer.
      bias: b, [n_k] by layer.
      reduce_op: red, "min" or "max".

    Returns:
      Scores and -I, both [B, sum of n_k], larger is better, `NEVER` where stable.
    """
    red = {"min": jnp.minimum, "max": jnp.maximum}[reduce_op]
    scores, intercepts = [], []
    for line, a, b in zip(lines, coefficients, bias, strict=True):
        intercept = jnp.minimum(a, 0) * line.intercept
        scaled = b[None] * a
        score = jnp.abs(red(scaled * (line.slope - 1), scaled * line.slope) + intercept)
        scores.append(jnp.where(line.free, score, NEVER))
        intercepts.append(jnp.where(line.free, -intercept, NEVER))
    return jnp.concatenate(scores, -1), jnp.concatenate(intercepts, -1)


def ranked(scores: Array, intercepts: Array) -> Array:
    """Returns BaBSR's own ranking: scores, or intercepts where all scores vanish.

    A batch row whose best score is below 1e-3 is ranked by its intercepts.
    """
    small = scores.max(-1, keepdims=True) < 1e-3
    return jnp.where(small, intercepts, scores)


def candidates(scores: Array, intercepts: Array, count: int) -> tuple[Array, Array]:
    """Returns the candidates of filtered smart branching.

    Args:
      scores: BaBSR scores [B, n].
      intercepts: intercept scores [B, n].
      count: how many of each.

    Returns:
      Flat neuron indices [B, 2 count] and whether each can be split.
    """
    count = min(count, scores.shape[-1])
    found = [lax.top_k(each, count) for each in (scores, intercepts)]
    index = jnp.concatenate([i for _, i in found], -1)
    valid = jnp.concatenate([v > NEVER for v, _ in found], -1)
    return index, valid
