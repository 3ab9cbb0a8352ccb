"""Constants, shapes, casts, and operators that do nothing at inference."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from graph.onnx.registry import Apply, Call, Site, canonical, is_static, operator
from graph.onnx.tensors import numpy_dtype

_FORMS = {
    "value_float": (float, np.float32),
    "value_int": (int, np.int64),
    "value_floats": (tuple, np.float32),
    "value_ints": (tuple, np.int64),
}


@operator("Constant", inputs=(0, 0), folds=True)
def constant(site: Site) -> Apply:
    """An array that the graph itself holds, in one of several attributes."""
    if len(site.node.attributes) != 1:
        raise site.bad(f"{len(site.node.attributes)} attributes", "one value")
    value = site.attribute("value")
    for name, (kind, dtype) in _FORMS.items():
        given = site.attribute(name)
        if isinstance(given, kind):
            value = np.asarray(given, dtype)
    if not isinstance(value, np.ndarray):
        raise site.bad("a value of another type", "a tensor, or numbers")
    return lambda call: value


@operator("ConstantOfShape", folds=True)
def constant_of_shape(site: Site) -> Apply:
    """An array of one number, of a shape that is known when the function is traced."""
    value = site.attribute("value")
    value = np.zeros(1, np.float32) if value is None else value
    if not isinstance(value, np.ndarray) or value.size != 1:
        raise site.bad("a value of another type", "a tensor of one number")

    def apply(call: Call, shape: Any) -> Any:
        lengths = call.static_ints(shape, "shape")
        call.check_size(lengths)
        return np.full(lengths, value.reshape(()))

    return apply


@operator("Range", inputs=(3, 3), folds=True)
def arange(_: Site) -> Apply:
    """`start, start + delta, ...` below a limit."""

    def apply(call: Call, *operands: Any) -> Any:
        limits = [call.static(x, "limits").reshape(()) for x in operands]
        start, stop, step = (x.item() for x in limits)
        if step == 0 or not np.isfinite([start, stop, step]).all():
            raise call.bad(f"a step of {step}", "finite numbers, and a step")
        call.check_size([max(0, int(-(-(stop - start) // step)))])
        return np.arange(start, stop, step).astype(limits[0].dtype)

    return apply


@operator("Shape", folds=True)
def shape_of(site: Site) -> Apply:
    """The shape of the operand, int64, or the part from `start` to `end`."""
    start = site.integer("start", 0)
    end = site.integer("end", 2**31 - 1)
    return lambda call, x: np.asarray(x.shape, np.int64)[start:end]


@operator("Size", folds=True)
def size_of(_: Site) -> Apply:
    """The number of elements of the operand, int64."""
    return lambda call, x: np.asarray(x.size, np.int64)


@operator("Cast", folds=True)
def cast(site: Site) -> Apply:
    """To another type; floats that depend on the input keep the one that they have."""
    target = numpy_dtype(site.integer("to"), site.node.label)
    site.ignore("saturate")

    def apply(call: Call, x: Any) -> Any:
        if is_static(x):
            return x.astype(target)
        if target.kind == "f":
            return x.astype(call.dtype)
        return x.astype(canonical(target))

    return apply


@operator("Identity", folds=True)
def identity(_: Site) -> Apply:
    """The operand."""
    return lambda call, x: x


@operator("Dropout", inputs=(1, 3), folds=True, rows="first")
def dropout(site: Site) -> Apply:
    """The operand: nothing is dropped at inference."""
    site.ignore("ratio", "seed", "is_test")

    def apply(call: Call, x: Any, _: Any, training: Any) -> Any:
        if training is not None and call.static(training, "training mode").any():
            raise call.bad("training mode", "a model exported for inference")
        return x

    return apply


@operator("ArgMax", rows="first")
def arg_max(site: Site) -> Apply:
    """The index of the largest element along an axis, the first of several."""
    axis, keep = site.integer("axis", 0), site.flag("keepdims", True)
    if site.flag("select_last_index"):
        raise site.bad("select_last_index = 1", "the first index")

    def apply(call: Call, x: Any) -> Any:
        along = call.axis(axis, x.ndim)
        call.mix(along == 0)
        return jnp.argmax(x, axis=along, keepdims=keep)

    return apply
