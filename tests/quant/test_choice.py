"""ANT: one format a tensor, never worse than a fixed one; promotion by error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.errors import InputError
from quant import CHANNEL, candidates, choose, promote, promote_until
from quant.calibration import LeastError, MaxAbs
from quant.formats import Flint, PowerOfTwo, SmallFloat, Uniform
from quant.quantizers import Quantizer

WIDE = LeastError(low=0.2, steps=60)


def draws():
    key = jax.random.key(0)
    shape = (64, 6)
    yield jax.random.normal(key, shape)
    yield jax.random.laplace(key, shape)
    yield jax.random.t(key, 3.0, shape)
    yield jax.random.uniform(key, shape, minval=-1.0)
    yield jnp.exp(2.0 * jax.random.normal(key, shape))


def test_no_single_format_has_less_error_tensor_by_tensor():
    formats = candidates("IPF", 4)
    seen = set()
    for x in draws():
        found = choose(x, formats, CHANNEL, WIDE)
        assert found.scaling.scale.shape == (1, 6)
        mine = found.quantizer.decode(
            found.quantizer.encode(x, found.scaling), found.scaling
        )
        error = float(jnp.mean((mine - x) ** 2, 0).sum())
        assert error == pytest.approx(min(found.errors.values()), rel=1e-4)
        for fmt in formats:
            alone = Quantizer(fmt, CHANNEL, WIDE)
            other = alone.fake(x, alone.fit(x))
            assert error <= float(jnp.mean((other - x) ** 2, 0).sum()) * (1 + 1e-5)
        seen.add(type(found.quantizer.format))
    assert {Uniform, Flint} <= seen


def test_lists_are_the_papers():
    assert candidates("IPF", 4) == (Uniform(4), PowerOfTwo(4), Flint(4))
    floats = candidates("E", 4, signed=False)
    assert floats == (SmallFloat(3, 1, signed=False),)
    # With 3 magnitude bits the float is the power of two.
    three = candidates("E", 4)[0].levels
    np.testing.assert_allclose(three / three.max(), PowerOfTwo(4).levels / 64)
    with pytest.raises(InputError, match="IX"):
        candidates("IX", 4)
    with pytest.raises(InputError, match="no formats"):
        choose(jnp.ones(3), ())
    with pytest.raises(InputError, match="LeastError"):
        Quantizer(Flint(4), calibration=MaxAbs()).searched(jnp.ones(3))


def test_layers_of_large_error_are_promoted():
    errors = {"a": 0.1, "b": 0.4, "c": 0.4, "d": 0.2}
    assert promote(errors, 0) == ()
    assert promote(errors, 3) == ("b", "c", "d")
    with pytest.raises(InputError, match="count"):
        promote(errors, 5)


def test_promotion_ends_at_the_accuracy_or_the_budget():
    errors = {"a": 0.1, "b": 0.4, "c": 0.4, "d": 0.2}
    seen = []

    def accuracy(paths):
        seen.append(paths)
        return 90.0 + 2 * len(paths)

    assert promote_until(errors, accuracy, 93.0) == ("b", "c")
    assert seen == [(), ("b",), ("b", "c")]
    assert promote_until(errors, accuracy, 90.0) == ()
    assert promote_until(errors, accuracy, 99.0) == ("b", "c", "d", "a")
    costs = {"a": 1, "b": 5, "c": 5, "d": 6}
    assert promote_until(errors, accuracy, 99.0, costs, 15) == ("b", "c")
    assert promote_until(errors, accuracy, 91.0, costs, 15) == ("b",)
    with pytest.raises(InputError, match="costs"):
        promote_until(errors, accuracy, 99.0, {"a": 1}, 15)
