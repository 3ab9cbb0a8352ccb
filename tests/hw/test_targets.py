"""Each target against its paper's formulas and what it must never say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hw
from hw.energy import mac_energy
from hw.patterns import time_share
from hw.targets import fpga
from hw.targets.arrays import systolic_array
from hw.targets.processor import spill

STRUCT = jax.ShapeDtypeStruct


def product(m, k, n, **formats):
    shapes = {"kernel": STRUCT((k, n), jnp.float32)}
    x = STRUCT((m, k), jnp.float32)
    return hw.workload(lambda p, x: x @ p["kernel"], shapes, x, **formats)


def arrays(table):
    return jax.tree.map(jnp.asarray, table)


@pytest.mark.parametrize(
    ("shape", "output", "weight", "inputs"),
    [
        ((20, 33, 30), 459, 690, 560),
        ((8, 5, 12), 23, 34, 38),
        ((100, 9, 7), 351, 252, 594),
        ((576, 25, 20), 6192, 4816, 8832),
    ],
)
def test_cycles_are_those_that_scalesim_walks_through(shape, output, weight, inputs):
    table = arrays(product(*shape))  # counted by scalesim 3.0.0 on 8 x 12 units
    for flow, cycles in (("output", output), ("weight", weight), ("input", inputs)):
        assert float(systolic_array(8, 12, flow).cycles(table)[0]) == cycles


def convolution(c=64, n=64, density=1.0, input_density=1.0, pattern="group"):
    def fn(p, x):
        return jax.lax.conv_general_dilated(
            x, p["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    return arrays(
        hw.workload(
            fn,
            {"kernel": STRUCT((3, 3, c, n), jnp.float32)},
            STRUCT((1, 16, 16, c), jnp.float32),
            bits=8,
            input_bits=8,
            density=density,
            input_density=input_density,
            pattern=pattern,
        )
    )


def test_s2ta_is_as_fast_as_its_inputs_are_bounded():
    aw, w = hw.get("s2ta_aw"), hw.get("s2ta_w")
    tiles, fill = 8, 32 + 64 - 2
    for bound in (1, 2, 4, 5, 8):
        table = convolution(input_density=bound / 8, density=0.5)
        assert float(aw.cycles(table)[0]) == tiles * (bound * 9 * 8 + fill)
    # The bound of weights saves energy and no time; S2TA-W has it the other way.
    one, two = convolution(density=0.25), convolution(density=0.5)
    assert float(aw.cycles(one)[0]) == float(aw.cycles(two)[0])
    assert float(hw.cost(one, aw).energy_j) < float(hw.cost(two, aw).energy_j)
    assert float(w.cycles(two)[0]) == tiles * (4 * 9 * 8 + fill)
    # 6 of 8 is more than five stages find: the layer runs dense.
    dense = aw.cycles(convolution(density=0.5))[0]
    # Without a bound nothing is skipped: neither by 8:1 nor by 4:1 multiplexers.
    scattered = convolution(density=0.5, input_density=0.25, pattern="unstructured")
    assert float(w.cycles(scattered)[0]) == float(dense)
    assert float(aw.cycles(scattered)[0]) == float(dense)
    assert float(aw.cycles(convolution(density=0.5, input_density=0.75))[0]) == dense


def test_a_systolic_array_fetches_again_what_does_not_fit():
    table = convolution(c=512, n=512)
    array = hw.replace(hw.get("sa_dense"), bandwidth=1e9)
    need = 9 * 512 * 512
    moved = [
        float(hw.cost(table, hw.replace(array, weight_buffer=b)).moved[0])
        for b in (need, need / 2, need / 8)
    ]
    once = need + 2 * 16 * 16 * 512
    assert moved[0] == pytest.approx(once, rel=1e-5)
    # 256 positions are 8 tiles of rows: the half that does not fit comes 7 times more,
    # unless the inputs do, which fit.
    assert moved[1] == pytest.approx(once, rel=1e-5)
    both = hw.replace(array, weight_buffer=need / 2, input_buffer=1.0)
    inputs = 16 * 16 * 512
    again = min(7 * need / 2, 7 * inputs)
    assert float(hw.cost(table, both).moved[0]) == pytest.approx(once + again, rel=1e-4)


def test_gated_arrays_save_energy_and_no_time():
    table = convolution(density=0.5, input_density=0.4)
    dense, gated = (hw.cost(table, hw.get(n)) for n in ("sa_dense", "sa_zvcg"))
    assert float(dense.latency_s) == float(gated.latency_s)
    assert float(gated.energy_j) < float(dense.energy_j)
    share = gated.joules["multiply"][0] / dense.joules["multiply"][0]
    assert float(share) == pytest.approx(0.2, rel=1e-5)


def test_msq_takes_the_longer_of_its_cores():
    design = hw.replace(hw.get("msq_xc7z020"), stall=1.0, bandwidth=1e15)
    table = arrays(product(7, 40, 100, bits=4, input_bits=4))
    for share in (0.0, 0.4, 0.6, 1.0):
        made = hw.replace(design, share=share)
        sp2 = round(100 * share)
        cycles = 7 * 3 * max(-(-(100 - sp2) // 16), -(-sp2 // 24))
        found = float(hw.cost(table, made).latency_s)
        assert found == pytest.approx(cycles / 100e6, rel=1e-5)
    larger = design.best_design()  # 80 % of 53,200 LUTs
    assert float(larger.sp2) == 40
    origins = {each.name: each.origin for each in hw.constants(larger)}
    assert origins["sp2"] == origins["share"] == "design"
    assert not larger.provenance.validated
    assert float(larger.share) == pytest.approx(40 / 56)
    assert bool(hw.cost(table, larger).feasible)
    used = float(hw.cost(table, larger).resources["lut"])
    assert used <= 0.8 * 53_200 < used + 8 * 16 * 42
    alone = hw.replace(design, sp2=0.0, share=0.0)  # an idle core divides by nothing
    assert np.isfinite(float(hw.cost(table, alone).latency_s))
    assert float(hw.get("msq_xc7z020").peak_ops) == 2 * 16 * 40 * 100e6
    assert float(hw.get("msq_xc7z045").peak_ops) == 2 * 4 * 16 * 48 * 100e6


def test_msq_is_fastest_at_the_ratio_of_its_cores():
    wide = arrays(product(64, 256, 4000, bits=4, input_bits=4))
    shares = jnp.linspace(0, 1, 41)
    target = hw.replace(hw.get("msq_xc7z020"), bandwidth=1e15)

    def latency(share):
        made = dataclasses.replace(target, share=share)
        return hw.cost(wide, made).latency_s

    found = jax.vmap(latency)(shares)
    assert float(shares[jnp.argmin(found)]) == pytest.approx(24 / 40, abs=0.026)


def test_best_share_of_an_fpga_is_a_minimum():
    target = hw.replace(hw.get("fpga_zcu102"), bandwidth=1e15)
    table = arrays(product(256, 256, 256, bits=4, input_bits=4))
    best = float(target.best_share(4.0, 4.0))

    def latency(share):
        return float(hw.cost(table, hw.replace(target, share=share)).latency_s)

    assert latency(best) < min(latency(best * 0.9), latency(best * 1.1), latency(0.0))

    def rate(**changed):
        return float(
            hw.replace(target, **changed).rates(jnp.float32(4), jnp.float32(4))[1]
        )

    # 2 bits + 32 LUTs of a sum of two shifts are constants that draws change.
    assert rate() / rate(shift_luts=16.0) == pytest.approx(24 / 40)
    assert rate() / rate(bit_luts=4.0) == pytest.approx(48 / 40)
    rates = [float(fpga.macs_per_dsp(jnp.float32(b))) for b in (4, 8, 16)]
    assert rates == pytest.approx([4, 2, 1])
    assert float(fpga.macs_per_dsp(jnp.float32(32))) == pytest.approx(1 / 4.5, rel=0.01)


def test_smaller_block_ram_never_moves_fewer_bytes():
    table = arrays(product(512, 512, 512, bits=16, input_bits=16))
    target = hw.get("fpga_zcu102")
    moved = [
        float(hw.cost(table, hw.replace(target, brams=b)).seconds["memory"][0])
        for b in (8, 32, 128, 912)
    ]
    assert moved == sorted(moved, reverse=True)
    assert not bool(hw.cost(table, hw.replace(target, brams=0.1)).feasible)


def test_esb_pays_for_significant_bits():
    target = hw.get("esb_zcu102")
    area = [
        float(hw.replace(target, weight_significant=k, input_significant=k).mac_luts)
        for k in (0, 1, 2, 3)
    ]
    assert area == sorted(area)
    tiny = hw.replace(
        *(target,),
        weight_significant=0,
        input_significant=0,
        weight_largest=0,
        input_largest=0,
    )
    # One LUT, no shifter, an accumulator of 2 + 11 bits, two registers an operand.
    assert float(tiny.mac_luts) == pytest.approx(1 + 0 + 13 + 4)


def test_ant_splits_its_units():
    table = arrays(product(1024, 1024, 1024))
    at = {b: hw.design(table, bits=b, input_bits=b) for b in (4.0, 6.0, 8.0, 16.0)}
    cycles = {
        b: float(hw.cost(t, hw.get("bitfusion")).seconds["compute"][0])
        for b, t in at.items()
    }
    assert cycles[8.0] / cycles[4.0] == pytest.approx(4)
    assert cycles[6.0] == pytest.approx(cycles[8.0])  # as many parts
    assert cycles[16.0] / cycles[8.0] == pytest.approx(4)
    eight = hw.cost(at[4.0], hw.get("adafloat")).seconds["compute"][0]
    assert float(eight) == pytest.approx(
        float(hw.cost(at[8.0], hw.get("adafloat")).seconds["compute"][0])
    )


def test_capram_is_as_published_at_its_peak():
    target = hw.get("capram")
    assert float(target.peak_ops) == 2 * 64 * 128 * 35e6  # 573.44 GOPS
    found = hw.cost(arrays(product(100, 64, 64, bits=2, input_bits=3)), target)
    assert float(found.latency_s) == pytest.approx(100 / 35e6, rel=1e-5)
    assert float(found.energy_j) == pytest.approx(100 * 331.7e-12, rel=1e-5)
    digits = hw.cost(arrays(product(100, 64, 64, bits=2, input_bits=4)), target)
    assert float(digits.latency_s) == pytest.approx(2 * float(found.latency_s))
    half = hw.cost(arrays(product(100, 32, 64, bits=2, input_bits=3)), target)
    assert float(half.latency_s) == float(found.latency_s)  # rows are left unused
    wide = hw.cost(arrays(product(100, 64, 64, bits=2, input_bits=6)), target)
    assert float(wide.latency_s) == pytest.approx(2 * float(found.latency_s))


def test_crossbars_are_counted_with_their_edges():
    target = hw.get("memristor")
    for k, n, tiles in ((128, 16, 1), (129, 16, 2), (128, 17, 2), (300, 40, 9)):
        found = hw.cost(arrays(product(1, k, n, bits=8, input_bits=8)), target)
        # Two cells and a pair of columns for each weight.
        four = hw.cost(arrays(product(1, k, n, bits=5, input_bits=8)), target)
        assert float(four.resources["arrays"]) == -(-k // 128) * -(-n // 32)
        assert float(found.resources["arrays"]) == tiles, (k, n)


def test_eyeriss_maps_as_it_was_measured():
    def fn(p, x):
        return jax.lax.conv_general_dilated(
            x,
            p["kernel"],
            (4, 4),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    table = hw.workload(
        fn,
        {"kernel": STRUCT((11, 11, 3, 96), jnp.float32)},
        STRUCT((4, 227, 227, 3), jnp.float32),
    )
    assert float(hw.get("eyeriss").active(arrays(table))[0]) == 154  # its table V


def test_the_gpu_of_a_phone_gains_nothing_below_sixteen_bits():
    table = arrays(product(512, 512, 512))
    target = hw.replace(hw.get("mobile_gpu"), far=1e15, near=1e15)
    at = [hw.design(table, bits=b, input_bits=b) for b in (4.0, 16.0, 32.0)]
    four, half, full = (float(hw.cost(t, target).latency_s) for t in at)
    assert four == pytest.approx(half)
    assert half < full


def test_small_laws():
    density = jnp.linspace(0.01, 1.0, 100)
    np.testing.assert_allclose(time_share(density, 1.0), density, atol=1e-5)
    np.testing.assert_array_equal(time_share(density, 0.0), 1.0)
    for kept in (0.2, 0.25, 0.5, 0.85, 0.95):
        some = np.asarray(time_share(density, kept))
        assert np.all(np.diff(some) >= -1e-7)
        assert float(some[-1]) == 1
        # min(1, density / kept), and 2.5 % below at its corner (2106.09166).
        wanted = np.minimum(1, density / kept)
        assert np.all(some <= wanted + 1e-6)
        np.testing.assert_allclose(some, wanted, atol=0.026)
    assert float(spill(4e6, 4e6)) == pytest.approx(0.5)
    assert float(spill(1e9, 4e6)) > 0.999
    assert np.isfinite(float(spill(1e12, 1.0)))
    assert float(spill(0.0, 4e6)) < 1e-6
    bits = jnp.asarray([4.0, 8.0, 16.0, 32.0])
    joules = mac_energy(bits, bits)
    assert np.all(np.diff(np.asarray(joules)) > 0)
    assert float(joules[1]) == pytest.approx(0.25e-12, rel=0.1)  # 0.2 and an addition
    assert float(joules[3]) == pytest.approx(4.6e-12, rel=0.1)


def test_an_index_of_eight_bits_breaks_even_at_half():
    dense = product(1, 64, 64, bits=8)
    half = product(1, 64, 64, bits=8, density=0.5, pattern="unstructured")
    np.testing.assert_allclose(dense.weight_bytes, half.weight_bytes)


def test_a_gpu_with_sparse_units_takes_half_the_time_at_two_of_four():
    free = {"near": 1e18, "far": 1e18, "overhead": 0.0, "chain_overhead": 0.0}
    target = hw.replace(hw.get("server_gpu"), **free)
    table = arrays(product(4096, 4096, 4096, bits=8, input_bits=8))

    def share(density, pattern="group"):
        made = hw.design(table, density=density, pattern=pattern)
        return float(hw.cost(made, target).latency_s / hw.cost(table, target).latency_s)

    assert share(0.5) == pytest.approx(0.5, rel=1e-5)
    assert share(0.25) == pytest.approx(0.5, rel=1e-5)  # two of four, whatever is 0
    assert share(0.75) == pytest.approx(1, rel=1e-5)
    assert share(0.5, "unstructured") == pytest.approx(1, rel=1e-5)


def test_s2ta_spends_what_its_equation_says():
    """One tile of 32 x 64 outputs, 16 channels, inputs 2/8 and weights 4/8."""
    table = arrays(
        product(32, 16, 64, bits=8, input_bits=8, density=0.5, pattern="group")
    )
    table = hw.design(table, input_density=0.25)
    found = hw.cost(table, hw.get("s2ta_aw"))
    cycles = 2 * 2 + 32 + 64 - 2
    slots = cycles * 32 * 64
    products = 32 * 16 * 64 * 0.5 * 0.25
    # 3 of 8 bytes of an input block, 5 of 8 of a weight's; outputs of a byte.
    buffers = 32 * 16 * 3 / 8 + 16 * 64 * 5 / 8 + 32 * 64
    want = {
        "multiply": products * 0.09e-12,
        "gated": (slots - products) * 0.006e-12,
        "registers": slots * (1 / 4 + 5 / 8 / 8) * 0.02e-12,
        "buffers": buffers * 1.5e-12,
        "pruning": 32 * 64 / 8 * 7 * 2 * 0.004e-12,
    }
    for cause, joules in want.items():
        assert float(found.joules[cause][0]) == pytest.approx(joules, rel=1e-5), cause
    # What runs dense is pruned by nobody.
    dense = hw.cost(hw.design(table, input_density=1.0), hw.get("s2ta_aw"))
    assert float(dense.joules["pruning"][0]) == 0


def test_a_phone_spends_what_its_parts_do():
    table = arrays(product(16, 64, 32, bits=8, input_bits=8))
    found = hw.cost(table, hw.get("mobile_cpu"))
    size = 16 * 64 + 64 * 32 + 16 * 32
    macs = 16 * 64 * 32
    mac = (0.2e-12 + 0.1e-12 / 2) * (1 + 0.4 / 4)
    assert float(found.joules["compute"][0]) == pytest.approx(4 * macs * mac, rel=1e-5)
    # 100 pJ a word of 8 bytes of 1 MB of SRAM at 45 nm, a fifth of that at 7 nm.
    near = size * 100e-12 / 8 * 0.2
    assert float(found.joules["cache"][0]) == pytest.approx(near, rel=1e-5)
    latency = float(found.latency_s)
    assert float(found.joules["static"].sum()) == pytest.approx(latency, rel=1e-5)


def test_rewriting_cells_takes_time_and_energy():
    target = hw.get("capram")
    # 1,024 x 64 weights of two cells: twice what the macro holds.
    table = arrays(product(10, 1024, 64, bits=2, input_bits=3))
    found = hw.cost(table, target)
    loads = 65_536 / 128  # rows of what does not fit
    assert float(found.latency_s) == pytest.approx((10 * 16 + loads) / 35e6, rel=1e-4)
    spent = 10 * 16 * 331.7e-12 + 65_536 * target.load_j
    assert float(found.energy_j) == pytest.approx(spent, rel=1e-4)


def attention(m=64, k=32):
    struct = STRUCT((1, m, k), jnp.float32)
    return hw.workload(
        lambda p, x, y: jnp.einsum("bik,bjk->bij", x, y) * p,
        STRUCT((), jnp.float32),
        struct,
        struct,
        input_bits=8,
    )


def test_products_of_data_are_moved_once_and_no_memory_holds_them():
    table = attention()
    scores = table.kinds.index("attention")
    found = hw.cost(table, hw.get("sa_dense"))
    assert float(found.moved[scores]) == 64 * 32 + 64 * 32 + 64 * 64
    for name in ("capram", "memristor"):
        assert table.names[scores] in hw.cost(table, hw.get(name)).left_out


@pytest.mark.parametrize("name", ["fpga_zcu102", "esb_zcu102", "msq_xc7z045"])
def test_no_product_of_an_fpga_is_faster_than_a_cycle(name):
    target = hw.replace(hw.get(name), bandwidth=1e18)
    bits = float(target.weight_widths[0])
    cycles = [
        float(hw.cost(arrays(product(*shape, bits=4, input_bits=4)), target).latency_s)
        * target.clock
        for shape in ((1, 8, 1), (1, 1, 1), (1, 1024, 1))
    ]
    assert bits <= 4
    assert min(cycles) >= 0.999
    assert cycles[2] > 10 * cycles[1]  # a sum of many terms, one output at a time


def test_an_fpga_needs_the_slices_of_its_smallest_array():
    table = arrays(product(64, 64, 64, bits=16, input_bits=16))
    target = hw.get("fpga_zcu102")
    assert bool(hw.cost(table, target).feasible)
    assert not bool(hw.cost(table, hw.replace(target, dsps=8.0)).feasible)


def test_eyeriss_maps_rows_of_one_image_whatever_the_batch():
    def table(batch):
        return arrays(
            hw.workload(
                lambda p, x: jax.lax.conv_general_dilated(
                    x,
                    p["kernel"],
                    (1, 1),
                    "SAME",
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                ),
                {"kernel": STRUCT((3, 3, 16, 32), jnp.float32)},
                STRUCT((batch, 10, 13, 16), jnp.float32),
            )
        )

    target = hw.get("eyeriss")
    one, four = (float(target.active(table(b))[0]) for b in (1, 4))
    assert one == four == 3 * 4 * 13
