"""Counterexamples by projected gradient descent, checked in float64.

`falsify` searches all clauses of a property at once from many starts; `check`
decides, independently of the search, whether a point violates the property.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

import graph
from core.errors import GraphError, InputError, check_range, describe
from core.types import Array, PyTree
from verify import properties
from verify.properties import Clause, Property
from verify.regions import Region

Network: TypeAlias = Callable[[PyTree, Array], Array]
_CHUNK = 16  # clauses attacked in one call; more are attacked one chunk after another


@dataclasses.dataclass(frozen=True)
class Attack:
    """Options of the search; hashable, so that each compiles once per network.

    Attributes:
      restarts: starting points per clause.
      steps: gradient steps.
      step: first step, as a share of half the region's width; it decays to
        `step / 100` along a cosine.
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


class Witness(NamedTuple):
    """An input and output in the unsafe set, both float64.

    Attributes:
      x: inside of the clause's region, of the network's input shape.
      y: the network's output for `x`, flattened.
      clause: which clause of the property is met.
      margin: the largest row of `C y + d`; at most 0.
    """

    x: np.ndarray
    y: np.ndarray
    clause: int
    margin: float


class Candidate(NamedTuple):
    """The most promising point of one clause; `margin` is that of the search."""

    x: np.ndarray
    clause: int
    margin: float


def falsify(
    fn: Network,
    params: PyTree,
    prop: Property,
    key: Array,
    attack: Attack = Attack(),  # noqa: B008  # frozen
    starts: Array | None = None,
) -> list[Candidate]:
    """Returns the best point found for each clause, most promising first.

    Minimises the largest row of `C y + d` over each clause's region. Compiled once
    for each `fn`, `attack` and number of clauses and rows (both rounded up to a
    power of two); parameters, regions and rows are arguments.

    Args:
      fn: `fn(params, x)` for one input of `prop.input_shape`.
      params: the network's parameters; their float dtype is that of the search.
      prop: the property.
      key: a random key.
      attack: options.
      starts: points [m, *input_shape] that every clause tries too, such as
        minimisers of bounds.

    Returns:
      A candidate per clause, inside of its region in float64. A candidate is no
      counterexample before `check` says so.

    Sources: PGD with random starts, arXiv:1706.06083; output diversified starts,
    arXiv:2003.06878.
    """
    found: list[Candidate] = []
    for begin in range(0, len(prop.clauses), _CHUNK):
        clauses = prop.clauses[begin : begin + _CHUNK]
        key, used = jax.random.split(key)
        regions, C, d = _stacked(clauses, _dtype(params))
        points, margins = _search(fn, attack, params, regions, C, d, used, starts)
        points, margins = np.asarray(points), np.asarray(margins)
        for i, clause in enumerate(clauses):  # the padding repeats the clauses
            at = i + len(clauses) * int(np.argmin(margins[i :: len(clauses)]))
            x = clause.region.inside(points[at])
            found.append(Candidate(x, begin + i, float(margins[at])))
        if margins.min() <= 0:
            break
    return sorted(found, key=lambda c: c.margin)


def _dtype(params: PyTree) -> np.dtype:
    kinds = [jnp.result_type(leaf) for leaf in jax.tree.leaves(params)]
    floats = [k for k in kinds if jnp.issubdtype(k, jnp.floating)]
    return np.dtype(floats[0] if floats else np.float32)


def _stacked(clauses: Sequence[Clause], dtype: np.dtype) -> tuple[Region, Any, Any]:
    """Stacks clauses of one norm, padded with copies to powers of two."""
    count = 1 << (len(clauses) - 1).bit_length()
    rows = 1 << (max(len(c.spec.d) for c in clauses) - 1).bit_length()
    padded = [clauses[i % len(clauses)] for i in range(count)]
    at = [np.minimum(np.arange(rows), len(c.spec.d) - 1) for c in padded]
    C = np.stack([c.spec.C[i] for c, i in zip(padded, at, strict=True)])
    d = np.stack([c.spec.d[i] for c, i in zip(padded, at, strict=True)])
    regions = jax.tree.map(
        lambda *leaves: np.stack(leaves).astype(dtype), *[c.region for c in padded]
    )
    return regions, C.astype(dtype), d.astype(dtype)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _search(
    fn: Network,
    attack: Attack,
    params: PyTree,
    regions: Region,
    C: Array,
    d: Array,
    key: Array,
    starts: Array | None,
) -> tuple[Array, Array]:
    """Returns the best point [K, *shape] and margin [K] of each of K clauses."""
    one = _leaky(fn, params, jax.ShapeDtypeStruct(regions.lower.shape[1:], C.dtype))
    each = jax.vmap(jax.vmap(one, (None, 0, 0)), (None, 0, None))

    def rows(x: Array, slopes: Array) -> Array:
        return jnp.einsum("ksn,krn->krs", C, each(params, x, slopes)) + d[:, None]

    def loss(x: Array, slopes: Array) -> tuple[Array, Array]:
        values = rows(x, slopes)
        worst = values.max(-1)
        # Rows that hold already pull no more, beside the worst one, that always does.
        return (worst + jnp.maximum(values, 0).sum(-1)).sum(), worst

    def body(state: tuple) -> tuple:
        step, x, way, best = state
        slopes = leaks * jnp.maximum(1 - 2 * step / attack.steps, 0)
        grad, worst = jax.grad(loss, has_aux=True)(x, slopes)
        way = attack.momentum * way + _normalised(grad)
        share = attack.step * (0.505 + 0.495 * jnp.cos(jnp.pi * step / attack.steps))
        return step + 1, _moved(regions, x, way, share), way, _keep(best, x, worst)

    def go_on(state: tuple) -> Array:
        return (state[0] < attack.steps) & ~(state[3][1] < -enough).any()

    spread, diversify = jax.random.split(key)
    x = _starting_points(attack, regions, lambda x: rows(x, plain), spread, starts)
    leaks = attack.leak * (jnp.arange(x.shape[1]) % 2).astype(x.dtype)
    plain = jnp.zeros_like(leaks)
    outputs = each(params, x, plain)
    enough = 1e-5 * jnp.abs(outputs).max()  # beyond rounding, so that `check` agrees
    x = _diversified(attack, lambda x: each(params, x, plain), regions, x, outputs, key)
    best = x[:, 0], jnp.full(x.shape[:1], jnp.inf, x.dtype)
    state = 0, x, jnp.zeros_like(x), best
    _, x, _, best = jax.lax.while_loop(go_on, body, state)
    return _keep(best, x, rows(x, plain).max(-1))


def _starting_points(
    attack: Attack, regions: Region, key: Array, starts: Array | None
) -> Array:
    """Samples [K, R, *shape], with the middle and the given points first."""
    keys = jax.random.split(key, regions.lower.shape[0])

    def of_one(region: Region, key: Array) -> Array:
        x = region.sample(key, attack.restarts)
        middle = region.project((region.lower + region.upper) / 2)
        x = x.at[0].set(middle)
        if starts is None:
            return x
        given = jax.vmap(region.project)(jnp.asarray(starts, x.dtype))
        return jnp.concatenate([given, x])

    return jax.vmap(of_one)(regions, keys)


def _diversified(
    attack: Attack,
    network: Callable[[Array], Array],
    regions: Region,
    x: Array,
    outputs: int,
    key: Array,
) -> Array:
    """Moves the last restarts towards random directions of the output."""
    count = round(attack.diverse * attack.restarts)
    if count == 0 or attack.diverse_steps == 0:
        return x
    shape = (x.shape[0], count, outputs)
    aim = jax.random.uniform(key, shape, x.dtype, -1.0, 1.0)

    def step(_: int, x: Array) -> Array:
        grad = jax.grad(lambda x: (network(x) * aim).sum())(x)
        return _moved(regions, x, _normalised(grad), attack.step)

    moved = jax.lax.fori_loop(0, attack.diverse_steps, step, x[:, -count:])
    return jnp.concatenate([x[:, :-count], moved], axis=1)


def _normalised(grad: Array) -> Array:
    """Divides each restart's gradient by its mean magnitude, as momentum needs."""
    axes = tuple(range(2, grad.ndim))
    size = jnp.abs(grad).mean(axes, keepdims=True)
    return grad / jnp.where(size > 0, size, jnp.ones_like(size))


def _moved(regions: Region, x: Array, way: Array, share: Array | float) -> Array:
    """Steps against `way`: in every element for boxes, along the gradient for balls."""

    def one(region: Region, x: Array, way: Array) -> Array:
        if region.radius is None:
            move = jnp.sign(way) * ((region.upper - region.lower) / 2)
        else:
            length = jnp.sqrt((way * way).sum())
            scale = jnp.where(length > 0, length, jnp.ones_like(length))
            move = way * (region.radius / scale)
        return region.project(x - share * move)

    return jax.vmap(jax.vmap(one, (None, 0, 0)))(regions, x, way)


def check(fn: Network, params: PyTree, prop: Property, x: Any) -> Witness | None:
    """Returns the violation that `x` is, computed in float64, or None.

    Args:
      fn: `fn(params, x)` for one input of `prop.input_shape`.
      params: the network's parameters; float leaves are cast to float64.
      prop: the property.
      x: one input; a float64 point is used as it is.

    Returns:
      The witness of the clause with the smallest margin, all rows of which are at
      most 0 and whose region contains `x` exactly; None if there is no such clause.
    """
    point = np.asarray(x, np.float64)
    inside: dict[int, bool] = {}
    for clause in prop.clauses:
        if id(clause.region) not in inside:
            inside[id(clause.region)] = clause.region.contains(point)
    if not any(inside.values()):
        return None
    y = evaluate(fn, params, point)
    margins = [
        properties.margin(c.spec, y) if inside[id(c.region)] else np.inf
        for c in prop.clauses
    ]
    margins = np.where(np.isnan(margins), np.inf, margins)
    at = int(np.argmin(margins))
    if margins[at] > 0:
        return None
    return Witness(point, y, at, float(margins[at]))


def evaluate(fn: Network, params: PyTree, x: Any) -> np.ndarray:
    """Returns `fn(params, x)` computed in float64, flattened.

    Args:
      fn: the network.
      params: float leaves are cast to float64.
      x: one input.
    """

    def cast(leaf: Any) -> np.ndarray:
        array = np.asarray(leaf)
        floating = jnp.issubdtype(array.dtype, jnp.floating)
        return array.astype(np.float64) if floating else array

    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        wide = jax.tree.map(cast, params)
        y = _forward(fn, wide, np.asarray(x, np.float64))
        return np.asarray(y, np.float64).ravel()


@functools.partial(jax.jit, static_argnums=0)
def _forward(fn: Network, params: PyTree, x: Array) -> Array:
    return fn(params, x)
