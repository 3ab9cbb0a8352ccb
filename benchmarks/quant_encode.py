"""Code words of 25 million weights: ours against `numpy.searchsorted`.

    python -m benchmarks.quant_encode [--size=25000000] [--turns=5]

Both find the nearest level of every weight; numpy, on one thread, by binary search in
the middles of the levels, and looks the words up. `bytes/s` is what a pass over the
weights moves, 5 bytes each; a copy of the weights stands beside it. All words are
compared, but for the few numbers in the very middle of two levels.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _timing
from quant.formats import Flint, Format, SumOfPowers

FORMATS: tuple[Format, ...] = (SumOfPowers(4), SumOfPowers(8), Flint(4), Flint(8))
COLUMNS = (
    "format",
    "method",
    "ms",
    "CPU ms",
    "GB/s",
    "first call s",
    "x numpy",
    "same",
)


def by_search(fmt: Format, x: np.ndarray) -> np.ndarray:
    """Words by binary search; ties go up."""
    levels = fmt.levels
    middles = ((levels[:-1] + levels[1:]) / 2).astype(x.dtype)
    return fmt.words.astype(fmt.dtype)[np.searchsorted(middles, x, side="right")]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Encoding of weights, timed.")
    parser.add_argument("--size", type=int, default=25_000_000, help="weights")
    parser.add_argument("--turns", type=int, default=5, help="timed calls")
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--json", help="file for the rows")
    args = parser.parse_args()
    w = np.random.default_rng(args.seed).standard_normal(args.size, np.float32)
    rows = []
    for fmt in FORMATS:
        x = (w * np.float32(fmt.max / 3)).astype(np.float32)
        given = jnp.asarray(x)
        encode = jax.jit(fmt.encode)
        found = _timing.alternate(
            [
                _timing.Candidate("encode", functools.partial(encode, given)),
                _timing.Candidate("numpy", functools.partial(by_search, fmt, x)),
                _timing.Candidate("copy", functools.partial(jnp.copy, given)),
            ],
            turns=args.turns,
        )
        middles = np.float32((fmt.levels[:-1] + fmt.levels[1:]) / 2)
        differ = np.asarray(encode(given)) != by_search(fmt, x)
        same = np.isin(x[differ], middles).all()  # ties go to the larger magnitude
        for method, timing in found.items():
            moved = (8 if method == "copy" else 5) * args.size
            rows.append(
                {
                    "format": str(fmt),
                    "method": method,
                    **timing.cells,
                    "GB/s": moved / timing.ms / 1e6,
                    "x numpy": found["numpy"].ms / timing.ms,
                    "same": bool(same) if method == "encode" else "",
                }
            )
    print(f"words of {args.size:,} float32 weights")
    _timing.finish(args.json, rows, COLUMNS, note=f"{args.size:,} float32 weights.")


if __name__ == "__main__":
    main()
