"""Convolutions of any number of spatial axes; kernels are [window..., in, out]."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from graph.onnx._refuse import MAX_INDICES, check_size
from graph.onnx.operators.dense import PRECISION
from graph.onnx.registry import Apply, Call, Site, operator

AUTO = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")


@dataclasses.dataclass(frozen=True)
class Placed:
    """A window of known shape over data of known rank, one number for each axis.

    `pads` has the padding before all axes, then that after them.
    """

    auto: str
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Window:
    """How a window moves, as a node states it; None where it says nothing."""

    auto: str
    strides: tuple[int, ...] | None
    dilations: tuple[int, ...] | None
    pads: tuple[int, ...] | None
    shape: tuple[int, ...] | None

    def over(self, call: Call, rank: int, shape: tuple[int, ...]) -> Placed:
        """Returns the window over `rank` spatial axes, with `shape` as its own.

        Raises:
          DataFormatError: another number of axes, or another shape than stated.
        """
        placed = Placed(
            self.auto,
            self.strides or (1,) * rank,
            self.dilations or (1,) * rank,
            self.pads or (0,) * (2 * rank),
            shape,
        )
        fields = (placed.strides, placed.dilations, placed.shape, placed.pads)
        lengths = [len(f) for f in fields]
        if rank < 1 or lengths != [rank, rank, rank, 2 * rank]:
            raise call.bad(f"a window over {rank} axes", "one number for each axis")
        check_size(call.node.label, shape, MAX_INDICES)
        if self.shape and self.shape != shape:
            raise call.bad(
                f"kernel_shape {list(self.shape)[:8]}", f"the kernel's {list(shape)}"
            )
        return placed


def read_window(site: Site) -> Window:
    """Returns what a convolution or pooling node says of its window."""
    return Window(
        site.text("auto_pad", "NOTSET", AUTO),
        site.integers("strides", low=1),
        site.integers("dilations", low=1),
        site.integers("pads", low=0),
        site.integers("kernel_shape", low=1),
    )


def paddings(window: Placed, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Returns the padding before and after each spatial axis of the given lengths."""
    rank = len(sizes)
    if window.auto == "VALID":
        return [(0, 0)] * rank
    if window.auto == "NOTSET":
        return list(zip(window.pads[:rank], window.pads[rank:], strict=True))
    found = []
    for n, k, s, d in zip(
        sizes, window.shape, window.strides, window.dilations, strict=True
    ):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        small, large = total // 2, total - total // 2
        found.append((small, large) if window.auto == "SAME_UPPER" else (large, small))
    return found


def fitting(call: Call, window: Placed, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Returns `paddings` with which the window fits into the data at least once.

    Raises:
      DataFormatError: it does not.
    """
    pads = paddings(window, sizes)
    for n, k, d, ends in zip(sizes, window.shape, window.dilations, pads, strict=True):
        if n + sum(ends) < (k - 1) * d + 1:
            raise call.bad(f"{n} elements", f"as many as the window has, {k}")
    return pads


def numbers(rank: int) -> jax.lax.ConvDimensionNumbers:
    """Returns the axes of [N, C, ...] data and [..., in, out] kernels."""
    data = tuple(range(rank + 2))
    kernel = (rank + 1, rank, *range(rank))
    return jax.lax.ConvDimensionNumbers(data, kernel, data)


def kernel_layout(w: Any) -> Any:
    """Turns ONNX's [out, in/groups, window...] into [window..., in/groups, out]."""
    if w.ndim < 3:
        raise ValueError(f"a kernel of rank {w.ndim}")
    return w.transpose((*range(2, w.ndim), 1, 0))


def transposed_layout(w: Any, groups: int) -> Any:
    """Turns [in, out/groups, window...] into the flipped [window..., in/groups, out].

    A transposed convolution is the gradient of a convolution: flipped in space, its
    kernel is that of a convolution over the dilated input.
    """
    if w.ndim < 3 or w.shape[0] % groups:
        raise ValueError(f"a kernel of shape {list(w.shape)} in {groups} groups")
    rank = w.ndim - 2
    window = w.shape[2:]
    split = w.reshape(groups, w.shape[0] // groups, w.shape[1], *window)
    split = split.transpose((*range(3, rank + 3), 1, 0, 2))
    whole = split.reshape(*window, w.shape[0] // groups, groups * w.shape[1])
    return whole[(slice(None, None, -1),) * rank]


def _placed(call: Call, x: Any, kernel: Any, window: Window, groups: int) -> Placed:
    rank = x.ndim - 2
    if kernel.ndim != rank + 2:
        raise call.bad(f"data of rank {x.ndim}, kernel of {kernel.ndim}", "one rank")
    if kernel.shape[-2] * groups != x.shape[1] or kernel.shape[-1] % groups:
        given = f"{x.shape[1]} channels"
        raise call.bad(given, f"{kernel.shape[-2]} in each of {groups} groups")
    return window.over(call, rank, tuple(kernel.shape[:rank]))


def _with_bias(y: Any, bias: Any) -> Any:
    if bias is None:
        return y
    return y + jnp.reshape(bias, (1, -1) + (1,) * (y.ndim - 2))


@operator("Conv", inputs=(2, 3), rows="first")
def conv(site: Site) -> Apply:
    """A convolution of [N, C, ...] data, in groups, dilated, strided and padded."""
    window = read_window(site)
    groups = site.integer("group", 1, low=1)
    site.param(1, "kernel", kernel_layout, "conv")
    site.param(2, "bias")

    def apply(call: Call, x: Any, kernel: Any, bias: Any) -> Any:
        x, kernel = _arrays(call, x, kernel)
        moved = _placed(call, x, kernel, window, groups)
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            moved.strides,
            fitting(call, moved, x.shape[2:]),
            rhs_dilation=moved.dilations,
            dimension_numbers=numbers(x.ndim - 2),
            feature_group_count=groups,
            precision=PRECISION,
        )
        return _with_bias(y, bias)

    return apply


@operator("ConvTranspose", inputs=(2, 3), rows="first")
def conv_transpose(site: Site) -> Apply:
    """The gradient of a convolution, as one over the dilated input."""
    window = read_window(site)
    groups = site.integer("group", 1, low=1)
    extra = site.integers("output_padding", low=0)
    shape = site.integers("output_shape", low=1)
    layout = functools.partial(transposed_layout, groups=groups)
    site.param(1, "kernel", layout, f"transposed{groups}")
    site.param(2, "bias")

    def apply(call: Call, x: Any, kernel: Any, bias: Any) -> Any:
        x, kernel = _arrays(call, x, kernel)
        moved = _placed(call, x, kernel, window, groups)
        rank = x.ndim - 2
        more = extra or (0,) * rank
        spans = [
            (k - 1) * d for k, d in zip(kernel.shape[:-2], moved.dilations, strict=True)
        ]
        cut = _cut(call, moved, x.shape[2:], spans, more, shape)
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            (1,) * rank,
            [
                (span - low, span - high + add)
                for span, (low, high), add in zip(spans, cut, more, strict=True)
            ],
            lhs_dilation=moved.strides,
            rhs_dilation=moved.dilations,
            dimension_numbers=numbers(rank),
            feature_group_count=groups,
            precision=PRECISION,
        )
        return _with_bias(y, bias)

    return apply


def _arrays(call: Call, x: Any, kernel: Any) -> tuple[Any, Any]:
    if isinstance(x, np.ndarray):
        x = jnp.asarray(x, call.dtype)
    return x, call.like(kernel, x)


def _cut(
    call: Call, window: Placed, sizes: Any, spans: Any, extra: Any, shape: Any
) -> list[tuple[int, int]]:
    """How much of a transposed convolution's full result is cut off at each end."""
    rank = len(sizes)
    if shape is not None and len(shape) == rank + 2:
        shape = shape[2:]
    if any(f is not None and len(f) != rank for f in (extra, shape)):
        raise call.bad("output_shape or output_padding", f"{rank} numbers")
    if shape is None and window.auto in ("NOTSET", "VALID"):
        return paddings(window, sizes)
    strides = window.strides
    wanted = shape or [n * s for n, s in zip(sizes, strides, strict=True)]
    cut = []
    for n, s, span, add, out in zip(sizes, strides, spans, extra, wanted, strict=True):
        total = s * (n - 1) + add + span + 1 - out
        small = total // 2
        upper = window.auto == "SAME_UPPER"
        cut.append((small, total - small) if upper else (total - small, small))
    return cut
