"""An LSTM or GRU that reads a sequence and names its class."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from core.errors import UnknownNameError, unknown_name
from core.types import Array
from experiments.models.common import Initializer, as_batch, as_logits

CELLS: dict[str, Any] = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}
"""Recurrent cells by name: Hochreiter and Schmidhuber 1997; arXiv 1406.1078."""


class RecurrentClassifier(nn.Module):
    """Recurrent layers over [batch, time, features], then a linear layer on the last.

    Parameter paths are `lstm1/if/kernel` (from the input to the forget gate) and
    `lstm1/hf/kernel` (from the hidden state); gates are i, f, g, o of an LSTM and
    r, z, n of a GRU. An LSTM layer of h units on d features has 4h(d + h + 1)
    parameters (one bias a gate, as in Keras), a GRU layer 3h(d + h) + 4h.

    Attributes:
      num_classes: number of classes.
      cell: 'lstm' or 'gru'.
      hidden: units of each recurrent layer.
      dropout_rate: rate on the last hidden state while training.
      kernel_init: initialiser of the input kernels (hidden ones are orthogonal).
      dtype: type of the computation; parameters are float32.
    """

    num_classes: int = 10
    cell: str = "lstm"
    hidden: tuple[int, ...] = (128,)
    dropout_rate: float = 0.0
    kernel_init: Initializer = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Returns logits, float32 [n, num_classes].

        Args:
          x: sequences [n, time, features], or images [n, h, w, c], which are read
            row by row as [n, h, w * c].
          train: whether dropout is on.

        Raises:
          UnknownNameError: there is no such cell.
        """
        if self.cell not in CELLS:
            raise _unknown_cell(self.cell)
        if jnp.ndim(x) == 4:
            x = jnp.reshape(x, (*x.shape[:2], -1))
        x = as_batch(x, 3, "[n, time, features] or [n, height, width, c]", self.dtype)
        for i, units in enumerate(self.hidden, start=1):
            cell = CELLS[self.cell](
                units,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                name=f"{self.cell}{i}",
            )
            # Zeros whatever the key is; flax would make them float32 in a bf16 scan.
            start = cell.initialize_carry(jax.random.key(0), x[:, 0].shape)
            start = jax.tree.map(lambda leaf: leaf.astype(self.dtype), start)
            states: Any = nn.RNN(cell)(x, initial_carry=start)
            x = states
        x = nn.Dropout(self.dropout_rate)(x[:, -1], deterministic=not train)
        x = nn.Dense(self.num_classes, dtype=self.dtype, name="linear")(x)
        return as_logits(x)


def _unknown_cell(name: str) -> UnknownNameError:
    return unknown_name("recurrent cell", name, CELLS)
