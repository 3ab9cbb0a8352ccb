"""Designs a second of cost functions, and cycles beside SCALE-Sim's, layer by layer.

    python -m benchmarks.cost_model [--points=262144] [--turns=3]

A design point is a width of weights, one of data and a density: latency and energy of
ResNet-50 (its equal layers put together) on a target, jitted and vmapped, in chunks
that stay in the cache. `scalesim` is an oracle too: it walks through every cycle of an
array, and `off` is the largest difference of cycles in any layer of two networks.
"""

import argparse
import dataclasses
import functools
import math
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import hw
from benchmarks import _timing
from core.types import Array
from experiments import models
from experiments.hardware import networks
from hw.targets.arrays import systolic_array
from hw.targets.systolic import Dataflow

COLUMNS = ("row", "points/s", "ms", "CPU ms", "first call s", "recompiled", "off")
TARGETS = ("mobile_gpu", "fpga_zcu102", "msq_xc7z045", "s2ta_aw", "ant", "host")
ARRAY = (32, 32)
"""Rows and columns of the array that SCALE-Sim walks through."""
ORACLE = ("lenet5", "resnet20")


@functools.partial(jax.jit, static_argnames="chunk")
def totals(
    points: Array, table: hw.Workload, target: Any, chunk: int
) -> tuple[Array, Array]:
    """Returns latency and energy of designs [n, 3], each [n]."""

    def one(point: Array) -> tuple[Array, Array]:
        made = hw.design(table, bits=point[0], input_bits=point[1], density=point[2])
        found = hw.cost(made, target)
        return found.latency_s, found.energy_j

    parts = points.reshape(-1, chunk, 3)
    latency, energy = lax.map(jax.vmap(one), parts)
    return latency.ravel(), energy.ravel()


def products(name: str) -> hw.Workload:
    """Returns the products of a network, batch 1."""
    if name in networks.NETWORKS:
        table = hw.workload(networks.apply_of(name), *networks.shapes(name))
    else:
        model = models.create(name)
        x = jax.ShapeDtypeStruct((1, *models.MODELS[name].input_shape), jnp.float32)
        like = jax.eval_shape(model.init, jax.random.key(0), x)
        table = hw.workload(model.apply, like, x)
    return table.take(table.is_product)


def simulated(m: int, k: int, n: int, dataflow: str) -> int:
    """Returns the cycles that SCALE-Sim walks through for a product.

    Raises:
      ImportError: scalesim is not installed.
    """
    from scalesim.compute.systolic_compute_is import (  # pyright: ignore[reportMissingImports]
        systolic_compute_is,
    )
    from scalesim.compute.systolic_compute_os import (  # pyright: ignore[reportMissingImports]
        systolic_compute_os,
    )
    from scalesim.compute.systolic_compute_ws import (  # pyright: ignore[reportMissingImports]
        systolic_compute_ws,
    )
    from scalesim.scale_config import (  # pyright: ignore[reportMissingImports]
        scale_config,
    )

    kinds = {
        "output": systolic_compute_os,
        "weight": systolic_compute_ws,
        "input": systolic_compute_is,
    }
    config = scale_config()
    config.array_rows, config.array_cols = ARRAY
    config.valid_conf_flag = True
    # Addresses of operands, which is all that it looks at.
    data = np.arange(m * k, dtype=float).reshape(m, k)
    weights = 1e7 + np.arange(k * n, dtype=float).reshape(k, n)
    out = 2e7 + np.arange(m * n, dtype=float).reshape(m, n)
    extra = {"ifmap_op_mat_original": data} if dataflow == "weight" else {}
    array = kinds[dataflow]()
    array.set_params(
        config_obj=config,
        ifmap_op_mat=data,
        filter_op_mat=weights,
        ofmap_op_mat=out,
        **extra,
    )
    array.get_prefetch_matrices()
    return max(len(part) for part in array.get_demand_matrices())


def beside_scalesim(dataflow: Dataflow) -> dict[str, Any]:
    """Returns a row: time of all layers, and the largest difference of cycles."""
    target = systolic_array(ARRAY[0], ARRAY[1], dataflow)
    worst, spent = 0.0, 0.0
    for name in ORACLE:
        table = products(name)
        ours = np.asarray(target.cycles(jax.tree.map(jnp.asarray, table)))
        shapes = np.asarray([table.m, table.k, table.n], int).T
        known: dict[tuple[int, ...], int] = {}
        for shape, cycles in zip(shapes.tolist(), ours, strict=True):
            start = time.perf_counter()
            key = tuple(shape)
            if key not in known:
                known[key] = simulated(key[0], key[1], key[2], dataflow)
            spent += time.perf_counter() - start
            worst = max(worst, abs(float(cycles) / known[key] - 1))
    return {
        "row": f"scalesim, {dataflow} stationary",
        "points/s": len(ORACLE) / spent,
        "ms": 1e3 * spent / len(ORACLE),
        "off": worst,
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Designs a second.")
    parser.add_argument("--points", type=int, default=2**18, help="designs in a call")
    parser.add_argument("--chunk", type=int, default=2048, help="designs at a time")
    parser.add_argument("--turns", type=int, default=3, help="timed calls")
    parser.add_argument("--json", help="file for the rows")
    args = parser.parse_args()
    count = math.ceil(args.points / args.chunk) * args.chunk
    rng = np.random.default_rng(0)
    low, high = np.array([2.0, 2.0, 0.05]), np.array([16.0, 16.0, 1.0])
    points = jnp.asarray(rng.uniform(low, high, (count, 3)).astype(np.float32))
    table = hw.distinct(products("resnet50"))
    table = dataclasses.replace(
        table, pattern=np.full(len(table), hw.PATTERNS.index("block"), np.int32)
    )
    calls = [
        _timing.Candidate(
            name,
            functools.partial(totals, points, table, hw.get(name), args.chunk),
        )
        for name in TARGETS
    ]
    timings = _timing.alternate(calls, turns=args.turns)
    rows = [
        {"row": name, "points/s": count / timings[name].ms * 1e3, **timings[name].cells}
        for name in TARGETS
    ]
    note = f"{count:,} designs of ResNet-50, {len(table)} distinct products."
    try:
        flows: tuple[Dataflow, ...] = ("output", "weight", "input")
        rows += [beside_scalesim(flow) for flow in flows]
        note += (
            f" SCALE-Sim walks through {' and '.join(ORACLE)} on {ARRAY[0]} x "
            f"{ARRAY[1]} units; a point is a network."
        )
    except ImportError:
        note += " scalesim is not installed (requirements-bench.txt)."
    _timing.finish(args.json, rows, COLUMNS, note=note)


if __name__ == "__main__":
    main()
