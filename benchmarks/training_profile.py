"""Where a dense training step of LeNet-5 spends its time, part by part.

    python -m benchmarks.training_profile [--turns=9]

Each part runs alone, forward and backward, in a scan over batches of 128 of the shapes
that it has in the network, so that XLA cannot fuse it with its neighbours: the sum of
the parts may differ from the step. Parts and step are timed in turns; the share of the
limit is as in `benchmarks.training_step`. Takes about a minute on 2 CPU cores.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from benchmarks import _peers, _timing
from benchmarks.training_step import (
    BATCH,
    PEAK,
    SHAPES,
    our_epoch,
    random_split,
    training_operations,
)
from core.types import Array
from experiments.data import normalize
from experiments.models import create
from experiments.models.layers import Conv, max_pool
from experiments.training import cross_entropy, put

STEPS = 40
COLUMNS = (
    "part",
    "ms",
    "CPU ms",
    "share of step",
    "MFLOP",
    "share of limit",
    "first call s",
    "recompiled",
)


class Pooled(nn.Module):
    """The pool and the ReLU behind a convolution."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns [n, h / 2, w / 2, c]."""
        return nn.relu(max_pool(x, (2, 2), (2, 2)))


class Part(NamedTuple):
    """A layer as it stands in the network.

    Attributes:
      module: called with inputs.
      shape: of a batch of inputs.
      macs: multiplications and additions of one example, forward alone.
      is_first: whether nothing needs the gradient of its inputs.
    """

    module: nn.Module
    shape: tuple[int, ...]
    macs: int = 0
    is_first: bool = False

    @property
    def operations(self) -> float:
        """Multiplications and additions of a batch, forward and backward."""
        return 2.0 * BATCH * self.macs * (2 if self.is_first else 3)


PARTS = {
    "conv1, 20 of 5x5": Part(
        Conv(20, (5, 5), padding="VALID"),
        (BATCH, 28, 28, 1),
        24 * 24 * 25 * 20,
        is_first=True,
    ),
    "pool and ReLU of 24x24x20": Part(Pooled(), (BATCH, 24, 24, 20)),
    "conv2, 50 of 5x5": Part(
        Conv(50, (5, 5), padding="VALID"), (BATCH, 12, 12, 20), 8 * 8 * 500 * 50
    ),
    "pool and ReLU of 8x8x50": Part(Pooled(), (BATCH, 8, 8, 50)),
    "fc1, 800 to 500": Part(nn.Dense(500), (BATCH, 800), 800 * 500),
    "fc2, 500 to 10": Part(nn.Dense(10), (BATCH, 500), 500 * 10),
}


def layer(part: Part) -> Callable[[], Any]:
    """Returns a call that goes `STEPS` times forward and back through a layer."""
    shape = part.shape
    params = part.module.init(jax.random.key(0), jnp.zeros(shape))

    @functools.partial(jax.jit, donate_argnums=0)
    def run(params: Any, x: Array, ahead: Array) -> Any:
        def step(carry: Any, _: Any) -> tuple[Any, None]:
            params, x = carry
            y: Any
            if part.is_first:
                y, back = jax.vjp(lambda p: part.module.apply(p, x), params)
                (grads,) = back(ahead)
            else:
                y, back = jax.vjp(part.module.apply, params, x)
                grads, x = back(ahead)
            # Each step needs the one before it, and its own result.
            params = jax.tree.map(lambda p, g: p - 1e-9 * g, params, grads)
            return (params, x + 1e-9 * y.mean()), None

        return jax.lax.scan(step, (params, x), None, STEPS)[0]

    x = jax.random.normal(jax.random.key(1), shape)
    ahead = jnp.ones(jax.eval_shape(part.module.apply, params, x).shape)
    held = {"params": params}

    def call() -> Any:
        held["params"], found = run(held["params"], x, ahead)
        return found

    return call


def others() -> dict[str, Callable[[], Any]]:
    """Returns calls of what is no layer: the batch, dropout, the loss, the update."""
    split = put(random_split("lenet5", STEPS * BATCH))
    keys = jax.random.split(jax.random.key(2), STEPS)
    optimizer = optax.adam(1e-3)
    params = create("lenet5").init(
        jax.random.key(0), jnp.zeros((1, *SHAPES["lenet5"])), train=False
    )
    grads = jax.tree.map(lambda p: 1e-3 * p, params)

    @jax.jit
    def drawn() -> Array:
        def step(total: Array, key: Array) -> tuple[Array, None]:
            chosen = jax.random.randint(key, (BATCH,), 0, STEPS * BATCH)
            images = normalize(split.images[chosen], _peers.MEAN, _peers.STD)
            return total + images, None

        shape = (BATCH, *SHAPES["lenet5"])
        return jax.lax.scan(step, jnp.zeros(shape), keys)[0]

    @jax.jit
    def dropped() -> Array:
        def step(x: Array, key: Array) -> tuple[Array, None]:
            kept = jax.random.bernoulli(key, 0.5, x.shape)
            return jnp.where(kept, 0.5 * x, x), None

        return jax.lax.scan(step, jnp.ones((BATCH, 500)), keys)[0]

    @jax.jit
    def lost(labels: Array) -> Array:
        def step(logits: Array, _: Any) -> tuple[Array, None]:
            slope = jax.grad(lambda y: cross_entropy(y, labels).mean())(logits)
            return logits - slope, None

        return jax.lax.scan(step, jnp.ones((BATCH, 10)), None, STEPS)[0]

    @jax.jit
    def updated(params: Any, state: Any) -> Any:
        def step(carry: Any, _: Any) -> tuple[Any, None]:
            updates, state = optimizer.update(grads, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        return jax.lax.scan(step, (params, state), None, STEPS)[0]

    labels = split.labels[:BATCH]
    state = optimizer.init(params)
    return {
        "batch drawn and normalised": drawn,
        "dropout of 500": dropped,
        "loss": lambda: lost(labels),
        "Adam on 431,080 numbers": lambda: updated(params, state),
    }


def main() -> None:
    """Prints the table; with --json also writes it."""
    parser = argparse.ArgumentParser(description="Parts of a training step.")
    parser.add_argument("--turns", type=int, default=9, help="timed calls of each row")
    parser.add_argument("--json", help="file for the rows")
    args = parser.parse_args()
    if args.turns < 1:
        parser.error("expected turns >= 1")
    whole = "the step"
    split = put(random_split("lenet5", STEPS * BATCH))
    step = our_epoch(create("lenet5"), optax.adam(1e-3), split, SHAPES["lenet5"])
    calls = {name: layer(part) for name, part in PARTS.items()} | others()
    side = jnp.ones((2048, 2048), jnp.float32)
    product = jax.jit(jnp.matmul)
    timed = [_timing.Candidate(name, run, STEPS) for name, run in calls.items()]
    timed.append(_timing.Candidate(whole, step, STEPS))
    timed.append(_timing.Candidate(PEAK, lambda: product(side, side)))
    timings = _timing.alternate(timed, turns=args.turns)
    peak = timings.pop(PEAK)
    limit = 2 * 2048**3 / (peak.cpu_ms / 1e3)
    operations = {name: part.operations for name, part in PARTS.items()}
    operations[whole] = training_operations("lenet5") * BATCH
    rows = []
    for name, timing in timings.items():
        row = {
            "part": name,
            **timing.cells,
            "share of step": timing.cpu_ratio(timings[whole]),
        }
        if operations.get(name):
            rate = operations[name] / (timing.cpu_ms / 1e3)
            row |= {"MFLOP": operations[name] / 1e6, "share of limit": rate / limit}
        rows.append(row)
    label = f"{PEAK}, {limit / 1e9:.0f} GFLOP per CPU-second"
    rows.append({"part": label, **peak.cells, "share of limit": 1.0})
    print(f"LeNet-5, batch {BATCH}, float32")
    _timing.finish(args.json, rows, COLUMNS)


if __name__ == "__main__":
    main()
