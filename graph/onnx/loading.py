"""From a file to a JAX function and its parameters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core import errors
from graph.onnx import operators  # noqa: F401  (importing it fills the registry)
from graph.onnx.files import MAX_BYTES
from graph.onnx.model import Description, read
from graph.onnx.parameters import Parameters
from graph.onnx.program import Program, build, trial
from graph.onnx.registry import canonical


def load(
    path: str | Path, *, dtype: Any = jnp.float32, max_bytes: int = MAX_BYTES
) -> tuple[Callable[..., Any], dict[str, dict[str, jax.Array]]]:
    """Returns a model as a pure JAX function and its parameters.

    `fn(params, x) -> y`, with an argument for every input of the model and a tuple
    for several outputs. Shapes and layouts of inputs and outputs are the model's
    ([N, C, H, W] for images). A first axis that the model states as free or as 1 takes
    any batch: `fn` of examples side by side gives their results side by side.
    All floats are computed in the type of the first input, so that parameters and
    input in float64 give a float64 result; products in full precision.

    Args:
      path: of a `.onnx` or `.onnx.gz` file. Weights stored beside it are read from
        its own folder only.
      dtype: of the parameters, a type of floats.
      max_bytes: the largest file, unpacked, that is read. Memory stays within a small
        multiple of it.

    Returns:
      `fn` and the parameters, a dict of layers with their leaves: a convolution's
      `kernel` is [window..., in / groups, out], that of Gemm and MatMul [in, out];
      `bias`, `scale`, `mean`, `var`, `slope` are as in the file. A layer is named as
      its initializers are ('conv1.weight' is 'conv1/kernel'), else as its node.

    Raises:
      DataFormatError: a file that is no model, a model that breaks the format's rules,
        or an operator or attribute that this package does not know; by name.
      InputError: no such file, or not a type of floats.

    Example:
      >>> fn, params = load("net.onnx")  # doctest: +SKIP
      >>> y = jax.jit(fn)(params, x)  # doctest: +SKIP
    """
    dtype = _floating(dtype)
    model = read(path, max_bytes)
    parameters = Parameters(model.constants, dtype)
    steps, constants = build(model, parameters)
    info = model.description
    program = Program(steps, constants, info.inputs, info.outputs, dtype)
    params = parameters.tree()
    trial(program, params)
    return program.__call__, params


def describe(path: str | Path, *, max_bytes: int = MAX_BYTES) -> Description:
    """Returns what a model states of its inputs, outputs and operators.

    Operators need not be supported.

    Args:
      path: of a `.onnx` or `.onnx.gz` file.
      max_bytes: as in `load`.

    Raises:
      DataFormatError: a file that is no model.
      InputError: no such file.
    """
    return read(path, max_bytes).description


def _floating(dtype: Any) -> np.dtype:
    found = np.dtype(dtype)
    if not jnp.issubdtype(found, jnp.floating):
        raise errors.InputError(
            f"dtype: {errors.describe(found.name, 'a type of floats')}"
        )
    if canonical(found) != found:
        expected = "a type that JAX is configured for"
        remedy = "Set jax_enable_x64 for float64."
        raise errors.InputError(
            f"dtype: {errors.describe(found.name, expected, remedy)}"
        )
    return found
