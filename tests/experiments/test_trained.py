"""Training towards formats: arms, sets that move, studies, one small run of each."""

import dataclasses
import functools
import itertools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import admm
import quant
from core.errors import InputError
from experiments import data
from experiments import esb as esb_experiment
from experiments import sp2_msq as msq_experiment
from experiments.data import Split
from experiments.trained import ant, esb, msq, networks, options, protocol, sets, study
from experiments.trained.arms import FLOAT
from experiments.workdir import Run
from quant.alignment import normal_error
from quant.aware import NO_SCALES
from quant.calibration import Aligned
from tests.experiments import made_up

PATHS = networks.NETWORKS["digits"].paths
KERNEL = np.random.default_rng(0).normal(size=(12, 10)) * np.linspace(0.2, 2, 10)


def test_quantiles_have_the_moments_of_their_distribution():
    spreads = {"uniform": 1 / 3, "normal": 1.0, "Laplace": 2.0, "uniform from 0": 1 / 3}
    spreads |= {"half-normal": 1.0, "exponential": 2.0}
    for name, square in spreads.items():
        x = study.quantiles(name)
        assert (np.diff(x) > 0).all()
        assert np.square(x).mean() == pytest.approx(square, rel=2e-3)
        assert (x.min() < 0) == (name in study.SIGNED)
    median = np.median(study.quantiles("log-normal"))
    assert median == pytest.approx(1.0, rel=1e-3)


def test_errors_at_a_given_scale_are_the_integrals():
    """The recomputed table of arXiv 2012.04240, and its exact integrals."""
    x = study.quantiles("normal")
    for title, fmt in msq.schemes(4).items():
        for share in msq.TABLE:
            exact = normal_error(fmt, 1 / (share * fmt.max))
            assert study.at_share(fmt, x, share) == pytest.approx(exact, rel=3e-3), (
                title
            )


def test_sums_of_powers_cross_fixed_point_once_at_four_bits():
    x = study.quantiles("normal", 4_000)
    for bits, count in ((4, 1), (5, 0)):
        formats = msq.schemes(bits)
        pair = formats["SP2"], formats["fixed point"]
        found = study.crossings(*pair, x, 0.05, 0.4)
        assert len(found) == count
    (at,) = study.crossings(
        *(msq.schemes(4)[n] for n in ("SP2", "fixed point")), x, 0.05, 0.4
    )
    assert 0.16 < at < 0.175
    pair = [
        [study.at_share(msq.schemes(4)[n], x, share * at) for share in (0.9, 1.1)]
        for n in ("SP2", "fixed point")
    ]
    assert [a < b for a, b in zip(*pair, strict=True)] == [True, False]
    assert all(row.holds is None for row in msq.study_rows((4,)))


def test_the_map_of_types_has_the_published_sides():
    """Relative errors at 4 bits, as the specification of ANT measured them."""
    rows = list(ant.type_rows(4))
    found = {r.setting: r for r in rows if r.metric == "relative error"}
    table = {
        "half-normal": (0.0035, 0.0079, 0.037),
        "exponential": (0.0089, 0.0067, 0.037),
    }
    table["log-normal"] = (0.052, 0.0147, 0.036)
    table["uniform from 0"] = (0.0010, 0.0195, 0.025)
    for name, wanted in table.items():
        for letter, error in zip("IFP", wanted, strict=True):
            row = found[f"{name}, 4 bits, unsigned, {ant.LISTS[letter]}"]
            assert row.measured == pytest.approx(error, rel=0.2)
    signed = {"normal": (0.0131, 0.0180, None), "Laplace": (0.0269, 0.0213, None)}
    # Flint's error of 20,000 draws is from 0.038 to 0.09: their fourth moment is none.
    signed["Student t(3)"] = (0.0775, None, 0.0387)
    for name, wanted in signed.items():
        for letter, error in zip("IFP", wanted, strict=True):
            row = found[f"{name}, 4 bits, signed, {ant.LISTS[letter]}"]
            assert error is None or row.measured == pytest.approx(error, rel=0.2)
    best = {
        name: min(
            "IPF",
            key=lambda x, n=name: (
                found[f"{n}, 4 bits, signed, {ant.LISTS[x]}"].measured
            ),
        )
        for name in study.SIGNED
    }
    assert [best[name] for name in ("uniform", "normal", "Laplace")] == ["I", "I", "F"]
    integers, flint, powers = (
        found[f"Student t(3), 4 bits, signed, {ant.LISTS[letter]}"].measured
        for letter in "IFP"
    )
    assert powers < flint < 0.6 * integers
    assert all(row.holds is None for row in rows)  # no run can change them
    sides = [row for row in rows if "1)" in row.metric]
    assert len(sides) == len(study.INVERSES)
    assert all((row.measured > 1) == ("above" in row.metric) for row in sides)


def test_members_of_esb_at_a_width():
    assert [esb.best(bits).significant for bits in (2, 3, 4, 5)] == [0, 1, 1, 2]
    assert esb.member("powers", 4).significant == 0
    levels = esb.member("fixed", 4, signed=False).levels
    np.testing.assert_allclose(np.diff(levels), levels[1])
    assert esb.is_same("esb", "fixed", 2)
    assert not esb.is_same("esb", "fixed", 3)  # by its unsigned inputs
    assert not esb.is_same("fixed", "powers", 2)
    rise = esb.middle_rise(3)
    assert len(rise.levels) == 8
    assert 0 not in rise.levels


def test_all_formats_after_training_have_the_scale_of_the_aligner():
    """And those that claims compare the searched one in rows of their own."""
    for bits in (3, 4, 5, 6):
        found = esb.after_training(bits)
        plain = {n: q for n, q in found.items() if not n.endswith(esb.SEARCHED)}
        assert {q.calibration for q in plain.values()} == {Aligned()}
        searched = set(found) - set(plain)
        assert {found[n].calibration for n in searched} == {esb.SEARCH}
        assert {n.removesuffix(esb.SEARCHED) for n in searched} <= set(plain)
        compared = {n.split(",")[0] for n in searched} - {"ESB"}
        assert compared == {"fixed point", "powers of two", "SP2"}
        assert any(n.startswith("ESB") for n in searched) == (bits > 3)
    assert esb.significant(1) in esb.after_training(4)


def test_weights_have_one_gradient_in_all_arms_of_an_experiment():
    """The identity, as MSQ and ESB train; least-squares scales leave weights beyond."""
    w = jax.random.normal(jax.random.key(0), (40, 10))
    esbs = [esb.arm(("a", "b", "c"), f, 4).layers[1][1].weights for f in esb.FAMILIES]
    for quantizer in (*msq.kernels(4, (0.6,)).values(), *esbs):
        slope = jax.grad(lambda w, q=quantizer: q.fake(w).sum())(w)
        np.testing.assert_array_equal(slope, jnp.ones_like(w))


def test_constants_of_the_authors_hold():
    rows = list(esb.table_rows(range(2, 9)))
    scales = [row for row in rows if row.paper is not None]
    assert len(scales) == len(esb.PUBLISHED)
    for row in scales:
        least = row.paper
        if row.setting in ("4 bits, 0 significant", "5 bits, 1 significant"):
            least = 0.0656 if row.setting[0] == "4" else 0.0766  # theirs is another dip
        assert row.measured == pytest.approx(least, abs=1e-4)
    assert all(row.holds is None for row in rows)  # no run can change them
    gains = {r.setting: r.measured for r in rows if r.metric.endswith("point")}
    assert gains["4 bits, 1 significant"] == pytest.approx(1.6, abs=0.5)
    assert gains["5 bits, 2 significant"] == pytest.approx(12, abs=1)


def test_the_baseline_after_training_is_the_network_that_is_quantized(monkeypatch):
    """Not the float arm, which trains on, and is the others' baseline in training."""

    class Made:
        network = networks.NETWORKS["digits"]
        dataset = SimpleNamespace(source="made up")

        def __init__(self, *_):
            pass

        def stage(self, seed, name):
            return f"{seed}-{name}"

        def start_accuracy(self, seed):
            return 80.0 + 2 * seed

    config = esb_experiment.Config(table=(4,))
    names = [esb.titled(family, 4) for family in esb.FAMILIES]
    arms = {name: {"accuracy": 97.0} for name in (FLOAT.title, *names)}
    each = {name: {"accuracy": 70.0, "error": 0.1} for name in esb.after_training(4)}
    monkeypatch.setattr(protocol, "Protocol", Made)
    monkeypatch.setattr(esb, "trained", lambda *_: arms)
    monkeypatch.setattr(esb, "quantized", lambda *_: each)
    run = SimpleNamespace(seeds=(0, 1), stage=lambda name, measure: measure())
    rows = esb_experiment.run(run, config).rows
    after = [r for r in rows if "after training" in r.setting and r.unit == "%"]
    assert {row.baseline for row in after} == {81.0}
    trained = [r for r in rows if r.setting == f"DigitsNet, {names[0]}"]
    assert trained[0].baseline == 97.0
    before = [row for row in rows if row.setting == f"DigitsNet, {esb.BEFORE}"]
    assert [row.measured for row in before] == [81.0]


def choice(weights, inputs):
    """What is chosen by every layer: errors by letter, the least first."""
    errors = [{k: i + 1.0 for i, k in enumerate(part)} for part in (weights, inputs)]
    each = {"weights": errors[0], "inputs": errors[1], "signed": False}
    return dict.fromkeys(PATHS, each)


def leads(rows):
    return {row.metric: row for row in rows if row.metric.startswith("accuracy above")}


def test_lists_that_choose_alike_are_one_network_and_claim_nothing():
    found = {title: [90.0, 91.0, 92.0] for title in (FLOAT.title, *ant.LISTS.values())}
    mixed, plain = choice("IPF", "FIP"), choice("IPF", "IPF")

    def held(*chosen):
        rows = leads(ant.trained_rows("net", found, chosen, 4, True))
        assert not any("(IP)" in metric for metric in rows)  # chooses as I alone does
        first = next(iter(rows.values()))
        return first.setting, [row.holds for row in rows.values()]

    setting, judged = held(mixed, mixed, mixed)
    assert "network" not in setting
    assert judged == [True, True, True]
    setting, judged = held(plain, plain, plain)
    assert setting == f"net, {ant.LISTS['IPF']}, the same network, 3 seeds, s.e. 0"
    assert judged == [None, True, True]
    setting, judged = held(plain, plain, mixed)
    assert ", another network in 1 of 3 seeds, " in setting
    assert judged == [True, True, True]


@pytest.mark.parametrize("bits", [3, 4])
def test_kernels_that_are_alike_after_training_claim_nothing(bits):
    """Of 3 bits powers of two and flint are one set of levels."""
    each = {
        ant.LISTS[letters]: {
            "accuracy": 90.0,
            "error": 0.1,
            "kernels": dict.fromkeys("ab", letter),
        }
        for letters, letter in {"I": "I", "P": "P", "F": "F", "IPF": "P"}.items()
    }
    found = {seed: {bits: each} for seed in range(3)}
    rows = leads(ant.after_rows("net", found, True))
    by_rival = {
        letter: [row.holds for m, row in rows.items() if f"{ant.LISTS[letter]} (" in m]
        for letter in "IPF"
    }
    assert by_rival == {"I": [True], "P": [None], "F": [] if bits == 3 else [True]}


def test_scales_of_ant_learn_by_its_rule():
    """dy/dx = 1 beyond the levels too, dy/ds the level less x / s."""
    layers = ant.arm("IPF", choice("IPF", "FIP"), 4).layers
    x = jnp.array([[-30.0, -0.4], [0.7, 200.0]])
    for quantizer in (layers[0][1].weights, layers[0][1].inputs):
        scale = quantizer.fit(x).scale / 3

        def fake(x, scale, q=quantizer):
            return q.fake(x, quant.Scaling(scale, jnp.zeros_like(scale))).sum()

        by_x, by_scale = jax.grad(fake, (0, 1))(x, scale)
        np.testing.assert_array_equal(by_x, jnp.ones_like(x))
        error = quantizer.format.round(x / scale) - x / scale
        wanted = error.sum(0 if scale.shape[-1] > 1 else None).reshape(scale.shape)
        np.testing.assert_allclose(by_scale, wanted, rtol=1e-4)


def test_orders_of_rows():
    w = jnp.asarray(KERNEL, jnp.float32)

    @jax.jit
    def every(w):
        made = {name: sets.Rows(4, 0.6, by=name) for name in sets.ORDERS}
        by = {name: rows.assign(w) for name, rows in made.items()}
        near = {n: sets.Assigned(made[n], rows).project(w) for n, rows in by.items()}
        return by, near, made["reversed"].project(w), quant.RowMix(4, 0.6).fit(w).sums

    by, near, moving, first = jax.device_get(every(w))
    assert all(rows.sum() == 6 for rows in by.values())
    np.testing.assert_array_equal(by["variance"], first)
    assert by["variance"][:5].all()
    assert by["reversed"][5:].all()
    error = {name: np.square(near[name] - w).sum() for name in near}
    assert error["error"] <= error["variance"] < error["reversed"]
    np.testing.assert_array_equal(near["reversed"], moving)


def test_admm_reaches_levels_and_rows_stay_in_the_end():
    """min ||W - A||^2 towards MSQ's levels: the primal residual falls below 1e-2."""
    target = {"fc": {"kernel": jnp.asarray(KERNEL, jnp.float32)}}
    towards = (("fc/kernel", sets.Rows(4, 0.6)),)
    tx = sets.drawn_to(
        optax.sgd(0.1),
        towards,
        interval=10,
        rho=admm.geometric_rho(0.1, 1.5, 8.0),
        fixed_from=5,
    )

    @jax.jit
    def run():
        def step(carry, _):
            params, state = carry
            grads = jax.tree.map(jnp.subtract, params, target)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), state.rows[
                "fc/kernel"
            ]

        first = jax.tree.map(lambda a: -a, target)  # far off: rows may change
        return jax.lax.scan(step, (first, tx.init(first)), None, 200)

    (params, state), rows = run()
    assert admm.residuals(params, state.admm).relative < 1e-2
    rows = np.asarray(rows)
    assert (rows[60:] == rows[60]).all()
    assert (rows.sum(1) == 6).all()
    assert int(state.admm.iteration) == 19


def test_promotion_keeps_integers_of_eight_bits():
    errors = {"I": 1.0, "P": 3.0, "F": 2.0}
    heavy = {"I": 2.0, "P": 3.0, "F": 1.0}
    chosen = {p: {"weights": errors, "inputs": heavy, "signed": False} for p in PATHS}
    one = ant.arm("IPF", chosen, 4, PATHS[:1], trained=False)
    specs = dict(one.layers)
    assert specs[PATHS[0]].weights.format == quant.Uniform(8)
    assert specs[PATHS[0]].inputs.format == quant.Uniform(8, signed=False)
    assert specs[PATHS[1]].weights.format == quant.Uniform(4)
    assert specs[PATHS[1]].inputs.format == quant.Flint(4, signed=False)
    assert one.name == "b4-IPF-wide10000"
    assert ant.arm("IP", chosen, 4).layers == ant.arm("I", chosen, 4).layers
    assert ant.least({"I": 1.0, "F": 1.0}, "IF") == "I"


def test_names_of_arms_are_stages_of_their_own():
    config = msq_experiment.Config(
        formats=("fixed", "sp2", "powers"),
        shares=(0.5, 0.6, 2 / 3),
        orders=("variance", "reversed", "random", "error"),
        straight=True,
    )
    arms = msq.arms(PATHS, config, True)
    assert len({arm.name for arm in arms}) == len({arm.title for arm in arms}) == 13
    first = arms[1]
    assert all(layer.weights is None for _, layer in first.inputs_only)
    assert {layer.inputs for _, layer in arms[-1].layers} == {
        layer.inputs for _, layer in first.layers
    }
    config = dataclasses.replace(config, formats=(), straight=False)
    found = [arm.title for arm in msq.arms(PATHS, config, False)]
    assert found == [FLOAT.title, *map(msq.mixed, config.shares)]


def test_only_full_sizes_are_judged():
    full = options.build(
        esb_experiment.Config, esb_experiment.EXPERIMENT.modes["full"].overrides
    )
    judged = functools.partial(
        options.is_judged, experiment=esb_experiment.EXPERIMENT, network="digits"
    )
    assert judged(full)
    assert judged(dataclasses.replace(full, examples=0))
    for short in ({"examples": 10}, {"epochs": 1}, {"dataset": "mnist_5k"}):
        assert not judged(dataclasses.replace(full, **short))
    with pytest.raises(InputError, match="--bits"):
        esb_experiment.Config(bits=())


def test_images_are_halved_by_means():
    images = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    found = protocol.halved(Split(images, np.zeros(1, np.int32))).images
    np.testing.assert_array_equal(found[0, ..., 0], [[3, 5], [11, 13]])


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A run of MSQ on 8x8 images of two classes, with two layers; its protocol."""
    dataset = made_up.dataset()
    network = networks.Network("digits", "DigitsNet", (4,))
    config = msq_experiment.Config(
        epochs=1,
        batch_size=8,
        calibration_images=8,
        formats=(),
        study=(4,),
        admm_epochs=6,
        admm_updates=4,
        tuning_rate=1e-2,
        rho=0.1,
        rho_end=10.0,
    )
    folder = tmp_path_factory.mktemp("run")
    run = Run(folder, experiment="sp2_msq", config=config, mode="quick", seeds=(0,))
    with (
        pytest.MonkeyPatch.context() as patch,
        run,
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        patch.setattr(data, "load", lambda name, data_dir: dataset)
        patch.setitem(networks.NETWORKS, "digits", network)
        outcome = msq_experiment.EXPERIMENT.run(run, config)
        yield outcome, protocol.Protocol(run, config, "digits"), run


def test_a_run_of_msq_has_its_rows(small):
    rows = {(row.metric, row.setting): row for row in small[0].rows}
    for name in ("float", msq.mixed(0.6)):
        row = rows["accuracy", f"DigitsNet, {name}"]
        assert 0 <= row.measured <= 100
    last = rows["|W - Z| / |W| at the end of ADMM", f"DigitsNet, {msq.mixed(0.6)}"]
    lines = (small[2].dir / "metrics.jsonl").read_text().splitlines()
    left = [m["residual"] for m in map(json.loads, lines) if "residual" in m]
    assert len(left) == 6
    assert last.measured == pytest.approx(left[-1])
    assert left[-1] < 0.5 * left[0]
    for low, high in itertools.pairwise(sets.ORDERS):
        metric = f"error of rows by {high} over that by {low} (above 1)"
        row = rows[metric, "DigitsNet, 0.6 SP2"]
        assert row.measured > 0
        assert row.holds is None
    assert all(row.holds is None for row in rows.values() if row.unit == "points")


def test_after_admm_kernels_are_levels_times_scales_to_the_last_bit():
    mix = sets.Rows(4, 0.6)
    fixed = quant.Quantizer(
        quant.PowerOfTwo(4), calibration=quant.calibration.LeastSquares()
    )
    params = {name: {"kernel": jnp.asarray(KERNEL, jnp.float32)} for name in "ab"}
    towards = (("a/kernel", mix), ("b/kernel", fixed))
    sums = mix.assign(params["a"]["kernel"])
    placed, scales = protocol._put(towards, params, {"a/kernel": sums})
    rows = scales["params/a/kernel"]
    np.testing.assert_array_equal(rows.sums, sums)
    kernel = placed["a"]["kernel"]
    np.testing.assert_array_equal(kernel, mix.decode(mix.encode(kernel, rows), rows))
    for fmt, mine in zip(mix.formats, (sums, ~sums), strict=True):
        unit = np.asarray(kernel)[:, mine] / np.float32(rows.scale) * fmt.max
        gap = np.abs(unit[..., None] - fmt.levels).min(-1)
        assert gap.max() < 1e-6 * fmt.max
    levels = np.float32(fixed.format.levels)
    scale = np.asarray(scales["params/b/kernel"].scale).item()
    assert np.isin(placed["b"]["kernel"], np.float32(scale) * levels).all()


def test_formats_are_chosen_for_each_tensor_and_scales_learned(small):
    made = small[1]
    chosen = ant.choices(made, 0, 4)
    assert [*chosen] == [*made.network.paths]
    assert [each["signed"] for each in chosen.values()] == [True, False]
    each = ant.arm("IPF", chosen, 4)
    for path, layer in each.layers:
        errors = chosen[path]["weights"]
        letter = "IPF"[[*errors.values()].index(min(errors.values()))]
        assert layer.weights.format == quant.candidates(letter, 4)[0]
    result = made.run_arm(0, each)
    assert 0 <= result["accuracy"] <= 100
    after = made.run_arm(0, ant.arm("IPF", chosen, 4, trained=False))
    assert 0 <= after["accuracy"] <= 100
    accuracy = made.accuracy(made.start(0).params, made.start(0).model_state)
    assert 0 <= accuracy <= 100
    assert made.start_accuracy(0) == accuracy


def test_settled_norms_have_the_moments_of_what_evaluation_gives_them():
    """Two bits: what training averages over batches is far from it."""
    module = networks.DigitsNet(features=(3, 4), num_classes=2)
    layers = esb.arm(networks.Network("", "", (3, 4)).paths, "esb", 2).layers
    model = networks.Quantized(module, layers)
    fill = np.random.default_rng(0).normal(size=(40, 6, 6, 1)).astype(np.float32)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        variables = jax.jit(module.init)(jax.random.key(0), fill)
        inputs = {
            path: quant.Scaling(jnp.full((1,) * rank, 0.7), jnp.zeros((1,) * rank))
            for (path, _), rank in zip(layers, (4, 4, 2), strict=True)
        }
        variables["scales"] = quant.Scales({}, inputs)

        @jax.jit
        def run(variables):
            settled = model.settled(variables, fill)
            rest = {"params": variables["params"], "batch_stats": settled}
            record = quant.record(module.apply, layers, variables["scales"])
            return settled, record(rest, fill)[1]

        settled, seen = run(variables)
    for name in ("1", "2"):
        products = np.asarray(seen[f"params/conv{name}/kernel"].products)
        norm = settled[f"bn{name}"]
        np.testing.assert_allclose(norm["mean"], products.mean((0, 1, 2)), atol=1e-5)
        np.testing.assert_allclose(norm["var"], products.var((0, 1, 2)), rtol=1e-4)


def test_accuracy_after_training_is_that_of_settled_norms(small):
    """Moments that training left behind, here lost altogether, decide nothing."""
    made = small[1]
    first = made.start(0)
    collections = {**first.model_state, "scales": NO_SCALES}
    lost = jax.tree.map(lambda x: 5 + x, first.model_state)
    whole, found = (
        made._finish((), False, first._replace(model_state={**collections, **stats}))
        for stats in ({}, lost)
    )
    assert found["loss"] == whole["loss"]
    assert found["accuracy"] == whole["accuracy"]


def test_orders_hold_if_they_do_for_every_seed():
    titles = [msq.ordered(0.6, by) for by in sets.ORDERS]
    found = {title: [i + 1.0, i + 2.0] for i, title in enumerate(titles)}
    found[titles[-1]] = [10.0, 0.5]

    def held(judged):
        rows = msq.error_rows("net", found, 0.6, judged)
        return [row.holds for row in rows if "above 1" in row.metric]

    assert held(True) == [True, True, False]
    assert held(False) == [None] * 3


def test_learned_scales_stay_positive():
    tx = protocol.relative(optax.sgd(0.5))
    params = {"scale": jnp.array([1e-3, 2.0])}
    updates, _ = tx.update({"scale": jnp.array([1.0, -1.0])}, tx.init(params), params)
    np.testing.assert_allclose(
        optax.apply_updates(params, updates)["scale"], [5e-4, 3.0], rtol=1e-6
    )
