"""Quantized trees, what SQuant bounds in them, and errors of layers on real inputs."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

import quant
from core import trees
from core.types import Array, PyTree
from experiments.rounding.networks import KERNELS, Network, Normal
from quant import normalization, squant
from quant.aware import Layer, Scales, record

SLACK = 1e-3
"""Of sums of float32 errors, in steps."""
LAST_BITS = 8
"""Of the last layer's inputs: arXiv 2202.07471."""


def rounded(variables: PyTree, bits: int, mode: squant.Mode) -> PyTree:
    """Returns variables with all kernels quantized, a program for each shape."""
    return squant.quantize_tree(variables, [(KERNELS, bits)], mode)


rounded_at_once = jax.jit(rounded, static_argnums=(1, 2))
"""The same as one program, which takes long to compile for many kernels."""


def corrected(variables: PyTree, quantized: PyTree, inputs: Mapping[str, Normal]):
    """Returns rounded variables whose layers have the mean outputs they had.

    Bias correction without data (arXiv 1906.04721, section 4.2.1): the error of the
    weights times the inputs' mean, which batch norms tell, is taken off.

    Args:
      variables: before rounding.
      quantized: after it.
      inputs: of the layers, as `Network.inputs` returns them.
    """
    old, found = trees.by_path(variables), trees.by_path(quantized)
    for layer, normal in inputs.items():
        name = f"params/{layer}/kernel"
        error = found[name] - old[name]
        sums = error.reshape(-1, *error.shape[-2:]).sum(0)
        shift = normalization.rectified(*normal).mean @ sums
        mean = f"batch_stats/{layer.replace('conv', 'bn')}/mean"
        if mean in found:
            found[mean] = found[mean] + shift
        else:
            found[f"params/{layer}/bias"] = found[f"params/{layer}/bias"] - shift
    names, _, treedef = trees.flatten(quantized)
    return jax.tree.unflatten(treedef, [found[name] for name in names])


def bounds(variables: PyTree, bits: int, mode: squant.Mode) -> dict[str, list[float]]:
    """Returns what SQuant bounds in every kernel of a tree, by its path.

    Three numbers: the largest |sum of errors| of a kernel and of a channel, in steps,
    and how many kernels are beyond the bound of the mode although an element of theirs
    could still be moved the other way: none, if only the ends of the grid hold sums up.
    """
    limit = 1.0 if "c" in mode else 0.5
    found = {}
    for name, w in _kernels(variables).items():
        codes = squant.quantize(w, bits, mode).codes
        found[name] = [float(x) for x in _bounds(w, codes, bits, limit)]
    return found


@functools.partial(jax.jit, static_argnums=2)
def _bounds(w: Array, codes: Array, bits: int, limit: float):
    rows = w.reshape(-1, *w.shape[-2:])
    x = squant.on_grid(rows, squant.affine_grid(rows, bits))
    delta = codes.reshape(rows.shape).astype(x.dtype) - x
    case = squant.case_objective(delta)
    sums, top = delta.sum(0), 2 ** (bits - 1) - 1
    ups = ((delta < 0) & (x < top)).any(0)
    downs = ((delta > 0) & (x > -top - 1)).any(0)
    free = jnp.where(sums < 0, ups, downs)
    loose = (jnp.abs(sums) > limit + SLACK) & free
    return case.kernel, case.channel, loose.sum()


def _kernels(variables: PyTree) -> dict[str, Array]:
    flat = trees.by_path(variables)
    return {name: w for name, w in flat.items() if name.endswith("/kernel")}


def moments(
    apply: Any, network: Network, variables: PyTree, images: Array
) -> dict[str, tuple[Array, Array]]:
    """Returns mean [K, N] and second moment [K, N, K, N] of every layer's inputs.

    Inputs are those of the float network, padding included.

    Args:
      apply: `apply(variables, images)`.
      network: whose layers they are.
      variables: of the network.
      images: as `apply` takes them.
    """
    run = jax.jit(record(apply, [(KERNELS, Layer())]))
    seen = run(variables, images)[1]
    found = {}
    for name, w in _kernels(variables).items():
        layer = name.removeprefix("params/").removesuffix("/kernel")
        found[name] = _moments(seen[name].inputs, w.shape, network.stride(layer))
    return found


@functools.partial(jax.jit, static_argnums=(1, 2))
def _moments(x: Array, shape: tuple[int, ...], stride: int) -> tuple[Array, Array]:
    x = windows(x, shape, stride)
    return x.mean(0), normalization.second_moment(x)


def windows(x: Array, shape: tuple[int, ...], stride: int) -> Array:
    """Returns what each output of a layer sees, [samples, K, N].

    Args:
      x: the layer's inputs, [n, h, w, c] or, for a dense layer, [n, c].
      shape: of its kernel.
      stride: of the convolution, whose padding is half its window.
    """
    if len(shape) == 2:
        return x.reshape(-1, 1, shape[0])
    pads = [(side // 2, side // 2) for side in shape[:2]]
    out = lax.conv_general_dilated_patches(
        x, shape[:2], (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    # The channels of the image vary slowest.
    return out.reshape(-1, shape[2], shape[0] * shape[1]).swapaxes(1, 2)


def output_errors(
    seen: Mapping[str, tuple[Array, Array]], variables: PyTree, quantized: PyTree
) -> dict[str, list[float]]:
    """Returns the mean squared error of each layer's outputs, inputs as they are.

    Three of them: for the inputs that were seen, for the same less their mean, and for
    the same with random signs, which are neither of one sign nor correlated.

    Args:
      seen: from `moments`.
      variables: of the float network.
      quantized: with its kernels quantized.
    """
    old, new = _kernels(variables), _kernels(quantized)
    found = {n: _errors(*seen[n], new[n] - old[n]) for n in seen}
    return {name: [float(x) for x in errors] for name, errors in found.items()}


@jax.jit
def _errors(mean: Array, moment: Array, error: Array) -> tuple[Array, Array, Array]:
    """Over outputs, the mean of error^T E[x x^T] error; see `output_errors`."""
    error = error.reshape(-1, *error.shape[-2:])
    whole = (jnp.tensordot(moment, error, 2) * error).sum((0, 1))
    shift = jnp.einsum("kn,knm->m", mean, error)
    square = jnp.einsum("knkn->kn", moment)
    signs = jnp.einsum("kn,knm->m", square, jnp.square(error))
    return whole.mean(), (whole - jnp.square(shift)).mean(), signs.mean()


def input_rules(inputs: Mapping[str, Normal], bits: int):
    """Returns rules and scales of `quant.aware` for inputs quantized without data.

    The first layer's inputs stay as they are, those of the last one have 8 bits.
    """
    rules, scales = [], {}
    for layer, normal in inputs.items():
        fmt = quant.Uniform(LAST_BITS if layer == "linear" else bits, signed=False)
        path = f"params/{layer}/kernel"
        rules.append((path, Layer(inputs=quant.Quantizer(fmt))))
        scales[path] = normalization.activation_scaling(*normal, fmt)
    return rules, Scales({}, scales)
