"""Timing for every benchmark: alternate runs, medians, CPU-seconds, tables.

Machines are shared, so wall time alone says little. Candidates are timed in turns
within one run (a slow minute hits all of them), every figure is a median, and the
CPU-seconds of the whole process (all threads) stand beside the milliseconds.
Compilation is timed apart, and every compilation after it is counted.
"""

import json
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.monitoring

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


@dataclass
class Candidate:
    """One thing to time.

    Attributes:
      name: the row's label.
      run: a call that does `work` units and returns what must be waited for.
      work: units (steps, projections) in one call of `run`.
    """

    name: str
    run: Callable[[], Any]
    work: int = 1


@dataclass
class Timing:
    """What was measured of a candidate; times are per unit of work.

    Attributes:
      name: the row's label.
      compile_s: seconds of the first call, compilation included.
      wall_s: wall seconds of each turn.
      cpu_s: CPU-seconds of each turn, user and system, all threads.
      compilations: XLA compilations after the first call; 0 is expected.
    """

    name: str
    compile_s: float = 0.0
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    compilations: int = 0

    @property
    def ms(self) -> float:
        """The median wall time in milliseconds."""
        return 1e3 * statistics.median(self.wall_s)

    @property
    def cpu_ms(self) -> float:
        """The median CPU time in milliseconds."""
        return 1e3 * statistics.median(self.cpu_s)

    @property
    def cells(self) -> dict[str, float | int]:
        """What every table says of a row."""
        return {
            "ms": self.ms,
            "CPU ms": self.cpu_ms,
            "first call s": self.compile_s,
            "recompiled": self.compilations,
        }

    def cpu_ratio(self, other: "Timing") -> float:
        """The median over turns of this CPU time over `other`'s in the same turn."""
        return statistics.median(self._ratios(other))

    def cpu_quartiles(self, other: "Timing") -> str:
        """The quartiles of those ratios, as text."""
        ratios = self._ratios(other)
        if len(ratios) < 2:
            return "-"
        low, _, high = statistics.quantiles(ratios, n=4)
        return f"{low:.3f} to {high:.3f}"

    def _ratios(self, other: "Timing") -> list[float]:
        pairs = zip(self.cpu_s, other.cpu_s, strict=True)
        return [mine / theirs for mine, theirs in pairs]


def cpu_seconds() -> float:
    """Returns the CPU-seconds of this process so far, user and system."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class CompileCounter:
    """Counts XLA compilations; read `count`."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        del duration_secs, kwargs
        self.count += event == _COMPILE_EVENT


_COUNTER: CompileCounter | None = None


def compilations() -> int:
    """Returns how often XLA has compiled since the first call of this function."""
    global _COUNTER
    if _COUNTER is None:
        _COUNTER = CompileCounter()
    return _COUNTER.count


@contextmanager
def stopwatch() -> Iterator[Callable[[], tuple[float, float]]]:
    """Yields a function that returns the wall and CPU seconds since entry."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    yield lambda: (time.perf_counter() - wall, cpu_seconds() - cpu)


def alternate(
    candidates: Sequence[Candidate], *, turns: int = 7, warmup: int = 1
) -> dict[str, Timing]:
    """Times the candidates in turns: A B C, A B C, ...

    Args:
      candidates: what to time; their first call compiles.
      turns: how often each is timed.
      warmup: untimed calls after the first one.

    Returns:
      A `Timing` for each name, in the order given.
    """
    compilations()
    timings = {c.name: Timing(c.name) for c in candidates}
    for c in candidates:
        with stopwatch() as elapsed:
            jax.block_until_ready(c.run())
            timings[c.name].compile_s = elapsed()[0]
        before = compilations()
        for _ in range(warmup):
            jax.block_until_ready(c.run())
        timings[c.name].compilations += compilations() - before
    for _ in range(turns):
        for c in candidates:
            before = compilations()
            with stopwatch() as elapsed:
                jax.block_until_ready(c.run())
                wall, cpu = elapsed()
            timing = timings[c.name]
            timing.wall_s.append(wall / c.work)
            timing.cpu_s.append(cpu / c.work)
            timing.compilations += compilations() - before
    return timings


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Returns rows as an aligned text table; a missing cell shows as '-'."""
    cells = [[_cell(row.get(c)) for c in columns] for row in rows]
    widths = [
        max(len(c), *(len(line[i]) for line in cells)) if cells else len(c)
        for i, c in enumerate(columns)
    ]
    lines = [list(columns), ["-" * w for w in widths], *cells]
    return "\n".join(
        "  ".join(
            text.ljust(w) if i == 0 else text.rjust(w)
            for i, (text, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return str(value)


def machine() -> dict[str, Any]:
    """Returns what the figures were measured on."""
    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processor": _processor(),
        "python": platform.python_version(),
        "jax": jax.__version__,
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = [
        x.split(":")[1].strip() for x in text.splitlines() if x.startswith("model name")
    ]
    return f"{len(names)} x {names[0]}" if names else platform.machine()


def finish(
    path: str | None,
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    **more: Any,
) -> None:
    """Prints a benchmark's table; writes it for `benchmarks.report` if a path is given.

    Args:
      path: of a JSON file; it also tells the machine.
      rows: by column.
      columns: those shown, in order.
      **more: what else stands in the file, such as a `note`.
    """
    print(table(rows, columns))
    if path:
        payload = {"machine": machine(), **more, "columns": columns, "rows": rows}
        Path(path).write_text(json.dumps(payload, indent=1) + "\n")
