"""Bits, bytes, noise and cost of quantized leaves; noise that passes through layers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.errors import RuleError
from quant.aware import Layer
from quant.calibration import MinMax
from quant.formats import SumOfPowers, Uniform
from quant.quantizers import CHANNEL, TENSOR, Quantizer
from quant.rows import RowMix
from quant.summary import layer_sqnr, sqnr, summary


@pytest.fixture
def params(key):
    keys = jax.random.split(key, 3)
    shapes = {"a": (6, 8), "b": (8, 10), "c": (10, 3)}
    return {
        name: jax.random.normal(k, shape)
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def test_rows_count_words_scales_and_zeros(params):
    affine = Quantizer(Uniform(5, signed=False), TENSOR, MinMax())
    rules = [
        ("a", Layer(Quantizer(SumOfPowers(4), CHANNEL))),
        ("b", Layer(RowMix(share=0.6))),
        ("c", Layer(affine)),
    ]
    a, b, c = summary(params, rules)
    assert (a.path, a.shape, a.bits, a.bytes) == ("a", (6, 8), 4, 24 + 8 * 4)
    assert (a.shifts, a.adds) == SumOfPowers(4).cost
    assert b.bytes == 40 + 4 + 2
    fixed = Uniform(4, symmetric=True).cost
    assert b.adds == pytest.approx(0.6 * SumOfPowers(4).cost.adds + 0.4 * fixed.adds)
    assert c.bytes == 19 + 4 + 1
    noise = params["c"] - affine.fake(params["c"])
    wanted = 10 * np.log10(np.mean(params["c"] ** 2) / np.mean(noise**2))
    assert c.sqnr == pytest.approx(wanted, rel=1e-4)
    assert summary(params, [("a", None), (".", Layer())]) == []
    with pytest.raises(RuleError, match="d"):
        summary(params, [("d", Layer())])


def test_noise_of_a_uniform_quantizer_is_a_twelfth_of_its_step(key):
    x = jax.random.uniform(key, (100_000,), minval=-1.0)
    quantizer = Quantizer(Uniform(8, symmetric=True))
    step = float(quantizer.fit(x).scale[0])
    found = sqnr(x, quantizer.fake(x))
    assert found == pytest.approx(10 * np.log10(12 * (1 / 3) / step**2), abs=0.1)
    assert sqnr(x, x) == sqnr(0 * x, 0 * x) == jnp.inf


def test_layers_bear_the_noise_of_those_before_them(params, key):
    def fn(params, x):
        x = jax.nn.relu(x @ params["a"])
        return jax.nn.relu(x @ params["b"]) @ params["c"]

    x = jax.random.normal(key, (64, 6))
    rules = [("c", None), (".", Layer(Quantizer(Uniform(4))))]
    found = layer_sqnr(fn, rules, params, x)
    assert [*found] == ["a", "b"]
    rough = {**params, "a": Quantizer(Uniform(4)).fake(params["a"])}
    np.testing.assert_allclose(found["a"], sqnr(x @ params["a"], x @ rough["a"]), 1e-4)
    hidden = jax.nn.relu(x @ params["a"])
    alone = sqnr(hidden @ params["b"], hidden @ Quantizer(Uniform(4)).fake(params["b"]))
    assert found["b"] < alone
