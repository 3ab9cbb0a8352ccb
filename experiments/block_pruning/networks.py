"""The networks: what is pruned of them, and how they run from packed kernels."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gap
from core import trees
from core.rules import Rules
from core.types import Array, ArrayLike, PyTree
from gap import packed
from gap.allocation import by_density, prunable

Pack = Callable[[ArrayLike, ArrayLike], packed.Packed]


def _lenet300(params: PyTree, masks: PyTree, pack: Pack) -> PyTree:
    layers = []
    for name in ("fc1", "fc2", "fc3"):
        w, mask = params[name]["kernel"], masks[name]["kernel"]
        keep = np.ones(w.shape, bool) if mask is None else mask
        layers.append((pack(w, keep), params[name]["bias"][:, None]))
    return layers


def _compact_lenet300(params: PyTree, masks: PyTree, pack: Pack) -> PyTree:
    def forward(params: PyTree, x: Array) -> Array:
        for name in ("fc1", "fc2", "fc3"):
            x = x @ params[name]["kernel"] + params[name]["bias"][None]
            x = x if name == "fc3" else jnp.maximum(x, 0.0)
        return x

    images = jnp.zeros((2, params["fc1"]["kernel"].shape[0]), jnp.float32)
    small = gap.compact(forward, params, masks, images).params
    return _lenet300(small, trees.map_partial(lambda _: None, small), pack)


def _run_lenet300(layers: PyTree, x: Array) -> Array:
    for i, (form, bias) in enumerate(layers):
        x = packed.matmul(x, form, "feature") + bias
        x = x if i == len(layers) - 1 else jnp.maximum(x, 0.0)
    return x


def _scipy_lenet300(layers: PyTree, x: np.ndarray) -> np.ndarray:
    for i, (form, bias) in enumerate(layers):
        x = form @ x + bias
        x = x if i == len(layers) - 1 else np.maximum(x, np.float32(0))
    return x


def _gru(params: PyTree, masks: PyTree, pack: Pack) -> PyTree:
    linear = params["linear"]
    head = pack(linear["kernel"], np.ones(linear["kernel"].shape, bool))
    cell = packed.pack_gru(params["gru1"], masks["gru1"], pack)
    return cell, head, linear["bias"][:, None]


def _run_gru(form: PyTree, x: Array) -> Array:
    cell, head, bias = form
    rows = x.reshape(28, 28, x.shape[1])  # time, features, batch
    start = jnp.zeros((cell.hidden_bias.shape[0], x.shape[1]), x.dtype)
    last, _ = packed.gru(cell, start, rows, "feature")
    return packed.matmul(last, head, "feature") + bias


def _scipy_gru(form: PyTree, x: np.ndarray) -> np.ndarray:
    cell, head, bias = form
    images = x.shape[1]
    # The inputs of all steps in one product, as in `packed.gru`.
    rows = np.ascontiguousarray(x.reshape(28, 28, images).swapaxes(0, 1))
    given = cell.inputs @ rows.reshape(28, -1) + cell.bias[:, None]
    given = given.reshape(-1, 28, images)
    size = len(cell.hidden_bias)
    h = np.zeros((size, images), x.dtype)
    for step in range(28):
        mine, now = cell.hidden @ h, given[:, step]
        gates = 1 / (1 + np.exp(-(now[: 2 * size] + mine[: 2 * size])))
        r, z = gates[:size], gates[size:]
        n = np.tanh(
            now[2 * size :] + r * (mine[2 * size :] + cell.hidden_bias[:, None])
        )
        h = (1 - z) * n + z * h
    return head @ h + bias


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A network of digits.

    Attributes:
      name: on the command line.
      model: its name in `experiments.models`.
      title: in the report.
      pruned: path regex of the kernels that are pruned; the last layer is not, for
        filters of it are classes.
      pack: parameters, masks and a packing function to what `run` takes.
      run: that and float [784, b] to logits [10, b].
      run_scipy: the same in numpy, from forms of `methods.pack_scipy`.
      compact: as `pack`, of the network without its pruned filters; None where they
        cannot leave, for the gates of a GRU share its state.
    """

    name: str
    model: str
    title: str
    pruned: str
    pack: Callable[[PyTree, PyTree, Pack], PyTree]
    run: Callable[[PyTree, Array], Array]
    run_scipy: Callable[[PyTree, np.ndarray], np.ndarray]
    compact: Callable[[PyTree, PyTree, Pack], PyTree] | None = None

    def rules(self, rate: float, pattern: Any, params: PyTree) -> Rules:
        """Returns the rules that keep the nearest to 1 / rate of each pruned kernel.

        Of its weights, not of its units: a border block of BCR keeps more of its own.

        Args:
          rate: weights over weights kept.
          pattern: of the kept ones.
          params: only paths and shapes are used.
        """
        leaves = prunable(params, [(self.pruned, True)])
        shares = [1 / rate] * len(leaves)
        return by_density(leaves, shares, pattern)


NETWORKS = {
    n.name: n
    for n in (
        Network(
            "lenet300",
            "lenet_300_100",
            "LeNet-300-100",
            r"fc[12]/kernel",
            _lenet300,
            _run_lenet300,
            _scipy_lenet300,
            _compact_lenet300,
        ),
        Network("gru", "gru", "GRU-128", r"gru1/.*/kernel", _gru, _run_gru, _scipy_gru),
    )
}


def in_numpy(form: PyTree) -> PyTree:
    """Returns a form with numpy arrays in place of JAX arrays."""
    return jax.tree.map(lambda a: np.asarray(a) if isinstance(a, Array) else a, form)


def pruned_size(params: PyTree, masks: PyTree) -> tuple[int, int]:
    """Returns the weights kept and those there were, of the pruned kernels.

    Without masks everything counts and is kept.
    """
    kept = sum(int(m.sum()) for m in jax.tree.leaves(masks))
    full = sum(m.size for m in jax.tree.leaves(masks))
    whole = sum(w.size for w in jax.tree.leaves(params))
    return (kept, full) if full else (whole, whole)
