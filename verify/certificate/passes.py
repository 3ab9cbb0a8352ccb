"""Intervals forward and lines backward through a plan, with proven errors.

Rows are linear functions of a value of the network. On their way back to the input a
ReLU is replaced by lines (CROWN, arXiv 1811.00866): a coefficient a >= 0 takes a line
below it, a < 0 one above.

Coefficients are rounded as they come, and then taken as exact. An error e in the
coefficient of a value that is at most m in size changes the result by at most |e| m.
What a step back loses so is at most the inner product of the coefficients' sizes with
a vector that is known beforehand, the step's penalty: proven errors cost a product
with one vector.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from graph import Value
from verify.certificate import balls
from verify.certificate.balls import UNIT, Ball
from verify.certificate.operators import size
from verify.certificate.plan import Plan, Step

BUDGET = 1_000_000
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
    """Lines around the ReLUs of a layer; each [B or S, n].

    low * z <= relu(z) <= high * z + intercept.
    """

    low: np.ndarray
    high: np.ndarray
    intercept: np.ndarray
    unstable: np.ndarray


class State(NamedTuple):
    """What a forward pass found, layer by layer and step by step.

    Attributes:
      lower: bounds of the operand of each ReLU, each [B, n].
      upper: see `lower`.
      lines: of each ReLU, within these bounds.
      sizes: by value, at least the size of its elements in all boxes, [1, n].
      penalties: by the result of an affine step, [1, n]: see the module.
    """

    lower: list[np.ndarray]
    upper: list[np.ndarray]
    lines: list[Lines]
    sizes: dict[Value, np.ndarray]
    penalties: dict[Value, np.ndarray]


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
        unstable,
    )


Choose = Callable[[int, slice], tuple[Lines, np.ndarray | None]]
"""For a layer and some of the rows, their lines and what betas subtract, or None."""


class Sum:
    """Numbers [S] that are summed up, with the bound of their error."""

    def __init__(self, rows: int):
        self.mid, self.rad = np.zeros(rows), np.zeros(rows)

    def add(self, value: np.ndarray | float, error: np.ndarray | float) -> None:
        """Adds a value that is off by at most `error`."""
        self.mid = self.mid + value
        self.rad = balls.grow(self.rad + error + 2 * UNIT * np.abs(self.mid), 3)

    def ball(self) -> Ball:
        """The sum."""
        return Ball(self.mid, self.rad)


def pull(
    plan: Plan,
    state: State,
    value: Value,
    rows: np.ndarray,
    choose: Choose,
    chosen: slice,
    steps: Sequence[Step],
) -> tuple[np.ndarray | None, Ball]:
    """Pulls rows [S, n] of a value, exact numbers, back to the input.

    Returns:
      Coefficients on the input, exact, or None if it is not reached; and a constant
      [S]. Their sum bounds the rows from below wherever the lines hold.
    """
    left = {value: rows}
    offset = Sum(rows.shape[0])
    for step in reversed(steps):
        if step.out not in left:
            continue
        own = left.pop(step.out)
        if step.layer >= 0:
            operand = step.moving[0][0]
            own = _relax(own, *choose(step.layer, chosen), state.sizes[operand], offset)
            _merge(left, operand, own, state, offset)
            continue
        penalty = state.penalties[step.out]
        lost = balls.grow(_times(np.abs(own), penalty), own.shape[1] + 2)
        added = 0.0 if step.added is None else _times(own, step.added.mid)
        offset.add(added, lost)
        for operand, chain in step.moving:
            offset.add(0.0, _underflow(state.sizes[operand]))
            _merge(left, operand, chain.pull(own), state, offset)
    return left.get(plan.input), offset.ball()


def _merge(left, operand: Value, part: np.ndarray, state: State, offset: Sum) -> None:
    """Adds coefficients where paths meet."""
    if operand in left:
        part = left[operand] + part
        lost = 2 * UNIT * _times(np.abs(part), state.sizes[operand])
        offset.add(0.0, balls.grow(lost, part.shape[1] + 2))
    left[operand] = part


def _times(rows: np.ndarray, vector: np.ndarray) -> np.ndarray:
    return rows @ vector[0]


def _underflow(size: np.ndarray) -> float:
    """What coefficients that underflow can change a row by."""
    return float(balls.TINY * (2 + 2 * size.sum()))


def _relax(
    rows: np.ndarray,
    lines: Lines,
    betas: np.ndarray | None,
    size: np.ndarray,
    offset: Sum,
) -> np.ndarray:
    """Rows on relu(z) as rows on z, and a constant, from below."""
    n = rows.shape[1]
    found = rows * np.where(rows >= 0, lines.low, lines.high)
    lost = np.abs(found)
    negative = np.minimum(rows, 0.0)
    if lines.intercept.shape[0] == 1:
        constant = _times(negative, lines.intercept)
    else:
        constant = np.einsum("sn,sn->s", negative, lines.intercept)
    if betas is not None:
        found = found - betas
        lost = lost + np.abs(found)
    error = 2 * UNIT * _times(lost, size) + balls.gamma(n) * np.abs(constant)
    offset.add(constant, balls.grow(error, n + 8) + _underflow(size))
    return found


def least(rows: np.ndarray | None, offset: Ball, domain: Domain) -> np.ndarray:
    """Returns lower bounds [S] of exact rows over one box each (or all over one)."""
    if rows is None:
        return balls.ends(offset)[0]
    size, n = np.abs(rows), rows.shape[1]
    far = np.maximum(np.abs(domain.lower), np.abs(domain.upper))
    value = (
        np.maximum(rows, 0) * domain.lower + np.minimum(rows, 0) * domain.upper
    ).sum(1)
    error = balls.gamma(n + 2) * (size * far).sum(1)
    found = _below(Ball(value, balls.grow(error, n + 6)), offset)
    if domain.center is None:
        return found
    middle = balls.dot(balls.exact(rows), balls.exact(domain.center[None]))
    dual = np.sqrt((size * size).sum(1)) if domain.norm == "l2" else size.max(1)
    # Squares of numbers below 1e-154 vanish; so much is added for them.
    reach = balls.grow(dual + n * 1e-150, 2 * n + 6) * domain.radius
    inside = Ball(middle.mid, balls.grow(middle.rad + reach, 4))
    return np.maximum(found, _below(inside, offset))


def _below(a: Ball, b: Ball) -> np.ndarray:
    return balls.ends(balls.add(a, b))[0]


Tighten = Callable[[int, np.ndarray, np.ndarray, State], None]
"""Tightens bounds [B, n] of a layer in place, given the state of what is before it."""


def forward(plan: Plan, domain: Domain, tighten: Tighten) -> State:
    """Returns bounds of the operands of all ReLUs, by intervals and `tighten`."""
    found = {plan.input: balls.between(domain.lower, domain.upper)}
    state = State([], [], [], {plan.input: _size(found[plan.input])}, {})
    last = _last_uses(plan)
    for at, step in enumerate(plan.steps):
        if step.layer < 0:
            result = _affine(step, found)
            state.penalties[step.out] = _penalty(step, state)
        else:
            operand = step.moving[0][0]
            low, high = balls.ends(found[operand])
            tighten(step.layer, low, high, state)
            state.lower.append(low)
            state.upper.append(high)
            state.lines.append(lines(low, high))
            result = balls.between(np.maximum(low, 0.0), np.maximum(high, 0.0))
        found[step.out] = result
        state.sizes[step.out] = _size(result)
        for value in [v for v in found if last.get(v, -1) <= at]:
            del found[value]
    return state


def _affine(step: Step, found: Mapping[Value, Ball]) -> Ball:
    pieces = [chain.forward(found[v]) for v, chain in step.moving]
    if step.added is not None:
        pieces.append(step.added)
    return functools.reduce(balls.add, pieces)


def _penalty(step: Step, state: State) -> np.ndarray:
    """What an affine step back can lose, for each unit of a coefficient's size."""
    total = np.zeros((1, size(step.out)))
    for value, chain in step.moving:
        total = total + chain.error(state.sizes[value])
    if step.added is not None:
        n = total.shape[1]
        total = total + step.added.rad + balls.gamma(n) * np.abs(step.added.mid)
    return balls.grow(total, 2 * len(step.moving) + 4)


def _size(ball: Ball) -> np.ndarray:
    return balls.grow((np.abs(ball.mid) + ball.rad).max(0, keepdims=True), 2)


def _last_uses(plan: Plan) -> Mapping[Value, int]:
    return {v: at for at, step in enumerate(plan.steps) for v, _ in step.moving}


def chunks(plan: Plan, rows: int, most: int = BUDGET) -> list[slice]:
    """Returns slices of rows such that no pass makes too large an array."""
    step = max(1, min(4096, most // max(plan.width, 1)))
    return [slice(i, min(i + step, rows)) for i in range(0, rows, step)]


def units(value: Value, neurons: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Returns rows that pick neurons of a value, with signs."""
    rows = np.zeros((len(neurons), size(value)))
    rows[np.arange(len(neurons)), neurons] = signs
    return rows
