"""Cardinality projection of a large tensor: ours against sorting and partitioning.

    python -m benchmarks.projection [--size=25000000] [--density=0.05] [--turns=9]

Takes about two minutes on 2 CPU cores, nearly all of it in `jnp.sort` and
`lax.top_k`. Each method is a whole projection: magnitudes, threshold, ties cut so
that exactly k entries stay, and a fresh output; all results are compared bit by bit.
numpy's partition is vectorised and single-threaded and needs no compilation.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _timing
from core.selection import keep_largest

INPUTS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "heavy-tailed": lambda rng, n: rng.standard_t(1.5, n),
    "17 values": lambda rng, n: rng.integers(-8, 9, n) / 16,
}
OURS = "keep_largest"
COLUMNS = ("input", "method", "ms", "CPU ms", "first call s", "recompiled", "exact")


def numpy_partition(w: np.ndarray, k: int) -> np.ndarray:
    """Projects with `numpy.partition`; of the ties, the first stay."""
    size = np.abs(w)
    last = np.partition(size, w.size - k)[w.size - k]
    mask = size >= last
    extra = int(np.count_nonzero(mask)) - k
    if extra:
        mask[np.flatnonzero(size == last)[-extra:]] = False
    return np.where(mask, w, np.float32(0))


@jax.jit
def jnp_sort(w: jax.Array, k: jax.Array) -> jax.Array:
    """Projects with `jnp.sort`; of the ties, the first stay."""
    size = jnp.abs(w)
    last = jnp.sort(size)[w.size - k]
    above, tied = size > last, size == last
    mask = above | (tied & (jnp.cumsum(tied) <= k - jnp.sum(above)))
    return jnp.where(mask, w, 0.0)


@functools.partial(jax.jit, static_argnums=1)
def lax_top_k(w: jax.Array, k: int) -> jax.Array:
    """Projects with `lax.top_k`, which keeps the first of the ties."""
    _, kept = jax.lax.top_k(jnp.abs(w), k)
    return jnp.zeros_like(w).at[kept].set(w[kept], unique_indices=True)


def compare(name: str, w: np.ndarray, k: int, turns: int) -> list[dict[str, Any]]:
    """Times every method on `w` and returns the table's rows.

    Args:
      name: what the input is called.
      w: float32 [n].
      k: entries to keep, 1 <= k <= n.
      turns: timed calls of the fast methods; the slow ones get two.

    Returns:
      A row for each method, with `COLUMNS` as keys.
    """
    x, count = jnp.asarray(w), jnp.int32(k)
    ours = jax.jit(keep_largest)
    fast = {
        OURS: lambda: ours(x, count),
        "numpy.partition": lambda: numpy_partition(w, k),
    }
    slow = {
        "jnp.sort": lambda: jnp_sort(x, count),
        "lax.top_k": lambda: lax_top_k(x, k),
    }
    timings = _timing.alternate(
        [_timing.Candidate(*item) for item in fast.items()], turns=turns
    ) | _timing.alternate(
        [_timing.Candidate(*item) for item in slow.items()], turns=2, warmup=0
    )
    expected = numpy_partition(w, k).tobytes()
    return [
        {
            "input": name,
            "method": method,
            **timing.cells,
            "exact": np.asarray((fast | slow)[method]()).tobytes() == expected,
        }
        for method, timing in timings.items()
    ]


def main() -> None:
    """Prints the table and, for each input, our time over the best rival's."""
    parser = argparse.ArgumentParser(description="Cardinality projection, timed.")
    parser.add_argument("--size", type=int, default=25_000_000, help="entries")
    parser.add_argument("--density", type=float, default=0.05, help="share kept")
    parser.add_argument("--turns", type=int, default=9, help="timed calls")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs")
    parser.add_argument("--json", help="file for the rows")
    args = parser.parse_args()
    if args.size < 1 or not 0 < args.density <= 1 or args.turns < 1:
        parser.error("expected size >= 1, 0 < density <= 1 and turns >= 1")
    k = max(1, round(args.size * args.density))
    rows: list[dict[str, Any]] = []
    for name, make in INPUTS.items():
        w = make(np.random.default_rng(args.seed), args.size).astype(np.float32)
        rows += compare(name, w, k, args.turns)
    print(f"projection of {args.size:,} float32 entries onto card <= {k:,}")
    _timing.finish(args.json, rows, COLUMNS, size=args.size, k=k)
    for name in INPUTS:
        times = {r["method"]: r["ms"] for r in rows if r["input"] == name}
        ours = times.pop(OURS)
        best = min(times, key=lambda method: times[method])
        print(f"{name}: {ours / times[best]:.2f} x the time of {best}")


if __name__ == "__main__":
    main()
