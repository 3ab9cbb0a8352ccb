"""The contract of sparsity patterns, walked over the registry."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gap

PATTERNS = {"unstructured": gap.Unstructured()}


def test_every_registered_pattern_is_in_the_table():
    assert set(PATTERNS) == set(gap.PATTERNS)
    for name, pattern in PATTERNS.items():
        assert type(pattern) is gap.PATTERNS[name]


@pytest.fixture(params=sorted(PATTERNS))
def pattern(request):
    return PATTERNS[request.param]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_counts_are_exact_from_none_to_all(pattern, key, dtype):
    scores = jnp.abs(jax.random.normal(key, (5, 8, 4), dtype))
    units = pattern.units(scores.shape)
    per_unit = scores.size // units
    for count in (0, 1, units // 2, units):
        mask = pattern.mask(scores, count)
        assert mask.dtype == bool
        assert mask.shape == scores.shape
        assert int(mask.sum()) == count * per_unit


def test_masks_are_nested_as_the_count_grows(pattern, key):
    scores = jax.random.normal(key, (6, 7))
    masks = [np.asarray(pattern.mask(scores, c)) for c in range(0, 43, 6)]
    for small, large in pairwise(masks):
        assert np.all(large[small])


def test_a_traced_count_gives_the_same_mask_without_recompiling(pattern, key):
    scores = jax.random.normal(key, (6, 7))
    traces = []

    @jax.jit
    def f(scores, count):
        traces.append(1)
        return pattern.mask(scores, count)

    for count in (1, 5, 20):
        np.testing.assert_array_equal(
            f(scores, jnp.int32(count)), pattern.mask(scores, count)
        )
    assert len(traces) == 1


def test_patterns_are_static_under_jit(pattern, key):
    scores = jax.random.normal(key, (4, 4))
    f = jax.jit(lambda p, s: p.mask(s, 3), static_argnums=0)
    np.testing.assert_array_equal(f(pattern, scores), pattern.mask(scores, 3))


def test_ties_go_to_the_first(pattern):
    mask = pattern.mask(jnp.ones((2, 4)), 3)
    np.testing.assert_array_equal(mask, [[True, True, True, False], [False] * 4])
