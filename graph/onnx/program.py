"""A checked model as steps, and the steps as a pure JAX function of any batch size.

How a batch is run. If the input has the shape that the model states, or differs only
in a free first axis, the steps run as ONNX defines them. A model exported with a first
axis of 1 (or whose Reshapes were written for 1) is a function of one example, and a
batch is its examples side by side:

1. The steps run on the whole batch at once, with a record of which values have the
   examples along their first axis. A Reshape to [1, ...] of such a value becomes one
   to [batch, ...]: in row-major order that is the reshape of each example. A step that
   could mix examples (a reduction or a transpose of the first axis, a constant with
   as many rows as there are examples, ...) ends the attempt.
2. Then the function of one example is mapped over them by `jax.vmap`, and the results
   are joined along their first axis.

Both equal what the examples give alone, so the first is taken whenever it succeeds.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import LatheError, ShapeError, describe
from graph.onnx._refuse import bad, check_size, short
from graph.onnx.model import Model, Node, TensorInfo
from graph.onnx.parameters import Parameters
from graph.onnx.registry import OPERATORS, Call, Operand, Operator, Site, is_static
from graph.onnx.rows import MixedRows, Rows, Step

MAX_FOLDED = 2**26
"""The most elements that all arrays computed in numpy may have together.

Those of constants at load time may have as many and the weights four times.
"""


def build(model: Model, parameters: Parameters) -> tuple[list[Step], dict[str, Any]]:
    """Returns the steps of a model, and the constants among its outputs.

    What depends on constants alone is computed here, if numpy can.

    Raises:
      DataFormatError: an unknown operator, or one with a meaning not known here.
    """
    constants = dict(model.constants)
    opset = model.description.opset
    used = {name for node in model.nodes for name in node.inputs}
    used |= {info.name for info in model.description.outputs}
    steps = []
    budget = MAX_FOLDED + 4 * sum(v.size for v in constants.values())
    for node in model.nodes:
        operator = _operator(node, used)
        known = [n for n in node.inputs if n]
        folds = operator.folds and all(n in constants for n in known)
        site = Site(node, opset, constants, None if folds else parameters)
        apply = _guarded(node, operator.build, site)
        site.finish()
        step = Step(node, operator, apply, _padded(site, operator))
        if not folds:
            steps.append(step)
            continue
        call = Call(node, np.dtype("float32"))
        results, budget = _evaluate(step, constants, {}, call, budget)
        constants |= results
        for name in results:
            parameters.derive(name, known)
    outputs = [info.name for info in model.description.outputs]
    return steps, {n: constants[n] for n in outputs if n in constants}


def _operator(node: Node, used: set[str]) -> Operator:
    operator = OPERATORS.get(node.op)
    if operator is None:
        raise bad(
            f"{node.label}",
            f"the operator {short(node.op)}",
            f"one of {', '.join(sorted(OPERATORS))}",
        )
    low, high = operator.inputs
    if len(node.inputs) < low or (high is not None and len(node.inputs) > high):
        given = f"{len(node.inputs)} operands"
        raise bad(node.label, given, f"{low} to {high or 'any number'}")
    if not all(node.inputs[:low]):
        raise bad(node.label, "an operand left out", f"the first {low} of them")
    if operator.outputs is not None and used & set(node.outputs[operator.outputs :]):
        given = f"a use of result {operator.outputs + 1}"
        raise bad(node.label, given, f"only the first {operator.outputs}")
    return operator


def _padded(site: Site, operator: Operator) -> tuple[Operand | None, ...]:
    missing = (operator.inputs[1] or 0) - len(site.operands)
    return (*site.operands, *(None,) * missing)


def _guarded(node: Node, fn: Any, *args: Any) -> Any:
    """Calls a part of a step; whatever goes wrong there is the model's fault."""
    try:
        return fn(*args)
    except LatheError:
        raise
    except Exception as e:
        reason = str(e).split("\n", 1)[0][:300]
        raise bad(
            node.label, f"{type(e).__name__} ({reason})", "operands that fit together"
        ) from e


def _evaluate(
    step: Step, values: Mapping[str, Any], params: Any, call: Call, budget: int
) -> tuple[dict[str, Any], int]:
    """Returns the results of a step by name, and what is left of the budget.

    Args:
      step: to evaluate.
      values: of its operands, by name.
      params: the tree of parameters.
      call: what the operator is told.
      budget: elements that may still be computed in numpy.
    """
    static = all(
        isinstance(values[o.name], np.ndarray) for o in step.operands if o and o.name
    ) and any(o and not o.path for o in step.operands)

    def apply() -> Any:
        operands = [
            _operand(o, values, params, call.dtype, static) for o in step.operands
        ]
        if is_static(*operands):
            call.limit = min(call.limit, budget)
        with np.errstate(all="ignore"):
            return step.apply(call, *operands)

    found = _guarded(step.node, apply)
    found = found if isinstance(found, list) else [found]
    results = {}
    for name, value in zip(step.node.outputs, found, strict=False):
        value = np.asarray(value) if isinstance(value, np.generic) else value
        call.check_size(value.shape)
        if isinstance(value, np.ndarray):
            budget -= value.size
        if budget < 0:
            raise call.bad("more constants", f"{MAX_FOLDED} elements of them in all")
        if name:
            results[name] = value
    return results, budget


def _operand(
    operand: Operand | None,
    values: Mapping[str, Any],
    params: Any,
    dtype: np.dtype,
    static: bool,
) -> Any:
    if operand is None:
        return None
    if operand.constant is not None and (static or not operand.either):
        return operand.constant
    if operand.path is None:
        value = values[operand.name]
        return operand.layout(value) if operand.layout else value
    layer, leaf = operand.path
    try:
        value = params[layer][leaf]
    except (KeyError, TypeError) as e:
        raise ShapeError(
            f"onnx: {describe(f'no parameter {layer}/{leaf}', 'the loaded tree')}"
        ) from e
    return jnp.asarray(value, dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """The steps of a model with what they need, a function of params and inputs."""

    steps: Sequence[Step]
    constants: Mapping[str, Any]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    dtype: np.dtype

    def __call__(self, params: Any, *inputs: Any) -> Any:
        """Returns the output, or a tuple of them, for a batch of any size.

        Raises:
          DataFormatError: the model does not fit this batch.
          ShapeError: inputs or parameters of other shapes than the model states.
        """
        arrays = self._prepared(inputs)
        batch = self._batch(arrays)
        if batch is None:
            return self._result(self.run(params, arrays))
        stated = all(_fits(x, i) for x, i in zip(arrays, self.inputs, strict=True))
        failure = None
        if stated:
            try:
                return self._result(self.run(params, arrays))
            except LatheError as e:
                failure = e
        try:
            return self._result(self._run_batch(params, arrays, batch))
        except LatheError as e:
            raise failure or e from None

    def run(self, params: Any, arrays: Sequence[Any], rows: bool = False) -> list[Any]:
        """Runs the steps.

        Args:
          params: the tree that came with this program.
          arrays: the inputs.
          rows: whether examples are along the first axis and may not be mixed.

        Raises:
          MixedRows: some step could mix them.
        """
        values = dict(self.constants)
        names = [info.name for info in self.inputs]
        values.update(zip(names, arrays, strict=True))
        floats = [x.dtype for x in arrays if jnp.issubdtype(x.dtype, jnp.floating)]
        dtype = np.dtype(floats[0]) if floats else self.dtype
        tracker = Rows(names) if rows else None
        budget = MAX_FOLDED
        for step in self.steps:
            call = Call(step.node, dtype, rows)
            results, budget = _evaluate(step, values, params, call, budget)
            if tracker:
                tracker.follow(step, call, values, results)
            values.update(results)
        if tracker and not all(i.name in tracker.rows for i in self.outputs):
            raise MixedRows
        return [_output(values[info.name], dtype) for info in self.outputs]

    def _run_batch(self, params: Any, arrays: list[Any], batch: int) -> list[Any]:
        split = [x.ndim > 0 and x.shape[0] == batch for x in arrays]
        if all(split):
            try:
                return self.run(params, arrays, rows=True)
            except (MixedRows, LatheError):
                pass  # mapping may still succeed, or say what is wrong

        def single(*examples: Any) -> list[Any]:
            rows = [x[None] if s else x for x, s in zip(examples, split, strict=True)]
            return self.run(params, rows)

        found = jax.vmap(single, in_axes=[0 if s else None for s in split])(*arrays)
        return [
            y.reshape(batch * y.shape[1], *y.shape[2:]) if y.ndim > 1 else y
            for y in found
        ]

    def _prepared(self, inputs: Sequence[Any]) -> list[Any]:
        if len(inputs) != len(self.inputs):
            raise ShapeError(
                f"onnx: {describe(f'{len(inputs)} inputs', f'{len(self.inputs)}')}"
            )
        arrays = [jnp.asarray(x) for x in inputs]
        floats = [x.dtype for x in arrays if jnp.issubdtype(x.dtype, jnp.floating)]
        dtype = floats[0] if floats else self.dtype
        return [
            x.astype(dtype) if "float" in info.dtype else x
            for x, info in zip(arrays, self.inputs, strict=True)
        ]

    def _batch(self, arrays: Sequence[Any]) -> int | None:
        """The batch size where it differs from that of the model, or None."""
        sizes = set()
        for x, info in zip(arrays, self.inputs, strict=True):
            if info.shape is None or _fits(x, info, free=False):
                continue
            first = info.shape[0] if info.shape else 0
            one = info.concrete() is not None and (first == 1 or isinstance(first, str))
            if not _fits(x, info) and not (one and _fits(x, info, any_first=True)):
                raise self._misfit(x, info)
            if one:
                sizes.add(x.shape[0])
        if len(sizes) > 1:
            found = f"batches of {sorted(sizes)}"
            raise ShapeError(f"onnx: {describe(found, 'one batch size')}")
        return sizes.pop() if sizes and min(sizes) != 1 else None

    def _misfit(self, x: Any, info: TensorInfo) -> ShapeError:
        shape = [n or "?" for n in info.shape or ()]
        given = f"an input {short(info.name)} of shape {list(x.shape)}"
        return ShapeError(f"onnx: {describe(given, f'{shape}, with any batch for 1')}")

    def _result(self, found: list[Any]) -> Any:
        return found[0] if len(found) == 1 else tuple(found)


def _fits(x: Any, info: TensorInfo, free: bool = True, any_first: bool = False) -> bool:
    """Whether an array has the stated shape; `free` axes may have any length."""
    if info.shape is None:
        return True
    return len(info.shape) == x.ndim and all(
        (free if isinstance(stated, str) else n == stated) or (any_first and axis == 0)
        for axis, (n, stated) in enumerate(zip(x.shape, info.shape, strict=True))
    )


def _output(value: Any, dtype: np.dtype) -> jax.Array:
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return jnp.asarray(value, dtype)
    return jnp.asarray(value)


def trial(program: Program, params: Any) -> None:
    """Traces the program once at a batch of 1, where the model states its shapes.

    Nothing is computed; what does not fit together shows.

    Raises:
      DataFormatError: the model cannot run.
    """
    structs = []
    for info in program.inputs:
        shape = info.concrete()
        if shape is None:
            return
        check_size(f"input {short(info.name)}", shape)
        dtype = program.dtype if "float" in info.dtype else np.dtype(np.int32)
        if info.dtype == "bool":
            dtype = np.dtype(bool)
        structs.append(jax.ShapeDtypeStruct(shape, dtype))
    found = jax.eval_shape(lambda p, *xs: program.run(p, xs), params, *structs)
    check_size("the outputs", (sum(math.prod(y.shape) for y in found),))
