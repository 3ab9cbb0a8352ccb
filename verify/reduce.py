"""A ReLU network restricted to a region: dense, and only as large as what is unstable.

Within bounds of its hidden values most ReLUs are fixed: active ones are the identity,
inactive ones are zero, and both are affine. What is left is exactly

    z_k = [x, h_1, .., h_{k-1}] D_k + c_k,   h_k = relu(z_k),   y = [x, h] D + c

over the unstable neurons alone. A search that bounds it many times does a few small
matrix products where the original network needs all of its convolutions.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core.errors import GraphError, NonFiniteError, describe
from core.types import Array, PyTree
from graph import Node, Value
from verify.backward import backward
from verify.network import Network, Weights
from verify.relaxing import Hidden
from verify.types import Bounds

CHUNK = 64
"""Rows that go back at once; every network compiles one program a layer for it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Reduced:
    """The dense form of a network over one region.

    Attributes:
      params: {"layers": [{"matrix": D_k [n_before, n_k], "bias": c_k [n_k]}, ..],
        "output": {"matrix": .., "bias": ..}}, padded to `sizes`, and "lost": what
        underflow may cost a row, and a unit of a coefficient on any z_k or y, since
        coefficients of D_k underflowed too; see `rounding.underflow`.
      index: for each ReLU layer the flat indices of its unstable neurons; those after
        them, up to the padded size, are constant and inactive.
      hidden: bounds of z_k [n_k], padded.
      bias: what enters each z_k besides weighted inputs in the original network, [n_k];
        branching heuristics use it.
      size: of the terms that c_k is the sum of, [n_k], not padded: what it lost where
        they cancelled is a share of that, and bounds made from this form lack it.
    """

    params: PyTree
    index: tuple[np.ndarray, ...]
    hidden: Hidden
    bias: tuple[np.ndarray, ...]
    size: tuple[np.ndarray, ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Padded numbers of neurons."""
        return tuple(layer["bias"].shape[0] for layer in self.params["layers"])

    @property
    def unstable(self) -> int:
        """The number of unstable neurons."""
        return sum(len(each) for each in self.index)


def apply(params: PyTree, x: Array) -> Array:
    """Returns the outputs [n_y] of a reduced network for a flat input [n_x]."""
    parts = [x]
    for layer in params["layers"]:
        z = jnp.concatenate(parts) @ layer["matrix"] + layer["bias"]
        parts.append(jax.nn.relu(z))
    return (
        jnp.concatenate(parts) @ params["output"]["matrix"] + params["output"]["bias"]
    )


class Reducer:
    """Makes the reduced forms of one network; compiles once a layer.

    Raises:
      GraphError: a nonlinear operator other than a ReLU.
    """

    def __init__(self, network: Network):
        for node in network.nonlinear:
            if node.op != "relu":
                where = node.source or "an unknown line"
                raise GraphError(
                    f"reduce: {node.op} at {where}: "
                    + describe("a nonlinear operator", "ReLUs only")
                )
        self.network = network
        self.layers = [node.inputs[0] for node in network.nonlinear]
        self._pull = functools.lru_cache(maxsize=None)(self._make_pull)
        self._biases = jax.jit(self._local_biases)

    def __call__(
        self,
        weights: Weights,
        hidden: Sequence[Bounds],
        sizes: Sequence[int] | None = None,
        lost: Array | float = 0.0,
    ) -> Reduced:
        """Returns the reduced form within hidden bounds.

        Args:
          weights: of the network.
          hidden: bounds of `network.hidden`.
          sizes: neurons to pad each layer to; the next sizes of `ladder` if left out.
          lost: to underflow in the network over the region; see `crown.lost_within`.

        Raises:
          NonFiniteError: hidden bounds that are NaN, as those of NaN weights are.
        """
        bounds = dict(zip(self.network.hidden, hidden, strict=True))
        lower = [np.asarray(bounds[v].lower).ravel() for v in self.layers]
        upper = [np.asarray(bounds[v].upper).ravel() for v in self.layers]
        if any(np.isnan(end).any() for end in lower + upper):
            given = "hidden bounds that are NaN"
            remedy = "Look for NaN among the weights."
            raise NonFiniteError(f"reduce: {describe(given, 'numbers', remedy)}")
        index = tuple(
            np.flatnonzero((low < 0) & (high > 0))
            for low, high in zip(lower, upper, strict=True)
        )
        active = tuple(
            jnp.asarray((low >= 0).reshape(v.shape), v.dtype)
            for low, v in zip(lower, self.layers, strict=True)
        )
        sizes = sizes or tuple(
            padded_size(len(each), len(low))
            for each, low in zip(index, lower, strict=True)
        )
        biases = self._biases(weights)
        layers, boxes, local, terms = [], [], [], []
        for k, value in enumerate(self.layers):
            part, size = self._rows(weights, active, value, index[k], index, sizes[:k])
            terms.append(size)
            layers.append(_padded(part, sizes[k]))
            low, high = lower[k][index[k]], upper[k][index[k]]
            boxes.append(Bounds(_fill(low, sizes[k], -1), _fill(high, sizes[k], -1)))
            flat = np.asarray(biases[k]).ravel()[index[k]]
            local.append(_fill(flat, sizes[k], 0))
        out = self.network.output
        every = np.arange(int(np.prod(out.shape)))
        output, _ = self._rows(weights, active, out, every, index, sizes)
        params: dict[str, Any] = {"layers": layers, "output": output}
        params["lost"] = np.asarray(lost, out.dtype)
        return Reduced(params, index, tuple(boxes), tuple(local), tuple(terms))

    def _rows(self, weights, active, value, rows, index, sizes):
        """D and c of some neurons of a value, layers padded; the size of c."""
        pull, reached = self._pull(value)
        n_x = int(np.prod(self.network.input.shape))
        dtype = self.network.input.dtype
        matrix = np.zeros((n_x + sum(sizes), len(rows)), dtype)
        bias, size = np.zeros((2, len(rows)), dtype)
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            padded = np.pad(part, (0, CHUNK - len(part)), mode="edge")
            found = pull(weights, active, jnp.asarray(padded))
            own = slice(start, start + len(part))
            bias[own] = np.asarray(found["bias"])[: len(part)]
            size[own] = np.asarray(found["size"])[: len(part)]
            if found["input"] is not None:
                matrix[:n_x, own] = np.asarray(found["input"])[: len(part)].T
            at = n_x
            for k, width in enumerate(sizes):
                if k in reached and found["cut"][k] is not None:
                    columns = np.asarray(found["cut"][k])[: len(part), index[k]]
                    matrix[at : at + len(index[k]), own] = columns.T
                at += width
        return {"matrix": matrix, "bias": bias}, size

    def _make_pull(self, value: Value) -> tuple[Any, set[int]]:
        """A jitted pull of rows of `value` to the input and the cut ReLUs."""
        network = self.network
        order = {node: k for k, node in enumerate(network.nonlinear)}
        before = network.before(value)
        reached = {order[node] for node in before if node in order}
        size = int(np.prod(value.shape))

        @jax.jit
        def pull(weights: Weights, active: Sequence[Array], rows: Array) -> Any:
            cut: list[Any] = [None] * len(order)

            def relax(node: Node, coefficient: Array) -> Any:
                k = order[node]
                cut[k] = coefficient.reshape(coefficient.shape[0], -1)
                zero = jnp.zeros(coefficient.shape[0], coefficient.dtype)
                return (coefficient * active[k][None],), zero

            unit = jax.nn.one_hot(rows, size, dtype=value.dtype)
            unit = unit.reshape(-1, *value.shape)
            table = network.table(weights)
            left, bias, terms = backward(network, table, {value: unit}, relax, before)
            given = left.get(network.input)
            if given is not None:
                given = given.reshape(given.shape[0], -1)
            return {"input": given, "cut": cut, "bias": bias, "size": terms}

        return pull, reached

    def _local_biases(self, weights: Weights) -> list[Array]:
        """Each z_k where the input and all ReLUs are zero."""
        network = self.network
        known = network.table(weights)
        known[network.input] = jnp.zeros(network.input.shape, network.input.dtype)
        for node in network.nodes:
            if node in network.nonlinear:
                (out,) = node.outputs
                known[out] = jnp.zeros(out.shape, out.dtype)
            else:
                known.update(
                    zip(
                        node.outputs,
                        node(*(known[v] for v in node.inputs)),
                        strict=True,
                    )
                )
        return [known[value] for value in self.layers]


def reduce_within(
    network: Network,
    weights: Weights,
    hidden: Hidden,
    lost: Array | float,
    sizes: Sequence[int],
) -> tuple[PyTree, Hidden, tuple[Array, ...]]:
    """Returns a reduced form as traced arrays: `params`, `hidden` and `bias`.

    It can be compiled and mapped over hidden bounds, where `Reducer` reads them on the
    host. Layers with more unstable neurons than their size give a wrong form: count
    them first.

    Args:
      network: of ReLUs alone.
      weights: of the network.
      hidden: bounds of `network.hidden`.
      lost: as `Reducer` takes it.
      sizes: neurons of each layer of the form.
    """
    reducer = Reducer(network)
    bounds = dict(zip(network.hidden, hidden, strict=True))
    flat = [Bounds(*(a.ravel() for a in bounds[v])) for v in reducer.layers]
    open_ = [(b.lower < 0) & (b.upper > 0) for b in flat]
    index = [
        jnp.argsort(~each, stable=True)[:n]
        for each, n in zip(open_, sizes, strict=True)
    ]
    valid = [each[i] for each, i in zip(open_, index, strict=True)]
    active = [
        (b.lower >= 0).reshape(v.shape).astype(v.dtype)
        for b, v in zip(flat, reducer.layers, strict=True)
    ]
    n_x = int(np.prod(network.input.shape))

    def rows(value: Value, which: Array, before: int) -> dict[str, Array]:
        pull, _ = reducer._pull(value)
        found = pull(weights, tuple(active), which)
        count = which.shape[0]
        parts = [found["input"]]
        if parts[0] is None:
            parts = [jnp.zeros((count, n_x), value.dtype)]
        for k in range(before):
            cut = found["cut"][k]
            if cut is None:
                parts.append(jnp.zeros((count, sizes[k]), value.dtype))
            else:
                parts.append(jnp.where(valid[k][None], cut[:, index[k]], 0.0))
        return {"matrix": jnp.concatenate(parts, 1).T, "bias": found["bias"]}

    local = reducer._local_biases(weights)
    layers, boxes, biases = [], [], []
    for k, value in enumerate(reducer.layers):
        part = rows(value, index[k], k)
        layers.append(
            {
                "matrix": jnp.where(valid[k][None], part["matrix"], 0.0),
                "bias": jnp.where(valid[k], part["bias"], -1.0),
            }
        )
        low, high = (jnp.where(valid[k], end[index[k]], -1.0) for end in flat[k])
        boxes.append(Bounds(low, high))
        biases.append(jnp.where(valid[k], local[k].ravel()[index[k]], 0.0))
    every = jnp.arange(int(np.prod(network.output.shape)))
    output = rows(network.output, every, len(sizes))
    params: dict[str, Any] = {"layers": layers, "output": output}
    params["lost"] = jnp.asarray(lost, network.output.dtype)
    return params, tuple(boxes), tuple(biases)


SMALL = 256
"""Layers of no more neurons keep their size, so that all regions share one shape."""


def padded_size(unstable: int, size: int) -> int:
    """Returns what a layer of so many unstable neurons, of `size` in all, is padded to.

    Fewer shapes are fewer compilations, which cost more than small products.
    """
    return size if size <= SMALL else min(ladder(unstable), size)


def ladder(n: int) -> int:
    """Returns the least of 16, 32, 48, 64, 96, 128, 192, .. that is at least `n`."""
    size = 16
    while size < n:
        size = size * 3 // 2 if size & (size - 1) == 0 and size > 16 else _double(size)
    return size


def _double(size: int) -> int:
    return 32 if size == 16 else size * 4 // 3


def _padded(layer: dict[str, Any], size: int) -> dict[str, Any]:
    matrix, bias = layer["matrix"], layer["bias"]
    extra = size - bias.shape[0]
    return {
        "matrix": np.pad(matrix, ((0, 0), (0, extra))),
        "bias": np.pad(bias, (0, extra), constant_values=-1),
    }


def _fill(values: np.ndarray, size: int, fill: float) -> np.ndarray:
    return np.pad(values, (0, size - len(values)), constant_values=fill)
