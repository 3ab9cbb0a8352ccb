"""The table of one-node models that are compared with onnxruntime."""

import numpy as np

from tests.graph.onnx_layers import (
    CONVOLUTION,
    DENSE,
    NORMALIZATION,
    POOLING,
    c,
    ints,
    num,
    pos,
    w,
    x,
    xp,
)

ACTIVATIONS = [
    *(
        c(op, x(1, 3, 4))
        for op in ("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign", "Erf")
    ),
    c("HardSwish", x(1, 20)),
    c("Mish", x(1, 20), opset=18),
    c("LeakyRelu", x(1, 9)),
    c("LeakyRelu", x(1, 9), alpha=0.3),
    c("PRelu", x(1, 4, 3, 3), w(4, 1, 1)),
    c("PRelu", x(1, 4), num(0.2)),
    c("PRelu", x(1, 4), w(1)),
    c("PRelu", x(1, 4), x(4)),
    c("Elu", x(1, 9)),
    c("Elu", x(1, 9), alpha=0.4),
    c("Celu", x(1, 9), alpha=0.4),
    c("Selu", x(1, 9)),
    c("Selu", x(1, 9), alpha=1.2, gamma=0.9),
    c("HardSigmoid", x(1, 20)),
    c("HardSigmoid", x(1, 20), alpha=0.4, beta=0.3),
    c("ThresholdedRelu", x(1, 20), alpha=0.3),
    c("Gelu", x(1, 20), opset=20),
    c("Gelu", x(1, 20), approximate="tanh", opset=20),
    c("Clip", x(1, 20), min=-0.5, max=0.5, opset=9),
    c("Clip", x(1, 20), min=0.0, opset=9),
    c("Clip", x(1, 20), num(-0.5), num(0.5)),
    c("Clip", x(1, 20), None, num(0.5)),
    c("Clip", x(1, 20), num(0.0)),
    c("Clip", x(1, 20)),
    c("Softmax", x(1, 3, 4)),
    c("Softmax", x(1, 3, 4), axis=1),
    c("Softmax", x(2, 3, 4), axis=0),
    c("Softmax", x(1, 3, 4), opset=11),
    c("Softmax", x(1, 3, 4), axis=2, opset=11),
    c("Softmax", x(2, 3, 4), axis=0, opset=11),
    c("LogSoftmax", x(1, 3, 4), axis=1),
    c("LogSoftmax", x(1, 3, 4), opset=11),
]

ARITHMETIC = [
    *(
        row
        for op in ("Add", "Sub", "Mul", "Div")
        for row in (
            c(op, x(1, 3, 4), pos(4)),
            c(op, pos(3, 1), x(1, 3, 4)),
            c(op, x(1, 3, 4), xp(1, 3, 4)),
            c(op, x(4), pos(2, 3, 1)),
            c(op, x(1, 3), num(2.0)),
            c(op, x(2, 1, 4), xp(3, 1)),
        )
    ),
    *(
        row
        for op in ("Max", "Min", "Sum", "Mean")
        for row in (
            c(op, x(1, 3, 4), w(4)),
            c(op, x(1, 3, 4), x(1, 3, 4), w(3, 1)),
            c(op, x(1, 3)),
        )
    ),
    *(
        c(op, x(1, 3, 4))
        for op in ("Abs", "Ceil", "Cos", "Exp", "Floor", "Neg", "Round", "Sign", "Sin")
    ),
    *(c(op, xp(1, 3, 4)) for op in ("Log", "Reciprocal", "Sqrt")),
    *(c("Pow", x(1, 3), num(p)) for p in (2.0, 3.0, 1.0, -2.0, 0.0)),
    *(c("Pow", xp(1, 3), num(p)) for p in (0.5, -0.5, 1.7, 100.0)),
    c("Pow", xp(1, 3), w(3)),
    c("Pow", w(3), xp(1, 1)),
    c("Where", np.asarray([True, False, True]), x(1, 2, 3), num(2.0)),
    c("Where", np.asarray([[True], [False]]), w(3), x(2, 3)),
]

SHAPES = [
    c("Reshape", x(1, 4, 6), ints(1, 24)),
    c("Reshape", x(1, 4, 6), ints(0, -1)),
    c("Reshape", x(1, 4, 6), ints(-1, 24)),
    c("Reshape", x(1, 4, 6), ints(1, -1, 3)),
    c("Reshape", x(1, 4, 6), ints(0, 6, 4)),
    c("Reshape", x(1, 4, 6), ints(-1)),
    c("Reshape", x(1, 4, 6), ints(4, 6)),
    c("Reshape", x(1, 4, 6), ints(1, 1, 4, 6)),
    c("Reshape", x(1, 24), ints(24, 1)),
    c("Reshape", x(1, 4, 6), ints(1, 24), opset=14, allowzero=1),
    c("Flatten", x(1, 2, 3, 4)),
    c("Flatten", x(1, 2, 3, 4), axis=2),
    c("Flatten", x(1, 2, 3, 4), axis=0),
    c("Flatten", x(1, 2, 3, 4), axis=-1),
    c("Flatten", x(1, 2, 3, 4), axis=4),
    c("Flatten", x(3)),
    c("Transpose", x(1, 2, 3)),
    c("Transpose", x(1, 2, 3, 4), perm=[0, 2, 3, 1]),
    c("Transpose", x(1, 2, 3), perm=[1, 0, 2]),
    c("Squeeze", x(1, 3, 1)),
    c("Squeeze", x(1, 3, 1), ints(2)),
    c("Squeeze", x(1, 3, 1), ints(0, -1)),
    c("Squeeze", x(1, 3, 1), axes=[-1], opset=11),
    c("Squeeze", x(1, 3, 1), ints()),
    c("Unsqueeze", x(1, 3), ints(1)),
    c("Unsqueeze", x(1, 3), ints(0, -1)),
    c("Unsqueeze", x(1, 3), axes=[2], opset=11),
    c("Concat", x(1, 3), x(1, 2), axis=1),
    c("Concat", x(1, 3), w(1, 2), axis=-1),
    c("Concat", x(1, 3), x(1, 3), axis=0),
    c("Expand", x(1, 3, 1), ints(1, 3, 4)),
    c("Expand", x(1, 3, 1), ints(4)),
    c("Expand", x(1, 3, 1), ints(2, 3, 4)),
    c("Expand", x(3, 1), ints(2, 1, 4)),
    c("Tile", x(1, 3), ints(1, 2)),
    c("Tile", x(1, 3), ints(2, 2)),
    c("DepthToSpace", x(1, 8, 2, 3), blocksize=2),
    c("DepthToSpace", x(1, 8, 2, 3), blocksize=2, mode="CRD"),
    c("SpaceToDepth", x(1, 2, 4, 6), blocksize=2),
]

INDEXING = [
    c("Slice", x(1, 8, 9), ints(1), ints(7), ints(1)),
    c("Slice", x(1, 8, 9), ints(1, -4), ints(2**31, -1), ints(1, 2), ints(2, 1)),
    c("Slice", x(1, 8, 9), ints(-1), ints(-(2**40)), ints(2), ints(-2)),
    c("Slice", x(1, 8, 9), ints(6, 8), ints(2, 0), ints(1, 2), ints(-3, -1)),
    c("Slice", x(2, 8), ints(1), ints(5)),
    c("Slice", x(1, 8), axes=[1], starts=[2], ends=[9223372036854775807], opset=9),
    c("Slice", x(1, 8), starts=[0, -3], ends=[1, -1], opset=9),
    c("Gather", x(1, 5, 4), ints(3), axis=1),
    c("Gather", x(1, 5, 4), ints(0, 1, 2), axis=1),
    c("Gather", x(1, 5, 4), ints(4, 2, 0), axis=1),
    c("Gather", x(1, 5, 4), ints(3, 0, -1, 0), axis=2),
    c("Gather", x(1, 5), np.asarray(-2, np.int64), axis=1),
    c("Gather", x(1, 5), np.asarray([[0, 3], [1, 1]], np.int64), axis=1),
    c("Gather", x(3, 5), ints(2, 0)),
    c("Split", x(1, 6), axis=1, outputs=2),
    c("Split", x(1, 6), ints(1, 2, 3), axis=1, outputs=3),
    c("Split", x(1, 6), axis=1, split=[2, 4], outputs=2, opset=11),
    c("Split", x(1, 7), axis=1, num_outputs=3, outputs=3, opset=18),
    c("Split", x(4, 3), outputs=2),
    c("Pad", x(1, 2, 3), ints(0, 1, 0, 0, 0, 2), num(0.5)),
    c("Pad", x(1, 2, 3), ints(0, 1, -1, 0, 0, 2)),
    c("Pad", x(1, 2, 3), ints(1, 0, 0, 0, 0, 0)),
    c("Pad", x(1, 2, 3), ints(1, 2), None, ints(2), opset=18),
    c("Pad", x(1, 2, 3), pads=[0, 1, 0, 0, 0, 2], value=0.5, opset=9),
    c("Pad", x(1, 4, 5), ints(0, 2, 1, 0, 1, 2), mode="reflect"),
    c("Pad", x(1, 4, 5), ints(0, 2, 1, 0, 1, 2), mode="edge"),
]

_SMALL = x(1, 2, 3, 4)
_TWICE = np.asarray([1, 1, 2, 2], np.float32)
_ODD = np.asarray([1, 1, 1.7, 2.3], np.float32)
_LESS = np.asarray([1, 1, 0.7, 0.6], np.float32)
_SAME = np.asarray([1, 1, 1.3, 1.2], np.float32)

RESIZING = [
    c("Upsample", _SMALL, _TWICE, mode="nearest", opset=9),
    c("Upsample", _SMALL, mode="nearest", scales=[1.0, 1.0, 2.0, 3.0], opset=7),
    c("Resize", _SMALL, _TWICE, mode="nearest", opset=10),
    c("Resize", _SMALL, _ODD, mode="nearest", opset=10),
    c("Resize", x(1, 2, 7, 9), _LESS, mode="nearest", opset=10),
    c("Resize", _SMALL, _SAME, mode="nearest", opset=10),
    *(
        c(
            "Resize",
            *(_SMALL, None, scales),
            mode="nearest",
            coordinate_transformation_mode=place,
            nearest_mode=rounding,
        )
        for place in (
            "half_pixel",
            "asymmetric",
            "align_corners",
            "pytorch_half_pixel",
        )
        for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
        for scales in (_TWICE, _ODD)
    ),
    c("Resize", _SMALL, None, None, ints(1, 2, 7, 3)),
    c("Resize", _SMALL, None, None, ints(7, 3), axes=[2, 3], opset=18),
]

REDUCTIONS = [
    *(
        row
        for op in (
            "ReduceMean",
            "ReduceMax",
            "ReduceMin",
            "ReduceProd",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
            "ReduceLogSumExp",
        )
        for row in (
            c(op, x(1, 3, 4), axes=[1], keepdims=0, opset=13),
            c(op, x(1, 3, 4), ints(1, -1), opset=18),
            c(op, x(2, 3), opset=13),
        )
    ),
    c("ReduceSum", x(1, 3, 4), axes=[2], opset=11),
    c("ReduceSum", x(1, 3, 4), ints(1, 2), keepdims=0),
    c("ReduceSum", x(1, 3, 4)),
    c("ReduceSum", x(1, 3, 4), noop_with_empty_axes=1),
    c("ReduceMean", x(3, 4), ints(0), opset=18),
]

PLAIN = [
    c("Identity", x(1, 3)),
    c("Dropout", x(1, 3)),
    c("Dropout", x(1, 3), num(0.4), np.asarray(False)),
    c("Dropout", x(1, 3), ratio=0.4, opset=10),
    c("Cast", x(1, 3), to=1),
    c("Cast", x(1, 30), to=6),
    c("Cast", x(1, 30), to=7),
    c("Cast", x(1, 30), to=9),
    c("ArgMax", x(1, 9), axis=1),
    c("ArgMax", x(1, 9, 2), axis=-2, keepdims=0),
    c("Shape", x(1, 9, 2)),
    c("Shape", x(1, 9, 2), start=1, end=-1),
    c("Size", x(1, 9, 2)),
]

CASES = [
    *DENSE,
    *CONVOLUTION,
    *POOLING,
    *NORMALIZATION,
    *ACTIVATIONS,
    *ARITHMETIC,
    *SHAPES,
    *INDEXING,
    *RESIZING,
    *REDUCTIONS,
    *PLAIN,
]
