import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from hypothesis import given
from hypothesis import strategies as st

import gap
from core import trees
from core.errors import InputError, NonFiniteError, RuleError, ShapeError
from tests.gap.training_cases import valued_trees

DENSITIES = st.sampled_from([0.0, 0.07, 0.3, 0.5, 0.99, 1.0])


@given(valued_trees(), DENSITIES)
def test_each_leaf_keeps_exactly_its_count_of_the_largest(tree, density):
    masks = gap.magnitude_masks(tree, [(".*", density)])
    for name, mask in trees.by_path(masks).items():
        w = np.abs(trees.by_path(tree)[name])
        kept = int(np.floor(density * w.size + 0.5))
        assert int(mask.sum()) == kept
        if 0 < kept < w.size:
            assert w[np.asarray(mask)].min() >= w[~np.asarray(mask)].max()


@given(valued_trees(), DENSITIES)
def test_global_masks_keep_one_count_over_all_leaves(tree, density):
    masks = gap.global_magnitude_masks(tree, density)
    size = trees.size(tree)
    kept = sum(int(m.sum()) for m in jax.tree.leaves(masks))
    assert kept == int(np.floor(density * size + 0.5))
    flat = np.concatenate([np.abs(w).ravel() for w in jax.tree.leaves(tree)])
    on = np.concatenate([np.asarray(m).ravel() for m in jax.tree.leaves(masks)])
    if 0 < kept < size:
        assert flat[on].min() >= flat[~on].max()


def test_published_counts_of_lenet5_are_exact():
    shapes = {"c1": (5, 5, 1, 20), "c2": (5, 5, 20, 50), "f1": (800, 500)}
    densities = {"c1": 0.2, "c2": 0.08, "f1": 0.009, "f2": 0.07}
    shapes["f2"] = (500, 10)
    counts = {k: gap.Target(densities[k]).kept(s) for k, s in shapes.items()}
    assert counts == {"c1": 100, "c2": 2000, "f1": 3600, "f2": 350}


def test_apply_masks_writes_zeros_even_over_nan():
    out = gap.apply_masks(
        {"w": jnp.array([jnp.nan, 2.0]), "b": jnp.ones(1)},
        {"w": jnp.array([False, True]), "b": None},
    )
    np.testing.assert_array_equal(out["w"], [0.0, 2.0])
    np.testing.assert_array_equal(out["b"], [1.0])


def test_masks_under_jit_and_vmap_equal_those_outside(key):
    w = jax.random.normal(key, (3, 8, 5))
    one = lambda w: gap.magnitude_masks({"w": w}, [("w", 0.3)])["w"]  # noqa: E731
    outside = jnp.stack([one(x) for x in w])
    np.testing.assert_array_equal(jax.jit(jax.vmap(one))(w), outside)
    assert np.all(np.asarray(outside).sum((1, 2)) == 12)


def test_linen_nnx_and_dict_get_the_same_masks(key):
    class Linen(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(4, name="fc1")(x)

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.fc1 = nnx.Linear(3, 4, rngs=rngs)

    params = Linen().init(key, jnp.ones((1, 3)))["params"]
    state = nnx.state(Net(nnx.Rngs(0)), nnx.Param)
    state["fc1"]["kernel"].set_value(params["fc1"]["kernel"])
    plain = {"fc1": {"kernel": params["fc1"]["kernel"], "bias": jnp.zeros(4)}}
    masks = [
        trees.by_path(gap.magnitude_masks(p, [(".*/kernel", 0.5)]))
        for p in (params, state, plain)
    ]
    for other in masks[1:]:
        assert list(other) == ["fc1/kernel"]
        np.testing.assert_array_equal(other["fc1/kernel"], masks[0]["fc1/kernel"])


def test_summary_counts_the_weights_not_the_mask():
    rows = gap.summary(
        {"w": jnp.array([0.0, 1.0, 2.0, 0.0]), "b": jnp.ones(3)}, [("w", True)]
    )
    assert rows == [gap.LeafSummary("w", (4,), 4, 2, 0.5)]


@pytest.mark.parametrize(
    ("kw", "word"),
    [
        ({}, "one of the two"),
        ({"density": 0.1, "count": 3}, "one of the two"),
        ({"density": 1.5}, "density: got 1.5"),
        ({"density": float("nan")}, "density: got nan"),
        ({"count": -1}, "count: got -1"),
        ({"count": 2.5}, "an integer"),
        ({"density": True}, "a number"),
        ({"density": 0.5, "pattern": "2:4"}, "pattern: got '2:4'"),
        ({"density": 0.5, "pattern": gap.NM}, "pattern: got <class"),
    ],
)
def test_a_bad_target_says_what_was_expected(kw, word):
    with pytest.raises(InputError, match=word):
        gap.Target(**kw)


def test_a_count_beyond_the_leaf_and_a_spec_that_is_no_target():
    with pytest.raises(InputError, match="shape \\(2,\\)"):
        gap.magnitude_masks({"w": jnp.ones(2)}, [("w", gap.Target(count=3))])
    with pytest.raises(InputError, match="density"):
        gap.magnitude_masks({"w": jnp.ones(2)}, [("w", "half")])
    with pytest.raises(RuleError):
        gap.magnitude_masks({"w": jnp.ones(2)}, [("v", 0.5)])
    with pytest.raises(InputError, match="at least one leaf"):
        gap.global_magnitude_masks({"w": jnp.ones(2)}, 0.5, [("w", None)])
    with pytest.raises(InputError, match="True or None"):
        gap.global_magnitude_masks({"w": jnp.ones(2)}, 0.5, [("w", False)])
    with pytest.raises(NonFiniteError, match="w"):
        gap.magnitude_masks({"w": jnp.array([jnp.nan, 1.0])}, [("w", 0.5)])
    with pytest.raises(ShapeError, match="mask of shape"):
        gap.apply_masks({"w": jnp.ones(3)}, {"w": jnp.ones((4, 3), bool)})


def test_global_masks_compare_in_the_full_precision_of_the_leaves():
    with jax.enable_x64(True):
        w = jnp.array([1.0, 1.0 + 1e-12])
        mask = gap.global_magnitude_masks({"w": w}, 0.5)["w"]
    np.testing.assert_array_equal(mask, [False, True])
