"""The provided networks against onnxruntime; names, layouts, traces, batches."""

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import graph
from core.errors import ShapeError
from graph.onnx import describe, load
from tests.graph.onnx_models import model, reference, save

_RNG = np.random.default_rng(3)


def node(op, inputs, outputs, name="", **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), name, **attributes)


def w(*shape):
    return _RNG.normal(size=shape).astype(np.float32)


def normal(*shape):
    return _RNG.normal(size=shape).astype(np.float32)


def files(data_root):
    found = sorted((data_root / "verify").rglob("*.onnx*"))
    if not found:
        pytest.skip(f"no networks under {data_root}/verify")
    return found


def relative(found, wanted):
    return np.max(np.abs(found - wanted)) / max(np.max(np.abs(wanted)), 1e-6)


@pytest.mark.data
@pytest.mark.oracle
def test_every_provided_network_agrees_with_onnxruntime(data_root):
    for path in files(data_root):
        fn, params = load(path)
        info = describe(path)
        proto = onnx.load(str(path))
        shape = info.inputs[0].concrete()
        assert shape is not None
        assert info.outputs[0].concrete() == np.shape(
            jax.eval_shape(fn, params, jnp.zeros(shape))
        )
        xs = [np.random.default_rng(i).random(shape, np.float32) for i in range(3)]
        wanted = [reference(proto, x)[0] for x in xs]
        single = jax.jit(fn)
        for x, y in zip(xs, wanted, strict=True):
            assert relative(single(params, x), y) < 1e-5, path.name
        batch = jax.jit(fn)(params, np.concatenate(xs))
        assert relative(batch, np.concatenate(wanted)) < 1e-5, path.name


@pytest.mark.data
def test_provided_networks_trace_to_plain_operators_at_any_batch(data_root):
    plain = "reshape dot_general add sub mul pad relu conv_general_dilated"
    plain += " reduce_window_max reduce_window_sum broadcast_in_dim"
    for path in files(data_root):
        fn, params = load(path)
        shape = describe(path).inputs[0].concrete()
        for batch in (1, 4):
            x = jnp.zeros((batch * shape[0], *shape[1:]))
            ops = {n.op for n in graph.trace(fn, params, x).nodes}
            assert ops <= set(plain.split()), path.name


def lenet(batch):
    rng = np.random.default_rng(5)

    def w(*shape):
        return rng.normal(size=shape).astype(np.float32)

    nodes = [
        node("Conv", "x features.0.weight features.0.bias", "a", "/features/0/Conv"),
        node("Relu", "a", "b"),
        node("MaxPool", "b", "c", kernel_shape=[2, 2], strides=[2, 2]),
        node("Reshape", "c flat", "d"),
        node("MatMul", "d onnx::MatMul_7", "e", "/fc/MatMul"),
        node("Add", "fc.bias e", "y", "/fc/Add"),
    ]
    weights = {
        "features.0.weight": w(3, 2, 3, 2),
        "features.0.bias": w(3),
        "flat": np.asarray([1, 18]),
        "onnx::MatMul_7": w(18, 5),
        "fc.bias": w(5),
    }
    return model(nodes, {"x": [batch, 2, 6, 7]}, ["y"], weights)


def test_parameters_are_named_after_their_layers_in_flax_s_layout(tmp_path):
    _, params = load(save(lenet(1), tmp_path / "m.onnx"))
    shapes = jax.tree.map(jnp.shape, params)
    assert shapes == {
        "features.0": {"kernel": (3, 2, 2, 3), "bias": (3,)},
        "fc.MatMul": {"kernel": (18, 5)},
        "fc": {"bias": (5,)},
    }
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


def test_a_convolution_is_flax_s(tmp_path):
    nodes = [node("Conv", "x c.weight", "y", pads=[1, 0, 1, 0], group=2)]
    proto = model(nodes, {"x": [1, 4, 6, 7]}, ["y"], {"c.weight": w(6, 2, 3, 2)})
    fn, params = load(save(proto, tmp_path / "m.onnx"))
    x = normal(1, 4, 6, 7)
    wanted = jax.lax.conv_general_dilated(
        x.transpose(0, 2, 3, 1),
        params["c"]["kernel"],
        (1, 1),
        ((1, 1), (0, 0)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=2,
    )
    found = fn(params, x).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_shared_initializer_is_one_leaf_and_names_stay_apart(tmp_path):
    nodes = [
        node("Gemm", "x fc.weight b1", "a", "one", transB=1),
        node("Gemm", "a fc.weight b2", "b", "two", transB=1),
        node("Gemm", "b fc.weight", "c", "three"),
        node("Gemm", "c other", "y", ""),
    ]
    weights = {"fc.weight": w(3, 3), "b1": w(3), "b2": w(3), "other": w(3, 2)}
    proto = model(nodes, {"x": [1, 3]}, ["y"], weights)
    fn, params = load(save(proto, tmp_path / "m.onnx"))
    assert {layer: set(leaves) for layer, leaves in params.items()} == {
        "fc": {"kernel", "bias"},
        "fc_2": {"bias"},
        "fc_3": {"kernel"},
        "Gemm_3": {"kernel"},
    }
    x = normal(1, 3)
    assert relative(fn(params, x), reference(proto, x)[0]) < 1e-5


def test_the_function_depends_on_its_parameters_alone(tmp_path):
    fn, params = load(save(lenet(1), tmp_path / "m.onnx"))
    zeros = jax.tree.map(jnp.zeros_like, params)
    np.testing.assert_array_equal(fn(zeros, normal(1, 2, 6, 7)), np.zeros((1, 5)))
    plain = jax.tree.map(np.asarray, params)
    x = normal(2, 2, 6, 7)
    np.testing.assert_array_equal(fn(plain, x), fn(params, x))
    gradient = jax.grad(lambda p: jnp.sum(fn(p, jnp.asarray(x))))(params)
    assert all(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(gradient))


def test_float64_in_float64_out(tmp_path):
    path = save(lenet(1), tmp_path / "m.onnx")
    _, params32 = load(path)
    with jax.enable_x64(True):
        fn, params = load(path, dtype=jnp.float64)
        x = np.random.default_rng(0).normal(size=(3, 2, 6, 7))
        y = fn(params, x)
        assert y.dtype == jnp.float64
        assert fn(params32, x).dtype == jnp.float64
        np.testing.assert_allclose(y, fn(params32, x), rtol=1e-12)
    assert fn(params32, x.astype(np.float32)).dtype == jnp.float32


@pytest.mark.parametrize("stated", [1, "N"])
def test_a_reshape_written_for_one_example_serves_any_batch(stated, tmp_path):
    fn, params = load(save(lenet(stated), tmp_path / "m.onnx"))
    xs = normal(5, 2, 6, 7)
    wanted = np.concatenate([reference(lenet(1), x[None])[0] for x in xs])
    assert relative(fn(params, xs), wanted) < 1e-5
    # It is the batch that is reshaped, not each example of a mapped function.
    ops = [n.op for n in graph.trace(fn, params, jnp.asarray(xs)).nodes]
    assert ops.count("reshape") <= 4
    assert "transpose" not in ops


def test_a_free_first_axis_that_is_no_batch_means_what_onnx_says(tmp_path):
    """Time first, and a batch axis put in front: nothing to generalise."""
    nodes = [node("Reshape", "x s", "a"), node("Softmax", "a", "y", axis=1)]
    weights = {"s": np.asarray([1, -1, 4])}
    proto = model(nodes, {"x": ["T", 4]}, ["y"], weights)
    fn, params = load(save(proto, tmp_path / "m.onnx"))
    x = normal(3, 4)
    assert relative(fn(params, x), reference(proto, x)[0]) < 1e-5


def test_a_model_that_mixes_rows_is_mapped_over_examples(tmp_path):
    """With a first axis of 1, a softmax over it is 1 in each example."""
    nodes = [
        node("Softmax", "x", "a", axis=0),
        node("Reshape", "a s", "b"),
        node("Shape", "x", "n"),
        node("Cast", "n", "f", to=1),
        node("ReduceSum", "f", "t"),
        node("Mul", "b t", "y"),
    ]
    proto = model(nodes, {"x": [1, 4]}, ["y"], {"s": np.asarray([4, 1])})
    fn, params = load(save(proto, tmp_path / "m.onnx"))
    xs = normal(4, 4)
    wanted = np.concatenate([reference(proto, x[None])[0] for x in xs])
    np.testing.assert_allclose(fn(params, xs), wanted, rtol=1e-6)


def test_a_batch_as_long_as_another_axis_is_not_confused(tmp_path):
    """[B, 4] turned to [4, B] with B = 4, then reshaped to one row."""
    nodes = [
        node("Transpose", "x", "a", perm=[1, 0]),
        node("Reshape", "a s", "b"),
        node("MatMul", "b w", "y"),
    ]
    proto = model(nodes, {"x": [1, 4]}, ["y"], {"s": np.asarray([1, 4]), "w": w(4, 4)})
    fn, params = load(save(proto, tmp_path / "m.onnx"))
    xs = normal(4, 4)
    wanted = np.concatenate([reference(proto, x[None])[0] for x in xs])
    assert relative(fn(params, xs), wanted) < 1e-5


def test_several_inputs_share_a_batch(tmp_path):
    nodes = [node("Concat", "a b", "c", axis=1), node("Mul", "c c", "y")]
    proto = model(nodes, {"a": [1, 2], "b": [1, 3]}, ["y", "c"], {})
    fn, params = load(save(proto, tmp_path / "m.onnx"))
    assert params == {}
    a, b = normal(4, 2), normal(4, 3)
    y, c = fn(params, a, b)
    np.testing.assert_array_equal(c, np.concatenate([a, b], 1))
    np.testing.assert_array_equal(y, c * c)
    y, c = fn(params, a, b[:1])  # one b for all
    np.testing.assert_array_equal(c, np.concatenate([a, b[[0] * 4]], 1))
    with pytest.raises(ShapeError, match="one batch size"):
        fn(params, a, b[:2])


def test_a_batch_of_two_is_stated_and_kept(tmp_path):
    proto = model([node("Relu", "x", "y")], {"x": [2, 3]}, ["y"])
    fn, params = load(save(proto, tmp_path / "m.onnx"))
    assert fn(params, normal(2, 3)).shape == (2, 3)
    with pytest.raises(ShapeError, match="of shape"):
        fn(params, normal(4, 3))


def test_one_compilation_for_one_shape(tmp_path):
    fn, params = load(save(lenet(1), tmp_path / "m.onnx"))
    jitted = jax.jit(fn)
    for _ in range(3):
        jitted(params, normal(4, 2, 6, 7))
    assert jitted._cache_size() == 1


def test_describe_says_what_the_model_states(tmp_path):
    proto = lenet("N")
    proto.producer_name = "pytorch"
    weights = [helper.make_tensor_value_info("fc.bias", 1, [5])]
    proto.graph.input.extend(weights)  # as old exporters list initializers
    info = describe(save(proto, tmp_path / "m.onnx"))
    assert [i.name for i in info.inputs] == ["x"]
    assert info.inputs[0].shape == ("N", 2, 6, 7)
    assert info.inputs[0].dtype == "float32"
    assert info.inputs[0].concrete() == (1, 2, 6, 7)
    assert info.inputs[0].concrete(8) == (8, 2, 6, 7)
    assert info.outputs[0].shape is None
    assert info.outputs[0].concrete() is None
    assert info.operators["Conv"] == 1
    assert (info.opset, info.producer) == (17, "pytorch")


def test_shape_arithmetic_leaves_no_trace(tmp_path):
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s i", "n", axis=0),
        node("Concat", "n minus", "t", axis=0),
        node("Reshape", "x t", "f"),
        node("Mul", "f half", "y"),
    ]
    constants = {"i": np.asarray([0]), "minus": np.asarray([-1])}
    half = helper.make_node(
        "Constant", [], ["half"], value=numpy_helper.from_array(np.float32([0.5]))
    )
    proto = model([half, *nodes], {"x": ["N", 2, 3]}, ["y"], constants)
    fn, params = load(save(proto, tmp_path / "m.onnx"))
    jaxpr = jax.make_jaxpr(fn)(params, jnp.zeros((4, 2, 3)))
    assert [e.primitive.name for e in jaxpr.eqns] == ["reshape", "mul"]
    assert not jaxpr.consts
