"""E-RNN's two phases: block sizes by bounds and few trainings, then widths of numbers.

References: arXiv 1812.07106, sections V (phase I) and VI (phase II); the rules in
numbers (where latency saturates, the order of trials) are ours.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from core.errors import InputError, check_range, describe


class Bounds(NamedTuple):
    """The block sizes worth training, powers of two.

    Attributes:
      low: the smallest with which the network fits into memory.
      high: the smallest beyond which doubling saves little.
    """

    low: int
    high: int


class Design(NamedTuple):
    """A recurrent layer to train.

    Attributes:
      cell: "lstm" or "gru".
      inputs: block of the input kernels.
      hidden: block of the hidden ones.
    """

    cell: str
    inputs: int
    hidden: int


class Trial(NamedTuple):
    """A design that was trained.

    Attributes:
      design: what.
      loss: of accuracy, against the dense network, in the budget's unit.
      fits: whether it is within the budget.
    """

    design: Design
    loss: float
    fits: bool


class Found(NamedTuple):
    """What phase I found.

    Attributes:
      design: the last one within the budget, None if no one was.
      trials: in order.
    """

    design: Design | None
    trials: tuple[Trial, ...]


def block_bounds(
    weights: Callable[[int], int],
    work: Callable[[int], float],
    *,
    memory_bits: float,
    bits: int,
    largest: int = 64,
    gain: float = 0.1,
) -> Bounds:
    """Returns the block sizes between which phase I looks.

    Args:
      weights: of the whole network, by block size.
      work: its multiplications or latency, by block size.
      memory_bits: what the chip holds.
      bits: of a weight.
      largest: block size, a power of two that divides the units of a layer: 8 of 24,
        `units & -units`, as `recurrent.pack` needs it.
      gain: the least share of work that a doubling has to save.

    Raises:
      InputError: not even the largest block fits into memory.
    """
    check_range("largest", largest, 2)
    sizes = [2**i for i in range(largest.bit_length())]
    fit = [k for k in sizes if bits * weights(k) <= memory_bits]
    if not fit:
        given = f"{bits * weights(sizes[-1]):,} bits of weights at block {sizes[-1]}"
        raise InputError(describe(given, f"at most {memory_bits:,.0f}"))
    low = fit[0]
    high = next(
        (k for k in sizes[:-1] if k > 1 and work(2 * k) > (1 - gain) * work(k)),
        sizes[-1],
    )
    return Bounds(low, max(low, high))


def explore(
    train: Callable[[Design], float],
    bounds: Bounds,
    budget: float,
    *,
    max_trials: int = 5,
    largest: int | None = None,
) -> Found:
    """Phase I: the cheapest design within an accuracy budget, by few trainings.

    First an LSTM, by bisection over powers of two, from the largest block; then the
    input kernels, which bear more, with blocks twice as large, if `largest` allows it;
    then a GRU of the same blocks, which has a gate less. Each step is kept if it stays
    within the budget.

    Args:
      train: trains a design and returns the loss of accuracy against the dense one.
      bounds: of block sizes.
      budget: the largest loss allowed, in the unit of `train`.
      max_trials: trainings, at least 1.
      largest: block that a design may have, `bounds.high` or more; that if left out.
        As in `block_bounds`, which may end below it where work saturates.

    Raises:
      InputError: fewer than one trial, or `largest` below the bounds.
    """
    check_range("max_trials", max_trials, 1)
    largest = bounds.high if largest is None else largest
    check_range("largest", largest, bounds.high)
    trials: list[Trial] = []

    def fits(design: Design) -> bool:
        loss = train(design)
        trials.append(Trial(design, loss, loss <= budget))
        return trials[-1].fits

    low, high = bounds.low.bit_length() - 1, bounds.high.bit_length() - 1
    best: Design | None = None
    middle = high
    # Two trials are kept for the other two steps.
    while low <= high and len(trials) < max(max_trials - 2, 1):
        k = 2**middle
        design = Design("lstm", k, k)
        if fits(design):
            best, low = design, middle + 1
        else:
            high = middle - 1
        middle = (low + high) // 2
    if best is None:
        return Found(None, tuple(trials))
    for change in ({"inputs": 2 * best.inputs}, {"cell": "gru"}):
        design = best._replace(**change)
        if design.inputs > largest or len(trials) >= max_trials:
            continue
        if fits(design):
            best = design
    return Found(best, tuple(trials))


class Width(NamedTuple):
    """A width of numbers that was tried.

    Attributes:
      bits: of weights and states.
      loss: of accuracy against floats.
    """

    bits: int
    loss: float


def choose_width(
    loss: Callable[[int], float], widths: Sequence[int], budget: float
) -> tuple[int | None, tuple[Width, ...]]:
    """Phase II: the fewest bits whose loss is within a budget, from the most down.

    Stops at the first width that loses more. No training is needed.

    Args:
      loss: of accuracy at a width, against floats.
      widths: to try.
      budget: the largest loss allowed.

    Returns:
      The width, None if no one is within the budget, and what was tried.
    """
    tried: list[Width] = []
    best: int | None = None
    for bits in sorted(widths, reverse=True):
        tried.append(Width(bits, loss(bits)))
        if tried[-1].loss > budget:
            break
        best = bits
    return best, tuple(tried)
