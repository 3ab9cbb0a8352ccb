from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from hypothesis import given
from hypothesis import strategies as st

from core import trees
from core.errors import ShapeError
from tests import strategies


def test_paths_name_the_same_parameter_in_linen_nnx_and_dicts(key):
    class Linen(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(2, name="fc1")(x)

    class Nnx(nnx.Module):
        def __init__(self, rngs):
            self.fc1 = nnx.Linear(3, 2, rngs=rngs)

    expected = ["fc1/bias", "fc1/kernel"]
    linen_params = Linen().init(key, jnp.ones((1, 3)))["params"]
    assert trees.paths(linen_params) == expected
    assert trees.paths(nnx.state(Nnx(nnx.Rngs(0)), nnx.Param)) == expected
    assert trees.paths({"fc1": {"kernel": 1.0, "bias": 2.0}}) == expected


def test_sequences_are_named_by_index():
    assert trees.paths({"layers": [1.0, (2.0, 3.0)]}) == [
        "layers/0",
        "layers/1/0",
        "layers/1/1",
    ]


@given(strategies.trees(), st.data())
def test_map_partial_touches_only_what_has_a_part(tree, data):
    chosen = jax.tree.map(
        lambda _: data.draw(st.sampled_from([None, 2.0])),
        tree,
    )
    doubled = trees.map_partial(
        lambda c, x: c * x, chosen, tree, absent=trees.keep_rest
    )
    only = trees.map_partial(lambda c, x: c * x, chosen, tree)
    parts = trees.by_path(chosen)
    assert set(trees.by_path(only)) == set(parts)
    for name, leaf in trees.by_path(tree).items():
        factor = 2.0 if name in parts else 1.0
        np.testing.assert_array_equal(trees.by_path(doubled)[name], factor * leaf)


def test_map_partial_takes_partial_trees_as_later_arguments():
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    z = {"a": jnp.full(2, 3.0), "b": None}
    out = trees.map_partial(lambda z, w, u: w + z + u, z, params, z)
    assert out["b"] is None
    np.testing.assert_array_equal(out["a"], [7.0, 7.0])


def test_map_partial_without_trees_keeps_nones():
    assert trees.map_partial(lambda x: x + 1, {"a": 1, "b": None}) == {
        "a": 2,
        "b": None,
    }


def test_map_partial_over_an_nnx_state_keeps_its_structure():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.fc1 = nnx.Linear(3, 2, rngs=rngs)

    state = nnx.state(Net(nnx.Rngs(0)), nnx.Param)
    chosen = jax.tree.map(lambda x: x.ndim == 2 or None, state)
    out = trees.map_partial(
        lambda _, w: jnp.zeros_like(w), chosen, state, absent=trees.keep_rest
    )
    assert jax.tree.structure(out) == jax.tree.structure(state)
    assert not np.any(out["fc1"]["kernel"].get_value())


def test_map_partial_names_the_remedy_when_structures_differ():
    with pytest.raises(ShapeError, match="same parameters"):
        trees.map_partial(lambda a, b: b, {"a": 1}, {"b": 1})


def test_size_and_squared_norm():
    tree = {"a": jnp.array([3.0, 4.0]), "b": None, "c": [jnp.ones((2, 2))]}
    assert trees.size(tree) == 6
    assert float(trees.squared_norm(tree)) == 29.0


def test_a_field_called_value_keeps_its_name_beside_others():
    class Attention(NamedTuple):
        query: float
        value: float

    assert trees.paths({"a": Attention(1.0, 2.0)}) == ["a/query", "a/value"]


def test_two_leaves_with_one_path_are_refused():
    with pytest.raises(ShapeError, match="'a/b'"):
        trees.by_path({"a/b": 1.0, "a": {"b": 2.0}})


def test_squares_are_summed_in_float32():
    assert float(trees.squared_norm(jnp.full(10, 300.0, jnp.float16))) == 900_000.0
    assert float(trees.squared_norm(jnp.ones(1000, jnp.bfloat16))) == 1000.0
