"""Every operator against onnxruntime, on one example and on batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from graph.onnx import OPERATORS, load
from graph.onnx.operators.resizing import _nearest as nearest
from tests.graph.onnx_cases import CASES
from tests.graph.onnx_chains import CHAINS
from tests.graph.onnx_layers import Case, c, x
from tests.graph.onnx_models import reference, save

pytestmark = pytest.mark.oracle
_IDS = [f"{case.op}-{i}" for i, case in enumerate(CASES)]


def outputs(found) -> list[np.ndarray]:
    return [np.asarray(y) for y in (found if isinstance(found, tuple) else (found,))]


def agree(found, wanted, tolerance=1e-5):
    for ours, theirs in zip(outputs(found), wanted, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype.kind == theirs.dtype.kind
        scale = max(float(np.max(np.abs(theirs), initial=0.0)), 1e-6)
        np.testing.assert_allclose(ours / scale, theirs / scale, atol=tolerance)


def samples(case: Case, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [each.sample(rng) for each in case.inputs]


@pytest.mark.parametrize("case", CASES, ids=_IDS)
def test_agrees_with_onnxruntime(case, tmp_path):
    proto = case.proto()
    fn, params = load(save(proto, tmp_path / "m.onnx"))
    xs = samples(case)
    agree(jax.jit(fn)(params, *xs), reference(proto, *xs))


@pytest.mark.parametrize(
    "case",
    [c for c in CASES if c.inputs and all(i.shape[:1] == (1,) for i in c.inputs)],
    ids=lambda c: c.op,
)
def test_a_batch_is_its_examples_side_by_side(case, tmp_path):
    """Whatever the operator does to the first axis, exported for a batch of 1."""
    fn, params = load(save(case.proto(), tmp_path / "m.onnx"))
    examples = [samples(case, seed) for seed in range(3)]
    batch = [np.concatenate(xs) for xs in zip(*examples, strict=True)]
    fn = jax.jit(fn)
    alone = [outputs(fn(params, *xs)) for xs in examples]
    if alone[0][0].ndim == 0 or case.op in ("Shape", "Size"):
        return
    wanted = [np.concatenate(ys) for ys in zip(*alone, strict=True)]
    agree(fn(params, *batch), wanted, 3e-6)


PLACES = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def positions(n):
    return np.arange(n, dtype=np.float32).reshape(1, 1, 1, n)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("place", PLACES)
def test_the_nearest_elements_are_those_of_onnxruntime(place, rounding):
    for n, size in ((2, 42), (3, 10), (10, 3), (18, 21), (7, 4), (42, 3)):
        sizes = np.asarray([1, 1, 1, size])
        how = {"coordinate_transformation_mode": place, "nearest_mode": rounding}
        case = c("Resize", x(1, 1, 1, n), None, None, sizes, **how)
        (wanted,) = reference(case.proto(), positions(n))
        found = nearest(n, size, size / n, place, rounding)
        np.testing.assert_array_equal(found, wanted.ravel(), err_msg=f"{n} to {size}")


@pytest.mark.parametrize("n", [2, 3, 5, 7, 10])
def test_before_opset_11_shrinking_takes_the_next_element(n):
    for scale in np.float32([0.3, 0.5, 0.6, 0.7, 0.9, 1.7, 2.0, 2.3]):
        scales = np.float32([1, 1, 1, scale])
        case = c("Resize", x(1, 1, 1, n), scales, mode="nearest", opset=10)
        (wanted,) = reference(case.proto(), positions(n))
        found = nearest(n, wanted.size, float(scale), "asymmetric", "simple")
        np.testing.assert_array_equal(found, wanted.ravel(), err_msg=f"{n} x {scale}")


def test_every_operator_has_a_case():
    used = {case.op for case in CASES}
    used |= {node.op_type for proto, _ in CHAINS.values() for node in proto.graph.node}
    assert set(OPERATORS) == used


@pytest.mark.parametrize("name", CHAINS)
def test_chains_agree_with_onnxruntime(name, tmp_path):
    proto, shapes = CHAINS[name]
    fn, params = load(save(proto, tmp_path / "m.onnx"))
    for shape in shapes:
        x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
        agree(fn(params, x), reference(proto, x))
        agree(jax.jit(fn)(params, jnp.asarray(x)), reference(proto, x))
