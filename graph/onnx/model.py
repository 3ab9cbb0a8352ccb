"""A parsed and checked ONNX model, free of protobuf."""

import dataclasses
import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import LatheError
from graph.onnx._refuse import bad, short
from graph.onnx.files import MAX_BYTES, read_model
from graph.onnx.tensors import dtype_name, to_array
from graph.onnx.wire import scan

MAX_OPSET = 26
"""The newest operator set whose definitions this package knows."""


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """What a model states of one input or output.

    Attributes:
      name: in the model.
      shape: a length per axis; text where the length is free (a batch, say), ''
        where the model does not even name it. None if the model states no shape.
      dtype: numpy's name, such as 'float32'; 'bfloat16' and 'unknown' occur too.
    """

    name: str
    shape: tuple[int | str, ...] | None
    dtype: str

    def concrete(self, batch: int = 1) -> tuple[int, ...] | None:
        """Returns the shape with `batch` for a free first axis.

        None if another axis is free as well, or nothing is known of the shape.
        """
        shape = self.shape
        if shape is None or any(isinstance(n, str) for n in shape[1:]):
            return None
        return tuple(batch if isinstance(n, str) else n for n in shape)


@dataclasses.dataclass(frozen=True)
class Description:
    """What a model states of itself.

    Attributes:
      inputs: without the initializers that old models list as inputs too.
      outputs: of the model.
      opset: version of ONNX's operators that the model is written for.
      operators: how often each operator occurs.
      producer: the program that wrote the model, '' if it does not say.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    opset: int
    operators: Mapping[str, int]
    producer: str


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One node of a model; '' stands for an operand or result left out.

    Attributes:
      op: operator, with its domain in front if that is not ONNX's own.
      name: as in the model, may be ''.
      index: position in the file.
      inputs: names of the operands.
      outputs: names of the results.
      attributes: Python values; what this package has no use for is a message.
    """

    op: str
    name: str
    index: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    @property
    def label(self) -> str:
        """How messages name the node."""
        return f"{self.op} node {short(self.name or f'number {self.index}')}"


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A model: nodes in topological order, only those that outputs depend on.

    Attributes:
      description: what the file states.
      nodes: every operand is an input, a constant or a result of an earlier node.
      constants: the initializers, by name.
    """

    description: Description
    nodes: tuple[Node, ...]
    constants: Mapping[str, np.ndarray]


def read(path: str | Path, max_bytes: int = MAX_BYTES) -> Model:
    """Returns the model of a file.

    Raises:
      DataFormatError: not a model, or one that breaks the format's rules.
      InputError: no such file.
    """
    data = read_model(path, max_bytes)
    proto = _parse(data)
    try:
        return _checked(proto, Path(path).parent)
    except LatheError:
        raise
    except Exception as e:  # the parser lets some malformed text pass until it is read
        raise bad("the file", f"{type(e).__name__} ({e})", "a valid model") from e


def _parse(data: bytes) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    scan(data, onnx.ModelProto.DESCRIPTOR)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except (DecodeError, RuntimeError, ValueError) as e:
        raise bad("the file", f"no protobuf message ({e})", "an ONNX model") from e
    if not proto.HasField("graph") or not proto.graph.output:
        raise bad("the file", "a message without a graph", "an ONNX model")
    return proto


def _checked(proto: Any, folder: Path) -> Model:
    graph = proto.graph
    opset = _opset(proto)
    if any(f.domain in ("", "ai.onnx") for f in proto.functions):
        raise bad("the file", "its own definition of an operator", "ONNX's")
    if graph.sparse_initializer:
        raise bad("the graph", "a sparse initializer", "dense initializers")
    known = _unique([t.name for t in graph.initializer], "initializer")
    inputs = tuple(_info(v) for v in graph.input if v.name not in known)
    outputs = tuple(_info(v) for v in graph.output)
    _unique([v.name for v in graph.input], "input")
    nodes = [_node(n, i) for i, n in enumerate(graph.node)]
    given = known | {v.name for v in inputs}
    nodes = _sorted(nodes, given, [v.name for v in outputs])
    used = {name for n in nodes for name in n.inputs} | {v.name for v in outputs}
    constants = {
        t.name: to_array(t, folder) for t in graph.initializer if t.name in used
    }
    counts = Counter(_op(n) for n in graph.node)
    producer = str(proto.producer_name)
    description = Description(inputs, outputs, opset, counts, producer)
    return Model(description, tuple(nodes), constants)


def _opset(proto: Any) -> int:
    versions = [o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")]
    version = versions[0] if versions else 1
    if len(versions) > 1 or not 1 <= version <= MAX_OPSET:
        given = f"operator set {versions[:4]}"
        raise bad("the file", given, f"one version from 1 to {MAX_OPSET}")
    return version


def _texts(values: Any) -> tuple[str, ...]:
    """Names as text; what is not UTF-8 comes from the parser as bytes."""
    found = tuple(values)
    odd = next((v for v in found if not isinstance(v, str)), None)
    if odd is not None:
        raise bad("the file", f"the name {short(odd)}", "names in UTF-8")
    return found


def _unique(values: Iterable[str], kind: str) -> set[str]:
    names = _texts(values)
    found = set(names)
    if len(found) < len(names) or "" in found:
        twice = next(n for n in names if not n or names.count(n) > 1)
        raise bad("the graph", f"{kind} {short(twice)}", "one name for each")
    return found


def _info(value: Any) -> TensorInfo:
    tensor = value.type.tensor_type
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(
            d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else d.dim_param
            for d in tensor.shape.dim
        )
    _texts([n for n in shape or () if not isinstance(n, int)])
    return TensorInfo(_texts([value.name])[0], shape, dtype_name(tensor.elem_type))


def _op(proto: Any) -> str:
    domain, op = _texts([proto.domain, proto.op_type])
    return op if domain in ("", "ai.onnx") else f"{domain}.{op}"


def _node(proto: Any, index: int) -> Node:
    inputs, outputs = _texts(proto.input), _texts(proto.output)
    node = Node(_op(proto), _texts([proto.name])[0], index, inputs, outputs, {})
    _unique([a.name for a in proto.attribute], f"{node.label}: attribute")
    attributes = {a.name: _attribute(a) for a in proto.attribute}
    return dataclasses.replace(node, attributes=attributes)


def _attribute(proto: Any) -> Any:
    kind = proto.type
    if kind == proto.FLOAT:
        return float(proto.f)
    if kind == proto.INT:
        return int(proto.i)
    if kind == proto.STRING:
        return proto.s.decode("utf-8", "replace")
    if kind == proto.FLOATS:
        return tuple(float(x) for x in proto.floats)
    if kind == proto.INTS:
        return tuple(int(x) for x in proto.ints)
    if kind == proto.TENSOR:
        return to_array(proto.t)
    return proto  # graphs, types, sparse tensors: no operator here reads them


def _sorted(nodes: list[Node], given: set[str], outputs: list[str]) -> list[Node]:
    """The nodes that outputs depend on, each after its operands, else in file order."""
    makers: dict[str, Node] = {}
    for node in nodes:
        for name in filter(None, node.outputs):
            if name in makers or name in given:
                raise bad(node.label, f"result {short(name)}", "a name not yet taken")
            makers[name] = node
    live = _live(makers, given, outputs)
    waiting = {
        index: {makers[n].index for n in node.inputs if n in makers}
        for index, node in live.items()
    }
    users: dict[int, list[int]] = {index: [] for index in live}
    for index, causes in waiting.items():
        for cause in causes:
            users[cause].append(index)
    ready = [index for index, causes in waiting.items() if not causes]
    heapq.heapify(ready)
    order = []
    while ready:
        index = heapq.heappop(ready)
        order.append(live[index])
        for user in users[index]:
            waiting[user].discard(index)
            if not waiting[user]:
                heapq.heappush(ready, user)
    if len(order) < len(live):
        stuck = next(n for i, n in live.items() if waiting[i])
        raise bad(stuck.label, "a result among its own causes", "a graph without cycle")
    return order


def _live(
    makers: dict[str, Node], given: set[str], outputs: list[str]
) -> dict[int, Node]:
    live: dict[int, Node] = {}
    wanted = [("the graph", name) for name in outputs]
    while wanted:
        where, name = wanted.pop()
        if name in given:
            continue
        if name not in makers:
            raise bad(where, f"operand {short(name)}", "a name that something defines")
        node = makers[name]
        if node.index not in live:
            live[node.index] = node
            wanted += [(node.label, n) for n in node.inputs if n]
    return live
