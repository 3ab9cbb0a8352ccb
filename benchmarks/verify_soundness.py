"""Bounds against attempts to break them: samples, corners and gradient descent.

    python -m benchmarks.verify_soundness [--samples=1000000] [--networks=oval_base,..]

For one region of every network below `LATHE_DATA` the outputs and the margins of its
property are bounded by intervals, CROWN and alpha-CROWN. Half of the samples are
uniform in the region, half are its corners; projected gradient descent then minimises
every row. A value below its bound is a violation; none is expected. Takes about half an
hour on 2 CPU cores with a million samples, and two minutes with 20000.
"""

import argparse
import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import _timing, _verify_work
from core.errors import DataUnavailableError
from verify import Config, Problem, Property, Region, crown, falsify, linear
from verify import alpha as va
from verify.properties import Spec
from verify.regions import outward
from verify.root import stacked
from verify.search import Verifier, verifier_of

PUBLISHED = (
    *("mnist_6_100", "mnist_6_200", "mnist_9_100", "mnist_conv_small"),
    *("mnist_cnn_a_adv", "cifar_cnn_a_adv", "cifar_cnn_a_mix"),
)
"""Networks of `sdp` and `eran`: the region is that of the first image."""
FILES = {
    "mnistfc_256x2": ("mnistfc/mnist-net_256x2.onnx", "mnistfc/prop_0_0.03.vnnlib"),
    "oval_base": ("oval21/cifar_base_kw.onnx", ""),
    "resnet_2b": (
        "cifar10_resnet/resnet_2b.onnx",
        "cifar10_resnet/resnet2b_prop_0_eps_0.008.vnnlib",
    ),
    "convnet_avgpool": (
        "verivital/Convnet_avgpool.onnx",
        "verivital/avgpool_prop_0_0.02.vnnlib",
    ),
    "convnet_maxpool": (
        "verivital/Convnet_maxpool.onnx",
        "verivital/maxpool_prop_0_0.004.vnnlib",
    ),
    "acasxu_1_1": ("acasxu/ACASXU_run2a_1_1_batch_2000.onnx", "acasxu/prop_1.vnnlib"),
    **{
        f"test_{name}": (f"test/test_{name}.onnx", f"test/test_{prop}.vnnlib")
        for name, prop in {
            **{name: name for name in ("nano", "tiny", "small")},
            **{"sat": "prop", "unsat": "prop"},
        }.items()
    },
}
"""Networks of `vnncomp2021`, and the property whose region is taken."""
NETWORKS = (*PUBLISHED, *FILES)
SLOW = frozenset({"resnet_2b", "convnet_maxpool"})
"""Networks without alpha-CROWN."""
STEPS = 20
"""Iterations of alpha-CROWN."""
SHARE = 1e-5
"""Share of the sum of a row's terms, |C| |y| + |d|, that float32 may be off by: all
samples are computed in it. The least of each row is computed again in float64, and its
gap has no such share."""
ATTACK = falsify.Attack(restarts=8, steps=50)
COLUMNS = (
    "network",
    "bounds",
    "rows",
    "least margin",
    "samples",
    "violations",
    "least gap",
    "least gap by descent",
    "relative",
    "seconds",
)
NOTE = f"""\
Rows are the margins of the property and both signs of every output. Bounds are those
that a search relies on: each is lowered by `verify.rounding.rounding`. `violations`
counts rows of samples whose value, in float32, is below the bound by more than
{SHARE:g} (sum |C| |y| + |d|), and rows that descent brings below it in float64.
`least gap` is the smallest distance of a row's least sample to its bound, that point
computed in float64; `least gap by descent` is that of projected gradient descent;
`relative` is the smaller one over |bound| + sum |C| |y|. No gap may be negative.
`seconds` are those of the bounds; in the row of a network's samples those of samples
and descent. Compilation is counted in."""


class Case(NamedTuple):
    """What is bounded.

    Attributes:
      problem: the network and a property.
      region: the property's first, of the network's type.
      spec: rows of the margins, then of every output, then of their negatives.
      margins: how many rows are margins.
    """

    problem: Problem
    region: Region
    spec: Spec
    margins: int


class Samples(NamedTuple):
    """What samples found, of S rows and M bounds of each.

    Attributes:
      value: the least of each row, float32 [S].
      x: the point that has it, [S, *input shape].
      violations: rows of samples below a bound, int32 [M].
    """

    value: Any
    x: Any
    violations: Any


def problem_of(name: str) -> Problem:
    """Returns a network and the first of its properties.

    Raises:
      DataUnavailableError: the data are not there.
    """
    if name in PUBLISHED:
        return next(_verify_work.problems(name))
    onnx, prop = FILES[name]
    if not prop:
        return next(_verify_work.problems(Path(onnx).stem))
    folder = _verify_work.competition(prop.split("/")[0])
    file = folder / prop.split("/")[1]
    file = file if file.exists() else file.with_name(f"{file.name}.gz")
    return _verify_work.of_competition(_verify_work.competition(onnx), file)


def case_of(problem: Problem) -> Case:
    """Returns the rows over the first region of a problem."""
    region = problem.property.clauses[0].region
    own = [c.spec for c in problem.property.clauses if c.region is region]
    n = problem.property.output_size
    C = np.concatenate([*(s.C for s in own), np.eye(n), -np.eye(n)])
    d = np.concatenate([*(s.d for s in own), np.zeros(2 * n)])
    inside = outward(region, np.float32)
    count = len(d) - 2 * n
    return Case(problem, inside, Spec(np.float32(C), np.float32(d)), count)


def bounds(name: str, case: Case) -> Iterator[tuple[str, np.ndarray, float]]:
    """Yields the method, its bounds [S], and its seconds.

    Args:
      name: of the network.
      case: what is bounded.
    """
    verifier = verifier_of(case.problem)
    net, count = verifier.network, len(case.spec.d)
    weights = verifier.prepare(case.problem.params)
    region = jax.tree.map(jnp.asarray, case.region)
    spec = stacked([case.spec])[0]

    @jax.jit
    def by_crown(weights: Any, region: Any, spec: Any) -> Any:
        hidden = crown.hidden_bounds(net, weights, region)
        return crown.spec_bound(net, weights, region, spec, hidden, margin=True)

    interval = functools.partial(crown.interval_bound, net, margin=True)
    methods: dict[str, Any] = {
        "interval": lambda: jax.jit(interval)(weights, region, spec),
        "CROWN": lambda: by_crown(weights, region, spec),
    }
    if name not in SLOW:
        methods["alpha-CROWN"] = lambda: alpha(verifier, weights, region, case.spec)
    for method, run in methods.items():
        start = time.perf_counter()
        found = np.asarray(run())[:count]
        yield method, found, time.perf_counter() - start


def alpha(verifier: Verifier, weights: Any, region: Region, spec: Spec) -> Any:
    """Returns bounds of rows by alpha-CROWN, as the root of a search computes them.

    Hidden bounds are optimised on the reduced form; where there is none, because not
    all nonlinear operators are ReLUs, slopes of the rows alone are optimised.
    """
    net = verifier.network
    if verifier.network.is_piecewise_linear:
        rooter = verifier.rooter
        each = [Spec(*(part[k : k + 1] for part in spec)) for k in range(len(spec.d))]
        hidden = rooter.hidden(weights, region)
        form = rooter.reduced(weights, hidden)
        config = Config(method="alpha", root_steps=STEPS)
        late = time.monotonic() + 3600
        return rooter.alpha(weights, region, each, hidden, form, config, late).lower
    config = va.AlphaConfig(STEPS, hidden=False)

    @jax.jit
    def run(weights: Any, region: Any) -> Any:
        hidden = crown.hidden_bounds(net, weights, region)
        return va.optimize(net, weights, region, spec, hidden, config, margin=True)

    return run(weights, region).lower


def sample(
    fn: Any,
    params: Any,
    region: Region,
    spec: Spec,
    lower: Any,
    key: Any,
    batches: int,
    size: int,
) -> Samples:
    """Draws samples in batches and keeps the least value of every row.

    Args:
      fn: the network.
      params: its parameters.
      region: a box.
      spec: S rows.
      lower: bounds of them by M methods, [M, S].
      key: a random key.
      batches: how many.
      size: samples of a batch; one half is uniform, the other half are corners.
    """
    count, low = spec.d.shape[0], region.lower
    best = Samples(
        jnp.full(count, jnp.inf, low.dtype),
        jnp.broadcast_to(low, (count, *low.shape)),
        jnp.zeros(lower.shape[0], jnp.int32),
    )
    # Calls in a row: in a `scan`, XLA's convolutions take five times as long on a CPU.
    for each in jax.random.split(key, batches):
        best = _batch(fn, size, params, region, spec, lower, best, each)
    return best


@functools.partial(jax.jit, static_argnums=(0, 1))
def _batch(
    fn: Any,
    size: int,
    params: Any,
    region: Region,
    spec: Spec,
    lower: Any,
    best: Samples,
    key: Any,
) -> Samples:
    """Returns what one more batch makes of the best samples."""
    low, high = region.lower, region.upper
    share = jax.random.uniform(key, (size, *low.shape), low.dtype)
    ends = jnp.where(share > 0.5, high[None], low[None])
    inner = low[None] + share * (high - low)[None]
    inner = jnp.clip(inner, low[None], high[None])
    is_corner = jnp.arange(size) < size // 2
    x = jnp.where(is_corner.reshape(-1, *[1] * low.ndim), ends, inner)
    y = jax.vmap(lambda x: fn(params, x).reshape(-1))(x)
    rows = jnp.matmul(y, spec.C.T, precision="highest") + spec.d[None]
    terms = jnp.abs(y) @ jnp.abs(spec.C.T) + jnp.abs(spec.d)[None]
    below = rows + SHARE * terms
    broken = (~(below[None] >= lower[:, None])).sum((1, 2), dtype=jnp.int32)
    at = rows.argmin(0)
    least = rows.min(0)
    better = least < best.value
    points = jnp.where(better.reshape(-1, *[1] * low.ndim), x[at], best.x)
    value = jnp.minimum(least, best.value)
    return Samples(value, points, best.violations + broken)


def descend(case: Case, lower: np.ndarray, key: Any) -> np.ndarray:
    """Returns the least values [S], in float64, that descent reaches.

    Args:
      case: what is bounded.
      lower: the best bounds; descent stops where it is below one of them.
      key: a random key.
    """
    problem, spec = case.problem, case.spec
    wide = jax.tree.map(lambda a: np.asarray(a, np.float64), case.region)
    d = spec.d.astype(np.float64) - np.where(np.isfinite(lower), lower, -1e6)
    prop: Property = linear(wide, spec.C, d)
    found = falsify.falsify(problem.fn, problem.params, prop, key, ATTACK)
    points = np.stack([c.x for c in found])
    return values(spec, outputs(case, points)).min(0)


def outputs(case: Case, points: Any) -> np.ndarray:
    """Returns the network's outputs at points, in float64, [points, n]."""
    fn, params = case.problem.fn, case.problem.params
    return np.stack([falsify.evaluate(fn, params, x) for x in np.asarray(points)])


def values(spec: Spec, y: np.ndarray) -> np.ndarray:
    """Returns the rows of outputs, in float64, [points, S]."""
    return y @ spec.C.T.astype(np.float64) + spec.d.astype(np.float64)


def challenge(name: str, samples: int, batch: int, seed: int) -> list[dict[str, Any]]:
    """Bounds a region, tries to break the bounds, and returns rows of the table.

    Args:
      name: of the network, one of `NETWORKS`.
      samples: how many.
      batch: samples computed at once.
      seed: of samples and descent.
    """
    case = case_of(problem_of(name))
    found = list(bounds(name, case))
    lower = np.stack([each for _, each, _ in found])
    draw, turn = jax.random.split(jax.random.key(seed))
    start = time.perf_counter()
    batches = -(-samples // batch)
    region, spec = jax.tree.map(jnp.asarray, (case.region, case.spec))
    params = jax.tree.map(jnp.asarray, case.problem.params)
    best = sample(
        case.problem.fn, params, region, spec, jnp.asarray(lower), draw, batches, batch
    )
    y = outputs(case, best.x)
    reached = values(case.spec, y).min(0)
    lowest = descend(case, lower.max(0), turn)
    seconds = time.perf_counter() - start
    terms = np.abs(case.spec.C) @ np.abs(y).max(0) + np.abs(case.spec.d)
    rows = []
    for k, (method, own, took) in enumerate(found):
        gap, gap_of_descent = reached - own, lowest - own
        nearest = np.minimum(gap, gap_of_descent) / (np.abs(own) + terms + 1e-30)
        broken = int(best.violations[k]) + int((~(gap_of_descent >= 0)).sum())
        row = {
            "network": name,
            "bounds": method,
            "rows": len(own),
            "samples": batches * batch,
            "violations": broken,
            "least gap": float(f"{gap.min():.3g}"),
            "least gap by descent": float(f"{gap_of_descent.min():.3g}"),
            "relative": f"{nearest.min():.1e}",
            "seconds": round(took, 1),
        }
        if case.margins:
            row["least margin"] = float(f"{own[: case.margins].min():.4g}")
        rows.append(row)
    return [
        *rows,
        {"network": name, "bounds": "samples, descent", "seconds": round(seconds, 1)},
    ]


def measure(
    names: Sequence[str], samples: int, batch: int, seed: int
) -> Iterator[list[dict[str, Any]]]:
    """Yields the rows of each network; one without its data says so in one row."""
    for name in names:
        try:
            yield challenge(name, samples, batch, seed)
        except DataUnavailableError:
            yield [{"network": name, "bounds": "no data: LATHE_DATA names its folder"}]


def main() -> None:
    """Prints the table; with --json also writes it. Exits with 1 on a violation."""
    parser = argparse.ArgumentParser(description="Bounds against attempts on them.")
    parser.add_argument("--samples", type=int, default=1_000_000, help="of a network")
    parser.add_argument("--batch", type=int, default=1000, help="samples at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="comma list")
    parser.add_argument("--json", help="file for the rows")
    args = parser.parse_args()
    names = args.networks.split(",")
    if min(args.samples, args.batch) < 1 or not set(names) <= set(NETWORKS):
        known = ", ".join(NETWORKS)
        parser.error(f"expected samples and batch >= 1 and networks among {known}")
    rows: list[dict[str, Any]] = []
    for own in measure(names, args.samples, args.batch, args.seed):
        rows += own
        print(_timing.table(own, COLUMNS), flush=True)
    print("\nall together")
    _timing.finish(args.json, rows, COLUMNS, note=NOTE, samples=args.samples)
    broken = sum(row.get("violations", 0) for row in rows)
    print(f"\n{NOTE}\n\n{broken} violations")
    if broken:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
