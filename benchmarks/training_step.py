"""Training steps on this machine: dense, masked, ADMM, flax as written, torch.

    python -m benchmarks.training_step [--turns=9] [--networks=lenet5,resnet20]

Takes about three minutes on 2 CPU cores. A step draws a batch of 128 from uint8
images, normalises it, and runs forward, backward and the update; ours run as epochs
of `experiments.training`, the peers step by step, as their users do. Ours are timed
in turns with one another, three times as often, then the peers with our dense step;
ratios are medians of the turns' ratios, with their quartiles. The share of
the limit is the step's multiplications and additions per CPU-second, over what a
2048 x 2048 matrix product reaches in the same run.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import _peers, _timing
from experiments.data import Split
from experiments.models import create
from experiments.training import init_state, make_epoch, make_train_step, put

BATCH = 128
PEAK = "2048 x 2048 product"
SHAPES = {"lenet5": (28, 28, 1), "resnet20": (32, 32, 3)}
EXAMPLES = {"lenet5": 60_000, "resnet20": 50_000}
STEPS = {"lenet5": 40, "resnet20": 3}
COLUMNS = (
    "row",
    "ms",
    "CPU ms",
    "CPU s/epoch",
    "x dense",
    "quartiles",
    "share of limit",
    "first call s",
    "recompiled",
)


def build_optimizers(params: Any, interval: int) -> dict[str, Any]:
    """Returns the optimizers of LeNet-5's rows: dense, masked and ADMM.

    Densities are those of the 71.2x network (arXiv 1804.03294); ADMM projects every
    `interval` steps.
    """
    import admm
    import gap

    rules = [
        ("conv1/kernel", 0.2),
        ("conv2/kernel", 0.08),
        ("fc1/kernel", 0.009),
        ("fc2/kernel", 0.07),
    ]
    inner = optax.adam(1e-3)
    masks = gap.magnitude_masks(params, rules)
    return {
        "dense": inner,
        "masked": gap.masked(inner, masks),
        "ADMM": admm.admm(inner, rules, interval=interval),
    }


def training_operations(name: str) -> float:
    """Returns the multiplications and additions of one example's training step.

    Forward, gradient of the kernel, and gradient of the input but for the first layer;
    convolutions and dense layers alone.
    """
    if name == "lenet5":
        layers = [24 * 24 * 25 * 20, 8 * 8 * 500 * 50, 800 * 500, 500 * 10]
    else:
        layers = [32 * 32 * 27 * 16, *[32 * 32 * 144 * 16] * 6]
        layers += [16 * 16 * 144 * 32, *[16 * 16 * 288 * 32] * 5]
        layers += [8 * 8 * 288 * 64, *[8 * 8 * 576 * 64] * 5, 64 * 10]
    return 2.0 * (3 * sum(layers) - layers[0])


def random_split(name: str, examples: int) -> Split:
    """Returns noise in the shape of the data; values do not change the time."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (examples, *SHAPES[name]), np.uint8)
    return Split(images, rng.integers(0, 10, examples).astype(np.int32))


def our_epoch(
    model: Any, optimizer: Any, split: Split, shape: tuple[int, ...]
) -> Callable[[], Any]:
    """Returns a call that trains one epoch of `split` in one scan."""
    state = init_state(model, optimizer, jax.random.key(0), shape)
    epoch = make_epoch(
        model, optimizer, batch_size=BATCH, mean=_peers.MEAN, std=_peers.STD
    )
    held = {"state": state, "key": jax.random.key(1)}

    def run() -> Any:
        held["key"], key = jax.random.split(held["key"])
        held["state"], metrics = epoch(held["state"], split, key)
        return metrics

    return run


def flax_steps(
    model: Any, optimizer: Any, split: Split, shape: tuple[int, ...], steps: int
) -> Callable[[], Any]:
    """Returns a call that makes `steps` jitted steps from a Python loop."""
    state = init_state(model, optimizer, jax.random.key(0), shape)
    step = make_train_step(model, optimizer, mean=_peers.MEAN, std=_peers.STD)

    def from_order(state, split, order, i, key):
        chosen = jax.lax.dynamic_slice_in_dim(order, i * BATCH, BATCH)
        return step(state, split.images[chosen], split.labels[chosen], key)

    jitted = jax.jit(from_order, donate_argnums=0)
    shuffle = jax.jit(lambda key: jax.random.permutation(key, len(split.labels)))
    held = {"state": state, "key": jax.random.key(1)}

    def run() -> Any:
        held["key"], key = jax.random.split(held["key"])
        order, metrics = shuffle(key), None
        for i in range(steps):
            state = held["state"]
            held["state"], metrics = jitted(state, split, order, i, key)
        return metrics

    return run


def candidates(name: str) -> tuple[list[_timing.Candidate], list[str]]:
    """Returns what to time for a network, and the rows that cannot be had."""
    steps, shape = STEPS[name], SHAPES[name]
    host = random_split(name, steps * BATCH)
    split, model = put(host), create(name)
    rows: dict[str, Callable[[], Any]] = {}
    if name == "lenet5":
        params = init_state(model, optax.sgd(0.0), jax.random.key(0), shape).params
        optimizers = build_optimizers(params, steps)
        flax_model, dense = _peers.FlaxLeNet5(), optimizers["dense"]
    else:
        dense = optax.sgd(1e-3, momentum=0.9)
        optimizers, flax_model = {"dense": dense}, _peers.FlaxResNet20()
    for label, optimizer in optimizers.items():
        rows[label] = our_epoch(model, optimizer, split, shape)
    rows["flax as written"] = flax_steps(flax_model, dense, split, shape, steps)
    missing = []
    try:
        rows["torch, one thread"] = _peers.torch_steps(name, *host, BATCH, steps)
    except ImportError:
        missing.append("torch, one thread")
    side = jnp.ones((2048, 2048), jnp.float32)
    product = jax.jit(jnp.matmul)
    timed = [_timing.Candidate(label, run, steps) for label, run in rows.items()]
    return [*timed, _timing.Candidate(PEAK, lambda: product(side, side))], missing


def measure(name: str, turns: int) -> list[dict[str, Any]]:
    """Returns the rows of one network, with `COLUMNS` as keys."""
    timed, missing = candidates(name)
    ours = {c.name for c in timed} & {"dense", "masked", "ADMM"}
    timings = {}
    if len(ours) > 1:
        group = [c for c in timed if c.name in ours]
        timings = _timing.alternate(group, turns=3 * turns)
    rest = [c for c in timed if c.name not in ours or c.name == "dense"]
    others = _timing.alternate(rest, turns=turns)
    peak = others.pop(PEAK)
    base = {label: group["dense"] for group in (others, timings) for label in group}
    timings = others | timings
    limit = 2 * 2048**3 / (peak.cpu_ms / 1e3)
    rows = []
    for label, timing in timings.items():
        rate = training_operations(name) * BATCH / (timing.cpu_ms / 1e3)
        rows.append(
            {
                "row": f"{name}: {label}",
                **timing.cells,
                "CPU s/epoch": timing.cpu_ms / 1e3 * (EXAMPLES[name] // BATCH),
                "x dense": timing.cpu_ratio(base[label]),
                "quartiles": timing.cpu_quartiles(base[label]),
                "share of limit": rate / limit,
            }
        )
    rows += [{"row": f"{name}: {label} (not installed)"} for label in missing]
    rows.append(
        {
            "row": f"{name}: {PEAK}, {limit / 1e9:.0f} GFLOP per CPU-second",
            **peak.cells,
            "share of limit": 1.0,
        }
    )
    return rows


def main() -> None:
    """Prints the table; with --json also writes it."""
    parser = argparse.ArgumentParser(description="Training steps, timed in turns.")
    parser.add_argument("--turns", type=int, default=9, help="timed calls of each row")
    parser.add_argument("--networks", default="lenet5,resnet20", help="comma list")
    parser.add_argument("--json", help="file for the rows")
    args = parser.parse_args()
    names = args.networks.split(",")
    if args.turns < 1 or not set(names) <= set(SHAPES):
        parser.error(f"expected turns >= 1 and networks among {', '.join(SHAPES)}")
    rows = [row for name in names for row in measure(name, args.turns)]
    print(f"training steps at batch {BATCH}, epochs of {EXAMPLES}")
    _timing.finish(args.json, rows, COLUMNS, batch=BATCH)


if __name__ == "__main__":
    main()
