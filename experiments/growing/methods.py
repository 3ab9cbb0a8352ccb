"""Every method of sparse training, for the phase in which weights are chosen.

All methods learn with the same Adam at the same constant rate in this phase, and are
fine-tuned with fixed masks after it; they differ in their masks alone. STR is a model
with thresholds among its parameters; parallel grow-and-prune is an epoch of copies.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

import gap
from core.errors import unknown_name
from core.rules import Rules
from core.types import Array, PyTree
from experiments.data import Split
from experiments.training import TrainState, make_epoch
from experiments.training.epoch import Epoch
from experiments.training.step import Model


@dataclasses.dataclass(frozen=True)
class Phase:
    """What a method gets to know of its phase.

    Attributes:
      rules: the targets.
      steps: optimizer steps.
      learning_rate: Adam's, constant.
      every: steps between two moves of SET and RigL.
      stage: steps in a stage of cyclic grow-and-prune, as asked for.
      round: steps in a round of parallel grow-and-prune.
      kappa: the number of groups.
      decay: of STR's thresholds.
    """

    rules: Rules
    steps: int
    learning_rate: float
    every: int
    stage: int
    round: int
    kappa: int
    decay: float

    def rounds(self, kappa: int) -> int:
        """Returns the rounds of the cycle that come closest to the stages asked for."""
        return max(1, round(self.steps / (self.stage * kappa)))


Maker = Callable[[Phase, Array, PyTree], optax.GradientTransformation]
"""(phase, random key, parameters) -> optimizer."""


def _adam(phase: Phase) -> optax.GradientTransformation:
    return optax.adam(phase.learning_rate)


def _static(phase: Phase, key: Array, _: PyTree) -> optax.GradientTransformation:
    return gap.static_random(_adam(phase), phase.rules, key)


def _snip(phase: Phase, _key: Array, _: PyTree) -> optax.GradientTransformation:
    return gap.snip(_adam(phase), phase.rules)


def _gmp(phase: Phase, _key: Array, _: PyTree) -> optax.GradientTransformation:
    # 50 updates of the mask, the last one with a tenth of the phase to go.
    end = max(phase.steps * 9 // 10, 1)
    return gap.prune(_adam(phase), phase.rules, gap.Cubic(0, end, max(end // 50, 1)))


def _set(phase: Phase, key: Array, _: PyTree) -> optax.GradientTransformation:
    # A weight that grows at the last step would be left as the random one it is.
    end = phase.steps * 9 // 10
    return gap.set_(_adam(phase), phase.rules, key, every=phase.every, until=end)


def _rigl(phase: Phase, key: Array, _: PyTree) -> optax.GradientTransformation:
    return gap.rigl(
        _adam(phase), phase.rules, key, until=phase.steps, every=phase.every
    )


def groups_of(
    method: str, phase: Phase, params: PyTree, key: Array | None = None
) -> gap.Partition:
    """Returns the groups of a method of grow-and-prune.

    Args:
      method: "p_gap", or "c_gap" with the number of groups or "random" behind it.
      phase: of the method.
      params: the parameters; only paths and shapes are used.
      key: for groups at random.
    """
    suffix = method.removeprefix("c_gap_")
    kappa = int(suffix) if suffix.isdigit() else phase.kappa
    by = "random" if suffix == "random" else "depth"
    return gap.partition(params, phase.rules, kappa, by=by, key=key)


def _cycle(method: str) -> Maker:
    def make(phase: Phase, key: Array, params: PyTree) -> optax.GradientTransformation:
        groups = groups_of(method, phase, params, key)
        rounds = phase.rounds(groups.kappa)
        return gap.cyclic(
            _adam(phase),
            phase.rules,
            key,
            groups,
            interval=max(phase.steps // (rounds * groups.kappa), 1),
            rounds=rounds,
        )

    return make


CYCLES = ("c_gap", "c_gap_1", "c_gap_2", "c_gap_6", "c_gap_random")
"""Cyclic grow-and-prune with the usual groups, and with others."""

MASKED: dict[str, Maker] = {
    "static": _static,
    "snip": _snip,
    "gmp": _gmp,
    "set": _set,
    "rigl": _rigl,
    **{name: _cycle(name) for name in CYCLES},
}
"""Methods with masks in the state of their optimizer."""

METHODS = ("one_shot", *MASKED, "str", "p_gap")
TITLES = {
    "dense": "dense",
    "one_shot": "one-shot",
    "static": "static random",
    "snip": "SNIP",
    "gmp": "GMP",
    "set": "SET",
    "rigl": "RigL",
    "str": "STR at its own density, then magnitude",
    "c_gap": "C-GaP",
    "p_gap": "P-GaP",
    "c_gap_1": "C-GaP, one group",
    "c_gap_2": "C-GaP, two groups",
    "c_gap_6": "C-GaP, six groups",
    "c_gap_random": "C-GaP, groups at random",
}


def optimizer(
    method: str, phase: Phase, key: Array, params: PyTree
) -> optax.GradientTransformation:
    """Returns the optimizer of a method, which keeps account of what it explored.

    Args:
      method: "dense", "one_shot", "str", "p_gap" or a key of `MASKED`.
      phase: what it gets to know.
      key: decides random masks; it is in the state, so an update serves all keys.
      params: the parameters; only paths and shapes are used.

    Raises:
      UnknownNameError: no such method.
    """
    if method in ("dense", "one_shot"):
        return _adam(phase)
    if method == "str":

        def decayed(both: Any) -> PyTree:
            none = jax.tree.map(lambda _: False, both["net"])
            every = jax.tree.map(lambda _: True, both["thresholds"])
            return {"net": none, "thresholds": every}

        only = optax.add_decayed_weights(phase.decay, decayed)
        return optax.chain(only, _adam(phase))
    if method == "p_gap":
        return gap.track_explored(gap.masked(_adam(phase), {}))
    if method not in MASKED:
        raise unknown_name("method", method, METHODS)
    return gap.track_explored(MASKED[method](phase, key, params))


class Thresholded:
    """A network whose parameters are {"net": weights, "thresholds": numbers}."""

    def __init__(self, model: nn.Module):
        self.model = model

    def apply(self, variables: PyTree, *args: Any, **options: Any) -> Any:
        """Applies the network with the weights that are above their thresholds."""
        both = variables["params"]
        params = gap.thresholded(both["net"], both["thresholds"])
        return self.model.apply({**variables, "params": params}, *args, **options)


def copies_of(
    state: TrainState,
    phase: Phase,
    groups: gap.Partition,
    masks: PyTree,
    account: gap.TrackedState | None = None,
) -> TrainState:
    """Returns the state of all copies at the start of a round, along a leading axis.

    Args:
      state: of one network; its optimizer's state is not used.
      phase: of the method.
      groups: the partition.
      masks: of the network.
      account: that of the copies until now; a new one without it.
    """
    params, grown = gap.grow_copies(state.params, masks, groups)

    def begin(params: PyTree, masks: PyTree) -> Any:
        inner = gap.masked(_adam(phase), masks)
        return gap.track_explored(inner).init(params)

    fresh = jax.vmap(begin)(params, grown)
    if account is not None:
        fresh = account._replace(inner=fresh.inner)
    stack = lambda x: jnp.broadcast_to(x, (groups.kappa, *x.shape))  # noqa: E731
    return TrainState(
        stack(state.step), params, jax.tree.map(stack, state.model_state), fresh
    )


def combined(state: TrainState, rules: Rules, groups: gap.Partition) -> TrainState:
    """Returns one network made of all copies and pruned, without optimizer."""
    params, masks = gap.prune_back(gap.combine_copies(state.params, groups), rules)
    model_state = gap.combine_copies(state.model_state, groups)
    return TrainState(state.step[0], params, model_state, masks)


Measure = Callable[[TrainState, Split, Array], TrainState]
"""(state, images, key) -> state with statistics of batch norms measured anew."""


def make_measure(model: Model, **data: Any) -> Measure:
    """Returns the function that measures statistics over the batches of an epoch.

    It is an epoch whose optimizer moves nothing. Statistics run on from what the state
    has, as in training: of n batches a share of 0.9^n of the old ones is left. Use it
    under `jit`: called by itself it gives the state away, as an epoch does.

    Args:
      model: of `TrainState.params`.
      **data: of `make_epoch`: size and pixels of the batches.
    """
    frozen = optax.set_to_zero()
    epoch = make_epoch(model, frozen, **data)

    def measure(state: TrainState, split: Split, key: Array) -> TrainState:
        start = state._replace(opt_state=frozen.init(state.params))
        return state._replace(model_state=epoch(start, split, key)[0].model_state)

    return measure


def epoch_of_copies(
    epoch: Epoch,
    phase: Phase,
    groups: gap.Partition,
    measure: Measure = lambda state, *_: state,
) -> Epoch:
    """Returns an epoch of every copy in turn, with the end of a round where one is.

    Args:
      epoch: of one copy.
      phase: of the method.
      groups: the partition.
      measure: what is done to the combined network, whose activations no copy had.
    """

    @functools.partial(jax.jit, donate_argnums=0)
    def finish(state: TrainState, split: Split, key: Array) -> TrainState:
        def renew(state: TrainState) -> TrainState:
            whole = measure(combined(state, phase.rules, groups), split, key)
            return copies_of(whole, phase, groups, whole.opt_state, state.opt_state)

        ended = state.step[0] % phase.round == 0
        return lax.cond(ended, renew, lambda s: s, state)

    def train(state: TrainState, split: Split, key: Array):
        # Calls of one program: a loop over copies around it takes minutes to compile.
        keys = jax.random.split(key, groups.kappa)
        done = [
            epoch(jax.tree.map(lambda x, i=i: x[i], state), split, keys[i])
            for i in range(groups.kappa)
        ]
        state, metrics = jax.tree.map(lambda *x: jnp.stack(x), *done)
        return finish(state, split, key), jax.tree.map(jnp.mean, metrics)

    return train
