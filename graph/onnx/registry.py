"""The registry of operators, and what one of them sees when it is built and run.

An operator is a function from a `Site` (one node of a model, at load time) to an
*apply* function from a `Call` and the operands to the result. The attributes are read
and checked once, when it is built; apply runs when the loaded function is traced.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np

from graph.onnx._refuse import MAX_ELEMENTS, bad, check_size, short
from graph.onnx.model import Node
from graph.onnx.parameters import Parameters

Apply: TypeAlias = Callable[..., Any]
"""From a `Call` and operands (None if left out) to a result, or a list of results."""

Layout: TypeAlias = Callable[[Any], Any]
"""From an array as ONNX has it to one as flax has it; for numpy and JAX arrays."""

ROWS = ("broadcast", "first", "all", "own")
"""When rows of the result are those of the operands; see `Operator.rows`."""

_LARGEST = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Operator:
    """An operator that can be loaded.

    Attributes:
      name: ONNX's.
      build: from a `Site` to an apply function.
      inputs: the least and the most operands; None for any number.
      outputs: results supported; None for as many as the node names.
      rows: when row i of the result depends on row i of the operands alone, unless
        `Call.mix` says otherwise: 'broadcast', elementwise; 'first', the first
        operand has rows and the others do not depend on the input; 'all', every
        operand has rows; 'own', the operator itself calls `Call.mix`.
      folds: whether numpy operands give a numpy result, computed at load time.
    """

    name: str
    build: Callable[["Site"], Apply]
    inputs: tuple[int, int | None] = (1, 1)
    outputs: int | None = 1
    rows: str = "broadcast"
    folds: bool = False


OPERATORS: dict[str, Operator] = {}
"""Every operator by name; `operator` adds to it."""


def operator(name: str, **fields: Any) -> Callable[[Any], Any]:
    """Registers the function below under an ONNX name; see `Operator`."""

    def register(build: Callable[["Site"], Apply]) -> Callable[["Site"], Apply]:
        OPERATORS[name] = Operator(name, build, **fields)
        return build

    return register


@dataclasses.dataclass(frozen=True)
class Operand:
    """Where an operand comes from: a parameter, a constant, or an earlier value.

    Attributes:
      name: of the value, where it is neither of the others.
      path: layer and leaf of the parameter.
      constant: the array.
      shape: of the parameter.
      either: whether the constant stands for the parameter where the other operands
        are static.
      layout: what turns the value into what the operator takes.
    """

    name: str = ""
    path: tuple[str, str] | None = None
    constant: np.ndarray | None = None
    shape: tuple[int, ...] = ()
    either: bool = False
    layout: Layout | None = None


class Site:
    """One node at load time: its checked attributes, and its operands."""

    def __init__(
        self,
        node: Node,
        opset: int,
        constants: Mapping[str, np.ndarray],
        parameters: Parameters | None,
    ):
        self.node = node
        self.opset = opset
        self.operands: list[Operand | None] = []
        self._constants = constants
        self._parameters = parameters
        self._layer = ""
        self._read: set[str] = set()
        for name in node.inputs:
            known = constants.get(name)
            operand = Operand(name) if known is None else Operand(constant=known)
            self.operands.append(operand if name else None)

    def given(self, index: int) -> bool:
        """Whether operand `index` is there."""
        return index < len(self.operands) and self.operands[index] is not None

    def constant(self, index: int) -> np.ndarray | None:
        """Returns operand `index` if it is known at load time."""
        operand = self.operands[index] if index < len(self.operands) else None
        return operand.constant if operand else None

    def param(
        self, index: int, leaf: str, layout: Layout | None = None, key: str = ""
    ) -> None:
        """Makes operand `index` a parameter, where it is a constant of floats.

        Args:
          index: of the operand; one left out stays so.
          leaf: its name within the layer.
          layout: what turns ONNX's array into ours; it is applied to an operand that
            is computed, too.
          key: tells layouts apart where two nodes share one initializer.
        """
        operand = self.operands[index] if self.given(index) else None
        if operand is None:
            return
        value = operand.constant
        if value is None:
            self.operands[index] = dataclasses.replace(operand, layout=layout)
            return
        laid = layout(value) if layout else value
        path = None
        if self._parameters is not None and value.dtype.kind == "f":
            name = self.node.inputs[index]
            path = self._parameters.find(name, key)
            if path is None:
                path = self._parameters.add(name, key, self._own_layer(), leaf, laid)
        constant = laid if path is None else None
        self.operands[index] = Operand(path=path, constant=constant, shape=laid.shape)

    def operand_param(self, index: int, leaf: str) -> None:
        """As `param`, for an operand that may be part of arithmetic on shapes.

        A scalar that the graph itself writes stays a constant.
        """
        value = self.constant(index)
        stored = self._parameters is not None and self._parameters.stored(
            self.node.inputs[index]
        )
        if value is not None and (value.size > 1 or stored):
            self.param(index, leaf)
            operand = self.operands[index]
            assert operand is not None
            self.operands[index] = dataclasses.replace(
                operand, constant=value, either=operand.path is not None
            )

    def _own_layer(self) -> str:
        if not self._layer:
            assert self._parameters is not None
            names = [n for n in self.node.inputs if n in self._constants]
            default = self.node.name or f"{self.node.op}_{self.node.index}"
            self._layer = self._parameters.layer(names, default)
        return self._layer

    # Attributes. Whoever asks for one thereby says that it is understood.

    def integer(
        self, name: str, default: int | None = None, low: int = -_LARGEST
    ) -> int:
        """Returns an integer attribute, at least `low`."""
        value = self._get(name, default, int)
        if not low <= value <= _LARGEST:
            raise self.bad(f"{name} = {value}", f"{name} from {low} to {_LARGEST}")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """Returns an attribute that is 0 or 1."""
        value = self._get(name, int(default), int)
        if value not in (0, 1):
            raise self.bad(f"{name} = {value}", f"{name} = 0 or 1")
        return bool(value)

    def real(self, name: str, default: float) -> float:
        """Returns a number; infinities are allowed, NaN is not."""
        value = self._get(name, float(default), float)
        if value != value:
            raise self.bad(f"{name} = nan", f"a number as {name}")
        return value

    def integers(
        self, name: str, low: int = -_LARGEST, high: int = _LARGEST
    ) -> tuple[int, ...] | None:
        """Returns a list of integers in [low, high], None if it is not there."""
        if name not in self.node.attributes:
            return None
        value = self._get(name, (), tuple)
        if not all(isinstance(n, int) and low <= n <= high for n in value):
            expected = f"integers from {low} to {high} as {name}"
            raise self.bad(f"{name} = {short(value)}", expected)
        return value

    def text(self, name: str, default: str, known: Sequence[str]) -> str:
        """Returns a text attribute, one of `known`."""
        value = self._get(name, default, str)
        if value not in known:
            raise self.bad(f"{name} = {short(value)}", f"one of {', '.join(known)}")
        return value

    def attribute(self, name: str) -> Any:
        """Returns an attribute of any type, None if it is not there."""
        self._read.add(name)
        return self.node.attributes.get(name)

    def ignore(self, *names: str) -> None:
        """Says that attributes do not matter to what is computed."""
        self._read.update(names)

    def finish(self) -> None:
        """Raises if the node has attributes that nothing has read."""
        left = sorted(set(self.node.attributes) - self._read)
        if left:
            raise self.bad(
                f"attribute {short(left[0])}", "only attributes whose meaning is known"
            )

    def bad(self, given: str, expected: str, remedy: str = "") -> Exception:
        """Returns the error of this node."""
        return bad(self.node.label, given, expected, remedy)

    def _get(self, name: str, default: Any, kind: type) -> Any:
        self._read.add(name)
        value = self.node.attributes.get(name, default)
        if value is None:
            raise self.bad(f"no {name}", f"the attribute {name}")
        if kind is float and isinstance(value, int):
            value = float(value)
        if not isinstance(value, kind):
            raise self.bad(f"{name} of another type", f"a {kind.__name__} as {name}")
        return value


@dataclasses.dataclass
class Call:
    """One evaluation of a node.

    Attributes:
      node: that is evaluated.
      dtype: of all floats in this evaluation.
      rows: whether examples are along the first axis and must not be mixed.
      mixed: set by `mix` if the operator does mix them.
      limit: the most elements that the result may have.
    """

    node: Node
    dtype: np.dtype
    rows: bool = False
    mixed: bool = False
    limit: int = MAX_ELEMENTS

    def mix(self, condition: bool = True) -> None:
        """Says that the result mixes rows of the first operand, or loses them."""
        self.mixed = self.mixed or condition

    def bad(self, given: str, expected: str, remedy: str = "") -> Exception:
        """Returns the error of this node."""
        return bad(self.node.label, given, expected, remedy)

    def static(self, value: Any, what: str) -> np.ndarray:
        """Returns an operand that must not depend on the model's input.

        Raises:
          DataFormatError: it does.
        """
        if isinstance(value, np.ndarray):
            return value
        raise self.bad(
            f"{what} computed from the input's values",
            f"constant {what}",
            "Export the model with constants folded.",
        )

    def static_ints(self, value: Any, what: str) -> tuple[int, ...]:
        """Returns a static operand as integers."""
        array = self.static(value, what)
        if array.dtype.kind not in "iu" or array.ndim > 1:
            raise self.bad(f"{what} of type {array.dtype.name}", "a list of integers")
        check_size(self.node.label, array.shape, 2**16)
        return tuple(int(n) for n in array.reshape(-1))

    def axis(self, axis: int, rank: int) -> int:
        """Returns an axis counted from the front.

        Raises:
          DataFormatError: no such axis.
        """
        if not -rank <= axis < rank:
            raise self.bad(f"axis {axis} of {rank}", f"an axis below {rank}")
        return axis % rank

    def axes(self, axes: Sequence[int], rank: int) -> tuple[int, ...]:
        """Returns axes counted from the front, all different."""
        found = tuple(self.axis(a, rank) for a in axes)
        if len(set(found)) < len(found):
            raise self.bad(f"axes {list(axes)[:8]}", "no axis twice")
        return found

    def check_size(self, shape: Sequence[int], limit: int = MAX_ELEMENTS) -> None:
        """Raises if an array of `shape` would be too large."""
        shape = tuple(int(n) for n in shape)
        check_size(self.node.label, shape, min(limit, self.limit))

    def align(self, *operands: Any) -> list[Any]:
        """Returns operands of one rank and type, for an elementwise operator.

        All numpy if all of them are; else constants take the type of the others, and
        constants of one element become scalars.
        """
        rank = max(x.ndim for x in operands)
        self.check_size(np.broadcast_shapes(*(x.shape for x in operands)))
        if is_static(*operands):
            return [x.reshape((1,) * (rank - x.ndim) + x.shape) for x in operands]
        dtype = next(x.dtype for x in operands if not is_static(x))
        full = any(x.ndim == rank and not is_static(x) for x in operands)
        return [self._fit(x, rank, dtype, full) for x in operands]

    def _fit(self, x: Any, rank: int, dtype: np.dtype, full: bool) -> Any:
        if is_static(x):
            x = x.astype(dtype)
            if x.size == 1 and full:
                return x.reshape(())
        shape = (1,) * (rank - x.ndim) + tuple(x.shape)
        if x.shape == shape:
            return x
        return x.reshape(shape) if is_static(x) else jnp.reshape(x, shape)

    def like(self, x: Any, other: Any) -> Any:
        """Returns a constant `x` as a JAX array of the type of `other`."""
        return jnp.asarray(x, other.dtype) if is_static(x) else x


def canonical(dtype: Any) -> np.dtype:
    """Returns the type that JAX, as it is configured, has for one of numpy's."""
    return jnp.asarray(np.zeros(0, dtype)).dtype


def is_static(*operands: Any) -> bool:
    """Whether all operands are numpy arrays, known when the function is traced."""
    return all(isinstance(x, np.ndarray) for x in operands if x is not None)


def namespace(*operands: Any) -> Any:
    """Returns numpy if all operands are numpy arrays, else `jax.numpy`."""
    return np if is_static(*operands) else jnp
