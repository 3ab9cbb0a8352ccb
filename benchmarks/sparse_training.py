"""A step of every sparse training beside the dense step.

    python -m benchmarks.sparse_training [--network=lenet5] [--steps=200] [--turns=7]

Takes about 13 minutes on 2 CPU cores. Each candidate trains the same network on the
same batch for `--steps` steps in one `lax.scan`; masks change every 100 steps, so the
time of a step is amortised over mask updates as in training. The rivals are the dense
step and the least that fixed masks cost: an optax chain that multiplies updates by
masks (and so neither clears moments nor survives a NaN). STR has no transform: its
thresholds are parameters, and its network soft-thresholds the weights in every step.
The last line says whether every method keeps to 1.05 x the dense step, in CPU time.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gap
from benchmarks import _timing
from core import trees
from core.types import PyTree
from experiments import models
from experiments.training import init_state, make_train_step

COLUMNS = ("method", "ms", "CPU ms", "of dense", "of plain masks", "recompiled")
RULES = [(".*/kernel", 0.1)]
EVERY = 100
"""Steps between two changes of masks, RigL's own default."""
LONG = 1_000_000
"""Steps until schedules end, more than a benchmark takes."""


LIMIT = 1.05
"""Of the dense step, the most that a method's step may cost."""
STR = "STR"
RIVALS = ("dense", "plain masks")


class Thresholded:
    """A network whose parameters are {"net": weights, "thresholds": STR's numbers}."""

    def __init__(self, model: Any):
        self.model = model

    def init(self, *args: Any, **options: Any) -> dict[str, PyTree]:
        """Returns the variables of the network, with thresholds for its kernels."""
        variables = dict(self.model.init(*args, **options))
        net = variables["params"]
        thresholds = gap.init_thresholds(net, [(".*/kernel", True)])
        return variables | {"params": {"net": net, "thresholds": thresholds}}

    def apply(self, variables: PyTree, *args: Any, **options: Any) -> Any:
        """Applies the network with the weights that are above their thresholds."""
        both = variables["params"]
        params = gap.thresholded(both["net"], both["thresholds"])
        return self.model.apply({**variables, "params": params}, *args, **options)


def plain_masks(params: PyTree) -> optax.GradientTransformation:
    """Adam whose updates are multiplied by fixed masks, as one writes it by hand."""
    masks = gap.random_masks(jax.random.key(0), params, RULES)
    factors = trees.map_partial(
        lambda m, w: m.astype(w.dtype),
        masks,
        params,
        absent=lambda w: jnp.ones((), w.dtype),
    )
    multiply = optax.stateless(
        lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, factors)
    )
    return optax.chain(optax.adam(1e-3), multiply)


def methods(params: PyTree) -> dict[str, optax.GradientTransformation]:
    """Returns every candidate's optimizer by name."""
    inner, key = optax.adam(1e-3), jax.random.key(0)
    groups = gap.partition(params, RULES, 3)
    masks = gap.random_masks(key, params, RULES)
    blocks = [(".*/kernel", gap.Target(0.1, pattern=gap.BCR()))]
    cycle = gap.cyclic(inner, RULES, key, groups, interval=EVERY, rounds=LONG)
    return {
        "dense": inner,
        "plain masks": plain_masks(params),
        "masked": gap.masked(inner, masks),
        "static_random": gap.static_random(inner, RULES, key),
        "snip": gap.snip(inner, RULES),
        "prune, cubic": gap.prune(inner, RULES, gap.Cubic(0, LONG, EVERY)),
        "prune, BCR": gap.prune(inner, blocks, gap.Cubic(0, LONG, EVERY)),
        "set_": gap.set_(inner, RULES, key, every=EVERY),
        "rigl": gap.rigl(inner, RULES, key, until=LONG, every=EVERY),
        "rigl, BCR": gap.rigl(inner, blocks, key, until=LONG, every=EVERY),
        "cyclic": cycle,
        "cyclic, tracked": gap.track_explored(cycle),
        STR: inner,
    }


def candidate(
    name: str, network: str, tx: optax.GradientTransformation, steps: int, batch: int
) -> _timing.Candidate:
    """Returns a candidate that trains for `steps` steps from its last state."""
    info = models.MODELS[network]
    model: Any = models.create(network)
    if name == STR:
        model = Thresholded(model)
    step = make_train_step(model, tx, mean=0.5, std=0.5)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, *info.input_shape)).astype(np.uint8)
    labels = rng.integers(0, 10, batch).astype(np.int32)

    @jax.jit
    def train(state: Any, images: Any, labels: Any) -> Any:
        def body(state: Any, i: Any) -> tuple[Any, Any]:
            key = jax.random.fold_in(jax.random.key(0), i)
            state, metrics = step(state, images, labels, key)
            return state, metrics["loss"]

        return jax.lax.scan(body, state, jnp.arange(steps))

    state = init_state(model, tx, jax.random.key(0), info.input_shape)

    def run() -> Any:
        nonlocal state  # training goes on, so every call has its mask updates
        state, losses = train(state, images, labels)
        return losses

    return _timing.Candidate(name, run, steps)


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns whether every method keeps to the limit, and which do not."""
    over = [
        f"{row['method']} {row['of dense']:.3f}"
        for row in rows
        if row["method"] not in RIVALS and row["of dense"] > LIMIT
    ]
    answer = f"no ({', '.join(over)})" if over else "yes"
    return f"every method <= {LIMIT}x the dense step: {answer}"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Steps of sparse training, timed.")
    names = sorted(n for n, m in models.MODELS.items() if len(m.input_shape) == 3)
    parser.add_argument("--network", default="lenet5", choices=names)
    parser.add_argument("--steps", type=int, default=200, help="steps in a call")
    parser.add_argument("--batch", type=int, default=128, help="images in a step")
    parser.add_argument("--turns", type=int, default=7, help="timed calls")
    parser.add_argument("--json", help="file for the rows")
    args = parser.parse_args()
    if min(args.steps, args.batch, args.turns) < 1:
        parser.error("expected steps, batch and turns of at least 1")
    shape = models.MODELS[args.network].input_shape
    variables = models.create(args.network).init(
        jax.random.key(0), jnp.zeros((1, *shape)), train=False
    )
    made = methods(variables["params"])
    timings = _timing.alternate(
        [
            candidate(name, args.network, tx, args.steps, args.batch)
            for name, tx in made.items()
        ],
        turns=args.turns,
    )
    dense, plain = timings["dense"], timings["plain masks"]
    rows = [
        {
            "method": name,
            **t.cells,
            "of dense": t.cpu_ratio(dense),
            "of plain masks": t.cpu_ratio(plain),
        }
        for name, t in timings.items()
    ]
    print(f"{args.network}, batch {args.batch}, Adam, 10 % of the weights: one step")
    note = verdict(rows)
    _timing.finish(args.json, rows, COLUMNS, network=args.network, note=note)
    print(note)


if __name__ == "__main__":
    main()
