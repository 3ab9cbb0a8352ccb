"""Broken, huge and hostile files: a named error, whatever the bytes."""

import gzip
import itertools
import os
import tracemalloc

import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from core.errors import DataFormatError, InputError, ShapeError
from graph.onnx import load
from graph.onnx._refuse import bad
from graph.onnx.wire import scan
from tests.graph.onnx_models import model, save

_W = np.ones((3, 4), np.float32)


def node(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def small(nodes, weights=None, shape=(1, 3), opset=17):
    return model(nodes, {"x": list(shape)}, ["y"], weights or {}, opset)


def refused(proto, tmp_path, match):
    data = proto if isinstance(proto, bytes) else proto.SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(DataFormatError, match=match):
        load(path)


def test_an_unknown_operator_is_named_with_what_is_known(tmp_path):
    proto = small([node("Einsum", "x x", "y", equation="ij,ij->i", name="odd")])
    refused(proto, tmp_path, r"Einsum node 'odd'.*expected one of .*Conv")


def test_an_operator_of_another_domain_is_not_onnx_s(tmp_path):
    proto = small([node("Relu", "x", "y", domain="com.example")])
    refused(proto, tmp_path, r"com\.example\.Relu")


def test_an_unknown_operator_that_no_output_needs_does_not_matter(tmp_path):
    nodes = [node("Relu", "x", "y"), node("Magic", "x", "unused")]
    fn, params = load(save(small(nodes), tmp_path / "m.onnx"))
    np.testing.assert_array_equal(fn(params, jnp.ones((1, 3))), np.ones((1, 3)))


@pytest.mark.parametrize(
    ("nodes", "weights", "match"),
    [
        ([node("Add", "x lost", "y")], {}, r"Add.*'lost'"),
        ([node("Relu", "x", "z")], {}, r"operand 'y'"),
        ([node("Add", "x b", "y"), node("Relu", "y", "b")], {}, "cycle"),
        ([node("Relu", "y", "y")], {}, "cycle"),
        ([node("Relu", "x", "y"), node("Abs", "x", "y")], {}, "result 'y'"),
        ([node("Relu", "x", "x")], {}, "result 'x'"),
        ([node("Relu", "x", "y", slope=1.0)], {}, "attribute 'slope'"),
        ([node("Relu", "x x", "y")], {}, "2 operands"),
        ([node("MatMul", "x w", "y")], {"w": np.ones((5, 4), np.float32)}, "MatMul"),
        ([node("Gemm", "x w", "y", transA=2)], {"w": _W}, "transA = 2"),
        ([node("Softmax", "x", "y", axis=7)], {}, "axis 7"),
        ([node("Flatten", "x", "y", axis="one")], {}, "axis of another type"),
        ([node("LeakyRelu", "x", "y", alpha=float("nan"))], {}, "nan"),
        ([node("MaxPool", "x", "y", kernel_shape=[2])], {}, "rank 2"),
        ([node("Squeeze", "x", "y", axes=[1])], {}, "attribute 'axes'"),
        ([node("Reshape", "x s", "y")], {"s": np.asarray([2, -1, -1])}, "one -1"),
        ([node("Reshape", "x s", "y")], {"s": np.asarray([5, 5])}, "3 elements"),
        ([node("Gather", "x i", "y", axis=1)], {"i": np.asarray([3])}, "index"),
        ([node("Expand", "x s", "y")], {"s": np.asarray([2**30, 3])}, "at most"),
        ([node("Tile", "x s", "y")], {"s": np.asarray([2**40, 1])}, "at most"),
        ([node("ConstantOfShape", "s", "y")], {"s": np.asarray([2**50])}, "at most"),
        ([node("ConstantOfShape", "s", "y")], {"s": np.asarray([-1])}, "0 and more"),
        (
            [node("Pad", "x p", "y")],
            {"p": np.asarray([0, 2**40, 0, 0])},
            "at most",
        ),
        (
            [node("Range", "a b c", "r"), node("Add", "x r", "y")],
            {k: np.asarray(v) for k, v in zip("abc", (0, 2**60, 1), strict=True)},
            "at most",
        ),
        ([node("MaxPool", "x", "y z", kernel_shape=[1])], {}, "rank|result"),
        ([node("Dropout", "x r t", "y")], {"r": _W[0], "t": np.asarray(True)}, "train"),
        ([node("Reshape", "x x", "y")], {}, "computed from the input|type"),
    ],
)
def test_what_is_wrong_with_a_graph_is_named(nodes, weights, match, tmp_path):
    refused(small(nodes, weights), tmp_path, match)


def test_absurd_windows_are_refused(tmp_path):
    for attributes in (
        {"strides": [0, 1]},
        {"pads": [-1, 0, 0, 0]},
        {"dilations": [2**40, 1]},
        {"kernel_shape": [7, 7]},
        {"group": 3},
        {"group": 0},
        {"auto_pad": "MAYBE"},
        {"pads": [1, 1]},
        {"pads": [2**30] * 4},
    ):
        conv = node("Conv", "x w", "y", **attributes)
        weights = {"w": np.ones((4, 2, 3, 3), np.float32)}
        refused(small([conv], weights, (1, 2, 5, 5)), tmp_path, "Conv")


def test_doubling_constants_are_stopped_before_they_fill_memory(tmp_path):
    nodes = [node("Concat", "c0 c0", "c1", axis=0)]
    nodes += [node("Concat", f"c{i} c{i}", f"c{i + 1}", axis=0) for i in range(1, 40)]
    nodes += [node("ReduceSum", "c40", "s"), node("Add", "x s", "y")]
    weights = {"c0": np.ones(2**10, np.float32)}
    refused(small(nodes, weights), tmp_path, "Concat")


def test_constants_that_grow_with_the_input_s_shape_are_bounded(tmp_path):
    nodes = [node("Shape", "x", "s"), node("Mul", "s k", "big")]
    nodes += [node("ConstantOfShape", "big", "c"), node("Add", "x c", "y")]
    weights = {"k": np.asarray([2**15, 2**15])}
    refused(small(nodes, weights), tmp_path, "at most")


def test_a_tensor_must_have_the_bytes_that_its_shape_needs(tmp_path):
    for dims in ([3, 5], [2**40, 2**40], [-1, 4], [1] * 40):
        proto = small([node("MatMul", "x w", "y")], {"w": _W})
        del proto.graph.initializer[0].dims[:]
        proto.graph.initializer[0].dims.extend(dims)
        refused(proto, tmp_path, "tensor 'w'")


def test_tensor_types_without_a_place_are_refused(tmp_path):
    proto = small([node("MatMul", "x w", "y")], {"w": _W})
    proto.graph.initializer[0].data_type = TensorProto.STRING
    refused(proto, tmp_path, "element type 8")


@pytest.mark.parametrize(
    "name", ["float16", "bfloat16", "float64", "float32", "uint8", "int8", "bool"]
)
@pytest.mark.parametrize("raw", [True, False])
def test_tensors_read_as_onnx_reads_them(name, raw):
    from graph.onnx.tensors import to_array

    kind = getattr(
        TensorProto, {"float32": "FLOAT", "float64": "DOUBLE"}.get(name, name.upper())
    )
    values = [0, 1, 1, 0] if name == "bool" else [1, 2, 100, 7]
    if raw:
        whole = helper.make_tensor("t", kind, [2, 2], values)
        wide = numpy_helper.to_array(whole)
        tensor = helper.make_tensor("t", kind, [2, 2], wide.tobytes(), raw=True)
    else:
        tensor = helper.make_tensor("t", kind, [2, 2], values)
    wanted = numpy_helper.to_array(tensor).astype(np.float32)
    np.testing.assert_array_equal(to_array(tensor).astype(np.float32), wanted)


def test_duplicate_and_sparse_initializers_are_refused(tmp_path):
    proto = small([node("MatMul", "x w", "y")], {"w": _W})
    proto.graph.initializer.append(proto.graph.initializer[0])
    refused(proto, tmp_path, "initializer 'w'")
    proto = small([node("Relu", "x", "y")])
    proto.graph.sparse_initializer.add()
    refused(proto, tmp_path, "sparse")


@pytest.mark.parametrize("version", [0, 99, -3, 2**62])
def test_operator_sets_that_nobody_knows_are_refused(version, tmp_path):
    proto = small([node("Relu", "x", "y")])
    proto.opset_import[0].version = version
    refused(proto, tmp_path, "operator set")


def test_what_is_no_model_is_refused(tmp_path):
    for data in (b"", b"hello, world", b"\x00" * 100, b"\xff" * 100, b"\x1f\x8bno gz"):
        refused(data, tmp_path, "onnx: ")
    refused(onnx.ModelProto(ir_version=8).SerializeToString(), tmp_path, "graph")


def test_control_flow_is_refused_by_name(tmp_path):
    inner = helper.make_graph([node("Relu", "x", "z")], "g", [], [])
    branch = node("If", "c", "y", then_branch=inner, else_branch=inner)
    refused(small([branch], {"c": np.asarray(True)}), tmp_path, "If node")


def field(number: int, payload: bytes) -> bytes:
    """A message inside of another, on the wire."""
    size, head = len(payload), bytearray([number << 3 | 2])
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    return bytes([*head, size]) + payload


def test_deep_nesting_is_refused(tmp_path):
    inner = field(1, field(4, b"Relu"))
    for _ in range(2000):  # a graph in an attribute of a node of a graph
        inner = field(1, field(5, field(6, inner)))
    refused(field(7, inner), tmp_path, "onnx: ")


def test_a_long_chain_needs_no_recursion(tmp_path):
    names = ["x", *(f"v{i}" for i in range(3000)), "y"]
    nodes = [node("Neg", a, b) for a, b in itertools.pairwise(names)]
    nodes.reverse()
    load(save(small(nodes), tmp_path / "m.onnx"))


def test_files_larger_than_the_bound_are_not_read(tmp_path):
    path = save(small([node("MatMul", "x w", "y")], {"w": _W}), tmp_path / "m.onnx")
    size = path.stat().st_size
    load(path, max_bytes=size)
    with pytest.raises(DataFormatError, match="max_bytes"):
        load(path, max_bytes=size - 1)
    with pytest.raises(InputError, match="max_bytes"):
        load(path, max_bytes=0)
    with pytest.raises(InputError, match="path"):
        load(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="path"):
        load(tmp_path)


def test_gzip_is_read_and_unpacks_within_the_bound(tmp_path):
    proto = small([node("MatMul", "x w", "y")], {"w": _W})
    data = proto.SerializeToString()
    path = tmp_path / "m.onnx.gz"
    path.write_bytes(gzip.compress(data))
    fn, params = load(path)
    np.testing.assert_array_equal(fn(params, jnp.ones((1, 3))), np.full((1, 4), 3))
    path.write_bytes(gzip.compress(data)[:-12])
    with pytest.raises(DataFormatError, match="gzip"):
        load(path)
    path.write_bytes(gzip.compress(bytes(10**7)))
    with pytest.raises(DataFormatError, match="larger"):
        load(path, max_bytes=10**6)


def test_many_empty_messages_are_counted_before_they_are_parsed(tmp_path):
    """Two bytes on the wire are hundreds in memory: 20 MB would become gigabytes."""
    path = tmp_path / "m.onnx.gz"
    path.write_bytes(gzip.compress(field(7, b"\x0a\x00" * 10**7), 1))
    with pytest.raises(DataFormatError, match="fields"):
        load(path)


def test_the_memory_of_reading_is_that_of_the_file_not_of_the_bound(tmp_path):
    path = tmp_path / "m.onnx.gz"
    path.write_bytes(gzip.compress(bytes(10**5)))
    tracemalloc.start()
    with pytest.raises(DataFormatError):
        load(path, max_bytes=2**30)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 10**7


def test_the_scan_counts_fields_of_all_depths():
    proto = small([node("Relu", "x", "y", name="a")])
    data = proto.SerializeToString()
    count = scan(data, onnx.ModelProto.DESCRIPTOR)
    assert count > 10
    with pytest.raises(DataFormatError):
        scan(data, onnx.ModelProto.DESCRIPTOR, count - 1)
    with pytest.raises(DataFormatError):
        scan(data[:-1], onnx.ModelProto.DESCRIPTOR)


def external(tmp_path, location, offset=0, length=_W.nbytes):
    proto = small([node("MatMul", "x w", "y")], {"w": _W})
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    return save(proto, folder / "m.onnx")


def test_weights_beside_the_model_are_read(tmp_path):
    path = external(tmp_path, "weights.bin", offset=4)
    (path.parent / "weights.bin").write_bytes(bytes(4) + _W.tobytes())
    fn, params = load(path)
    np.testing.assert_array_equal(fn(params, jnp.ones((1, 3))), np.full((1, 4), 3))
    (path.parent / "weights.bin").write_bytes(bytes(4))
    with pytest.raises(DataFormatError, match="bytes of external"):
        load(path)


@pytest.mark.parametrize(
    "location", ["../secret", "/etc/passwd", "", "a\0b", "link", "."]
)
def test_weights_elsewhere_are_refused(location, tmp_path):
    (tmp_path / "secret").write_bytes(_W.tobytes())
    path = external(tmp_path, location)
    os.symlink(tmp_path / "secret", path.parent / "link")
    with pytest.raises(DataFormatError, match="external data"):
        load(path)


@pytest.mark.parametrize("offset", ["-1", "x", "9" * 30, "\u0663"])
def test_odd_offsets_are_refused(offset, tmp_path):
    path = external(tmp_path, "weights.bin", offset=offset)
    (path.parent / "weights.bin").write_bytes(_W.tobytes())
    with pytest.raises(DataFormatError, match="external data"):
        load(path)


def test_inputs_and_parameters_of_other_shapes_are_named(tmp_path):
    path = save(small([node("MatMul", "x w", "y")], {"w": _W}), tmp_path / "m.onnx")
    fn, params = load(path)
    with pytest.raises(ShapeError, match="'x' of shape"):
        fn(params, jnp.ones((1, 4)))
    with pytest.raises(ShapeError, match="'x' of shape"):
        fn(params, jnp.ones(3))
    with pytest.raises(ShapeError, match="2 inputs"):
        fn(params, jnp.ones((1, 3)), jnp.ones((1, 3)))
    with pytest.raises(ShapeError, match="no parameter"):
        fn({}, jnp.ones((1, 3)))
    with pytest.raises(InputError, match="floats"):
        load(path, dtype=jnp.int32)
    with pytest.raises(InputError, match="x64"):
        load(path, dtype=np.float64)


def test_messages_stay_short():
    assert len(str(bad("here", "x" * 10, "y"))) < 100
