"""Counts against arithmetic by hand; what the table of two networks says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from core.errors import InputError, ShapeError
from gap import compact
from gap.profiles import compare, measure, profile


def conv_net(p, x):
    x = lax.conv_general_dilated(
        x, p["conv"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = lax.conv_general_dilated(
        jax.nn.relu(x),
        p["depth"],
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=5,
    )
    x = x.reshape(x.shape[0], -1)
    return x @ p["fc"].T + p["bias"][None]


def conv_params():
    shapes = {"conv": (3, 3, 2, 5), "depth": (3, 3, 1, 5), "fc": (4, 20), "bias": (4,)}
    return {k: jnp.ones(s) for k, s in shapes.items()}


def test_counts_are_those_of_the_textbook():
    x = jnp.ones((1, 8, 8, 2))
    found = profile(conv_net, conv_params(), x)
    rows = {row.path: row for row in found.rows}
    assert list(rows) == ["bias", "conv", "depth", "fc"]
    assert rows["conv"].macs == 4 * 4 * 9 * 2 * 5
    assert rows["depth"].macs == 2 * 2 * 9 * 5
    assert rows["fc"].macs == 20 * 4  # through the transposition
    assert rows["bias"].macs == 0
    assert rows["conv"][2:5] == ((3, 3, 2, 5), 90, 90)
    total = found.total
    assert total.parameters == 90 + 45 + 80 + 4
    assert total.bytes == 4 * total.parameters
    assert total.macs == 4 * 4 * 90 + 2 * 2 * 45 + 80
    more = profile(conv_net, conv_params(), jnp.ones((7, 8, 8, 2))).total
    assert more.macs == 7 * total.macs
    text = str(found)
    assert len({len(line) for line in text.splitlines()}) == 1
    assert "3x3x2x5" in text
    assert f"{total.macs:,}" in text


def test_masks_and_narrow_types_count_what_is_there():
    params = jax.tree.map(lambda w: w.astype(jnp.bfloat16), conv_params())
    masks = {"conv": np.arange(90).reshape(3, 3, 2, 5) % 9 == 0, "fc": None}
    masks |= {"depth": None, "bias": None}
    x = jax.ShapeDtypeStruct((1, 8, 8, 2), jnp.bfloat16)
    found = profile(conv_net, params, x, masks=masks)
    row = next(r for r in found.rows if r.path == "conv")
    assert (row.kept, row.effective_macs, row.macs) == (10, 160, 1440)
    assert found.total.bytes == 2 * 219
    with pytest.raises(ShapeError, match="a mask of shape"):
        profile(conv_net, params, x, masks=masks | {"fc": np.ones(3, bool)})


def test_a_shared_weight_counts_every_use_and_a_product_without_one_has_a_row():
    def fn(p, x):
        y = (x @ p["w"]) @ p["w"]
        return y @ y.T

    found = profile(fn, {"w": jnp.ones((3, 3))}, jnp.ones((2, 3)))
    assert found.rows[0].macs == 2 * (2 * 3 * 3)
    assert found.rows[1].op == "dot_general"
    assert found.rows[1].macs == found.rows[1].effective_macs == 2 * 2 * 3
    assert found.rows[1].parameters == 0
    assert "test_profile.py" in found.rows[1].path


def test_a_function_without_parameters_has_an_empty_table():
    found = profile(lambda p, x: jnp.tanh(x), {}, jnp.ones(3))
    assert found.rows == ()
    assert found.total.parameters == found.total.macs == 0


def test_a_compact_network_is_as_large_as_its_arrays():
    params = conv_params()
    mask = np.ones((3, 3, 2, 5), bool)
    mask[..., :2] = False
    masks = {"conv": mask, "depth": None, "fc": None, "bias": None}
    x = jnp.ones((1, 8, 8, 2))
    before = profile(conv_net, params, x, masks=masks)
    small = compact(conv_net, params, masks, x)
    after = profile(small.fn, small.params, x)
    size = sum(w.size for w in jax.tree.leaves(small.params))
    assert after.total.parameters == size == 54 + 27 + 48 + 4
    assert after.total.macs == 16 * 54 + 4 * 27 + 48
    assert before.total.parameters == 219
    table = compare(before, after, milliseconds={"batch 1": (4.0, 2.0)})
    lines = [line.split() for line in table.splitlines()]
    assert lines[0] == ["before", "after", "ratio"]
    assert lines[1] == ["parameters", "219", "133", f"{219 / 133:.2f}x"]
    assert lines[-1] == ["ms,", "batch", "1", "4", "2", "2.00x"]
    with pytest.raises(InputError, match="positive times"):
        compare(before, after, milliseconds={"batch 1": (4.0, 0.0)})


def test_measure_calls_and_waits():
    calls = []

    def fn(x):
        calls.append(x)
        return {"y": x + 1.0}

    found = measure(fn, jnp.ones(3), repeats=5, warmup=2)
    assert len(calls) == 7
    assert 0 < found.least <= found.median <= found.most
    with pytest.raises(InputError, match="repeats"):
        measure(fn, jnp.ones(3), repeats=0)
