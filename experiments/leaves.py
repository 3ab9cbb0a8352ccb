"""Leaves of a training state as numpy arrays and back, to the last bit.

`pack` turns each leaf of a pytree into a numpy array and a `Leaf` that says what
it was; `unpack` makes the leaf again: its dtype, shape and weak type, a typed PRNG
key, a numpy array or a Python number.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core.types import PyTree

_PYTHON = {"bool": bool, "int": int, "float": float}


@dataclasses.dataclass(frozen=True)
class Leaf:
    """What a leaf was.

    Attributes:
      path: in the tree, joined by '/'.
      kind: 'jax', 'weak' (a weakly typed jax array), 'numpy', 'key IMPL', or the
        name of a Python type.
      dtype: of the array, or of the key's data.
      shape: of the array, or of the key's data.
    """

    path: str
    kind: str
    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        size = ",".join(map(str, self.shape))
        note = "" if self.kind in ("jax", "weak", "numpy") else f" ({self.kind})"
        return f"{self.path or 'leaf'} {self.dtype}[{size}]{note}"

    @property
    def layout(self) -> tuple[Any, ...]:
        """What two leaves share where one can stand for the other."""
        kind = "array" if self.kind in ("jax", "weak", "numpy") else self.kind
        return self.path, kind, self.dtype, self.shape


def describe_tree(tree: PyTree) -> list[Leaf]:
    """Returns what each leaf is.

    Args:
      tree: of jax arrays, typed keys, `jax.ShapeDtypeStruct`s, numpy arrays and
        Python numbers; None is no leaf.

    Raises:
      TypeError: a leaf of another type.
    """
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [_describe(_join(path), leaf) for path, leaf in pairs]


def pack(leaf: Any) -> np.ndarray:
    """Returns the numpy array of a leaf; a typed key's is its key data."""
    if _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def unpack(about: Leaf, data: np.ndarray, like: Any) -> Any:
    """Returns the leaf that `pack` packed.

    Args:
      about: what it was.
      data: its array.
      like: the leaf that it takes the place of: a committed array gives its sharding.

    Returns:
      A leaf that shares no memory with `data` (it can be donated).
    """
    if about.kind in _PYTHON:
        return _PYTHON[about.kind](data.item())
    if about.kind == "numpy":
        return data.copy()
    leaf = jnp.array(data, copy=True)
    if about.kind == "weak":
        leaf = _weaken(leaf)
    if about.kind.startswith("key "):
        leaf = jax.random.wrap_key_data(leaf, impl=about.kind.removeprefix("key "))
    if isinstance(like, jax.Array) and like.committed:
        leaf = jax.device_put(leaf, like.sharding)
    return leaf


def _describe(path: str, leaf: Any) -> Leaf:
    if _is_key(leaf):
        impl, data = _key_layout(leaf)
        return Leaf(path, f"key {impl}", str(data.dtype), tuple(data.shape))
    if isinstance(leaf, bool | int | float) and not isinstance(leaf, np.generic):
        return Leaf(path, type(leaf).__name__, np.asarray(leaf).dtype.name, ())
    if isinstance(leaf, np.ndarray | np.generic):
        kind = "numpy"
    elif isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        kind = "weak" if leaf.weak_type else "jax"
    else:
        raise TypeError(f"{path}: a checkpoint cannot hold a {type(leaf).__name__}")
    return Leaf(path, kind, str(leaf.dtype), tuple(leaf.shape))


def _is_key(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)


def _key_layout(key: Any) -> tuple[str, Any]:
    names: list[str] = []

    def data(traced: Any) -> Any:
        names.append(str(jax.random.key_impl(traced)))
        return jax.random.key_data(traced)

    layout = jax.eval_shape(data, key)
    return names[0], layout


def _weaken(array: jax.Array) -> jax.Array:
    zero = jnp.asarray(0 if jnp.issubdtype(array.dtype, jnp.integer) else 0.0)
    if zero.dtype != array.dtype:  # only Python's own kinds are weak
        return array
    return jnp.broadcast_to(zero, array.shape).at[...].set(array)


def _join(path: tuple[Any, ...]) -> str:
    names = ("key", "name", "idx")
    return "/".join(
        str(next((getattr(p, n) for n in names if hasattr(p, n)), p)) for p in path
    )
