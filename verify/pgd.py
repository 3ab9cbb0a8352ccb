"""Projected gradient descent on all clauses and restarts at once."""

import dataclasses
import functools
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

import graph
from core.errors import GraphError, InputError, check_range, describe
from core.types import Array, PyTree
from verify.regions import Region

Network: TypeAlias = Callable[[PyTree, Array], Array]
"""`fn(params, x)` for one input."""
_Best: TypeAlias = tuple[Array, Array]
"""Points [K, *shape] and their margins [K]."""


@dataclasses.dataclass(frozen=True)
class Attack:
    """Options of the search; hashable, so that each compiles once per network.

    Attributes:
      restarts: starting points per clause, for inputs of 512 values and more;
        small networks of fewer inputs get up to 128 times as many, see `scaled`.
      steps: gradient steps.
      step: first step, as a share of half the region's width; it decays to
        `step / 100` along a cosine. Half of the restarts take a fifth of it.
      momentum: share of the last direction kept, in [0, 1).
      draws: random points of which each restart starts at the best.
      diverse: share of restarts that begin with output diversified steps.
      diverse_steps: how many of those.
      leak: slope that every second restart gives to inactive ReLUs in its gradients
        (never in the network), so that it leaves plateaus; falls to 0 half-way.
    """

    restarts: int = 32
    steps: int = 100
    step: float = 0.25
    momentum: float = 0.75
    draws: int = 16
    diverse: float = 0.5
    diverse_steps: int = 10
    leak: float = 0.1

    def __post_init__(self):
        for name in ("restarts", "steps", "draws"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name}: {describe(value, 'an integer above 0')}")
        check_range("step", self.step, 0.0, low_open=True)
        check_range("momentum", self.momentum, 0.0, 0.999)
        check_range("diverse", self.diverse, 0.0, 1.0)
        check_range("diverse_steps", self.diverse_steps, 0)
        check_range("leak", self.leak, 0.0, 1.0)

    def scaled(self, inputs: int, weights: int) -> "Attack":
        """Returns the options with more restarts where each of them costs little.

        Args:
          inputs: values of one input.
          weights: parameters of the network.
        """
        times = min(512 // max(inputs, 1), 4_000_000 // max(weights, 1), 128)
        return dataclasses.replace(self, restarts=self.restarts * max(times, 1))


@functools.partial(jax.jit, static_argnums=(0, 1))
def search(
    fn: Network,
    attack: Attack,
    params: PyTree,
    regions: Region,
    C: Array,
    d: Array,
    key: Array,
    starts: Array | None,
) -> _Best:
    """Minimises the largest row of `C y + d` over each of K regions.

    Stops as soon as one margin is below 0 by more than rounding. Compiled once for
    each network, attack and number of clauses and rows.

    Args:
      fn: the network.
      attack: options.
      params: its parameters.
      regions: K regions of one norm, stacked.
      C: coefficients [K, S, n].
      d: constants [K, S].
      key: a random key.
      starts: points [m, *shape] that every clause tries too, or None.

    Returns:
      The best point [K, *shape] and its margin [K].

    Sources: PGD with random starts, arXiv:1706.06083; with momentum,
    arXiv:1710.06081; output diversified starts, arXiv:2003.06878.
    """
    one = _leaky(fn, params, jax.ShapeDtypeStruct(regions.lower.shape[1:], C.dtype))
    each = jax.vmap(jax.vmap(one, (None, 0, 0)), (None, 0, None))

    def rows(x: Array, slopes: Array) -> tuple[Array, Array]:
        y = each(params, x, slopes)
        return jnp.einsum("ksn,krn->krs", C, y) + d[:, None], y

    keys = jax.random.split(key, attack.draws + 1)
    x = _drawn(attack, regions, lambda x: _judged(rows, x), keys[1:], starts)
    leaks = attack.leak * (jnp.arange(x.shape[1]) % 2).astype(x.dtype)
    # Pairs of restarts take long and short steps in turn: narrow sets need short ones.
    slow = (jnp.arange(x.shape[1]) // 2 % 2).astype(x.dtype)
    paces = attack.step * (1 - 0.8 * slow)
    aim = _aims(attack, keys[0], x, C)

    def loss(x: Array, step: Array) -> tuple[Array, tuple[Array, Array]]:
        slopes = leaks * jnp.maximum(1 - 2 * step / attack.steps, 0)
        values, y = rows(x, slopes)
        worst = values.max(-1)
        # Rows that hold already pull no more, beside the worst one, that always does.
        pull = worst + jnp.maximum(values, 0).sum(-1)
        turning = (step < attack.diverse_steps) & (aim != 0).any(-1)
        pull = jnp.where(turning, (aim * y).sum(-1), pull)
        size = jnp.where(jnp.isfinite(y), jnp.abs(y), 0).max()
        enough = 1e-5 * size  # beyond rounding, so that a check in float64 agrees
        return pull.sum(), (worst, enough)

    def body(state: tuple) -> tuple:
        step, x, way, best, _ = state
        grad, (worst, enough) = jax.grad(loss, has_aux=True)(x, step)
        best = _keep(best, x, worst)
        way = attack.momentum * way + _normalised(grad)
        share = paces * (0.505 + 0.495 * jnp.cos(jnp.pi * step / attack.steps))
        return step + 1, _moved(regions, x, way, share), way, best, enough

    def go_on(state: tuple) -> Array:
        step, _, _, best, enough = state
        return (step <= attack.steps) & ~(best[1] < -enough).any()

    best = x[:, 0], jnp.full(x.shape[:1], jnp.inf, x.dtype)
    state = 0, x, jnp.zeros_like(x), best, jnp.zeros((), x.dtype)
    return jax.lax.while_loop(go_on, body, state)[3]


def _judged(rows: Callable[[Array, Array], tuple[Array, Array]], x: Array) -> Array:
    return rows(x, jnp.zeros(x.shape[1], x.dtype))[0].max(-1)


def _aims(attack: Attack, key: Array, x: Array, C: Array) -> Array:
    """Returns random directions of the output [K, R, n], 0 for plain restarts."""
    shape = (*x.shape[:2], C.shape[-1])
    aim = jax.random.uniform(key, shape, C.dtype, -1.0, 1.0)
    plain = jnp.arange(shape[1]) < shape[1] - round(attack.diverse * attack.restarts)
    return jnp.where(plain[None, :, None], 0, aim)


def _keep(best: _Best, x: Array, margins: Array) -> _Best:
    """Returns the better of the best points and those of all restarts."""
    margins = jnp.where(jnp.isnan(margins), jnp.inf, margins)
    least, at = margins.min(1), margins.argmin(1)
    chosen = jax.vmap(lambda points, i: points[i])(x, at)
    better = least < best[1]
    return jax.vmap(jnp.where)(better, chosen, best[0]), jnp.minimum(least, best[1])


@jax.custom_jvp
def _leaky_relu(x: Array, slope: Array) -> Array:
    """A ReLU whose gradient is `slope` where it is inactive."""
    return jnp.maximum(x, 0)


@_leaky_relu.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    x, slope = primals
    tangent = tangents[0]
    return _leaky_relu(x, slope), jnp.where(x > 0, tangent, slope * tangent)


def _leaky(
    fn: Network, params: PyTree, x: jax.ShapeDtypeStruct
) -> Callable[[PyTree, Array, Array], Array]:
    """Returns `fn`, flattened, with a third argument: the slope of inactive ReLUs.

    Where `fn` has no operator graph, the argument has no effect.
    """
    try:
        with jax.ensure_compile_time_eval():
            found = graph.recognise(graph.trace(fn, params, x))
    except GraphError:
        return lambda params, x, slope: fn(params, x).ravel()

    def run(params: PyTree, x: Array, slope: Array) -> Array:
        known = found.bind(params, x)
        for node in found.nodes:
            operands = [known[value] for value in node.inputs]
            if node.op == "relu":
                results = [_leaky_relu(operands[0], slope.astype(operands[0].dtype))]
            else:
                results = node(*operands)
            known.update(zip(node.outputs, results, strict=True))
        return known[found.outputs[0]].ravel()

    return run


def _drawn(
    attack: Attack,
    regions: Region,
    judge: Callable[[Array], Array],
    keys: Array,
    starts: Array | None,
) -> Array:
    """Returns [K, R, *shape]: the given points, the middle, and the best of draws."""
    clauses = regions.lower.shape[0]

    def draw(best: _Best, key: Array) -> tuple[_Best, None]:
        count = (clauses, attack.restarts)
        noise = regions.noise(key, count, regions.lower.shape[1:])
        x = jax.vmap(Region.place)(regions, noise)
        margins = judge(x)
        better = margins < best[1]
        x = jax.vmap(jax.vmap(jnp.where))(better, x, best[0])
        return (x, jnp.where(better, margins, best[1])), None

    middle = jax.vmap(lambda r: r.project((r.lower + r.upper) / 2))(regions)[:, None]
    x = jnp.repeat(middle, attack.restarts, axis=1)
    none = jnp.full(x.shape[:2], jnp.inf, x.dtype)
    (x, _), _ = jax.lax.scan(draw, (x, none), keys)
    x = jnp.concatenate([middle, x[:, 1:]], axis=1)
    if starts is None:
        return x
    given = jax.vmap(jax.vmap(Region.project, (None, 0)), (0, None))
    return jnp.concatenate([given(regions, jnp.asarray(starts, x.dtype)), x], axis=1)


def _normalised(grad: Array) -> Array:
    """Divides each restart's gradient by its mean magnitude, as momentum needs."""
    axes = tuple(range(2, grad.ndim))
    size = jnp.abs(grad).mean(axes, keepdims=True)
    return grad / jnp.where(size > 0, size, jnp.ones_like(size))


def _moved(regions: Region, x: Array, way: Array, shares: Array) -> Array:
    """Steps against `way`: in every element for boxes, along the gradient for balls."""

    def one(region: Region, x: Array, way: Array, share: Array) -> Array:
        if region.radius is None:
            move = jnp.sign(way) * ((region.upper - region.lower) / 2)
        else:
            length = jnp.sqrt((way * way).sum())
            scale = jnp.where(length > 0, length, jnp.ones_like(length))
            move = way * (region.radius / scale)
        return region.project(x - share * move)

    return jax.vmap(jax.vmap(one, (None, 0, 0, 0)), (0, 0, 0, None))(
        regions, x, way, shares
    )
