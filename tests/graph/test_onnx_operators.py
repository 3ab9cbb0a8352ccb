"""Every operator against onnxruntime, on one example and on batches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from graph.onnx import OPERATORS, load
from tests.graph.onnx_cases import CASES
from tests.graph.onnx_chains import CHAINS
from tests.graph.onnx_layers import Case
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
