"""Peak memory of full CROWN on a residual network, by rows that go back at once.

    python -m benchmarks.verify_memory [--network=resnet_2b] [--chunks=16,64,256]

Each row is a process of its own, which bounds one image of the reference below
`LATHE_DATA` and then asks the system for its largest resident size. `crown` bounds
every neuron of every hidden layer by a backward pass, `crown, intersected` only those
that intervals leave undecided, `interval` none: that row is what Python, JAX and the
network take by themselves. Exits with 1 if a row passes `LIMIT_GB`.
"""

import argparse
import json
import resource
import subprocess
import sys
from typing import Any

import jax
import numpy as np

from benchmarks import _timing, verify_reference
from verify import CrownConfig, bound, network
from verify.properties import Spec

LIMIT_GB = 4.0
"""What bounding resnet_2b may take."""
COLUMNS = ("network", "bounds", "rows at once", "neurons", "peak GB", "least margin")
METHODS = ("interval", "crown, intersected", "crown")
NOTE = f"""\
`peak GB` is the largest resident size of a process that compiles and runs the bounds of
one image once, in 10^9 bytes; the limit is {LIMIT_GB:g}."""


def measure(name: str, method: str, chunk: int) -> dict[str, Any]:
    """Bounds one image in this process and returns its row.

    Args:
      name: of a network of `verify_reference`.
      method: of `METHODS`.
      chunk: rows that go back at once.
    """
    wanted = verify_reference.reference(name)
    net, (case,) = verify_reference.given(name, wanted, 1)
    built = network(net.fn, net.params, case.region.lower)
    config = CrownConfig(intersect="intersected" in method, chunk=chunk)
    kind = "interval" if method == "interval" else "crown"

    @jax.jit
    def run(params: Any) -> Any:
        spec = Spec(case.C, np.zeros(case.C.shape[0], np.float32))
        return bound(
            *(net.fn, params, case.region, spec, kind),
            crown_config=config,
            built=built,
        ).lower

    least = float(np.asarray(run(net.params)).min())
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {
        "network": name,
        "bounds": method,
        "rows at once": "" if method == "interval" else chunk,
        "neurons": sum(int(np.prod(v.shape)) for v in built.hidden),
        "peak GB": round(peak / 1e9, 2),
        "least margin": least,
    }


def main() -> None:
    """Prints the table; with --json also writes it."""
    parser = argparse.ArgumentParser(description="Peak memory of CROWN.")
    parser.add_argument("--network", default="resnet_2b")
    parser.add_argument("--chunks", default="16,64,256", help="comma list of rows")
    parser.add_argument("--json", help="file for the rows")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.network not in verify_reference.NETWORKS:
        parser.error(f"expected one of {', '.join(verify_reference.NETWORKS)}")
    if args.one:
        row = measure(args.network, METHODS[int(args.one[0])], int(args.one[1]))
        print(json.dumps(row))
        return
    chunks = [int(n) for n in args.chunks.split(",")]
    cases = [(0, chunks[0]), *((k, n) for k in (1, 2) for n in chunks)]
    rows = []
    for method, chunk in cases:
        command = [sys.executable, "-m", "benchmarks.verify_memory"]
        command += ["--network", args.network, "--one", str(method), str(chunk)]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(found.stdout.splitlines()[-1]))
    _timing.finish(args.json, rows, COLUMNS, note=NOTE)
    print(f"\n{NOTE}")
    if any(row["peak GB"] > LIMIT_GB for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
