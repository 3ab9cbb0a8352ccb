"""Lottery tickets: find them, train the controls, judge them by the strict definition.

| name | what |
|------|------|
| `imp_density`, `omp` | density after j rounds; masks of one-shot magnitude pruning |
| `imp` -> `IMPRound` | iterative pruning; rewinds to init, to step k, or the rate |
| `LEARNING_RATE` | `imp(..., rewind=LEARNING_RATE)` |
| `ticket`, `reinit`, `shuffle` | theta_0 * m, theta_0' * m, a random ticket |
| `small_dense_width` | the dense network with as many weights as the ticket |
| `kept`, `dense_masks` | count of a mask tree; masks that keep everything |
| `TicketTable`, `judge` -> `Verdict`, `Evidence` | the five conditions |
| `CONDITIONS`, `tolerances` | their names; what counts as similar, per data set |
| `correlation` | overlap of the largest weights before and after training |
| `population`, `cross`, `uncross` | many rates and seeds trained in one program |

A ticket wins the jackpot if at a non-trivial density it matches the *well-trained*
dense network and clearly beats a small dense network and a random re-initialisation;
it is a secondary prize if it only matches the dense network at its own learning rate.

Example, the dense network and eleven rounds; the masks of round 8:

    rounds = lottery.imp(train, theta0, 11, [(".*/kernel", True)], key)
    masks = rounds[8].masks
    table = lottery.TicketTable(rates, dense, lt, rr, sdt)  # accuracies [rates, seeds]
    print(lottery.judge(table, rounds[8].density, tol=0.5, gap=0.5).text())

References: arXiv 1803.03635 (hypothesis), 1903.01611 and 2003.02389 (rewinding),
2107.00166 (definition, conditions, correlation indicator).
"""

from gap.lottery.correlation import correlation
from gap.lottery.definition import (
    CONDITIONS,
    JACKPOT,
    NONE,
    SECONDARY,
    Evidence,
    TicketTable,
    Verdict,
    judge,
    tolerances,
)
from gap.lottery.iterative import LEARNING_RATE, IMPRound, Train, imp
from gap.lottery.masks import dense_masks, imp_density, omp
from gap.lottery.population import cross, population, uncross
from gap.lottery.tickets import kept, reinit, shuffle, small_dense_width, ticket

__all__ = [
    "CONDITIONS",
    "JACKPOT",
    "LEARNING_RATE",
    "NONE",
    "SECONDARY",
    "Evidence",
    "IMPRound",
    "TicketTable",
    "Train",
    "Verdict",
    "correlation",
    "cross",
    "dense_masks",
    "imp",
    "imp_density",
    "judge",
    "kept",
    "omp",
    "population",
    "reinit",
    "shuffle",
    "small_dense_width",
    "ticket",
    "tolerances",
    "uncross",
]
