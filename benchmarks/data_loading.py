"""Seconds until a data set is in memory: the first time, and from the cache.

    python -m benchmarks.data_loading [--sets=mnist,cifar10] [--turns=5]

Every figure is of a new process with a cache folder of its own: `first` decodes the
prepared records of tensorflow-datasets and writes the cache, `again` reads it; both
without the seconds that imports take, which stand apart. Sets that are not prepared
below `TFDS_DATA_DIR` or `LATHE_DATA` are left out. Takes a minute or two.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks import _timing

COLUMNS = ("data set", "images", "first s", "again s", "imports s")
CHILD = """
import json, sys, time
began = time.perf_counter()
from experiments import data
ready = time.perf_counter()
found = data.load(sys.argv[1])
done = time.perf_counter()
images = len(found.train.labels) + len(found.test.labels)
print(json.dumps([images, done - ready, ready - began]))
"""


def timed(name: str, cache: str) -> list[float]:
    """Returns images, seconds of `load` and seconds of imports, in a new process.

    Args:
      name: of a data set.
      cache: its cache folder.
    """
    command = [sys.executable, "-c", CHILD, name]
    environment = {**os.environ, "LATHE_CACHE": cache}
    found = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    )
    return json.loads(found.stdout.splitlines()[-1])


def measure(name: str, turns: int) -> dict[str, Any]:
    """Returns the row of a data set.

    Args:
      name: of a data set.
      turns: how often its cache is read; medians are taken.
    """
    with tempfile.TemporaryDirectory() as cache:
        images, first, imports = timed(name, cache)
        again = [timed(name, cache) for _ in range(turns)]
    return {
        "data set": name,
        "images": int(images),
        "first s": first,
        "again s": statistics.median(each[1] for each in again),
        "imports s": statistics.median([imports, *(each[2] for each in again)]),
    }


def main() -> None:
    """Prints the table; with --json also writes it."""
    parser = argparse.ArgumentParser(description="Loading of data sets.")
    parser.add_argument("--sets", default="mnist,cifar10", help="comma list")
    parser.add_argument("--turns", type=int, default=5, help="reads of the cache")
    parser.add_argument("--json", help="file for the rows")
    args = parser.parse_args()
    if args.turns < 1:
        parser.error("expected turns >= 1")
    rows = []
    for name in args.sets.split(","):
        try:
            rows.append(measure(name, args.turns))
        except subprocess.CalledProcessError as error:
            print(f"{name}: {error.stderr.strip().splitlines()[-1]}", file=sys.stderr)
    if not rows:
        raise SystemExit(2)
    _timing.finish(args.json, rows, COLUMNS)


if __name__ == "__main__":
    main()
