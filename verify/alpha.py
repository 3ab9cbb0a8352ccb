"""alpha-CROWN: relaxations optimised by gradient ascent (arXiv 2011.13824).

Every relaxation has free parameters, and any of their values gives a sound bound: the
bound is maximised over them. Each row has parameters of its own: those of the
specification, and, where the hidden bounds are optimised too, those of the lower and
of the upper bound of every hidden neuron. The hidden bounds then follow their own
parameters in each iteration, and the gradient of the specification's bound reaches all.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from core.types import Array
from graph import Value
from verify import intervals
from verify.backward import backward
from verify.crown import (
    Hidden,
    concretize,
    intervals_from,
    relaxation,
    rounding,
    rows_of_spec,
)
from verify.network import Network, Weights
from verify.properties import Spec
from verify.regions import Region
from verify.relaxations import RULES
from verify.types import Bounds

Slopes = dict[str, tuple[Array, ...]]
"""Free parameters by the value that rows start from ('output', or the position of a
hidden value) and, in a tuple, by nonlinear node before it: [rows, free, *shape]."""


@dataclasses.dataclass(frozen=True)
class AlphaConfig:
    """How free parameters are optimised.

    Attributes:
      steps: iterations of Adam.
      learning_rate: its first rate.
      decay: factor of the rate an iteration.
      hidden: whether the hidden bounds are optimised too.
      share: whether all rows of a hidden value share one set of parameters: less
        memory, looser bounds.
    """

    steps: int = 20
    learning_rate: float = 0.1
    decay: float = 0.98
    hidden: bool = True
    share: bool = False


class AlphaState(NamedTuple):
    """What the optimisation found.

    Attributes:
      slopes: the free parameters: of each row those of its best iterate.
      hidden: the best hidden bounds of all iterates, never looser than those given.
      lower: the best bound of each row, [S].
    """

    slopes: Slopes
    hidden: Hidden
    lower: Array


def starts(network: Network, hidden: bool) -> dict[str, Value]:
    """Returns the values whose rows have free parameters, by their key in `Slopes`."""
    found = {}
    if hidden:
        for position, value in enumerate(network.hidden):
            if _nodes(network, value):
                found[f"hidden{position}"] = value
    return found | {"output": network.output}


def _nodes(network: Network, value: Value) -> list[Any]:
    nonlinear = set(network.nonlinear)
    return [n for n in network.before(value) if n in nonlinear and RULES[n.op].free > 0]


def init_slopes(
    network: Network,
    weights: Weights,
    region: Region,
    hidden: Hidden,
    rows: int,
    config: AlphaConfig,
) -> Slopes:
    """Returns every rule's initial parameters, those of CROWN.

    Args:
      network: the function.
      weights: its weights.
      region: of the input.
      hidden: bounds of the hidden values.
      rows: of the specification.
      config: see there.
    """
    table = network.table(weights)
    found = intervals_from(network, region, hidden)
    initial = {}
    for node in network.nonlinear:
        bounds = intervals.operand_bounds(network, table, node, found)
        rule = RULES[node.op]
        if rule.free:
            initial[node] = rule.initial(*bounds, **node.params)
    slopes = {}
    for name, value in starts(network, config.hidden).items():
        n = rows if name == "output" else 2 * _size(value)
        if config.share and name != "output":
            n = 2
        slopes[name] = tuple(
            jnp.broadcast_to(initial[node], (n, *initial[node].shape))
            for node in _nodes(network, value)
        )
    return slopes


def _size(value: Value) -> int:
    size = 1
    for n in value.shape:
        size *= n
    return size


def bounds_at(
    network: Network,
    weights: Weights,
    region: Region,
    spec: Spec,
    hidden: Hidden,
    slopes: Slopes,
) -> tuple[Array, Hidden]:
    """Returns the bounds of the rows [S] and of the hidden values at given slopes.

    Hidden bounds are intersected with those given, but let the gradient pass as if
    they were not: a parameter that does no good yet can still learn to.
    """
    table = network.table(weights)
    found = intervals_from(network, region, hidden)
    for name, value in starts(network, True).items():
        if name == "output" or name not in slopes:
            continue
        size = _size(value)
        unit = jnp.eye(size, dtype=value.dtype).reshape(size, *value.shape)
        nodes = _nodes(network, value)
        own = [_spread(s, size) for s in slopes[name]]
        relax = relaxation(network, table, found, dict(zip(nodes, own, strict=True)))
        rows = {value: jnp.concatenate([unit, -unit])}
        left, offset = backward(network, table, rows, relax, network.before(value))
        least = concretize(network, left, offset, region)
        low = least[:size].reshape(value.shape)
        high = -least[size:].reshape(value.shape)
        met = intervals.intersect(found[value], Bounds(low, high))
        found[value] = Bounds(_through(met.lower, low), _through(met.upper, high))
    relax = relaxation(
        network,
        table,
        found,
        dict(zip(_nodes(network, network.output), slopes["output"], strict=True)),
    )
    left, offset = backward(network, table, rows_of_spec(network, spec), relax)
    offset = offset + jnp.asarray(spec.d, offset.dtype)
    lower = concretize(network, left, offset, region)
    if network.input in left:
        lower = lower - lax.stop_gradient(rounding(left[network.input], offset, region))
    return lower, tuple(found[value] for value in network.hidden)


def _spread(slopes: Array, size: int) -> Array:
    """Rows of parameters for `size` lower and `size` upper bounds."""
    if slopes.shape[0] == 2 * size:
        return slopes
    return jnp.repeat(slopes, size, axis=0, total_repeat_length=2 * size)


def _through(value: Array, like: Array) -> Array:
    """`value`, with the gradient of `like`."""
    return like + lax.stop_gradient(value - like)


def optimize(
    network: Network,
    weights: Weights,
    region: Region,
    spec: Spec,
    hidden: Hidden,
    config: AlphaConfig = AlphaConfig(),
    slopes: Slopes | None = None,
    learning_rate: Array | float | None = None,
    enough: float = jnp.inf,
) -> AlphaState:
    """Maximises the lower bounds of a specification over all free parameters.

    Args:
      network: the function.
      weights: its weights.
      region: of the input.
      spec: rows C y + d.
      hidden: sound bounds of the hidden values, to start from.
      config: see there.
      slopes: to start from; those of CROWN if left out.
      learning_rate: in place of the config's, for a call that goes on from another.
      enough: a row whose bound is above gets no more of the optimisation.

    Returns:
      The best of all iterates, row by row and neuron by neuron; the first iterate is
      the start, so no bound is looser than CROWN's.
    """
    rows = spec.C.shape[0]
    if slopes is None:
        slopes = init_slopes(network, weights, region, hidden, rows, config)
    rate = config.learning_rate if learning_rate is None else learning_rate
    optimizer = optax.scale_by_adam()

    def loss(slopes: Slopes) -> tuple[Array, tuple[Array, Hidden]]:
        lower, found = bounds_at(network, weights, region, spec, hidden, slopes)
        return -jnp.minimum(lower, enough).sum(), (lower, found)

    def step(carry: Any, t: Array) -> tuple[Any, None]:
        slopes, state, best = carry
        (_, (lower, found)), grads = jax.value_and_grad(loss, has_aux=True)(slopes)
        best = _better(network, best, slopes, lower, found)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state)
            size = rate * config.decay**t
            slopes = jax.tree.map(
                lambda a, da: jnp.clip(a - size * da, 0, 1).astype(a.dtype),
                slopes,
                updates,
            )
        return (slopes, state, best), None

    dtype = network.input.dtype
    best = AlphaState(slopes, hidden, jnp.full(rows, -jnp.inf, dtype))
    with jax.numpy_dtype_promotion("standard"):
        state = optimizer.init(slopes)
    (slopes, _, best), _ = lax.scan(
        step, (slopes, state, best), jnp.arange(config.steps, dtype=dtype)
    )
    lower, found = bounds_at(network, weights, region, spec, hidden, slopes)
    return _better(network, best, slopes, lower, found)


def _better(
    network: Network, best: AlphaState, slopes: Slopes, lower: Array, hidden: Hidden
) -> AlphaState:
    """The best of two, row by row; a NaN is never better."""
    kept = dict(best.slopes)
    kept["output"] = _where(lower > best.lower, slopes["output"], kept["output"])
    bounds = []
    for position, (old, new) in enumerate(zip(best.hidden, hidden, strict=True)):
        up, down = new.lower > old.lower, new.upper < old.upper
        name = f"hidden{position}"
        if name in slopes:
            both = jnp.concatenate([up.reshape(-1), down.reshape(-1)])
            if slopes[name] and slopes[name][0].shape[0] == both.shape[0]:
                kept[name] = _where(both, slopes[name], kept[name])
            else:
                kept[name] = slopes[name]
        bounds.append(
            Bounds(
                jnp.where(up, new.lower, old.lower),
                jnp.where(down, new.upper, old.upper),
            )
        )
    best_lower = jnp.where(lower > best.lower, lower, best.lower)
    return AlphaState(kept, tuple(bounds), best_lower)


def _where(rows: Array, new: tuple[Array, ...], old: tuple[Array, ...]):
    def pick(a: Array, b: Array) -> Array:
        return jnp.where(rows.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

    return tuple(pick(a, b) for a, b in zip(new, old, strict=True))
