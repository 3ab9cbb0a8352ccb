"""From an operator graph to what a device runs: products, and fused operators."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence

import jax.numpy as jnp
import numpy as np

from core.errors import GraphError, describe
from graph import Graph, Node, Value
from hw.gemm import Gemm, gemm_of
from hw.primitives import kind_of, operations


@dataclasses.dataclass(eq=False)
class Operator:
    """A product, or a chain of other operators that a compiler runs as one loop.

    Attributes:
      nodes: that it is made of.
      gemm: of a product, None of a chain.
      path: of the parameter that a product multiplies by, '' where there is none.
      parameters: leaves of the first argument that are read here first.
      depth: products and reductions on the longest way to it.
      weights: elements of parameters, or of what is made of them, that a call reads.
      inputs: elements of data that a call reads, each value once.
      outputs: elements that a call writes for others.
      weight_bits: mean width of those parameters, as they are stored.
      input_bits: mean width of the data that is read.
      output_bits: mean width of what is written.
      follows: path of the product whose results it reads, '' where there is none.
      calls: how often it runs; above 1 for what a loop repeats.
      sets: of parameters that its calls read: more than one where a loop over layers
        takes another slice of a stacked kernel each time.
      writers: operators whose results it reads.
      final: whether the function returns a result of it.
    """

    nodes: list[Node]
    gemm: Gemm | None = None
    path: str = ""
    parameters: set[Value] = dataclasses.field(default_factory=set)
    depth: int = 0
    weights: int = 0
    inputs: int = 0
    outputs: int = 0
    weight_bits: float = 0.0
    input_bits: float = 0.0
    output_bits: float = 0.0
    follows: str = ""
    calls: int = 1
    sets: set[tuple[int, ...]] = dataclasses.field(default_factory=set)
    writers: "set[Operator]" = dataclasses.field(default_factory=set)
    final: bool = False

    @property
    def key(self) -> object:
        """What two calls of one operator share."""
        if self.path:
            return self.path
        signature = tuple((n.op, n.source, n.outputs[0].shape) for n in self.nodes)
        read = frozenset(self.parameters)
        return signature, self.gemm, self.inputs, self.follows, read


def operators_of(graph: Graph) -> list[Operator]:
    """Returns the operators of a graph in the order of their first run.

    Operators with a value each and no product between them are one chain, as an XLA
    loop fusion: it reads what it needs from outside once and writes what others need.
    A reduction ends its chain. Calls with one parameter, as of a cell that a loop has
    unrolled, are one operator; so are chains of one line that follow one product and
    read the same parameters. What depends on parameters alone is computed once and
    for all, and counts as a parameter.

    Args:
      graph: of a function whose first argument holds the parameters.

    Raises:
      GraphError: a function of parameters alone.
    """
    walk = _Walk(graph)
    for node in _flat(graph.nodes):
        walk.add(node)
    if not walk.data:
        raise GraphError(
            describe(
                "a graph in which nothing depends on data",
                "a function fn(params, *data)",
                "Give the parameters as the first argument and data as the next.",
            )
        )
    walk.count()
    return _merged(walk.operators())


def _flat(nodes: Iterable[Node]) -> Iterator[Node]:
    """Nodes with composites that are in no table replaced by their bodies."""
    for node in nodes:
        if node.body is None or kind_of(node) is not None:
            yield node
            continue
        names = dict(zip(node.body.inputs, node.inputs, strict=True))
        last = dict(zip(node.body.outputs, node.outputs, strict=True))
        for inner in _flat(node.body.nodes):
            yield dataclasses.replace(
                inner,
                inputs=tuple(names.get(v, v) for v in inner.inputs),
                outputs=tuple(last.get(v, v) for v in inner.outputs),
            )


class _Walk:
    """Puts nodes together; one pass in topological order."""

    def __init__(self, graph: Graph):
        self.graph = graph
        self.leaves = {v: {v} for v in graph.inputs if v.argument == 0}
        self.data: set[Value] = {v for v in graph.inputs if v.argument != 0}
        self.depth = dict.fromkeys(graph.inputs, 0)
        self.home: dict[Value, Operator] = {}
        self.order: dict[int, Operator] = {}
        self.alias: dict[Operator | None, Operator] = {}
        self.forms: dict[object, int] = {}
        self.form: dict[Value, int] = {}

    def add(self, node: Node) -> None:
        """Adds a node to a chain, or as an operator of its own."""
        if not any(v in self.data for v in node.inputs):
            leaves = set().union(*(self.leaves.get(v, set()) for v in node.inputs))
            self.leaves.update((v, set(leaves)) for v in node.outputs)
            made = node.op, repr(node.params), tuple(map(self._form, node.inputs))
            for i, value in enumerate(node.outputs):
                self.form[value] = self._numbered((*made, i))
            return
        kind = kind_of(node)
        below = max((self.depth.get(v, 0) for v in node.inputs), default=0)
        ends = kind in ("product", "reduce", "window")
        self.depth.update(dict.fromkeys(node.outputs, below + ends))
        self.data.update(node.outputs)
        operator = Operator([node], depth=below)
        if kind == "product":
            side = next((i for i, v in enumerate(node.inputs) if v not in self.data), 1)
            operator.path = self._owner(node)
            operator.gemm = gemm_of(node, side)
        for value in node.inputs:
            operator.parameters |= self.leaves.get(value, set())
        self.order[id(operator)] = operator
        if kind not in ("product", "window"):
            operator = self._join(operator, node)
        self.home.update(dict.fromkeys(node.outputs, operator))

    def _form(self, value: Value) -> int:
        """A number that values share which are computed alike without data."""
        if value not in self.form:
            array = self.graph.constants.get(value)
            small = array is not None and _size(value) <= _SMALL
            same = np.asarray(array).tobytes() if small else value
            self.form[value] = self._numbered((same, value.shape, value.dtype))
        return self.form[value]

    def _numbered(self, key: object) -> int:
        return self.forms.setdefault(key, len(self.forms))

    def _owner(self, node: Node) -> str:
        """The path of the largest parameter that an operand without data comes from.

        Of equal ones, as gates of a cell that are put together, the first.
        """
        known = [v for v in node.inputs if v not in self.data]
        found = [leaf for v in known for leaf in self.leaves.get(v, ())]
        largest = min(found, key=lambda v: (-_size(v), v.index), default=None)
        return largest.path if largest is not None else ""

    def _join(self, operator: Operator, node: Node) -> Operator:
        """Puts a node and the chains that it reads, of its depth, into one."""
        near = [self._chain(self.home.get(value)) for value in node.inputs]
        chains = [c for c in near if c is not None and c.depth == operator.depth]
        if not chains:
            return operator
        first, *rest = dict.fromkeys(chains)
        for other in [*rest, operator]:
            first.nodes += other.nodes
            first.parameters |= other.parameters
            self.alias[other] = first
            del self.order[id(other)]
        return first

    def _last(self, operator: Operator) -> Operator:
        """The operator that one has become part of."""
        while operator in self.alias:
            operator = self.alias[operator]
        return operator

    def _chain(self, operator: Operator | None) -> Operator | None:
        """The chain that an operator has become part of; None of other operators."""
        operator = self._last(operator) if operator is not None else None
        if operator is None or operator.gemm is not None:
            return None
        return None if kind_of(operator.nodes[0]) == "window" else operator

    def operators(self) -> list[Operator]:
        """Those that do or move anything."""
        return [
            each
            for each in self.order.values()
            if each.gemm is not None or any(kind_of(n) != "view" for n in each.nodes)
        ]

    def count(self) -> None:
        """Counts what each operator reads and writes, and how wide that is."""
        readers: dict[Value, set[int]] = {}
        for each in self.order.values():
            for value in {v for n in each.nodes for v in n.inputs}:
                readers.setdefault(value, set()).add(id(each))
        final = set(self.graph.outputs)
        # A view alone is no operator: who reads it reads what it is a view of.
        viewed = {
            out: node.inputs[0]
            for each in self.order.values()
            if each.gemm is None and all(kind_of(n) == "view" for n in each.nodes)
            for node in each.nodes
            for out in node.outputs
        }

        def stored(value: Value) -> Value:
            while value in viewed:
                value = viewed[value]
            leaves = self.leaves.get(value)
            return max(leaves, key=_size) if leaves else value

        for each in self.order.values():
            made = {v for n in each.nodes for v in n.outputs}
            read = {v for n in each.nodes for v in n.inputs} - made
            fixed = {v: _read(v, each) for v in read if v in self.leaves}
            data = {v: _read(v, each) for v in read if v not in self.leaves}
            others = {
                v: _size(v)
                for v in made
                if v in final or readers.get(v, set()) - {id(each)}
            }
            each.final = any(v in final for v in made)
            own = sorted(self._form(v) for v in fixed if self.leaves[v])
            each.sets = {tuple(own)}
            homes = [self.home.get(stored(v)) for v in data]
            each.writers = {self._last(home) for home in homes if home is not None}
            if each.gemm is None:
                known = [self.home[v].path for v in data if v in self.home]
                each.follows = next((path for path in known if path), "")
            each.weights, each.inputs = sum(fixed.values()), sum(data.values())
            each.outputs = sum(others.values())
            plain = _width(each.nodes[0].outputs[0])
            each.output_bits = _mean([(n, _width(v)) for v, n in others.items()], plain)
            each.input_bits, each.weight_bits = (
                _mean([(n, _width(stored(v))) for v, n in side.items()], plain)
                for side in (data, fixed)
            )


_SMALL = 1024
"""Elements of a constant whose numbers are compared; of larger ones who made them."""


def _size(value: Value) -> int:
    return math.prod(value.shape)


def _width(value: Value) -> float:
    """Bits of an element, as it lies in memory."""
    dtype = value.dtype
    if jnp.issubdtype(dtype, jnp.floating):
        return float(jnp.finfo(dtype).bits)
    if jnp.issubdtype(dtype, jnp.integer):
        return float(jnp.iinfo(dtype).bits)
    return 8.0 * np.dtype(dtype).itemsize


def _mean(pairs: Sequence[tuple[int, float]], default: float) -> float:
    """The mean of widths by counts, or the default if nothing counts."""
    total = sum(n for n, _ in pairs)
    return sum(n * bits for n, bits in pairs) / total if total else default


def _read(value: Value, operator: Operator) -> int:
    """Elements that an operator reads of a value: of slices and gathers, the taken."""
    size = _size(value)
    users = [n for n in operator.nodes if value in n.inputs]
    if all(n.op in ("slice", "dynamic_slice", "gather") for n in users):
        return min(size, sum(math.prod(n.outputs[0].shape) for n in users))
    return size


def _merged(operators: Iterable[Operator]) -> list[Operator]:
    """Operators with the calls of one put together."""
    found: dict[object, Operator] = {}
    home: dict[Operator, Operator] = {}
    for each in operators:
        first = home[each] = found.setdefault(each.key, each)
        if first is each:
            continue
        first.parameters |= each.parameters
        first.writers |= each.writers
        first.final |= each.final
        if not each.sets <= first.sets:
            n = len(first.sets)
            first.weights = (first.weights * n + each.weights) // (n + 1)
            first.sets |= each.sets
        if first.gemm is not None and each.gemm is not None:
            first.gemm = _mean_gemm(first.gemm, each.gemm, first.calls)
        n = first.calls
        first.inputs = (first.inputs * n + each.inputs) // (n + 1)
        first.outputs = (first.outputs * n + each.outputs) // (n + 1)
        first.calls += 1
    for each in found.values():
        each.writers = {home[w] for w in each.writers if w in home}
    return list(found.values())


def _mean_gemm(first: Gemm, other: Gemm, calls: int) -> Gemm:
    """A GEMM with the mean work of calls of different sizes with one kernel."""
    if first == other:
        return first
    same = first.k * first.n * first.groups
    rows = (first.macs * calls + other.macs) / (calls + 1) / same
    return first._replace(m=rows)  # type: ignore[arg-type]


def work_of(operator: Operator) -> tuple[int, int]:
    """Returns the cheap operations and the functions of a call."""
    pairs = [operations(n) for n in operator.nodes]
    return sum(a for a, _ in pairs), sum(b for _, b in pairs)
