"""Quantization: number formats, quantizers, and rounding without data.

| number formats | |
|------|------|
| `Uniform`, `Binary`, `Ternary`, `Levels` | fixed point, one and two bits, any set |
| `PowerOfTwo`, `SumOfPowers`, `AdditivePowers` | shifts for products; SP2, APoT |
| `ElasticSignificantBits`, `Flint`, `SmallFloat` | ESB, ANT's flint, small floats |
| `Format`, `Cost` | levels, words, exact rounding; shifts and adds of a product |

| quantizers | |
|------|------|
| `Quantizer(format, per, calibration)` | `fit`, `encode`, `decode`, `fake` |
| `Per`, `TENSOR`, `CHANNEL` | what shares a scale |
| `calibration` (a module), `Scaling` | scales: by extremes, error, divergence, DDA |
| `straight_through` | rounding with the gradient of its clip |

| networks | |
|------|------|
| `aware(apply, rules)` | any function with its layers quantized, to train or to run |
| `Layer(weights, inputs)` | what a rule says of a layer |
| `calibrate`, `Scales` | fixed ranges of inputs from data; or scales that learn |
| `record`, `Seen` | what layers were given, and their products |
| `summary`, `sqnr`, `layer_sqnr` | bits, bytes, cost; noise of weights and layers |
| `integer` (a module) | layers from words alone: int32 sums, shifts |

| formats by row and by tensor | |
|------|------|
| `RowMix`, `assign_rows`, `row_variance` | MSQ: SP2 rows and fixed-point rows |
| `choose`, `candidates` | ANT: the format of least error |
| `promote`, `promote_until` | ANT4-8: more bits for layers of large error |

| widths | |
|------|------|
| `bitwidth` (a module) | widths of groups as real numbers that learn, within a budget |
| `sensitivity` (a module) | the loss with one group quantized; greedy widths |

| rounding without data | |
|------|------|
| `squant` (a module) | SQuant of a kernel or a tree, in one program |
| `fold_batch_norm`, `repair_variance` | norms within kernels; dead channels repaired |
| `activation_scaling` | ranges of inputs from norms; more in `normalization` |

Example, every kernel to four bits of SP2, a scale each:

    quantizer = quant.Quantizer(quant.SumOfPowers(4))
    scaling = quantizer.fit(kernel)
    words = quantizer.encode(kernel, scaling)  # what hardware stores
    kernel = quantizer.decode(words, scaling)

References: MSQ, arXiv 2012.04240; ESB, arXiv 2109.03513; ANT, arXiv 2208.14286; SQuant,
arXiv 2202.07471; learned steps, arXiv 1902.08153; real widths, arXiv 1810.10351.
"""

from quant import bitwidth, calibration, integer, normalization, sensitivity, squant
from quant.aware import Layer, Scales, Seen, aware, calibrate, record
from quant.calibration import Calibration, Scaling
from quant.choice import Choice, candidates, choose, promote, promote_until
from quant.formats import (
    AdditivePowers,
    Binary,
    Cost,
    ElasticSignificantBits,
    Flint,
    Format,
    Levels,
    PowerOfTwo,
    SmallFloat,
    SumOfPowers,
    Ternary,
    Uniform,
)
from quant.normalization import activation_scaling, fold_batch_norm, repair_variance
from quant.quantizers import CHANNEL, TENSOR, Per, Quantizer, straight_through
from quant.rows import RowMix, RowScaling, assign_rows, row_variance
from quant.summary import LeafSummary, layer_sqnr, sqnr, summary

__all__ = [
    "CHANNEL",
    "TENSOR",
    "AdditivePowers",
    "Binary",
    "Calibration",
    "Choice",
    "Cost",
    "ElasticSignificantBits",
    "Flint",
    "Format",
    "Layer",
    "LeafSummary",
    "Levels",
    "Per",
    "PowerOfTwo",
    "Quantizer",
    "RowMix",
    "RowScaling",
    "Scales",
    "Scaling",
    "Seen",
    "SmallFloat",
    "SumOfPowers",
    "Ternary",
    "Uniform",
    "activation_scaling",
    "assign_rows",
    "aware",
    "bitwidth",
    "calibrate",
    "calibration",
    "candidates",
    "choose",
    "fold_batch_norm",
    "integer",
    "layer_sqnr",
    "normalization",
    "promote",
    "promote_until",
    "record",
    "repair_variance",
    "row_variance",
    "sensitivity",
    "sqnr",
    "squant",
    "straight_through",
    "summary",
]
