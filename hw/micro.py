"""Microbenchmarks: small functions whose times say what a processor does well."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from core.errors import check_range
from core.types import Array

_DEPTH = 6
"""Layers of a microbenchmark: one after another, so that none is left out."""


class Micro(NamedTuple):
    """A function to time and to price.

    Attributes:
      name: says kind and shape.
      fn: `fn(params, x)`.
      params: shapes of its parameters.
      x: shape of its input.
    """

    name: str
    fn: Callable[[Any, Array], Array]
    params: Any
    x: jax.ShapeDtypeStruct

    def arrays(self, seed: int = 0) -> tuple[Any, Array]:
        """Returns random parameters and input; small, so that nothing overflows."""
        rng = np.random.default_rng(seed)

        def draw(s: Any) -> Array:
            scale = 1 / np.sqrt(max(np.prod(s.shape[:-1]), 1))
            return jnp.asarray(rng.standard_normal(s.shape).astype(np.float32) * scale)

        return jax.tree.map(draw, self.params), draw(self.x)


def _struct(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _matmul(m: int, k: int) -> Micro:
    def fn(params, x):
        for w in params:
            x = x @ w
        return x

    params = [_struct(k, k)] * _DEPTH
    return Micro(f"matmul {m}x{k}x{k}", fn, params, _struct(m, k))


def _wide(m: int, k: int, n: int) -> Micro:
    def fn(params, x):
        for up, down in params:
            x = (x @ up) @ down
        return x

    params = [(_struct(k, n), _struct(n, k))] * (_DEPTH // 2)
    return Micro(f"matmul {m}x{k}x{n}", fn, params, _struct(m, k))


def _conv(batch: int, size: int, c: int, window: int, groups: int = 1) -> Micro:
    def fn(params, x):
        for w in params:
            x = lax.conv_general_dilated(
                x,
                w,
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=groups,
            )
        return x

    kind = "depthwise" if groups > 1 else "conv"
    params = [_struct(window, window, c // groups, c)] * _DEPTH
    name = f"{kind} {batch}x{size}x{size}x{c}, {window}x{window}"
    return Micro(name, fn, params, _struct(batch, size, size, c))


def _attention(batch: int, m: int, k: int) -> Micro:
    def fn(params, x):
        for _ in range(_DEPTH // 2):
            scores = jnp.einsum("bik,bjk->bij", x, x)
            x = jnp.einsum("bij,bjk->bik", scores, x) * params[0]
        return x

    name = f"attention {batch}x{m}x{k}"
    return Micro(name, fn, [_struct(1, 1, 1)], _struct(batch, m, k))


def _elements(size: int) -> Micro:
    def fn(params, x):
        for p in params:
            x = jnp.maximum(x * p + 0.5, 0.1)
            x = x - x.sum(axis=1, keepdims=True)  # ends the chain
        return x

    params = [_struct(1, 64)] * _DEPTH
    return Micro(f"elements {size}", fn, params, _struct(size // 64, 64))


def _functions(size: int) -> Micro:
    def fn(params, x):
        for p in params:
            x = jnp.tanh(x * p)
            x = x - x.sum(axis=1, keepdims=True)
        return x

    params = [_struct(1, 64)] * _DEPTH
    return Micro(f"functions {size}", fn, params, _struct(size // 64, 64))


def _pool(batch: int, size: int, c: int) -> Micro:
    def fn(params, x):
        x = x * params[0]
        for _ in range(3):
            x = lax.reduce_window(
                x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME"
            )
        return x

    name = f"pool {batch}x{size}x{size}x{c}"
    return Micro(name, fn, [_struct(1, 1, 1, 1)], _struct(batch, size, size, c))


def micros() -> Iterator[Micro]:
    """Yields what `hw.calibrate` times: about a minute on two cores.

    No shape is one of a network that experiments predict: a test holds that. Small maps
    with many channels are here too: their weights, not their sums, take the time.
    """
    for m, k in (
        *((1, 144), (1, 480), (1, 1504), (6, 272), (10, 1056), (28, 496)),
        *((72, 136), (112, 240), (144, 736), (240, 992), (960, 72)),
    ):
        yield _matmul(m, k)
    yield _wide(56, 144, 992)
    yield _wide(1, 480, 3872)
    yield _wide(12, 72, 14)
    for batch, size, c, window in (
        *((1, 30, 20, 3), (1, 18, 36, 3), (1, 9, 72, 3), (1, 34, 56, 3)),
        *((1, 5, 480, 3), (6, 30, 20, 3), (6, 9, 136, 3), (1, 52, 72, 3)),
        *((1, 30, 40, 1), (1, 18, 176, 1), (6, 9, 272, 1), (1, 22, 18, 5)),
        *((1, 3, 480, 3), (1, 6, 336, 3), (4, 3, 400, 3), (1, 5, 720, 1)),
    ):
        yield _conv(batch, size, c, window)
    for batch, size, c in ((1, 30, 40), (1, 18, 176), (1, 9, 360), (6, 18, 72)):
        yield _conv(batch, size, c, 3, groups=c)
    yield _attention(10, 112, 72)
    yield _attention(4, 36, 28)
    for size in (4_096, 65_536, 1_048_576, 8_388_608):
        yield _elements(size)
    for size in (4_096, 131_072, 1_048_576):
        yield _functions(size)
    yield _pool(1, 22, 18)
    yield _pool(6, 30, 72)


def repeated(timers: Sequence[Callable[[], float]], repeats: int = 3) -> list[float]:
    """Returns the median seconds of each timer, taken in turns.

    What else the machine does for a while spoils a turn of all, not one of them.

    Args:
      timers: each returns seconds.
      repeats: turns, at least 3.

    Raises:
      InputError: fewer turns.
    """
    check_range("repeats", repeats, low=3)
    turns = [[timer() for timer in timers] for _ in range(repeats)]
    return [statistics.median(times) for times in zip(*turns, strict=True)]


def seconds_of(
    fn: Callable[..., Any], *args: Any, budget: float = 0.1, least: int = 5
) -> float:
    """Returns the median seconds of a call, after one that compiles.

    Args:
      fn: jitted; weights go in `args`, since XLA folds what it closes over.
      *args: what it is called with.
      budget: seconds to spend on calls.
      least: calls at least.

    Raises:
      InputError: fewer calls than one.
    """
    check_range("least", least, low=1)
    jax.block_until_ready(fn(*args))
    times, start = [], time.perf_counter()
    while len(times) < least or time.perf_counter() - start < budget:
        before = time.perf_counter()
        jax.block_until_ready(fn(*args))
        times.append(time.perf_counter() - before)
    return statistics.median(times)
