"""FPGA designs by name."""

from hw.constants import Given, make
from hw.targets.base import REMOVED, skips, widths
from hw.targets.fpga import Esb, Fpga, Msq

_SHEET = "Xilinx data sheet"
_STUDY = "specification of arXiv 2106.09166, chosen there"
_MSQ = "arXiv 2012.04240"
_TABLE = "arXiv 2012.04240, table of implementations as remembered"
_DENSE = "fixed loops: no logic that skips zeros"
_ARRAY = {
    "inputs": Given(16.0, "chosen", "as MSQ's arrays, arXiv 2012.04240"),
    "outputs": Given(16.0, "chosen", "as MSQ's arrays, arXiv 2012.04240"),
}
_SHIFT = Given(0.1e-12, "chosen", f"{_STUDY}: two additions of 16 bits")
_DDR3 = Given(16e-12 * 8, "chosen", "DDR3, 15 to 20 pJ a bit")
_DDR4 = Given(8e-12 * 8, "chosen", "DDR4, 6 to 8 pJ a bit")


def _fpga(name, device, clock, bandwidth, far_j, node, static) -> Fpga:
    dsps, luts, brams = device
    return make(
        Fpga,
        name,
        {
            "dsps": Given(dsps, "published", _SHEET),
            "luts": Given(luts, "published", _SHEET),
            "brams": Given(brams, "published", _SHEET),
            "clock": Given(clock, "chosen", _STUDY),
            **_ARRAY,
            "dsp_use": Given(0.8, "chosen", _STUDY),
            "lut_use": Given(0.6, "chosen", _STUDY),
            "share": Given(0.0, "design", "fixed point alone; see `best_share`"),
            "conv": Given(0.8, "chosen", "pipelines that fill"),
            "depthwise": Given(0.25, "chosen", "channels share no input"),
            "shift_luts": Given(32.0, "chosen", f"{_STUDY}: 16, and 16 to add it"),
            "bit_luts": Given(2.0, "chosen", _STUDY),
            "idle_luts": Given(0.3, "chosen", "control and buffers of a design"),
            "reuse": Given(16.0, "chosen", "an operand serves a row of multipliers"),
            **widths((1, 32), (1, 32), "derived", "logic of any width; floats of 32"),
            **skips(
                "chosen",
                _STUDY,
                {
                    **{"unstructured": 0.2, "kernel": 0.5, "block": 0.85},
                    **{"group": 0.85, "filter": 0.95},
                },
            ),
            "bandwidth": bandwidth,
            "far_j": far_j,
            "near_j": Given(1.25e-12 * node, "derived", "8 KB SRAM at 45 nm, node"),
            "shift_j": _SHIFT,
            "mac_scale": Given(2.5 * node, "chosen", f"{_STUDY}: 2.5 times the node"),
            "static": static,
        },
    )


ZC706 = _fpga(
    "fpga_zc706",
    (900, 218_600, 545),
    150e6,
    Given(12.8e9, "published", "64 bits of DDR3-1600"),
    _DDR3,
    0.65,
    Given(2.0, "chosen", "of 4 to 8 W under load"),
)
"""A ZC706 board: XC7Z045, 28 nm."""
ZCU102 = _fpga(
    "fpga_zcu102",
    (2_520, 274_080, 912),
    250e6,
    Given(19.2e9, "published", "64 bits of DDR4-2400"),
    _DDR4,
    0.4,
    Given(4.0, "chosen", "of 8 to 15 W under load"),
)
"""A ZCU102 board: XCZU9EG, 16 nm."""
ULTRA96 = _fpga(
    "fpga_zu3eg",
    (360, 70_560, 216),
    200e6,
    Given(6e9, "chosen", "DDR4, 4 to 8 GB/s"),
    _DDR4,
    0.4,
    Given(1.0, "chosen", "of 2 to 4 W under load"),
)
"""A small one: XCZU3EG, 16 nm."""


def _msq(name, batch, sp2, share, device, base, pack, bandwidth) -> Msq:
    dsps, luts = device
    return make(
        Msq,
        name,
        {
            "batch": Given(batch, "published", _MSQ),
            "inputs": Given(16, "published", _MSQ),
            "fixed": Given(16, "published", _MSQ),
            "sp2": Given(sp2, "published", _MSQ),
            "share": Given(share, "published", f"{_MSQ}: the ratio of the cores"),
            "clock": Given(100e6, "published", _MSQ),
            "stall": Given(1.42, "fitted", f"{_TABLE}: ResNet-18 on XC7Z020, 47.1 ms"),
            "dsps": Given(dsps, "published", _SHEET),
            "luts": Given(luts, "published", _SHEET),
            "dsp_pack": Given(pack, "fitted", f"{_TABLE}: all slices are taken"),
            "lut_base": Given(base, "fitted", _TABLE),
            "lut_sp2": Given(42.0, "fitted", f"{_TABLE}: 16,128 LUTs for 384 units"),
            "bandwidth": Given(bandwidth, "chosen", "a port of DDR3"),
            "far_j": _DDR3,
            **widths((4, 4), (4, 4), "published", f"{_MSQ}: 4-bit rows and inputs"),
            **skips("chosen", _DENSE, REMOVED),
            "shift_j": _SHIFT,
            "mac_scale": Given(2.5 * 0.65, "chosen", _STUDY),
            "static": Given(1.0 if batch == 1 else 2.0, "chosen", "idle power"),
        },
        validated="rows of hw_tables: throughput (remembered), MobileNetV2"
        + ("" if batch == 1 else " and ResNet-18")
        + ": within 1.25x",
    )


MSQ_XC7Z020 = _msq("msq_xc7z020", 1, 24, 0.6, (220, 53_200), 12_160, 256 / 220, 2.1e9)
"""MSQ's design with 16 fixed-point and 24 SP2 outputs, batch 1."""
MSQ_XC7Z045 = _msq(
    "msq_xc7z045", 4, 32, 2 / 3, (900, 218_600), 59_033, 1024 / 900, 6.4e9
)
"""MSQ's design with 16 fixed-point and 32 SP2 outputs, batch 4."""

ESB_ZCU102 = make(
    Esb,
    "esb_zcu102",
    {
        "weight_significant": Given(1.0, "design", "4 bits, one significant"),
        "weight_largest": Given(2.0, "design", "N = 2^(b - 1 - k) - 2"),
        "input_significant": Given(1.0, "design", "4 bits, one significant"),
        "input_largest": Given(2.0, "design", "N = 2^(b - 1 - k) - 2"),
        **_ARRAY,
        "fan_in": Given(1152.0, "chosen", "3 x 3 x 128 terms"),
        "clock": Given(98.55e6, "fitted", "10.95 GOPS a 1,000 LUT at 2 bits, k = 0"),
        "luts": Given(274_080, "published", _SHEET),
        "lut_use": Given(0.6, "chosen", _STUDY),
        **widths((4, 4), (4, 4), "design", "units of 4 bits, one significant"),
        **skips("chosen", _DENSE, REMOVED),
        "bandwidth": Given(19.2e9, "published", "64 bits of DDR4-2400"),
        "far_j": _DDR4,
        "lut_j": Given(1.5e-14, "chosen", "a LUT with its routing at 16 nm"),
        "static": Given(4.0, "chosen", "of 8 to 15 W under load"),
    },
)
"""ESB's units on a ZCU102; no DSP slices."""
