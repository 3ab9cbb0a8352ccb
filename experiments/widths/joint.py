"""An epoch that trains weights and widths under a budget of average bits."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import lax

from core.rules import Rules
from core.types import Array, PyTree, Scalar
from experiments.data import Split, normalize
from experiments.training import TrainState, cross_entropy
from quant import bitwidth

INTEGRALITY = 0.05
"""Weight of the penalty of widths between integers, at the end."""
HOT, COLD = 5.0, 0.5
"""Temperatures of categorical widths, at the start and at the end."""


@dataclasses.dataclass(frozen=True, eq=False)
class Joint:
    """Training of weights and widths; `start` and `epoch` are a loop's parts.

    Two steps of the weights, then one of the widths on examples that the weights do
    not see; or both on the same examples.

    Attributes:
      model: called as a linen module.
      rules: what shares a width.
      relaxation: how widths are real.
      optimizer: of the weights.
      widths: optimizer of the widths' parameters; no weight decay.
      steps: of the weights, in all epochs.
      batch_size: examples in a step.
      mean: of the pixels.
      std: of the pixels.
      single_level: whether widths are trained on the weights' examples, at each step.
    """

    model: nn.Module
    rules: Rules
    relaxation: bitwidth.Relaxation
    optimizer: optax.GradientTransformation
    widths: optax.GradientTransformation
    steps: int
    batch_size: int
    mean: Any
    std: Any
    single_level: bool = False

    def start(self, params: PyTree, stats: PyTree, target: float) -> TrainState:
        """Returns the state before the first step; all arrays are copies.

        Params are {"net", "theta"}; the target and the budget's multiplier are with
        the optimizers' states, so one compiled epoch does for all targets.
        """
        theta = bitwidth.init(params, self.rules, self.relaxation)
        opt_state = {
            "net": self.optimizer.init(params),
            "theta": self.widths.init(theta),
            "multiplier": jnp.ones((), jnp.float32),
            "target": jnp.full((), target, jnp.float32),
        }
        state = TrainState(
            jnp.zeros((), jnp.int32),
            {"net": params, "theta": theta},
            {"batch_stats": stats},
            opt_state,
        )
        return jax.tree.map(jnp.copy, state)

    def temperature(self, step: Scalar) -> Array:
        """Returns the temperature of categorical widths after some steps."""
        share = jnp.asarray(step, jnp.float32) / self.steps
        return HOT * (COLD / HOT) ** jnp.minimum(share, 1)

    def beta(self, state: TrainState) -> PyTree:
        """Returns the real width of every group."""
        at = self.temperature(state.step)
        return bitwidth.beta(state.params["theta"], self.relaxation, at)

    def _loss(
        self, net: PyTree, theta: PyTree, state: TrainState, part: tuple[Array, Array]
    ):
        """The objective; the norms' new statistics, the error and average bits."""
        images, labels = part
        at, opt = self.temperature(state.step), state.opt_state
        weights = bitwidth.relaxed(net, theta, self.rules, self.relaxation, at)
        logits, updated = self.model.apply(
            {"params": weights, **state.model_state},
            normalize(images, self.mean, self.std),
            train=True,
            mutable=["batch_stats"],
        )
        error = cross_entropy(logits, labels).mean()
        beta = bitwidth.beta(theta, self.relaxation, at)
        bits = bitwidth.average_bits(net, beta)
        # A traced target: the ratio to it has the target 1.
        ratio = bits / opt["target"]
        total = error + bitwidth.budget_penalty(ratio, 1.0, opt["multiplier"])
        if not isinstance(self.relaxation, bitwidth.Categorical):
            share = state.step.astype(jnp.float32) / self.steps
            weight = INTEGRALITY * jnp.clip(2 * share - 1, 0, 1)
            total += weight * bitwidth.integrality_penalty(net, beta)
        return total, (updated, error, bits)

    def _weights(self, state: TrainState, part: tuple[Array, Array]):
        """A step of the weights, and of the widths if all is one level."""
        net, theta = state.params["net"], state.params["theta"]
        grads, (updated, error, bits) = jax.grad(
            self._loss, (0, 1) if self.single_level else (0,), has_aux=True
        )(net, theta, state, part)
        opt = dict(state.opt_state)
        change, opt["net"] = self.optimizer.update(grads[0], opt["net"], net)
        params = {"net": optax.apply_updates(net, change), "theta": theta}
        if self.single_level:
            change, opt["theta"] = self.widths.update(grads[1], opt["theta"], theta)
            params["theta"] = optax.apply_updates(theta, change)
        state = TrainState(state.step + 1, params, dict(updated), opt)
        return state, {"loss": error, "bits": bits}

    def _theta(self, state: TrainState, part: tuple[Array, Array]) -> TrainState:
        """A step of the widths."""
        net, theta = state.params["net"], state.params["theta"]
        grad, _ = jax.grad(self._loss, 1, has_aux=True)(net, theta, state, part)
        opt = dict(state.opt_state)
        change, opt["theta"] = self.widths.update(grad, opt["theta"], theta)
        params = {"net": net, "theta": optax.apply_updates(theta, change)}
        return state._replace(params=params, opt_state=opt)

    def make_epoch(self) -> Any:
        """Returns epoch(state, (split, held), key) -> (state, metrics), compiled once.

        The state given is donated. An odd last step is left out.
        """

        def epoch(state: TrainState, splits: tuple[Split, Split], key: Array):
            split, held = (tuple(map(jnp.asarray, part)) for part in splits)
            count, others = len(split[1]), len(held[1])
            size = self.batch_size
            pairs = count // size // 2
            first, second = jax.random.split(key)
            order = jax.random.permutation(first, count)
            batches = order[: 2 * pairs * size].reshape(pairs, 2, size)
            places = jnp.arange(pairs * size) % others
            unseen = jax.random.permutation(second, others)[places]
            unseen = unseen.reshape(pairs, size)

            def step(state: TrainState, chosen: Array):
                return self._weights(state, (split[0][chosen], split[1][chosen]))

            def pair(state: TrainState, both: tuple[Array, Array]):
                state, metrics = lax.scan(step, state, both[0])
                if not self.single_level:
                    part = held[0][both[1]], held[1][both[1]]
                    state = self._theta(state, part)
                return state, metrics

            state, metrics = lax.scan(pair, state, (batches, unseen))
            bits = bitwidth.average_bits(state.params["net"], self.beta(state))
            opt = dict(state.opt_state)
            opt["multiplier"] = bitwidth.update_multiplier(
                opt["multiplier"], bits / opt["target"], 1.0
            )
            state = state._replace(opt_state=opt)
            return state, jax.tree.map(jnp.mean, metrics)

        return jax.jit(epoch, donate_argnums=0)
