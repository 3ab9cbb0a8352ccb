"""Names and layout of a loaded model's parameters."""

import re
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

# What exporters append to the name of a layer: 'conv1.weight', 'dense/kernel:0',
# 'Operation_1_MatMul_W'.
_SUFFIX = re.compile(
    r"^(?P<layer>.+?)[./_](weight|kernel|bias|gamma|beta|scale|running_mean"
    r"|running_var|moving_mean|moving_variance|W|B|w|b)(:0)?$"
)
_ODD = re.compile(r"[^A-Za-z0-9_\-]+")
_LONGEST = 120


class Parameters:
    """Collects parameters as a dict of layers, each a dict of leaves.

    A layer is called after its initializers where these have the usual form
    ('conv1.weight' is 'conv1/kernel'), else after its node. A number is appended to a
    name that is taken. An initializer that two nodes use is one leaf.
    """

    def __init__(self, initializers: Mapping[str, np.ndarray], dtype: np.dtype):
        self._origins = {name: name for name in initializers}
        self._dtype = dtype
        self._tree: dict[str, dict[str, np.ndarray]] = {}
        self._places: dict[tuple[str, str], tuple[str, str]] = {}
        self._counts: dict[str, int] = {}

    def tree(self) -> dict[str, dict[str, jax.Array]]:
        """Returns the parameters as JAX arrays of the load's dtype."""
        with np.errstate(over="ignore"):  # of float64 to float32
            return {
                layer: {k: jnp.asarray(v, self._dtype) for k, v in leaves.items()}
                for layer, leaves in self._tree.items()
                if leaves
            }

    def stored(self, name: str) -> bool:
        """Whether a constant is (computed from) an initializer of the file."""
        return name in self._origins

    def derive(self, name: str, causes: Sequence[str]) -> None:
        """Notes that a constant was computed from others."""
        known = [self._origins[c] for c in causes if c in self._origins]
        if known:
            self._origins[name] = known[0]

    def layer(self, names: Sequence[str], default: str) -> str:
        """Reserves a layer's name.

        Args:
          names: of the constants that its node takes.
          default: the name if none of them has the form that exporters give.
        """
        origins = [self._origins[n] for n in names if n in self._origins]
        matches = [_SUFFIX.match(origin) for origin in origins]
        stems = [m["layer"] for m in matches if m]
        base = _ODD.sub(".", stems[0] if stems else default).strip(".")[:_LONGEST]
        base = base or "layer"
        name = base
        while name in self._tree:
            self._counts[base] = self._counts.get(base, 1) + 1
            name = f"{base}_{self._counts[base]}"
        self._tree[name] = {}
        return name

    def find(self, name: str, key: str) -> tuple[str, str] | None:
        """Returns where a constant already is, in the layout called `key`."""
        return self._places.get((name, key))

    def add(
        self, name: str, key: str, layer: str, leaf: str, value: np.ndarray
    ) -> tuple[str, str]:
        """Puts a constant in its place and returns that: layer and leaf."""
        free, count = leaf, 1
        while free in self._tree[layer]:
            count += 1
            free = f"{leaf}_{count}"
        self._tree[layer][free] = value
        self._places[name, key] = (layer, free)
        return layer, free
