"""Queries per second on LeNet-5, beside a Python loop, evosax and plain inference.

    python -m benchmarks.zo [--turns=7] [--populations=64,256,1024]

A query is the margin of one changed digit (an attack of 784 numbers). At every
population `ours` makes one estimate of so many queries, the draw of its directions and
the sum over them included, as one program; `a loop` makes the same estimate by `ask`,
one jitted call of the network a point, and `tell`; `evosax` is a generation of Open_ES
with antithetic samples: ask, queries and tell in one program; `the network alone` is
the ceiling, logits of so many images as one batch. `of the network` is queries per
second over those of the ceiling, the median of the turns' ratios of wall time, with its
95 % interval (bootstrap over turns); `at least 0.9` says whether ours reach that share.
A turn makes about a thousand queries of each, in calls that are waited for one by one:
a single call of 3 ms says more of sleeping threads than of the program.

`in weights` moves all 431,080 weights of the network instead: a query is the loss of a
batch of 128 digits, directions are drawn again from seeds, and the ceiling is the same
forward pass with weights that stay.
"""

import argparse
import dataclasses
import functools
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import zo
from benchmarks import _timing
from experiments import models
from zo.attack import Threat

WEIGHT_BATCH = 128
TURN = 1024
"""Queries of a turn; small populations are asked for several times."""
LOOP_AT_MOST = 256
"""Calls of a loop in a turn; a longer one says nothing new."""
BAR = 0.9
"""The share of the network's own throughput that an estimate should reach."""
COLUMNS = (
    "row",
    "queries/s",
    "of the network",
    "95 %",
    "at least 0.9",
    "ms",
    "CPU ms",
    "first call s",
    "recompiled",
)


def network() -> tuple[Any, Any]:
    """Returns LeNet-5 and its variables."""
    model = models.create("lenet5")
    shape = jnp.zeros((1, 28, 28, 1), jnp.float32)
    return model, jax.jit(model.init)(jax.random.key(0), shape)


def attacks(population: int) -> dict[str, Callable[[], Any]]:
    """Returns calls that make `population` queries of changed digits."""
    model, variables = network()
    image = jax.random.uniform(jax.random.key(1), (28, 28, 1))
    label, threat = jnp.int32(3), Threat()
    change = jnp.zeros_like(image)

    def logits(variables: Any, images: Any) -> Any:
        return model.apply(variables, (images - 0.13) / 0.31, train=False)

    def value(variables: Any, image: Any, change: Any) -> Any:
        shown = threat.placed(image[None], change[None])
        return threat.margin(logits(variables, shown), label[None])[0]

    estimator = zo.Random(population // 2, mu=0.01)
    signs = dataclasses.replace(estimator, law="rademacher")
    state = estimator.init(change)

    @functools.partial(jax.jit, static_argnums=0)
    def ours(
        estimator: zo.Random, key: Any, variables: Any, image: Any, change: Any
    ) -> Any:
        def f(change: Any) -> Any:
            return value(variables, image, change)

        return estimator.estimate(key, f, change, state)[0]

    @jax.jit
    def alone(variables: Any, images: Any) -> Any:
        return logits(variables, images)

    ask, tell = jax.jit(estimator.ask), jax.jit(estimator.tell)
    single = jax.jit(value)

    def loop() -> Any:
        points, plan = ask(jax.random.key(0), change, state)
        host = np.asarray(points)
        count = min(population, LOOP_AT_MOST)
        values = [float(single(variables, image, p)) for p in host[:count]]
        values += [0.0] * (population - count)
        return tell(plan, jnp.asarray(values, jnp.float32), state)[0]

    key = jax.random.key(0)
    images = jnp.broadcast_to(image, (population, *image.shape)) + 0.0
    calls = {
        "the network alone": lambda: alone(variables, images),
        "ours, sphere": lambda: ours(estimator, key, variables, image, change),
        "ours, rademacher": lambda: ours(signs, key, variables, image, change),
        "a loop": loop,
    }
    peer = _evosax(population, change, value)
    if peer is not None:
        calls["evosax"] = lambda: peer(key, variables, image)
    return calls


def _evosax(
    population: int, change: Any, value: Callable[..., Any]
) -> Callable[..., Any] | None:
    """Returns a generation of Open_ES, or None without evosax."""
    try:
        from evosax.algorithms import Open_ES  # type: ignore[import-not-found]
    except ImportError:
        return None
    strategy = Open_ES(
        population_size=population,
        solution=change,
        optimizer=optax.sgd(0.01),
        use_antithetic_sampling=True,
    )
    params = strategy.default_params
    state = strategy.init(jax.random.key(0), change, params)

    @jax.jit
    def generation(key: Any, variables: Any, image: Any) -> Any:
        ask, tell = jax.random.split(key)
        points, asked = strategy.ask(ask, state, params)
        values = jax.vmap(lambda p: value(variables, image, p))(points)
        return strategy.tell(tell, points, values, asked, params)[0]

    return generation


def weights(samples: int) -> dict[str, Callable[[], Any]]:
    """Returns calls that make `2 * samples` queries of moved weights."""
    model, variables = network()
    images = jax.random.uniform(jax.random.key(1), (WEIGHT_BATCH, 28, 28, 1))
    labels = jnp.arange(WEIGHT_BATCH) % 10

    def loss(variables: Any, images: Any) -> Any:
        logits = model.apply(variables, images, train=False)
        losses = optax.softmax_cross_entropy_with_integer_labels
        return losses(logits, labels).mean()

    @jax.jit
    def alone(variables: Any, images: Any) -> Any:
        # Images differ a little, so that no pass is another's result.
        def one(_: None, shift: Any) -> Any:
            return None, loss(variables, images + shift)

        return jax.lax.scan(one, None, jnp.arange(2 * samples) * 1e-6)[1]

    calls: dict[str, Callable[[], Any]] = {
        "the network alone": lambda: alone(variables, images)
    }
    for law in ("gaussian", "rademacher"):
        optimizer = zo.SeedReplay(1e-3, samples=samples, law=law)

        @jax.jit
        def step(key: Any, variables: Any, images: Any, optimizer: Any = optimizer):
            def f(v: Any) -> Any:
                return loss(v, images)

            return optimizer.step(key, f, variables, optimizer.init(variables))[0]

        calls[f"ours, {law}"] = lambda step=step: step(
            jax.random.key(0), variables, images
        )
    return calls


def measure(
    label: str,
    calls: Mapping[str, Callable[[], Any]],
    queries: int,
    turns: int,
    repeat: int = 1,
) -> list[dict[str, Any]]:
    """Returns the rows of calls that make so many queries each, `repeat` a turn."""
    made = {
        name: min(queries, LOOP_AT_MOST) if name == "a loop" else queries
        for name in calls
    }
    candidates = []
    for name, run in calls.items():
        times = 1 if name == "a loop" else repeat
        candidates.append(_timing.Candidate(name, _repeated(run, times), times))
    timings = _timing.alternate(candidates, turns=turns)
    ceiling = timings["the network alone"]
    rows = []
    for name, timing in timings.items():
        pairs = zip(ceiling.wall_s, timing.wall_s, strict=True)
        share = made[name] / queries
        ratios = np.asarray([a * share / b for a, b in pairs])
        low, high = _interval(ratios)
        middle = float(np.median(ratios))
        judged = name.startswith("ours,")
        rows.append(
            {
                "row": f"{label}: {name}",
                **timing.cells,
                "queries/s": made[name] / statistics.median(timing.wall_s),
                "of the network": middle,
                "95 %": f"{low:.2f} to {high:.2f}",
                "at least 0.9": _verdict(low, middle, high) if judged else "",
            }
        )
    return rows


def _repeated(run: Callable[[], Any], times: int) -> Callable[[], Any]:
    """Returns `run` so often, each call waited for."""

    def runs() -> Any:
        for _ in range(times - 1):
            jax.block_until_ready(run())
        return run()

    return runs


def _interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median."""
    draws = np.random.default_rng(0).choice(values, (2000, len(values)))
    low, high = np.quantile(np.median(draws, 1), [0.025, 0.975])
    return float(low), float(high)


def _verdict(low: float, middle: float, high: float) -> str:
    """Whether the share is reached; not sure where the interval holds it."""
    word = "yes" if middle >= BAR else "no"
    return word if not low < BAR < high else f"{word}, within noise"


def main() -> None:
    """Prints the table; with --json also writes it."""
    parser = argparse.ArgumentParser(description="Queries per second, timed.")
    parser.add_argument("--turns", type=int, default=7, help="timed calls of each row")
    parser.add_argument("--populations", default="64,256,1024", help="comma list")
    parser.add_argument("--json", help="file for the rows")
    args = parser.parse_args()
    sizes = [int(size) for size in args.populations.split(",")]
    if args.turns < 1 or any(size < 2 or size % 2 for size in sizes):
        parser.error("expected turns >= 1 and even populations >= 2")
    rows = []
    for size in sizes:
        repeat = max(1, TURN // size)
        label = f"population {size}"
        rows += measure(label, attacks(size), size, args.turns, repeat)
    rows += measure("in weights, 8 queries", weights(4), 8, args.turns)
    print("queries of LeNet-5: one digit each, or 128 with weights of their own")
    _timing.finish(args.json, rows, COLUMNS)


if __name__ == "__main__":
    main()
