"""Accelerators by name: systolic arrays, ANT and its rivals, Eyeriss."""

from hw.constants import Given, make
from hw.targets.ant import AntArray
from hw.targets.base import REMOVED, SPARSE, skips, widths
from hw.targets.row_stationary import RowStationary
from hw.targets.systolic import Dataflow, Systolic, Zeros

_S2TA = "arXiv 2107.07983"
_S2TA_SPEC = "specification of arXiv 2107.07983, chosen there: 45 nm table, 16 nm node"
_ANT = "arXiv 2208.14286, released simulator"
_EYERISS = "doi 10.1109/JSSC.2016.2616357"
_TABLES = f"{_EYERISS}, its tables as remembered"


_DENSE = "no logic that skips zeros"


def _zeros(zeros: Zeros) -> dict[str, Given]:
    """What each kind of array skips by pattern."""
    if zeros == "dense":
        return skips("derived", _DENSE, REMOVED)
    times = {"smt": SPARSE, "s2ta_w": {**REMOVED, "group": 1.0}}.get(zeros, REMOVED)
    bounded = {**REMOVED, "group": 1.0} if zeros in ("s2ta_w", "s2ta_aw") else REMOVED
    return skips("published", _S2TA, times, energy=SPARSE, storage=bounded)


def _s2ta(
    name: str, zeros: Zeros, reuse: tuple[float, float], validated: str
) -> Systolic:
    chosen = {
        "multiply_j": 0.06e-12,
        "add_j": 0.03e-12,
        "gate_j": 0.006e-12,
        "register_j": 0.02e-12,
        "buffer_j": 1.5e-12,
        "compare_j": 0.004e-12,
        "queue_j": 0.05e-12,
        "queue_loss": 0.1,
    }
    return make(
        Systolic,
        name,
        {
            "rows": Given(32, "published", f"{_S2TA}: tiles of 32 x 64 outputs"),
            "columns": Given(64, "published", f"{_S2TA}: tiles of 32 x 64 outputs"),
            "clock": Given(1e9, "published", f"{_S2TA}: 1 GHz at 16 nm"),
            "drain": Given(0.0, "chosen", "outputs leave beside the next tile"),
            "reuse_input": Given(reuse[0], "published", f"{_S2TA}: C of a tensor PE"),
            "reuse_weight": Given(reuse[1], "published", f"{_S2TA}: A of a tensor PE"),
            **{k: Given(v, "chosen", _S2TA_SPEC) for k, v in chosen.items()},
            "weight_buffer": Given(512 * 1024, "published", _S2TA),
            "input_buffer": Given(2 * 2**20, "published", _S2TA),
            "bandwidth": Given(1e15, "published", f"{_S2TA}: memory is not modelled"),
            "far_j": Given(0.0, "published", f"{_S2TA}: memory is not modelled"),
            "static": Given(0.0, "chosen", "the paper's figures are dynamic energy"),
            **widths((8, 8), (8, 8), "published", f"{_S2TA}: units of 8 bits"),
            **_zeros(zeros),
        },
        validated,
        dataflow="output",
        zeros=zeros,
    )


_SCALESIM = "SCALE-Sim's cycles (benchmarks/cost_model.py): equal; no published row"
_GATED = (
    "rows of hw_tables: gains of S2TA-AW over gated zeros, published as more than 2x: "
    "neither reached, 1.6x in time and 1.9x in energy"
)
SA = _s2ta("sa_dense", "dense", (1, 1), _SCALESIM)
"""A systolic array of 2,048 8-bit units."""
SA_ZVCG = _s2ta("sa_zvcg", "gated", (1, 1), _GATED)
"""The same with gated zeros: the baseline of S2TA's paper."""
SA_SMT = _s2ta("sa_smt", "smt", (1, 1), "")
"""The same with queues, for zeros anywhere."""
S2TA_W = _s2ta("s2ta_w", "s2ta_w", (4, 4), "")
"""Bounded weights, at most 4 of 8."""
S2TA_AW = _s2ta("s2ta_aw", "s2ta_aw", (4, 8), _GATED)
"""Bounded weights and inputs; as many cycles a block as inputs are kept."""


def systolic_array(
    rows: int, columns: int, dataflow: Dataflow = "output", clock: float = 1e9
) -> Systolic:
    """Returns a dense array of any size, with the constants of `SA`.

    Args:
      rows: of units, at least 1.
      columns: of units, at least 1.
      dataflow: what stays in the units.
      clock: in hertz.
    """
    given = {
        key: Given(getattr(SA, key), origin, source)  # type: ignore[arg-type]
        for key, origin, source in SA.provenance.origins
    }
    mine = "as asked for"
    given |= {
        "rows": Given(rows, "design", mine),
        "columns": Given(columns, "design", mine),
        "clock": Given(clock, "design", mine),
        "drain": Given(
            float(dataflow != "output"),
            "published",
            "SCALE-Sim: stationary operands are loaded through the rows",
        ),
    }
    name = f"systolic_{rows}x{columns}_{dataflow}"
    return make(Systolic, name, given, _SCALESIM, dataflow=dataflow, zeros="dense")


def _ant(name, shape, bits, splits, unit_nw, numbers) -> AntArray:
    dynamic, leakage = unit_nw
    return make(
        AntArray,
        name,
        {
            "rows": Given(shape[0], "published", f"{_ANT}: of equal area"),
            "columns": Given(shape[1], "published", f"{_ANT}: of equal area"),
            "unit_bits": Given(bits, "published", _ANT),
            "splits": Given(splits, "published", _ANT),
            "clock": Given(500e6, "published", _ANT),
            "interface": Given(1024, "published", _ANT),
            "weight_buffer": Given(128 * 1024, "published", _ANT),
            "input_buffer": Given(256 * 1024, "published", _ANT),
            "dynamic": Given(dynamic * 1e-9, "published", _ANT),
            "leakage": Given(leakage * 1e-9, "published", _ANT),
            "static": Given(0.3, "chosen", "buffers and interface, whatever runs"),
            "near_j": Given(0.08e-12, "chosen", "SRAM of 128 KB at 28 nm"),
            "far_j": Given(4e-12, "chosen", "memory, 4 pJ a bit"),
            **widths(numbers, numbers, "published", _ANT),
            **skips("derived", _DENSE, REMOVED),
            "decoder_area": Given(
                0.002, "chosen", "specification of arXiv 2208.14286: at the edges"
            ),
        },
        "rows of hw_tables: time"
        + (" and energy" if name in ("ant", "bitfusion") else "")
        + " over AdaptivFloat's: within 1.25x",
    )


_UNIT_8 = 279_960, 64_314
_UNIT_6 = 123_882, 28_458
ANT = _ant("ant", (32, 32), 8, 1, _UNIT_8, (4, 8))
"""ANT: 1,024 units of 8 bits or 4,096 of 4, operands decoded at the edges."""
BITFUSION = _ant("bitfusion", (32, 32), 8, 1, _UNIT_8, (4, 16))
"""BitFusion: the same units, integers alone."""
ADAFLOAT = _ant("adafloat", (32, 28), 8, 0, _UNIT_8, (8, 8))
"""AdaptivFloat: 896 units of 8 bits."""
BISCALED = _ant("biscaled", (32, 80), 6, 0, _UNIT_6, (6, 6))
"""BiScaled: 2,560 units of 6 bits."""
OLACCEL = _ant("olaccel", (16, 18), 8, 1, _UNIT_8, (4, 8))
"""OLAccel: 1,152 units of 4 bits, as 288 of 8."""

EYERISS = make(
    RowStationary,
    "eyeriss",
    {
        "rows": Given(12, "remembered", _EYERISS),
        "columns": Given(14, "remembered", _EYERISS),
        "clock": Given(200e6, "remembered", _EYERISS),
        "filling": Given(0.78, "fitted", f"{_TABLES}: AlexNet's 115.3 ms in all"),
        "strip": Given(14, "remembered", f"{_EYERISS}: the array's columns"),
        "bandwidth": Given(0.96e9, "derived", "two links of 64 bits at 60 MHz"),
        "mac_j": Given(8.5e-12, "fitted", f"{_TABLES}: AlexNet's power by layer"),
        "zero_saving": Given(0.45, "remembered", f"{_EYERISS}: gating saves 45 %"),
        "far_j": Given(106e-12, "chosen", "DDR3, 13 pJ a bit; no row has it"),
        **widths((16, 16), (16, 16), "remembered", f"{_EYERISS}: 16-bit fixed point"),
        **skips(
            "derived", "zeros of inputs save energy, those of weights none", REMOVED
        ),
        "static": Given(0.12, "fitted", f"{_TABLES}: AlexNet's power by layer"),
    },
    "rows of hw_tables (remembered), of VGG-16: power within 1.4x; latency of 7 of 13 "
    "layers beyond 2x, up to 4.4x",
)
"""Eyeriss: 168 units of 16 bits, 65 nm."""
