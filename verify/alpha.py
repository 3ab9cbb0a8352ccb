"""alpha- and beta-CROWN: bounds optimised by gradient ascent.

Every relaxation has free parameters, and any of their values gives a sound bound: the
bound is maximised over them. Each row has parameters of its own: those of the
specification, and, where the hidden bounds are optimised too, those of the lower and
of the upper bound of every hidden neuron. The hidden bounds then follow their own
parameters in each iteration, and the gradient of the specification's bound reaches all
(alpha-CROWN, arXiv 2011.13824).

With signs demanded of ReLU neurons every row has a multiplier beta >= 0 for each of
them too, those of the hidden bounds among them (beta-CROWN, arXiv 2103.06624). This is
the general form, for any network; `verify.beta` bounds many sub-domains of a reduced
one.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax import lax

from core.errors import InputError, describe
from core.types import Array
from graph import Node, Value
from verify import intervals
from verify.backward import backward
from verify.crown import spec_pass
from verify.network import Network, Weights
from verify.properties import Spec
from verify.regions import Region
from verify.relaxations import RULES
from verify.relaxing import Hidden, concretize, intervals_from, on_input, relaxation
from verify.rounding import rounding
from verify.types import Bounds

Slopes = dict[str, tuple[Array, ...]]
"""Free parameters by the value that rows start from ('output', or the position of a
hidden value) and, in a tuple, by nonlinear node before it: [rows, free, *shape]."""
LIMIT = 2 << 30
"""Bytes of free parameters that `check_size` lets pass."""


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
      learning_rate_beta: first rate of the multipliers of splits.
      chunk: neurons of a hidden value that are bounded at once, 0 for all: where there
        are more, their backward passes are made anew for the gradient, part by part.
    """

    steps: int = 20
    learning_rate: float = 0.1
    decay: float = 0.98
    hidden: bool = True
    share: bool = False
    learning_rate_beta: float = 0.05
    chunk: int = 256


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
            if free_nodes(network, value):
                found[f"hidden{position}"] = value
    return found | {"output": network.output}


def free_nodes(network: Network, value: Value) -> list[Node]:
    """Returns the nonlinear nodes before a value whose relaxations have parameters."""
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
            start = rule.initial(*bounds, **node.params)
            initial[node] = jnp.where(jnp.isnan(start), 0.5, start)  # unbounded
    slopes = {}
    for name, value in starts(network, config.hidden).items():
        n = rows if name == "output" else 2 * _size(value)
        if config.share and name != "output":
            n = 2
        slopes[name] = tuple(
            jnp.broadcast_to(initial[node], (n, *initial[node].shape))
            for node in free_nodes(network, value)
        )
    return slopes


def check_size(network: Network, rows: int, config: AlphaConfig) -> None:
    """Refuses free parameters that would need more than memory is to hold.

    Raises:
      InputError: they have more than `LIMIT` bytes. The optimisation holds about six
        times as many, beside the passes of a chunk.
    """
    size = bytes_of(network, rows, config)
    if size > LIMIT:
        given = f"alpha-CROWN with {size / 2**30:.1f} GiB of slopes"
        remedy = "Take AlphaConfig(share=True), or hidden=False."
        raise InputError(describe(given, f"at most {LIMIT >> 30} GiB", remedy))


def bytes_of(network: Network, rows: int, config: AlphaConfig) -> int:
    """Returns how large the free parameters are.

    Args:
      network: the function.
      rows: of the specification.
      config: see there.
    """
    size = 0
    for name, value in starts(network, config.hidden).items():
        shared = 2 if config.share else 2 * _size(value)
        n = rows if name == "output" else shared
        free = free_nodes(network, value)
        width = sum(RULES[k.op].free * _size(k.outputs[0]) for k in free)
        size += n * width * network.input.dtype.itemsize
    return size


def _size(value: Value) -> int:
    size = 1
    for n in value.shape:
        size *= n
    return size


Splits = Mapping[Node, Array]
"""Signs demanded of the operands of ReLU nodes, int8 [*shape]: 1, -1, or 0 for none."""


def clipped(found: intervals.Intervals, splits: Splits) -> None:
    """Tightens the intervals of split neurons: z >= 0 or z <= 0."""
    for node, sign in splits.items():
        lower, upper = found[node.inputs[0]]
        lower = jnp.where(sign > 0, jnp.maximum(lower, 0), lower)
        upper = jnp.where(sign < 0, jnp.minimum(upper, 0), upper)
        found[node.inputs[0]] = Bounds(lower, upper)


def init_betas(network: Network, slopes: Slopes, splits: Splits) -> Slopes:
    """Returns zero multipliers, [rows, *shape] of each split node before a start."""
    found = {}
    for name, value in starts(network, True).items():
        if name in slopes:
            rows = [s.shape[0] for s in slopes[name]]
            found[name] = tuple(
                jnp.zeros((rows[0], *sign.shape), value.dtype)
                for node, sign in splits.items()
                if node in free_nodes(network, value)
            )
    return found


def bounds_at(
    network: Network,
    weights: Weights,
    region: Region,
    spec: Spec,
    hidden: Hidden,
    slopes: Slopes,
    splits: Splits | None = None,
    betas: Slopes | None = None,
    *,
    margin: bool = False,
    chunk: int = 0,
    lost: Array | float = 0.0,
) -> tuple[Array, Hidden]:
    """Returns the bounds of the rows [S] and of the hidden values at given slopes.

    Hidden bounds are intersected with those given, but let the gradient pass as if
    they were not: a parameter that does no good yet can still learn to.
    """
    table = network.table(weights)
    found = intervals_from(network, region, hidden)
    splits, betas = splits or {}, betas or {}
    clipped(found, splits)

    def cuts(name: str, value: Value, rows: Any) -> dict[Node, Array]:
        chosen = [n for n in splits if n in free_nodes(network, value)]
        given = zip(chosen, betas.get(name, ()), strict=False)
        return {
            node: rows(beta) * splits[node][None].astype(beta.dtype)
            for node, beta in given
        }

    def both_ends(name: str, value: Value, part: Array) -> Array:
        """Lower ends of some neurons, and upper ones negated, [2, neurons]."""
        size = _size(value)
        unit = jax.nn.one_hot(part, size, dtype=value.dtype)
        unit = unit.reshape(-1, *value.shape)
        rows = functools.partial(_of_neurons, part=part, size=size)
        free = dict(
            zip(free_nodes(network, value), map(rows, slopes[name]), strict=True)
        )
        relax = relaxation(network, table, found, free, cuts(name, value, rows))
        left, offset, terms = backward(
            network,
            table,
            {value: jnp.concatenate([unit, -unit])},
            relax,
            network.before(value),
            lost,
        )
        least = concretize(network, left, offset, region)
        if margin:
            given = on_input(network, left, offset)
            slack = rounding(given, offset, terms, region)
            least = least - lax.stop_gradient(slack)
        return least.reshape(2, -1)

    for name, value in starts(network, True).items():
        if name == "output" or name not in slopes:
            continue
        size = _size(value)
        index = lax.optimization_barrier(jnp.arange(size))  # as crown does
        ends = functools.partial(both_ends, name, value)
        if 0 < chunk < size:
            parts = jnp.pad(index, (0, -size % chunk), mode="edge").reshape(-1, chunk)
            least = lax.map(jax.checkpoint(ends), parts)
            least = jnp.moveaxis(least, 1, 0).reshape(2, -1)[:, :size]
        else:
            least = ends(index)
        low, high = least[0].reshape(value.shape), -least[1].reshape(value.shape)
        met = intervals.intersect(found[value], Bounds(low, high))
        found[value] = Bounds(_through(met.lower, low), _through(met.upper, high))
        clipped(found, {n: s for n, s in splits.items() if n.inputs[0] is value})
    relax = relaxation(
        network,
        table,
        found,
        dict(zip(free_nodes(network, network.output), slopes["output"], strict=True)),
        cuts("output", network.output, lambda beta: beta),
    )
    output = spec_pass(network, table, region, spec, relax, lost)
    lower = output.least
    if margin:
        lower = lower - lax.stop_gradient(output.slack)
    return lower, tuple(found[value] for value in network.hidden)


def _of_neurons(slopes: Array, part: Array, size: int) -> Array:
    """Rows of parameters for the lower, then the upper bounds of some neurons."""
    n = part.shape[0]
    if slopes.shape[0] != 2 * size:  # shared
        return jnp.repeat(slopes, n, axis=0, total_repeat_length=2 * n)
    if n == size:  # all of them, in order
        return slopes
    return jnp.concatenate([slopes[part], slopes[size + part]])


def _through(value: Array, like: Array) -> Array:
    """Exactly `value`, with the gradient of `like` where that is finite."""
    like = jnp.where(jnp.isfinite(like), like, 0.0)
    return lax.stop_gradient(value) + (like - lax.stop_gradient(like))


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
    splits: Splits | None = None,
    margin: bool = False,
    steps: Array | None = None,
    lost: Array | float = 0.0,
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
      splits: signs demanded of neurons; their multipliers are optimised too.
      margin: whether the bounds of the rows and the hidden ones are loosened by
        `verify.rounding.rounding`.
      steps: in place of the config's, a number that a program takes as an argument;
        bounds are then not differentiable.
      lost: to underflow, where there is a margin; see `backward`.

    Returns:
      The best of all iterates, row by row and neuron by neuron; the first iterate is
      the start, so no bound is looser than CROWN's.
    """
    rows = spec.C.shape[0]
    if slopes is None:
        slopes = init_slopes(network, weights, region, hidden, rows, config)
    rate = config.learning_rate if learning_rate is None else learning_rate
    optimizer = optax.scale_by_adam()
    splits = splits or {}
    betas = init_betas(network, slopes, splits)

    def bounds(free: Any) -> tuple[Array, Hidden]:
        return bounds_at(
            network, weights, region, spec, hidden, free[0], splits, free[1],
            margin=margin, chunk=config.chunk, lost=lost,
        )  # fmt: skip

    def loss(free: Any) -> tuple[Array, tuple[Array, Hidden]]:
        lower, found = bounds(free)
        return -jnp.minimum(lower, enough).sum(), (lower, found)

    def step(carry: Any, t: Array) -> tuple[Any, None]:
        free, state, best = carry
        (_, (lower, found)), grads = jax.value_and_grad(loss, has_aux=True)(free)
        best = _better(network, best, free[0], lower, found)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(grads, state)
            shrink = config.decay**t
            a, b = rate * shrink, config.learning_rate_beta * shrink
        da, db = cast(Any, updates)
        slopes = jax.tree.map(
            lambda x, dx: jnp.clip(x - (a * dx).astype(x.dtype), 0, 1), free[0], da
        )
        betas = jax.tree.map(
            lambda x, dx: jnp.maximum(x - (b * dx).astype(x.dtype), 0), free[1], db
        )
        return ((slopes, betas), state, best), None

    dtype = network.input.dtype
    best = AlphaState(slopes, hidden, jnp.full(rows, -jnp.inf, dtype))
    free = (slopes, betas)
    with jax.numpy_dtype_promotion("standard"):
        state = optimizer.init(free)
    carry = (free, state, best)
    if steps is None:
        carry, _ = lax.scan(step, carry, jnp.arange(config.steps, dtype=dtype))
    else:
        carry = lax.fori_loop(
            0, steps, lambda t, carry: step(carry, t.astype(dtype))[0], carry
        )
    free, _, best = carry
    lower, found = bounds(free)
    return _better(network, best, free[0], lower, found)


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
                kept[name] = slopes[name]  # shared: the last, not the best of each
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
