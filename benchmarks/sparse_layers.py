"""Layers from packed weights: ours against dense XLA and the sparse formats of others.

    python -m benchmarks.sparse_layers [--layers=gru_hidden] [--densities=0.125]

Takes about ten minutes on 2 CPU cores; one layer and density, half a minute. Every
candidate multiplies the same pruned matrix with the same feature-major activations, as
`--inner` layers of one jitted program, since a pruned layer lives in a network: a call
of its own costs 15 to 30 us whatever it does (`--inner=1` shows that). Results are
compared with the dense product of the masked matrix. `of ideal` is the gain over dense
divided by 1 / density; the rows 'gather' and 'product' are the two halves of BCR alone
and say where the rest goes.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
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
    """One layer, pruned, with its activations.

    Attributes:
      w: float32 [rows, cols], pruned entries 0.
      mask: bool of that shape.
      form: `w` packed in blocks.
      xs: float32 [inner, rows, b].
    """

    w: np.ndarray
    mask: np.ndarray
    form: packed.PackedBlocks
    xs: jax.Array


def make_case(
    layer: Layer, density: float, batch: int, block: int, inner: int, seed: int
) -> Case:
    """Returns a random layer pruned to `density` by the largest inputs of blocks."""
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((layer.rows, layer.cols)).astype(np.float32)
    pattern = gap.BCR(block, block)
    kept = gap.Target(density, pattern=pattern).kept(w.shape)
    mask = np.asarray(pattern.mask(jnp.abs(jnp.asarray(w)), kept))
    columns = min(batch * layer.positions, MOST_COLUMNS)
    xs = rng.standard_normal((inner, layer.rows, columns)).astype(np.float32)
    form = packed.pack_blocks(w, mask, (block, block))
    return Case(np.where(mask, w, np.float32(0)), mask, form, jnp.asarray(xs))


def _jitted(one: Callable[..., jax.Array], xs: jax.Array, *args: Any) -> Callable:
    """A call of `one(x, *args)` for every x of a stack, in one program."""
    program = jax.jit(lambda xs, *args: jax.lax.map(lambda x: one(x, *args), xs))
    return functools.partial(program, xs, *args)


def _gather(x: jax.Array, form: packed.PackedBlocks) -> jax.Array:
    return moves.spread(x, form.inputs.reshape(-1), form.readers)


def _product(x: jax.Array, form: packed.PackedBlocks) -> jax.Array:
    p, _, n_in = form.values.shape
    return jnp.einsum("poi,pib->pob", form.values, x.reshape(p, n_in, -1))


def candidates(case: Case) -> dict[str, Callable[[], Any]]:
    """Returns the fast candidates by name; each does every activation of the case."""
    w, mask, form, xs = case
    wide, tall = jnp.asarray(w.T.copy()), jnp.asarray(w)
    by_batch = jnp.asarray(np.asarray(xs).swapaxes(1, 2).copy())
    gathered = jax.jit(jax.vmap(_gather, (0, None)))(xs, form)
    lists = packed.pack_columns(w, mask)
    through = functools.partial(packed.matmul, layout="feature")
    keep = jnp.asarray(mask.T.copy())
    calls = {
        "dense W.T x": _jitted(lambda x, w: w @ x, xs, wide),
        "dense x W": _jitted(lambda x, w: x @ w, by_batch, tall),
        "masked dense": _jitted(
            lambda x, w, m: jnp.where(m, w, 0.0) @ x, xs, wide, keep
        ),
        OURS: _jitted(through, xs, form),
        "gather": _jitted(_gather, xs, form),
        "product": _jitted(_product, gathered, form),
        "unstructured lists": _jitted(through, xs, lists),
        "scipy CSR": scipy_csr(w.T, np.asarray(xs)),
    }
    torch = torch_csr(w.T, np.asarray(xs))
    return calls | ({"torch CSR": torch} if torch else {})


def bcoo(case: Case) -> Callable[[], Any]:
    """Returns the product through `jax.experimental.sparse`."""
    from jax.experimental import sparse

    matrix = sparse.BCOO.fromdense(jnp.asarray(case.w.T.copy()))
    return _jitted(lambda x, m: m @ x, case.xs, matrix)


def compare(
    name: str, density: float, batch: int, *, block: int, inner: int, turns: int
) -> list[dict[str, Any]]:
    """Times every candidate on one layer and returns the table's rows."""
    layer = LAYERS[name]
    columns = min(batch * layer.positions, MOST_COLUMNS)
    inner = max(1, min(inner, 2**22 // (layer.rows * columns)))
    case = make_case(layer, density, batch, block, inner, seed=batch)
    fast = candidates(case)
    timings = _timing.alternate(
        [_timing.Candidate(key, call, inner) for key, call in fast.items()], turns=turns
    )
    slow: dict[str, Callable[[], Any]] = {}
    if case.mask.sum() * columns * inner < 2**27:  # seconds beyond that
        slow = {"BCOO": bcoo(case)}
        timings |= _timing.alternate(
            [_timing.Candidate("BCOO", slow["BCOO"], inner)], turns=2, warmup=0
        )
    dense = min(timings[key].ms for key in DENSE)
    expected = np.asarray(fast[DENSE[0]]())
    kept = int(case.mask.sum())
    rows = []
    for key, timing in timings.items():
        full = key in (*DENSE, "masked dense")
        flops = 2 * columns * (layer.rows * layer.cols if full else kept)
        rows.append(
            {
                "layer": name,
                "density": kept / case.mask.size,
                "batch": batch,
                "method": key,
                "ms": timing.ms,
                "CPU ms": timing.cpu_ms,
                "x dense": dense / timing.ms,
                "of ideal": dense / timing.ms * kept / case.mask.size,
                "GFLOP/s": None if key == "gather" else flops / timing.ms / 1e6,
                "recompiled": timing.compilations,
                "error": _error(key, (fast | slow)[key](), expected),
            }
        )
    return rows


def _error(key: str, got: Any, expected: np.ndarray) -> float | None:
    """The largest difference from the dense product, over its largest entry."""
    if key in ("gather", "product"):
        return None
    result = np.asarray(got)
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
    print(_timing.table(rows, COLUMNS))
    lines = summary(rows)
    print("\n".join(lines))
    aim = [
        r
        for r in rows
        if r["method"] == OURS
        and r["layer"] in WIDE
        and r["batch"] >= 16
        and 0.12 < r["density"] < 0.13
    ]
    if aim:
        worst = min(aim, key=lambda r: r["x dense"])
        print(
            f"aim at density 1/8, 1024 wide, batch >= 16: at least 4 x dense; "
            f"worst {worst['x dense']:.2f} ({worst['layer']}, batch {worst['batch']})"
        )
    if args.json:
        payload = {"rows": rows, "columns": COLUMNS, "note": "\n".join(lines)}
        _timing.write_json(args.json, payload)


if __name__ == "__main__":
    main()
