"""Iterative magnitude pruning with every kind of rewinding."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import jax

from core.errors import InputError, check_range, describe
from core.rules import Rules
from core.types import Array, PartialTree, PyTree
from gap.lottery.masks import dense_masks, imp_density, omp
from gap.lottery.tickets import ticket
from gap.scope import Scope

Train = Callable[[PyTree, PartialTree, Array], tuple[PyTree, Any]]
"""train(params, masks, key) -> (trained params, metrics); keeps pruned weights at 0."""

LEARNING_RATE: Final = "learning_rate"
"""`imp(..., rewind=LEARNING_RATE)`: weights go on, the schedule starts again."""


class IMPRound(NamedTuple):
    """One round of iterative magnitude pruning.

    Invariants: `masks` keep `density` of the selected weights and are a subset of the
    round before's; `start` is exactly 0.0 where a mask is False.

    Attributes:
      round: 0 is the dense network.
      density: the share of selected weights kept.
      masks: what was trained with.
      start: the weights that training began with.
      params: the weights after training.
      metrics: what `train` returned beside them.
    """

    round: int
    density: float
    masks: PartialTree
    start: PyTree
    params: PyTree
    metrics: Any


def imp(
    train: Train,
    theta0: PyTree,
    rounds: int,
    rules: Rules,
    key: Array,
    *,
    ratio: float = 0.2,
    scope: Scope = "global",
    rewind: PyTree | str | None = None,
    retrain: Train | None = None,
    stacked: bool = False,
) -> list[IMPRound]:
    """Trains, prunes the smallest weights, rewinds the survivors, and so on.

    Round 0 trains theta_0. Round j prunes `ratio` of the weights that round j - 1
    trained, by magnitude, gives the survivors the values of the *same* tree at every
    round, and trains again.

    Args:
      train: a pure training run, see `Train`; under `jit` if it likes.
      theta0: initial weights and, for networks with batch norm, all else that a fresh
        network starts with; every leaf is rewound, the rules' leaves are pruned.
      rounds: how often to prune.
      rules: which leaves are pruned, see `omp`.
      key: random key; round j trains with `fold_in(key, j)`.
      ratio: pruned of the remaining weights in each round.
      scope: ranks weights over all leaves or in each; see `omp`.
      rewind: the tree that survivors return to: None for `theta0`; theta_k, the
        weights after k steps, for weight rewinding (then `retrain` trains the steps
        from k on); `LEARNING_RATE` to keep the trained values and only replay the
        schedule.
      retrain: the training of rounds 1 and later; `train` by default.
      stacked: whether all arrays and `key` have a leading axis of members, which are
        pruned one by one and trained together (see `population`).

    Returns:
      `rounds + 1` values of `IMPRound`, the dense one first.

    Raises:
      InputError, RuleError, NonFiniteError: see `omp`.

    Source: arXiv 1803.03635; arXiv 2107.00166, section 3.1; rewinding: arXiv
    1903.01611 (weights), arXiv 2003.02389 (learning rate).
    """
    check_range("rounds", rounds, 0)
    if isinstance(rewind, str) and rewind != LEARNING_RATE:
        raise InputError(
            f"rewind: {describe(repr(rewind), 'None, parameters or LEARNING_RATE')}"
        )
    retrain = retrain or train

    def pruned(params: PyTree, alive: PartialTree, density: float) -> PartialTree:
        return omp(params, density, rules, scope=scope, alive=alive)

    def fold(key: Array, j: int) -> Array:
        return jax.random.fold_in(key, j)

    if stacked:
        pruned = jax.vmap(pruned, in_axes=(0, 0, None))
        fold = jax.vmap(fold, in_axes=(0, None))
    masks = dense_masks(theta0, rules)
    origin, start, found = theta0, theta0, []
    for j in range(rounds + 1):
        density = imp_density(j, ratio)
        if j:
            last = found[-1].params
            masks = pruned(last, masks, density)
            if rewind is not None:
                origin = last if isinstance(rewind, str) else rewind
            start = ticket(origin, masks)
        params, metrics = (retrain if j else train)(start, masks, fold(key, j))
        found.append(IMPRound(j, density, masks, start, params, metrics))
    return found
