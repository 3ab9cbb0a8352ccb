"""Integer widths within a budget: rounded real ones, greedy choices, random ones.

All of it is on the host, in float64 and whole numbers: a budget is kept exactly. Every
group has a row of losses, one for each width that it may have; a move is worth the loss
that it saves for a bit.
"""

import heapq
import math
from collections.abc import Sequence

import jax
import numpy as np

from core import trees
from core.errors import InputError, ShapeError, check_range, describe
from core.numerics import check_finite
from core.rules import Rules
from core.types import Array, PartialTree, PyTree
from quant.bitwidth.budget import bit_costs
from quant.bitwidth.levels import WIDTHS, check_widths
from quant.bitwidth.parameters import group_counts


def round_to_budget(
    params: PyTree,
    beta: PartialTree,
    slopes: PartialTree,
    target: float,
    widths: Sequence[int] = WIDTHS,
    growth: float = 4.0,
    costs: PartialTree | None = None,
) -> PartialTree:
    """Rounds real widths so that their average is at most `target`, always.

    Each goes to the nearest width, the middle to the lower one. While the average is
    above the target, the group whose estimated loss rises least for a bit saved loses
    one; then, while there is room, the group whose estimated loss falls most gains one.

    The loss of a group at b bits is estimated as |slope| * growth**(beta - b) /
    ln(growth), whose slope at beta is the one given.

    Args:
      params: a pytree of arrays, or of their shapes.
      beta: a partial tree of arrays [groups].
      slopes: derivatives of the loss in beta, of the same structure: see `with_widths`.
      target: average bits of the weights that have widths.
      widths: what a group may have.
      growth: by how much a slope grows for each bit less: 4 as squared errors do, 1 for
        slopes that do not change. With 1 a group gives all its bits before the next.
      costs: what a bit of each group costs, whole numbers [groups], for a target that
        is the average by these; see `bit_costs`.

    Returns:
      A partial tree of int32 [groups].

    Raises:
      InputError: a target that the least widths do not meet.
      NonFiniteError: NaN or infinity in widths or slopes.
      ShapeError: trees that do not fit together.
    """
    check_finite(beta, "beta")
    check_finite(slopes, "slopes")
    check_range("growth", growth, 1.0)
    options = _options(widths)
    _check_alike(beta, slopes)
    sizes = bit_costs(params, beta, costs)
    real, slope = _vector(beta), np.abs(_vector(slopes))
    loss = slope[:, None] * _decay(real[:, None] - options, growth)
    capacity = _capacity(sizes, options, target)
    middles = (options[1:] + options[:-1]) / 2
    places = np.searchsorted(middles, real, side="left")
    places = lowered(places, loss, sizes, options, capacity)
    places = raised(places, loss, sizes, options, capacity)
    return _tree(options[places], beta)


def greedy_widths(
    params: PyTree,
    losses: PartialTree,
    target: float,
    widths: Sequence[int],
    costs: PartialTree | None = None,
) -> PartialTree:
    """Returns widths that start at the least and rise where a bit saves most loss.

    Args:
      params: a pytree of arrays, or of their shapes.
      losses: a partial tree of arrays [groups, widths]: the loss with that one group at
        each width.
      target: average bits of the weights that have widths.
      widths: of the columns, rising.
      costs: see `round_to_budget`.

    Raises:
      InputError, NonFiniteError, ShapeError: see `round_to_budget`.
    """
    check_finite(losses, "losses")
    options = _options(widths)
    sizes = bit_costs(params, losses, costs)
    rows = [np.asarray(part, np.float64) for part in trees.by_path(losses).values()]
    places = np.zeros(len(sizes), np.int64)
    capacity = _capacity(sizes, options, target)
    places = raised(places, np.concatenate(rows), sizes, options, capacity)
    return _tree(options[places], losses)


def random_widths(
    key: Array,
    params: PyTree,
    rules: Rules,
    target: float,
    widths: Sequence[int] = WIDTHS,
) -> PartialTree:
    """Returns random widths that use up a budget, a baseline of equal size.

    Each is drawn evenly; then groups in random order lose bits until the average is
    within the target, and gain some while there is room.

    Args:
      key: a random key.
      params: a pytree of arrays, or of their shapes.
      rules: see `init`.
      target: average bits of the weights that have widths.
      widths: what a group may have.

    Raises:
      InputError: a target that the least widths do not meet.
    """
    options = _options(widths)
    counts = group_counts(params, rules)
    like = trees.map_partial(lambda n: np.zeros(n, np.int32), counts)
    sizes = bit_costs(params, like)
    capacity = _capacity(sizes, options, target)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    places = rng.integers(len(options), size=len(sizes))
    spent = int((sizes * options[places]).sum())
    for step in (-1, 1):
        moved = True
        while moved:
            moved = False
            for g in rng.permutation(len(sizes)):
                place = places[g] + step
                if not 0 <= place < len(options) or (step < 0 and spent <= capacity):
                    continue
                cost = int(sizes[g] * (options[place] - options[places[g]]))
                if step < 0 or spent + cost <= capacity:
                    places[g], spent, moved = place, spent + cost, True
    return _tree(options[places], like)


def lowered(
    places: np.ndarray,
    loss: np.ndarray,
    sizes: np.ndarray,
    options: np.ndarray,
    capacity: int,
) -> np.ndarray:
    """Returns places in `options` with moves down until the bits are within capacity.

    Args:
      places: of each group, [G].
      loss: [G, options], convex in the width.
      sizes: what a bit of each group costs, [G]: its weights.
      options: widths, rising.
      capacity: bits.
    """
    places = places.copy()
    spent = int((sizes * options[places]).sum())

    def move(g: int) -> tuple[float, int, int]:
        place = places[g]
        saved = int(sizes[g] * (options[place] - options[place - 1]))
        return (loss[g, place - 1] - loss[g, place]) / saved, g, saved

    heap = [move(g) for g in range(len(places)) if places[g]]
    heapq.heapify(heap)
    while spent > capacity:  # ends: at the least widths the capacity is met
        _, g, saved = heapq.heappop(heap)
        places[g] -= 1
        spent -= saved
        if places[g]:
            heapq.heappush(heap, move(g))
    return places


def raised(
    places: np.ndarray,
    loss: np.ndarray,
    sizes: np.ndarray,
    options: np.ndarray,
    capacity: int,
) -> np.ndarray:
    """Returns places in `options` with moves up, the best next, while there is room.

    A move may pass over widths, so that a loss that rises by a bit and falls by two is
    no obstacle. None that raises the loss is made.

    Args:
      places: of each group, [G].
      loss: [G, options], of any kind.
      sizes: what a bit of each group costs, [G]: its weights.
      options: widths, rising.
      capacity: bits.
    """
    places = places.copy()
    room = capacity - int((sizes * options[places]).sum())

    def push(g: int) -> None:
        place = places[g]
        costs = sizes[g] * (options[place + 1 :] - options[place])
        fits = int(np.searchsorted(costs, room, side="right"))
        if fits:
            worth = (loss[g, place] - loss[g, place + 1 :][:fits]) / costs[:fits]
            best = int(worth.argmax())
            if worth[best] >= 0:
                move = -worth[best], g, place + 1 + best, int(costs[best])
                heapq.heappush(heap, move)

    heap: list[tuple[float, int, int, int]] = []
    for g in range(len(places)):
        push(g)
    while heap:
        _, g, place, cost = heapq.heappop(heap)
        if cost <= room:
            places[g] = place
            room -= cost
        push(g)  # from its new place, or a move that still fits
    return places


def _decay(bits: np.ndarray, growth: float) -> np.ndarray:
    """growth**bits / ln(growth), less what does not depend on bits."""
    return bits if growth == 1 else np.expm1(bits * math.log(growth)) / math.log(growth)


def _options(widths: Sequence[int]) -> np.ndarray:
    check_widths(widths)
    return np.asarray(widths, np.int64)


def _capacity(sizes: np.ndarray, options: np.ndarray, target: float) -> int:
    """The most bits whose average is not above the target."""
    check_range("target", target, 0.0, low_open=True)
    total = int(sizes.sum())
    capacity = math.floor(target * total)
    while capacity / total > target:
        capacity -= 1
    while (capacity + 1) / total <= target:
        capacity += 1
    if capacity < total * options[0]:
        raise InputError(
            describe(
                f"target={target}",
                f"at least {options[0]}, the least width",
                "Allow smaller widths.",
            )
        )
    return capacity


def _check_alike(beta: PartialTree, slopes: PartialTree) -> None:
    """Raises `ShapeError` unless every width has a slope."""
    wanted, given = (
        {path: np.shape(part) for path, part in trees.by_path(parts).items()}
        for parts in (beta, slopes)
    )
    if wanted != given:
        raise ShapeError(
            describe(
                f"slopes of shapes {given}",
                f"those of the widths, {wanted}",
                "Differentiate the loss in the same widths.",
            )
        )


def _vector(parts: PartialTree) -> np.ndarray:
    """All groups in one row, float64."""
    rows = [np.asarray(part, np.float64) for part in trees.by_path(parts).values()]
    return np.concatenate(rows)


def _tree(values: np.ndarray, like: PartialTree) -> PartialTree:
    """Integers of all groups as a partial tree, int32 [groups] each."""
    counts = [len(part) for part in trees.by_path(like).values()]
    rows = iter(np.split(values.astype(np.int32), np.cumsum(counts)[:-1]))
    return trees.map_partial(lambda _: next(rows), like)
