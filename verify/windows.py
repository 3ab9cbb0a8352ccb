"""Rows of convolutional neurons as windows: what each one sees of an image.

A neuron of a convolution depends on its receptive field alone. Its row goes back as the
coefficients on that window and the window's place, until a node that is no convolution
and does not act on every number by itself, or a window that is no longer small: there
rows become whole again. It is the same arithmetic as `backward` without the products of
zeros, which are most of it: what auto_LiRPA calls patches.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core.types import Array
from graph import Node, Value
from verify import affine, convolution
from verify.backward import lower_of
from verify.network import Network, operands
from verify.types import Lines

LARGEST = 0.5
"""Share of an image up to which a window of it is worth while."""


class Layout(NamedTuple):
    """Which axes of a value are what; it holds one image."""

    batch: int
    channel: int
    rows: int
    columns: int

    def canonical(self, array: Array) -> Array:
        """Returns an array of a value's shape as [h, w, c]."""
        return array.transpose(self.batch, self.rows, self.columns, self.channel)[0]

    def back(self, images: Array) -> Array:
        """Returns images [S, h, w, c] as [S, *shape of the value]."""
        target = (self.batch, self.rows, self.columns, self.channel)
        order = [target.index(axis) + 1 for axis in range(4)]
        return images[:, None].transpose(0, *order)


class Plan(NamedTuple):
    """How far the rows of a value go back as windows.

    Attributes:
      nodes: that they pass, from the value back.
      value: where they begin.
      end: where they are whole again.
      layout: of all values between.
      window: its height and width on `end`.
    """

    nodes: tuple[Node, ...]
    value: Value
    end: Value
    layout: Layout
    window: tuple[int, int]

    @property
    def saved(self) -> float:
        """How many times larger `end` is than a window of it."""
        height, width = _size(self.end, self.layout)
        return height * width / math.prod(self.window)


def plan(network: Network, value: Value, before: Sequence[Node]) -> Plan | None:
    """Returns how the rows of a value go back as windows, None if they can not.

    Args:
      network: the function.
      value: where rows begin.
      before: the nodes that it depends on.
    """
    made_by = {out: node for node in before for out in node.outputs}
    passed: list[Node] = []
    layout, window, at = None, (1, 1), value
    while at in made_by:
        node = made_by[at]
        reached = operands(node, network.active)
        if len(reached) != 1 or len(node.outputs) != 1:
            break
        if node.op == "conv_general_dilated":
            own = _layout(node, at, reached[0])
            if own is None or layout not in (None, own):
                break
            larger = grown(node, window)
            if math.prod(larger) > LARGEST * math.prod(_size(reached[0], own)):
                break
            layout, window = own, larger
        elif not _acts_alone(network, node, reached[0], at):
            break
        passed.append(node)
        at = reached[0]
    if layout is None:
        return None
    return Plan(tuple(passed), value, at, layout, window)


def grown(node: Node, window: Sequence[int]) -> tuple[int, int]:
    """Returns what a window of a plain convolution's output sees of its input."""
    numbers, strides, _, dilation = convolution.plain(node.params)
    taps = [node.inputs[1].shape[axis] for axis in numbers.rhs_spec[2:]]
    height, width = (
        (n - 1) * s + (k - 1) * d + 1
        for n, s, k, d in zip(window, strides, taps, dilation, strict=True)
    )
    return height, width


def _layout(node: Node, out: Value, given: Value) -> Layout | None:
    """The layout of a plain convolution of one image, on both sides; else None."""
    plain = convolution.plain(node.params)
    if plain is None or len(out.shape) != 4 or node.inputs[0] is not given:
        return None
    numbers = plain[0]
    found = Layout(*numbers.out_spec)
    same = found == Layout(*numbers.lhs_spec) and out.shape[found.batch] == 1
    return found if same else None


def _acts_alone(network: Network, node: Node, given: Value, out: Value) -> bool:
    """Whether a node leaves every number where it is and reads no other."""
    if given.shape != out.shape:
        return False
    if affine.is_affine(node, network.active):
        is_first = node.inputs[0] is given
        return node.op in ("add", "mul") or (is_first and node.op == "sub")
    return len(node.inputs) == 1


def pulled(
    network: Network,
    table: Mapping[Value, Array],
    lines: Mapping[Node, Lines],
    how: Plan,
    neurons: Array,
) -> tuple[Array, Array, Array]:
    """Takes the rows of neurons back, both signs of each.

    Args:
      network: the function.
      table: its weights.
      lines: of the nonlinear nodes that are passed, of the nodes' shapes.
      how: the plan of the value that they are of.
      neurons: flat positions in it, int [n].

    Returns:
      Coefficients on `how.end` [2 n, *shape], the constants [2 n], and the size [2 n]
      of what affine operators added, as `backward` gives it.
    """
    axes = np.unravel_index(np.arange(math.prod(how.value.shape)), how.value.shape)
    place = [jnp.asarray(axes[k])[neurons] for k in how.layout]
    _, channel, row, column = place
    dtype = how.value.dtype
    features = how.value.shape[how.layout.channel]
    unit = jax.nn.one_hot(channel, features, dtype=dtype)[:, None, None]
    part = jnp.concatenate([unit, -unit])
    corner = jnp.tile(jnp.stack([row, column], -1), (2, 1))
    offset = size = jnp.zeros(part.shape[0], dtype)
    for node in how.nodes:
        (given,) = operands(node, network.active)
        if node.op == "conv_general_dilated":
            part, corner = _through(node, table, part, corner)
            part = _inside(part, corner, _size(given, how.layout))
        elif node.op == "mul":
            (other,) = (v for v in node.inputs if v is not given)
            factor = jnp.broadcast_to(table[other], given.shape)
            factor = _cut(how.layout.canonical(factor), corner, part.shape[1:3])
            part = part * factor
        elif node.op in ("add", "sub"):
            added = affine.constant(node, network.active, table)
            if added is not None:
                added = _cut(how.layout.canonical(added), corner, part.shape[1:3])
                offset = offset + (part * added).sum((1, 2, 3))
                size = size + jnp.abs(part * added).sum((1, 2, 3))
        else:
            cut = functools.partial(_cut, corner=corner, window=part.shape[1:3])
            whole = jax.tree.map(how.layout.canonical, lines[node])
            own = jax.tree.map(cut, whole)
            (part,), constant = lower_of(own, part, [True], [part])
            offset = offset + constant
    return _whole(part, corner, how), offset, size


def _size(value: Value, layout: Layout) -> tuple[int, int]:
    return value.shape[layout.rows], value.shape[layout.columns]


def _through(
    node: Node, table: Mapping[Value, Array], part: Array, corner: Array
) -> tuple[Array, Array]:
    """Coefficients on the window of a convolution's input, and where it begins."""
    numbers, strides, pads, dilation = convolution.plain(node.params)
    out, into, *taps = numbers.rhs_spec
    larger = grown(node, part.shape[1:3])
    weights = table[node.inputs[1]].transpose(*taps, into, out)
    none = ((0, 0), (0, 0))
    part = convolution.shifted(part, weights, larger, strides, none, dilation)
    before = jnp.asarray([pad[0] for pad in pads], corner.dtype)
    return part, corner * jnp.asarray(strides, corner.dtype)[None] - before[None]


def _inside(part: Array, corner: Array, size: tuple[int, int]) -> Array:
    """Coefficients without those on the padding."""
    for axis in (0, 1):
        at = corner[:, axis, None] + jnp.arange(part.shape[1 + axis])[None]
        there = (at >= 0) & (at < size[axis])
        shape = [part.shape[0], 1, 1, 1]
        shape[1 + axis] = part.shape[1 + axis]
        part = jnp.where(there.reshape(shape), part, 0)
    return part


def _cut(image: Array, corner: Array, window: tuple[int, ...]) -> Array:
    """The windows [S, h, w, c] of an image [H, W, C], zero outside of it."""
    height, width = window
    pads = ((height, height), (width, width), (0, 0))
    wide = jnp.pad(image, pads)

    def one(at: Array) -> Array:
        shape = (height, width, image.shape[-1])
        zero = jnp.zeros((), at.dtype)
        return jax.lax.dynamic_slice(wide, (at[0], at[1], zero), shape)

    start = _clipped(corner, image.shape, window)
    return jax.vmap(one)(start)


def _whole(part: Array, corner: Array, how: Plan) -> Array:
    """Windows put into images of zeros, [S, *shape of the end]."""
    size = _size(how.end, how.layout)
    window, features = part.shape[1:3], part.shape[-1]
    wide = [n + 2 * w for n, w in zip(size, window, strict=True)]

    def one(part: Array, at: Array) -> Array:
        canvas = jnp.zeros((*wide, features), part.dtype)
        zero = jnp.zeros((), at.dtype)
        return jax.lax.dynamic_update_slice(canvas, part, (at[0], at[1], zero))

    images = jax.vmap(one)(part, _clipped(corner, size, window))
    (height, width), (top, left) = size, window
    return how.layout.back(images[:, top : top + height, left : left + width])


def _clipped(corner: Array, size: Sequence[int], window: Sequence[int]) -> Array:
    """Corners in an image padded by a window on every side."""
    most = jnp.asarray(
        [n + w for n, w in zip(size, window, strict=False)], corner.dtype
    )
    return jnp.clip(corner + jnp.asarray(window, corner.dtype)[None], 0, most[None])
