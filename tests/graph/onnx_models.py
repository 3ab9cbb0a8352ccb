"""Small ONNX models for tests: one node, or a few, as bytes and as a file."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

IR_VERSION = 10
_ENUMS = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.int64): TensorProto.INT64,
    np.dtype(np.bool_): TensorProto.BOOL,
}


@dataclasses.dataclass(frozen=True)
class Input:
    """A graph input of float32: normal numbers, or positive ones."""

    shape: tuple[int, ...]
    positive: bool = False

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """Returns random values."""
        values = rng.normal(size=self.shape)
        values = 0.1 + np.abs(values) if self.positive else values
        return values.astype(np.float32)


def model(
    nodes: list[Any],
    inputs: dict[str, Any],
    outputs: list[str],
    initializers: dict[str, np.ndarray] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    """Returns a model; inputs map names to shapes, whose entries may be text."""
    graph = helper.make_graph(
        nodes,
        "test",
        [
            helper.make_tensor_value_info(k, TensorProto.FLOAT, v)
            for k, v in inputs.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(v, k) for k, v in (initializers or {}).items()],
    )
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)


def save(proto: onnx.ModelProto, path: Path) -> Path:
    """Writes a model and returns the path."""
    path.write_bytes(proto.SerializeToString())
    return path


def reference(proto: onnx.ModelProto, *inputs: np.ndarray) -> list[np.ndarray]:
    """Returns what onnxruntime computes; graph optimisations are off."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    )
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [i.name for i in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))
