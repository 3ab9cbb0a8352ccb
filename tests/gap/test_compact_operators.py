"""What each operator ties: channels leave through it whole and exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from tests.gap.compact_cases import (
    check,
    conv,
    filter_mask,
    mlp_params,
    none_but,
    weight,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("multiple", [1, 2])
def test_depthwise_channels_leave_with_their_filters(rng, multiple):
    params = {
        "expand": weight(rng, 1, 1, 3, 6),
        "depth": weight(rng, 3, 3, 1, 6 * multiple),
        "project": weight(rng, 1, 1, 6 * multiple, 2),
    }

    def fn(p, x):
        x = jax.nn.relu6(conv(x, p["expand"]))
        x = jax.nn.relu6(conv(x, p["depth"], 2, groups=6))
        return conv(x, p["project"])

    masks = none_but(params, expand=filter_mask(params["expand"], [0, 5]))
    small = check(fn, params, masks, rng.normal(size=(2, 6, 6, 3)).astype("f"))
    assert small.params["depth"].shape == (3, 3, 1, 4 * multiple)
    assert small.params["project"].shape == (1, 1, 4 * multiple, 2)


def test_groups_leave_whole_or_not_at_all(rng):
    params = {
        "in": weight(rng, 1, 1, 3, 6),
        "groups": weight(rng, 3, 3, 2, 9),
        "out": weight(rng, 1, 1, 9, 2),
    }

    def fn(p, x):
        return conv(conv(conv(x, p["in"]), p["groups"], groups=3), p["out"])

    x = rng.normal(size=(2, 4, 4, 3)).astype("f")
    part = none_but(params, **{"in": filter_mask(params["in"], [2])})
    assert sum(check(fn, params, part, x).removed.values()) == 0
    whole = none_but(
        params,
        **{"in": filter_mask(params["in"], [2, 3])},
        out=filter_mask(params["out"], [3, 4, 5], axis=2),
    )
    small = check(fn, params, whole, x)
    assert small.params["in"].shape[-1] == 4
    assert small.params["groups"].shape == (3, 3, 2, 6)
    assert small.params["out"].shape[2] == 6


def test_flattened_maps_lose_the_rows_of_a_channel(rng):
    params = {"conv": weight(rng, 3, 3, 2, 4), "fc": weight(rng, 2 * 3 * 4, 5)}

    def fn(p, x):
        x = conv(x, p["conv"], padding="VALID")
        return x.reshape(x.shape[0], -1) @ p["fc"]

    masks = none_but(params, conv=filter_mask(params["conv"], [1]))
    x = rng.normal(size=(2, 4, 5, 2)).astype("f")
    small = check(fn, params, masks, x)
    rows = np.arange(24).reshape(2, 3, 4)[..., [0, 2, 3]].ravel()
    np.testing.assert_array_equal(small.widths["fc"][0], rows)

    def channels_first(p, x):
        x = conv(x, p["conv"], padding="VALID").transpose(0, 3, 1, 2)
        return x.reshape(x.shape[0], -1) @ p["fc"]

    small = check(channels_first, params, masks, x)
    rows = np.arange(24).reshape(4, 2, 3)[[0, 2, 3]].ravel()
    np.testing.assert_array_equal(small.widths["fc"][0], rows)


def test_concatenated_padded_split_and_sliced_channels(rng):
    params = {
        "a": weight(rng, 1, 1, 3, 4),
        "b": weight(rng, 1, 1, 3, 5),
        "c": weight(rng, 1, 1, 11, 2),
        "d": weight(rng, 1, 1, 4, 2),
    }

    def fn(p, x):
        a, b = conv(x, p["a"]), jax.nn.relu(conv(x, p["b"]))
        wide = jnp.pad(jnp.concatenate([a, b], -1), ((0, 0),) * 3 + ((1, 1),))
        left, _ = jnp.split(wide[..., ::-1], [4], axis=-1)
        return conv(wide, p["c"]) + conv(left, p["d"])

    masks = none_but(
        params,
        a=filter_mask(params["a"], [0]),
        b=filter_mask(params["b"], [1, 4]),
    )
    small = check(fn, params, masks, rng.normal(size=(2, 3, 3, 3)).astype("f"))
    assert small.params["a"].shape[-1] == 3
    assert small.params["b"].shape[-1] == 3
    np.testing.assert_array_equal(small.widths["a"][3], [1, 2, 3])


def test_what_is_not_understood_keeps_what_it_touches(rng):
    params = mlp_params(rng)

    def fn(p, x):
        h = jax.nn.relu(x @ p["a"]["kernel"] + p["a"]["bias"][None])
        h = lax.top_k(h, h.shape[-1])[0]  # moves units about
        return h @ p["b"]["kernel"] + p["b"]["bias"][None]

    masks = jax.tree.map(lambda w: np.ones(w.shape, bool), params)
    masks["a"]["kernel"][:, 2] = False
    small = check(fn, params, masks, rng.normal(size=(2, 5)).astype("f"))
    assert sum(small.removed.values()) == 0
    assert any("top_k" in s.reason for s in small.kept_because)


def test_products_of_parameters_are_not_baked_into_numbers(rng):
    params = {"u": weight(rng, 5, 2), "v": weight(rng, 2, 6), "w": weight(rng, 6, 3)}

    def fn(p, x):
        return jnp.tanh(x @ (p["u"] @ p["v"])) @ p["w"]

    masks = none_but(params, v=filter_mask(params["v"], [3]))
    small = check(fn, params, masks, rng.normal(size=(2, 5)).astype("f"))
    assert small.params["u"].shape == (5, 2)
    assert small.params["v"].shape == (2, 5)
    assert not small.offsets


def test_heads_of_attention_leave_whole(rng):
    d, heads, n = 8, 4, 3
    params = {k: weight(rng, d, d) for k in ("q", "k", "v", "o")}

    def fn(p, x):
        split = lambda y: y.reshape(*y.shape[:2], heads, d // heads)  # noqa: E731
        q, k, v = (split(x @ p[name]) for name in "qkv")
        scores = jnp.einsum("bqhc,bkhc->bhqk", q, k)
        y = jnp.einsum("bhqk,bkhc->bqhc", jax.nn.softmax(scores), v)
        return y.reshape(*x.shape) @ p["o"]

    masks = none_but(params, o=filter_mask(params["o"], [2, 3], axis=0))
    small = check(fn, params, masks, rng.normal(size=(2, n, d)).astype("f"))
    assert [small.params[k].shape for k in "qkvo"] == [(8, 6)] * 3 + [(6, 8)]
