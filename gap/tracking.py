"""What sparse training explored, and what it cost beside dense training."""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax.numpy as jnp
import optax

from core import trees
from core.errors import InputError, describe
from core.types import Array, PartialTree, PyTree


class TrackedState(NamedTuple):
    """State of `track_explored`.

    Invariants: `ever` is True wherever a mask was at some step; `spent` holds the sum
    over steps of each leaf's active share, float32 [].
    """

    steps: Array
    ever: PartialTree
    spent: PartialTree
    inner: optax.OptState

    @property
    def masks(self) -> PartialTree:
        """The masks of the step before."""
        return self.inner.masks  # pyright: ignore[reportAttributeAccessIssue]


def track_explored(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Keeps account of the weights that a sparse training ever used.

    Args:
      inner: a transform with masks in its state: `masked`, `prune`, `rewire`,
        `cyclic`, ...

    Returns:
      A transform with `TrackedState` that updates as `inner` does.

    Raises:
      InputError: a state without masks, at `init`.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from gap import masked
      >>> params = {"w": jnp.ones(4)}
      >>> tx = track_explored(masked(optax.sgd(0.1), {"w": jnp.arange(4) < 3}))
      >>> _, state = tx.update(params, tx.init(params), params)
      >>> explored(state)
      {'w': 0.75}
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> TrackedState:
        state: Any = inner.init(params)
        if not hasattr(state, "masks"):
            raise InputError(
                "gap.track_explored: "
                + describe(type(state).__name__, "a state with masks")
                + ". Wrap gap.masked, gap.prune, gap.rewire or gap.cyclic itself."
            )
        return TrackedState(
            jnp.zeros((), jnp.int32),
            trees.map_partial(jnp.zeros_like, state.masks),
            trees.map_partial(lambda m: jnp.zeros((), jnp.float32), state.masks),
            state,
        )

    def update(updates, state: Any, params=None, **extra):
        updates, inner_state = inner.update(updates, state.inner, params, **extra)
        masks = cast(Any, inner_state).masks
        ever = trees.map_partial(jnp.logical_or, state.ever, masks)
        spent = trees.map_partial(
            lambda total, m: total + jnp.mean(m, dtype=jnp.float32), state.spent, masks
        )
        return updates, TrackedState(state.steps + 1, ever, spent, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def explored(state: TrackedState) -> dict[str, float]:
    """Returns the share of each leaf's weights that was active at some step."""
    return {k: float(m.mean()) for k, m in trees.by_path(state.ever).items()}


def mean_densities(state: TrackedState) -> dict[str, float]:
    """Returns the active share of each leaf, as a mean over steps.

    Raises:
      InputError: no step was made yet.
    """
    steps = int(state.steps)
    if not steps:
        raise InputError(describe("a state before the first step", "a training"))
    return {k: float(s) / steps for k, s in trees.by_path(state.spent).items()}


def training_cost(densities: Mapping[str, float], flops: Mapping[str, float]) -> float:
    """Returns what a training step costs, as a share of the dense step.

    `sum_l d_l F_l / sum_l F_l`, with the density d_l of each leaf (1 where none is
    given) and the operations F_l of its layer. It is a model: it counts no index and
    takes the gradient of pruned weights, which RigL reads now and then, to be free.

    Args:
      densities: active share by path, as `mean_densities` gives.
      flops: operations of a forward pass by path of the kernel, any unit.

    Raises:
      InputError: no operations, or a density of a leaf that has none.

    Example:
      >>> training_cost({"fc1/kernel": 0.1}, {"fc1/kernel": 300.0, "fc2/kernel": 100.0})
      0.325
    """
    total = sum(flops.values())
    unknown = sorted(set(densities) - set(flops))
    if unknown or not total > 0:
        given = f"densities of {', '.join(unknown)}" if unknown else "no operations"
        raise InputError(describe(given, "the operations of every leaf with a density"))
    return sum(densities.get(k, 1.0) * n for k, n in flops.items()) / total
