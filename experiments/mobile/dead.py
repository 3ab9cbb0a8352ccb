"""Dead channels of depthwise layers: found by their folded scale, or appended."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from core import trees
from core.errors import check_range
from core.types import PyTree


class Layer(NamedTuple):
    """A depthwise layer, what its inputs come from and what takes its outputs."""

    depthwise: str
    before: str
    after: str


def layers(params: PyTree) -> list[Layer]:
    """Returns the depthwise layers of a network of `experiments.models.separable`."""
    names = [n.removesuffix("/kernel") for n in trees.paths(params)]
    blocks = {n.split("/")[0] for n in names if n.endswith("/depthwise")}
    found, before = [], "conv1"
    for block in sorted(blocks, key=lambda name: int(name.removeprefix("block"))):
        if f"{block}/expand" in names:
            wide, after = f"{block}/expand", f"{block}/project"
        else:
            wide, after = before, f"{block}/pointwise"
        found.append(Layer(f"{block}/depthwise", wide, after))
        before = after
    return found


def scales(variables: PyTree, epsilon: float) -> dict[str, np.ndarray]:
    """Returns |gamma| / sqrt(var + epsilon) over its median, by depthwise layer.

    Layers without a norm are left out. arXiv 1803.08607, section 3.3: an outlier sets
    the range of its layer's weights.
    """
    found = {}
    flat = {name: np.asarray(leaf) for name, leaf in trees.by_path(variables).items()}
    for layer in layers(variables["params"]):
        norm = f"{layer.depthwise}_bn"
        if f"params/{norm}/scale" in flat:
            var = flat[f"batch_stats/{norm}/var"]
            alpha = np.abs(flat[f"params/{norm}/scale"]) / np.sqrt(var + epsilon)
            found[layer.depthwise] = alpha / np.median(alpha)
    return found


def append(variables: PyTree, dead: int, extra: int, seed: int) -> PyTree:
    """Returns variables with channels more in every depthwise layer, function the same.

    They get nothing but zeros. Of the first `dead`, the kernel is random (He's
    deviation for nine inputs), and so a norm behind it has variance 0, scale 1 and bias
    0; what takes their outputs has weights of other channels. The others are 0
    throughout, with the mean variance: they change nothing in any respect, so one
    compiled network does for all numbers of dead channels.

    Args:
      variables: {"params", "batch_stats"}.
      dead: from 0 to `extra`.
      extra: channels in all.
      seed: of the kernels.
    """
    check_range("dead", dead, 0, extra)
    rng = np.random.default_rng(seed)
    names, leaves, treedef = trees.flatten(variables)
    found = dict(zip(names, map(np.asarray, leaves), strict=True))

    def pad(name: str, axis: int, new: np.ndarray | float, rest: float = 0.0) -> None:
        old = found[name]
        shape = list(old.shape)
        shape[axis] = extra
        block = np.full(shape, rest, old.dtype)
        some = [slice(None)] * old.ndim
        some[axis] = slice(dead)
        block[tuple(some)] = new
        found[name] = np.concatenate([old, block], axis)

    def pad_norm(layer: str, var: float | None) -> None:
        if f"params/{layer}_bn/scale" not in found:
            return
        mean = float(found[f"batch_stats/{layer}_bn/var"].mean())
        pad(f"params/{layer}_bn/scale", 0, 1.0, 1.0)
        pad(f"params/{layer}_bn/bias", 0, 0.0)
        pad(f"batch_stats/{layer}_bn/mean", 0, 0.0)
        pad(f"batch_stats/{layer}_bn/var", 0, mean if var is None else var, mean)

    for layer in layers(variables["params"]):
        after = found[f"params/{layer.after}/kernel"]
        pad(f"params/{layer.before}/kernel", 3, 0.0)
        pad_norm(layer.before, None)
        kernel = rng.normal(scale=np.sqrt(2 / 9), size=(3, 3, 1, dead))
        pad(f"params/{layer.depthwise}/kernel", 3, kernel)
        pad_norm(layer.depthwise, 0.0)
        rows = np.arange(dead) % after.shape[2]
        pad(f"params/{layer.after}/kernel", 2, after[:, :, rows])
    return jax.tree.unflatten(treedef, [jnp.asarray(found[name]) for name in names])
