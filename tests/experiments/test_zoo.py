"""Number formats side by side: what is chosen, what it costs, one small run."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import quant
from core.errors import InputError
from experiments import data
from experiments.quant_zoo import EXPERIMENT, FORMATS, Config
from experiments.rounding import networks, protocol
from experiments.workdir import Run
from experiments.zoo import claims, formats
from quant.alignment import normal_error, normal_scale
from quant.calibration import BestScale
from tests.experiments import made_up

SEARCH = BestScale(12, 4)


def test_formats_have_the_width_that_was_asked_for():
    assert set(formats.KINDS) == set(FORMATS)
    for bits in range(2, 9):
        found = formats.of_width(FORMATS, bits)
        assert {fmt.bits for fmt in found.values()} == {bits}
        assert all(fmt.signed for fmt in found.values())
    assert [*formats.of_width(FORMATS, 1)] == ["binary"]
    narrow = formats.of_width(FORMATS, 2)
    assert [*narrow] == ["fixed", "powers", "esb0", "ternary"]
    for fmt in narrow.values():
        np.testing.assert_array_equal(fmt.levels, [-1, 0, 1])
    three = formats.of_width(FORMATS, 3)
    shapes = {name: formats.shape_of(fmt) for name, fmt in three.items()}
    assert shapes["esb1"] == shapes["fixed"]
    assert shapes["esb0"] == shapes["powers"] == shapes["flint"] == shapes["apot"]
    assert len(set(shapes.values())) == 3
    assert len(formats.of_width(FORMATS, 4)) == len(FORMATS) - 2


def test_esb_has_its_best_member_at_every_width_and_each_other_once():
    """Of 7 and 8 bits all of 0, 1 and 2 significant bits were one, by the cap."""
    for bits in range(4, 9):
        found = formats.of_width(FORMATS, bits)
        best = found["esb"]
        assert (best.significant, best.fraction_bits) == (bits - 3, bits - 3)
        others = {n: f for n, f in found.items() if n.startswith("esb") and n != "esb"}
        for name, fmt in others.items():
            assert fmt.fraction_bits == fmt.significant == int(name.removeprefix("esb"))
        errors = [normal_error(f, normal_scale(f)) for f in (best, *others.values())]
        assert errors[0] == min(errors)


def test_every_kernel_gets_the_candidate_of_least_error(key):
    normal, heavy = jax.random.split(key)
    variables = {
        "a": {"kernel": jax.random.uniform(normal, (64, 8), minval=-1.0)},
        "b": {"kernel": jax.random.t(heavy, 2.0, (64, 8)), "bias": jnp.ones(8)},
    }
    paths = ("a/kernel", "b/kernel")
    each = {
        name: formats.coded(variables, dict.fromkeys(paths, fmt), SEARCH)
        for name, fmt in formats.of_width(formats.CANDIDATES, 4).items()
    }
    best = formats.chosen([*each.values()])
    for path, name in itertools.product(paths, each):
        assert best.errors[path] <= each[name].errors[path]
    assert best.formats["a/kernel"] == each["fixed"].formats["a/kernel"]
    assert best.formats["b/kernel"] != best.formats["a/kernel"]
    np.testing.assert_array_equal(best.variables["b"]["bias"], jnp.ones(8))
    kernel = variables["b"]["kernel"]
    near = best.variables["b"]["kernel"]
    assert best.errors["b/kernel"] == pytest.approx(float(((near - kernel) ** 2).sum()))
    assert best.signals["b/kernel"] == pytest.approx(float((kernel**2).sum()), rel=1e-5)
    choice = quant.choose(
        kernel, [each[n].formats["b/kernel"] for n in each], quant.CHANNEL, SEARCH
    )
    assert choice.quantizer.format == best.formats["b/kernel"]
    np.testing.assert_array_equal(near, choice.quantizer.fake(kernel))


@pytest.fixture
def digits(monkeypatch):
    """The network of digits, smaller, and 8x8 images of two classes."""
    dataset = made_up.dataset()
    small = dataclasses.replace(
        networks.NETWORKS["digits"],
        build=functools.partial(networks.DigitsNet, features=(3, 4)),
    )
    monkeypatch.setattr(data, "load", lambda name, data_dir: dataset)
    monkeypatch.setitem(networks.NETWORKS, "digits", small)


def test_a_run_has_a_row_for_each_format_and_width(digits, tmp_path):
    config = Config(
        bits=(3, 6),
        formats=("fixed", "flint"),
        steps=5,
        epochs=2,
        layer_images=4,
    )
    run = Run(tmp_path, experiment="quant_zoo", config=config, mode="quick", seeds=(0,))
    with run, jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        outcome = EXPERIMENT.run(run, config)
    rows = {(row.metric, row.setting): row for row in outcome.rows}
    at = "DigitsNet, {} bits, {}".format
    for bits in (3, 6):
        for name in ("fixed", "flint", formats.CHOSEN):
            row = rows["accuracy", at(bits, claims.TITLES[name])]
            assert 0 <= row.measured <= 100
        noise = [
            rows["signal over noise of weights", at(bits, claims.TITLES[n])].measured
            for n in ("fixed", "flint", formats.CHOSEN)
        ]
        assert noise[2] >= max(noise[:2]) - 1e-6
        metric = "kernels with more error than in one format for all"
        setting = f"{claims.TITLES[formats.CHOSEN]} against fixed point"
        assert rows[metric, at(bits, setting)].measured == 0
    cost = rows["shifts and adds a product", at(3, "fixed point")].measured
    assert cost == sum(quant.Uniform(3).cost)
    products = "signal over noise of products, median layer"
    fine, coarse = (rows[products, at(b, "fixed point")].measured for b in (6, 3))
    assert fine > coarse
    assert math.isfinite(fine)
    assert {figure.kind for figure in outcome.figures} == {"errorbar", "bar"}


def found_at(bits, names, seeds=3):
    """Results of seeds by format: errors of two kernels, 100 images."""
    rng = np.random.default_rng(0)
    images = {name: rng.random((seeds, 100)) < 0.9 for name in names}
    return [
        {
            bits: {
                name: {
                    "errors": {"a": ord(name[0]), "b": 1.0},
                    "right": protocol.pack(images[name][seed]),
                }
                for name in names
            }
        }
        for seed in range(seeds)
    ]


def leads(results, bits):
    rows = list(claims._choice_rows("net", bits, results, True))
    return [row for row in rows if row.metric.startswith("accuracy above")]


def test_a_choice_that_is_one_format_everywhere_claims_nothing():
    """Two bits: fixed point and powers of two are the levels -1, 0 and 1."""
    results = found_at("2", ("fixed",))
    for each in results:
        each["2"]["powers"] = each["2"][formats.CHOSEN] = each["2"]["fixed"]
    (row,) = leads(results, "2")
    assert "fixed point" in row.setting
    assert row.setting.endswith(", the same network")
    assert (row.measured, row.holds) == (0, None)


def test_levels_under_two_names_are_compared_once():
    """Three bits: powers of two and flint."""
    results = found_at("3", ("fixed", "powers", formats.CHOSEN))
    for each in results:
        each["3"]["flint"] = each["3"]["powers"]
    results[0]["3"][formats.CHOSEN] = results[0]["3"]["fixed"]
    first, second = leads(results, "3")
    assert "fixed point" in first.setting
    assert first.setting.endswith("the same network in 1 of 3 seeds")
    assert "powers of two" in second.setting
    assert "same network" not in second.setting
    assert all("flint" not in row.setting for row in (first, second))


def test_bad_options_are_named():
    with pytest.raises(InputError, match="--bits"):
        Config(bits=())
