"""Compact networks equal masked ones; what leaves and what stays, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from core import trees
from core.errors import GraphError, NonFiniteError, ShapeError
from gap import compact
from gap.masks import apply_masks
from tests.gap.compact_cases import (
    check,
    conv,
    filter_mask,
    mlp,
    mlp_params,
    none_but,
    norm,
    reference,
    residual,
    residual_params,
    weight,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_a_pruned_unit_leaves_and_its_constant_moves_into_the_next_bias(rng):
    params = mlp_params(rng)
    params["a"]["bias"] = np.array([1, -1, 2, -2, 1, 1, 1], np.float32)
    gone = [2, 3]
    masks = {"a": {"kernel": filter_mask(params["a"]["kernel"], gone), "bias": None}}
    masks["b"] = {"kernel": None, "bias": None}
    small = check(mlp, params, masks, np.ones((3, 5), np.float32))
    left = [0, 1, 4, 5, 6]
    for path, axis in [("a/kernel", 1), ("a/bias", 0), ("b/kernel", 0)]:
        np.testing.assert_array_equal(small.widths[path][axis], left)
    # relu(2) of unit 2 enters the next layer, relu(-2) of unit 3 is nothing.
    moved = params["b"]["bias"] + 2 * params["b"]["kernel"][2]
    np.testing.assert_allclose(small.params["b"]["bias"], moved, rtol=1e-6)
    assert not small.offsets
    assert not small.kept_because
    # So the user's own narrower function needs nothing but the parameters.
    x = rng.normal(size=(4, 5)).astype(np.float32)
    np.testing.assert_allclose(
        mlp(small.params, x), reference(mlp, params, masks, x), atol=1e-5
    )


def test_a_unit_that_nobody_reads_leaves_with_all_that_feeds_it(rng):
    params = mlp_params(rng, (4, 6, 5, 2))

    def fn(p, x):
        h = mlp(p, x)
        return jnp.tanh(h) @ p["c"]["kernel"] + p["c"]["bias"][None]

    masks = jax.tree.map(lambda w: np.ones(w.shape, bool), params)
    masks["c"]["kernel"] = filter_mask(params["c"]["kernel"], [1], axis=0)
    # Unit 4 of the first layer is read by that unit alone.
    masks["b"]["kernel"][4] = False
    masks["b"]["kernel"][4, 1] = True
    small = check(fn, params, masks, np.ones((2, 4), np.float32))
    np.testing.assert_array_equal(small.widths["b/kernel"][1], [0, 2, 3, 4])
    np.testing.assert_array_equal(small.widths["b/kernel"][0], [0, 1, 2, 3, 5])
    np.testing.assert_array_equal(small.widths["a/bias"][0], [0, 1, 2, 3, 5])


def test_outputs_and_inputs_stay_and_say_so(rng):
    params = mlp_params(rng)
    masks = jax.tree.map(lambda w: np.ones(w.shape, bool), params)
    masks["b"]["kernel"][:, 0] = False
    masks["a"]["kernel"][3] = False
    small = check(mlp, params, masks, np.ones((2, 5), np.float32))
    assert sum(small.removed.values()) == 0
    found = {(s.path, s.axis, s.indices): s.reason for s in small.kept_because}
    assert "output" in found["b/kernel", 1, (0,)]
    assert "input" in found["a/kernel", 0, (3,)]
    assert "a/kernel" in small.report()


def test_a_layer_that_is_all_zero_keeps_one_unit(rng):
    params = mlp_params(rng)
    masks = jax.tree.map(lambda w: np.ones(w.shape, bool), params)
    masks["a"]["kernel"][:] = False
    small = check(mlp, params, masks, np.ones((2, 5), np.float32))
    assert small.params["a"]["kernel"].shape == (5, 1)
    assert any("last one" in s.reason for s in small.kept_because)


def test_a_channel_of_a_sum_leaves_only_if_all_its_producers_are_pruned(rng):
    params = residual_params(rng)
    x = rng.normal(size=(2, 5, 5, 2)).astype(np.float32)
    one = none_but(params, conv2=filter_mask(params["conv2"], [1]))
    small = check(residual, params, one, x)
    assert small.params["conv2"].shape == params["conv2"].shape
    (stayed,) = (s for s in small.kept_because if s.path == "conv2")
    assert stayed.indices == (1,)
    both = none_but(
        params,
        conv2=filter_mask(params["conv2"], [1]),
        stem=filter_mask(params["stem"], [1]),
    )
    small = check(residual, params, both, x)
    for path, axis in [("stem", 3), ("conv1", 2), ("conv2", 3), ("head", 0)]:
        np.testing.assert_array_equal(small.widths[path][axis], [0, 2, 3])
    assert small.params["bn2"]["mean"].shape == (3,)


@pytest.mark.parametrize("positive", [True, False])
def test_a_constant_at_a_padded_border_becomes_a_map_or_stays(rng, positive):
    params = residual_params(rng)
    sign = 1 if positive else -1
    params["bn1"] |= {"bias": np.full(5, sign, np.float32)}
    params["bn1"] |= {"mean": np.zeros(5, np.float32)}
    masks = none_but(params, conv1=filter_mask(params["conv1"], [0, 3]))
    x = rng.normal(size=(2, 5, 5, 2)).astype(np.float32)
    small = check(residual, params, masks, x)
    np.testing.assert_array_equal(small.widths["conv1"][3], [1, 2, 4])
    assert list(small.offsets) == (["conv2"] if positive else [])
    strict = check(residual, params, masks, x, maps=False)
    assert not strict.offsets
    left = 5 if positive else 3
    assert strict.params["conv1"].shape[3] == left
    if positive:
        assert any("positions" in s.reason for s in strict.kept_because)


def test_what_is_constant_at_one_size_is_not_trusted_at_another(rng):
    params = {"a": weight(rng, 3, 3, 2, 4), "b": weight(rng, 1, 1, 4, 3)}
    mask = np.ones((3, 3, 2, 4), bool)
    mask[1, 1, :, 2] = False  # all that a map of one position sees of filter 2

    def fn(p, x):
        return conv(jax.nn.relu(conv(x, p["a"])), p["b"])

    masks = {"a": mask, "b": None}
    one = rng.normal(size=(2, 1, 1, 2)).astype(np.float32)
    small = check(fn, params, masks, one)
    assert small.params["a"].shape[-1] == 3
    assert small.fn(small.params, one[:1]).shape == (1, 1, 1, 3)
    with pytest.raises(ShapeError, match="Call compact"):
        small.fn(small.params, np.zeros((2, 2, 2, 2), np.float32))
    two = rng.normal(size=(2, 2, 2, 2)).astype(np.float32)
    assert check(fn, params, masks, two).params["a"].shape[-1] == 4


def test_one_image_without_a_batch_has_no_axis_of_any_length(rng):
    params = {"a": weight(rng, 3, 3, 2, 4), "b": weight(rng, 1, 1, 4, 3)}

    def fn(p, x):
        return conv(jax.nn.relu(conv(x[None], p["a"])), p["b"])[0]

    x = np.ones((3, 4, 2), np.float32)
    small = check(fn, params, none_but(params, a=filter_mask(params["a"], [1])), x)
    assert small.params["a"].shape[-1] == 3
    with pytest.raises(ShapeError, match="None for any length"):
        small.fn(small.params, np.ones((4, 4, 2), np.float32))


def test_a_loss_takes_any_batch_too(rng):
    params = mlp_params(rng)

    def loss(p, x, y):
        return -jnp.mean(jax.nn.log_softmax(mlp(p, x))[jnp.arange(len(y)), y])

    masks = none_but(
        params, a={"kernel": filter_mask(params["a"]["kernel"], [2]), "bias": None}
    )
    x, y = rng.normal(size=(4, 5)).astype("f"), np.array([0, 2, 1, 0], np.int32)
    small = check(loss, params, masks, x, y)
    assert small.params["a"]["kernel"].shape == (5, 6)
    want = reference(loss, params, masks, x[:3], y[:3])
    got = small.fn(small.params, x[:3], y[:3])
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_a_scale_of_zero_makes_a_channel_constant(rng):
    params = residual_params(rng)
    masks = none_but(params, bn1={"scale": np.array([True, False, True, True, False])})
    masks["bn1"] |= {"bias": None, "mean": None, "var": None}
    small = check(residual, params, masks, rng.normal(size=(2, 4, 4, 2)).astype("f"))
    np.testing.assert_array_equal(small.widths["conv1"][3], [0, 2, 3])


def test_without_padding_the_constant_goes_into_the_running_mean(rng):
    params = residual_params(rng)

    def fn(p, x):
        y = jax.nn.relu(norm(conv(x, p["conv1"]), p["bn1"]))
        y = norm(conv(y, p["conv2"], padding="VALID"), p["bn2"])
        return y.mean((1, 2)) @ p["head"]

    params["bn1"]["bias"][:] = 3
    masks = none_but(params, conv1=filter_mask(params["conv1"], [2]))
    small = check(fn, params, masks, rng.normal(size=(2, 5, 5, 4)).astype("f"))
    assert not small.offsets
    assert not np.allclose(small.params["bn2"]["mean"], params["bn2"]["mean"])


def test_the_small_network_is_jitted_differentiated_and_fed_any_batch(rng):
    params = residual_params(rng)
    masks = none_but(params, conv1=filter_mask(params["conv1"], [0, 2]))
    small = compact(residual, params, masks, jax.ShapeDtypeStruct((1, 4, 4, 2), "f"))
    count = 0

    @jax.jit
    def loss(p, x):
        nonlocal count
        count += 1
        return jnp.sum(small.fn(p, x) ** 2)

    @jax.jit
    def dense(p, x):
        return jax.value_and_grad(lambda p: jnp.sum(residual(p, x) ** 2))(p)

    masked = apply_masks(params, masks)
    slopes = jax.jit(jax.value_and_grad(loss))
    for batch in (1, 4, 4):
        x = rng.normal(size=(batch, 4, 4, 2)).astype("f")
        want, wide = dense(masked, x)
        got, narrow = slopes(small.params, x)
        np.testing.assert_allclose(got, want, rtol=1e-4)
        kept = np.asarray(wide["conv1"])[np.ix_(*small.widths["conv1"])]
        np.testing.assert_allclose(narrow["conv1"], kept, rtol=1e-3, atol=1e-5)
    assert count == 2
    x = jnp.stack([x, 2 * x])
    np.testing.assert_allclose(
        jax.vmap(small.fn, (None, 0))(small.params, x)[1],
        small.fn(small.params, x[1]),
        atol=1e-5,
    )


def test_parameters_of_other_shapes_and_bad_numbers_are_errors(rng):
    params, fn = mlp_params(rng), mlp
    masks = jax.tree.map(lambda w: np.ones(w.shape, bool), params)
    masks["a"]["kernel"][:, 2] = False
    x = np.ones((2, 5), np.float32)
    small = check(fn, params, masks, x)
    with pytest.raises(ShapeError, match="a/bias"):
        small.fn(params, x)
    with pytest.raises(ShapeError, match="a mask of shape"):
        compact(fn, params, none_but(params, a={"kernel": x, "bias": None}), x)
    params["a"]["bias"][0] = np.nan
    with pytest.raises(NonFiniteError, match="a/bias"):
        compact(fn, params, masks, x)


def test_a_network_that_ties_more_at_another_shape_is_refused(rng):
    params = mlp_params(rng)

    def fn(p, x):
        h = jax.nn.relu(x @ p["a"]["kernel"] + p["a"]["bias"][None])
        h = h if x.shape[0] < 3 else lax.top_k(h, h.shape[-1])[0]
        return h @ p["b"]["kernel"] + p["b"]["bias"][None]

    masks = jax.tree.map(lambda w: np.ones(w.shape, bool), params)
    masks["a"]["kernel"][:, 2] = False
    small = check(fn, params, masks, np.ones((2, 5), np.float32))
    with pytest.raises(GraphError, match="Call compact"):
        small.fn(small.params, np.ones((3, 5), np.float32))


def test_nnx_state_keeps_its_structure():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.fc1 = nnx.Linear(3, 6, rngs=rngs)
            self.fc2 = nnx.Linear(6, 2, rngs=rngs)

        def __call__(self, x):
            return self.fc2(nnx.relu(self.fc1(x)))

    definition, state = nnx.split(Net(nnx.Rngs(0)))

    def fn(state, x):
        return nnx.merge(definition, state)(x)

    paths = trees.by_path(state)
    masks = jax.tree.map(lambda w: np.ones(w.shape, bool), state)
    trees.by_path(masks)["fc1/kernel"][:, [1, 4]] = False
    assert "fc1/kernel" in paths
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        small = check(fn, state, masks, np.ones((2, 3), np.float32))
    assert jax.tree.structure(small.params) == jax.tree.structure(state)
    assert trees.by_path(small.params)["fc2/kernel"].shape == (4, 2)
