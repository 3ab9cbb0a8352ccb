"""Costs of five systolic arrays, and how their order depends on the constants."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hw
from experiments.hardware.tables import price, s2ta_tables
from experiments.results import Figure, Row, Series
from hw.constants import with_values

ARRAYS = ("sa_dense", "sa_zvcg", "sa_smt", "s2ta_w", "s2ta_aw")
TITLES = {
    "sa_dense": "dense array",
    "sa_zvcg": "gated zeros",
    "sa_smt": "queues (SMT)",
    "s2ta_w": "S2TA-W",
    "s2ta_aw": "S2TA-AW",
}
_PERTURBED = ("buffer_j", "register_j", "multiply_j", "add_j", "gate_j")


def costs(networks: Sequence[str]) -> dict[str, Any]:
    """Returns milliseconds and millijoules by network and array."""
    found: dict[str, Any] = {}
    for name in networks:
        gated, bounded = s2ta_tables(name)
        found[name] = {}
        for array in ARRAYS:
            table = bounded if array == "s2ta_aw" else gated
            cost = price(table, hw.get(array))
            joules = {k: 1e3 * float(v.sum()) for k, v in cost.joules.items()}
            found[name][array] = {
                "ms": 1e3 * float(cost.latency_s),
                "mJ": 1e3 * float(cost.energy_j),
                "parts": joules,
            }
    return found


def orders(config: Any, seed: int) -> dict[str, Any]:
    """Returns how often S2TA-AW takes least energy when constants are perturbed.

    Energies of the operations are drawn between half and double, by the same factors
    in all arrays.
    """
    key = jax.random.key(seed)
    logs = jax.random.uniform(key, (config.draws, len(_PERTURBED)), minval=-1, maxval=1)
    factors = jnp.exp2(logs)
    found = {}
    for name in config.networks:
        gated, bounded = s2ta_tables(name)
        energies = []
        for array in ARRAYS:
            table = bounded if array == "s2ta_aw" else gated
            target = hw.get(array)

            def energy(row, target=target, table=table):
                changed = {
                    n: getattr(target, n) * row[i] for i, n in enumerate(_PERTURBED)
                }
                return hw.cost(table, with_values(target, changed)).energy_j

            energies.append(np.asarray(jax.jit(jax.vmap(energy))(factors)))
        energies = np.array(energies)
        base = energies[ARRAYS.index("sa_zvcg")]
        gains = base / energies[ARRAYS.index("s2ta_aw")]
        found[name] = {
            "least": float(np.mean(energies.argmin(0) == ARRAYS.index("s2ta_aw"))),
            "low": float(np.quantile(gains, 0.05)),
            "high": float(np.quantile(gains, 0.95)),
        }
    return found


def rows(priced: Any, ordered: Any, draws: int) -> Iterable[Row]:
    """Yields speed and energy over gated zeros, and how sure the order is."""
    speeds, gains = [], []
    for name, arrays in priced.items():
        base = arrays["sa_zvcg"]
        for array, cost in arrays.items():
            setting = f"{name}, {TITLES[array]}"
            yield Row("latency", setting, cost["ms"], unit="ms", simulated=True)
            yield Row("energy", setting, cost["mJ"], unit="mJ", simulated=True)
        speed = base["ms"] / arrays["s2ta_aw"]["ms"]
        gain = base["mJ"] / arrays["s2ta_aw"]["mJ"]
        speeds.append(speed)
        gains.append(gain)
        setting = f"{name}, S2TA-AW over gated zeros"
        yield Row("speed-up", setting, speed, unit="x", simulated=True)
        yield Row("energy gain", setting, gain, unit="x", simulated=True)
    for what, values in (("speed-up", speeds), ("energy gain", gains)):
        mean = float(np.exp(np.mean(np.log(values))))
        yield Row(
            f"{what}, at least",
            f"geometric mean of {len(values)} networks",
            mean,
            paper=2.0,
            unit="x",
            simulated=True,
            holds=mean >= 2.0,
        )
    for name, found in ordered.items():
        setting = f"{name}, {draws} draws of constants"
        yield Row(
            "draws in which S2TA-AW takes least energy",
            setting,
            100 * found["least"],
            unit="%",
            simulated=True,
            holds=found["least"] >= 0.8,
        )
        for end in ("low", "high"):
            part = "5th" if end == "low" else "95th"
            metric = f"energy gain over gated zeros, {part} percentile"
            yield Row(metric, setting, found[end], unit="x", simulated=True)


def figures(priced: Any) -> list[Figure]:
    """Returns latency and energy over gated zeros, and the parts of the energy."""
    names = list(priced)
    bars = [
        Figure(
            title,
            *("bar", "network", "over gated zeros"),
            [
                Series(
                    TITLES[array],
                    names,
                    [priced[n][array][key] / priced[n]["sa_zvcg"][key] for n in names],
                )
                for array in ARRAYS
            ],
        )
        for title, key in (("Latency", "ms"), ("Energy", "mJ"))
    ]
    first = priced[names[0]]
    parts = dict.fromkeys(k for array in first.values() for k in array["parts"])
    titles = [TITLES[array] for array in ARRAYS]
    split = Figure(
        f"Energy by part, {names[0]}",
        *("bar", "array", "mJ"),
        [
            Series(part, titles, [first[a]["parts"].get(part, 0.0) for a in ARRAYS])
            for part in parts
            if any(first[a]["parts"].get(part, 0.0) > 0 for a in ARRAYS)
        ],
    )
    return [*bars, split]
