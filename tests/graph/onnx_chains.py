"""Models of several nodes as exporters write them: shape arithmetic, folded weights."""

import numpy as np
from onnx import helper, numpy_helper

from tests.graph.onnx_models import model

_RNG = np.random.default_rng(11)


def _w(*shape):
    return _RNG.normal(size=shape).astype(np.float32)


def _constant(name, value):
    return helper.make_node(
        "Constant", [], [name], value=numpy_helper.from_array(np.asarray(value))
    )


def _n(op, inputs, outputs, **attributes):
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def _view():
    """torch's `x.view(x.size(0), -1)` and `x.view(x.size(0), c * h, w)`."""
    nodes = [
        _constant("zero", np.int64(0)),
        _constant("one", np.int64(1)),
        _constant("two", np.int64(2)),
        _n("Shape", "x", "s"),
        _n("Gather", "s zero", "b", axis=0),
        _n("Gather", "s one", "c", axis=0),
        _n("Gather", "s two", "h", axis=0),
        _n("Mul", "c h", "ch"),
        _n("Unsqueeze", "b axis0", "b1"),
        _n("Unsqueeze", "ch axis0", "ch1"),
        _n("Concat", "b1 ch1 minus", "target", axis=0),
        _n("Reshape", "x target", "y"),
        _n("Concat", "b1 minus", "flat", axis=0),
        _n("Reshape", "y flat", "z"),
        _n("MatMul", "z w", "out"),
    ]
    weights = {
        "axis0": np.asarray([0], np.int64),
        "minus": np.asarray([-1], np.int64),
        "w": _w(24, 3),
    }
    return model(nodes, {"x": ["N", 2, 3, 4]}, ["out"], weights)


def _arithmetic():
    """Integers and conditions computed from shapes, as exporters of resizes write."""
    nodes = [
        _n("Shape", "x", "s"),
        _n("Slice", "s two four axis0", "hw"),
        _n("Cast", "hw", "f", to=1),
        _n("Mul", "f factor", "scaled"),
        _n("Floor", "scaled", "floor"),
        _n("Cast", "floor", "i", to=7),
        _n("Slice", "s axis0 two axis0", "nc"),
        _n("Concat", "nc i", "sizes", axis=0),
        helper.make_node("Resize", ["x", "", "", "sizes"], ["y"]),
        _n("Div", "i two", "half"),
        _n("Equal", "half i", "same"),
        _n("Where", "same i half", "chosen"),
        _n("ReduceProd", "chosen", "count", keepdims=0),
        _n("Range", "zero count one", "r"),
        _n("Cast", "r", "rf", to=1),
        _n("ReduceSum", "rf", "total", keepdims=0),
        _n("Mul", "y total", "out"),
    ]
    weights = {
        "two": np.asarray([2], np.int64),
        "four": np.asarray([4], np.int64),
        "axis0": np.asarray([0], np.int64),
        "factor": np.asarray(2.0, np.float32),
        "zero": np.int64(0),
        "one": np.int64(1),
    }
    weights = {k: np.asarray(v) for k, v in weights.items()}
    return model(nodes, {"x": ["N", 2, 3, 4]}, ["out"], weights)


def _expanded():
    """A row of zeros as long as the batch, and a token put before each example."""
    nodes = [
        _n("Shape", "x", "s"),
        _n("Slice", "s zero one zero", "b"),
        _n("Concat", "b rest", "shape", axis=0),
        _n("ConstantOfShape", "shape", "zeros"),
        _n("Expand", "token shape", "tokens"),
        _n("Add", "tokens zeros", "first"),
        _n("Concat", "first x", "out", axis=1),
    ]
    weights = {
        "zero": np.asarray([0], np.int64),
        "one": np.asarray([1], np.int64),
        "rest": np.asarray([1, 5], np.int64),
        "token": _w(1, 1, 5),
    }
    return model(nodes, {"x": ["N", 3, 5]}, ["out"], weights)


def _folded():
    """Weights that are computed from initializers: transposed, normalised, cast."""
    nodes = [
        _n("Transpose", "fc.weight", "t", perm=[1, 0]),
        _n("MatMul", "x t", "a"),
        _n("Add", "fc.bias a", "b"),
        _n("Relu", "b", "c"),
        _n("ReduceL2", "v", "norm", axes=[1]),
        _n("Div", "v norm", "unit"),
        _n("Mul", "unit g", "w"),
        _n("Gemm", "c w", "d", transB=1),
        _n("Cast", "double", "single", to=1),
        _n("Sub", "d single", "out"),
    ]
    weights = {
        "fc.weight": _w(4, 3),
        "fc.bias": _w(4),
        "v": _w(2, 4),
        "g": _w(2, 1),
        "double": np.asarray([0.5, 0.25], np.float64),
    }
    return model(nodes, {"x": ["N", 3]}, ["out"], weights)


def _compared():
    """Comparisons and logic on the input's values choose between branches."""
    nodes = [
        _n("Greater", "x low", "a"),
        _n("Less", "x high", "b"),
        _n("And", "a b", "inside"),
        _n("GreaterOrEqual", "x high", "c"),
        _n("LessOrEqual", "x low", "d"),
        _n("Or", "c d", "outside"),
        _n("Not", "outside", "e"),
        _n("And", "inside e", "both"),
        _n("Neg", "x", "minus"),
        _n("Where", "both x minus", "out"),
    ]
    weights = {"low": np.asarray(-0.5, np.float32), "high": _w(4)}
    return model(nodes, {"x": ["N", 4]}, ["out"], weights)


def _squeeze_excite():
    """Branches that multiply, with unsorted nodes."""
    nodes = [
        _n("Mul", "x gate", "out"),
        _n("Sigmoid", "c", "gate"),
        _n("GlobalAveragePool", "x", "a"),
        _n("Conv", "a k", "b"),
        _n("Relu", "b", "r"),
        _n("Conv", "r k2 k2b", "c"),
    ]
    weights = {"k": _w(2, 4, 1, 1), "k2": _w(4, 2, 1, 1), "k2b": _w(4)}
    return model(nodes, {"x": ["N", 4, 3, 3]}, ["out"], weights)


def _split_outputs():
    nodes = [
        _n("Split", "x", "a b", axis=1),
        _n("Mul", "a b", "out"),
        _n("Size", "x", "count"),
        _n("Cast", "count", "f", to=1),
        _n("Div", "out f", "mean"),
    ]
    return model(nodes, {"x": ["N", 4]}, ["mean", "out"])


CHAINS = {
    "view": (_view(), [(1, 2, 3, 4), (3, 2, 3, 4)]),
    "arithmetic": (_arithmetic(), [(1, 2, 3, 4), (2, 2, 3, 4)]),
    "expanded": (_expanded(), [(1, 3, 5), (4, 3, 5)]),
    "folded": (_folded(), [(1, 3), (5, 3)]),
    "compared": (_compared(), [(1, 4), (50, 4)]),
    "squeeze_excite": (_squeeze_excite(), [(1, 4, 3, 3), (2, 4, 3, 3)]),
    "split_outputs": (_split_outputs(), [(1, 4), (3, 4)]),
}
"""Models by name, with the shapes of input to run them at."""
