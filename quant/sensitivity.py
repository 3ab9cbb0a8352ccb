"""Which groups need bits: the loss with one group quantized at a time."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core import rules as path_rules
from core import trees
from core.errors import check_range
from core.numerics import check_finite
from core.types import Array, PartialTree, PyTree
from quant.bitwidth.allocation import greedy_widths
from quant.bitwidth.levels import WIDTHS, check_widths, quantize, spread
from quant.bitwidth.parameters import group_counts, groupings
from quant.quantizers import Per


class Sensitivity(NamedTuple):
    """Losses of a network with one group quantized, for each group and width.

    Attributes:
      loss: with all weights float.
      losses: a partial tree of float64 [groups, widths].
      widths: of the columns, rising.
    """

    loss: float
    losses: PartialTree
    widths: tuple[int, ...]

    @property
    def rises(self) -> PartialTree:
        """By how much each group alone raises the loss, [groups, widths]."""
        return trees.map_partial(lambda each: each - self.loss, self.losses)

    def __str__(self) -> str:
        rises = trees.by_path(self.rises)
        wide = max(map(len, rises))
        return "\n".join(
            f"{path:{wide}}  "
            + "  ".join(
                f"{bits}: {rise:.3g}"
                for bits, rise in zip(self.widths, each.mean(0), strict=True)
            )
            for path, each in rises.items()
        )


def sensitivity(
    evaluate: Callable[..., Array],
    params: PyTree,
    rules: path_rules.Rules,
    *args: PyTree,
    widths: Sequence[int] = WIDTHS,
    batch: int = 1,
) -> Sensitivity:
    """Quantizes one group of weights at a time and evaluates the network.

    One program for all groups and widths: which group it is and how many bits it gets
    are arguments. `evaluate` is traced and compiled once.

    Args:
      evaluate: parameters and `args` to a loss, a scalar; jittable.
      params: a pytree of arrays.
      rules: `(path regex, Per)`; see `bitwidth.init`.
      *args: data: constants of the program if `evaluate` closes over them instead.
      widths: rising.
      batch: how many networks are evaluated together, under `vmap`; above 1 it pays for
        small ones on an accelerator, not for convolutions on a CPU.

    Raises:
      InputError: widths out of range, integers to quantize, a spec that is no `Per`.
      NonFiniteError: NaN or infinity in the parameters.
      RuleError: a rule without a leaf.
      ShapeError: groups that do not fill an axis.

    Example:
      >>> import jax.numpy as jnp
      >>> from quant.quantizers import TENSOR
      >>> params = {"a": jnp.array([1.0, 0.4]), "b": jnp.ones(2)}
      >>> loss = lambda p: jnp.abs(p["a"] - params["a"]).sum()
      >>> found = sensitivity(loss, params, [("a|b", TENSOR)], widths=(1, 2))
      >>> [each.round(3).tolist() for each in found.losses.values()]
      [[[0.6, 0.4]], [[0.0, 0.0]]]
    """
    check_range("batch", batch, 1)
    check_widths(widths)
    check_finite(params, "params")
    counts = group_counts(params, rules)
    shared = groupings(params, rules)
    starts, groups = _starts(counts)
    # The float network first: no group has its number.
    pairs = [(-1, widths[0]), *((g, b) for g in range(groups) for b in widths)]
    pairs += pairs[:1] * (-len(pairs) % batch)  # whole batches: one trace

    def one(pair: Array, params: PyTree, args: tuple[PyTree, ...]) -> Array:
        def leaf(per: Per, w: Array, start: int, count: int) -> Array:
            is_here = start + jnp.arange(count) == pair[0]
            found = quantize(w, jnp.broadcast_to(pair[1], (count,)), per)
            return jnp.where(spread(is_here, w, per), found, w)

        every = trees.map_partial(
            leaf, shared, params, starts, counts, absent=trees.keep_rest
        )
        return evaluate(every, *args)

    @jax.jit
    def program(some: Array, params: PyTree, args: tuple[PyTree, ...]) -> Array:
        if batch == 1:  # without a batch axis convolutions are what they are
            return one(some[0], params, args)[None]
        return jax.vmap(lambda pair: one(pair, params, args))(some)

    params = jax.tree.map(jnp.asarray, params)
    # Calls of one program, read at the end: each costs what one evaluation does.
    batches = jnp.asarray(pairs, jnp.int32).reshape(-1, batch, 2)
    found = jax.device_get([program(some, params, args) for some in batches])
    losses = np.concatenate(found).astype(np.float64)
    table = losses[1 : 1 + groups * len(widths)].reshape(groups, len(widths))
    split = trees.map_partial(lambda n, at: table[at : at + n], counts, starts)
    return Sensitivity(float(losses[0]), split, tuple(widths))


def greedy(
    found: Sensitivity,
    params: PyTree,
    target: float,
    costs: PartialTree | None = None,
) -> PartialTree:
    """Returns widths by measured losses: from the least up, the best bit first.

    A baseline: it takes for granted that the losses of groups add up.

    Args:
      found: what `sensitivity` returned.
      params: its parameters, or their shapes.
      target: average bits of the weights that have widths; never exceeded.
      costs: see `bitwidth.round_to_budget`.

    Returns:
      A partial tree of int32 [groups].

    Raises:
      InputError: a target below the least width.
      NonFiniteError: losses that are not finite.
    """
    return greedy_widths(params, found.losses, target, found.widths, costs)


def _starts(counts: PartialTree) -> tuple[PartialTree, int]:
    """The number of each leaf's first group, and how many there are."""
    ends = np.cumsum([0, *trees.by_path(counts).values()]).tolist()
    places = iter(ends)
    return trees.map_partial(lambda _: next(places), counts), ends[-1]
