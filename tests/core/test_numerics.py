import jax
import jax.numpy as jnp
import pytest

from core.errors import NonFiniteError
from core.numerics import check_finite


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_the_bad_leaf_is_named(bad):
    tree = {"a": jnp.ones(3), "b": {"c": jnp.array([1.0, bad])}, "n": jnp.arange(2)}
    with pytest.raises(NonFiniteError, match=r"params with NaN or infinity in b/c;"):
        check_finite(tree, "params")


def test_finite_trees_and_integers_pass():
    check_finite({"a": jnp.ones(3), "i": jnp.arange(4), "none": None}, "params")


def test_a_traced_tree_passes():
    def f(tree):
        check_finite(tree, "params")
        return tree["a"] + 1

    assert float(jax.jit(f)({"a": jnp.float32(jnp.inf)})) == jnp.inf
