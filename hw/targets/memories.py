"""Products within memories, by name."""

from hw.constants import Given, make
from hw.targets.base import REMOVED, skips, widths
from hw.targets.in_memory import CapRam, Memristor

_CAPRAM = "arXiv 2107.02388"
_CROSSBAR = "arXiv 1908.10017"
_FITTED = f"{_CROSSBAR}: 0.235 mm2 and 3.359 W of ResNet-18 at 5.83x"
_SPLIT = f"{_FITTED} is the sum; how it is shared out is our choice"
_CELL = "1R cell of 4 F^2 at 45 nm"
_ARRAY = 128 * 64 * 4 * (45e-6) ** 2  # mm2
_TILE = 0.235 / 1036  # mm2 of an array with its converters
_POWER = 3.359 / 1036  # W

CAPRAM = make(
    CapRam,
    "capram",
    {
        "clusters": Given(64, "derived", f"{_CAPRAM}: 512 rows, 8 cells a cluster"),
        "columns": Given(128, "published", _CAPRAM),
        "cells": Given(65_536, "published", f"{_CAPRAM}: 512 x 128"),
        "clock": Given(35e6, "derived", f"{_CAPRAM}: 573.4 GOPS of 64 x 128 products"),
        "cells_per_bit": Given(1.0, "published", "two for a ternary weight"),
        "conversions": Given(1.0, "design", "pairs are subtracted as charge"),
        "digit_bits": Given(3.0, "published", f"{_CAPRAM}: eight levels"),
        **widths((1, 6), (3, 9), "derived", f"{_CAPRAM}: six widths; three digits"),
        **skips("derived", "removed rows and columns need no cells", REMOVED),
        "cycle_j": Given(331.7e-12, "derived", f"{_CAPRAM}: 49.4 TOPS/W at the peak"),
        "fixed": Given(0.3, "chosen", "converters' references and control"),
        "load_bits": Given(128, "chosen", "a row of the array in a cycle"),
        "load_j": Given(1e-13, "chosen", "bit lines of 512 rows at 65 nm"),
        "area": Given(0.179, "published", f"{_CAPRAM}: 65 nm"),
        "static": Given(0.0, "chosen", "the published energy holds it"),
    },
)
"""The CAP-RAM macro: 8 KB of 6T cells, 7-bit converters."""

MEMRISTOR = make(
    Memristor,
    "memristor",
    {
        "rows": Given(128, "published", _CROSSBAR),
        "columns": Given(64, "published", _CROSSBAR),
        "cell_bits": Given(4, "published", f"{_CROSSBAR}: two cells a weight"),
        "polarity": Given(2, "chosen", "pairs of columns for the sign"),
        "adc_share": Given(8, "chosen", f"{_CROSSBAR}: a converter for some columns"),
        "read": Given(1e-7, "chosen", "100 ns a read"),
        "digit_bits": Given(1, "chosen", "a bit of inputs at a time"),
        **widths((2, 16), (1, 16), "chosen", "a sign and cells; bits in turn"),
        **skips("derived", "removed rows and columns need no arrays", REMOVED),
        "array_mm2": Given(_ARRAY, "derived", _CELL),
        "dac_mm2": Given(0.1 * (_TILE - _ARRAY) / 128, "chosen", _SPLIT),
        "adc_mm2": Given(0.9 * (_TILE - _ARRAY) / 8, "chosen", _SPLIT),
        "array_w": Given(0.1 * _POWER, "chosen", _SPLIT),
        "dac_w": Given(0.1 * _POWER / 128, "chosen", _SPLIT),
        "adc_w": Given(0.8 * _POWER / 8, "chosen", _SPLIT),
        "arrays": Given(65_536, "design", "of a chip"),
        "static": Given(0.0, "chosen", "the published power holds it"),
    },
    validated="rows of hw_tables: VGG-16's area and power: within 1.1x",
)
"""Crossbars of 128 x 64 cells of 4 bits, 45 nm."""
