"""Layers from packed weights: ours against dense XLA and the sparse formats of others.

    python -m benchmarks.sparse_layers [--layers=gru_hidden] [--densities=0.125]

Takes about ten minutes on 2 CPU cores; one layer and density, half a minute. Every
candidate multiplies the same pruned matrices with the same feature-major activations,
as `--inner` layers of one jitted program, since a pruned layer lives in a network: a
call of its own costs 15 to 30 us whatever it does (`--inner=1` shows that). Every layer
has weights of its own, so that no small packed matrix stays in a cache where the dense
one does not fit, and begins after the one before. Results are compared with the dense
product of the masked matrix. BCOO is left out of the largest cells, where it takes
seconds a call; their lines say so. `of ideal` is the gain over dense divided by
1 / density; the rows 'gather' and 'product' are the two halves of BCR alone and say
where the rest goes.
"""

import argparse
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gap
from benchmarks import _timing
from benchmarks._sparse_peers import scipy_csr, torch_csr
from gap import packed
from gap.packed import moves

OURS = "BCR"
DENSE = ("dense W.T x", "dense x W")
RIVALS = ("scipy CSR", "torch CSR", "BCOO")
COLUMNS = (
    "layer",
    "density",
    "batch",
    "method",
    "ms",
    "CPU ms",
    "x dense",
    "of ideal",
    "GFLOP/s",
    "recompiled",
    "error",
)
MOST_COLUMNS = 4096
"""Columns of activations at once; `gap.packed.conv` takes images in such chunks."""


MOST = 2**26
"""Weights of all layers of a program, 256 MB."""
BCOO_MOST = 2**27
"""Kept weights times columns from which BCOO, seconds a call, is left out."""


class Layer(NamedTuple):
    """A GEMM of a network: rows x cols weights, used at `positions` of an input."""

    rows: int
    cols: int
    positions: int = 1


LAYERS = {
    "lenet5_conv2": Layer(5 * 5 * 20, 50, 8 * 8),
    "lenet5_fc1": Layer(800, 500),
    "resnet20_conv3": Layer(3 * 3 * 64, 64, 8 * 8),
    "resnet50_conv4_1x1": Layer(1024, 256, 14 * 14),
    "resnet50_conv4_3x3": Layer(3 * 3 * 256, 256, 14 * 14),
    "vgg16_conv5": Layer(3 * 3 * 512, 512, 14 * 14),
    "vgg16_fc7": Layer(4096, 4096),
    "square_1024": Layer(1024, 1024),
    "gru_hidden": Layer(1024, 3 * 1024),
}
WIDE = ("vgg16_fc7", "square_1024", "gru_hidden")
"""Layers at least 1024 wide, for which the summary states the aim."""


class Case(NamedTuple):
    """Layers of one shape, pruned, each with its activations.

    Attributes:
      ws: float32 [inner, rows, cols], pruned entries 0.
      masks: bool of that shape.
      forms: each of `ws` packed in blocks.
      xs: float32 [inner, rows, b].
    """

    ws: np.ndarray
    masks: np.ndarray
    forms: list[packed.PackedBlocks]
    xs: np.ndarray


def make_case(
    layer: Layer, density: float, batch: int, block: int, inner: int, seed: int
) -> Case:
    """Returns random layers pruned to `density` by the largest inputs of blocks."""
    rng = np.random.default_rng(seed)
    ws = rng.standard_normal((inner, layer.rows, layer.cols)).astype(np.float32)
    pattern = gap.BCR(block, block)
    kept = gap.Target(density, pattern=pattern).kept(ws.shape[1:])
    masks = np.stack([pattern.mask(jnp.abs(jnp.asarray(w)), kept) for w in ws])
    columns = min(batch * layer.positions, MOST_COLUMNS)
    xs = rng.standard_normal((inner, layer.rows, columns)).astype(np.float32)
    forms = [
        packed.pack_blocks(w, m, (block, block)) for w, m in zip(ws, masks, strict=True)
    ]
    return Case(np.where(masks, ws, np.float32(0)), masks, forms, xs)


def _jitted(
    one: Callable[..., jax.Array], xs: Iterable[Any], *args: Iterable[Any]
) -> Callable[[], list[jax.Array]]:
    """A call of `one(x, *arguments)` for every layer, one after the other."""

    def run(xs: list[jax.Array], *args: list[Any]) -> list[jax.Array]:
        results: list[jax.Array] = []
        for x, *rest in zip(xs, *args, strict=True):
            if results:  # XLA cannot know that this adds 0: it has to wait
                x = x + 0.0 * results[-1].ravel()[0]
            results.append(one(x, *rest))
        return results

    given = jax.device_put([list(each) for each in (xs, *args)])
    return functools.partial(jax.jit(run), *given)


def _gather(x: jax.Array, form: packed.PackedBlocks) -> jax.Array:
    if form.inputs is None:  # nothing to gather
        return jnp.tile(x, (len(form.values), 1))
    return moves.spread(x, form.inputs.reshape(-1), form.readers)


def _product(x: jax.Array, form: packed.PackedBlocks) -> jax.Array:
    p, _, n_in = form.values.shape
    return jnp.einsum("poi,pib->pob", form.values, x.reshape(p, n_in, -1))


def candidates(case: Case) -> dict[str, Callable[[], Any]]:
    """Returns the fast candidates by name; each does every activation of the case."""
    ws, masks, forms, xs = case
    wide = [w.T.copy() for w in ws]
    keep = [m.T.copy() for m in masks]
    by_batch = [x.T.copy() for x in xs]
    gathered = _jitted(_gather, xs, forms)()
    lists = [packed.pack_columns(w, m) for w, m in zip(ws, masks, strict=True)]
    through = functools.partial(packed.matmul, layout="feature")
    calls = {
        "dense W.T x": _jitted(lambda x, w: w @ x, xs, wide),
        "dense x W": _jitted(lambda x, w: x @ w, by_batch, ws),
        "masked dense": _jitted(
            lambda x, w, m: jnp.where(m, w, 0.0) @ x, xs, wide, keep
        ),
        OURS: _jitted(through, xs, forms),
        "gather": _jitted(_gather, xs, forms),
        "product": _jitted(_product, gathered, forms),
        "unstructured lists": _jitted(through, xs, lists),
        "scipy CSR": scipy_csr(wide, xs),
    }
    torch = torch_csr(wide, xs)
    return calls | ({"torch CSR": torch} if torch else {})


def bcoo(case: Case) -> Callable[[], Any]:
    """Returns the products through `jax.experimental.sparse`."""
    from jax.experimental import sparse

    matrices = [sparse.BCOO.fromdense(jnp.asarray(w.T.copy())) for w in case.ws]
    return _jitted(lambda x, m: m @ x, case.xs, matrices)


def compare(
    name: str, density: float, batch: int, *, block: int, inner: int, turns: int
) -> list[dict[str, Any]]:
    """Times every candidate on one layer and returns the table's rows."""
    layer = LAYERS[name]
    columns = min(batch * layer.positions, MOST_COLUMNS)
    inner = min(
        inner, 2**22 // (layer.rows * columns), MOST // (layer.rows * layer.cols)
    )
    inner = max(1, inner)
    case = make_case(layer, density, batch, block, inner, seed=batch)
    fast = candidates(case)
    timings = _timing.alternate(
        [_timing.Candidate(key, call, inner) for key, call in fast.items()], turns=turns
    )
    slow: dict[str, Callable[[], Any]] = {}
    if case.masks.sum() * columns < BCOO_MOST:
        slow = {"BCOO": bcoo(case)}
        timings |= _timing.alternate(
            [_timing.Candidate("BCOO", slow["BCOO"], inner)], turns=2, warmup=0
        )
    dense = min(timings[key].ms for key in DENSE)
    expected = np.stack(fast[DENSE[0]]())
    kept, size = int(case.masks[0].sum()), layer.rows * layer.cols
    rows = []
    for key, timing in timings.items():
        full = key in (*DENSE, "masked dense")
        flops = 2 * columns * (size if full else kept)
        rows.append(
            {
                "layer": name,
                "density": kept / size,
                "batch": batch,
                "method": key,
                **timing.cells,
                "x dense": dense / timing.ms,
                "of ideal": dense / timing.ms * kept / size,
                "GFLOP/s": None if key == "gather" else flops / timing.ms / 1e6,
                "error": _error(key, (fast | slow)[key](), expected),
            }
        )
    return rows


def _error(key: str, got: Any, expected: np.ndarray) -> float | None:
    """The largest difference from the dense product, over its largest entry."""
    if key in ("gather", "product"):
        return None
    result = np.stack(got)
    if key == "dense x W":
        result = result.swapaxes(1, 2)
    return float(np.abs(result - expected).max() / np.abs(expected).max())


def summary(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns a line for each layer, density and batch: gain, rival, what limits it."""
    lines = []
    cells = dict.fromkeys((r["layer"], r["density"], r["batch"]) for r in rows)
    for cell in cells:
        found = {
            r["method"]: r
            for r in rows
            if (r["layer"], r["density"], r["batch"]) == cell
        }
        ours, rivals = found[OURS], [found[k] for k in RIVALS if k in found]
        best = min(rivals, key=lambda r: r["ms"])
        dense = max(found[k]["GFLOP/s"] for k in DENSE)
        product, gather = found["product"]["ms"], found["gather"]["ms"]
        speed = found["product"]["GFLOP/s"] / dense
        lines.append(
            f"{cell[0]}, density {cell[1]:.4f}, batch {cell[2]}: "
            f"{ours['x dense']:.2f} x dense ({ours['of ideal']:.0%} of ideal), "
            f"{best['ms'] / ours['ms']:.2f} x {best['method']}; alone, the product "
            f"takes {product / ours['ms']:.0%} at {speed:.2f} of dense's FLOP/s, "
            f"the gather {gather / ours['ms']:.0%}"
            + ("" if "BCOO" in found else "; BCOO not timed: seconds a call")
        )
    return lines


def aim(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Returns whether BCR is fast enough where it should be, in words; or nothing.

    At density 1/8, at least 1024 wide and batch >= 16: 4 x the best dense product and
    3 x the fastest sparse format of others.
    """
    gains: dict[str, list[tuple[float, str]]] = {"dense": [], "the best rival": []}
    for ours in rows:
        wide = ours["layer"] in WIDE and ours["batch"] >= 16
        if ours["method"] != OURS or not wide or not 0.12 < ours["density"] < 0.13:
            continue
        cell = [ours[k] for k in ("layer", "density", "batch")]
        rivals = [
            r["ms"]
            for r in rows
            if r["method"] in RIVALS
            and [r[k] for k in ("layer", "density", "batch")] == cell
        ]
        where = f"{ours['layer']}, batch {ours['batch']}"
        gains["dense"].append((ours["x dense"], where))
        gains["the best rival"].append((min(rivals) / ours["ms"], where))
    lines = []
    for (name, found), least in zip(gains.items(), (4, 3), strict=True):
        if found:
            worst, where = min(found)
            lines.append(
                f"aim at density 1/8, 1024 wide, batch >= 16: {least} x {name}: "
                f"{'met' if worst >= least else 'missed'}, worst {worst:.2f} ({where})"
            )
    return lines


def main() -> None:
    """Prints the table, a line for each cell, and whether the aim is met."""
    parser = argparse.ArgumentParser(description="Sparse layers, timed.")
    parser.add_argument("--layers", default=",".join(LAYERS), help="names, commas")
    parser.add_argument("--densities", default="0.25,0.125,0.0625")
    parser.add_argument("--batches", default="1,16,128")
    parser.add_argument("--block", type=int, default=128, help="inputs and outputs")
    parser.add_argument("--inner", type=int, default=8, help="layers in one program")
    parser.add_argument("--turns", type=int, default=9, help="timed calls")
    parser.add_argument("--json", help="file for the rows")
    args = parser.parse_args()
    names = args.layers.split(",")
    if unknown := set(names) - set(LAYERS):
        parser.error(f"unknown layers {sorted(unknown)}; expected of {list(LAYERS)}")
    rows: list[dict[str, Any]] = []
    for name in names:
        for density in map(float, args.densities.split(",")):
            for batch in map(int, args.batches.split(",")):
                rows += compare(
                    name,
                    density,
                    batch,
                    block=args.block,
                    inner=args.inner,
                    turns=args.turns,
                )
    lines = [*summary(rows), *aim(rows)]
    _timing.finish(args.json, rows, COLUMNS, note="\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
