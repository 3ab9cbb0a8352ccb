"""Trained rank pruning: truncation between steps, a pull on singular values.

Every `period` steps a kernel is replaced by the nearest one of low rank, and the next
gradient is taken there; in between it trains at full rank (arXiv 1812.02402, section
3.2). The sub-gradient U_k V_k^T of the nuclear norm, added to the gradient of those
steps, makes spectra fall off.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from admm.low_rank import LowRank, Truncation
from core import rules as core_rules
from core import trees
from core.errors import check_range
from core.numerics import check_finite
from core.rules import Rules
from core.types import Array, PartialTree, PyTree
from gap.transforms import need_params

HINT = "Take admm.LowRank(rank) or admm.EnergyLoss(loss)."
ALL = 2**31 - 1
"""A rank that no kernel has."""


class TRPState(NamedTuple):
    """State of `trp`.

    Invariants: `step` counts updates; `rank` has the rank of every matched leaf at its
    last truncation, int32 [], and `None` elsewhere; `subgradient` is that of the
    nuclear norm there, `None` everywhere if it is not used.
    """

    step: Array
    rank: PartialTree
    subgradient: PartialTree
    inner: optax.OptState


def truncate(params: PyTree, rules: Rules) -> PyTree:
    """Returns `params` with every kernel that a rule matches truncated.

    Raises:
      InputError, RuleError, NonFiniteError: as `trp`, at `init`.
    """
    sets = core_rules.match(rules, params, kind=Truncation, hint=HINT)
    check_finite(trees.select(sets, params), "params")
    return trees.map_partial(
        lambda s, w: s.truncate(w).kernel, sets, params, absent=trees.keep_rest
    )


def trp(
    inner: optax.GradientTransformation,
    rules: Rules,
    *,
    period: int = 20,
    first: int = 0,
    nuclear: float = 3e-4,
    truncate: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Trained rank pruning around an optimizer.

    The update before every `period`-th step leads to the truncated weights T(W + u), so
    that the gradient of that step is the one at T(W), whatever loop calls it: that is
    the paper's W_low. Begin from `admm.truncate(params, rules)`, whose gradient is the
    first one. Truncation is inside of a `lax.cond`: nothing recompiles. It has to be
    the last transform of a chain: what a later one changes is no T(W + u) any more.

    Args:
      inner: the optimizer, its weight decay and momentum included.
      rules: pairs of a path regex and a `LowRank` or an `EnergyLoss`, or `None`.
      period: steps between truncations, m.
      first: updates before the first truncation, below `period`; 0 for a period of
        them. With (n + 1) % m the last of n updates is that before a truncation: what
        is then measured is of full rank, as far from a truncation as it gets.
      nuclear: lambda, the weight of the nuclear norm's sub-gradient in the gradients of
        steps first, first + m, ...; 0 for none.
      truncate: whether weights are truncated; without it the nuclear norm alone pulls.

    Returns:
      A transform with `TRPState`; `update` needs `params`.

    Raises:
      InputError: period below 1, first not below it, a negative nuclear, or a spec of
        neither kind.
      RuleError: a rule that matches no leaf, at `init`.
      NonFiniteError: NaN or infinity in a matched leaf, at `init`.

    References:
      Xu et al., arXiv 1812.02402, section 3.2.
    """
    check_range("period", period, 1)
    check_range("first", first, 0, period - 1)
    check_range("nuclear", nuclear, 0.0)
    inner = optax.with_extra_args_support(inner)

    def parts(sets: PartialTree, params: PyTree) -> tuple[PartialTree, ...]:
        """Truncated kernels, their ranks and sub-gradients."""
        each, treedef = jax.tree.flatten(sets, is_leaf=lambda s: s is None)
        pairs = zip(each, treedef.flatten_up_to(params), strict=True)
        found = [(None,) * 3 if s is None else s.truncate(w) for s, w in pairs]
        kernels, ranks, slopes = zip(*found, strict=True)
        slopes = slopes if nuclear else (None,) * len(found)
        return tuple(treedef.unflatten(part) for part in (kernels, ranks, slopes))

    def sets_of(params: PyTree) -> PartialTree:
        return core_rules.match(rules, params, kind=Truncation, hint=HINT)

    def init(params: PyTree) -> TRPState:
        sets = sets_of(params)
        check_finite(trees.select(sets, params), "params")
        # Of the parameters as they are: they may have been truncated already.
        whole = trees.map_partial(lambda s: LowRank(ALL, s.scheme), sets)
        _, ranks, slopes = parts(whole, params)
        zero = jnp.zeros((), jnp.int32)
        return TRPState(zero, ranks, slopes, inner.init(params))

    def update(updates, state, params=None, **extra):
        params = need_params(params, "admm.trp")
        sets = sets_of(params)
        if nuclear:
            is_first = (state.step - first) % period == 0

            def pull(s: Array, g: Array) -> Array:
                scale = jnp.where(is_first, nuclear, 0.0).astype(s.dtype)
                return g + (scale * s).astype(g.dtype)

            updates = trees.map_partial(
                pull, state.subgradient, updates, absent=trees.keep_rest
            )
        updates, inner_state = inner.update(updates, state.inner, params, **extra)

        def truncated(updates: PyTree, *_: PartialTree) -> tuple[PyTree, ...]:
            after = optax.apply_updates(params, updates)
            kernels, ranks, slopes = parts(sets, after)
            if not truncate:
                return updates, ranks, slopes

            def lead(z: Array, u: Array, w: Array) -> Array:
                return (z - w).astype(u.dtype)

            ahead = trees.map_partial(
                lead, kernels, updates, params, absent=trees.keep_rest
            )
            return ahead, ranks, slopes

        due = (state.step + 1 - first) % period == 0
        updates, ranks, slopes = jax.lax.cond(
            due,
            truncated,
            lambda *given: given,
            *(updates, state.rank, state.subgradient),
        )
        return updates, TRPState(state.step + 1, ranks, slopes, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)
