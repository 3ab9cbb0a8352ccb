"""Which block a layer bears, and in which order its outputs pack best.

Latency depends on shape, density, batch and block alone, so it is measured on random
weights and no network is trained for it; accuracy prefers small blocks. `select_block`
takes the smallest block whose latency is near the best, as arXiv 2108.11033 does.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import InputError, check_range, describe
from core.gemm import gemm_shape
from core.types import Array, ArrayLike
from gap.packed.base import host_matrix, matmul
from gap.packed.blocks import pack_blocks
from gap.patterns import BCR, Target

Timer = Callable[[Sequence[Callable[[], Any]]], Sequence[float]]
"""Calls to their seconds; `time_in_turns` is one."""


class Order(NamedTuple):
    """An order of outputs in which similar ones are neighbours.

    Invariants: `inverse[order[i]] == i`; outputs `order[starts[g]:starts[g + 1]]` read
    the same inputs, and other groups read others; counts of inputs do not rise.
    """

    order: np.ndarray
    inverse: np.ndarray
    starts: np.ndarray


def reorder(mask: ArrayLike) -> Order:
    """Returns an order in which outputs that read the same inputs are neighbours.

    Outputs are sorted by how many inputs they read, the most first, then by which. For
    masks that are not balanced: give `order` to `pack_blocks`, and blocks hold outputs
    of similar work that share gathered inputs. The product undoes the order.

    Args:
      mask: bool, of a kernel in flax layout.

    Raises:
      ShapeError, InputError: a mask without a GEMM view, or not boolean.

    Example:
      >>> found = reorder(np.array([[True, False, True], [False, True, False]]))
      >>> found.order.tolist(), found.starts.tolist()
      ([0, 2, 1], [0, 2])
    """
    _, kept = host_matrix(mask, mask)
    bits = np.packbits(kept.T, axis=1)
    keys = [bits[:, i] for i in reversed(range(bits.shape[1]))]
    order = np.lexsort((*(255 - key for key in keys), -kept.sum(axis=0)))
    ordered = kept.T[order]
    new = np.ones(order.size, bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    inverse = np.empty_like(order)
    inverse[order] = np.arange(order.size)
    return Order(order, inverse, np.flatnonzero(new))


def time_in_turns(calls: Sequence[Callable[[], Any]], turns: int = 15) -> list[float]:
    """Returns the median seconds of each call, made in turns: a b c, a b c, ...

    Each is called once before, which compiles it; results are waited for.
    """
    for call in calls:
        jax.block_until_ready(call())
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(turns):
        for seconds, call in zip(found, calls, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in found]


class BlockChoice(NamedTuple):
    """A chosen block, and what was measured.

    Invariants: `seconds` has each candidate; `pattern` is the one of fewest weights a
    block among those within the slack of the fastest.
    """

    pattern: BCR
    seconds: dict[BCR, float]


def select_block(
    shape: tuple[int, ...],
    density: float,
    batch: int,
    candidates: Sequence[BCR | tuple[int, int]] = (
        (32, 32),
        (64, 64),
        (128, 128),
        (256, 256),
    ),
    *,
    slack: float = 0.1,
    seed: int = 0,
    timer: Timer = time_in_turns,
) -> BlockChoice:
    """Returns the smallest block whose latency is within `slack` of the best.

    Args:
      shape: the kernel's shape.
      density: share of weights to keep, in (0, 1].
      batch: columns of the feature-major activations.
      candidates: patterns, or (inputs, outputs) of a `BCR` that prunes inputs only.
      slack: how much slower than the fastest candidate is accepted, relative.
      seed: of the random weights.
      timer: seconds of calls; replace it to time otherwise.

    Raises:
      InputError: no candidates, or a density, batch or slack out of range.
    """
    check_range("density", density, 0.0, 1.0, low_open=True)
    check_range("batch", batch, 1)
    check_range("slack", slack, 0.0)
    if not candidates:
        raise InputError(describe("no candidates", "at least one block"))
    patterns = [c if isinstance(c, BCR) else BCR(*c) for c in candidates]
    rng = np.random.default_rng(seed)
    w = rng.standard_normal(shape).astype(np.float32)
    x = jnp.asarray(rng.standard_normal((gemm_shape(shape).rows, batch)), jnp.float32)
    product = jax.jit(matmul, static_argnames="layout")

    def call(pattern: BCR) -> Callable[[], Array]:
        kept = Target(density=density, pattern=pattern).kept(shape)
        mask = pattern.mask(jnp.abs(jnp.asarray(w)), kept)
        packed = pack_blocks(w, mask, (pattern.inputs, pattern.outputs))
        return lambda: product(x, packed, layout="feature")

    seconds = dict(zip(patterns, timer([call(p) for p in patterns]), strict=True))
    limit = (1 + slack) * min(seconds.values())
    near = [p for p in patterns if seconds[p] <= limit]
    return BlockChoice(min(near, key=lambda p: p.inputs * p.outputs), seconds)
