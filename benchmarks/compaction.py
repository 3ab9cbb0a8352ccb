"""What pruning leaves to run: seconds to pack a large model, time of compact networks.

    python -m benchmarks.compaction [--networks=vgg16,resnet20] [--batches=1,32]

Takes about six minutes on 2 CPU cores. Packing: masks and packed forms of all kernels
of ResNet-50, 25.5 million weights, at `--density`; the first pass compiles, and is
reported apart from the second. Compaction: a network with half of the filters of its
convolutions pruned, dense, masked and after `gap.compact`, on the same images. The gain
that one may hope for is the ratio of multiply-accumulates; `of ideal` is the measured
gain over that.
"""

import argparse
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gap
from benchmarks import _timing
from core import trees
from core.types import PyTree
from experiments import models
from gap import packed

NETWORKS = {
    "lenet5": "params/(conv.*|fc1)/kernel",
    "vgg16": "params/conv.*/kernel",
    "resnet20": "params/layer.*/conv1/kernel",
    "mobilenetv2": "params/layer.*/conv1/kernel",
}
"""Which kernels lose filters: all that no shortcut ties."""
COLUMNS = (
    "case",
    "batch",
    "weights",
    "MACs ratio",
    "ms",
    "CPU ms",
    "x dense",
    "of ideal",
    "seconds",
    "CPU s",
    "compiling s",
    "recompiled",
    "error",
)
PACKED = {
    "BCR": gap.BCR(),
    "NM": gap.NM(8),
    "Unstructured": gap.Unstructured(),
}


def resnet50() -> dict[str, tuple[int, ...]]:
    """Returns the shapes of ResNet-50's kernels (arXiv 1512.03385, table 1)."""
    shapes: dict[str, tuple[int, ...]] = {"conv1": (7, 7, 3, 64)}
    before = 64
    for stage, (middle, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for block in range(blocks):
            name, after = f"layer{stage + 1}_{block}", 4 * middle
            shapes |= {
                f"{name}/conv1": (1, 1, before, middle),
                f"{name}/conv2": (3, 3, middle, middle),
                f"{name}/conv3": (1, 1, middle, after),
            }
            if block == 0:
                shapes[f"{name}/shortcut"] = (1, 1, before, after)
            before = after
    return shapes | {"fc": (before, 1000)}


def packing(density: float, names: Iterable[str]) -> list[dict[str, Any]]:
    """Returns rows of the seconds that masks and packed forms of a model take."""
    rng = np.random.default_rng(0)
    params = {
        name: jnp.asarray(rng.standard_normal(shape, np.float32))
        for name, shape in resnet50().items()
    }
    rows = []
    for name in names:
        target = gap.Target(density, pattern=PACKED[name])
        rules = [("conv1", None), (".*", target)]  # three input channels stay dense
        made: dict[str, PyTree] = {}

        def mask(rules: Any = rules, made: dict[str, PyTree] = made) -> PyTree:
            made["masks"] = gap.magnitude_masks(params, rules)
            return made["masks"]

        def pack(target: gap.Target = target, made: dict = made) -> PyTree:
            form = lambda m, w: packed.pack(w, m, target)  # noqa: E731
            return trees.map_partial(form, made["masks"], params)

        calls: dict[str, Callable[[], PyTree]] = {"masks": mask, "pack": pack}
        for part, call in calls.items():
            (first, _), (again, cpu) = [_spent(call) for _ in range(2)]
            rows.append(
                {
                    "case": f"{part}, {name}",
                    "weights": trees.size(trees.select(made["masks"], params)),
                    "seconds": again,
                    "CPU s": cpu,
                    "compiling s": first - again,
                }
            )
    return rows


def _spent(call: Callable[[], PyTree]) -> tuple[float, float]:
    """Wall and CPU seconds of a call."""
    with _timing.stopwatch() as elapsed:
        jax.block_until_ready(call())
        return elapsed()


def compacted(name: str, batch: int, density: float, turns: int) -> list[dict]:
    """Returns rows of one network: dense, masked and compact."""
    model = models.create(name)
    rng = np.random.default_rng(batch)
    x = rng.standard_normal((batch, *models.MODELS[name].input_shape)).astype("f4")
    x = jnp.asarray(x)
    variables = model.init(jax.random.key(0), x[:1])
    target = gap.Target(density, pattern=gap.Filter())
    masks = gap.magnitude_masks(variables, [(NETWORKS[name], target)])
    small = gap.compact(model.apply, variables, masks, x[:1])
    before = gap.profile(model.apply, variables, x[:1]).total
    after = gap.profile(small.fn, small.params, x[:1]).total

    def masked(variables: PyTree, masks: PyTree, x: jax.Array) -> Any:
        return model.apply(gap.apply_masks(variables, masks), x)

    programs = {
        "dense": (jax.jit(model.apply), variables, x),
        "masked": (jax.jit(masked), variables, masks, x),
        "compact": (jax.jit(small.fn), small.params, x),
    }
    timings = _timing.alternate(
        [_timing.Candidate(k, lambda p=p: p[0](*p[1:])) for k, p in programs.items()],
        turns=turns,
    )
    run, *arguments = programs["masked"]
    expected = np.asarray(run(*arguments))
    got = np.asarray(programs["compact"][0](small.params, x))
    ratio = before.macs / after.macs
    rows = []
    for key, timing in timings.items():
        least = key == "compact"
        gain = timings["dense"].ms / timing.ms
        rows.append(
            {
                "case": f"{name}, {key}",
                "batch": batch,
                "weights": (after if least else before).parameters,
                "MACs ratio": ratio if least else 1.0,
                **timing.cells,
                "x dense": gain,
                "of ideal": gain / ratio if least else None,
                "error": float(np.abs(got - expected).max() / np.abs(expected).max())
                if least
                else None,
            }
        )
    return rows


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Packing and compaction, timed.")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="names, commas")
    parser.add_argument("--batches", default="1,32")
    parser.add_argument("--density", type=float, default=0.5, help="filters that stay")
    parser.add_argument("--patterns", default=",".join(PACKED), help="to pack, commas")
    parser.add_argument("--packed", type=float, default=0.125, help="weights packed")
    parser.add_argument("--turns", type=int, default=15, help="timed calls")
    parser.add_argument("--json", help="file for the rows")
    args = parser.parse_args()
    names = [name for name in args.networks.split(",") if name]
    if unknown := set(names) - set(NETWORKS):
        parser.error(f"unknown networks {sorted(unknown)}; expected {list(NETWORKS)}")
    patterns = [name for name in args.patterns.split(",") if name]
    if unknown := set(patterns) - set(PACKED):
        parser.error(f"unknown patterns {sorted(unknown)}; expected {list(PACKED)}")
    rows = packing(args.packed, patterns)
    for name in names:
        for batch in map(int, args.batches.split(",")):
            rows += compacted(name, batch, args.density, args.turns)
    _timing.finish(args.json, rows, COLUMNS)


if __name__ == "__main__":
    main()
