"""Bounds and verdicts on this machine: sub-domains, images, boxes, first answers.

    python -m benchmarks.verify_bounds [--turns=5] [--groups=batches,bounds,boxes,...]

Takes about six minutes on 2 CPU cores and reads the networks below `LATHE_DATA`; rows
whose data or peer are not there say so. Every group is timed in turns with a 2048 x
2048 float32 matrix product. The share of the limit is the multiplications and additions
of the backward passes, counted from shapes, per CPU-second over the product's.
`quoted` are figures of auto_LiRPA and alpha-beta-CROWN measured by others on another
machine, scaled by the matrix product of both machines: they were not measured here.
"""

import argparse
import dataclasses
import functools
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import _timing, _verify_peers, _verify_work
from core.errors import DataUnavailableError

PEAK = "2048 x 2048 product"
BATCHES = (64, 128, 256, 512)
NETWORKS = ("mnist_cnn_a_adv", "cifar_base_kw")
INSTANCES = (("1_7", 3), ("2_9", 3), ("4_5", 4), ("1_1", 1), ("1_1", 3), ("1_1", 2))
"""Network and property of ACAS Xu, from the fast to the slow."""
MARABOU_S = 30
"""Seconds that Marabou has for a query."""
COLUMNS = (
    "row",
    "ms",
    "CPU ms",
    "per s",
    "per CPU s",
    "share of limit",
    "quoted, scaled",
    "x quoted",
    "first call s",
    "recompiled",
    "found",
)
NOTE = """\
`ms` and `CPU ms` are of one call, `per s` and `per CPU s` count what the row names:
sub-domains, images or boxes. `quoted, scaled`: figures of auto_LiRPA 0.7.0 and
alpha-beta-CROWN from another machine, times the ratio of the matrix products; they were
not measured here. `share of limit`: multiplications and additions of the backward
passes, padding included, over what the matrix product of the same group reaches."""


@dataclasses.dataclass
class Work:
    """One row to time.

    Attributes:
      row: its label.
      run: a call.
      units: what one call makes: sub-domains, images or boxes.
      operations: multiplications and additions of a call; None where not counted.
      quoted: of the other verifier, units per CPU-second of its machine.
      found: what the call came to, for the last column.
      after: returns `operations` and `found`, asked once everything is timed.
    """

    row: str
    run: Callable[[], Any]
    units: int
    operations: float | None = None
    quoted: float | None = None
    found: str = ""
    after: Callable[[], tuple[float | None, str]] | None = None


def timed(group: str, works: list[Work], turns: int) -> list[dict[str, Any]]:
    """Times the rows of a group in turns with a matrix product.

    Args:
      group: what the product's row is called after.
      works: the rows.
      turns: timed calls of each.
    """
    side = jnp.ones((2048, 2048), jnp.float32)
    product = jax.jit(jnp.matmul)
    candidates = [_timing.Candidate(w.row, w.run) for w in works]
    peak = _timing.Candidate(PEAK, lambda: product(side, side))
    timings = _timing.alternate([*candidates, peak], turns=turns, warmup=0)
    limit = 2 * 2048**3 / (timings[PEAK].cpu_ms / 1e3)
    rows = [_row(work, timings[work.row], limit) for work in works]
    last = {
        "row": f"{group}: {PEAK}, {limit / 1e9:.0f} GFLOP per CPU-second",
        **timings[PEAK].cells,
        "share of limit": 1.0,
    }
    return [*rows, last]


def _row(work: Work, timing: _timing.Timing, limit: float) -> dict[str, Any]:
    rate = work.units / (timing.cpu_ms / 1e3)
    row: dict[str, Any] = {
        "row": work.row,
        **timing.cells,
        "per s": work.units / (timing.ms / 1e3),
        "per CPU s": rate,
    }
    if work.after is not None:
        work.operations, work.found = work.after()
    if work.operations is not None:
        row["share of limit"] = work.operations / (timing.cpu_ms / 1e3) / limit
    if work.quoted is not None:
        row["quoted, scaled"] = work.quoted * limit / 1e9 / _verify_peers.QUOTED_GFLOP
        row["x quoted"] = rate / row["quoted, scaled"]
    if work.found:
        row["found"] = work.found
    return row


def batches(turns: int) -> Iterator[dict[str, Any]]:
    """Yields rows of beta-CROWN, 20 iterations, as branch and bound calls it."""
    for name in NETWORKS:
        root = _verify_work.open_root(name)
        works = []
        for size in BATCHES:
            run, operations = _verify_work.bounding(root, size)
            quoted = _verify_peers.QUOTED.get((name, f"batch {size}"))
            row = f"{name}: beta-CROWN of sub-domains, batch {size}"
            works.append(Work(row, run, size, operations, quoted, root.about))
        run, operations = _verify_work.round_of(root, 256)
        quoted = _verify_peers.QUOTED.get((name, "round of 256"))
        row = f"{name}: sub-domains with kFSB branching, batch 256"
        works.append(Work(row, run, 256, operations, quoted, root.about))
        yield from timed(name, works, turns)


def bounds(turns: int, images: int = 3) -> Iterator[dict[str, Any]]:
    """Yields rows of the bounds of whole images."""
    name = "mnist_cnn_a_adv"
    works = []
    for method, run, after in _verify_work.methods(name, images):
        quoted = _verify_peers.QUOTED.get((name, method))
        row = f"{name}: images by {method}"
        works.append(Work(row, run, images, quoted=quoted, after=after))
    yield from timed(name, works, turns)


def boxes(turns: int) -> Iterator[dict[str, Any]]:
    """Yields rows of boxes of an input-split search."""
    works = []
    for size in (1024, 8192):
        run, operations = _verify_work.boxing("1_1", 2, size)
        quoted = _verify_peers.QUOTED["acasxu", "most"]
        row = f"acasxu: boxes, batch {size}"
        works.append(Work(row, run, size, operations, quoted))
    yield from timed("acasxu", works, turns)


def first_answers(turns: int) -> Iterator[dict[str, Any]]:
    """Yields rows from the start of a process to the verdict of the front door.

    The door keeps compiled programs in a folder; each problem gets an empty one, so
    that its first row compiles everything and its second nothing.
    """
    oval = "oval21/cifar_base_kw"
    for label, network, prop in (
        ("acasxu 2_9 prop_3", *_verify_work.acasxu_files("2_9", 3)),
        (
            "cifar_base_kw img4549",
            _verify_work.competition(f"{oval}.onnx"),
            _verify_work.competition(
                f"{oval}-img4549-eps0.00392156862745098.vnnlib.gz"
            ),
        ),
    ):
        command = ["launch.py", "verify", f"--onnx={network}", f"--vnnlib={prop}"]
        with tempfile.TemporaryDirectory() as programs:
            for row, count in (("the first time", 1), ("again", min(turns, 3))):
                timing = _timing.Timing(row)
                answers = [_answer(command, programs, timing) for _ in range(count)]
                yield {
                    "row": f"{label}: process start to verdict, {row}",
                    "ms": timing.ms,
                    "CPU ms": timing.cpu_ms,
                    "found": answers[-1],
                }


def _answer(command: list[str], programs: str, timing: _timing.Timing) -> str:
    """Runs a command of this repository; returns the first word that it prints."""
    before, start = _children_cpu(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command],
        cwd=Path(__file__).resolve().parents[1],
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": programs},
        capture_output=True,
        text=True,
        check=False,
    )
    timing.wall_s.append(time.perf_counter() - start)
    timing.cpu_s.append(_children_cpu() - before)
    words = done.stdout.split()
    return words[0] if words else f"exit code {done.returncode}"


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def marabou(turns: int) -> Iterator[dict[str, Any]]:
    """Yields rows of ACAS Xu decided here and, in turns, by Marabou on one thread."""
    for network, prop in INSTANCES:
        label = f"acasxu {network} prop_{prop}"
        onnx, problem = _verify_work.acasxu(network, prop)
        ours = functools.partial(_verify_work.decide, problem, 60.0)
        found = {"here": _timing.Timing(f"{label}: here")}
        runs: dict[str, Callable[[], str]] = {"here": ours}
        try:
            runs["Marabou"] = _verify_peers.marabou(onnx, problem, MARABOU_S)
            found["Marabou"] = _timing.Timing(f"{label}: Marabou, one thread")
        except ImportError:
            yield {"row": f"{label}: Marabou", "found": "not installed"}
        with _timing.stopwatch() as elapsed:
            ours()
            found["here"].compile_s = elapsed()[0]
        answers = dict.fromkeys(runs, "")
        for _ in range(min(turns, 3)):
            for who, run in runs.items():
                if answers[who] == "timeout":
                    continue  # no need to wait for it again
                with _timing.stopwatch() as elapsed:
                    answers[who] = run()
                    wall, cpu = elapsed()
                found[who].wall_s.append(wall)
                found[who].cpu_s.append(cpu)
        for who, timing in found.items():
            row = {"row": timing.name, "ms": timing.ms, "CPU ms": timing.cpu_ms}
            if who == "here":
                row["first call s"] = timing.compile_s
            yield row | {"found": answers[who]}


GROUPS: dict[str, Callable[[int], Iterator[dict[str, Any]]]] = {
    "batches": batches,
    "bounds": bounds,
    "boxes": boxes,
    "first": first_answers,
    "marabou": marabou,
}


def measure(names: list[str], turns: int) -> list[dict[str, Any]]:
    """Returns the rows of groups; a group without its data says so in one row."""
    rows: list[dict[str, Any]] = []
    for name in names:
        try:
            rows += GROUPS[name](turns)
        except DataUnavailableError:
            why = "no data: LATHE_DATA names its folder"
            rows.append({"row": f"{name}: skipped", "found": why})
    return rows


def main() -> None:
    """Prints the table; with --json also writes it."""
    parser = argparse.ArgumentParser(description="Bounds and verdicts, timed.")
    parser.add_argument("--turns", type=int, default=5, help="timed calls of each row")
    parser.add_argument("--groups", default=",".join(GROUPS), help="comma list")
    parser.add_argument("--json", help="file for the rows")
    args = parser.parse_args()
    names = args.groups.split(",")
    if args.turns < 1 or not set(names) <= set(GROUPS):
        parser.error(f"expected turns >= 1 and groups among {', '.join(GROUPS)}")
    rows = measure(names, args.turns)
    _timing.finish(args.json, rows, COLUMNS, note=NOTE)
    print(f"\n{NOTE}")


if __name__ == "__main__":
    main()
