"""One-node models of layers with weights or windows, and how a row is written."""

import dataclasses
from typing import Any

import numpy as np
import onnx
from onnx import helper

from tests.graph.onnx_models import Input, model

_RNG = np.random.default_rng(7)


def w(*shape: int) -> np.ndarray:
    """Random weights."""
    return _RNG.normal(size=shape).astype(np.float32)


def pos(*shape: int) -> np.ndarray:
    """Random positive weights."""
    return (np.abs(_RNG.normal(size=shape)) + 0.1).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    """Integers, as shapes and axes are given."""
    return np.asarray(values, np.int64)


def num(value: float) -> np.ndarray:
    """A scalar."""
    return np.asarray(value, np.float32)


def x(*shape: int) -> Input:
    """An input of the model."""
    return Input(shape)


def xp(*shape: int) -> Input:
    """An input of positive numbers."""
    return Input(shape, positive=True)


@dataclasses.dataclass(frozen=True)
class Case:
    """One node: operands that are inputs, initializers or left out; attributes."""

    op: str
    operands: tuple[Any, ...]
    attributes: dict[str, Any]
    opset: int
    outputs: int

    @property
    def inputs(self) -> list[Input]:
        return [o for o in self.operands if isinstance(o, Input)]

    def proto(self, batch: Any = None) -> onnx.ModelProto:
        """The model; `batch` is stated as the first axis of inputs, if given."""
        names, inputs, initializers = [], {}, {}
        for i, operand in enumerate(self.operands):
            names.append("" if operand is None else f"in{i}")
            if isinstance(operand, Input):
                shape = list(operand.shape)
                inputs[f"in{i}"] = [batch, *shape[1:]] if batch and shape else shape
            elif operand is not None:
                initializers[f"in{i}"] = operand
        outputs = [f"out{i}" for i in range(self.outputs)]
        node = helper.make_node(self.op, names, outputs, name="n", **self.attributes)
        return model([node], inputs, outputs, initializers, self.opset)


def c(op: str, *operands: Any, opset: int = 17, outputs: int = 1, **attributes: Any):
    """A row of the table."""
    return Case(op, operands, attributes, opset, outputs)


_IMAGE = x(1, 4, 9, 8)

DENSE = [
    c("Gemm", x(1, 3), w(3, 4)),
    c("Gemm", x(1, 3), w(4, 3), w(4), transB=1),
    c("Gemm", x(1, 3), w(4, 3), w(1, 4), transB=1, alpha=0.5, beta=2.0),
    c("Gemm", x(1, 3), w(3, 4), w(1)),
    c("Gemm", x(1, 3), w(3, 4), num(0.3), beta=0.5),
    c("Gemm", x(2, 3), w(3, 4), w(2, 4)),
    c("Gemm", x(2, 3), w(3, 4), w(2, 1)),
    c("Gemm", x(3, 2), w(3, 4), w(4), transA=1),
    c("Gemm", x(2, 3), x(3, 4), x(4)),
    c("Gemm", x(2, 3), x(4, 3), w(4), transB=1, opset=9),
    c("Gemm", w(2, 3), x(4, 3), w(4), transB=1),
    c("MatMul", x(1, 3), w(3, 4)),
    c("MatMul", x(1, 5, 3), w(3, 4)),
    c("MatMul", x(1, 2, 5, 3), w(2, 3, 4)),
    c("MatMul", x(3), w(3, 4)),
    c("MatMul", w(4, 3), x(3)),
    c("MatMul", w(4, 3), x(3, 1)),
    c("MatMul", w(4, 3), x(1, 3, 2)),
    c("MatMul", x(3), w(3)),
    c("MatMul", x(1, 2, 3), x(1, 3, 4)),
    c("MatMul", x(2, 3), x(3, 4)),
    c("MatMul", x(1, 2, 3), x(3, 4)),
    c("MatMul", x(1, 3), w(2, 3, 4)),
]

CONVOLUTION = [
    c("Conv", x(1, 4, 9), w(6, 4, 3), w(6), kernel_shape=[3], pads=[1, 0]),
    c("Conv", x(2, 4, 9), w(6, 2, 3), w(6), group=2, strides=[2], dilations=[2]),
    c("Conv", _IMAGE, w(6, 4, 3, 2)),
    c("Conv", _IMAGE, w(6, 4, 3, 2), w(6), pads=[1, 0, 2, 1], strides=[2, 1]),
    c("Conv", _IMAGE, w(8, 1, 3, 3), w(8), group=4, dilations=[2, 1]),
    c("Conv", _IMAGE, w(6, 2, 3, 3), group=2, auto_pad="SAME_UPPER", strides=[2, 3]),
    c("Conv", _IMAGE, w(6, 4, 3, 2), auto_pad="SAME_LOWER", strides=[2, 2]),
    c("Conv", _IMAGE, w(6, 4, 3, 2), auto_pad="VALID", dilations=[1, 2]),
    c("Conv", x(1, 2, 5, 4, 6), w(3, 2, 2, 3, 2), w(3), pads=[1, 0, 1, 0, 1, 0]),
    c("Conv", _IMAGE, x(6, 4, 3, 2), x(6)),
    c("ConvTranspose", x(1, 4, 6), w(4, 3, 3), w(3)),
    c("ConvTranspose", x(1, 4, 6), w(4, 3, 3), strides=[2], output_padding=[1]),
    c("ConvTranspose", x(1, 4, 6), w(4, 3, 4), group=2, strides=[3], pads=[2, 1]),
    c("ConvTranspose", _IMAGE, w(4, 3, 3, 2), w(3), strides=[2, 1]),
    c(
        "ConvTranspose",
        *(_IMAGE, w(4, 2, 3, 3), w(4)),
        group=2,
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        output_padding=[1, 0],
        dilations=[1, 2],
    ),
    c("ConvTranspose", _IMAGE, w(4, 3, 3, 3), pads=[2, 2, 2, 2]),
    c("ConvTranspose", x(1, 2, 5, 5), w(2, 3, 2, 2), strides=[2, 2], pads=[1, 1, 1, 1]),
    c("ConvTranspose", _IMAGE, w(4, 3, 3, 3), strides=[2, 2], output_shape=[18, 17]),
    c("ConvTranspose", _IMAGE, w(4, 3, 3, 4), strides=[2, 3], auto_pad="SAME_UPPER"),
    c("ConvTranspose", _IMAGE, w(4, 3, 4, 3), strides=[2, 2], auto_pad="SAME_LOWER"),
    c("ConvTranspose", x(1, 2, 3, 3, 3), w(2, 2, 2, 3, 2), strides=[2, 1, 2]),
]

POOLING = [
    c("MaxPool", _IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
    c("MaxPool", _IMAGE, kernel_shape=[3, 2], pads=[1, 0, 1, 1], dilations=[2, 2]),
    c("MaxPool", _IMAGE, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    c("MaxPool", _IMAGE, kernel_shape=[3, 3], auto_pad="SAME_UPPER", strides=[2, 2]),
    c("MaxPool", _IMAGE, kernel_shape=[2, 3], auto_pad="SAME_LOWER", strides=[2, 2]),
    c("MaxPool", x(1, 2, 9), kernel_shape=[3], strides=[3], storage_order=0),
    c("MaxPool", x(1, 2, 5, 5, 5), kernel_shape=[2, 2, 2], auto_pad="VALID", opset=9),
    c("AveragePool", _IMAGE, kernel_shape=[2, 2], strides=[2, 2]),
    c("AveragePool", _IMAGE, kernel_shape=[3, 2], pads=[1, 1, 1, 0]),
    c("AveragePool", _IMAGE, kernel_shape=[3, 2], pads=[1, 1, 1, 0], opset=9),
    c(
        "AveragePool",
        _IMAGE,
        kernel_shape=[3, 2],
        pads=[1, 1, 1, 0],
        count_include_pad=1,
    ),
    c("AveragePool", _IMAGE, kernel_shape=[3, 3], strides=[2, 3], ceil_mode=1),
    c(
        "AveragePool",
        _IMAGE,
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        ceil_mode=1,
        count_include_pad=1,
        opset=19,
    ),
    c(
        "AveragePool",
        _IMAGE,
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        ceil_mode=1,
        opset=19,
    ),
    c(
        "AveragePool",
        _IMAGE,
        kernel_shape=[3, 3],
        strides=[2, 2],
        auto_pad="SAME_UPPER",
    ),
    c("AveragePool", _IMAGE, kernel_shape=[2, 2], dilations=[2, 3], opset=19),
    c("AveragePool", x(1, 2, 9), kernel_shape=[4], pads=[2, 1]),
    c("GlobalAveragePool", _IMAGE),
    c("GlobalAveragePool", x(2, 3, 7)),
    c("GlobalMaxPool", _IMAGE),
]

NORMALIZATION = [
    c("BatchNormalization", _IMAGE, w(4), w(4), w(4), pos(4)),
    c("BatchNormalization", x(1, 4), w(4), w(4), w(4), pos(4), epsilon=0.1, opset=9),
    c("BatchNormalization", x(2, 4, 3), w(4), w(4), w(4), pos(4), momentum=0.5),
    c("InstanceNormalization", _IMAGE, w(4), w(4), epsilon=0.01),
    c("LayerNormalization", x(1, 5, 6), w(6), w(6)),
    c("LayerNormalization", x(1, 5, 6), w(5, 6), axis=1, epsilon=0.1),
    c("LayerNormalization", x(2, 3), w(2, 3), w(2, 3), axis=0),
]
