"""The operator table: a struct of arrays with a row for each operator."""

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from core.errors import InputError, RuleError, check_range, describe, nearest
from core.text import columns
from core.types import Array, ArrayLike
from graph import Graph, trace
from hw import patterns
from hw.operators import Operator, operators_of, work_of
from hw.primitives import kind_of

Kind = Literal["matmul", "conv", "depthwise", "attention", "window", "chain", "move"]
"""Products with a parameter; with none; pools; loops over elements; mere copies."""
PRODUCT_KINDS: tuple[Kind, ...] = ("matmul", "conv", "depthwise", "attention")

_SHAPE = ("calls", "groups", "m", "k", "n", "window", "width", "copies")
_WORK = ("elements", "functions", "parameters", "weights", "inputs", "outputs")
_FORMAT = ("weight_bits", "input_bits", "output_bits", "density", "input_density")


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=(*_SHAPE, *_WORK, *_FORMAT, "pattern"),
    meta_fields=("names", "paths", "kinds", "unknown"),
)
@dataclasses.dataclass(frozen=True, eq=False)
class Workload:
    """What a function does on the shapes it was traced at: arrays of shape [rows].

    All float32 and of one call, except where it says otherwise; `pattern` is int32.
    They are numpy's, on the host, until a design puts others in.

    Invariants: `macs == calls * groups * m * k * n`, 0 of what is no product; a path
    stands in at most one row; `parameters` adds up to all that the function reads.

    Attributes:
      calls: how often the operator runs, as in a loop.
      groups: independent products; see `hw.gemm.Gemm`.
      m: rows of data: examples times positions.
      k: terms of a sum.
      n: columns of weights.
      window: positions of a convolution's window.
      width: of a convolution's output, its last axis; 1 of other products.
      copies: sets of weights that the calls use: above 1 for slices of one parameter,
        as a loop over layers takes them, and after `distinct`.
      elements: cheap operations, such as additions and comparisons.
      functions: evaluations of exp, tanh, sqrt, ...
      parameters: elements of the leaves that no earlier row reads; of all calls.
      weights: elements of parameters that a call reads.
      inputs: elements of data that a call reads.
      outputs: elements that a call writes.
      weight_bits: width of a weight; that of an input where there is no kernel.
      input_bits: mean width of the values that are read.
      output_bits: mean width of the values that are written.
      density: kept share of the weights, in (0, 1].
      input_density: share of inputs that are not 0, in (0, 1].
      pattern: of the kept weights, an index in `hw.PATTERNS`.
      names: what to call the rows: path; of chains the path of the product whose
        results they read and their operators, or operators and line.
      paths: of the parameter that a product multiplies by, '' without one.
      kinds: of the rows.
      unknown: primitives that no table knows, with how often they occur; they count as
        one operation for each result.
    """

    calls: Array
    groups: Array
    m: Array
    k: Array
    n: Array
    window: Array
    width: Array
    copies: Array
    elements: Array
    functions: Array
    parameters: Array
    weights: Array
    inputs: Array
    outputs: Array
    weight_bits: Array
    input_bits: Array
    output_bits: Array
    density: Array
    input_density: Array
    pattern: Array
    names: tuple[str, ...]
    paths: tuple[str, ...]
    kinds: tuple[Kind, ...]
    unknown: tuple[tuple[str, int], ...] = ()

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.names)

    @property
    def macs(self) -> Array:
        """Multiply-accumulates of all calls, zeros and padding included."""
        return self.calls * self.groups * self.m * self.k * self.n

    @property
    def kept_macs(self) -> Array:
        """Multiply-accumulates with kept weights."""
        return self.macs * self.density

    @property
    def weight_bytes(self) -> Array:
        """Bytes of a call's weights: the kept ones and indices, or all if less."""
        return self.stored(1.0)[0]

    @property
    def index_bytes(self) -> Array:
        """Bytes of a call's indices alone, 0 where all weights are stored."""
        return self.stored(1.0)[1]

    def stored(self, share: ArrayLike) -> tuple[Array, Array]:
        """Returns bytes of a call's weights, and of those the indices, each [rows].

        Args:
          share: of the zeros that are left out, [rows] or [].
        """
        width = self.weight_bits
        index = patterns.index_bits(self.pattern, self.density) * share
        listed = (1.0 - share * (1.0 - self.density)) * width + index
        bits = jnp.minimum(listed, width)
        of_index = jnp.where(listed < width, index, 0.0)
        return self.weights * bits / 8, self.weights * of_index / 8

    @property
    def input_bytes(self) -> Array:
        """Bytes that a call reads of data."""
        return self.inputs * self.input_bits / 8

    @property
    def output_bytes(self) -> Array:
        """Bytes that a call writes."""
        return self.outputs * self.output_bits / 8

    @property
    def bytes(self) -> Array:
        """Bytes of all calls, each value once a call."""
        return self.calls * (self.weight_bytes + self.input_bytes + self.output_bytes)

    @property
    def reuse(self) -> Array:
        """Multiply-accumulates for each byte: the arithmetic intensity."""
        return self.macs / jnp.maximum(self.bytes, 1.0)

    def mask(self, *kinds: Kind) -> np.ndarray:
        """Whether rows are of some kinds, bool [rows]; static under `jit`."""
        return np.array([kind in kinds for kind in self.kinds])

    @property
    def is_product(self) -> np.ndarray:
        """Whether rows are products, bool [rows]."""
        return self.mask(*PRODUCT_KINDS)

    @property
    def total_macs(self) -> int:
        """The sum of `macs`, exact, on the host."""
        shape = (np.asarray(getattr(self, f), np.float64) for f in _SHAPE[:5])
        return round(float(sum(math.prod(r) for r in zip(*shape, strict=True))))

    @property
    def total_parameters(self) -> int:
        """The sum of `parameters`, exact, on the host."""
        return round(float(np.asarray(self.parameters, np.float64).sum()))

    def take(self, rows: Sequence[int] | np.ndarray) -> "Workload":
        """Returns the workload of some rows, by their numbers or by a bool [rows]."""
        chosen = np.asarray(rows)
        places = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(int)
        data = {f: getattr(self, f)[places] for f in _DATA}
        names = {
            f: tuple(getattr(self, f)[i] for i in places)
            for f in ("names", "paths", "kinds")
        }
        return dataclasses.replace(self, **data, **names)

    def __str__(self) -> str:
        """A line for each row, and the totals."""
        head = ("", "kind", "calls", "groups", "m", "k", "n", "MACs", "bytes")
        macs, size = np.asarray(self.macs), np.asarray(self.bytes)
        shape = [np.asarray(getattr(self, f)) for f in _SHAPE[:5]]
        lines = [
            (
                *(self.names[i], self.kinds[i], *(f"{s[i]:g}" for s in shape)),
                *(f"{macs[i]:,.0f}", f"{size[i]:,.0f}"),
            )
            for i in range(len(self))
        ]
        total = f"{self.total_macs:,}", f"{size.sum():,.0f}"
        text = columns([head, *lines, ("total", *[""] * 6, *total)])
        if self.unknown:
            text += "\nunknown primitives: " + ", ".join(
                f"{name} x{count}" for name, count in self.unknown
            )
        return text


_DATA = (*_SHAPE, *_WORK, *_FORMAT, "pattern")
PerPath = float | str | Mapping[str, Any] | Sequence[Any] | None


def workload(
    fn: Graph | Callable[..., Any],
    *example_args: Any,
    density: PerPath = None,
    bits: PerPath = None,
    pattern: PerPath = None,
    input_bits: PerPath = None,
    input_density: PerPath = None,
) -> Workload:
    """Returns the operator table of a function at the shapes of its arguments.

    Nothing is computed and no weight is read: shapes are enough. What depends on the
    parameters alone, such as a folded norm, is computed before and costs nothing here.

    Args:
      fn: a graph of `graph.trace`, or a function `fn(params, *data)`.
      *example_args: arrays or `jax.ShapeDtypeStruct`s, if `fn` is a function.
      density: kept share of weights: a number for all kernels, numbers by path, or what
        `gap.summary` returns; other kernels are dense.
      bits: width of weights, likewise, or what `quant.summary` returns; others have the
        width of their type.
      pattern: a name in `PATTERNS`, likewise; dense kernels with a density below 1 are
        'unstructured'.
      input_bits: width of what meets a kernel, by path, and of results that such
        kernels alone read; a number holds for all data.
      input_density: share of that which is not 0.

    Raises:
      GraphError: a function that has no operator graph, or reads no data.
      RuleError: a path that is no kernel's; the nearest ones are listed.
      InputError: a number outside of its range, or no such pattern.

    Example:
      >>> layer = lambda p, x: jax.nn.relu(x @ p["kernel"])
      >>> shapes = {"kernel": jax.ShapeDtypeStruct((64, 10), jnp.float32)}
      >>> table = workload(layer, shapes, jax.ShapeDtypeStruct((8, 64), jnp.float32))
      >>> table.paths, table.total_macs
      (('kernel', ''), 5120)
    """
    traced = fn if isinstance(fn, Graph) else trace(fn, *example_args)
    found = operators_of(traced)
    paths = tuple(each.path for each in found)
    kinds: list[Kind] = [_kind(each) for each in found]
    read, rows = set(), []
    for each in found:
        fresh = each.parameters - read
        read |= fresh
        rows.append(_row(each, sum(math.prod(v.shape) for v in fresh)))
    columns_ = dict(zip((*_SHAPE, *_WORK), zip(*rows, strict=True), strict=True))
    data: dict[str, Any] = {
        name: np.asarray(c, np.float32) for name, c in columns_.items()
    }
    kernels = np.array([bool(path) for path in paths])
    wide = {
        side: np.array([getattr(each, f"{side}_bits") for each in found])
        for side in ("weight", "input", "output")
    }
    if isinstance(density, list | tuple):
        leaves = {v.path for v in traced.inputs if v.argument == 0}
        density = _listed("density", density, paths, leaves)
    if isinstance(bits, list | tuple):
        bits = _listed("bits", bits, paths, set())
    given = _spread("density", density, 1.0, paths, kernels)
    data["density"] = _checked("density", given, 1.0)
    everywhere = np.ones(len(paths), bool)
    inputs = _spread("input_bits", input_bits, wide["input"], paths, everywhere)
    data["input_bits"] = _checked("input_bits", inputs, 64.0)
    if isinstance(input_bits, Mapping):
        outputs = _written(found, inputs, wide)
    else:
        outputs = wide["output"] if input_bits is None else inputs
    data["output_bits"] = outputs.astype(np.float32)
    # A row without a kernel multiplies or adds data alone.
    own = np.where(kernels, wide["weight"], inputs)
    data["weight_bits"] = _checked(
        "bits", _spread("bits", bits, own, paths, kernels), 64.0
    )
    share = _spread("input_density", input_density, 1.0, paths, kernels)
    data["input_density"] = _checked("input_density", share, 1.0)
    data["pattern"] = _patterns(pattern, data["density"], paths, kernels)
    return Workload(
        **data,
        names=_names(found),
        paths=paths,
        kinds=tuple(kinds),
        unknown=_unknown(found),
    )


def design(
    table: Workload,
    *,
    bits: ArrayLike | None = None,
    density: ArrayLike | None = None,
    pattern: str | ArrayLike | None = None,
    input_bits: ArrayLike | None = None,
    input_density: ArrayLike | None = None,
) -> Workload:
    """Returns the workload with other formats; jittable, differentiable, vmapped.

    Args:
      table: any workload.
      bits: of weights, [] or [rows]; rows without a kernel multiply data by data, and
        have the bits of their inputs.
      density: of weights, likewise; dense rows that get one below 1 are 'unstructured'.
      pattern: of kernels: a name, or indices in `PATTERNS`, [] or [rows].
      input_bits: of inputs and outputs, [] or [rows], of all rows.
      input_density: of the inputs of products.

    Raises:
      InputError: a number outside of its range, where it is known when this is called.
      UnknownNameError: no such pattern.
    """
    kernel = np.array([bool(path) for path in table.paths])
    every = np.ones(len(table), bool)

    def put(
        name: str, new: ArrayLike | None, high: float, old: Array, where: np.ndarray
    ) -> Array:
        if new is None:
            return old
        if not isinstance(new, Tracer):
            _checked(name, np.asarray(new, np.float64), high)
        new = jnp.broadcast_to(jnp.asarray(new, np.float32), old.shape)
        return jnp.where(where, new, old)

    data = put("input_bits", input_bits, 64.0, table.input_bits, every)
    widths = put("bits", bits, 64.0, table.weight_bits, kernel)
    kept = put("density", density, 1.0, table.density, kernel)
    codes = table.pattern
    if pattern is not None:
        codes = jnp.where(kernel, _codes(pattern), codes)
    if density is not None:
        listed = kernel & (codes == patterns.code("dense")) & (kept < 1)
        codes = jnp.where(listed, patterns.code("unstructured"), codes)
    share = table.input_density
    return dataclasses.replace(
        table,
        weight_bits=jnp.where(kernel, widths, data),
        density=kept,
        pattern=codes.astype(np.int32),
        input_bits=data,
        output_bits=put("input_bits", input_bits, 64.0, table.output_bits, every),
        input_density=put("input_density", input_density, 1.0, share, table.is_product),
    )


def _codes(pattern: str | ArrayLike) -> ArrayLike:
    """Indices in `PATTERNS`; those that are known are checked."""
    if isinstance(pattern, str):
        return patterns.code(pattern)
    if not isinstance(pattern, Tracer):
        for value in np.unique(np.asarray(pattern)):
            check_range("pattern", float(value), 0, len(patterns.PATTERNS) - 1)
    return pattern


def distinct(table: Workload) -> Workload:
    """Returns the workload with equal rows put together: fewer rows, equal totals.

    `calls`, `copies` and `parameters` add up; names and paths are those of the first.
    It reads the table on the host; designs that differ from row to row stay apart.
    """
    added = ("calls", "copies", "parameters")
    same = [f for f in _DATA if f not in added]
    data = {f: np.asarray(getattr(table, f)) for f in _DATA}
    place: dict[Any, int] = {}
    home = []
    for i in range(len(table)):
        key = table.kinds[i], *(data[f][i].item() for f in same)
        home.append(place.setdefault(key, len(place)))
    first = [home.index(i) for i in range(len(place))]
    small = table.take(np.array(first, int))

    summed = {name: np.bincount(home, data[name]).astype(np.float32) for name in added}
    return dataclasses.replace(small, **summed)


def _kind(operator: Operator) -> Kind:
    gemm = operator.gemm
    if gemm is not None:
        if not operator.path:
            return "attention"
        if operator.nodes[0].op == "dot_general":
            return "matmul"
        return "depthwise" if gemm.k == gemm.window and gemm.groups > 1 else "conv"
    kinds = {kind_of(n) for n in operator.nodes}
    if "window" in kinds:
        return "window"
    return "move" if kinds <= {"move", "view"} else "chain"


def _row(operator: Operator, fresh: int) -> list[float]:
    gemm = operator.gemm
    shape = gemm or (0, 0, 0, 0, 1, 1)
    work = work_of(operator)
    weights = operator.weights
    sizes = [fresh, weights, operator.inputs, operator.outputs]
    return [operator.calls, *shape, len(operator.sets), *work, *sizes]


def _spread(
    name: str, given: PerPath, default: Any, paths: tuple[str, ...], where: np.ndarray
) -> np.ndarray:
    """A number for each row from one for all, or from those by path."""
    base = np.broadcast_to(np.asarray(default, np.float64), where.shape).copy()
    if given is None:
        return base
    if not isinstance(given, Mapping):
        if np.ndim(given) != 0:
            wanted = "a number, numbers by path, or what a summary returns"
            raise InputError(f"{name}: {describe(repr(given)[:60], wanted)}")
        base[where] = given
        return base
    for path, value in given.items():
        base[_place(name, path, paths)] = value
    return base


def _listed(
    name: str, rows: Sequence[Any], paths: tuple[str, ...], leaves: set[str]
) -> dict[str, float]:
    """Numbers by path from a summary's rows, without those that are no kernels.

    Those are vectors, as biases, and dense parameters that no product reads.
    """
    if not all(hasattr(row, "path") and hasattr(row, name) for row in rows):
        wanted = f"a number, numbers by path, or rows with a path and {name}"
        raise InputError(f"{name}: {describe(repr(rows)[:60], wanted)}")

    def left_out(row: Any) -> bool:
        if row.path in paths:
            return False
        vector = len(getattr(row, "shape", (1, 1))) < 2
        return vector or (row.path in leaves and getattr(row, name) >= 1)

    return {row.path: getattr(row, name) for row in rows if not left_out(row)}


def _written(
    found: Sequence[Operator], inputs: np.ndarray, wide: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Widths of results: those that all of their readers were given, if they agree."""
    read: dict[int, set[float]] = {}
    for reader, bits, plain in zip(found, inputs, wide["input"], strict=True):
        for writer in reader.writers:
            given = {float(bits)} if bits != plain else {-1.0}
            read.setdefault(id(writer), set()).update(given)
    outputs = wide["output"].copy()
    for i, each in enumerate(found):
        widths = read.get(id(each), set())
        if len(widths) == 1 and min(widths) > 0 and not each.final:
            outputs[i] = widths.pop()
    return outputs


def _place(name: str, path: str, paths: tuple[str, ...]) -> int:
    if path not in paths:
        known = [p for p in paths if p]
        near = ", ".join(nearest(path, known, 5) or known[:5]) or "(no kernel)"
        wanted = "the path of a parameter that something multiplies by"
        hint = f"The nearest are {near}."
        raise RuleError(f"{name}: {describe(repr(path), wanted, hint)}")
    return paths.index(path)


def _checked(name: str, values: np.ndarray, high: float) -> np.ndarray:
    for value in np.unique(values):
        check_range(name, float(value), 0.0, high, low_open=True)
    return values.astype(np.float32)


def _patterns(
    given: Any, density: np.ndarray, paths: tuple[str, ...], kernels: np.ndarray
) -> np.ndarray:
    sparse = kernels & (density < 1)
    codes = np.full(len(paths), patterns.code("dense"))
    if isinstance(given, Mapping):
        for path, name in given.items():
            codes[_place("pattern", path, paths)] = patterns.code(name)
    elif given is not None:
        if not isinstance(given, str):
            raise InputError(
                f"pattern: {describe(repr(given), 'a name, or names by path')}"
            )
        codes[kernels] = patterns.code(given)
    listed = sparse & (codes == patterns.code("dense"))
    return np.where(listed, patterns.code("unstructured"), codes).astype(np.int32)


def _names(found: Sequence[Operator]) -> tuple[str, ...]:
    """Paths; chains after the product that they follow, or with their line.

    What is named alike gets a number.
    """
    names, seen = [], Counter()
    for each in found:
        name = each.path or _label(each)
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return tuple(names)


def _label(operator: Operator) -> str:
    ops = [n.op for n in operator.nodes if kind_of(n) != "view"]
    first = "+".join(list(dict.fromkeys(ops))[:3]) + ("+..." if len(ops) > 3 else "")
    if operator.follows:
        return f"{operator.follows}: {first}"
    line = PurePath(operator.nodes[-1].source.split(" ")[0]).name
    return f"{first} {line}".strip()


def _unknown(found: Iterable[Operator]) -> tuple[tuple[str, int], ...]:
    counts: Counter[str] = Counter()
    for each in found:
        for node in each.nodes:
            if kind_of(node) is None:
                counts[node.op] += each.calls
    return tuple(sorted(counts.items()))
