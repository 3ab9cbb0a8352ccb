"""Networks that calibration has not seen, timed on the machine at hand."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hw
from core.types import ArrayLike
from experiments import models
from experiments.hardware import networks
from experiments.hardware.entry import WORST, within
from experiments.results import Figure, Row, Series
from hw.calibration import fit, tables_of, time_micros
from hw.micro import micros, repeated, seconds_of

UNSEEN = (
    *(("lenet_300_100", 1), ("lenet_300_100", 64), ("lenet5", 1), ("lenet5", 32)),
    *(("convnet", 1), ("convnet", 16), ("resnet20", 1), ("resnet20", 8)),
    *(("vgg16", 1), ("vgg16", 4), ("mobilenetv2", 1), ("mobilenetv2", 4)),
    *(("gru", 1), ("gru", 16), ("transformer", 1), ("transformer", 4)),
    ("resnet18", 1),
)
"""Networks of `experiments.models` and of the hardware papers, and batches."""


def _function(name: str, batch: int) -> tuple[Any, Any, Any]:
    """A network as a function, the shapes of its parameters and of its input."""
    if name in models.MODELS:
        model = models.create(name)
        x = jax.ShapeDtypeStruct((batch, *models.MODELS[name].input_shape), jnp.float32)
        return model.apply, jax.eval_shape(model.init, jax.random.key(0), x), x
    return networks.apply_of(name), *networks.shapes(name, batch)


def _case(name: str, batch: int) -> tuple[Any, Any, Any]:
    """A function, its parameters (random) and its input."""
    fn, shapes, x = _function(name, batch)
    if name in models.MODELS:
        model = models.create(name)
        params = jax.jit(model.init)(jax.random.key(0), jnp.ones(x.shape))
        return fn, params, jnp.ones(x.shape)
    rng = np.random.default_rng(0)
    params = {
        key: jnp.asarray(rng.standard_normal(s.shape).astype(np.float32) * 0.02)
        for key, s in shapes.items()
    }
    return fn, params, jnp.ones(x.shape)


def time_networks(cases: Sequence[tuple[str, int]] = UNSEEN) -> list[float]:
    """Returns the seconds of networks, batch by batch: medians of three turns."""
    runs = []
    for name, batch in cases:
        fn, params, x = _case(name, batch)
        runs.append(functools.partial(seconds_of, jax.jit(fn), params, x))
    return repeated(runs)


def table_of(name: str, batch: int) -> hw.Workload:
    """Returns the workload of a network and batch; nothing is made."""
    return hw.workload(*_function(name, batch))


def measure(cases: Sequence[tuple[str, int]] = UNSEEN) -> dict[str, Any]:
    """Calibrates, then times networks and predicts their times."""
    chosen = list(micros())
    launch, times = time_micros(chosen)
    seconds = time_networks(cases)
    return judge(cases, seconds, launch, times)


def judge(
    cases: Sequence[tuple[str, int]],
    seconds: Sequence[float],
    launch: float,
    times: list[float],
) -> dict[str, Any]:
    """Fits `host` to microbenchmarks and predicts networks.

    Args:
      cases: names and batches of networks.
      seconds: of each.
      launch: seconds of a run that does nothing.
      times: seconds of the microbenchmarks of `hw.micro.micros`.

    Returns:
      Predicted and measured seconds by network and by microbenchmark, and the fitted
      constants.
    """
    chosen = list(micros())
    found = fit(tables_of(chosen), times, [m.name for m in chosen], launch)
    rows = []
    for (name, batch), measured in zip(cases, seconds, strict=True):
        cost = hw.cost(table_of(name, batch), found.target)
        rows.append([f"{name}, batch {batch}", float(cost.latency_s), measured])
    constants = {
        c.name: float(c.value)
        for c in hw.constants(found.target)
        if np.ndim(c.value) == 0
    }
    pairs = zip(found.names, found.predicted.tolist(), times, strict=True)
    return {"networks": rows, "micro": [list(p) for p in pairs], "constants": constants}


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Returns the correlation of ranks; numbers without ties."""
    one, other = (np.argsort(np.argsort(np.asarray(v))) for v in (x, y))
    return float(np.corrcoef(one, other)[0, 1])


def rows(found: dict[str, Any]) -> Iterable[Row]:
    """Yields predicted beside measured times, their errors and their order."""
    for name, predicted, measured in found["networks"]:
        yield Row(
            "latency on this machine, predicted (baseline: measured)",
            name,
            1e3 * predicted,
            baseline=1e3 * measured,
            unit="ms",
            simulated=True,
        )
    for title, key in (("networks", "networks"), ("microbenchmarks", "micro")):
        pairs = np.array([row[1:] for row in found[key]])
        errors = 100 * np.abs(pairs[:, 0] / pairs[:, 1] - 1)
        order = spearman(pairs[:, 0], pairs[:, 1])
        setting = f"{len(pairs)} {title}"
        unseen = key == "networks"
        median = float(np.median(errors))
        metric = "median error of predicted latency"
        holds = median <= 20 if unseen else None
        yield Row(metric, setting, median, unit="%", simulated=True, holds=holds)
        metric, holds = (
            "rank correlation of latencies",
            order >= 0.9 if unseen else None,
        )
        yield Row(metric, setting, order, simulated=True, holds=holds)


def beyond(found: dict[str, Any]) -> str:
    """Returns a sentence that names the times that are off by more than `WORST`."""
    far = [
        f"{name} (predicted {1e3 * predicted:.3g} ms, measured {1e3 * measured:.3g} ms)"
        for key in ("networks", "micro")
        for name, predicted, measured in found[key]
        if not within(predicted / measured, WORST)
    ]
    return (
        f"Latencies on this machine that are off by more than a factor of {WORST:g}: "
        f"{', '.join(far) if far else 'none'}. Medians do not show these."
    )


def figure(found: dict[str, Any]) -> Figure:
    """Returns predicted over measured latencies."""
    series = [
        Series(
            title,
            [1e3 * row[2] for row in found[key]],
            [1e3 * row[1] for row in found[key]],
        )
        for title, key in (("microbenchmarks", "micro"), ("networks", "networks"))
    ]
    ends = [
        1e3 * f(r[2] for r in found["micro"] + found["networks"]) for f in (min, max)
    ]
    series.append(Series("equal", ends, ends))
    return Figure(
        "Latency on this machine",
        *("errorbar", "measured (ms)", "predicted (ms)"),
        series,
        log_x=True,
        log_y=True,
    )
