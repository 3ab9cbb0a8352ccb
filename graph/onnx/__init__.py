"""ONNX models as pure JAX functions with their weights as a pytree.

| name | what |
|------|------|
| `load(path)` | `(fn, params)` with `fn(params, x) -> y`, from `.onnx` or `.onnx.gz` |
| `describe(path)` | inputs, outputs, operators: a `Description` |
| `Description`, `TensorInfo` | types |
| `OPERATORS` | registry of the operators that can be loaded |

Example, the margin of class 0 over class 1 and its gradient:

    fn, params = graph.onnx.load("net.onnx")
    shape = graph.onnx.describe("net.onnx").inputs[0].concrete()  # [1, 3, 32, 32]
    margin = lambda x: fn(params, x)[0, 0] - fn(params, x)[0, 1]
    value, gradient = jax.value_and_grad(margin)(jnp.zeros(shape))

Shapes, indices and other arithmetic on constants are done in numpy, so that a trace of
`fn` holds only what computes with the input. How a model with a first axis of 1 runs a
batch is told in `graph.onnx.program`.

A file is not trusted: its size is bounded before it is read, the number of its fields
before it is parsed, the size of every array before it is made. A fault in it is a
`core.errors.DataFormatError` that names the place.

Reference: the operators' definitions at https://onnx.ai/onnx/operators.
"""

from graph.onnx.loading import describe, load
from graph.onnx.model import Description, TensorInfo
from graph.onnx.registry import OPERATORS

__all__ = ["OPERATORS", "Description", "TensorInfo", "describe", "load"]
