"""From a file to a JAX function and its parameters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from core import errors
from graph.onnx import operators  # noqa: F401  (fills the registry)
from graph.onnx.files import MAX_BYTES
from graph.onnx.model import Description, read
from graph.onnx.parameters import Parameters
from graph.onnx.program import Program, build, trial


def load(
    path: str | Path, *, dtype: Any = jnp.float32, max_bytes: int = MAX_BYTES
) -> tuple[Callable[..., Any], dict[str, dict[str, Any]]]:
    """x."""
    dtype = np.dtype(dtype)
    model = read(path, max_bytes)
    parameters = Parameters(model.constants, dtype)
    steps, constants = build(model, parameters)
    info = model.description
    program = Program(steps, constants, info.inputs, info.outputs, dtype)
    params = parameters.tree()
    trial(program, params)
    return program, params


def describe(path: str | Path, *, max_bytes: int = MAX_BYTES) -> Description:
    """x."""
    return read(path, max_bytes).description
