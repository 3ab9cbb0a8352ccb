"""Reductions over axes."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jax.scipy.special import logsumexp

from graph.onnx.registry import Apply, Call, Site, is_static, namespace, operator

_Reduce = Callable[[Any, Any, tuple[int, ...], bool], Any]


def _mean(xp: Any, x: Any, axes: tuple[int, ...], keep: bool) -> Any:
    if x.dtype.kind in "iu":
        raise ValueError("a mean of integers")
    count = float(np.prod([x.shape[a] for a in axes]))
    return xp.sum(x, axis=axes, keepdims=keep) * x.dtype.type(1.0 / max(count, 1.0))


_REDUCTIONS: dict[str, tuple[int, _Reduce]] = {
    # name: the version from which axes are an operand, and what it computes
    "ReduceMean": (18, _mean),
    "ReduceSum": (13, lambda xp, x, a, k: xp.sum(x, axis=a, keepdims=k)),
    "ReduceMax": (18, lambda xp, x, a, k: xp.max(x, axis=a, keepdims=k)),
    "ReduceMin": (18, lambda xp, x, a, k: xp.min(x, axis=a, keepdims=k)),
    "ReduceProd": (18, lambda xp, x, a, k: xp.prod(x, axis=a, keepdims=k)),
    "ReduceL1": (18, lambda xp, x, a, k: xp.sum(xp.abs(x), axis=a, keepdims=k)),
    "ReduceL2": (18, lambda xp, x, a, k: xp.sqrt(xp.sum(x * x, axis=a, keepdims=k))),
    "ReduceSumSquare": (18, lambda xp, x, a, k: xp.sum(x * x, axis=a, keepdims=k)),
    "ReduceLogSumExp": (
        18,
        lambda _, x, a, k: _like(x, logsumexp(x, axis=a, keepdims=k)),
    ),
}


def _like(x: Any, y: Any) -> Any:
    return np.asarray(y) if is_static(x) else y


def _reduction(name: str, since: int, fn: _Reduce) -> Callable[[Site], Apply]:
    def build(site: Site) -> Apply:
        stated = site.integers("axes") if site.opset < since else None
        keep = site.flag("keepdims", True)
        idle = site.opset >= since and site.flag("noop_with_empty_axes")

        def apply(call: Call, x: Any, given: Any) -> Any:
            axes = stated if given is None else call.static_ints(given, "axes")
            if not axes and idle:
                return x
            axes = call.axes(axes or range(x.ndim), x.ndim)
            call.mix(0 in axes)
            return fn(namespace(x), x, axes, keep)

        return apply

    build.__doc__ = f"{name}, over the given axes or all of them."
    return build


for _name, (_since, _fn) in _REDUCTIONS.items():
    operator(_name, inputs=(1, 2), rows="first", folds=True)(
        _reduction(_name, _since, _fn)
    )
