"""The result lies in its sets, and what does not is seen, however near."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import admm
import gap
import quant
from core.errors import InputError
from tests.admm.test_penalties import AtMost
from tests.admm.test_transform import AtLeast

QUARTER = admm.Sparse(0.25)
ROWS = admm.Sparse(count=4, pattern=gap.Shape())
COLUMNS = admm.Sparse(count=3, pattern=gap.Filter())


@pytest.fixture(scope="module")
def params():
    w = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    return {"fc": {"kernel": jnp.asarray(w), "bias": jnp.ones(16)}}


LEAVING = {
    "low_rank": (QUARTER, admm.LowRank(2)),
    "circulant": (QUARTER, admm.BlockCirculant(4)),
    "binary": (QUARTER, admm.Quantized(quant.Binary())),
    "intersection": admm.Intersection((QUARTER, admm.LowRank(2))),
    "nested": admm.Union((admm.Intersection((QUARTER, admm.LowRank(2))),)),
    "levels": (admm.Quantized(quant.Ternary()), admm.LowRank(2)),
}


@pytest.mark.parametrize("name", LEAVING)
def test_sets_that_leave_one_another_are_named(name, params):
    rules = [("fc/kernel", LEAVING[name])]
    left = "Quantized" if name == "levels" else r"Sparse\(density=0.25"
    with pytest.raises(InputError, match=rf"fc/kernel in {left}.*Put the set"):
        admm.finish(params, rules)
    # Traced values cannot be looked at; `violation` tells.
    projected = jax.jit(lambda p: admm.finish(p, rules)[0])(params)
    assert float(admm.violation(projected, rules)) > 0.01


KEEPING = {
    "pruned": (QUARTER, admm.Quantized(quant.Binary(), pruned=True)),
    "with_zero": (QUARTER, admm.Quantized(quant.Uniform(4))),
    "shorthand": (0.25, quant.Uniform(8)),
    "rows": admm.Intersection((ROWS, COLUMNS)),
    "convex": (AtLeast(0.0), AtMost(1.0)),
    "levels_first": (admm.Quantized(quant.Uniform(8)), QUARTER),
    "pruned_first": (admm.Quantized(quant.Uniform(4), pruned=True), QUARTER),
    "bcr": (admm.Sparse(0.5, pattern=gap.BCR(8, 8, split=0.5)), QUARTER),
    "union": admm.Union((QUARTER, admm.Intersection((QUARTER, admm.LowRank(2))))),
    "quantizer": (quant.Quantizer(quant.Uniform(8)), QUARTER),
}


@pytest.mark.parametrize("name", KEEPING)
def test_sets_that_keep_one_another_are_projected_on_in_turn(name, params):
    rules = [("fc/kernel", KEEPING[name])]
    projected, _ = admm.finish(params, rules)
    wanted = admm.project(params, rules)
    for found, same in zip(*map(jax.tree.leaves, (projected, wanted)), strict=True):
        np.testing.assert_array_equal(found, same)


FIXED = {
    "sparse": QUARTER,
    "patterns": admm.Sparse(0.25, pattern=gap.Filter()),
    "intersection": admm.Intersection((ROWS, COLUMNS)),
    "union": admm.Union((QUARTER, admm.Sparse(0.5, pattern=gap.Filter()))),
    "support": QUARTER,
    "levels": (0.25, quant.Binary()),
}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", FIXED)
def test_weights_that_are_hardly_pruned_are_seen(name, params, dtype):
    w = {"w": params["fc"]["kernel"].astype(dtype)}
    rules = [("w", FIXED[name])]
    if name in ("support", "levels"):
        rules = admm.at_scales(w, rules)
    now = admm.project(w, rules)["w"]
    measure = jax.jit(lambda w: admm.violation({"w": w}, rules))
    assert float(measure(now)) == 0
    small = jnp.asarray(5e-6, dtype)
    near = jnp.where(now == 0, small, now)
    assert float(measure(near)) == float(small)


@pytest.mark.parametrize("spec", [admm.BlockCirculant(4), quant.Uniform(4)], ids=str)
def test_one_rounding_is_seen_where_the_projection_has_none(spec, params):
    rules = [("w", spec)]
    if spec == quant.Uniform(4):
        rules = admm.at_scales({"w": params["fc"]["kernel"]}, rules)
    w = np.array(admm.project({"w": params["fc"]["kernel"]}, rules)["w"])
    measure = jax.jit(lambda w: admm.violation({"w": w}, rules))
    assert float(measure(w)) == 0
    i = np.unravel_index(np.argmax(np.abs(w)), w.shape)
    w[i] = np.nextafter(w[i], np.float32(0))
    assert 0 < float(measure(w)) < 1e-6
    w[i] = np.nan
    assert np.isnan(measure(w))
