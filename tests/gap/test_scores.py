"""Scores against their definitions, and masks by them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gap
from core.errors import NonFiniteError, RuleError, ShapeError
from gap import scores


def network(key):
    a, b, c = jax.random.split(key, 3)
    params = {
        "w1": jax.random.normal(a, (4, 5)),
        "b1": jnp.full((5,), 0.1),
        "w2": jax.random.normal(b, (5, 2)),
    }
    x = jax.random.normal(c, (16, 4))

    def loss(params, x):
        h = jnp.tanh(x @ params["w1"] + params["b1"][None])
        return jnp.mean(jnp.square(h @ params["w2"] - 1.0))

    return loss, params, x


def entries(params):
    return [(k, i) for k in params for i in np.ndindex(params[k].shape)]


def test_first_order_scores_are_what_removal_costs(key):
    """d loss / d shrink of one weight, by differences in float64."""
    with jax.enable_x64(True):
        loss, params, x = network(key)
        params = jax.tree.map(lambda w: w.astype(jnp.float64), params)
        x = x.astype(jnp.float64)
        grads = jax.jit(jax.grad(loss))(params, x)
        move = scores.movement(params, grads)
        size, change = scores.snip(params, grads), scores.taylor(params, grads)
        f = jax.jit(loss)
        for name, i in entries(params):
            w = params[name][i]
            shrunk, grown = (
                {**params, name: params[name].at[i].set(w * (1 - e))}
                for e in (1e-5, -1e-5)
            )
            slope = float(f(shrunk, x) - f(grown, x)) / 2e-5
            assert float(move[name][i]) == pytest.approx(slope, rel=1e-4, abs=1e-9)
            assert float(size[name][i]) == pytest.approx(abs(slope), rel=1e-4, abs=1e-9)
            assert float(change[name][i]) == pytest.approx(
                abs(slope), rel=1e-4, abs=1e-9
            )


GROUPS = {
    "filter": (gap.Filter(), lambda w: [w[..., j] for j in range(6)]),
    "channel": (gap.Channel(), lambda w: [w[..., i, :] for i in range(5)]),
    "shape": (gap.Shape(), lambda w: list(w.reshape(-1, 6))),
    "block": (
        gap.Block(4, 4),
        lambda w: [
            w.reshape(-1, 6)[i : i + 4, j : j + 4]
            for i in range(0, 20, 4)
            for j in (0, 4)
        ],
    ),
}


@pytest.mark.parametrize("name", sorted(GROUPS))
def test_taylor_ranks_groups_by_the_square_of_their_sum(name):
    """Equation 8 of the paper, group by group; SNIP's order is another."""
    rng = np.random.default_rng(0)
    w, g = rng.normal(size=(2, 2, 2, 5, 6)).astype(np.float32)
    pattern, split = GROUPS[name]
    rules = [("w", gap.Target(count=2, pattern=pattern))]
    params, grads = {"w": jnp.asarray(w)}, {"w": jnp.asarray(g)}
    got = np.asarray(scores.taylor(params, grads, rules)["w"])
    importance = [np.sum(part) ** 2 for part in split((w * g).astype(np.float64))]
    np.testing.assert_allclose(
        [np.sum(part**2) for part in split(got)], importance, rtol=1e-4
    )
    mask = np.asarray(gap.score_masks({"w": got}, rules)["w"])
    best = set(np.argsort(importance)[-2:].tolist())
    assert {i for i, part in enumerate(split(mask)) if part.all()} == best
    squares = [np.sum(part**2) for part in split(w * g)]
    assert np.argsort(squares).tolist() != np.argsort(importance).tolist()


def test_grasp_is_the_gradient_norm_that_goes_with_a_weight(key):
    with jax.enable_x64(True):
        loss, params, x = network(key)
        params = jax.tree.map(lambda w: w.astype(jnp.float64), params)
        x = x.astype(jnp.float64)
        got = jax.jit(scores.grasp, static_argnums=0)(loss, params, x)

        @jax.jit
        def flow(params):
            grads = jax.grad(loss)(params, x)
            return sum(jnp.sum(g**2) for g in jax.tree.leaves(grads))

        for name, i in entries(params):
            w = params[name][i]
            shrunk, grown = (
                {**params, name: params[name].at[i].set(w * (1 - e))}
                for e in (1e-5, -1e-5)
            )
            change = float(flow(shrunk) - flow(grown)) / 2e-5
            # Kept weights are those without which the gradient would shrink.
            assert float(got[name][i]) == pytest.approx(-change / 2, rel=1e-4, abs=1e-8)


def test_movement_over_steps_keeps_what_leaves_zero():
    params = {"w": jnp.array([1.0, 1.0])}
    total = jax.tree.map(jnp.zeros_like, params)
    for _ in range(3):  # descent moves the first weight up and the second down
        grads = {"w": jnp.array([-1.0, 1.0])}
        total = scores.accumulate(total, scores.movement(params, grads))
    assert total["w"].tolist() == [3.0, -3.0]
    masks = gap.score_masks(total, [("w", 0.5)])
    assert masks["w"].tolist() == [True, False]
    half = scores.accumulate(total, total, decay=0.5)
    assert half["w"].tolist() == [4.5, -4.5]


def patches(x, window, stride, pad):
    """Every window of a padded image, [positions, *window, channels]."""
    x = np.pad(x, ((0, 0), *pad, (0, 0)))
    rows = range(0, x.shape[1] - window[0] + 1, stride[0])
    cols = range(0, x.shape[2] - window[1] + 1, stride[1])
    return np.concatenate(
        [x[:, r : r + window[0], c : c + window[1]] for r in rows for c in cols]
    )


@pytest.mark.parametrize("stride", [(1, 1), (2, 1)])
def test_input_norms_of_a_convolution(stride):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 6, 5, 3)).astype(np.float32)
    pad = ((1, 0), (1, 1))
    seen = patches(x, (3, 2), stride, pad)
    expected = np.sqrt((seen**2).sum(0))[..., None]
    got = scores.input_norms(jnp.asarray(x), (3, 2, 3, 4), strides=stride, padding=pad)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    depthwise = scores.input_norms(
        jnp.asarray(x), (3, 2, 1, 6), strides=stride, padding=pad, feature_group_count=3
    )
    np.testing.assert_allclose(
        depthwise[:, :, 0], np.repeat(expected[..., 0], 2, axis=-1), rtol=1e-5
    )


def test_input_norms_of_a_dense_layer():
    x = jnp.arange(12.0).reshape(2, 2, 3)
    expected = np.linalg.norm(np.arange(12.0).reshape(4, 3), axis=0)[:, None]
    np.testing.assert_allclose(scores.input_norms(x, (3, 7)), expected, rtol=1e-6)


def test_activation_aware_scores_rank_the_inputs_of_an_output():
    """The removed weight is the one whose contribution has the least norm."""
    rng = np.random.default_rng(1)
    x, w = rng.normal(size=(50, 6)) * np.arange(1, 7), rng.normal(size=(6, 3))
    norms = scores.input_norms(jnp.asarray(x, jnp.float32), w.shape)
    params = {"w": jnp.asarray(w, jnp.float32), "b": -jnp.ones(3)}
    got = scores.activation_aware(params, {"w": norms, "b": None})
    contribution = np.linalg.norm(x[:, :, None] * w[None], axis=0)
    np.testing.assert_allclose(got["w"], contribution, rtol=1e-5)
    np.testing.assert_array_equal(got["b"], np.ones(3))
    flat = scores.activation_aware(params, {"w": norms[:, 0], "b": None})
    np.testing.assert_array_equal(flat["w"], got["w"])
    masks = gap.score_masks(got, [("w", gap.Target(count=2, pattern=gap.NM(6)))])
    expected = np.argsort(np.argsort(-contribution, axis=0), axis=0) < 2
    np.testing.assert_array_equal(masks["w"], expected)


def test_norms_that_do_not_fit_are_refused():
    params = {"w": jnp.ones((6, 3))}
    with pytest.raises(ShapeError, match="GEMM"):
        scores.activation_aware(params, {"w": jnp.ones(5)})
    with pytest.raises(ShapeError):
        scores.input_norms(jnp.ones((4, 5)), (6, 3))
    with pytest.raises(ShapeError):
        scores.input_norms(jnp.ones((4, 5)), (3, 3, 5, 2))


def test_masks_by_scores_have_exact_counts_in_every_pattern(key):
    loss, params, x = network(key)
    tree = scores.snip(params, jax.jit(jax.grad(loss))(params, x))
    rules = [("w1", gap.Target(density=0.5, pattern=gap.NM(4))), ("w2", 0.3)]
    masks = gap.score_masks(tree, rules)
    assert masks["b1"] is None
    assert int(masks["w1"].sum()) == 10
    assert int(masks["w2"].sum()) == 3
    inside = jax.jit(lambda t: gap.score_masks(t, rules))(tree)
    jax.tree.map(np.testing.assert_array_equal, inside, masks)
    everywhere = gap.global_magnitude_masks(tree, 0.4, score=lambda s: s)
    assert sum(int(m.sum()) for m in jax.tree.leaves(everywhere)) == 14


def test_infinite_scores_rank_and_nan_is_refused():
    tree = {"w": jnp.array([1.0, jnp.inf, -jnp.inf, 2.0])}
    assert gap.score_masks(tree, [("w", 0.5)])["w"].tolist() == [
        False,
        True,
        False,
        True,
    ]
    with pytest.raises(NonFiniteError):
        gap.score_masks({"w": jnp.array([1.0, jnp.nan])}, [("w", 0.5)])
    with pytest.raises(RuleError):
        gap.score_masks(tree, [("v", 0.5)])


def test_scores_keep_the_dtype_of_weights(key):
    params = {"w": jax.random.normal(key, (4, 3), jnp.bfloat16)}
    grads = {"w": jnp.ones((4, 3), jnp.float32)}
    for f in (scores.snip, scores.movement, scores.taylor):
        assert f(params, grads)["w"].dtype == jnp.bfloat16


def test_the_registry_holds_every_score():
    assert set(gap.SCORES.values()) == {
        scores.magnitude,
        scores.snip,
        scores.grasp,
        scores.movement,
        scores.taylor,
        scores.activation_aware,
    }
