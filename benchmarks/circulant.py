"""A GRU's product with its state: blocks of circulants by FFT against dense.

    python -m benchmarks.circulant [--units=1024] [--blocks=8,16] [--batches=1,32]

Takes about two minutes on 2 CPU cores. The hidden kernel of a GRU, units x 3 units, is
multiplied with the state of each sequence: dense, from stored spectra
(`circulant.spectral_matmul`), and from generators that are transformed in every call.
Then whole steps of a layer (`recurrent.run`), per step. `--inner` products follow one
another in one program, each from the result of the one before, with kernels of its own
(so none stays in a cache that a network would not leave to it). `of saving` is the gain
over dense, divided by the saving in multiplications (`circulant.cost`).
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from admm import circulant, recurrent
from benchmarks import _timing
from core.types import Array

COLUMNS = (
    "batch",
    "what",
    "block",
    "ms",
    "CPU ms",
    "x dense",
    "saving",
    "of saving",
    "first call s",
    "recompiled",
    "error",
)
GATES = 3


def chained(product: Callable[[Array, Any], Array], units: int):
    """Returns a program of products in turn, each of the first outputs before it."""

    @jax.jit
    def run(x: Array, weights: Any) -> Array:
        def turn(x: Array, each: Any) -> tuple[Array, None]:
            return product(x, each)[:, :units], None

        return jax.lax.scan(turn, x, weights)[0]

    return run


def products(
    units: int, blocks: list[int], batch: int, inner: int, turns: int
) -> list[dict[str, Any]]:
    """Times products of one batch; returns rows of `COLUMNS`."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(batch, units)), jnp.float32)
    spread = 1 / np.sqrt(units)
    n_out = GATES * units
    calls: dict[tuple[str, int], tuple[Any, Any]] = {}
    wanted: dict[int, Array] = {}
    for block in blocks:
        shape = (inner, units // block, n_out // block, block)
        g = jnp.asarray(spread * rng.normal(size=shape), jnp.float32)
        dense = jax.vmap(lambda g: circulant.expand(g, units, n_out, GATES))(g)
        spectra = jax.vmap(circulant.spectra)(g)
        if not wanted:
            calls["dense", 1] = (chained(jnp.matmul, units), dense)
        wanted[block] = chained(jnp.matmul, units)(x, dense)
        stored = functools.partial(
            circulant.spectral_matmul, block=block, n_out=n_out, gates=GATES
        )
        each = functools.partial(circulant.matmul, n_out=n_out, gates=GATES)
        calls["stored spectra", block] = (chained(stored, units), spectra)
        calls["generators", block] = (chained(each, units), g)
    rows = _timed(calls, x, inner, turns, batch)
    for row in rows:
        block = row["block"]
        if block > 1:
            run, weights = calls[row["what"], block]
            away = jnp.abs(run(x, weights) - wanted[block]).max()
            row["error"] = float(away / jnp.abs(wanted[block]).max())
            cost = circulant.cost(units, n_out, block)
            row["saving"] = cost.dense / cost.multiplications
            row["of saving"] = row["x dense"] / row["saving"]
    return rows


def layers(
    units: int, blocks: list[int], batch: int, steps: int, turns: int
) -> list[dict[str, Any]]:
    """Times a whole layer on sequences, per step."""
    rng = np.random.default_rng(1)
    spread = 1 / np.sqrt(units)

    def kernel() -> dict[str, Array]:
        return {
            "kernel": jnp.asarray(spread * rng.normal(size=(units, units)), jnp.float32)
        }

    names = [side + gate for side in "ih" for gate in recurrent.GATES["gru"]]
    params = {name: kernel() for name in names}
    xs = jnp.asarray(rng.normal(size=(batch, steps, units)), jnp.float32)
    run = jax.jit(lambda xs, cell: recurrent.run(cell, xs)[1])
    calls = {
        ("GRU layer, a step", block): (run, recurrent.pack(params, block, project=True))
        for block in (1, *blocks)
    }
    rows = _timed(calls, xs, steps, turns, batch)
    for row in rows:
        size = recurrent.size("gru", units, units, row["block"])
        if row["block"] > 1:
            row["saving"] = size.dense / size.multiplications
            row["of saving"] = row["x dense"] / row["saving"]
    return rows


def _timed(calls, x, work: int, turns: int, batch: int) -> list[dict[str, Any]]:
    """Rows of candidates timed in turns; the first one is dense."""
    candidates = [
        _timing.Candidate(f"{what}/{block}", functools.partial(run, x, weights), work)
        for (what, block), (run, weights) in calls.items()
    ]
    timings = list(_timing.alternate(candidates, turns=turns).values())
    return [
        {
            "batch": batch,
            "what": what,
            "block": block,
            **timing.cells,
            "x dense": timings[0].ms / timing.ms,
        }
        for (what, block), timing in zip(calls, timings, strict=True)
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Products of block-circulant GRUs.")
    parser.add_argument("--units", type=int, default=1024, help="of the GRU")
    parser.add_argument("--blocks", default="8,16", help="block sizes")
    parser.add_argument("--batches", default="1,32", help="sequences at once")
    parser.add_argument("--inner", type=int, default=8, help="products in a program")
    parser.add_argument("--steps", type=int, default=8, help="steps of a layer")
    parser.add_argument("--turns", type=int, default=15, help="timed calls")
    parser.add_argument("--json", help="file for the rows")
    args = parser.parse_args()
    blocks = [int(b) for b in args.blocks.split(",")]
    if any(b < 2 or args.units % b for b in blocks):
        parser.error("expected blocks that divide --units, at least 2")
    rows: list[dict[str, Any]] = []
    for batch in map(int, args.batches.split(",")):
        rows += products(args.units, blocks, batch, args.inner, args.turns)
        rows += layers(args.units, blocks, batch, args.steps, args.turns)
    note = f"The hidden kernel of a GRU of {args.units} units: {args.units} x "
    note += f"{GATES * args.units}."
    _timing.finish(args.json, rows, COLUMNS, note=note)


if __name__ == "__main__":
    main()
