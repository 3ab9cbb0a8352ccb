"""The papers' tables of throughput, resources and energy, computed again.

Published numbers that no source at hand shows are quoted from memory; where their own
sums agree (Eyeriss' totals, MSQ's operations over latency) the notes of the experiment
say so.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hw
from experiments.hardware import networks
from experiments.hardware.entry import Entry, Kind

_GIGA = 1e9


def table_of(name: str, batch: int = 1, **formats: Any) -> hw.Workload:
    """Returns the workload of a network."""
    shapes = networks.shapes(name, batch)
    return hw.workload(networks.apply_of(name), *shapes, **formats)


def products(name: str, batch: int = 1, **formats: Any) -> hw.Workload:
    """Returns the products of a network alone."""
    found = table_of(name, batch, **formats)
    return found.take(found.is_product)


def matmul(m: int, k: int, n: int, **formats: Any) -> hw.Workload:
    """Returns the workload of one product."""
    struct = jax.ShapeDtypeStruct
    return hw.workload(
        lambda p, x: x @ p["kernel"],
        {"kernel": struct((k, n), jnp.float32)},
        struct((m, k), jnp.float32),
        **formats,
    )


price = jax.jit(hw.cost)
"""Costs, compiled once for each network and class of targets."""


def seconds(table: hw.Workload, target: Any) -> float:
    """Returns the latency of a workload."""
    return float(price(table, target).latency_s)


def gops(table: hw.Workload, target: Any) -> float:
    """Returns giga-operations a second; a multiply-accumulate is two."""
    return 2 * table.total_macs / seconds(table, target) / _GIGA


def msq() -> Iterator[Entry]:
    """Yields peaks, LUTs and throughput of MSQ's designs (2012.04240)."""
    small, large = hw.get("msq_xc7z020"), hw.get("msq_xc7z045")
    peaks = {
        "XC7Z020": (small, {0: 52.8, 16: 106.0, 24: 132.0}),
        "XC7Z045": (large, {0: 208.0, 16: 416.0, 32: 624.0}),
    }
    for device, (target, rows) in peaks.items():
        for outputs, printed in rows.items():
            design = hw.replace(target, sp2=outputs)
            peak = float(design.peak_ops) / _GIGA
            at = f"{device}, 16 + {outputs} outputs"
            yield Entry("MSQ", "peak throughput", at, peak, printed, "GOPS", "identity")
    # A line through two points that are fitted is no prediction of a third.
    fitted: dict[int, Kind] = {0: "fitted", 16: "identity", 24: "fitted"}
    for outputs, printed in ((0, 12_160), (16, 22_912), (24, 28_288)):
        design = hw.replace(small, sp2=outputs)
        luts = hw.summary(price(products("resnet18"), design))["lut"]
        kind = fitted[outputs]
        at = f"XC7Z020, 16 + {outputs} outputs"
        yield Entry("MSQ", "LUTs", at, luts, printed, "LUT", kind)
    rates: tuple[tuple[str, Any, str, float, Kind], ...] = (
        ("XC7Z020", small, "resnet18", 77.0, "fitted"),
        ("XC7Z020", small, "mobilenet_v2", 71.8, "predicted"),
        ("XC7Z045", large, "resnet18", 359.2, "predicted"),
        ("XC7Z045", large, "mobilenet_v2", 326.9, "predicted"),
    )
    for device, target, name, printed, kind in rates:
        found = gops(products(name, bits=4, input_bits=4), target)
        at = f"{device}, {name}"
        yield Entry("MSQ", "throughput", at, found, printed, "GOPS", kind)


def esb() -> Iterator[Entry]:
    """Yields the peak of ESB's units (2109.03513)."""
    tiny: dict[str, Any] = {"weight_significant": 0.0, "input_significant": 0.0}
    tiny |= {"weight_largest": 0.0, "input_largest": 0.0}
    best = hw.replace(hw.get("esb_zcu102"), **tiny)
    found = float(best.gops_per_klut)
    at = "2 bits, no significant bits"
    yield Entry("ESB", "GOPS per 1,000 LUT", at, found, 10.95, "GOPS", "fitted")


S2TA_BOUNDS: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {
        "alexnet": (1.0, 0.5, 0.375, 0.375, 0.25),
        "vgg16": (1.0, 0.625, 0.5, 0.375, 0.25),
        "mobilenet_v1": (1.0, 0.625, 0.5, 0.375, 0.25),
        "resnet50": (1.0, 0.625, 0.5, 0.375, 0.25),
    }
)
"""Bounds of inputs over 8, from the first layer to the last fifth (specification of
arXiv 2107.07983: 8/8 first, 4/8 to 3/8 in the middle, 2/8 late)."""
NATURAL = 0.45
"""Share of inputs behind a ReLU that are not 0, where none are pruned."""


def s2ta_tables(name: str) -> tuple[hw.Workload, hw.Workload]:
    """Returns a network's convolutions as a gated array and as S2TA-AW sees them.

    Both have the weights of the 4/8 bound; the first layer stays dense, and depthwise
    layers, which leave a matrix array empty, are left out of both. Without bounds
    inputs have their natural zeros.
    """
    plain = products(name, bits=8, input_bits=8)
    plain = plain.take(plain.mask("conv"))
    count = len(plain)
    dense = np.arange(count) == 0
    ladder = S2TA_BOUNDS[name]
    steps = np.minimum(np.arange(count) * len(ladder) // count, len(ladder) - 1)
    bound = np.where(dense, 1.0, np.array(ladder)[steps]).astype(np.float32)
    kept = np.where(dense, 1.0, 0.5).astype(np.float32)
    natural = np.where(np.arange(count) == 0, 1.0, NATURAL).astype(np.float32)
    code = np.where(dense, 0, hw.PATTERNS.index("group")).astype(np.int32)
    base = dataclasses.replace(plain, density=kept, pattern=code)
    gated = dataclasses.replace(base, input_density=natural)
    return gated, dataclasses.replace(base, input_density=bound)


def s2ta() -> Iterator[Entry]:
    """Yields S2TA-AW against a gated array, geometric mean (2107.07983)."""
    speeds, energies = [], []
    for name in S2TA_BOUNDS:
        gated, bounded = s2ta_tables(name)
        base = price(gated, hw.get("sa_zvcg"))
        mine = price(bounded, hw.get("s2ta_aw"))
        speeds.append(float(base.latency_s / mine.latency_s))
        energies.append(float(base.energy_j / mine.energy_j))
    at = f"mean of {len(speeds)} networks"
    speed, energy = (float(np.exp(np.mean(np.log(v)))) for v in (speeds, energies))
    for what, value in (
        ("speed-up over gated zeros", speed),
        ("energy of gated zeros over S2TA-AW's", energy),
    ):
        yield Entry("S2TA", what, at, value, 2.0, "x", least=True)
    array = hw.get("s2ta_aw")
    peak = 2 * float(array.rows * array.columns * array.clock) / 1e12
    yield Entry("S2TA", "peak without zeros", "16 nm", peak, 4.1, "TOPS", "identity")


ANT_NETWORKS = ("vgg16", "resnet18", "resnet50", "transformer")
BERT_BLOCKS = 12
"""Blocks of BERT-base, one after another."""
ANT_BITS = {"ant": 4, "bitfusion": 8, "adafloat": 8, "biscaled": 6, "olaccel": 4}
"""Widths of all layers but the first and the last of CNNs, which have 8."""


def stacked(table: hw.Workload, times: int) -> hw.Workload:
    """Returns the workload of a block that is repeated with other weights each time."""
    more = {f: getattr(table, f) * times for f in ("calls", "copies", "parameters")}
    return dataclasses.replace(table, **more)


def ant() -> Iterator[Entry]:
    """Yields time and energy over AdaptivFloat's, geometric means (2208.14286)."""
    printed_time = {"ant": 0.25, "biscaled": 0.37, "bitfusion": 0.70, "olaccel": 0.81}
    printed_energy = {"ant": 0.30, "bitfusion": 0.76}
    times: dict[str, list[float]] = {name: [] for name in ANT_BITS}
    energies: dict[str, list[float]] = {name: [] for name in ANT_BITS}
    for network in ANT_NETWORKS:
        table = products(network)
        if network == "transformer":
            table = stacked(table, BERT_BLOCKS)
        # The first and the last layer are of images and classes: BERT's are not here.
        places = () if network == "transformer" else (0, len(table) - 1)
        ends = np.isin(np.arange(len(table)), places)
        for name, bits in ANT_BITS.items():
            width = np.where(ends & (bits == 4), 8.0, float(bits)).astype(np.float32)
            made = hw.design(table, bits=width, input_bits=width)
            found = price(made, hw.get(name))
            times[name].append(float(found.latency_s))
            energies[name].append(float(found.energy_j))
    at = f"{len(ANT_NETWORKS)} networks of ours, 8 of the paper's"
    for name, value in printed_time.items():
        ratio = np.exp(np.mean(np.log(np.divide(times[name], times["adafloat"]))))
        yield Entry("ANT", f"time of {name}", at, float(ratio), value, "x")
    for name, value in printed_energy.items():
        ratio = np.exp(np.mean(np.log(np.divide(energies[name], energies["adafloat"]))))
        yield Entry("ANT", f"energy of {name}", at, float(ratio), value, "x")


def capram() -> Iterator[Entry]:
    """Yields peak, efficiency and density of the macro (2107.02388)."""
    target = hw.get("capram")
    full = price(matmul(4096, 64, 64, bits=2, input_bits=3), target)
    ops = 2 * 4096 * 64 * 64 * 2  # two cells a weight, and each is an operation
    peak = ops / float(full.latency_s) / _GIGA
    power = ops / float(full.energy_j) / 1e12
    yield Entry("CAP-RAM", "peak", "all columns", peak, 573.4, "GOPS", "fitted")
    yield Entry("CAP-RAM", "efficiency", "peak", power, 49.4, "TOPS/W", "fitted")
    dense = peak / 1e3 / float(target.area)
    yield Entry("CAP-RAM", "density", "macro", dense, 3.4, "TOPS/mm2", "identity")


def compacted(table: hw.Workload, density: float) -> hw.Workload:
    """Returns the workload with whole rows and columns of weights removed.

    As many of each, rounded up; what is left is dense: its arrays are counted whole.
    """
    side = density**0.5
    k, n = np.ceil(table.k * side), np.ceil(table.n * side)
    return dataclasses.replace(table, k=k, n=n, weights=table.groups * k * n)


def memristor() -> Iterator[Entry]:
    """Yields area and power of crossbars (1908.10017).

    The paper gives no layer's rate: kept weights are shared out evenly. ResNet-18's
    area and power decide the constants; VGG-16's before purification is predicted. The
    powers of the purified networks are their printed areas times the fitted watts of an
    area.
    """
    target = hw.get("memristor")
    found = {}
    for name, rate in (("resnet18", 5.83), ("vgg16", 20.16)):
        table = products(name, bits=8, input_bits=8)
        left = compacted(table.take(table.mask("conv")), 1 / rate)
        found[name] = hw.summary(price(left, target))
    kinds: dict[str, Kind] = {"resnet18": "fitted"}
    printed = {"resnet18": (0.235, 3.359), "vgg16": (0.113, 1.611)}
    for name, (area, power) in printed.items():
        kind = kinds.get(name, "predicted")
        mine = found[name]
        yield Entry("crossbars", "area", name, mine["area_mm2"], area, "mm2", kind)
        yield Entry("crossbars", "power", name, mine["peak_w"], power, "W", kind)
    rate = found["resnet18"]["peak_w"] / found["resnet18"]["area_mm2"]
    for name, area, power in (("resnet18", 0.042, 0.585), ("vgg16", 0.056, 0.824)):
        at = f"{name}, purified, from the published area"
        mine = rate * area
        yield Entry("crossbars", "power", at, mine, power, "W", "identity")


_EYERISS_ALEXNET = (
    *((20.9, 332, 0.0001), (41.9, 288, 0.387), (23.6, 266, 0.725)),
    *((18.4, 235, 0.793), (10.5, 236, 0.776)),
)
"""Milliseconds, milliwatts, zeros of the inputs, for a batch of 4."""
_EYERISS_VGG16 = (
    *((76.2, 247, 0.016), (910.3, 218, 0.477), (470.3, 242, 0.248)),
    *((894.3, 231, 0.387), (241.1, 254, 0.397), (460.9, 235, 0.581)),
    *((457.7, 233, 0.587), (135.8, 278, 0.643), (254.8, 261, 0.747)),
    *((246.3, 240, 0.854), (54.3, 258, 0.794), (53.7, 236, 0.874)),
    (53.7, 230, 0.885),
)
"""The same for a batch of 3."""


def eyeriss() -> Iterator[Entry]:
    """Yields latency and power of every layer (doi 10.1109/JSSC.2016.2616357)."""
    plans = (("alexnet", 4, _EYERISS_ALEXNET), ("vgg16", 3, _EYERISS_VGG16))
    for name, batch, rows in plans:
        target = hw.get("eyeriss")
        full = products(name, batch, bits=16, input_bits=16)
        table = full.take(full.mask("conv"))
        zeros = np.array([row[2] for row in rows], np.float32)
        table = dataclasses.replace(table, input_density=1 - zeros)
        found = price(table, target)
        spent = np.asarray(found.joules["array"] + found.joules["static"])
        times = np.asarray(found.latencies_s)
        kind: Kind = "fitted" if name == "alexnet" else "predicted"
        for i, (ms, mw, _) in enumerate(rows):
            at = f"{name} {table.names[i].split('/')[0]}, batch {batch}"
            mine = 1e3 * times[i]
            # AlexNet's sum decided a constant: its layers are no prediction either.
            yield Entry("Eyeriss", "latency", at, float(mine), ms, "ms", kind)
            power = float(1e3 * spent[i] / times[i])
            yield Entry("Eyeriss", "power", at, power, mw, "mW", kind)


TPU_APPS = (
    *(("MLP0", 20, 200, 12.3), ("MLP1", 5, 168, 9.7), ("LSTM0", 52, 64, 3.7)),
    *(("LSTM1", 34, 96, 2.8), ("CNN0", 8, 2888, 86.0), ("CNN1", 100, 1750, 14.1)),
)
"""Application, million weights, operations for each byte of them, TOPS (1704.04760)."""


def tpu() -> Iterator[Entry]:
    """Yields throughput of the first TPU's applications (1704.04760, table 3)."""
    for name, millions, batch, printed in TPU_APPS:
        side = round((millions * 1e6) ** 0.5)
        table = matmul(batch, side, side, bits=8, input_bits=8)
        found = gops(table, hw.get("tpu_v1")) / 1e3
        yield Entry("TPU v1", "throughput", name, found, printed, "TOPS")


def pixel() -> Iterator[Entry]:
    """Yields MobileNets on a large core of a Pixel 1 (1801.04381, table 4)."""
    target = hw.replace(
        hw.get("mobile_cpu"),
        "fitted",
        "a core of 2.15 GHz, 4 lanes of float32; MobileNetV1 in 113 ms",
        peak=8.6e9,
        matmul=0.66,
        conv=0.66,
        depthwise=0.26,
        elements=4.3e9,
        near=8e9,
        far=6e9,
        cache=2e6,
        weight_cache=2e6,
    )
    printed: tuple[tuple[str, float, Kind], ...] = (
        ("mobilenet_v1", 113.0, "fitted"),
        ("mobilenet_v2", 75.0, "predicted"),
        ("mobilenet_v2_14", 143.0, "predicted"),
    )
    for name, ms, kind in printed:
        mine = 1e3 * seconds(products(name), target)
        yield Entry("Pixel 1", "latency", name, mine, ms, "ms", kind)


TABLES: Mapping[str, Callable[[], Iterator[Entry]]] = MappingProxyType(
    {
        "msq": msq,
        "esb": esb,
        "s2ta": s2ta,
        "ant": ant,
        "capram": capram,
        "memristor": memristor,
        "eyeriss": eyeriss,
        "tpu": tpu,
        "pixel": pixel,
    }
)
"""Functions that compute a paper's table again, by name."""
