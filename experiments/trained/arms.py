"""What is compared: the layers of a network, and how it is trained towards them."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import quant
from experiments.trained.networks import Layers

Way = Literal["float", "ste", "admm", "none"]


@dataclasses.dataclass(frozen=True)
class Arm:
    """One side of a comparison; hashable, so that programs are shared by seeds.

    Attributes:
      name: in names of stages.
      title: in the report.
      layers: what becomes of kernels and inputs, by path.
      training: "float", as it was, for as long as the others; "ste", with quantized
        layers and straight-through gradients; "admm", float kernels that are drawn to
        their levels, and then as "ste"; "none", quantized after training.
      learned: whether the scales of kernels and inputs are trained too.
    """

    name: str
    title: str
    layers: Layers = ()
    training: Way = "ste"
    learned: bool = False

    @property
    def inputs_only(self) -> Layers:
        """The layers with float kernels."""
        return tuple((p, dataclasses.replace(s, weights=None)) for p, s in self.layers)


FLOAT = Arm("float", "float", training="float")


def layers(
    paths: Sequence[str], first: quant.Layer, inner: quant.Layer, last: quant.Layer
) -> Layers:
    """Returns the layers of a network: its first one, those within, its last one.

    Args:
      paths: of all kernels, in the order of the network.
      first: of the first one.
      inner: of all but the first and the last one.
      last: of the last one.
    """
    specs = [first, *[inner] * (len(paths) - 2), last]
    return tuple(zip(paths, specs, strict=True))
