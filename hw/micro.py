"""Microbenchmarks: small functions whose times say what a processor does well."""

import statistics
import time
from collections.abc import Callable, Iterator
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
    """Yields what `hw.calibrate` times: about a minute on two cores."""
    for m, k in (
        *((1, 128), (1, 512), (1, 1536), (8, 256), (8, 1024), (32, 512)),
        *((64, 128), (128, 256), (128, 768), (256, 1024), (1024, 64)),
    ):
        yield _matmul(m, k)
    yield _wide(64, 128, 1024)
    yield _wide(1, 512, 4096)
    yield _wide(16, 64, 10)
    for batch, size, c, window in (
        *((1, 32, 16, 3), (1, 16, 32, 3), (1, 8, 64, 3), (1, 32, 64, 3)),
        *((1, 4, 512, 3), (8, 32, 16, 3), (8, 8, 128, 3), (1, 56, 64, 3)),
        *((1, 32, 32, 1), (1, 16, 192, 1), (8, 8, 256, 1), (1, 24, 20, 5)),
        (1, 2, 512, 3),
    ):
        yield _conv(batch, size, c, window)
    for batch, size, c in ((1, 32, 32), (1, 16, 192), (1, 8, 384), (8, 16, 64)):
        yield _conv(batch, size, c, 3, groups=c)
    yield _attention(12, 128, 64)
    yield _attention(4, 32, 32)
    for size in (4_096, 65_536, 1_048_576, 8_388_608):
        yield _elements(size)
    for size in (4_096, 131_072, 1_048_576):
        yield _functions(size)
    yield _pool(1, 24, 20)
    yield _pool(8, 32, 64)


def seconds_of(
    fn: Callable[..., Any], *args: Any, budget: float = 0.25, least: int = 7
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
