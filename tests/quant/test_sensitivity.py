"""The loss with one group quantized: analytic networks, one program, allocations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core.errors import InputError, NonFiniteError
from core.trees import by_path
from quant import bitwidth
from quant.bitwidth import quantize
from quant.quantizers import CHANNEL, TENSOR
from quant.sensitivity import Sensitivity, greedy, sensitivity

PARAMS = {
    "a": {"kernel": jax.random.normal(jax.random.key(0), (6, 4)), "bias": jnp.ones(4)},
    "b": {"kernel": jax.random.normal(jax.random.key(1), (4, 3)), "bias": jnp.ones(3)},
}
RULES = [("a/kernel", CHANNEL), ("b/kernel", TENSOR)]
X = jax.random.normal(jax.random.key(2), (16, 6))


def network(params, x):
    hidden = jnp.maximum(x @ params["a"]["kernel"] + params["a"]["bias"][None], 0)
    return hidden @ params["b"]["kernel"] + params["b"]["bias"][None]


def loss(params, x, wanted):
    return jnp.square(network(params, x) - wanted).mean()


WANTED = network(PARAMS, X) + 0.1


@pytest.mark.parametrize("batch", [1, 4])
def test_one_group_at_a_time_in_one_program(batch):
    traces = []

    def counted(params, x, wanted):
        traces.append(1)
        return loss(params, x, wanted)

    widths = (1, 2, 4, 8)
    found = sensitivity(counted, PARAMS, RULES, X, WANTED, widths=widths, batch=batch)
    assert len(traces) == 1
    assert found.loss == pytest.approx(0.01, rel=1e-4)
    shapes = {path: part.shape for path, part in by_path(found.losses).items()}
    assert shapes == {"a/kernel": (4, 4), "b/kernel": (1, 4)}
    run = jax.jit(loss)
    for at, bits in enumerate(widths):
        kernel = PARAMS["a"]["kernel"]
        near = quantize(kernel, jnp.full(4, bits), CHANNEL)
        for g in range(4):
            one = PARAMS["a"] | {"kernel": kernel.at[:, g].set(near[:, g])}
            alone = float(run(PARAMS | {"a": one}, X, WANTED))
            assert found.losses["a"]["kernel"][g, at] == pytest.approx(alone, rel=1e-4)
        one = PARAMS["b"] | {
            "kernel": quantize(PARAMS["b"]["kernel"], jnp.array([bits]))
        }
        alone = float(run(PARAMS | {"b": one}, X, WANTED))
        assert found.losses["b"]["kernel"][0, at] == pytest.approx(alone, rel=1e-4)
    rises = found.rises["b"]["kernel"][0]
    assert rises[0] > rises[-1]
    assert "b/kernel  1: " in str(found)


def test_bits_go_where_they_save_most_loss():
    params = {"few": np.zeros((4, 1)), "many": np.zeros((40, 1))}
    losses = {
        "few": np.array([[9.0, 3.0, 1.0]]),
        "many": np.array([[9.0, 5.0, 4.5]]),
    }
    found = Sensitivity(0.0, losses, (1, 2, 4))

    def widths(target):
        return [int(each[0]) for each in greedy(found, params, target).values()]

    assert widths(1.0) == [1, 1]
    assert widths(48 / 44) == [2, 1]
    assert widths(56 / 44) == [4, 1]  # 0.25 of loss a bit, more than 0.1
    assert widths(95 / 44) == [4, 1]  # the other needs 40 bits
    assert widths(96 / 44) == [4, 2]
    assert widths(4.0) == [4, 4]
    with pytest.raises(InputError, match=r"target=0\.5"):
        widths(0.5)


def test_a_bump_is_passed_over_and_no_bit_is_spent_on_more_loss():
    params = {"w": np.zeros((10, 2))}
    losses = {"w": np.array([[5.0, 6.0, 1.0], [2.0, 3.0, 4.0]])}
    found = Sensitivity(0.0, losses, (1, 2, 3))
    np.testing.assert_array_equal(greedy(found, params, 3.0)["w"], [3, 1])
    # There is no room for two bits, and one alone does harm.
    np.testing.assert_array_equal(greedy(found, params, 1.5)["w"], [1, 1])


def test_measured_allocation_beats_random_ones_of_its_size(key):
    found = sensitivity(loss, PARAMS, RULES, X, WANTED - 0.1)
    mine = greedy(found, PARAMS, 3.0)
    size = bitwidth.size(PARAMS, mine)
    assert 2.9 < size.average_bits <= 3.0

    @jax.jit
    def error(widths):
        params = bitwidth.with_widths(PARAMS, widths, RULES)
        return loss(params, X, WANTED - 0.1)

    others = [
        error(bitwidth.random_widths(seed, PARAMS, RULES, 3.0))
        for seed in jax.random.split(key, 8)
    ]
    assert float(error(mine)) < np.median(others)


def test_bad_input_is_named():
    with pytest.raises(InputError, match="rising"):
        sensitivity(loss, PARAMS, RULES, X, WANTED, widths=(4, 2))
    with pytest.raises(InputError, match="widths=0"):
        sensitivity(loss, PARAMS, RULES, X, WANTED, widths=(0, 2))
    with pytest.raises(InputError, match="batch"):
        sensitivity(loss, PARAMS, RULES, X, WANTED, batch=0)
    spoilt = jax.tree.map(lambda w: w * jnp.nan, PARAMS)
    with pytest.raises(NonFiniteError, match="params"):
        sensitivity(loss, spoilt, RULES, X, WANTED)
    bad = Sensitivity(0.0, {"w": np.array([[np.nan, 1.0]])}, (1, 2))
    with pytest.raises(NonFiniteError, match="losses"):
        greedy(bad, {"w": np.zeros(4)}, 2.0)
