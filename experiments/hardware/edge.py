"""Formats and patterns of weights on phones and on FPGAs (arXiv 2106.09166)."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import hw
from core.types import Array
from experiments.hardware.figures import front
from experiments.hardware.tables import products
from experiments.results import Figure, Row, Series
from hw.constants import with_values

TARGETS: tuple[str, ...] = (
    "mobile_cpu",
    "mobile_gpu",
    "fpga_zc706",
    "fpga_zcu102",
    "fpga_zu3eg",
)
PHONES = TARGETS[:2]
PATTERNS = ("unstructured", "filter", "kernel", "block")
PARTS = (2, 4, 8)
"""Patterns keep a half, a quarter or an eighth of the weights."""
EQUAL = 4
"""The part that is as small as 4 bits of 16."""


class Point(NamedTuple):
    """A design.

    Attributes:
      bits: of weights and data.
      pattern: of the kept weights.
      density: of the layers that are pruned.
      sp2: whether FPGAs make outputs from sums of two powers too.
    """

    bits: float = 16.0
    pattern: str = "dense"
    density: float = 1.0
    sp2: bool = False

    @property
    def title(self) -> str:
        """What it is called in the report."""
        words = [f"{self.bits:g} bits"] + ["SP2"] * self.sp2
        if self.pattern != "dense":
            words.append(f"{self.pattern} {self.density:g}")
        return ", ".join(words)


BASE = Point()
SINGLE: Mapping[str, Point] = MappingProxyType(
    {
        "8 bits": Point(8),
        "4 bits": Point(4),
        "4 bits with SP2": Point(4, sp2=True),
        **{
            f"{n}, 1/{part}": Point(16, n, 1 / part) for part in PARTS for n in PATTERNS
        },
    }
)
"""One optimisation at a time, over 16 bits without pruning."""
WIDTHS = tuple(title for title, point in SINGLE.items() if point.pattern == "dense")
SHOWN = (*WIDTHS, *(f"{name}, 1/{EQUAL}" for name in PATTERNS))
"""Those that have rows; all are in the figures."""


def grid() -> list[Point]:
    """Returns every combination that is compared."""
    shapes = [("dense", 1.0)]
    shapes += [(name, 1 / part) for name in PATTERNS for part in PARTS]
    formats = [(32.0, False), (16.0, False), (8.0, False), (4.0, False), (4.0, True)]
    return [Point(b, p, d, sp2) for b, sp2 in formats for p, d in shapes]


def _coded(points: Sequence[Point]) -> dict[str, Array]:
    return {
        "bits": jnp.asarray([p.bits for p in points], jnp.float32),
        "density": jnp.asarray([p.density for p in points], jnp.float32),
        "pattern": jnp.asarray(
            [hw.PATTERNS.index(p.pattern) for p in points], jnp.int32
        ),
        "sp2": jnp.asarray([p.sp2 for p in points], bool),
    }


def _price(table: hw.Workload, target: Any, point: dict[str, Array]) -> Any:
    """Latency, energy, feasibility and share of memory in the time, for `vmap`."""
    kernel = point["pattern"] == hw.PATTERNS.index("kernel")
    # Depthwise and first layers stay dense; patterns of kernels are of 3 x 3.
    can = np.asarray(table.mask("conv", "matmul")) & (np.arange(len(table)) > 0)
    square = np.asarray(table.window) == 9
    pruned = can & (square | ~kernel)
    made = hw.design(
        table,
        bits=point["bits"],
        input_bits=point["bits"],
        density=jnp.where(pruned, point["density"], 1.0),
        pattern=jnp.where(pruned, point["pattern"], hw.PATTERNS.index("dense")),
    )
    if hasattr(target, "best_share"):
        best = target.best_share(point["bits"], point["bits"])
        share = jnp.where(point["sp2"], best, 0.0)
        target = with_values(target, {"share": share})
    found = hw.cost(made, target)
    memory = [i for i, n in enumerate(found.bounds) if n in ("memory", "cache")]
    held = jnp.isin(found.bound, jnp.asarray(memory, jnp.int32))
    waits = jnp.sum(jnp.where(held, found.latencies_s, 0.0)) / found.latency_s
    return found.latency_s, found.energy_j, found.feasible, waits


def _table(network: str) -> hw.Workload:
    return hw.distinct(products(network))


def costs(network: str) -> dict[str, Any]:
    """Returns milliseconds and millijoules of the grid and of single steps.

    `memory` is the share of the base's time in rows that memory or cache holds up, of
    networks with depthwise layers; None of others.
    """
    table = _table(network)
    depthwise = bool(table.mask("depthwise").any())
    points = [BASE, *SINGLE.values(), *grid()]
    coded = _coded(points)
    run = jax.jit(jax.vmap(lambda t, p: _price(table, t, p), in_axes=(None, 0)))
    found = {}
    for name in TARGETS:
        latency, energy, fits, waits = jax.device_get(run(hw.get(name), coded))
        found[name] = {
            "ms": (1e3 * latency).tolist(),
            "mJ": (1e3 * energy).tolist(),
            "fits": fits.tolist(),
            "memory": float(waits[0]) if depthwise else None,
        }
    return found


def gains(found: Mapping[str, Any], target: str) -> dict[str, tuple[float, float]]:
    """Returns speed-up and energy gain of single steps over the base, by title."""
    ms, mj = found[target]["ms"], found[target]["mJ"]
    return {
        title: (ms[0] / ms[i], mj[0] / mj[i]) for i, title in enumerate(SINGLE, start=1)
    }


CLAIMS = (
    "4 bits beat pruning to a quarter on FPGAs",
    "4 bits beat pruning to any density on FPGAs",
    "4 bits with SP2 beat pruning to any density on FPGAs",
    "structured pruning to a quarter beats every width on phones",
    "SP2 speeds FPGAs up over 4 bits of fixed point, and no phone",
    "block pruning beats 8 bits on the mobile GPU",
    "block pruning beats unstructured pruning everywhere",
    "of widths and patterns, blocks alone are in the top two everywhere",
)
MEMORY = "memory holds a depthwise network up everywhere"
"""A claim about networks with depthwise layers alone."""


def conclusions(
    speeds: Mapping[str, Mapping[str, float]],
    memory: Mapping[str, float | None] = MappingProxyType({}),
) -> dict[str, bool]:
    """Returns which claims hold.

    Args:
      speeds: speed-ups by target and title of `SINGLE`.
      memory: share of the time that memory holds up, by target; without numbers the
        claim about it is left out.
    """
    phones, fpgas = ([t for t in speeds if (t in PHONES) == on] for on in (True, False))

    def best(target: str, parts: Iterable[int], names: Iterable[str]) -> float:
        return max(speeds[target][f"{n}, 1/{p}"] for p in parts for n in names)

    def top_two(target: str) -> set[str]:
        mine = {name: speeds[target][f"{name}, 1/{EQUAL}"] for name in PATTERNS}
        mine["widths"] = max(speeds[target][title] for title in WIDTHS)
        return {t for t in mine if sum(v > mine[t] for v in mine.values()) < 2}

    block = f"block, 1/{EQUAL}"
    found = (
        all(speeds[t]["4 bits"] > best(t, (EQUAL,), PATTERNS) for t in fpgas),
        all(speeds[t]["4 bits"] > best(t, PARTS, PATTERNS) for t in fpgas),
        all(speeds[t]["4 bits with SP2"] > best(t, PARTS, PATTERNS) for t in fpgas),
        all(
            best(t, (EQUAL,), PATTERNS[1:]) > max(speeds[t][w] for w in WIDTHS)
            for t in phones
        ),
        all(speeds[t]["4 bits with SP2"] > speeds[t]["4 bits"] for t in fpgas)
        and all(speeds[t]["4 bits with SP2"] <= speeds[t]["4 bits"] for t in phones),
        speeds["mobile_gpu"][block] > speeds["mobile_gpu"]["8 bits"],
        all(speeds[t][block] > speeds[t][f"unstructured, 1/{EQUAL}"] for t in speeds),
        set.intersection(*map(top_two, speeds)) == {"block"},
    )
    held = dict(zip(CLAIMS, map(bool, found), strict=True))
    shares = [share for share in memory.values() if share is not None]
    return held | ({MEMORY: min(shares) > 0.5} if shares else {})


def perturbed(target: Any, key: Array) -> Any:
    """Returns a target with every constant off by up to a half, widths excepted.

    A constant is multiplied by a factor between 0.5 and 1.5. What cannot exceed 1 is a
    share: a factor f above 1 takes what is missing to 1 by 2 - f where that is less,
    so that nothing piles up at 1.
    """
    changed = {}
    for i, each in enumerate(hw.constants(target)):
        if each.name.endswith("_widths"):
            continue
        value = jnp.asarray(each.value, jnp.float32)
        factor = jax.random.uniform(
            jax.random.fold_in(key, i), value.shape, minval=0.5, maxval=1.5
        )
        drawn = value * factor
        if np.isfinite(each.most):
            above = 1.0 - (1.0 - value) * (2.0 - factor)
            drawn = jnp.where(factor > 1, jnp.minimum(drawn, above), drawn)
        changed[each.name] = drawn
    return with_values(target, changed)


def sensitivity(network: str, seed: int, draws: int) -> dict[str, float]:
    """Returns the share of draws in which each claim holds.

    Every constant of every target but its widths is drawn, each number of an array on
    its own; see `perturbed`.
    """
    table = _table(network)
    depthwise = bool(table.mask("depthwise").any())
    points = _coded([BASE, *SINGLE.values()])
    speeds, memory = {}, {}
    for place, name in enumerate(TARGETS):
        target = hw.get(name)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), place), draws)

        def one(key, target=target):
            made = perturbed(target, key)
            found = jax.vmap(lambda p: _price(table, made, p))(points)
            return found[0], found[3][0]

        latency, waits = map(np.asarray, jax.jit(jax.vmap(one))(keys))
        speeds[name] = (latency[:, :1] / latency[:, 1:]).tolist()
        memory[name] = waits.tolist() if depthwise else [None] * draws
    held = [
        conclusions(
            {t: dict(zip(SINGLE, v[i], strict=True)) for t, v in speeds.items()},
            {t: v[i] for t, v in memory.items()},
        )
        for i in range(draws)
    ]
    return {claim: float(np.mean([h[claim] for h in held])) for claim in held[0]}


def rows(
    found: Mapping[str, Any], sure: Mapping[str, Any], draws: int
) -> Iterable[Row]:
    """Yields single steps, the best designs, the claims and how sure they are."""
    for network, priced in found.items():
        points = [BASE, *SINGLE.values(), *grid()]
        for target in TARGETS:
            at = f"{network}, {target}"
            base = priced[target]
            yield Row(
                "latency", f"{at}, 16 bits", base["ms"][0], unit="ms", simulated=True
            )
            yield Row(
                "energy", f"{at}, 16 bits", base["mJ"][0], unit="mJ", simulated=True
            )
            for title, (speed, energy) in gains(priced, target).items():
                if title not in SHOWN:
                    continue
                setting = f"{at}, {title}"
                yield Row("speed-up", setting, speed, unit="x", simulated=True)
                yield Row("energy gain", setting, energy, unit="x", simulated=True)
            fits = [i for i, ok in enumerate(base["fits"]) if ok]
            best = min(fits, key=lambda i, b=base: b["mJ"][i])
            frames = 1e3 / base["mJ"][best]
            setting = f"{at}, best: {points[best].title}"
            yield Row("frames a joule", setting, frames, simulated=True)
        speeds = {t: {k: v[0] for k, v in gains(priced, t).items()} for t in TARGETS}
        memory = {t: priced[t]["memory"] for t in TARGETS}
        for claim, holds in conclusions(speeds, memory).items():
            share = sure[network][claim]
            # A conclusion that most draws do not share is not claimed.
            yield Row(
                f"draws in which {claim}",
                f"{network}, {draws} draws of constants",
                100 * share,
                unit="%",
                simulated=True,
                holds=holds and share >= 0.8,
            )


def figures(found: Mapping[str, Any]) -> list[Figure]:
    """Returns speed-ups of single steps, and the fronts of a network."""
    made = []
    for network, priced in found.items():
        series = [
            Series(t, list(SINGLE), [v[0] for v in gains(priced, t).values()])
            for t in TARGETS
        ]
        title = f"Speed-up over 16 bits, {network}"
        made.append(Figure(title, "bar", "optimisation", "times faster", series))
    network, priced = next(iter(found.items()))
    start = 1 + len(SINGLE)
    points = {
        t: np.stack([priced[t]["ms"][start:], priced[t]["mJ"][start:]], axis=1)
        for t in TARGETS
    }
    made.append(front(f"Designs of {network}", points))
    return made
