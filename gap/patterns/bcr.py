"""Block column-row sparsity: in every block, some inputs times some outputs."""

import dataclasses
import functools
import math
import numbers

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import InputError, check_range, describe
from core.gemm import gemm_shape
from core.types import Array
from gap.patterns.base import Storage, bits_for, check_count, check_positive, pieces
from gap.patterns.coarse import join_blocks, split_blocks
from gap.patterns.ranking import best, group_scores


@dataclasses.dataclass(frozen=True)
class BCR:
    """Block column-row pruning (arXiv 2108.11033): each block its own rows and columns.

    The GEMM view is cut into blocks of `inputs` x `outputs` (at most the matrix). Every
    block keeps the weights where one of its `n_in` kept inputs meets one of its `n_out`
    kept outputs: a small dense matrix. The variant here is balanced: `n_in` and `n_out`
    are the same in all blocks, but a border block that has fewer keeps all it has.

    A unit is one weight of a full block, so the density of a block is its share of
    weights, and `kept` says which pair stands for a count. Which inputs and outputs are
    best jointly is a combinatorial problem; `mask` is a **heuristic**, not a Euclidean
    projection: first the inputs of largest energy, then the outputs of largest energy
    on those inputs, as in the paper, then `refine` passes that choose each side again
    given the other (the kept energy never falls).

    Attributes:
      inputs: rows of the GEMM view in a block.
      outputs: columns of the GEMM view in a block.
      split: how a density d is shared out: inputs d**split, outputs d**(1 - split).
        1 prunes inputs only, 0 outputs only.
      refine: passes of alternating choice after the two phases.
      share_outputs: whether the blocks of one block column keep the same outputs, so
        that a product needs no scatter.

    Example, one block, half of its inputs:
      >>> import jax.numpy as jnp
      >>> BCR().mask(jnp.array([[1.0, 5.0], [3.0, 3.0]]), 2).tolist()
      [[True, True], [False, False]]
    """

    inputs: int = 128
    outputs: int = 128
    split: float = 1.0
    refine: int = 0
    share_outputs: bool = False

    def __post_init__(self):
        check_positive("inputs", self.inputs)
        check_positive("outputs", self.outputs)
        if isinstance(self.split, bool) or not isinstance(self.split, numbers.Real):
            raise InputError(f"split: {describe(repr(self.split), 'a number')}")
        check_range("split", self.split, 0.0, 1.0)
        check_range("refine", self.refine, 0)

    def block(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Returns inputs and outputs of a full block of a weight of `shape`."""
        view = gemm_shape(shape)
        return min(self.inputs, view.rows), min(self.outputs, view.cols)

    def units(self, shape: tuple[int, ...]) -> int:
        """Returns the weights of a full block."""
        return math.prod(self.block(shape))

    def kept(self, shape: tuple[int, ...], count: int) -> tuple[int, int]:
        """Returns `(n_in, n_out)` for a count of units.

        The pairs from (0, 0) to the full block form a staircase along the split rule;
        the pair whose product is nearest is taken, the larger of two, and at least the
        first one for a positive count. Neither number falls when the count grows, so
        gradual pruning never brings a weight back; with split 1 all outputs stay.
        (The rule of the paper's sister work rounds up one number and then the other,
        which keeps more than asked and is not monotone.)

        Raises:
          InputError: a count out of range.
        """
        check_count(count, self.units(shape))
        path, from_count = _staircase(*self.block(shape), float(self.split))
        n_in, n_out = path[int(np.searchsorted(from_count, count, side="right")) - 1]
        return int(n_in), int(n_out)

    def after_drop(
        self, shape: tuple[int, ...], count: int, fraction: float | Array
    ) -> int | Array:
        """Returns the count that is left when a share of a block is dropped.

        The pair of the staircase whose product is nearest to `1 - fraction` of that of
        `count`; with any fraction above 0 each number that is neither 1 nor full falls
        by at least 1, since a smaller step would move nothing.

        Args:
          shape: of the weight.
          count: units, out of which `kept` makes inputs and outputs.
          fraction: float32 [], may be traced.

        Returns:
          int32 [], a count of units.
        """
        check_count(count, self.units(shape))
        block = self.block(shape)
        path, from_count = _staircase(*block, float(self.split))
        place = int(np.searchsorted(from_count, count, side="right")) - 1
        free = (path[place] > 1) & (path[place] < np.array(block))
        lower = path[:place] < path[place]
        enough = np.flatnonzero(lower[:, free].all(axis=1)) if free.any() else [place]
        products = jnp.asarray(path.astype(np.float32).prod(axis=1))
        fraction = jnp.asarray(fraction, jnp.float32)
        near = jnp.argmin(jnp.abs(products - (1 - fraction) * products[place]))
        least = jnp.minimum(near, int(enough[-1]))
        return jnp.asarray(from_count)[jnp.where(fraction > 0, least, place)]

    def mask(self, scores: Array, count: int | Array) -> Array:
        """Returns the mask of the best inputs and outputs; see `Pattern.mask`."""
        units = self.units(scores.shape)
        check_count(count, units)
        if not units:
            return jnp.zeros(scores.shape, bool)
        return self._mask(scores, count)

    @functools.partial(jax.jit, static_argnums=0)
    def _mask(self, scores: Array, count: int | Array) -> Array:
        inputs, outputs = self.block(scores.shape)
        path, from_count = _staircase(inputs, outputs, float(self.split))
        count = jnp.maximum(jnp.asarray(count).astype(jnp.int32), 0)
        place = jnp.sum(jnp.asarray(from_count) <= count) - 1
        n_in, n_out = jnp.asarray(path)[place]
        blocks = split_blocks(scores, inputs, outputs)
        # Which lines are no padding, computed here: XLA would fold them for seconds.
        view, (down, _, across, _) = gemm_shape(scores.shape), blocks.shape
        rows = jnp.asarray(np.arange(down * inputs).reshape(down, -1) < view.rows)
        cols = jnp.asarray(np.arange(across * outputs).reshape(across, -1) < view.cols)

        def choose_inputs(keep_out: Array) -> Array:
            energy = group_scores(jnp.where(keep_out, blocks, -jnp.inf), (3,))
            valid = jnp.broadcast_to(rows[:, :, None], energy.shape)
            return best(energy, n_in, 1, valid, computed=True)[..., None]

        def choose_outputs(keep_in: Array) -> Array:
            axes = (0, 1) if self.share_outputs else (1,)
            energy = group_scores(jnp.where(keep_in, blocks, -jnp.inf), axes)
            valid = jnp.broadcast_to(cols, energy.shape)
            chosen = best(energy, n_out, -1, valid, computed=True)
            return chosen[None, None] if self.share_outputs else chosen[:, None]

        keep_in = choose_inputs(jnp.ones((), bool))
        keep_out = choose_outputs(keep_in)
        for _ in range(self.refine):
            keep_in = choose_inputs(keep_out)
            keep_out = choose_outputs(keep_in)
        keep = jnp.broadcast_to(keep_in & keep_out, blocks.shape)
        return join_blocks(keep, scores.shape)

    def weights(self, shape: tuple[int, ...], count: int) -> int:
        """Returns the kept weights, exactly."""
        n_in, n_out = self.kept(shape, count)
        view, (inputs, outputs) = gemm_shape(shape), self.block(shape)
        kept_in = sum(min(n_in, n) for n in pieces(view.rows, max(inputs, 1)))
        return kept_in * sum(min(n_out, n) for n in pieces(view.cols, max(outputs, 1)))

    def storage(self, shape: tuple[int, ...], count: int, bits: int = 32) -> Storage:
        """Returns the size with `n_in n_out` slots a block, and which they are.

        A side that is kept whole needs no indices; shared outputs are listed once.
        """
        n_in, n_out = self.kept(shape, count)
        view, (inputs, outputs) = gemm_shape(shape), self.block(shape)
        if (n_in, n_out) == (inputs, outputs):
            return Storage(view.rows * view.cols * bits, 0)
        down = len(pieces(view.rows, inputs))
        across = len(pieces(view.cols, outputs))
        index = 0
        if n_in < inputs:
            index += down * across * n_in * bits_for(inputs)
        if n_out < outputs:
            lists = across if self.share_outputs else down * across
            index += lists * n_out * bits_for(outputs)
        return Storage(down * across * n_in * n_out * bits, index)


@functools.lru_cache(maxsize=256)
def _staircase(
    inputs: int, outputs: int, split: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pairs (n_in, n_out) that stand for counts, and from which count on.

    A pair follows the curve (inputs d**split, outputs d**(1 - split)) with each number
    rounded to the nearest; where both change, the one due first changes first.

    Returns:
      int32 [p, 2], from (0, 0) to (inputs, outputs), neither column falling; int32 [p],
      the first count of each pair: halfway from the product before, halves up.
    """
    if split == 1.0:
        path = [(i, outputs) for i in range(1, inputs + 1)]
    elif split == 0.0:
        path = [(inputs, j) for j in range(1, outputs + 1)]
    else:
        # At which density each number reaches 2, 3, ...; inputs first among equals.
        due = [(((i - 0.5) / inputs) ** (1 / split), 0) for i in range(2, inputs + 1)]
        due += [
            (((j - 0.5) / outputs) ** (1 / (1 - split)), 1)
            for j in range(2, outputs + 1)
        ]
        path = [(1, 1)]
        for _, side in sorted(due):
            n_in, n_out = path[-1]
            path.append((n_in + 1, n_out) if side == 0 else (n_in, n_out + 1))
    products = np.array([0] + [i * j for i, j in path], np.int64)
    from_count = -((-products[1:] - products[:-1]) // 2)  # halves go to the larger
    from_count[:1] = 1  # a positive count keeps something
    return (
        np.array([(0, 0), *path], np.int32),
        np.concatenate([[0], from_count]).astype(np.int32),
    )
