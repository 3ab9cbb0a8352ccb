"""Purification against small cases by hand, and outputs that removal keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st

import gap
from admm import purify
from core import trees
from core.errors import InputError, ShapeError
from gap import apply_masks
from tests.strategies import seeds

SPEC = purify.Purify(groups=("shape", "filter"), emptiness=0.9, importance=0.05)


def test_scores_of_groups_by_hand():
    w = np.asarray([[1.0, 0.0], [0.01, 2.0], [0.0, 0.0]])
    np.testing.assert_allclose(purify.emptiness(w, "shape", 0.1), [0.5, 0.5, 1.0])
    np.testing.assert_allclose(purify.importance(w, "filter"), [1.0001 / 3, 4 / 3])
    conv = np.arange(24.0).reshape(2, 1, 3, 4)
    np.testing.assert_allclose(
        purify.importance(conv, "channel"), np.square(conv).mean((0, 1, 3))
    )


def test_a_sparse_but_strong_column_stays_and_an_empty_one_goes():
    w = np.full((4, 10), 1.0)
    w[0] = 1e-3  # empty and weak
    w[1] = 1e-3
    w[1, 0] = 8.0  # empty but strong
    w[2] = 0.08  # weak, but above what is near zero
    left = purify.purified(w, SPEC)
    np.testing.assert_array_equal(left.any(1), [False, True, True, True])


@given(seeds, st.sampled_from([(12, 9), (3, 3, 4, 6)]))
def test_it_is_monotone_idempotent_and_leaves_something(seed, shape):
    rng = np.random.default_rng(seed)
    w = rng.normal(size=shape) * rng.choice([1e-3, 1.0], (*shape[:-1], 1))
    mask = rng.random(shape) < 0.7
    first = purify.purified(w, SPEC, mask)
    assert not (first & ~mask).any()
    np.testing.assert_array_equal(purify.purified(w, SPEC, first), first)
    assert first.any()


class Net(nn.Module):
    """Convolutions with norms and a skip, flattened into dense layers."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(6, (3, 3), padding=1, name="conv1")(x))
        y = nn.Conv(6, (3, 3), padding=1, name="conv2")(x)
        x = nn.relu(y + x)
        x = nn.relu(nn.Conv(8, (3, 3), padding="VALID", name="conv3")(x))
        x = x.reshape((x.shape[0], -1))
        x = nn.relu(nn.Dense(10, name="fc1")(x))
        return nn.Dense(3, name="fc2")(x)


@pytest.fixture(scope="module")
def network():
    x = jax.random.normal(jax.random.key(3), (4, 6, 6, 2))
    shapes = jax.eval_shape(Net().init, jax.random.key(0), x)["params"]
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda w: np.float32(rng.normal(size=w.shape) / 4), shapes)
    return lambda p, x: Net().apply({"params": p}, x), params, x


def test_removing_paths_keeps_the_outputs_of_the_masked_network(network):
    fn, params, x = network
    kernel = params["conv3"]["kernel"]
    masks = jax.tree.map(lambda _: None, params)
    dead = jnp.asarray([2, 5])
    masks["conv3"]["kernel"] = jnp.ones(kernel.shape, bool).at[..., dead].set(False)
    unread = jnp.ones(params["fc2"]["kernel"].shape, bool).at[4].set(False)
    masks["fc2"]["kernel"] = unread
    small = gap.compact(fn, params, masks, x)
    np.testing.assert_allclose(
        small.fn(small.params, x), fn(apply_masks(params, masks), x), atol=1e-5
    )
    reached = purify.reach(small, params)
    # A dead filter takes its strided rows of fc1 along; an unread unit its column.
    assert reached["fc1/kernel"].sum() == 16 * 6 * 9
    assert reached["conv3/kernel"].sum() == 9 * 6 * 6


def test_purification_and_removal_in_turn_reach_a_fixed_point(network):
    fn, params, x = network
    # A unit of fc1 is next to nothing: its column goes, then what reads it.
    kernel = params["fc1"]["kernel"].copy()
    kernel[:, 3] *= 1e-4
    params = {**params, "fc1": {**params["fc1"], "kernel": kernel}}
    masks = jax.tree.map(lambda _: None, params)
    rules = [("fc1/kernel", SPEC)]
    found = purify.purify_paths(fn, params, rules, masks, x)
    assert found.rounds == 2
    after = np.asarray(found.masks["fc1"]["kernel"])
    assert not after[:, 3].any()
    assert after.sum() == kernel.size - kernel.shape[0]
    small = found.network
    assert small.params["fc1"]["kernel"].shape == (128, 9)
    assert small.params["fc2"]["kernel"].shape == (9, 3)
    wanted = fn(apply_masks(params, found.masks), x)
    np.testing.assert_allclose(small.fn(small.params, x), wanted, atol=1e-5)
    again = purify.purify_paths(fn, params, rules, found.masks, x)
    assert again.rounds == 1
    assert trees.size(again.network.params) == trees.size(small.params)


def test_bad_purification_is_named():
    with pytest.raises(InputError, match="filter, channel, shape"):
        purify.Purify(groups=("row",))
    with pytest.raises(ShapeError, match="two axes"):
        purify.purified(np.ones(3), SPEC)
    fn = lambda p, x: x @ p["w"]  # noqa: E731
    params, x = {"w": jnp.ones((2, 2))}, jnp.ones((1, 2))
    with pytest.raises(InputError, match="Purify"):
        purify.purify_paths(fn, params, [("w", 0.5)], {"w": None}, x)
