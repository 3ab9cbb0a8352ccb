"""LSTM and GRU with block-circulant kernels, run in the frequency domain.

What a trained cell of flax (`OptimizedLSTMCell`, `GRUCell`) becomes once its kernels
are block-circulant (arXiv 1812.07106): the gates of each side are one product, whose
weights are stored transformed, so a step has one real FFT of its inputs, one of the
hidden state, and one back for each. Block sizes of the two sides may differ.

    params = admm.project(params, admm.recurrent.rules("gru1", block=8))
    cell = admm.recurrent.pack(params["gru1"], 8)
    last, states = jax.jit(admm.recurrent.run)(cell, xs)

Biases stay as they are, in full. Cells are those of flax: an LSTM has no peepholes and
no projection of its outputs, which the paper's largest layers have.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from admm import circulant
from admm.circulant import BlockCirculant
from admm.low_rank import product
from core.errors import InputError, ShapeError, describe
from core.types import Array, PyTree

GATES = {"lstm": ("i", "f", "g", "o"), "gru": ("r", "z", "n")}
"""The gates of a cell, in the order of the fused product."""
Function = Callable[[Array], Array]


class Activations(NamedTuple):
    """The functions of a cell; tables take their place in fixed point.

    Attributes:
      sigmoid: of gates.
      tanh: of candidates and states.
      state: what c and h are rounded to before they are stored.
    """

    sigmoid: Function = jax.nn.sigmoid
    tanh: Function = jnp.tanh
    state: Function = lambda x: x


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("inputs", "hidden", "bias", "hidden_bias"),
    meta_fields=("kind", "units", "blocks"),
)
@dataclasses.dataclass(frozen=True)
class Cell:
    """A recurrent layer of circulant blocks.

    Attributes:
      inputs: spectra of the fused input kernel, [k // 2 + 1, q, gates p]; real, the
        kernel [n_in, gates units] itself, where the block is 1.
      hidden: those of the hidden kernel.
      bias: of the gates, [gates units].
      hidden_bias: of the candidate's hidden product in a GRU, [units].
      kind: "lstm" or "gru".
      units: of the hidden state.
      blocks: of the input and the hidden kernel.
    """

    inputs: Array
    hidden: Array
    bias: Array
    hidden_bias: Array
    kind: str
    units: int
    blocks: tuple[int, int]


def rules(
    layer: str, block: int | tuple[int, int], rest: str = "kernel"
) -> list[tuple[str, BlockCirculant]]:
    """Returns ADMM's rules for a cell: each gate's kernels in circulant blocks.

    Args:
      layer: path of the cell's parameters, such as "gru1".
      block: k, or those of the input and of the hidden kernels; 1 leaves them free.
      rest: name of the kernel in a gate's parameters.
    """
    sides = zip("ih", _pair(block), strict=True)
    return [
        (f"{layer}/{side}./{rest}", BlockCirculant(size))
        for side, size in sides
        if size > 1
    ]


def _pair(block: int | tuple[int, int]) -> tuple[int, int]:
    return (block, block) if isinstance(block, int) else block


def pack(
    params: Mapping[str, PyTree], block: int | tuple[int, int], *, project: bool = False
) -> Cell:
    """Returns the cell of flax's parameters, its kernels transformed.

    Args:
      params: of `OptimizedLSTMCell` or `GRUCell`, such as {"ii": {"kernel": ...}, ...}.
        Spectra of half precision are in single precision.
      block: k, or those of the input and of the hidden kernels; 1 for dense ones.
      project: whether kernels are projected; otherwise they have to be circulant.

    Raises:
      InputError: parameters of no such cell, a block below 1, or kernels whose blocks
        are not circulant (not seen under `jit`).
      ShapeError: units that a block does not divide: blocks do not reach across gates.
    """
    kind = next((k for k, g in GATES.items() if _names(g) <= set(params)), None)
    if kind is None:
        given = f"parameters {', '.join(sorted(params))}"
        raise InputError(
            describe(given, "those of flax's OptimizedLSTMCell or GRUCell")
        )
    gates = GATES[kind]
    kernels = [
        jnp.concatenate([params[f"{side}{g}"]["kernel"] for g in gates], -1)
        for side in "ih"
    ]
    units = kernels[1].shape[0]
    blocks = _pair(block)
    for size in blocks:
        if size > 1 and units % size:
            raise ShapeError(
                describe(f"{units} units in blocks of {size}", "units they divide")
            )
    inputs, hidden = (
        w if size == 1 else _spectra(w, size, len(gates), project)
        for w, size in zip(kernels, blocks, strict=True)
    )
    zero = jnp.zeros(units, kernels[0].dtype)

    def bias(name: str) -> Array:
        return params[name].get("bias", zero)

    if kind == "lstm":
        total = jnp.concatenate([bias(f"h{g}") + bias(f"i{g}") for g in gates])
        return Cell(inputs, hidden, total, zero, kind, units, blocks)
    sums = [bias(f"i{g}") + bias(f"h{g}") for g in "rz"]
    total = jnp.concatenate([*sums, bias("in")])
    return Cell(inputs, hidden, total, bias("hn"), kind, units, blocks)


def _spectra(w: Array, block: int, gates: int, project: bool) -> Array:
    g = circulant.generators(w, block, gates)
    away = jnp.abs(circulant.expand(g, w.shape[0], w.shape[1], gates) - w).max()
    give = 16 * float(jnp.finfo(w.dtype).eps) * jnp.abs(w).max()
    if not project and not isinstance(away, Tracer) and away > give:
        given = f"a kernel {float(away):.2g} from circulant blocks of {block}"
        way = "Take admm.project(...) first, or project=True."
        raise InputError(describe(given, "circulant blocks", way))
    return circulant.spectra(g)


def _names(gates: tuple[str, ...]) -> set[str]:
    return {side + gate for side in "ih" for gate in gates}


def _product(x: Array, weights: Array, block: int, units: int, gates: int) -> Array:
    if block == 1:
        return product(x, weights)
    return circulant.spectral_matmul(x, weights, block, gates * units, gates)


def run(
    cell: Cell, xs: Array, start: PyTree = None, functions: Activations | None = None
) -> tuple[PyTree, Array]:
    """Runs a layer over sequences, as flax's `RNN` does with the projected kernels.

    The inputs' product of all steps is taken at once, before the scan.

    Args:
      cell: from `pack`; pass it as an argument of a jitted function, not as a constant.
      xs: [n, time, features].
      start: the carry, zeros if left out: (c, h) of an LSTM, h of a GRU, [n, units].
      functions: of the cell, exact ones if left out; static under `jit`.

    Returns:
      The last carry, and the hidden states [n, time, units].
    """
    functions = functions or Activations()
    gates = len(GATES[cell.kind])
    given = _product(xs, cell.inputs, cell.blocks[0], cell.units, gates)
    given = given + cell.bias[None, None]
    zero = jnp.zeros((xs.shape[0], cell.units), xs.dtype)
    if start is None:
        start = (zero, zero) if cell.kind == "lstm" else zero
    step = _lstm if cell.kind == "lstm" else _gru

    def turn(carry: PyTree, now: Array) -> tuple[PyTree, Array]:
        h = carry[1] if cell.kind == "lstm" else carry
        mine = _product(h, cell.hidden, cell.blocks[1], cell.units, gates)
        carry = step(cell, carry, now, mine, functions)
        return carry, carry[1] if cell.kind == "lstm" else carry

    last, states = jax.lax.scan(turn, start, jnp.moveaxis(given, 1, 0))
    return last, jnp.moveaxis(states, 0, 1)


def _lstm(
    cell: Cell, carry: PyTree, now: Array, mine: Array, functions: Activations
) -> PyTree:
    del cell
    sigmoid, tanh, stored = functions
    i, f, g, o = jnp.split(now + mine, 4, axis=-1)
    c = stored(sigmoid(f) * carry[0] + sigmoid(i) * tanh(g))
    return c, stored(sigmoid(o) * tanh(c))


def _gru(
    cell: Cell, h: Array, now: Array, mine: Array, functions: Activations
) -> Array:
    sigmoid, tanh, stored = functions
    size = 2 * cell.units
    r, z = jnp.split(sigmoid(now[:, :size] + mine[:, :size]), 2, axis=-1)
    n = tanh(now[:, size:] + r * (mine[:, size:] + cell.hidden_bias[None]))
    return stored((1 - z) * n + z * h)


class Size(NamedTuple):
    """What a cell stores and multiplies for one step of one sequence.

    Attributes:
      weights: numbers of both kernels, as generators.
      dense_weights: those of the dense kernels.
      multiplications: of both products; see `circulant.cost`.
      dense: those of the dense ones.
    """

    weights: int
    dense_weights: int
    multiplications: float
    dense: int


def size(kind: str, features: int, units: int, block: int | tuple[int, int]) -> Size:
    """Returns what a cell of these sizes takes.

    Args:
      kind: "lstm" or "gru".
      features: of the inputs.
      units: of the hidden state.
      block: as in `pack`.

    Raises:
      InputError: no such cell, or a block below 1.
    """
    if kind not in GATES:
        raise InputError(describe(f"cell {kind!r}", " or ".join(GATES)))
    gates = len(GATES[kind])
    sides = zip((features, units), _pair(block), strict=True)
    costs = [circulant.cost(n, gates * units, k) for n, k in sides]
    whole = gates * units * (features + units)
    return Size(
        sum(c.weights for c in costs),
        whole,
        sum(c.multiplications for c in costs),
        whole,
    )
