"""Processors by name: phones, servers, and the machine at hand before calibration."""

import math

from hw.constants import Given, make
from hw.targets.base import REMOVED, SPARSE, skips, widths
from hw.targets.processor import Processor

_865 = "Snapdragon 865, 1 x 2.84 + 3 x 2.42 + 4 x 1.8 GHz (public specification)"
_ENERGY = "arXiv 2106.09166, platform factor times node factor: chosen there"
_FIT = "share of the peak that compilers reach on phones; chosen"
_SHAPE = "chosen: shapes below this leave lanes idle"
_OPS = "chosen: vector units at one operation a lane and cycle, half used"
_SPARSE = "arXiv 2106.09166: unstructured 0.2-0.3, pattern 0.85, block 0.8, filter 0.95"
_CALL = "chosen: a call of a kernel"
_SRAM = "1 MB of SRAM: 100 pJ for 8 bytes at 45 nm, a fifth of that at 7 nm"
_NONE = "no kernels that skip zeros"

_WHOLE = Given(1.0, "derived", "no units for half of every group")
_REMOVED = {name: 0.95 * value for name, value in REMOVED.items()}


def _phone(**others: float) -> dict[str, float]:
    return {"kernel": 0.85, "block": 0.8, **_REMOVED, **others}


def _chosen(values: dict[str, float], source: str) -> dict[str, Given]:
    return {name: Given(value, "chosen", source) for name, value in values.items()}


MOBILE_CPU = make(
    Processor,
    "mobile_cpu",
    {
        "peak": Given(110e9, "published", f"{_865}: about 220 GFLOP/s"),
        **_chosen(
            {"matmul": 0.45, "conv": 0.45, "depthwise": 0.15, "attention": 0.3}, _FIT
        ),
        **_chosen({"half_rows": 2.0, "half_terms": 8.0, "half_columns": 4.0}, _SHAPE),
        "narrow": Given(8.0, "published", "int8 dot products, about 4 times fp32"),
        "gain": Given(1.0, "published", "int8 dot products, about 4 times fp32"),
        **widths((1, 32), (1, 32), "chosen", "packed, and unpacked to compute"),
        **skips("chosen", _SPARSE, _phone(unstructured=0.25, group=0.5)),
        "group_half": _WHOLE,
        **_chosen({"elements": 3e10, "functions": 2e9, "windows": 1e10}, _OPS),
        "near": Given(120e9, "chosen", "shared 4 MB of L3"),
        "far": Given(34e9, "derived", "LPDDR5, 44 GB/s at best, 77 % reached"),
        "cache": Given(4e6, "published", "4 MB of L3"),
        "weight_cache": Given(4e6, "derived", "as the cache"),
        **_chosen({"overhead": 1e-5, "chain_overhead": 4e-6}, _CALL),
        "launch": Given(0.0, "chosen", "of programs that stay loaded"),
        "mac_scale": Given(4.0, "chosen", f"{_ENERGY}: 20 x 0.2 at 7 nm"),
        "near_j": Given(100e-12 / 8 * 0.2, "derived", _SRAM),
        "far_j": Given(4e-12 * 8, "chosen", "LPDDR5, 4 pJ a bit"),
        "static": Given(1.0, "chosen", "of 4 to 5 W under load"),
    },
)
"""The CPU of a phone of 2020, all cores."""

MOBILE_GPU = make(
    Processor,
    "mobile_gpu",
    {
        "peak": Given(600e9, "published", "Adreno 650, about 1.2 TFLOP/s in float32"),
        **_chosen(
            {"matmul": 0.3, "conv": 0.3, "depthwise": 0.08, "attention": 0.2}, _FIT
        ),
        **_chosen(
            {"half_rows": 32.0, "half_terms": 16.0, "half_columns": 16.0}, _SHAPE
        ),
        "narrow": Given(16.0, "published", "float16 at twice the rate, nothing below"),
        "gain": Given(1.0, "published", "float16 at twice the rate"),
        **widths((1, 32), (1, 32), "chosen", "packed, and unpacked to compute"),
        **skips("chosen", _SPARSE, _phone(unstructured=0.2, group=0.4)),
        "group_half": _WHOLE,
        **_chosen({"elements": 2e11, "functions": 2e10, "windows": 5e10}, _OPS),
        "near": Given(150e9, "chosen", "system cache"),
        "far": Given(34e9, "derived", "LPDDR5, 44 GB/s at best, 77 % reached"),
        "cache": Given(3e6, "published", "3 MB of system cache"),
        "weight_cache": Given(3e6, "derived", "as the cache"),
        **_chosen({"overhead": 3e-5, "chain_overhead": 1.5e-5}, _CALL),
        "launch": Given(0.0, "chosen", "of programs that stay loaded"),
        "mac_scale": Given(1.2, "chosen", f"{_ENERGY}: 6 x 0.2 at 7 nm"),
        "near_j": Given(100e-12 / 8 * 0.2, "derived", _SRAM),
        "far_j": Given(4e-12 * 8, "chosen", "LPDDR5, 4 pJ a bit"),
        "static": Given(0.8, "chosen", "of 3 to 4 W under load"),
    },
)
"""The GPU of the same phone."""

SERVER_GPU = make(
    Processor,
    "server_gpu",
    {
        "peak": Given(9.75e12, "published", "A100: 19.5 TFLOP/s in float32"),
        **_chosen(
            {"matmul": 0.8, "conv": 0.6, "depthwise": 0.08, "attention": 0.5},
            "share that cuBLAS and cuDNN reach; chosen",
        ),
        **_chosen(
            {"half_rows": 256.0, "half_terms": 32.0, "half_columns": 32.0}, _SHAPE
        ),
        "narrow": Given(8.0, "published", "A100 tensor cores: int8 at 624 TOPS"),
        "gain": Given(
            math.log(624 / 19.5) / math.log(4),
            "derived",
            "32 times the float32 rate at 8 bits (float16: 16 times by the data sheet, "
            "5.7 by this exponent)",
        ),
        **widths((4, 32), (4, 32), "published", "A100: int4 to float32"),
        **skips(
            "chosen",
            "as libraries have them; groups by `group_half`",
            {"unstructured": 0.05, "kernel": 0.1, "block": 0.8, "filter": 0.95},
            energy=SPARSE,
            storage=SPARSE,
        ),
        "group_half": Given(0.5, "published", "A100: 2:4 doubles the rate, no less"),
        **_chosen({"elements": 8e12, "functions": 1e12, "windows": 2e12}, _OPS),
        "near": Given(4.5e12, "chosen", "L2 of 40 MB"),
        "far": Given(1.4e12, "derived", "HBM2, 1,555 GB/s at best, 90 % reached"),
        "cache": Given(40e6, "published", "40 MB of L2"),
        "weight_cache": Given(40e6, "derived", "as the cache"),
        **_chosen({"overhead": 5e-6, "chain_overhead": 3e-6}, _CALL),
        "launch": Given(0.0, "chosen", "of programs that stay loaded"),
        "mac_scale": Given(0.8, "chosen", f"{_ENERGY}: 4 x 0.2 at 7 nm"),
        "near_j": Given(1.25e-11, "chosen", "large SRAM at 7 nm"),
        "far_j": Given(3.9e-12 * 8, "published", "HBM2, 3.9 pJ a bit"),
        "static": Given(60.0, "chosen", "of 400 W under load"),
    },
)
"""An NVIDIA A100 (40 GB, SXM)."""

TPU_V1 = make(
    Processor,
    "tpu_v1",
    {
        "peak": Given(
            46e12 / 16, "derived", "arXiv 1704.04760: 92 TOPS at 8 bits, 16 times this"
        ),
        **_chosen(
            {"matmul": 1.0, "depthwise": 0.02, "attention": 1.0}, "the roofline itself"
        ),
        "conv": Given(0.94, "fitted", "arXiv 1704.04760: CNN0's 86 of 92 TOPS"),
        **_chosen({"half_rows": 0.0, "half_terms": 0.0, "half_columns": 0.0}, "none"),
        "narrow": Given(8.0, "remembered", "arXiv 1704.04760: multipliers of 8 bits"),
        "gain": Given(
            2.0, "remembered", "arXiv 1704.04760: a quarter of the rate at 16 bits"
        ),
        **widths((8, 16), (8, 16), "remembered", "arXiv 1704.04760: 8 or 16 bits"),
        **skips("derived", _NONE, _REMOVED),
        "group_half": _WHOLE,
        **_chosen({"elements": 1.8e11, "functions": 1.8e11, "windows": 1.8e11}, _OPS),
        "near": Given(167e9 * 8, "chosen", "unified buffer of 24 MiB"),
        "far": Given(34e9, "remembered", "arXiv 1704.04760: DDR3, weights only"),
        "cache": Given(24 * 2**20, "remembered", "unified buffer of 24 MiB"),
        "weight_cache": Given(
            1.0, "remembered", "weights stream from DDR3 in every run"
        ),
        **_chosen({"overhead": 0.0, "chain_overhead": 0.0}, "instructions overlap"),
        "launch": Given(0.0, "chosen", "of programs that stay loaded"),
        "mac_scale": Given(1.0, "chosen", "28 nm and control"),
        "near_j": Given(6e-12, "chosen", "large SRAM at 28 nm"),
        "far_j": Given(16e-12 * 8, "chosen", "DDR3, 15-20 pJ a bit"),
        "static": Given(28.0, "remembered", "arXiv 1704.04760: idle power of a die"),
    },
    "rows of hw_tables: throughput of six applications, as a product each: four within "
    "1.2x, LSTM1 and CNN1 2.3x and 6.5x too fast",
)
"""Google's first TPU: 256 x 256 multipliers of 8 bits at 700 MHz."""

HOST = make(
    Processor,
    "host",
    {
        **_chosen(
            {"peak": 5e10, "matmul": 0.8, "conv": 0.6, "depthwise": 0.05},
            "before `hw.calibrate`: two cores of a server",
        ),
        **_chosen({"attention": 0.5}, "before `hw.calibrate`"),
        **_chosen({"half_rows": 4.0, "half_terms": 8.0, "half_columns": 8.0}, _SHAPE),
        "narrow": Given(32.0, "derived", "XLA computes in float32 on CPU"),
        "gain": Given(0.0, "derived", "XLA computes in float32 on CPU"),
        **widths((8, 32), (8, 32), "derived", "types that XLA stores"),
        **skips("derived", _NONE, _REMOVED),
        "group_half": _WHOLE,
        **_chosen({"elements": 4e9, "functions": 5e8, "windows": 1e9}, _OPS),
        "near": Given(3e10, "chosen", "before `hw.calibrate`"),
        "far": Given(1e10, "chosen", "before `hw.calibrate`"),
        "cache": Given(1.6e7, "chosen", "before `hw.calibrate`"),
        "weight_cache": Given(1.6e7, "derived", "as the cache"),
        **_chosen({"overhead": 2e-6, "chain_overhead": 1e-6}, _CALL),
        "launch": Given(2e-5, "chosen", "before `hw.calibrate`"),
        "mac_scale": Given(10.0, "chosen", _ENERGY),
        "near_j": Given(1e-11, "chosen", "large SRAM"),
        "far_j": Given(8e-12 * 8, "chosen", "DDR4, 8 pJ a bit"),
        "static": Given(20.0, "chosen", "of a server's socket"),
    },
)
"""The machine at hand; `hw.calibrate` measures it."""
