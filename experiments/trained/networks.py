"""The networks, and a network with quantized layers as the training loop calls it."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn

import quant
from core import trees
from core.types import Array, PyTree
from experiments.rounding.networks import PAIRS, DigitsNet

Layers = tuple[tuple[str, quant.Layer], ...]
"""Path rules that name one kernel each; hashable."""
KEPT = 0.9
"""Share of the old mean in a running mean over batches (arXiv 2109.03513)."""


@dataclasses.dataclass(frozen=True)
class Network:
    """Convolutions with batch norm and a linear layer; see `DigitsNet`.

    Attributes:
      name: on the command line.
      title: in the report.
      features: channels of each convolution.
      halved: whether images are taken at half their size.
    """

    name: str
    title: str
    features: tuple[int, ...]
    halved: bool = False

    @property
    def paths(self) -> tuple[str, ...]:
        """The kernels, in the order of the network."""
        names = [f"conv{i}" for i in range(1, len(self.features) + 1)]
        return tuple(f"params/{name}/kernel" for name in [*names, "linear"])

    def build(self) -> nn.Module:
        """Returns the module."""
        return DigitsNet(features=self.features)


NETWORKS = {
    network.name: network
    for network in (
        Network("digits", "DigitsNet", (16, 32, 32, 64)),
        Network("cifar", "CIFAR-10 at 16x16", (32, 64, 64, 96), halved=True),
    )
}


class Quantized:
    """A module whose layers are quantized, called as the module itself.

    Kernels have the scales of `variables["scales"]`, or else those that are fitted to
    them at each call. Inputs of layers have those of their batch in training, whose
    running means take the place of `variables["scales"].inputs`, and these in use. If
    scales are learned, `variables["params"]` is {"network": ..., "scales": ...}, all of
    it trained. Moments of norms that training leaves are not those of evaluation: see
    `settled`.

    Attributes:
      model: the module.
      layers: `(path, quant.Layer)` of the kernels that are quantized.
      learned: whether scales are parameters.
    """

    def __init__(self, model: nn.Module, layers: Layers, learned: bool = False):
        self.model = model
        self.layers = layers
        self.learned = learned

    def apply(
        self,
        variables: PyTree,
        x: Array,
        *,
        train: bool = False,
        rngs: Any = None,
        mutable: Any = (),
    ) -> Any:
        """Returns logits, and in training the collections that changed too."""
        rest, scales = self._split(variables)

        def run(variables: PyTree, x: Array) -> Any:
            kept = [name for name in mutable if name != "scales"]
            return self.model.apply(
                variables, x, train=train, rngs=rngs, mutable=kept or False
            )

        if not train or self.learned:
            return quant.aware(run, self.layers, scales)(rest, x)
        used = quant.Scales(scales.weights, {})
        (logits, changed), seen = quant.record(run, self.layers, used)(rest, x)
        means = self._means(scales.inputs, seen)
        return logits, {**changed, "scales": scales._replace(inputs=means)}

    def settled(self, variables: PyTree, x: Array) -> PyTree:
        """Returns the moments of norms as evaluation has them, over one batch.

        Training averages moments of batches whose inputs were rounded after norms with
        the moments of that batch. Rounding is not continuous: where many pixels of a
        channel have one number (the ground of a digit), near the middle of two levels,
        batches differ by which level they get, and the average is the moment of
        neither. So every norm behind a quantized layer is off in evaluation, and more
        so the later it is. Here each norm has the moments of what it is given in
        evaluation: scales are those of evaluation, and the norms before it have the
        moments that are returned.

        Args:
          variables: as `apply` takes them.
          x: images, all in one batch, [n, h, w, c]; training images.

        Returns:
          `variables["batch_stats"]` with other means and variances.
        """
        rest, scales = self._split(variables)

        def run(variables: PyTree, x: Array) -> Any:
            return self.model.apply(variables, x, train=True, mutable=["batch_stats"])

        paths = {name: f"params/{name}/kernel" for name in kernels_of(rest["params"])}
        layers = {path: quant.Layer() for path in paths.values()} | dict(self.layers)
        _, seen = quant.record(run, tuple(layers.items()), scales)(rest, x)
        found = dict(rest["batch_stats"])
        for name, path in paths.items():
            norm = re.sub(*PAIRS[0], name)
            if norm in found:
                products = seen[path].products
                axes = tuple(range(products.ndim - 1))
                found[norm] = {"mean": products.mean(axes), "var": products.var(axes)}
        return found

    def _split(self, variables: PyTree) -> tuple[dict[str, Any], quant.Scales]:
        """The variables of the module, and the scales."""
        rest = dict(variables)
        if not self.learned:
            return rest, rest.pop("scales")
        both = rest.pop("params")
        return {**rest, "params": both["network"]}, both["scales"]

    def _means(self, old: dict[str, quant.Scaling], seen: dict[str, quant.Seen]):
        """Running means of the scales that inputs of the batch have."""
        layers, found = dict(self.layers), {}
        for site, before in old.items():
            quantizer = layers[site].inputs
            assert quantizer is not None
            now = jax.lax.stop_gradient(quantizer.fit(seen[site].inputs))
            found[site] = jax.tree.map(
                lambda a, b: KEPT * a + (1 - KEPT) * b, before, now
            )
        return found


def kernels_of(params: PyTree) -> dict[str, Array]:
    """Returns the kernels of a network by the names of their layers."""
    return {name: part["kernel"] for name, part in params.items() if "kernel" in part}


def with_kernels(params: PyTree, kernels: Mapping[str, Array]) -> PyTree:
    """Returns parameters with other kernels, by the names of their layers."""
    found = {name: {**params[name], "kernel": w} for name, w in kernels.items()}
    return {**params, **found}


def relative_error(new: Mapping[str, Array], old: Mapping[str, Array]) -> Array:
    """Returns the squared error of all kernels over their squares, float32 []."""
    gap = {name: new[name] - w for name, w in old.items()}
    return trees.squared_norm(gap) / trees.squared_norm(dict(old))
