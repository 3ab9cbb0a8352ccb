"""Charge and conductances: exact where nothing is wrong, calibrated where it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.errors import GraphError, InputError
from hw import behaviour, capram, memristor
from hw.capram import MacroSpec


@pytest.fixture(scope="module")
def chips():
    spec = MacroSpec()
    made = [capram.sample_chip(jax.random.key(i), spec) for i in range(2)]
    find = jax.jit(lambda c, k: capram.calibrate(c, k, spec))
    return spec, [(c, find(c, jax.random.key(7))) for c in made]


@pytest.mark.parametrize(
    ("scheme", "bits", "low", "high"),
    [("binary", n, -(2 ** (n - 1)), 2 ** (n - 1) - 1) for n in range(2, 7)]
    + [("ternary", n, -(2**n) + 1, 2**n - 1) for n in range(1, 4)],
)
def test_planes_decode_exactly(scheme, bits, low, high):
    w = jnp.arange(low, high + 1, dtype=jnp.float32)[:, None]
    planes, counts = capram.encode(w, bits, scheme)
    np.testing.assert_array_equal(capram.decode(planes, counts, scheme), w)
    stored = {0, 1} if scheme == "binary" else {-1, 0, 1}
    assert set(np.unique(planes)) <= stored


def test_one_bit_is_a_sign_and_widths_are_checked():
    w = jnp.asarray([[1.0], [-1.0]])
    planes, counts = capram.encode(w, 1, "binary")
    np.testing.assert_array_equal(capram.decode(planes, counts, "binary"), w)
    for bits, scheme in ((7, "binary"), (4, "ternary"), (0, "ternary")):
        with pytest.raises(InputError, match="bits"):
            capram.encode(w, bits, scheme)


@pytest.mark.parametrize(
    ("scheme", "bits"), [("ternary", 1), ("binary", 4), ("binary", 1)]
)
def test_a_fine_converter_is_an_integer_product(scheme, bits):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 8, (3, 150)).astype(np.float32)
    w = rng.integers(-1, 2, (150, 5)) if scheme == "ternary" else None
    if w is None:
        w = (
            rng.choice([-1, 1], (150, 5))
            if bits == 1
            else rng.integers(-8, 8, (150, 5))
        )
    spec = capram.ideal(20)
    found = capram.macro_matmul(
        jnp.asarray(x),
        jnp.asarray(w, jnp.float32),
        jax.random.key(0),
        chip=capram.sample_chip(jax.random.key(1), spec),
        calibration=capram.uncalibrated(spec),
        spec=spec,
        bits=bits,
        scheme=scheme,
    )
    np.testing.assert_allclose(found, x @ w, atol=0.05)


def test_seven_bits_round_each_group_apart():
    spec = capram.ideal()
    x = jnp.full((1, 128), 7.0)
    w = jnp.zeros((128, 1)).at[0, 0].set(1.0).at[64, 0].set(1.0)
    args = {
        "chip": capram.sample_chip(jax.random.key(1), spec),
        "calibration": capram.uncalibrated(spec),
        "spec": spec,
        "scheme": "ternary",
    }
    coarse = capram.macro_matmul(x, w, jax.random.key(0), **args)
    fine = capram.macro_matmul(x, w, jax.random.key(0), full_scale=1 / 32, **args)
    step = 2 * spec.full / spec.top
    assert abs(float(coarse[0, 0]) - 14) <= step  # half a step for each group
    assert abs(float(fine[0, 0]) - 14) <= step / 32 + 1e-4


def test_calibration_brings_chips_below_two_steps(chips):
    spec, made = chips
    for chip, found in made:
        raw = capram.linearity(chip, capram.uncalibrated(spec), jax.random.key(9), spec)
        swept = capram.linearity(chip, found, jax.random.key(9), spec)
        assert float(swept.most) < 2
        assert float(swept.rms) < 0.7
        assert float(raw.rms) > 2 * float(swept.rms)
        # Gains and offsets push some converters out of their range at both ends.
        assert 0 < float(swept.low) < 0.05
        assert 0.9 < float(swept.high) < 1
        assert float(swept.ends) > 2


def test_a_perfect_macro_is_linear_to_half_a_step_up_to_its_ends():
    spec = capram.ideal()
    chip = capram.sample_chip(jax.random.key(0), spec)
    swept = capram.linearity(chip, capram.uncalibrated(spec), jax.random.key(1), spec)
    assert float(swept.most) <= 0.5 + 1e-4
    assert float(swept.low) < 1 / spec.top  # half a step reads as nothing
    assert float(swept.high) > 1 - 1 / spec.top
    assert float(swept.ends) <= 0.5 + 1e-4
    # Capacitors that differ bend the sum where only some of them are charged.
    uneven = spec._replace(mismatch=0.1)
    chip = capram.sample_chip(jax.random.key(0), uneven)
    bent = capram.linearity(
        chip, capram.uncalibrated(uneven), jax.random.key(1), uneven
    )
    assert float(bent.most) > 1


@pytest.mark.parametrize(("scheme", "bits"), [("ternary", 1), ("binary", 3)])
def test_sums_that_converters_cut_off_have_no_gradient(scheme, bits):
    spec = capram.ideal()
    chip = capram.sample_chip(jax.random.key(1), spec)
    # Two groups of 64: the first sum is 7 * 64 of a range of a quarter, the other fits.
    x = jnp.concatenate([jnp.full((1, 64), 7.0), jnp.full((1, 64), 1.0)], 1)
    w = jnp.ones((128, 2)).at[:, 1].set(0.0)

    def total(x, w, full_scale):
        return capram.macro_matmul(
            x,
            w,
            jax.random.key(0),
            chip=chip,
            calibration=capram.uncalibrated(spec),
            spec=spec,
            bits=bits,
            scheme=scheme,
            full_scale=full_scale,
        ).sum()

    by_x, by_w = jax.grad(total, (0, 1))(x, w, 0.25)
    np.testing.assert_array_equal(by_x[0, :64], 0.0)
    np.testing.assert_allclose(by_x[0, 64:], 1.0)
    cut = 0.0 if bits == 1 else 6 / 7  # planes of 2 and 4 hold nothing that is cut
    np.testing.assert_allclose(by_w[:64, 0], 7.0 * cut, rtol=1e-6)
    np.testing.assert_allclose(by_w[64:, 0], 1.0)
    np.testing.assert_allclose(by_w[:64, 1], 7.0)
    by_x, by_w = jax.grad(total, (0, 1))(x, w, 2.0)
    np.testing.assert_allclose(by_x, w.sum(1)[None], rtol=1e-6)
    np.testing.assert_allclose(by_w, jnp.broadcast_to(x.T, w.shape), rtol=1e-6)


def test_noise_differs_between_conversions_and_chips_do_not(chips):
    spec, ((chip, found), _) = chips
    x = jnp.full((2, 64), 3.0)  # the same image twice
    w = jnp.ones((64, 40))
    y = capram.macro_matmul(
        x, w, jax.random.key(0), chip=chip, calibration=found, spec=spec
    )
    assert not np.array_equal(y[0], y[1])
    quiet = spec._replace(noise=0.0)
    y = capram.macro_matmul(
        x, w, jax.random.key(0), chip=chip, calibration=found, spec=quiet
    )
    np.testing.assert_array_equal(y[0], y[1])
    grad = jax.grad(
        lambda x: capram.macro_matmul(
            x, w, jax.random.key(0), chip=chip, calibration=found, spec=spec
        ).sum()
    )(x)
    np.testing.assert_allclose(grad, 40.0)


def test_full_scale_covers_the_sums():
    x = jnp.full((4, 64), 7.0)
    w = jnp.zeros((64, 3)).at[:16].set(1.0)
    found = capram.fit_full_scale(x, w, MacroSpec())
    assert float(found) == pytest.approx(16 / 64)


def test_conductances_hold_every_weight_and_zero_cancels():
    for cell_bits, bits in ((4, 8), (4, 5), (4, 12), (2, 8), (1, 3)):
        xbar = memristor.Crossbar(cell_bits=cell_bits)
        top = 2.0 ** (bits - 1) - 1
        w = jnp.arange(-top, top + 1)[:, None]
        g = memristor.to_conductance(w, xbar, bits)
        count = -(-(bits - 1) // cell_bits)
        assert g.shape == (2, count, len(w), 1)
        assert memristor.cells(bits, cell_bits) == 2 * count
        assert float(memristor.cells(jnp.float32(bits), cell_bits)) == 2 * count
        assert float(g.min()) >= 1 / xbar.r_off * (1 - 1e-6)
        assert float(g.max()) <= 1 / xbar.r_on * (1 + 1e-6)
        found = memristor.from_conductance(g, xbar)
        np.testing.assert_allclose(found, w, atol=1e-5 * 2**bits)
        with pytest.raises(InputError, match=f"{top + 1}"):
            memristor.to_conductance(w + 1, xbar, bits)


def test_crossbars_multiply_integers_and_noise_spreads():
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.integers(0, 16, (4, 200)), jnp.float32)
    w = jnp.asarray(rng.integers(-127, 128, (200, 6)), jnp.float32)
    key = jax.random.key(0)
    exact = np.asarray(x) @ np.asarray(w)
    found = memristor.crossbar_matmul(x, w, memristor.Crossbar(), key)
    np.testing.assert_allclose(found, exact, rtol=1e-3, atol=2.0)
    errors = []
    for noise in (0.02, 0.1):
        y = memristor.crossbar_matmul(x, w, memristor.Crossbar(noise=noise), key)
        errors.append(float(jnp.abs(y - exact).mean()))
    assert 0 < errors[0] < errors[1]
    aged = memristor.crossbar_matmul(x, w, memristor.Crossbar(drift=0.05), key, 1e4)
    np.testing.assert_allclose(aged, exact * 1e4**-0.05, rtol=2e-3, atol=2.0)


def test_converters_have_one_range_for_all_inputs():
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.integers(0, 16, (4, 200)), jnp.float32)
    w = jnp.asarray(rng.integers(-127, 128, (200, 6)), jnp.float32)
    exact, key = np.asarray(x) @ np.asarray(w), jax.random.key(0)
    scale = memristor.fit_full_scale(x, w, memristor.Crossbar(), input_bits=4)
    assert 1 / 256 < float(scale) < 0.2
    errors = []
    for bits in (6, 8, 10):
        xbar = memristor.Crossbar(adc_bits=bits)
        args = {"input_bits": 4, "full_scale": scale}
        found = memristor.crossbar_matmul(x, w, xbar, key, **args)
        errors.append(float(jnp.abs(found - exact).mean()))
        # An input is converted as it is alone, whatever else is in its batch.
        alone = memristor.crossbar_matmul(x[:1], w[:, :1], xbar, key, **args)
        np.testing.assert_allclose(alone[0, 0], found[0, 0], rtol=1e-5, atol=1e-2)
    assert 0 < errors[2] < errors[1] < errors[0] < np.abs(exact).max() / 4
    # The whole range of the converters is coarser than what the sums need.
    wide = memristor.crossbar_matmul(
        x, w, memristor.Crossbar(adc_bits=6), key, input_bits=4
    )
    assert float(jnp.abs(wide - exact).mean()) > errors[0]


def test_through_replaces_kernels_products_alone():
    def fn(p, x):
        y = jax.lax.conv_general_dilated(
            x, p["c"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        y = jax.nn.relu(y).reshape(len(x), -1)
        return (p["w"].T @ y.T).T + y @ p["w"] * 2

    rng = np.random.default_rng(0)
    p = {"c": rng.normal(size=(3, 3, 2, 4)), "w": rng.normal(size=(36, 5))}
    p = {k: jnp.asarray(v, jnp.float32) for k, v in p.items()}
    x = jnp.asarray(rng.normal(size=(2, 5, 5, 2)), jnp.float32)
    seen = []

    def product(path, a, b):
        seen.append((path, a.shape, b.shape))
        return a @ b

    found = jax.jit(behaviour.through(fn, product))(p, x)
    np.testing.assert_allclose(found, fn(p, x), rtol=2e-4, atol=2e-4)
    assert seen == [
        ("c", (18, 18), (18, 4)),
        ("w", (2, 36), (36, 5)),
        ("w", (2, 36), (36, 5)),
    ]

    def grouped(p, x):
        return jax.lax.conv_general_dilated(
            x,
            p["c"],
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=2,
        )

    with pytest.raises(GraphError, match="grouped"):
        behaviour.through(grouped, product)({"c": jnp.ones((3, 3, 1, 4))}, x)
