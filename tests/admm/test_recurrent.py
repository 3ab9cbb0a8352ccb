"""Cells of circulant blocks against flax's own, tables, and the two phases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import admm
from admm import activations, circulant, exploration, recurrent
from core.errors import InputError, ShapeError

CELLS = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}


@pytest.fixture(scope="module", params=sorted(CELLS))
def trained(request):
    """A layer, its parameters with every bias drawn, and sequences."""
    layer = nn.RNN(CELLS[request.param](8), name="cell")
    xs = jax.random.normal(jax.random.key(1), (3, 5, 6))
    shapes = jax.eval_shape(layer.init, jax.random.key(0), xs)["params"]["cell"]
    rng = np.random.default_rng(2)
    params = jax.tree.map(
        lambda w: jnp.asarray(rng.normal(size=w.shape), jnp.float32), shapes
    )
    return request.param, jax.jit(layer.apply), params, xs


@pytest.mark.parametrize("block", [1, 4, (2, 8)], ids=str)
def test_a_packed_cell_is_flax_with_the_projected_kernels(trained, block):
    kind, apply, params, xs = trained
    rules = recurrent.rules("cell", block)
    projected = {"cell": params}
    if rules:
        projected = admm.project(projected, rules)
    wanted = apply({"params": projected}, xs)
    cell = recurrent.pack(params, block, project=True)
    _, found = jax.jit(recurrent.run)(cell, xs)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert (cell.kind, cell.units) == (kind, 8)


def test_no_gate_but_the_one_of_a_block_reads_it(trained):
    # Four gates of 8 units in blocks of 8: each generator belongs to one gate.
    kind, _, params, _ = trained
    gates = recurrent.GATES[kind]
    cell = recurrent.pack(params, 8, project=True)
    assert cell.hidden.shape == (5, 1, len(gates))
    for i, gate in enumerate(gates):
        alone = circulant.spectra(circulant.generators(params[f"h{gate}"]["kernel"], 8))
        np.testing.assert_allclose(cell.hidden[:, :, i], alone[:, :, 0], rtol=1e-5)


def test_a_step_has_one_transform_of_its_state_and_one_back(trained):
    _, _, params, xs = trained
    cell = recurrent.pack(params, 4, project=True)
    program = jax.make_jaxpr(recurrent.run)(cell, xs).jaxpr
    scans = [eqn for eqn in program.eqns if eqn.primitive.name == "scan"]
    assert sorted(transforms(scans[0].params["jaxpr"].jaxpr)) == ["IRFFT", "RFFT"]


def test_dense_kernels_multiply_in_full_precision(trained):
    _, _, params, xs = trained
    cell = recurrent.pack(params, 1)
    program = jax.make_jaxpr(recurrent.run)(cell, xs).jaxpr
    scan = next(eqn for eqn in program.eqns if eqn.primitive.name == "scan")
    found = [
        eqn.params["precision"]
        for eqn in (*program.eqns, *scan.params["jaxpr"].jaxpr.eqns)
        if eqn.primitive.name == "dot_general"
    ]
    assert found == [(jax.lax.Precision.HIGHEST,) * 2] * 2


def transforms(program):
    """The kinds of Fourier transforms in a program, calls followed."""
    found = []
    for eqn in program.eqns:
        if eqn.primitive.name == "fft":
            found.append(jax.lax.FftType(eqn.params["fft_type"]).name)
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", None)
            found += transforms(inner) if inner is not None else []
    return found


def test_sizes_are_those_of_generators():
    found = recurrent.size("gru", 1024, 1024, 8)
    assert found.weights == 3 * 2 * 1024 * 1024 // 8
    assert found.dense == found.dense_weights == 3 * 2 * 1024 * 1024
    assert found.multiplications < found.dense / 2
    mixed = recurrent.size("lstm", 32, 64, (1, 16))
    assert mixed.weights == 4 * 64 * (32 + 64 // 16)


def test_bad_cells_are_named(trained):
    _, _, params, _ = trained
    with pytest.raises(InputError, match="GRUCell"):
        recurrent.pack({"ii": params}, 4)
    with pytest.raises(ShapeError, match="8 units in blocks of 3"):
        recurrent.pack(params, 3)
    with pytest.raises(InputError, match="lstm or gru"):
        recurrent.size("rnn", 1, 1, 1)
    with pytest.raises(InputError, match="project=True"):
        recurrent.pack(params, 4)


# ---- tables and fixed point


@pytest.mark.parametrize(
    ("fn", "curve", "reach"),
    [(np.tanh, 4 / (3 * np.sqrt(3)), 4.0), (activations.sigmoid, 0.0963, 8.0)],
)
@pytest.mark.parametrize("segments", [8, 22, 64])
def test_a_table_has_half_the_error_of_chords(fn, curve, reach, segments):
    lines = activations.table(fn, -reach, reach, segments)
    x = np.linspace(-12, 12, 4001)
    found = np.asarray(lines(jnp.asarray(x, jnp.float32)), np.float64)
    chord = curve * (2 * reach / segments) ** 2 / 16
    tail = 1 - float(fn(np.asarray(reach)))
    inside = np.abs(x) <= reach
    away = np.abs(found - fn(x))
    assert away[inside].max() <= chord + 1e-6
    assert away.max() <= chord + tail + 1e-6


def test_twenty_two_segments_are_within_one_percent():
    functions = activations.tables(22)
    x = jnp.linspace(-10, 10, 2001)
    assert float(jnp.abs(functions.sigmoid(x) - jax.nn.sigmoid(x)).max()) < 0.01
    assert float(jnp.abs(functions.tanh(x) - jnp.tanh(x)).max()) < 0.01


def test_fixed_point_is_exact_on_its_numbers_and_saturates():
    number = activations.FixedPoint(4, 1)
    x = jnp.asarray([-9.0, -4.0, -0.25, 0.25, 0.3, 0.75, 3.5, 9.0])
    np.testing.assert_array_equal(
        number(x), [-4.0, -4.0, -0.0, 0.0, 0.5, 1.0, 3.5, 3.5]
    )
    for top in (0.3, 1.0, 5.0):
        x = jnp.asarray([top, -top / 3])
        found = activations.fixed_for(x, 12)(x)
        np.testing.assert_allclose(found, x, atol=top * 2.0**-10)


def test_a_cell_in_fixed_point_nears_the_exact_one(trained):
    _, _, params, xs = trained
    cell = recurrent.pack(params, 4, project=True)
    run = jax.jit(recurrent.run, static_argnums=3)
    exact = run(cell, xs)[1]
    away = []
    for segments, bits in ((8, 6), (22, 12), (256, 18)):
        number = activations.FixedPoint(bits, bits - 5)
        near = run(cell, xs, None, activations.tables(segments, number))[1]
        away.append(float(jnp.abs(near - exact).max()))
    assert away[0] > away[1] > away[2]
    assert away[2] < 0.02


def test_states_are_rounded_before_they_are_stored(trained):
    kind, _, params, xs = trained
    cell = recurrent.pack(params, 4, project=True)
    number = activations.FixedPoint(8, 4)
    functions = activations.tables(22, number)
    last, states = jax.jit(recurrent.run, static_argnums=3)(cell, xs, None, functions)
    kept = (*last, states) if kind == "lstm" else (last, states)
    for each in kept:
        np.testing.assert_array_equal(number(each), each)


def test_half_precision_runs_in_single():
    layer = nn.RNN(nn.GRUCell(8), name="cell")
    xs = jax.random.normal(jax.random.key(1), (2, 3, 6))
    params = layer.init(jax.random.key(0), xs)["params"]["cell"]
    params = admm.project({"cell": params}, recurrent.rules("cell", 4))["cell"]
    half = jax.tree.map(lambda w: w.astype(jnp.bfloat16), params)
    cell = recurrent.pack(half, 4)
    found = recurrent.run(cell, xs.astype(jnp.bfloat16))[1]
    assert found.dtype == jnp.bfloat16
    wanted = recurrent.run(recurrent.pack(params, 4), xs)[1]
    np.testing.assert_allclose(found.astype(jnp.float32), wanted, atol=0.05)


# ---- the two phases


def test_bounds_are_where_it_fits_and_where_work_saturates():
    weights = lambda k: 1024 * 1024 // k  # noqa: E731
    work = lambda k: circulant.cost(1024, 1024, k).multiplications  # noqa: E731
    found = exploration.block_bounds(
        weights, work, memory_bits=12 * 1024 * 1024 / 3, bits=12, gain=0.4
    )
    assert found.low == 4
    assert work(2 * found.high) > 0.6 * work(found.high)
    assert work(found.high) <= 0.6 * work(found.high // 2)
    with pytest.raises(InputError, match="bits of weights"):
        exploration.block_bounds(weights, work, memory_bits=1, bits=12)


@pytest.mark.parametrize("worst", [2, 4, 8, 16, 32])
def test_few_trainings_find_what_the_whole_grid_finds(worst):
    # A loss that grows with the blocks; inputs and the GRU cost half as much.
    def loss(design):
        weight = {"lstm": 0.0, "gru": 0.05}[design.cell]
        return (
            np.log2(design.hidden)
            + 0.5 * np.log2(design.inputs / design.hidden)
            + weight
        )

    budget = np.log2(worst) + 0.6
    bounds = exploration.Bounds(2, 32)
    found = exploration.explore(loss, bounds, budget, largest=64)
    assert len(found.trials) <= 5
    grid = [exploration.Design("lstm", k, k) for k in (2, 4, 8, 16, 32)]
    best = max(d.hidden for d in grid if loss(d) <= budget)
    assert found.design is not None
    # The same block as the grid's, or the next one (arXiv 1812.07106 allows as much).
    assert best // 2 <= found.design.hidden <= best
    assert loss(found.design) <= budget
    assert found.design.cell == "gru"


@pytest.mark.parametrize("largest", [None, 8, 16])
def test_no_block_is_larger_than_is_said(largest):
    # 24 units: only blocks of up to 8 divide them.
    bounds = exploration.block_bounds(
        lambda k: 24 * 24 // k, lambda k: 1.0 / k, memory_bits=1e6, bits=12, largest=8
    )
    found = exploration.explore(lambda _: 0.0, bounds, 1.0, largest=largest)
    assert found.design == exploration.Design("gru", largest or 8, 8)
    tried = [(t.design.cell, t.design.inputs) for t in found.trials]
    wide = [("lstm", 16)] if largest == 16 else []
    assert tried == [("lstm", 8), *wide, ("gru", largest or 8)]


def test_no_design_within_the_budget_is_said():
    found = exploration.explore(lambda _: 9.0, exploration.Bounds(2, 8), 1.0)
    assert found.design is None
    assert not any(trial.fits for trial in found.trials)
    with pytest.raises(InputError, match="largest: got 4"):
        exploration.explore(lambda _: 9.0, exploration.Bounds(2, 8), 1.0, largest=4)


def test_the_fewest_bits_within_the_budget():
    best, tried = exploration.choose_width(
        lambda bits: 2.0 ** (8 - bits), (6, 8, 10, 12), 1.0
    )
    assert best == 8
    assert [w.bits for w in tried] == [12, 10, 8, 6]
