"""Compact equals masked on random residual networks."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from gap import compact
from tests import strategies
from tests.gap.compact_cases import (
    check,
    conv,
    norm,
    norm_params,
    reference,
    weight,
)


def random_network(choices):
    """Blocks with skips, concatenation, pools and strides, as `choices` say."""
    stride, mix, pool, activation = choices
    act = {"relu": jax.nn.relu, "tanh": jnp.tanh, "silu": jax.nn.silu}[activation]

    def fn(p, x):
        x = act(norm(conv(x, p["stem"]), p["n0"]))
        y = act(norm(conv(x, p["c1"]), p["n1"]))
        x = act(norm(conv(y, p["c2"]), p["n2"]) + x)
        y = act(norm(conv(x, p["c3"], stride), p["n3"]))
        skip = conv(x, p["skip"], stride, padding="VALID") if stride > 1 else x
        x = norm(conv(y, p["c4"]), p["n4"]) + skip
        if mix:
            x = act(conv(jnp.concatenate([x, y], -1), p["mix"]))
        if pool == "max":
            x = lax.reduce_window(
                x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME"
            )
        if pool == "flat":
            return x[:, :2, :2].reshape(x.shape[0], -1) @ p["flat"] + p["out"][None]
        return x.mean((1, 2)) @ p["head"] + p["out"][None]

    return fn


def random_params(rng):
    params = {
        "stem": weight(rng, 3, 3, 2, 4),
        "c1": weight(rng, 3, 3, 4, 5),
        "c2": weight(rng, 1, 1, 5, 4),
        "c3": weight(rng, 3, 3, 4, 6),
        "c4": weight(rng, 3, 3, 6, 4),
        "skip": weight(rng, 1, 1, 4, 4),
        "mix": weight(rng, 1, 1, 10, 4),
        "flat": weight(rng, 16, 3),
        "head": weight(rng, 4, 3),
        "out": weight(rng, 3),
    }
    for i, n in enumerate((4, 5, 4, 6, 4)):
        params[f"n{i}"] = norm_params(rng, n)
    return params


networks = st.tuples(
    st.sampled_from([1, 2]),
    st.booleans(),
    st.sampled_from(["max", "mean", "flat"]),
    st.sampled_from(["relu", "tanh", "silu"]),
)


shares = st.sampled_from([0.0, 0.3, 0.6, 0.95])


def random_masks(rng, params, share):
    """Filters pruned, single weights too, and channels in all that is added up."""
    stream = rng.uniform(size=4) < share

    def mask(path, w):
        name = path[0].key
        if w.ndim < 2 or name in ("head", "flat"):
            drop = share > 0 and rng.uniform() < 0.5
            return rng.uniform(size=w.shape) > share if drop else None
        own = rng.uniform(size=w.shape[-1]) < share
        gone = stream if name in ("stem", "c2", "c4", "skip") else own
        single = rng.uniform(size=w.shape) < share / 4
        return ~(np.broadcast_to(gone, w.shape) | single)

    return jax.tree_util.tree_map_with_path(mask, params)


@settings(max_examples=12)
@given(
    networks, st.sampled_from([0.0, 0.3, 0.6, 0.95]), st.booleans(), strategies.seeds
)
def test_compact_equals_masked_on_random_residual_networks(choices, share, maps, seed):
    rng = np.random.default_rng(seed)
    params = random_params(rng)
    masks = random_masks(rng, params, share)
    fn = random_network(choices)
    x = rng.normal(size=(2, 4, 4, 2)).astype(np.float32)
    small = compact(fn, params, masks, x, maps=maps)
    for batch in (2, 1):
        x = rng.normal(size=(batch, 4, 4, 2)).astype(np.float32)
        want = reference(fn, params, masks, x)
        got = reference(small.fn, small.params, None, x)
        np.testing.assert_allclose(got, want, atol=1e-5 * max(1, np.abs(want).max()))
    gone = sum(small.removed.values())
    assert gone == 0 if share == 0 else share < 0.95 or gone > 0
    if not maps:
        assert all(sum(n > 1 for n in o.shape) <= 1 for o in small.offsets.values())


@settings(max_examples=3)
@given(networks, strategies.seeds)
def test_compiled_they_agree_to_a_few_digits_less(choices, seed):
    rng = np.random.default_rng(seed)
    params = random_params(rng)
    masks = random_masks(rng, params, 0.5)
    x = rng.normal(size=(2, 4, 4, 2)).astype(np.float32)
    check(random_network(choices), params, masks, x)
