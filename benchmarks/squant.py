"""SQuant of a weight set with the shapes of ResNet-50: seconds, and what it bounds.

    python -m benchmarks.squant [--bits=4] [--turns=5]

25.5 million random weights in 54 kernels, all in one compiled program, for each mode.
Compilation stands apart. `kernel` and `channel` are the largest sums of errors of any
kernel and channel, in steps: at most 1 and 0.5 where the stages ran, but for what the
ends of the grid hold back.
"""

import argparse
import functools
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _timing
from quant import squant

COLUMNS = ("mode", "ms", "CPU ms", "first call s", "recompiled", "kernel", "channel")
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Width, blocks and first stride of each stage of ResNet-50."""


def shapes() -> dict[str, tuple[int, ...]]:
    """Returns the kernels of ResNet-50 in flax layout."""
    found: dict[str, tuple[int, ...]] = {"conv1": (7, 7, 3, 64)}
    channels = 64
    for stage, (width, blocks, _) in enumerate(STAGES, start=1):
        for block in range(blocks):
            name = f"layer{stage}_{block}"
            found[f"{name}/conv1"] = (1, 1, channels, width)
            found[f"{name}/conv2"] = (3, 3, width, width)
            found[f"{name}/conv3"] = (1, 1, width, 4 * width)
            if block == 0:
                found[f"{name}/shortcut"] = (1, 1, channels, 4 * width)
            channels = 4 * width
    found["linear"] = (channels, 1000)
    return found


def weights(seed: int) -> dict[str, jax.Array]:
    """Returns random kernels of the size that training starts from."""
    rng = np.random.default_rng(seed)
    return {
        name: jnp.asarray(
            rng.standard_normal(shape, np.float32) / np.sqrt(np.prod(shape[:-1]))
        )
        for name, shape in shapes().items()
    }


@functools.partial(jax.jit, static_argnums=(1, 2))
def codes(params: dict[str, jax.Array], bits: int, mode: squant.Mode) -> Any:
    """Quantizes every kernel."""
    return {name: squant.quantize(w, bits, mode) for name, w in params.items()}


def bounds(params: dict[str, jax.Array], found: Any, bits: int) -> tuple[float, float]:
    """The largest sums of errors of a kernel and of a channel."""
    worst = np.zeros(2)
    for name, w in params.items():
        rows = w.reshape(-1, *w.shape[-2:])
        grid = squant.affine_grid(rows, bits)
        delta = found[name].codes.reshape(rows.shape) - squant.on_grid(rows, grid)
        case = squant.case_objective(delta)
        worst = np.maximum(worst, [float(case.kernel), float(case.channel)])
    return float(worst[0]), float(worst[1])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="SQuant of 25 million weights, timed.")
    parser.add_argument("--bits", type=int, default=4, help="of the grid")
    parser.add_argument("--turns", type=int, default=5, help="timed calls")
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--json", help="file for the rows")
    args = parser.parse_args()
    params = jax.block_until_ready(weights(args.seed))
    count = sum(w.size for w in params.values())
    modes = get_args(squant.Mode)
    timings = _timing.alternate(
        [
            _timing.Candidate(m, functools.partial(codes, params, args.bits, m))
            for m in modes
        ],
        turns=args.turns,
    )
    rows = []
    for mode in modes:
        timing = timings[mode]
        kernel, channel = bounds(params, codes(params, args.bits, mode), args.bits)
        rows.append(
            {
                "mode": mode,
                **timing.cells,
                "kernel": kernel,
                "channel": channel,
            }
        )
    print(f"SQuant of {count:,} weights in {len(params)} kernels to {args.bits} bits")
    note = f"{count:,} weights in {len(params)} kernels, {args.bits} bits."
    _timing.finish(args.json, rows, COLUMNS, note=note)


if __name__ == "__main__":
    main()
