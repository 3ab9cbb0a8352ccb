"""Intervals forward and lines backward through a plan, with proven errors.

Rows are linear functions of a value of the network. On their way back to the input a
ReLU is replaced by lines (CROWN, arXiv 1811.00866): a coefficient a >= 0 takes a line
below it, a < 0 one above. What a coefficient may be off by is settled there, where the
neuron's size is known, so errors never pass a second ReLU.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from graph import Value
from verify.certificate import balls
from verify.certificate.balls import UNIT, Ball
from verify.certificate.operators import size
from verify.certificate.plan import Plan, Step

BUDGET = 4_000_000
"""The most numbers in one array of a pass."""


class Domain(NamedTuple):
    """Boxes of the flat input, and a norm ball that all are cut with.

    Attributes:
      lower: [B, n] float64, exact.
      upper: [B, n].
      center: [n], or None for boxes alone.
      radius: of the ball.
      norm: "l2" or "l1".
    """

    lower: np.ndarray
    upper: np.ndarray
    center: np.ndarray | None = None
    radius: float = 0.0
    norm: str = "linf"


class Lines(NamedTuple):
    """Lines around the ReLUs of a layer, and their size; each [B or S, n].

    low * z <= relu(z) <= high * z + intercept, and relu(z) <= height.
    """

    low: np.ndarray
    high: np.ndarray
    intercept: np.ndarray
    height: np.ndarray
    unstable: np.ndarray


def lines(lower: np.ndarray, upper: np.ndarray) -> Lines:
    """Returns lines of ReLUs between bounds; the adaptive slope below."""
    active, dead = lower >= 0, upper <= 0
    unstable = ~(active | dead)
    with np.errstate(all="ignore"):
        slope = np.where(unstable, np.clip(upper / (upper - lower), 0.0, 1.0), active)
        # The line is above relu if it is so at both ends of a convex function.
        ends = np.maximum(-slope * lower, upper * (1 - slope))
    intercept = np.where(unstable, balls.grow(ends, 3), 0.0)
    low = np.where(unstable, upper > -lower, active)
    return Lines(
        low.astype(np.float64),
        slope.astype(np.float64),
        intercept,
        np.maximum(upper, 0.0),
        unstable,
    )


Choose = Callable[[int, slice], tuple[Lines, np.ndarray | None]]
"""For a layer and some of the rows, their lines and what betas subtract, or None."""


def pull(
    plan: Plan,
    value: Value,
    rows: Ball,
    choose: Choose,
    chosen: slice,
    steps: Sequence[Step],
) -> tuple[Ball | None, Ball]:
    """Pulls rows [S, n] of a value back to the input.

    Returns:
      Coefficients on the input, None if it is not reached, and a constant [S]. Their
      sum bounds the rows from below wherever the lines hold.
    """
    left: dict[Value, Ball] = {value: rows}
    offset = balls.exact(np.zeros(rows.mid.shape[0]))
    for step in reversed(steps):
        if step.out not in left:
            continue
        own = left.pop(step.out)
        if step.layer >= 0:
            own, constant = _relax(own, *choose(step.layer, chosen))
            offset = balls.add(offset, constant)
        if step.added is not None:
            offset = balls.add(offset, balls.dot(own, step.added))
        for operand, chain in step.moving:
            part = chain.back(own)
            left[operand] = balls.add(left[operand], part) if operand in left else part
    return left.get(plan.input), offset


def _relax(rows: Ball, lines: Lines, betas: np.ndarray | None) -> tuple[Ball, Ball]:
    """Rows on relu(z) as rows on z and a constant, from below."""
    a = rows.mid
    n = a.shape[1]
    mid = a * np.where(a >= 0, lines.low, lines.high)
    rad = 2 * UNIT * np.abs(mid)
    constant = balls.dot(balls.exact(np.minimum(a, 0.0)), balls.exact(lines.intercept))
    # relu(z) is in [0, height]: so much can an error in its coefficient matter.
    lost = (rows.rad * lines.height).sum(1)
    constant = Ball(constant.mid, balls.grow(constant.rad + lost, n + 4))
    if betas is not None:
        mid = mid - betas
        rad = rad + 2 * UNIT * np.abs(mid)
    return Ball(mid, balls.grow(rad, 4)), constant


def least(rows: Ball | None, offset: Ball, domain: Domain) -> np.ndarray:
    """Returns lower bounds [S] of rows over one box each (or all over one)."""
    if rows is None:
        return balls.ends(offset)[0]
    a, size_a = rows.mid, np.abs(rows.mid)
    n = a.shape[1]
    far = np.maximum(np.abs(domain.lower), np.abs(domain.upper))
    value = (np.maximum(a, 0) * domain.lower + np.minimum(a, 0) * domain.upper).sum(1)
    error = ((rows.rad + balls.gamma(n + 2) * size_a) * far).sum(1)
    found = _below(Ball(value, balls.grow(error, n + 6)), offset)
    if domain.center is None:
        return found
    middle = balls.dot(rows, balls.exact(domain.center[None]))
    most = size_a + rows.rad
    dual = np.sqrt((most * most).sum(1)) if domain.norm == "l2" else most.max(1)
    reach = balls.grow(dual, 2 * n + 6) * domain.radius
    inside = Ball(middle.mid, balls.grow(middle.rad + reach, 4))
    return np.maximum(found, _below(inside, offset))


def _below(a: Ball, b: Ball) -> np.ndarray:
    return balls.ends(balls.add(a, b))[0]


class Hidden(NamedTuple):
    """Bounds of the operand of each ReLU layer, each [B, n]."""

    lower: tuple[np.ndarray, ...]
    upper: tuple[np.ndarray, ...]


Tighten = Callable[[int, np.ndarray, np.ndarray, list[Lines]], None]
"""Tightens bounds [B, n] of a layer in place, given the lines of those before."""


def forward(plan: Plan, domain: Domain, tighten: Tighten) -> Hidden:
    """Returns bounds of the operands of all ReLUs, by intervals and `tighten`."""
    found = {plan.input: balls.between(domain.lower, domain.upper)}
    before: list[Lines] = []
    lower, upper = [], []
    last = _last_uses(plan)
    for at, step in enumerate(plan.steps):
        if step.layer < 0:
            pieces = [chain.forward(found[v]) for v, chain in step.moving]
            if step.added is not None:
                pieces.append(step.added)
            result = pieces[0]
            for piece in pieces[1:]:
                result = balls.add(result, piece)
        else:
            low, high = balls.ends(found[step.moving[0][0]])
            tighten(step.layer, low, high, before)
            before.append(lines(low, high))
            lower.append(low)
            upper.append(high)
            result = balls.between(np.maximum(low, 0.0), np.maximum(high, 0.0))
        found[step.out] = result
        for value in [v for v in found if last.get(v, -1) <= at]:
            del found[value]
    return Hidden(tuple(lower), tuple(upper))


def _last_uses(plan: Plan) -> Mapping[Value, int]:
    return {v: at for at, step in enumerate(plan.steps) for v, _ in step.moving}


def chunks(plan: Plan, rows: int, most: int = BUDGET) -> list[slice]:
    """Returns slices of rows such that no pass makes too large an array."""
    step = max(1, min(4096, most // max(plan.width, 1)))
    return [slice(i, min(i + step, rows)) for i in range(0, rows, step)]


def units(value: Value, neurons: np.ndarray, signs: np.ndarray) -> Ball:
    """Returns rows that pick neurons of a value, with signs."""
    rows = np.zeros((len(neurons), size(value)))
    rows[np.arange(len(neurons)), neurons] = signs
    return balls.exact(rows)
